"""The rules of the ports, the same tests for every transport: what a new one must pass.

May touch: the ports, and a transport by its handle.
Must never: name a transport, or what only one of them has.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

import pytest

from scraperd.broker.ports import (
    UNROUTABLE_REPLY,
    Delay,
    Into,
    Lost,
    Message,
    Refused,
    Reply,
    Results,
    Source,
)
from tests.broker.transports import PREFETCH, in_memory, on_rabbitmq, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scraperd.broker.ports import Delivery
    from tests.broker.transports import Transport

LATER = 60.0  # seconds: a time that no publish of these tests needs


@pytest.fixture(params=["memory", "rabbitmq"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    """Each transport in turn, delivering. Here, and in `transports`, a new one is added."""
    if request.param == "memory":
        async with in_memory() as memory:
            yield memory
    else:
        request.getfixturevalue("broker_url")
        node, dispatcher = (request.getfixturevalue(name) for name in ("node", "dispatcher"))
        async with on_rabbitmq(node, dispatcher) as rabbitmq:
            yield rabbitmq


async def first(transport: Transport, message: Message | None = None) -> Delivery:
    """Publish a job, and take it."""
    await transport.put(message or Message(b"one"))
    await until(lambda: transport.taken)
    return transport.taken[0]


def soon() -> float:
    """A time that a publish must have ended by."""
    return time.monotonic() + LATER


async def test_a_job_comes_as_it_was_published(transport: Transport) -> None:
    """Its body to the byte, and what a dispatcher may say about it."""
    message = Message(
        bytes(range(256)),
        {"x-team": "blue", "n": 7},
        correlation_id="c",
        reply_to="r",
        priority=3,
        content_type="text/plain",
    )
    got = await first(transport, message)
    assert (got.body, got.source, got.redeliveries) == (message.body, Source.JOBS, 0)
    assert {name: got.headers[name] for name in message.headers} == message.headers
    assert (got.correlation_id, got.reply_to) == ("c", "r")
    assert (got.priority, got.content_type) == (3, "text/plain")
    assert await got.ack()


async def test_what_is_unacked_when_an_epoch_ends_comes_again(transport: Transport) -> None:
    """In the next epoch, counted; what was acked does not, and an old delivery acks nothing."""
    for number in range(PREFETCH + 1):
        await transport.put(Message(b"%d" % number))
    await until(lambda: len(transport.taken) == PREFETCH)
    assert await transport.taken[0].ack()
    await until(lambda: len(transport.taken) == PREFETCH + 1)  # the broker has that ack
    old = transport.taken[1:]
    for times in (1, 2):
        taken = len(transport.taken)
        transport.taken[-1].epoch.end("the test says so")
        await until(lambda taken=taken: len(transport.taken) == taken + PREFETCH)
        again = transport.taken[taken:]
        assert {delivery.body for delivery in again} == {delivery.body for delivery in old}
        assert {delivery.redeliveries for delivery in again} == {times}
        assert {delivery.source for delivery in again} == {Source.JOBS}
        assert not {delivery.epoch for delivery in again} & {delivery.epoch for delivery in old}
    assert [await delivery.ack() for delivery in old] == [False] * PREFETCH
    assert [await delivery.ack() for delivery in again] == [True] * PREFETCH


async def test_a_delivery_is_acked_once(transport: Transport) -> None:
    """The second ack is a mistake of the caller's, and says so."""
    delivery = await first(transport)
    assert await delivery.ack()
    with pytest.raises(RuntimeError, match="settled already"):
        await delivery.ack()


async def test_no_more_than_the_prefetch_is_unacked(transport: Transport) -> None:
    """The next one comes when one is acked, in the order of publishing."""
    for number in range(PREFETCH + 3):
        await transport.put(Message(b"%d" % number))
    await until(lambda: len(transport.taken) == PREFETCH)
    await transport.publisher.publish(
        transport.taken[0].epoch, Results("ok"), Message(b"r"), soon()
    )  # a round trip in which more could have come
    assert len(transport.taken) == PREFETCH
    for place in range(PREFETCH + 3):
        await until(lambda place=place: len(transport.taken) > place)
        assert await transport.taken[place].ack()
    assert [delivery.body for delivery in transport.taken] == [b"%d" % n for n in range(8)]


