"""Questions to daemons over the broker, from those who may ask and from those who mean harm.

May touch: a node of each release of RabbitMQ, real daemons, a small site.
Must never: use the code of the commands: what is tested here is the daemon.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import pika
import pytest

from scraperd.broker.rabbitmq.inquiry.answering import RATE
from tests.rig.asker import Stranger
from tests.rig.brokers.users import User
from tests.rig.daemon import Daemon, Dispatcher, until

if TYPE_CHECKING:
    from tests.rig.brokers.node import Node
    from tests.rig.sites.hostel import Hostel

PLANTED = "planted-s3cret"


def test_each_process_answers_once(
    node: Node, stranger: Stranger, prefix: str, dispatcher: Dispatcher
) -> None:
    """Two daemons answer, one that drained does not, and the exchange goes with the last."""
    with Daemon(node.url, prefix).ready() as one, Daemon(node.url, prefix).ready() as two:
        answers = stranger.ask(count=2)
        assert {it["pid"] for it in answers} == {one.pid, two.pid}
        assert {it["state"] for it in answers} == {"consuming"}
        assert one.drain() == 0
        (answer,) = stranger.ask()
        assert answer["pid"] == two.pid
        assert two.drain() == 0
    assert dispatcher.prefix == prefix
    until(lambda: not stranger.exists(), "the exchange stays")


def test_hostile_questions_do_no_harm(
    node: Node, dispatcher: Dispatcher, stranger: Stranger, prefix: str, hostel: Hostel
) -> None:
    """Large, broken and misdirected ones get no answer; jobs go on, and a good one is answered."""
    status = json.dumps({"ask": "status"}).encode()
    victim = f"{prefix}.reply.guest.{secrets.token_hex(8)}"
    dispatcher.channel.queue_declare(victim, exclusive=True)
    with Daemon(node.url, prefix).ready() as daemon:
        stranger.ask()
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20)])
        bad = [b"", b"{", b"[" * 1000, b"\xff\xfe", b'{"ask":"secrets"}', b'{"ask":"status","x":1}']
        bad += [b'{"ask":"host"}', b'{"ask":"host","host":"a b"}', b'{"ask":"status","form":2}']
        for body in bad:
            stranger.publish(body)
        for queue in (victim, f"{prefix}.jobs", f"{prefix}.results", f"{prefix}.dead", "amq.gen-x"):
            stranger.publish(status, reply_to=queue)
        stranger.publish(status, reply_to=f"{prefix}.reply.status-{secrets.token_hex(8)}")
        stranger.publish(status, ident="x" * 200)
        stranger.ask()
        assert stranger.taken() == []
        stranger.publish(b'{"ask":"status"}' + b" " * 3_000_000)
        stranger.ask()
        assert len(dispatcher.results(20)) == 20
        assert not daemon.logged("broker_lost")
        assert not daemon.logged("died")
        assert dispatcher.depth("jobs") == dispatcher.depth("dead") == 0
        assert dispatcher.channel.basic_get(victim)[0] is None


def test_a_flood_of_questions_is_answered_at_a_bounded_rate(
    node: Node, dispatcher: Dispatcher, stranger: Stranger, prefix: str, hostel: Hostel
) -> None:
    """At 50 questions a second beside jobs no more than RATE are answered, and each job is done."""
    body = json.dumps({"ask": "status"}).encode()
    with Daemon(node.url, prefix).ready():
        stranger.ask()
        began = time.monotonic()
        for n in range(150):
            dispatcher.publish({"url": hostel.url(f"/page/{n}"), "id": str(n)})
            stranger.publish(body)
            stranger.channel.connection.sleep(max(0.0, began + n / 50 - time.monotonic()))
        results = dispatcher.results(150)
        answers = len(stranger.taken())
        assert 0 < answers <= RATE * (time.monotonic() - began + 1) + 1
        assert {it["status"] for it in results} == {"ok"}


def test_a_daemon_answers_again_after_the_broker_was_away(node: Node, prefix: str) -> None:
    """Each connection binds a queue of its own; after a restart of the broker as before."""

    def ask() -> list[dict[str, Any]]:
        with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
            return Stranger(connection.channel(), prefix).ask()

    with Daemon(node.url, prefix).ready():
        (before,) = ask()
        node.stop_app()
        node.start_app()
        (after,) = ask()
    assert (before["generation"], after["generation"]) == (1, 2)


def test_no_answer_holds_a_secret(
    node: Node, dispatcher: Dispatcher, stranger: Stranger, prefix: str, hostel: Hostel
) -> None:
    """Of passwords, tokens, cookies and headers nothing is in any answer."""
    proxies = {"secret": f"http://user:{PLANTED}@127.0.0.1:1"}
    url = node.url
    with Daemon(url, prefix, proxies=proxies, jobs__worker_name="w").ready():
        job = {
            "headers": {"Authorization": f"Bearer {PLANTED}"},
            "cookies": {"session": PLANTED},
            "max_retries": 0,
        }
        dead = "http://127.0.0.1:1"
        dispatcher.publish({"url": f"{dead}/{PLANTED}?token={PLANTED}", "proxy": "secret", **job})
        dispatcher.publish({"url": f"{dead}/{PLANTED}?token={PLANTED}", **job})
        dispatcher.publish({"url": hostel.url(f"/status/500?t={PLANTED}"), **job})
        dispatcher.results(3)
        said = [
            *stranger.ask("status"),
            *stranger.ask("capacity"),
            *stranger.ask("settings"),
            *stranger.ask("host", host="127.0.0.1"),
        ]
        assert said[-1]["about"]["faults"], said[-1]
        assert said[-2]["settings"]["proxies"] == "secret: http://127.0.0.1:1"
        assert PLANTED not in json.dumps(said)


@pytest.mark.parametrize("lack", ["configure", "read"])
def test_a_daemon_without_the_permission_works_on(
    node: Node, dispatcher: Dispatcher, prefix: str, hostel: Hostel, lack: str
) -> None:
    """It says once what it lacks, and does its jobs."""
    user = User.add(node, f"u-{prefix}")
    ours, but = rf"^{prefix}\.", rf"^{prefix}\.(?!ask)"
    configure, read = (but, ours) if lack == "configure" else (ours, but)
    user.permit(configure, rf"{ours}|^amq\.default$", read)
    with Daemon(user.url, prefix).ready() as daemon:
        line = daemon.wait_for_line("status_unanswered")
        assert "rabbitmqctl set_permissions" in line
        dispatcher.publish_many([hostel.url("/page/1")])
        assert dispatcher.results(1)[0]["status"] == "ok"
        assert len(daemon.logged("status_unanswered")) == 1
    user.delete()
