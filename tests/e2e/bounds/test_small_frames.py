"""A broker whose frame_max is the smallest that AMQP allows: headers are cut, and nothing is lost.

May touch: a node of its own, which agrees to frames of 4,096 bytes; the daemon as a child.
Must never: reach into the daemon; what came of it is read from queues and logs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pika import BasicProperties
from pika.frame import Header

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.brokers.node import Node
from tests.rig.daemon import Daemon, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

FRAME_MAX = 4096
REFUSED = "http://127.0.0.1:9/"
MARK = "x-scraperd-dropped-headers"


@pytest.fixture(scope="module", params=["3", "4"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """A node of each release that agrees to no larger frame."""
    conf = {"frame_max": str(FRAME_MAX)}
    node = Node(tmp_path_factory.mktemp("frames"), release=request.param, conf=conf).start()
    yield node
    node.close()


def filled(**properties: Any) -> dict[str, Any]:
    """Properties whose header frame has exactly FRAME_MAX bytes: 30 headers of a publisher."""
    headers = {f"own-{number:02}": "v" * 100 for number in range(30)}

    def size() -> int:
        return len(Header(1, 9, BasicProperties(headers=headers, **properties)).marshal())

    headers["fill"] = ""
    headers["fill"] = "f" * (FRAME_MAX - size())
    assert size() == FRAME_MAX
    return {"headers": headers, **properties}


def taken(dispatcher: Dispatcher, count: int) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """So many results: each one's headers and body, by the job's id."""
    found = {}
    for properties, body in dispatcher.stream("results", 60):
        result = json.loads(body)
        found[result["id"]] = properties.headers, result
        if len(found) == count:
            break
    assert len(found) == count
    return found


def test_headers_that_fill_a_frame_come_back_as_far_as_there_is_room(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A result has headers of ours as well: some of the publisher's are left out and counted, and
    the connection stays.
    """
    with Daemon(broker_url, prefix).ready() as daemon:
        for number in range(20):
            job = {"url": hostel.url(f"/page/{number}"), "id": f"job {number}"}
            dispatcher.publish(job, **filled(delivery_mode=2, correlation_id="c" * 200))
        results = taken(dispatcher, 20)
        assert daemon.drain() == 0
    assert not daemon.logged("broker_lost")
    for headers, result in results.values():
        own = [name for name in headers if name.startswith("own-")]
        assert result["status"] == headers["x-scraperd-status"] == "ok"
        assert headers["x-scraperd-job-id"] == result["id"]
        assert len(own) > 20
        assert headers[MARK] == 31 - len(own) - ("fill" in headers)


def test_a_job_keeps_its_attempts_through_retries(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """The headers by which a job is counted are kept before all others, at each retry; the result
    and the dead letter say how many of the publisher's were left out.
    """
    settings = {"jobs__max_retries": 3, "jobs__worker_name": "w" * 50}
    with Daemon(broker_url, prefix, **settings).ready() as daemon:
        dispatcher.publish({"url": REFUSED, "id": "i" * 255}, **filled(delivery_mode=2))
        [(headers, result)] = taken(dispatcher, 1).values()
        until(lambda: dispatcher.depth("dead") == 1)
        letter, _ = dispatcher.take("dead")
        assert daemon.drain() == 0
    assert not daemon.logged("broker_lost")
    assert not daemon.logged("internal_error")
    assert (result["attempt"], result["id"]) == (4, "i" * 255)
    assert headers[MARK] > 0
    assert letter.headers[MARK] > 0
    assert letter.headers["x-scraperd-dead-kind"] == "connect"
    assert letter.headers["x-scraperd-attempt"] == 4


def test_what_the_broker_adds_to_full_headers_is_taken(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A count of returns, and the note of an expiry: RabbitMQ delivers the header in a frame that
    is larger than agreed. No connection ends over it.
    """
    with Daemon(broker_url, prefix).ready() as daemon:
        assert daemon.drain() == 0
    dispatcher.publish({"url": hostel.url("/page/1"), "id": "back"}, **filled(delivery_mode=2))
    method, _, _ = dispatcher.channel.basic_get(f"{prefix}.jobs")
    dispatcher.channel.basic_nack(method.delivery_tag, requeue=True)
    old = filled(delivery_mode=2, expiration="1")
    dispatcher.publish({"url": hostel.url("/page/1"), "id": "old"}, queue="quarantine", **old)
    until(lambda: dispatcher.depth("undelivered") == 1)
    with Daemon(broker_url, prefix).ready() as daemon:
        results = taken(dispatcher, 2)
        assert daemon.drain() == 0
    assert not daemon.logged("broker_lost")
    assert {ident: result["status"] for ident, (_, result) in results.items()} == {
        "back": "ok",
        "old": "failed",
    }
    depths = {
        queue.name: dispatcher.depth(queue.name[len(prefix) + 1 :])
        for queue in Topology(prefix).queues
    }
    assert {name for name, depth in depths.items() if depth} == {f"{prefix}.dead"}
