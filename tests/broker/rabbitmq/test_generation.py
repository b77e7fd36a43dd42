"""A generation and its consumers on a real broker: how they end, and what they leave behind.

May touch: the shared private node, under a prefix of the test's own.
Must never: wait for luck; what the broker has is asked of the broker.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from scraperd.base.clocks import SYSTEM, Clocks
from scraperd.broker.ports import Lost, Message
from scraperd.broker.rabbitmq.codec import properties_of
from scraperd.broker.rabbitmq.consumers import COUNT_INTERVAL, MAX_IDLE, Consumers, Prefetch
from scraperd.broker.rabbitmq.generation import RENEW_INTERVAL, Generation
from scraperd.broker.rabbitmq.topology import Topology
from tests.broker.transports import generation_of, until
from tests.faults.rows.broker.consumers import FORGET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from scraperd.broker.ports import Delivery
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher

# Closes each connection that bears a name, as the page of RabbitMQ's management does.
CLOSE = """
    [rabbit_networking:close_connection(Pid, <<"an operator's reason">>)
     || [{{pid, Pid}}, {{client_properties, Properties}}]
        <- rabbit_networking:connection_info_all([pid, client_properties]),
        {{_, _, Name}} <- [lists:keyfind(<<"connection_name">>, 1, Properties)],
        string:find(Name, <<"{name}">>) =/= nomatch],
    <<>>
