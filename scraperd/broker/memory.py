"""The ports of a broker in memory: for work without a broker, and for tests in milliseconds.

May touch: futures and timers of the running loop, whose clock is the broker's.
Must never: keep a rule of the ports in a weaker form than a real broker would.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from scraperd.broker.ports import (
    UNROUTABLE_REPLY,
    Batches,
    Callbacks,
    DeadCallbacks,
    Delay,
    Delivery,
    GivenUp,
    Into,
    Lost,
    Refused,
    Reply,
    Results,
    Source,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scraperd.broker.ports import Destination, Epoch, Message

MAX_REDELIVERIES: Final = 100  # after which a message is given up, as RabbitMQ's queues do it
RETRY_INTERVAL: Final = 0.5  # seconds between two trials to publish to a full queue
FEW: Final = 5  # deliveries of the quarantine at a time
_MAX_NOTES: Final = 1000
_UNBOUNDED: Final = 1 << 62


@dataclass(slots=True)
class _Stored:
    """A message in a queue; how often it was redelivered from there, and why it was given up."""

    message: Message
    message_id: str | None = None
    redeliveries: int = 0
    given_up: GivenUp | None = None


@dataclass(eq=False, slots=True)
class MemoryEpoch:
    """The time from one `begin` of the broker to its loss; see ports.Epoch."""

    broker: MemoryBroker
    lost: asyncio.Future[str]
    blames_a_publish: bool = False

    def end(self, reason: str) -> None:
        """End the epoch: what is unacked goes back to its queue, in its order."""
        if not self.lost.done():
            self.lost.set_result(reason)
            self.broker.give_back(self)


@dataclass(slots=True)
class MemoryBroker:
    """Queues of one process.

    `prefetch` is how many deliveries of jobs are unacked at a time, and `latency` the seconds that
    a message, and its confirm, are under way. Jobs of the quarantine run a few at a time; those of
    `solo` run last, one at a time, each alone.
    """

    prefetch: int = 100
    latency: float = 0.0
    results: deque[tuple[str, Message]] = field(default_factory=deque)
    replies: dict[str, deque[Message]] = field(default_factory=dict)
    callbacks: deque[Message] = field(default_factory=deque)
    notes: deque[Message] = field(default_factory=lambda: deque(maxlen=_MAX_NOTES))
    """The newest notes on jobs of batches. Nothing here tallies them."""
    full: dict[Source | None, int] = field(default_factory=dict)
    """The most messages that a queue takes; None is for the results."""
    delayed: int = 0
    epoch: MemoryEpoch | None = None
    """The current epoch, whose `end` is the loss of the connection; None before `begin`."""
    _queues: dict[Source, deque[_Stored]] = field(
        default_factory=lambda: {source: deque() for source in Source}
    )
    _out: dict[Delivery, _Stored] = field(default_factory=dict)
    _counts: Counter[Source] = field(default_factory=Counter)  # of what is out
    _on_delivery: Callable[[Delivery], None] | None = None
    _on_lost: Callable[[Epoch], None] | None = None
    _consuming: bool = False
    _due: bool = False
    _letting_go: bool = False
    _tag: int = 0

    def begin(
        self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[Epoch], None]
    ) -> MemoryEpoch:
        """Begin an epoch, and deliver what is there from the loop's next turn on.

        `on_delivery` takes a delivery over and must not wait. `on_lost` is told of the epoch's end,
        after which the next one begins.
        """
        self._on_delivery, self._on_lost = on_delivery, on_lost
        self.epoch = MemoryEpoch(self, asyncio.get_running_loop().create_future())
        self._consuming = True
        self._soon()
        return self.epoch

    def stop(self) -> None:
        """Deliver nothing more; what was delivered can still be acked."""
        self._consuming = False

    def put(self, message: Message, message_id: str | None = None) -> None:
        """Publish a job, as a dispatcher does."""
        self._queues[Source.JOBS].append(_Stored(message, message_id))
        self._soon()

    def depth(self, source: Source) -> int:
        """Messages of a queue that are not out."""
        return len(self._queues[source])

    @property
    def unacked(self) -> int:
        """Deliveries that are out."""
        return len(self._out)

    @property
    def dead(self) -> list[Message]:
        """The dead letters."""
        return [stored.message for stored in self._queues[Source.DEAD]]

    async def publish(
        self, epoch: Epoch, destination: Destination, message: Message, until: float
    ) -> None:
        """Store `message`; see ports.Publisher. `until` is a time of the loop's clock."""
        loop = asyncio.get_running_loop()
        while True:
            await self._under_way(epoch)
            if self._store(destination, message):
                await self._under_way(
                    epoch
                )  # its confirm; if the epoch is lost the publisher cannot know that it is stored
                return
            letting_go = self._letting_go and until < math.inf
            if letting_go or loop.time() + RETRY_INTERVAL > until:
                raise Refused("rejected")
            await asyncio.wait([epoch.lost], timeout=RETRY_INTERVAL)

    async def _under_way(self, epoch: Epoch) -> None:
        await asyncio.sleep(self.latency)
        if epoch.lost.done():
            raise Lost(f"lost the broker: {epoch.lost.result()}")

    def wait_within(self, seconds: float) -> float:
        """Any wait is possible; see ports.Publisher."""
        return max(0.0, seconds)

    def wait_at_least(self, seconds: float) -> float:
        """Any wait is possible; see ports.Publisher."""
        return max(0.0, seconds)

    def let_go(self) -> None:
        """Wait no more for a queue; see ports.Publisher."""
        self._letting_go = True

    def _store(self, destination: Destination, message: Message) -> bool:
        """Put it into its queue; False if the queue is full."""
        match destination:
            case Reply(address, key):
                if address not in self.replies:
                    headers = {**message.headers, UNROUTABLE_REPLY: address}
                    return self._store(Results(key), replace(message, headers=headers))
                self.replies[address].append(message)
            case Results(key):
                if len(self.results) >= self.full.get(None, _UNBOUNDED):
                    return False
                self.results.append((key, message))
            case Delay(seconds):
                self.delayed += 1
                asyncio.get_running_loop().call_later(seconds, self._undelay, message)
            case Callbacks() | DeadCallbacks():
                self.callbacks.append(message)
            case Batches():
                self.notes.append(message)
            case Into(source):
                if len(self._queues[source]) >= self.full.get(source, _UNBOUNDED):
                    return False
                self._queues[source].append(_Stored(message))
        self._soon()
        return True

    def _undelay(self, message: Message) -> None:
        self.delayed -= 1
        self._queues[Source.JOBS].append(_Stored(message))
        self._soon()

    async def _ack(self, delivery: Delivery) -> bool:
        if delivery.epoch.lost.done() or self._out.pop(delivery, None) is None:
            return False
        self._counts[delivery.source] -= 1
        self._soon()
        return True

    def give_back(self, epoch: MemoryEpoch) -> None:
        """Requeue what is unacked of an epoch that has ended, and begin the next one."""
        back = [(d, stored) for d, stored in self._out.items() if d.epoch is epoch]
        for delivery, stored in reversed(back):
            del self._out[delivery]
            self._counts[delivery.source] -= 1
            stored.redeliveries += 1
            if stored.redeliveries > MAX_REDELIVERIES and delivery.source is not Source.UNDELIVERED:
                given_up = GivenUp("delivery_limit", times=MAX_REDELIVERIES)
                lost = _Stored(stored.message, stored.message_id, given_up=given_up)
                self._queues[Source.UNDELIVERED].append(lost)
            else:
                self._queues[delivery.source].appendleft(stored)
        on_delivery, on_lost = self._on_delivery, self._on_lost
        assert on_delivery is not None
        assert on_lost is not None
        on_lost(epoch)
        if self._consuming:
            self.begin(on_delivery, on_lost)

    def _soon(self) -> None:
        """Deliver at the loop's next turn, once however often it is asked for."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._due = False
        while self._consuming and (source := self._next()) is not None:
            stored = self._queues[source].popleft()
            self._tag += 1
            delivery = self._delivery(stored, source)
            self._out[delivery] = stored
            self._counts[source] += 1
            assert self._on_delivery is not None
            self._on_delivery(delivery)

    def _next(self) -> Source | None:
        """The queue that the next delivery comes from, if there is room for one."""
        if self._counts[Source.SOLO]:
            return None
        limits: Mapping[Source, int] = {
            Source.UNDELIVERED: FEW,
            Source.QUARANTINE: FEW,
            Source.JOBS: self.prefetch,
        }
        for source, most in limits.items():
            if self._queues[source] and self._counts[source] < most:
                return source
        alone = not self._out and not any(self._queues[source] for source in limits)
        return Source.SOLO if alone and self._queues[Source.SOLO] else None

    def _delivery(self, stored: _Stored, source: Source) -> Delivery:
        assert self.epoch is not None
        message = stored.message
        return Delivery(
            message.body,
            dict(message.headers),
            source,
            self.epoch,
            self._ack,
            message_id=stored.message_id,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            priority=message.priority,
            content_type=message.content_type,
            own=message.own,
            redeliveries=stored.redeliveries,
            given_up=stored.given_up,
            tag=self._tag,
        )
