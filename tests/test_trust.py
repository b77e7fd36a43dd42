"""What whoever may publish jobs can say by headers and properties, and what that does to others.

May touch: a private broker, the daemon as a subprocess, a small site.
Must never: reach into the daemon; what came of it is read from queues and logs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.broker.topology import Topology
from tests.rig.daemon import Daemon, Dispatcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.hostel import Hostel

OURS = {"x-scraperd-job-id", "x-scraperd-attempt", "x-scraperd-status"}


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
    with Daemon(broker_url, prefix, allow_reply_to=allow).ready() as daemon:
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