"""
pytestmark = pytest.mark.usefixtures("dispatcher")  # which deletes the prefix's queues


@dataclass(slots=True)
class Steps:
    """A monotonic clock, in seconds, that stands still until the test moves it."""

    now: float = 1000.0

    @property
    def clocks(self) -> Clocks:
        """It as the clocks of a process; each random number is 0.5."""
        return Clocks(lambda: self.now, time.time, lambda: 0.5)


def consumers_of(
    generation: Generation,
    topology: Topology,
    on_delivery: Callable[[Delivery], None],
    clocks: Clocks = SYSTEM,
    *,
    prefetch: int = 10,
) -> Consumers:
    counts = Prefetch(prefetch, 1)
    return Consumers(
        generation, topology, counts, on_delivery, lambda *_, **__: None, clocks=clocks
    )


@asynccontextmanager
async def taking(
    url: str, topology: Topology, clocks: Clocks = SYSTEM
) -> AsyncIterator[tuple[Consumers, list[Delivery]]]:
    """The consumers, and what they took."""
    taken: list[Delivery] = []
    async with generation_of(url, topology, clocks) as generation:
        yield consumers_of(generation, topology, taken.append, clocks), taken


async def publishing(generation: Generation, topology: Topology) -> list[asyncio.Future[None]]:
    """Twenty publishes that wait for their confirms."""
    body = Message(b"x")
    publishes = [
        asyncio.ensure_future(generation.publish("", topology.results, b"x", properties_of(body)))
        for _ in range(20)
    ]
    await until(lambda: generation.unconfirmed == 20)
    return publishes


async def test_pending_publishes_end_as_lost_when_the_generation_ends(
    broker_url: str, prefix: str, node: Node
) -> None:
    """A broker that answers nothing any more holds no publish: each ends at once, by Lost, and so
    does a call for a channel.
    """
    topology = Topology(prefix)
    async with generation_of(broker_url, topology) as generation:
        node.pause()
        try:
            publishes = await publishing(generation, topology)
            asked = asyncio.ensure_future(generation.channel())
            await asyncio.sleep(0)
            generation.end("for the test")
            ends = await asyncio.gather(*publishes, asked, return_exceptions=True)
        finally:
            node.resume()
    assert [type(end) for end in ends[:20]] == [Lost] * 20
    assert isinstance(ends[20], ConnectionError)
    assert {str(end) for end in ends[:20]} == {"lost the broker: for the test"}


async def test_an_operator_s_reason_is_told(broker_url: str, prefix: str, node: Node) -> None:
    """The broker closes a connection: the reason is told in its own words, and all ends as lost."""
    topology = Topology(prefix)
    async with generation_of(broker_url, topology) as generation:
        await asyncio.to_thread(node.eval, CLOSE.format(name=prefix))
        assert "an operator's reason" in await generation.lost
        assert "an operator's reason" in generation.close_reason
        assert not generation.blames_a_publish
        with pytest.raises(Lost, match="an operator's reason"):
            await generation.publish("", topology.results, b"x", properties_of(Message(b"x")))


async def test_a_renewed_channel_leaves_nothing_behind(
    broker_url: str, prefix: str, node: Node
) -> None:
    """However often the publishing channels are replaced there are two, at the broker and here."""
    clock = Steps()
    async with generation_of(broker_url, Topology(prefix), clock.clocks) as generation:
        for _ in range(20):
            clock.now += RENEW_INTERVAL
            await asyncio.gather(generation.renew(), generation.renew())
        assert generation.retiring == 0
        assert not generation.lost.done()
        assert [count for _, count in node.connections(prefix)] == [1, 2]


async def test_closing_consumers_that_open_leaves_no_consumer(
    broker_url: str, prefix: str, node: Node
) -> None:
    """SIGTERM may come while the first consumers are registered: none is left, and none comes."""
    topology = Topology(prefix)
    async with generation_of(broker_url, topology) as generation:
        consumers = consumers_of(generation, topology, lambda _: None)
        opening = asyncio.ensure_future(consumers.open())
        await asyncio.sleep(0)
        await consumers.close()
        await opening
        await consumers.open()
        assert consumers.mode == "closed"
        assert {counts[2] for name, counts in node.counts().items() if prefix in name} == {0}


async def test_acks_that_are_sent_while_consuming_ends_are_applied(
    broker_url: str, prefix: str, dispatcher: Dispatcher, node: Node
) -> None:
    """Two hundred jobs end one by one, the newest first, while the broker cancels its consumers: in
    that order no ack covers another, and RabbitMQ forgets single acks beyond 32 with the channel.
    """
    topology, taken = Topology(prefix), list["Delivery"]()
    async with generation_of(broker_url, topology) as generation:
        consumers = consumers_of(generation, topology, taken.append, prefetch=200)
        dispatcher.publish_many([f"http://a.example/{n}" for n in range(200)])
        await consumers.open()
        await until(lambda: len(taken) == 200)
        closing = asyncio.ensure_future(consumers.close())
        while taken:
            await asyncio.sleep(0)  # each ack in a turn of the loop of its own
            assert await taken.pop().ack()
        await closing
        await generation.close()
    assert node.counts()[topology.jobs][:2] == (0, 0)


async def test_an_alarm_puts_nothing_beside_a_job_that_runs_alone(
    broker_url: str, prefix: str, dispatcher: Dispatcher, node: Node
) -> None:
    """After the alarm the job is waited for, and only then the others are consumed again."""
    topology = Topology(prefix)
    async with taking(broker_url, topology) as (consumers, taken):
        dispatcher.channel.basic_publish("", topology.solo, b"{}")
        consumers.mode = "emptying"
        await consumers.tick(blocked=False)
        await until(lambda: taken)
        for blocked, mode in ((True, "solo paused"), (False, "leaving"), (False, "leaving")):
            await consumers.tick(blocked=blocked)
            assert consumers.mode == mode
        assert node.counts()[topology.jobs][2] == 0
        await taken[0].ack()
        await consumers.tick(blocked=False)
        assert (consumers.mode, node.counts()[topology.jobs][2]) == ("consuming", 1)


async def test_an_idle_consumer_that_was_forgotten_is_registered_again(
    broker_url: str, prefix: str, dispatcher: Dispatcher, node: Node
) -> None:
    """Others take all jobs, so that none is ready to tell it: it asks again after a minute."""
    topology, clock = Topology(prefix), Steps()
    async with taking(broker_url, topology, clock.clocks) as (consumers, taken):
        await consumers.open()
        node.eval(FORGET.format(queue=topology.jobs))
        clock.now += COUNT_INTERVAL
        await consumers.tick(blocked=False)
        assert node.counts()[topology.jobs][2] == 0  # too early to ask
        clock.now += MAX_IDLE
        await consumers.tick(blocked=False)
        assert node.counts()[topology.jobs][2] == node.counts()[topology.quarantine][2] == 1
        dispatcher.publish(b"{}")
        await until(lambda: taken)
        await taken[0].ack()
        clock.now += MAX_IDLE
        before = consumers.tags
        await consumers.tick(blocked=False)
        others = consumers.tags
        assert others.pop(topology.jobs) == before[topology.jobs]  # it was given something
        assert others.keys() == {topology.quarantine, topology.undelivered}
        assert not {*others.values()} & {*before.values()}


async def test_what_is_on_its_way_to_an_idle_consumer_is_taken(
    broker_url: str, prefix: str, dispatcher: Dispatcher, node: Node
) -> None:
    """Registering again amid deliveries loses none and takes none twice."""
    topology, clock = Topology(prefix), Steps()
    async with taking(broker_url, topology, clock.clocks) as (consumers, taken):

        def unacked() -> list[Delivery]:
            return [delivery for delivery in taken if not delivery.settled]

        await consumers.open()
        jobs = [b"%d" % number for number in range(500)]
        flow = asyncio.ensure_future(asyncio.to_thread(lambda: [*map(dispatcher.publish, jobs)]))
        tags = {consumers.tags[topology.quarantine]}
        while len(taken) < len(jobs) or unacked():
            await until(unacked)  # a consumer of jobs that got none would count as starved
            clock.now += MAX_IDLE
            await consumers.tick(blocked=False)
            tags.add(consumers.tags[topology.quarantine])
            for delivery in unacked():
                await delivery.ack()
        await flow
        assert sorted(int(delivery.body) for delivery in taken) == [*range(500)]
        assert len(tags) > 6
        await until(lambda: node.counts()[topology.jobs] == (0, 0, 1))


async def test_an_error_in_taking_over_ends_the_generation(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """A delivery that nobody could take must not stay unacked for ever, unsaid."""

    def fail(_: Delivery) -> None:
        raise ZeroDivisionError

    topology = Topology(prefix)
    async with generation_of(broker_url, topology) as generation:
        dispatcher.publish(b"{}")
        await consumers_of(generation, topology, fail).open()
        assert "taking a delivery over failed: ZeroDivisionError" in await generation.lost


async def test_a_publish_is_not_overdue_for_the_time_of_an_alarm(
    broker_url: str, prefix: str, node: Node
) -> None:
    """When the broker takes publishes again, those that waited have the whole time once more."""
    topology, clock = Topology(prefix), Steps()
    async with generation_of(broker_url, topology, clock.clocks) as generation:

        def overdue() -> bool:
            clock.now += 100
            return generation.overdue() >= 100

        node.pause()
        try:
            publish = asyncio.ensure_future(
                generation.publish("", topology.results, b"x", properties_of(Message(b"x")))
            )
            await until(lambda: generation.unconfirmed)
            await until(overdue)  # the time counts from when the bytes have arrived
            generation.excuse()
            assert generation.overdue() < 1
        finally:
            node.resume()
        await publish