async def test_a_publish_in_an_epoch_that_ended_is_lost(transport: Transport) -> None:
    """Each destination raises Lost, so that the caller does not ack."""
    delivery = await first(transport)
    delivery.epoch.end("the test says so")
    places = [Results("ok"), Reply(transport.replies, "ok"), Delay(1), Into(Source.DEAD)]
    for place in places:
        with pytest.raises(Lost):
            await transport.publisher.publish(delivery.epoch, place, Message(b"x"), soon())


async def test_results_and_replies_arrive(transport: Transport) -> None:
    """Where they should, with their headers; one to nowhere is a result that says where not."""
    epoch = (await first(transport)).epoch
    publish = transport.publisher.publish
    await publish(epoch, Results("ok"), Message(b"1", {"x-team": "a"}, correlation_id="c"), soon())
    await publish(epoch, Reply(transport.replies, "ok"), Message(b"2"), soon())
    await publish(epoch, Reply(f"{transport.replies}.not", "ok"), Message(b"3"), soon())
    [answer] = await transport.answers(1)
    assert (answer.body, UNROUTABLE_REPLY in answer.headers) == (b"2", False)
    one, three = await transport.results(2)
    assert (one.body, one.correlation_id, one.headers["x-team"]) == (b"1", "c", "a")
    assert UNROUTABLE_REPLY not in one.headers
    assert (three.body, three.headers[UNROUTABLE_REPLY]) == (b"3", f"{transport.replies}.not")


async def test_a_delayed_job_comes_back_and_not_too_early(transport: Transport) -> None:
    """As a fresh delivery of the jobs queue: a retry is no redelivery."""
    delivery = await first(transport)
    seconds = transport.publisher.wait_within(1.0)
    began = time.monotonic()
    again = Message(b"again", {"x-team": "a"})
    await transport.publisher.publish(delivery.epoch, Delay(seconds), again, soon())
    assert await delivery.ack()
    async with asyncio.timeout(transport.longest_delay_of_one):
        await until(lambda: len(transport.taken) == 2)
    back = transport.taken[1]
    assert time.monotonic() - began >= seconds
    assert (back.body, back.source, back.redeliveries) == (b"again", Source.JOBS, 0)
    assert back.headers["x-team"] == "a"
    assert await back.ack()


async def test_a_wait_fits(transport: Transport) -> None:
    """It is no longer than asked for, unless all are; and it is a wait that publish knows."""
    wait_within = transport.publisher.wait_within
    for seconds in (0.0, 0.5, 1.0, 7.0, 3600.0, 1e6):
        fitting = wait_within(seconds)
        assert fitting <= max(seconds, wait_within(0.0))
        assert wait_within(fitting) == fitting


async def test_a_delay_is_told_as_long_as_it_is(transport: Transport) -> None:
    """What a log says of a retry is a wait of this transport, and not shorter than asked for."""
    wait_at_least = transport.publisher.wait_at_least
    for seconds in (0.0, 0.5, 1.0, 7.0, 3600.0):
        told = wait_at_least(seconds)
        assert told >= seconds
        assert wait_at_least(told) == told


@pytest.mark.parametrize("source", [Source.QUARANTINE, Source.UNDELIVERED])
async def test_a_job_that_is_moved_comes_from_there(transport: Transport, source: Source) -> None:
    """What is published into a queue is delivered from it, with its headers, uncounted."""
    delivery = await first(transport)
    moved = Message(b"moved", {"x-team": "a"}, correlation_id="c")
    await transport.publisher.publish(delivery.epoch, Into(source), moved, soon())
    assert await delivery.ack()
    await until(lambda: len(transport.taken) == 2)
    got = transport.taken[1]
    assert (got.body, got.source, got.redeliveries) == (b"moved", source, 0)
    assert (got.headers["x-team"], got.correlation_id) == ("a", "c")
    assert await got.ack()


