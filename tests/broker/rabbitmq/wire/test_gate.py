"""Large deliveries, which prefetch does not bound: how many are let in, and how they are sent on.

May touch: the shared private node, under a prefix of the test's own.
Must never: wait for luck; what the broker has is asked of the broker.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest

from scraperd.base.clocks import SYSTEM
from scraperd.broker.ports import Lost, Message, Source
from scraperd.broker.rabbitmq.codec import properties_of
from scraperd.broker.rabbitmq.consumers import Consumers, Prefetch
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.broker.rabbitmq.wire.errors import Returned
from scraperd.broker.rabbitmq.wire.gate import SMALL_BYTES, Gate
from scraperd.broker.rabbitmq.wire.outbox import SLICE
from tests.broker.transports import generation_of, until

if TYPE_CHECKING:
    from scraperd.broker.ports import Delivery
    from tests.rig.daemon import Dispatcher

MIB = 1024 * 1024


def test_past_the_limit_the_next_waits_for_an_ack() -> None:
    """The first beyond the limit is let in and marked; the one behind it not before there is room.
    Small ones pass at all times and are not counted.
    """
    told: list[int] = []
    rooms: list[int] = []
    gate = Gate(3 * SMALL_BYTES, told.append)
    assert all(gate.admits(size) for size in (2 * SMALL_BYTES, SMALL_BYTES, 2 * SMALL_BYTES))
    assert (gate.held, gate.passed, gate.crowded) == (4 * SMALL_BYTES, 2, True)
    assert not gate.admits(SMALL_BYTES + 1)
    assert gate.admits(SMALL_BYTES)
    gate.on_room = lambda: rooms.append(gate.held)
    assert [gate.arrived(size) for size in (SMALL_BYTES, 2 * SMALL_BYTES, 2 * SMALL_BYTES)] == [
        False,
        False,
        True,
    ]
    gate.leave(SMALL_BYTES)
    assert rooms == []
    gate.leave(2 * SMALL_BYTES)
    gate.leave(2 * SMALL_BYTES)
    assert rooms == [2 * SMALL_BYTES], "told once"
    assert gate.admits(SMALL_BYTES + 1)
    assert told == [2 * SMALL_BYTES, 4 * SMALL_BYTES, 2 * SMALL_BYTES, 0, SMALL_BYTES + 1]


def test_one_that_waited_for_long_is_let_in_and_counted() -> None:
    """Past the limit, when its time is over: it is marked, and room is that much further away."""
    gate = Gate(2 * SMALL_BYTES)
    assert gate.admits(3 * SMALL_BYTES)
    gate.let_in(3 * SMALL_BYTES)
    assert (gate.held, gate.passed) == (6 * SMALL_BYTES, 2)
    assert [gate.arrived(3 * SMALL_BYTES) for _ in range(2)] == [True, True]


def test_a_connection_that_ended_leaves_nothing_behind() -> None:
    """What it held is given back, whoever waits goes on, and what comes or leaves late counts no
    more.
    """
    told: list[int] = []
    rooms: list[int] = []
    gate = Gate(MIB, told.append)
    assert gate.admits(2 * MIB)
    assert not gate.admits(MIB)
    gate.on_room = lambda: rooms.append(gate.held)
    gate.close()
    assert gate.admits(MIB)
    gate.let_in(MIB)
    gate.leave(2 * MIB)
    assert (told, rooms) == ([2 * MIB, 0], [0])
    assert not gate.crowded


def test_one_alone_is_never_one_too_many() -> None:
    """As large as the limit, and beside any number of small ones."""
    gate = Gate(MIB)
    assert all(gate.admits(SMALL_BYTES) for _ in range(1000))
    assert gate.admits(MIB)
    assert not gate.arrived(MIB)


async def test_what_there_is_no_room_for_stays_with_the_broker(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """Of 30 messages of a megabyte and a prefetch of 100 only some are here, until those are acked;
    in the end each has come, whole and once.
    """
    topology = Topology(prefix)
    async with generation_of(broker_url, topology, limit=4 * MIB) as generation:
        bodies = [bytes([n]) * MIB for n in range(30)]
        for body in bodies:
            dispatcher.publish(body)
        taken: list[Delivery] = []
        consumer = await generation.consume(topology.jobs, Source.JOBS, 100, taken.append)
        await until(lambda: len(taken) > 4)
        assert [delivery.crowded for delivery in taken] == [False] * 4 + [True]
        # A message on the same connection and later: its answer shows what was read before it.
        asked = asyncio.ensure_future(generation.count(topology.dead))
        await asyncio.wait([asked], timeout=0.5)
        assert len(taken) == 5
        done = 0
        while done < 30:
            await until(lambda: len(taken) > done)  # noqa: B023 - it is run here
            assert len(taken) - done <= 6
            await taken[done].ack()
            done += 1
        await generation.cancel(consumer)
        await asked
        assert [delivery.body for delivery in taken] == bodies
        assert not generation.lost.done()


async def test_an_answer_behind_what_waits_is_waited_for(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """Consuming ends though there is no room for what was sent before: that is no silence."""
    topology = Topology(prefix)
    async with generation_of(broker_url, topology, limit=MIB) as generation:
        for _ in range(12):
            dispatcher.publish(b"x" * MIB)
        taken: list[Delivery] = []

        def on_delivery(delivery: Delivery) -> None:
            taken.append(delivery)
            asyncio.get_running_loop().call_later(
                0.7, lambda: acks.append(asyncio.ensure_future(delivery.ack()))
            )

        acks: list[asyncio.Future[bool]] = []
        consumers = Consumers(
            generation,
            topology,
            Prefetch(100, 1),
            on_delivery,
            lambda *_, **__: None,
            clocks=SYSTEM,
        )
        await consumers.open()
        await until(lambda: taken)
        await consumers.close()
        assert not generation.lost.done()
        await until(lambda: len(acks) == len(taken))
        assert all(await asyncio.gather(*acks))


@pytest.mark.parametrize("size", [SLICE, SLICE + 1, 3 * SLICE, 20 * MIB + 7])
async def test_a_large_body_is_published_whole(
    broker_url: str, prefix: str, dispatcher: Dispatcher, size: int
) -> None:
    """In slices, beside small ones on the same channel, each confirmed and to the byte."""
    topology = Topology(prefix)
    body = hashlib.shake_128(b"seed").digest(size)
    async with generation_of(broker_url, topology) as generation:

        async def publish(data: bytes) -> None:
            message = Message(data)
            await generation.publish("", topology.results, data, properties_of(message))

        await asyncio.gather(*(publish(data) for data in (body, b"a", body[:-1], b"b")))
    found = [dispatcher.take("results")[1] for _ in range(4)]
    assert sorted(found) == sorted([body, b"a", body[:-1], b"b"])


@pytest.mark.usefixtures("dispatcher")
async def test_a_cancelled_publish_does_not_break_the_channel(broker_url: str, prefix: str) -> None:
    """Begun, it is sent to its end; what comes behind it on the channel is confirmed."""
    topology = Topology(prefix)
    async with generation_of(broker_url, topology) as generation:
        large = Message(b"x" * 30 * MIB)
        properties = properties_of(large)
        publish = asyncio.ensure_future(
            generation.publish("", topology.results, large.body, properties)
        )
        for _ in range(10):
            await asyncio.sleep(0)
        publish.cancel()
        small = Message(b"y")
        await generation.publish("", topology.results, b"y", properties_of(small))
        with pytest.raises(asyncio.CancelledError):
            await publish
        assert not generation.lost.done()


@pytest.mark.usefixtures("dispatcher")
async def test_a_large_body_that_no_queue_takes_is_said_so(broker_url: str, prefix: str) -> None:
    """Returned as unroutable, and lost with the connection: the same errors as for a small one."""
    topology = Topology(prefix)
    async with generation_of(broker_url, topology) as generation:
        message = Message(b"x" * 3 * MIB)
        with pytest.raises(Returned):
            await generation.publish("", "nowhere", message.body, properties_of(message))
        publish = asyncio.ensure_future(
            generation.publish("", topology.results, message.body, properties_of(message))
        )
        await asyncio.sleep(0)
        generation.end("for the test")
        await generation.close()
        with pytest.raises(Lost):
            await publish
