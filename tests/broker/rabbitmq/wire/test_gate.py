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
from scraperd.broker.rabbitmq.wire.gate import SMALL_BYTES, Gate, GatedReader
from scraperd.broker.rabbitmq.wire.slices import SLICE
from tests.broker.transports import generation_of, until

if TYPE_CHECKING:
    from scraperd.broker.ports import Delivery
    from tests.rig.daemon import Dispatcher

MIB = 1024 * 1024


async def test_past_the_limit_the_next_waits_for_an_ack() -> None:
    """The first beyond the limit is let in and marked; the one behind it not before there is room.
    Small ones pass at all times and are not counted.
    """
    told: list[int] = []
    gate = Gate(3 * SMALL_BYTES, told.append)
    for _ in range(3):
        await gate.passage(2 * SMALL_BYTES) if gate.held < 3 * SMALL_BYTES else await gate.passage(
            SMALL_BYTES
        )
    assert (gate.held, gate.passed, gate.crowded) == (4 * SMALL_BYTES, 2, True)
    waiting = asyncio.ensure_future(gate.passage(SMALL_BYTES + 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert [gate.arrived(size) for size in (SMALL_BYTES, 2 * SMALL_BYTES, 2 * SMALL_BYTES)] == [
        False,
        False,
        True,
    ]
    gate.leave(SMALL_BYTES)
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.leave(2 * SMALL_BYTES)
    await waiting
    assert told == [2 * SMALL_BYTES, 4 * SMALL_BYTES, 2 * SMALL_BYTES, 3 * SMALL_BYTES + 1]


async def test_a_connection_that_ended_leaves_nothing_behind() -> None:
    """What it held is given back, whoever waits goes on, and what comes or leaves late counts no
    more.
    """
    told: list[int] = []
    gate = Gate(MIB, told.append)
    await gate.passage(2 * MIB)
    waiting = asyncio.ensure_future(gate.passage(MIB))
    await asyncio.sleep(0)
    gate.close()
    await waiting
    await gate.passage(MIB)
    gate.leave(2 * MIB)
    assert told == [2 * MIB, 0]
    assert not gate.crowded


async def test_one_alone_is_never_one_too_many() -> None:
    """As large as the limit, and beside any number of small ones."""
    gate = Gate(MIB)
    for _ in range(1000):
        await gate.passage(SMALL_BYTES)
    await gate.passage(MIB)
    assert not gate.arrived(MIB)


async def test_a_library_that_reads_in_another_way_is_not_held_up() -> None:
    """If frames are not read as kind, length and rest the gate stands open, and no byte is lost."""
    source = asyncio.StreamReader()
    gate = Gate(0)
    frames = b"\x02\0\1\0\0\0\x0e" + bytes(4) + (1 << 40).to_bytes(8, "big") + b"\0\0\xce"
    source.feed_data(frames * 20)
    source.feed_eof()
    reader = GatedReader.of(source, gate)
    read = b""
    while not reader.at_eof():
        read += await reader.readexactly(11)
    assert read == frames * 20
    assert (gate.held, gate.passed) == (0, 0)


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
    from aiormq.exceptions import PublishError

    topology = Topology(prefix)
    async with generation_of(broker_url, topology) as generation:
        message = Message(b"x" * 3 * MIB)
        with pytest.raises(PublishError):
            await generation.publish("", "nowhere", message.body, properties_of(message))
        publish = asyncio.ensure_future(
            generation.publish("", topology.results, message.body, properties_of(message))
        )
        await asyncio.sleep(0)
        generation.end("for the test")
        await generation.close()
        with pytest.raises(Lost):
            await publish