async def test_a_solo_job_runs_alone(transport: Transport) -> None:
    """It waits until nothing else is unacked, and nothing else comes until it is acked."""
    await transport.put(Message(b"first"))
    await transport.put(Message(b"second"))
    await until(lambda: len(transport.taken) == 2)
    first, second = transport.taken
    publish = transport.publisher.publish
    await publish(first.epoch, Into(Source.SOLO), Message(b"solo"), soon())
    assert await first.ack()
    await publish(first.epoch, Results("ok"), Message(b"r"), soon())
    assert len(transport.taken) == 2
    assert await second.ack()
    await until(lambda: len(transport.taken) == 3)
    solo = transport.taken[2]
    assert (solo.body, solo.source) == (b"solo", Source.SOLO)
    await transport.put(Message(b"third"))
    await publish(solo.epoch, Results("ok"), Message(b"r"), soon())
    assert len(transport.taken) == 3
    assert await solo.ack()
    await until(lambda: len(transport.taken) == 4)
    assert transport.taken[3].body == b"third"
    assert await transport.taken[3].ack()


async def test_a_dead_letter_is_kept(transport: Transport) -> None:
    """Nobody is given it: an operator takes it, to the byte."""
    delivery = await first(transport)
    letter = Message(b"dead", {"x-team": "a"})
    await transport.publisher.publish(delivery.epoch, Into(Source.DEAD), letter, soon())
    assert await delivery.ack()
    [found] = await transport.letters(1)
    assert (found.body, found.headers["x-team"]) == (b"dead", "a")
    assert len(transport.taken) == 1


async def test_a_full_queue_is_waited_for(transport: Transport) -> None:
    """A publish to it ends when it has room again, and as Refused if that takes too long."""
    epoch = (await first(transport)).epoch
    publish = transport.publisher.publish
    await transport.limit_letters(1)
    await publish(epoch, Into(Source.DEAD), Message(b"1"), soon())

    async def overfill() -> None:
        for _ in range(10):  # RabbitMQ's limit is not to the message
            await publish(epoch, Into(Source.DEAD), Message(b"2"), time.monotonic())

    with pytest.raises(Refused):
        await overfill()
    waiting = asyncio.create_task(publish(epoch, Into(Source.DEAD), Message(b"3"), soon()))
    done, _ = await asyncio.wait([waiting], timeout=1)
    assert not done
    await transport.limit_letters(None)
    await waiting
    found = []
    while b"3" not in found:
        found += [letter.body for letter in await transport.letters(1)]
    assert found[0] == b"1"


async def test_what_waits_for_a_queue_is_let_go(transport: Transport) -> None:
    """At a drain: what waits ends as Refused, and so does what comes later; what has no limit
    waits on.
    """
    epoch = (await first(transport)).epoch
    publish = transport.publisher.publish
    await transport.limit_letters(1)

    async def fill() -> None:
        for _ in range(10):  # RabbitMQ's limit is not to the message
            await publish(epoch, Into(Source.DEAD), Message(b"1"), time.monotonic())

    with pytest.raises(Refused):
        await fill()
    waiting, patient = (
        asyncio.create_task(publish(epoch, Into(Source.DEAD), Message(b"2"), until))
        for until in (soon(), math.inf)
    )
    done, _ = await asyncio.wait([waiting, patient], timeout=1)
    assert not done
    transport.publisher.let_go()
    with pytest.raises(Refused):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(Refused):
        await publish(epoch, Into(Source.DEAD), Message(b"3"), soon())
    assert not patient.done()
    await transport.limit_letters(None)
    found = [letter.body for letter in await transport.letters(1)]
    while b"2" not in found:
        found += [letter.body for letter in await transport.letters(1)]
    await patient


async def test_after_a_stop_nothing_comes_and_acks_count(transport: Transport) -> None:
    """A drain: what is in flight is finished, what is in the queue is another process's."""
    delivery = await first(transport)
    await transport.stop()
    await transport.put(Message(b"late"))
    await transport.publisher.publish(delivery.epoch, Results("ok"), Message(b"r"), soon())
    assert await delivery.ack()
    assert len(transport.taken) == 1
