"""The transports as their suite drives them: one handle for each, over the ports and a dispatcher.

May touch: the ports; a broker in memory, or the shared private node by another client.
Must never: judge, or hide how the transports differ: each states its own prefetch and delays.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from scraperd.base.clocks import SYSTEM
from scraperd.broker.memory import MemoryBroker
from scraperd.broker.ports import Limits, Message, Source
from scraperd.broker.rabbitmq.consumers import Prefetch
from scraperd.broker.rabbitmq.generation import Generation, Settings
from scraperd.broker.rabbitmq.link import Link
from scraperd.broker.rabbitmq.publisher import RabbitPublisher
from scraperd.broker.rabbitmq.reply_patterns import Addresses
from scraperd.broker.rabbitmq.topology import Topology, declare
from scraperd.broker.rabbitmq.wire.gate import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Delivery, Publisher
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher

PREFETCH = 5
REPLIES = "reply.mine"  # behind the prefix: a queue that replies may go to


class Transport(Protocol):
    """A transport that delivers into `taken`, and what a dispatcher does on the other side."""

    publisher: Publisher
    taken: list[Delivery]
    replies: str
    """A queue that replies may go to."""
    longest_delay_of_one: float
    """Seconds after which a message that is delayed by one second is back for sure."""

    async def put(self, message: Message) -> None:
        """Publish a job, as a dispatcher does."""

    async def results(self, count: int) -> list[Message]:
        """Take so many results off."""

    async def answers(self, count: int) -> list[Message]:
        """Take so many messages off the queue `replies`."""

    async def letters(self, count: int) -> list[Message]:
        """Take so many dead letters off."""

    async def limit_letters(self, most: int | None) -> None:
        """The queue of dead letters takes so many messages; None lifts the limit."""

    async def stop(self) -> None:
        """Deliver nothing more; what was delivered can still be acked."""


def unheard(_event: str, **_fields: Any) -> None:
    """Take an event of the room, which these tests don't read."""


async def until(wanted: Callable[[], object]) -> None:
    """Wait for something that sends no news; the test's own timeout bounds it."""
    while not wanted():  # noqa: ASYNC110 - a broker sends none
        await asyncio.sleep(0.01)


def settings_of(url: str, prefix: str) -> Settings:
    """Return how to reach a node that is there, and to come back to it soon."""
    return Settings((url,), prefix, 10, 5, 0.05, 1, 30, passive=False)


@asynccontextmanager
async def generation_of(
    url: str, topology: Topology, clocks: Clocks = SYSTEM, *, limit: float = math.inf
) -> AsyncIterator[Generation]:
    """One that is connected, with a gate of `limit` bytes and its queues; closed at the end."""
    generation = Generation(settings_of(url, topology.prefix), url, clocks, Gate(limit))
    try:
        await generation.connect()
        await declare(topology, generation.channel, passive=False)
        yield generation
    finally:
        await generation.close()


class InMemory:
    """The broker of `scraperd batch`."""

    longest_delay_of_one = 2.0

    def __init__(self) -> None:
        self.broker = MemoryBroker(prefetch=PREFETCH, latency=0.001)
        self.broker.replies[REPLIES] = deque()
        self.replies = REPLIES
        self.publisher: Publisher = self.broker
        self.taken: list[Delivery] = []
        self._seen = 0  # of the dead letters

    async def put(self, message: Message) -> None:
        self.broker.put(message)

    async def results(self, count: int) -> list[Message]:
        await until(lambda: len(self.broker.results) >= count)
        return [self.broker.results.popleft()[1] for _ in range(count)]

    async def answers(self, count: int) -> list[Message]:
        replies = self.broker.replies[REPLIES]
        await until(lambda: len(replies) >= count)
        return [replies.popleft() for _ in range(count)]

    async def letters(self, count: int) -> list[Message]:
        seen, self._seen = self._seen, self._seen + count
        await until(lambda: len(self.broker.dead) >= seen + count)
        return self.broker.dead[seen : seen + count]

    async def limit_letters(self, most: int | None) -> None:
        self.broker.full = {} if most is None else {Source.DEAD: most}

    async def stop(self) -> None:
        self.broker.stop()


@asynccontextmanager
async def in_memory() -> AsyncIterator[InMemory]:
    """A broker in memory that delivers."""
    transport = InMemory()
    transport.broker.begin(transport.taken.append, lambda _: None)
    yield transport
    transport.broker.stop()


class OnRabbitMQ:
    """RabbitMQ, with pika as the dispatcher."""

    longest_delay_of_one = 20.0  # its queue of a second, on a machine that is busy

    def __init__(self, node: Node, dispatcher: Dispatcher) -> None:
        self.taken: list[Delivery] = []
        self.node = node
        self.dispatcher = dispatcher
        self.replies = f"{dispatcher.prefix}.{REPLIES}"
        topology = Topology(dispatcher.prefix)
        self.publisher: Publisher = RabbitPublisher(
            Addresses.of(topology, ("{prefix}.reply.*",)),
            unheard,
            passive=False,
            confirm_timeout=30,
            clocks=SYSTEM,
        )
        self.link = Link(
            settings_of(node.url, topology.prefix),
            topology,
            Limits(2**27, 1800),
            lambda: Gate(2**30),
            prefetch=Prefetch(PREFETCH, 1),
            on_delivery=self.taken.append,
            on_lost=lambda _: None,
            events=unheard,
            clocks=SYSTEM,
        )

    async def put(self, message: Message) -> None:
        self.dispatcher.publish(
            message.body,
            headers=message.headers,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            priority=message.priority,
            content_type=message.content_type,
        )

    async def results(self, count: int) -> list[Message]:
        return await self._read("results", count)

    async def answers(self, count: int) -> list[Message]:
        return await self._read(REPLIES, count)

    async def letters(self, count: int) -> list[Message]:
        return await self._read("dead", count)

    async def _read(self, queue: str, count: int) -> list[Message]:
        found: list[Message] = []
        while len(found) < count:
            name = f"{self.dispatcher.prefix}.{queue}"
            method, properties, body = self.dispatcher.channel.basic_get(name, auto_ack=True)
            if method is None:
                await asyncio.sleep(0.02)  # no news of an arrival without a consumer
            else:
                found.append(_message(properties, body or b""))
        return found

    async def limit_letters(self, most: int | None) -> None:
        name = self.dispatcher.prefix
        limit = ("set_policy", name, rf"^{name}\.dead$", f'{{"max-length": {most}}}')
        lift = ("clear_policy", name)
        await asyncio.to_thread(self.node.ctl, *(lift if most is None else limit))

    async def stop(self) -> None:
        await self.link.cancel()


def _message(properties: Any, body: bytes) -> Message:
    return Message(
        body,
        properties.headers or {},
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        priority=properties.priority,
        content_type=properties.content_type,
    )


@asynccontextmanager
async def on_rabbitmq(node: Node, dispatcher: Dispatcher) -> AsyncIterator[OnRabbitMQ]:
    """The daemon's own link to the shared node, under the dispatcher's prefix, consuming."""
    transport = OnRabbitMQ(node, dispatcher)
    running = asyncio.create_task(transport.link.run())
    await transport.link.consuming.wait()
    dispatcher.channel.queue_declare(transport.replies, durable=True)
    try:
        yield transport
    finally:
        dispatcher.channel.queue_delete(transport.replies)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
