"""What whoever may publish jobs can say by headers and properties, and what that does to others.

May touch: a private broker, the daemon as a subprocess, a small site.
Must never: reach into the daemon; what came of it is read from queues and logs.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.daemon import Daemon, Dispatcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.sites.hostel import Hostel

FORGED: list[dict[str, Any]] = [
    {"x-scraperd-strikes": 2},
    {"x-scraperd-strikes": 1},
    {"x-scraperd-strikes": 4, "x-delivery-count": 9, "x-acquired-count": 9},
    {"x-scraperd-strikes": 1000},
    {"x-scraperd-attempt": 4},
    {"x-scraperd-attempt": 1000},
    {"x-scraperd-snoozes": 1000},
    {"x-scraperd-turn": f"{time.time() + 900:.3f} 127.0.0.1"},
    {"x-scraperd-turn": f"{time.time() + 900:.3f} other.example 900.000"},
    {"x-scraperd-turn": "0.000 127.0.0.1"},
    {"x-scraperd-signature": "1 1700000000 " + "0" * 64, "x-scraperd-strikes": 2},
    {"x-scraperd-signature": ["1"], "x-scraperd-strikes": 2, "x-scraperd-attempt": 9},
    {"X-Scraperd-Strikes": 2, "X-SCRAPERD-ATTEMPT": 9, "x-scraperd-strikes ": 2},
    {"x-scraperd-unroutable-reply-to": "you", "x-scraperd-status": "failed"},
    {"x-death": [{"count": 500, "queue": "q", "reason": "expired"}], "x-scraperd-strikes": 3},
]
OURS = {"x-scraperd-job-id", "x-scraperd-run", "x-scraperd-attempt", "x-scraperd-status"}


@pytest.fixture
def other(dispatcher: Dispatcher) -> Iterator[Dispatcher]:
    """The queues of another team on the same vhost, which no daemon serves."""
    team = Dispatcher(dispatcher.channel, f"{dispatcher.prefix}x")
    names = [queue.name for queue in Topology(team.prefix).queues] + [f"{team.prefix}.mine"]
    for name in names:
        team.channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    yield team
    for name in names:
        team.channel.queue_delete(name)


def test_forged_headers_are_as_if_absent(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Jobs with every header of ours, two of each, beside innocent ones: none is moved to another
    queue, all are done in their first attempt, and the log says so in a line, not in one a job.
    """
    with Daemon(broker_url, prefix, log__level="debug").ready() as daemon:
        for number, headers in enumerate(FORGED * 2):
            job = {"url": hostel.url(f"/page/{number}"), "id": f"forged-{number}"}
            dispatcher.publish(job, headers=headers)
        idents = dispatcher.publish_many([hostel.url("/page/1")] * 30)
        ends = [(properties, json.loads(body)) for properties, body in taken(dispatcher, 60)]
        assert daemon.drain() == 0
    forged = {f"forged-{number}" for number in range(2 * len(FORGED))}
    assert {result["id"] for _, result in ends} == forged | {*idents}
    assert {(result["status"], result["attempt"]) for _, result in ends} == {("ok", 1)}
    names = {name for properties, _ in ends for name in properties.headers}
    assert {name for name in names if name.lower().startswith("x-scraperd")} <= OURS
    assert {line["verdict"] for line in daemon.logged("job")} == {"done"}
    assert not any(line.get("strikes") or line.get("snoozes") for line in daemon.logged("job"))
    assert not daemon.logged("solo_begun")
    assert 1 <= len(daemon.logged("signature_invalid")) <= 3


def taken(dispatcher: Dispatcher, count: int) -> Iterator[tuple[Any, bytes]]:
    """So many results, with their properties."""
    for _ in range(count):
        yield dispatcher.take("results")


def test_results_reach_no_queue_of_others(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, other: Dispatcher
) -> None:
    """A reply_to with the name of any queue of another team, or of ours: nothing arrives there,
    the result is in the results queue and says so, and the log names each queue once.
    """
    own = {queue.name for queue in Topology(prefix).queues} - {f"{prefix}.results"}
    queues = own | {queue.name for queue in Topology(other.prefix).queues}
    queues |= {f"{other.prefix}.mine", "amq.rabbitmq.reply-to.%%%.k", f"{prefix}.replyx"}
    with Daemon(broker_url, prefix).ready() as daemon:
        for queue in sorted(queues) * 2:
            dispatcher.publish({"url": hostel.url("/page/1"), "id": queue}, reply_to=queue)
        ends = [
            (properties.headers["x-scraperd-unroutable-reply-to"], json.loads(body)["id"])
            for properties, body in taken(dispatcher, 2 * len(queues))
        ]
        for name in sorted(queues - {"amq.rabbitmq.reply-to.%%%.k", f"{prefix}.replyx"}):
            found = dispatcher.channel.queue_declare(name, passive=True)
            assert found.method.message_count == 0, name
        assert daemon.drain() == 0
    assert {ident for _, ident in ends} == queues
    assert all(to.startswith("amq.rabbitmq.") or to == ident for to, ident in ends)
    said = [line["queue"] for line in daemon.logged("reply_refused")]
    assert len(said) == len({*said})
    assert queues - {"amq.rabbitmq.reply-to.%%%.k"} <= {*said}


