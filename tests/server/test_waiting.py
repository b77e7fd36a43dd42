"""`?wait`: the result in the answer, by a real daemon; and what a stop and a lost broker do.

May touch: the gateway and the daemon as subprocesses, a private broker, a site.
Must never: wait for luck.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.brokers.balancer import Balancer
from tests.rig.brokers.users import User
from tests.rig.brokers.wire import Wire
from tests.rig.daemon import Daemon, Dispatcher, until
from tests.rig.sites.hostel import Hostel
from tests.server.running import LINES, Gateway, declare_jobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.brokers.node import Node
    from tests.server.running import Got


@pytest.fixture
def daemon(broker_url: str, dispatcher: Dispatcher) -> Iterator[Daemon]:
    """A daemon that scrapes what the gateway publishes."""
    with Daemon(broker_url, dispatcher.prefix) as found:
        yield found.ready()


@pytest.fixture
def publisher_url(node: Node, broker_url: str, prefix: str) -> Iterator[str]:
    """The node for a user with the permissions of a publisher (docs/operations/queues.md)."""
    assert broker_url  # it runs
    user = User.add(node, f"publisher-{prefix}")
    replies = rf"^{prefix}\.reply\."
    user.permit(replies, rf"^{prefix}\.jobs$", replies)
    yield user.url
    user.delete()


def later(gateway: Gateway, *request: Any) -> tuple[threading.Thread, list[Got]]:
    """Send a request meanwhile."""
    answers: list[Got] = []
    thread = threading.Thread(target=lambda: answers.append(gateway.ask(*request)))
    thread.start()
    return thread, answers


def test_a_result_comes_in_the_answer_or_later(
    publisher_url: str, dispatcher: Dispatcher, daemon: Daemon, hostel: Hostel
) -> None:
    """200 with the result; 202 with a Location if that takes longer, which gives it once there.

    A key gives the same result again. The gateway needs the permissions of a publisher only.
    """
    assert daemon
    with Gateway(publisher_url, dispatcher.prefix) as gateway:
        gateway.ready()
        page = {"url": hostel.url("/page/1"), "id": "p", "meta": 7, "extract": {"t": "title"}}
        key = {"Idempotency-Key": '"one"'}
        got = gateway.ask("POST", "/v1/jobs?wait=60", page, key)
        assert (got.status, got.json["status"], got.json["id"]) == (200, "ok", "p")
        assert (got.json["meta"], "data" in got.json) == (7, True)
        assert gateway.ask("POST", "/v1/jobs?wait=60", page, key).body == got.body
        assert hostel.hits["/page/1"] == 1
        held = gateway.ask("POST", "/v1/jobs?wait=0.1", {"url": hostel.url("/hold/1"), "id": "h"})
        where = held.headers["Location"]
        assert (held.status, held.json) == (202, {"id": "h", "result": where})
        assert gateway.ask("GET", where).json == held.json
        thread, answers = later(gateway, "POST", "/v1/jobs?wait=60", {"url": hostel.url("/hold/2")})
        hostel.wait_for(lambda hits: hits["/hold/2"] > 0)
        hostel.release()
        got = gateway.ask("GET", f"{where}?wait=60")
        assert (got.status, got.json["id"]) == (200, "h")
        thread.join()
        assert [it.status for it in answers] == [200]
        assert gateway.ask("GET", where).status == 200  # it is kept
        assert gateway.drain() == 0
    assert dispatcher.depth("results") == 0


def test_a_gateway_that_is_killed_loses_no_result(
    broker_url: str, dispatcher: Dispatcher, daemon: Daemon, hostel: Hostel
) -> None:
    """After kill -9 the result of a job that was waited for goes to the results queue."""
    assert daemon
    with Gateway(broker_url, dispatcher.prefix) as gateway:
        gateway.ready()
        job = {"url": hostel.url("/hold/1"), "id": "k"}
        assert gateway.ask("POST", "/v1/jobs?wait=0.01", job).status == 202
        hostel.wait_for(lambda hits: hits["/hold/1"] > 0)
        gateway.kill()
    hostel.release()
    assert dispatcher.results(1)[0]["id"] == "k"


def test_a_stop_answers_who_waits(
    broker_url: str, dispatcher: Dispatcher, daemon: Daemon, hostel: Hostel
) -> None:
    """A request that waits at SIGTERM gets its result before the process ends with 0.

    One whose result does not come in jobs.shutdown_timeout gets 202, and the result goes to the
    results queue.
    """
    assert daemon
    with Gateway(broker_url, dispatcher.prefix) as gateway:
        gateway.ready()
        thread, answers = later(gateway, "POST", "/v1/jobs?wait=60", {"url": hostel.url("/hold/1")})
        hostel.wait_for(lambda hits: hits["/hold/1"] > 0)
        gateway.terminate()
        gateway.wait_for_line('"event":"gateway_drain"')
        hostel.release()
        assert gateway.wait(60) == 0
        thread.join()
        assert [it.status for it in answers] == [200]
    quick = {"jobs__shutdown_timeout": 0.1}
    with Hostel() as other, Gateway(broker_url, dispatcher.prefix, **quick) as gateway:
        gateway.ready()
        job = {"url": other.url("/hold/1"), "id": "late"}
        thread, answers = later(gateway, "POST", "/v1/jobs?wait=60", job)
        other.wait_for(lambda hits: hits["/hold/1"] > 0)
        assert gateway.drain() == 0
        thread.join()
        assert [(it.status, it.json) for it in answers] == [(202, {"id": "late"})]
        other.release()
    assert dispatcher.results(1)[0]["id"] == "late"


def test_a_broker_that_goes_is_503_until_it_comes_back(
    node: Node, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    """Who waits is told at once; jobs are refused, and taken again on the next connection."""
    declare_jobs(dispatcher.channel, dispatcher.prefix)
    with (
        Balancer(node.port, tmp_path) as balancer,
        Gateway(balancer.url, dispatcher.prefix) as gateway,
    ):
        gateway.listening()
        assert gateway.ask("POST", "/v1/jobs", {"url": "https://example.com/"}).status == 503
        balancer.enable()
        gateway.ready()
        job = {"url": "https://example.com/", "id": "x"}
        thread, answers = later(gateway, "POST", "/v1/jobs?wait=60", job)
        until(lambda: dispatcher.depth("jobs") == 1)
        start = len(gateway.lines)
        balancer.disable()
        thread.join(60)
        assert [(it.status, it.json) for it in answers] == [(202, {"id": "x"})]
        gateway.wait_for_line('"event":"gateway_waits"', start=start)
        got = gateway.ask("POST", "/v1/jobs", {"url": "https://example.com/"})
        assert (got.status, got.headers["Retry-After"]) == (503, "5")
        assert str(balancer.port) not in got.json["detail"]
        balancer.enable()
        gateway.wait_for_line('"event":"gateway_ready"', start=start)
        assert gateway.ask("POST", "/v1/jobs", {"url": "https://example.com/"}).status == 202
    assert dispatcher.depth("jobs") == 2


def test_a_full_queue_is_503(broker_url: str, dispatcher: Dispatcher) -> None:
    """What the broker rejects is not accepted; the log says why, the answer only what to do."""
    bounds = {"x-max-length": 1, "x-overflow": "reject-publish"}
    declare_jobs(dispatcher.channel, dispatcher.prefix, **bounds)
    with Gateway(broker_url, dispatcher.prefix) as gateway:
        gateway.ready()
        got = [gateway.ask("POST", "/v1/jobs", {"url": "https://e.org/"}) for _ in range(4)]
        assert {it.status for it in got} == {202, 503}
        assert "the jobs queue is full" in got[-1].json["detail"]
        assert sum(it.status == 202 for it in got) == dispatcher.depth("jobs")
        gateway.wait_for_line('"event":"gateway_refused"')


def test_a_broker_that_does_not_confirm_is_not_waited_for(
    node: Node, dispatcher: Dispatcher
) -> None:
    """503 after broker.confirm_timeout, and what may have arrived is listed; then all goes on."""
    declare_jobs(dispatcher.channel, dispatcher.prefix)
    many = b'{"url": "https://example.com/"}\n' * 150
    with (
        Wire(node.port) as wire,
        Gateway(wire.url, dispatcher.prefix, broker__confirm_timeout=1) as gateway,
    ):
        gateway.ready()
        wire.hold_confirms()
        one = gateway.ask("POST", "/v1/jobs", {"url": "https://example.com/"})
        assert (one.status, "may have arrived" in one.json["detail"]) == (503, True)
        got = gateway.ask("POST", "/v1/jobs", many, LINES)
        assert (got.status, got.json["accepted"]) == (503, [])
        assert 1 <= len(got.json["unconfirmed"]) <= 100
        wire.release()
        until(lambda: gateway.ask("POST", "/v1/jobs", many, LINES).status == 202)
    assert dispatcher.depth("jobs") >= 151