def test_queues_that_are_allowed_get_results(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Those of a prefix of their own below ours, and what is named in the setting; also after a
    retry, by which the address travels. No result bears a signature.
    """
    allow = ["{prefix}.reply.*", f"{prefix}-t*m.answers"]
    team = Dispatcher(dispatcher.channel, f"{prefix}-team")
    with Daemon(broker_url, prefix, broker__allow_reply_to=allow).ready() as daemon:
        for reader, name in ((dispatcher, "reply.me"), (team, "answers")):
            queue = f"{reader.prefix}.{name}"
            dispatcher.channel.queue_declare(queue)
            job = {"url": hostel.url("/flaky/1/" + name), "id": name}
            dispatcher.publish(job, reply_to=queue)
            properties, body = reader.take(name)
            result = json.loads(body)
            assert (result["id"], result["attempt"], result["status"]) == (name, 2, "ok")
            assert properties.headers.keys() == OURS
            dispatcher.channel.queue_delete(queue)
        assert not daemon.logged("reply_refused")


def test_a_forged_count_of_returns_is_not_the_broker_s(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A quorum queue writes its own count over the publisher's: what came back once came back
    once, and runs among few.
    """
    with Daemon(broker_url, prefix).ready() as daemon:
        assert daemon.drain() == 0
    headers = {"x-delivery-count": 99, "X-Delivery-Count": 98, "x-acquired-count": 97}
    dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"}, headers=headers)
    with dispatcher.channel.connection.channel() as held:
        assert held.basic_get(f"{prefix}.jobs")[0]
    with Daemon(broker_url, prefix).ready() as daemon:
        assert dispatcher.results(1)[0]["status"] == "ok"
        assert daemon.drain() == 0
    moved, done = daemon.logged("job")
    assert (moved["queue"], moved["strikes"]) == ("quarantine", 1)
    assert (done["verdict"], done["strikes"]) == ("done", 1)
    assert not daemon.logged("solo_begun")


def test_signatures_are_valid_for_whoever_has_the_key(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, tmp_path: Path
) -> None:
    """What one process notes on a job, another one believes with the same key, also if it signs by
    a new one; on another body, or with another key, it is as if absent. No key is ever shown.
    """
    old, both, new = (tmp_path / name for name in ("old", "both", "new"))
    old.write_text("a" * 32 + "\n")
    both.write_text("b" * 32 + "\n\n" + "a" * 32)
    new.write_text("b" * 32)
    job = {"url": hostel.url("/busy/900/a"), "id": "a"}
    text = ""
    with Daemon(broker_url, prefix, jobs__signing_key_file=str(old)).ready() as daemon:
        dispatcher.publish(job)
        properties, body = dispatcher.take("delay.1000")
        assert daemon.drain() == 0
        text += daemon.stdout + daemon.stderr
    headers = properties.headers
    assert (headers["x-scraperd-attempt"], headers["x-scraperd-total-retries"]) == (2, 1)
    moved = json.dumps({**job, "id": "b"}).encode()
    for file, first in ((old, 2), (both, 2), (new, 1)):
        with Daemon(broker_url, prefix, jobs__signing_key_file=str(file)).ready() as daemon:
            dispatcher.publish(body, headers=headers)
            dispatcher.publish(moved, headers=headers)
            ends = {result["id"]: result["attempt"] for result in dispatcher.results(2)}
            assert daemon.drain() == 0
            text += daemon.stdout + daemon.stderr
        assert ends == {"a": first, "b": 1}, file
        assert [line["signing_key"] for line in daemon.logged("start")] == [str(file)]
    assert "a" * 32 not in text
    assert "b" * 32 not in text


def test_processes_that_do_not_believe_each_other_end_a_job(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Between them it begins its first attempt again and again; so what it lived in all is counted
    where no key is needed, and past any good reason the job ends, is told of, and is kept.
    """
    headers = {"x-scraperd-attempt": 2, "x-scraperd-signature": "1 1 " + "0" * 64}
    with Daemon(broker_url, prefix).ready() as daemon:
        assert [line["signing_key"] for line in daemon.logged("start")] == ["broker_url"]
        job = {"url": hostel.url("/busy/900/a"), "id": "a"}
        dispatcher.publish(job, headers={**headers, "x-scraperd-total-retries": 106})
        one, _ = dispatcher.take("delay.1000")
        dispatcher.publish(job, headers={**headers, "x-scraperd-total-retries": 108})
        [result] = dispatcher.results(1)
        letter, _ = dispatcher.take("dead")
        assert daemon.drain() == 0
    assert (one.headers["x-scraperd-attempt"], one.headers["x-scraperd-total-retries"]) == (2, 107)
    assert (result["attempt"], result["error"]["kind"]) == (1, "internal")
    assert "jobs.signing_key_file" in result["error"]["message"]
    assert letter.headers["x-scraperd-dead-kind"] == "internal"
    assert "x-scraperd-signature" not in letter.headers
