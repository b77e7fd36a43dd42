"""A queue of dead letters for the command line: read each, put what is in it back, or remove it.

May touch: a generation of its own, that queue and the one that its letters go back to.
Must never: ack a letter whose job the broker has not confirmed, or hold more bodies than a window.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from scraperd.broker.ports import Lost, Source
from scraperd.broker.rabbitmq.client import delivering
from scraperd.broker.rabbitmq.codec import delivery_of, properties_of
from scraperd.broker.rabbitmq.generation import Generation
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT, TopologyError
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused, check, endpoint
from scraperd.broker.rabbitmq.wire.errors import Closed, NotFound
from scraperd.broker.rabbitmq.wire.gate import Gate
from scraperd.broker.rabbitmq.wire.undeliverable import search

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Delivery, Message
    from scraperd.broker.rabbitmq.generation import Settings
    from scraperd.broker.rabbitmq.topology import DeadLetters, Topology
    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.machine import Delivered

MIN_WINDOW: Final = 32  # letters of the first window, before the size of a body is known
MAX_WINDOW: Final = 512  # letters of any window
# Of all bodies that are here, and one more. A window is as large if its bodies are like the last.
MAX_BYTES: Final = 32 * 1024 * 1024
SILENCE_INTERVAL: Final = 1.0  # seconds without a letter after which the queue is counted
MAX_SILENCES: Final = 5  # such silences in a row, though letters are ready: someone else is served
MAX_NACK_GROUP: Final = 32  # letters of one nack: RabbitMQ does not keep the order of more
MAX_NACKS: Final = 16  # after which they must be applied: above 32 RabbitMQ makes one of several
MAX_SEARCHED: Final = 1000  # letters among which one that cannot be delivered is looked for
MAX_RETURN_CHECKS: Final = 100  # times to ask whether letters are back; another may have them
RETURN_CHECK_INTERVAL: Final = 0.01  # seconds


@asynccontextmanager
async def opened(
    settings: Settings, letters: DeadLetters, clocks: Clocks
) -> AsyncIterator[DeadQueue]:
    """The dead queue on connections of its own. Raises Lost, in words.

    Letters that were looked at and not removed go back when it is closed.
    """
    gate = Gate(MAX_BYTES)
    generation, channel = await _first(settings, clocks, gate)
    try:
        yield DeadQueue(generation, channel, gate, letters, settings.confirm_timeout)
    except Lost as error:
        if not generation.undeliverable:
            raise
        raise Lost(_undeliverable(letters.dead)) from error
    finally:
        await generation.close()


async def remove_undeliverable(
    settings: Settings, topology: Topology, clocks: Clocks, *, dry_run: bool
) -> tuple[int, str]:
    """Remove each letter that the broker cannot deliver, unread.

    Returns how many they were, and the broker's URL without credentials. With
    `dry_run` only look for the first. Looks among the first MAX_SEARCHED letters. Raises Lost, in
    words.
    """
    generation, _ = await _first(settings, clocks, Gate(MAX_BYTES))
    found = 0
    try:
        with _lost():
            while await search(generation.another, topology.dead, MAX_SEARCHED, remove=not dry_run):
                found += 1
                if dry_run:
                    break
    finally:
        await generation.close()
    return found, generation.broker


def _undeliverable(queue: str) -> str:
    """Why no command can read on."""
    return (
        f"RabbitMQ fails (541) when it delivers a letter of {queue!r}, so no command can read on. "
        "RabbitMQ 3 does so over a message that was published by AMQP 1.0 with a number as its "
        "message id or correlation id, RabbitMQ 4.0 over one with a UUID as an application "
        "property. `scraperd dead purge --undeliverable` removes it, unread."
    )


async def _first(settings: Settings, clocks: Clocks, gate: Gate) -> tuple[Generation, Channel]:
    """A generation with the first broker that answers. Raises WrongUrl; Lost, a line for each."""
    await asyncio.to_thread(check, settings.urls)  # files are read
    faults = []
    for url in settings.urls:
        generation = Generation(settings, url, clocks, gate)
        try:
            await generation.connect()
            return generation, await generation.reading()
        except (OSError, BrokerRefused) as error:
            await generation.close()
            faults.append(f"no broker at {endpoint(url)}: {str(error) or repr(error)}")
    raise Lost("\n".join(faults))


@dataclass(slots=True)
class Window:
    """One consumer: `size` letters may be unacked before the next consumer is needed."""

    size: int
    first: int = 1  # the delivery tag it began at, or less
    kept: int = 0  # given out and not removed
    largest: int = 1  # bytes of a body

    def next_size(self, most: int) -> int:
        """As many letters as surely fit into memory, judged by the bodies seen here."""
        return min(most, max(MIN_WINDOW, min(MAX_WINDOW, MAX_BYTES // self.largest)))


class DeadQueue:
    """Reads with one consumer after the other, each for a window of letters.

    A letter that is stepped over stays unacked and holds a place in its consumer's prefetch, so a
    single consumer would end at 65,535 of them (2,000 with a prefetch of 0: quorum queues take
    that for it), and would be sent that many bodies at once. When all places of a window are held
    the next consumer takes over; what the one before was given stays ours until it is given back.

    The size of the next letters is not known. So `gate` lets MAX_BYTES in, and leaves the rest on
    the wire until letters are given out. What arrives after the last wanted letter is not kept.
    """

    def __init__(
        self,
        generation: Generation,
        channel: Channel,
        gate: Gate,
        letters: DeadLetters,
        confirm_timeout: float,
    ) -> None:
        self._generation = generation
        self._channel = channel
        self._gate = gate
        self._wanted = True  # what still comes
        self._letters = letters
        self._confirm_timeout = confirm_timeout
        self._arrived: asyncio.Queue[Delivered | None] = asyncio.Queue()
        self._window = Window(0)
        self._tag = ""  # the consumer's
        self._leaving: asyncio.Future[Any] | None = None  # its end was asked for
        self._seen_before = 0  # letters, at that time
        self._last = 0  # the delivery tag that was given out last
        self._consumers = 0
        self.total = 0  # letters that were ready at the start
        self.seen = 0  # letters that were given out
        self.readers = 0  # other consumers of the queue at the start; what they hold is not ready
        self._held = bytearray()  # for each delivery tag from 1: whether it is unacked and ours
        self._firsts: list[int] = []  # the delivery tags that the windows began at
        self._removed = 0
        self._over = False  # what closes now is closed by us
        lost = generation.lost
        lost.add_done_callback(lambda _: self._arrived.put_nowait(None))
        channel.closed.add_done_callback(self._on_closed)
        channel.on_cancel = lambda _: generation.end("its queue is gone")

    def _on_closed(self, closed: asyncio.Future[Closed]) -> None:
        if not self._over:
            self._generation.end(f"channel closed: {closed.result()!r}")

    @property
    def broker(self) -> str:
        """Return the broker's URL without credentials."""
        return self._generation.broker

    async def begin(self) -> None:
        """Count letters and other readers. Raises TopologyError without a queue, or Lost."""
        self.total, self.readers = await self._count()

    async def _count(self) -> tuple[int, int]:
        """Ready letters, and consumers."""
        name = self._letters.dead
        with _lost():
            channel = await self._generation.channel()
            try:
                counts = await channel.count(name)
            except NotFound:
                raise TopologyError(
                    f"queue {name!r} does not exist; start the daemon once"
                ) from None
            await channel.close(CLOSE_TIMEOUT)
        return counts

    async def letters(self, most: int = MAX_WINDOW) -> AsyncGenerator[Delivery]:
        """As many letters as there were at `begin`, in the broker's order.

        RabbitMQ gives out what was never read in the order in which it died, and before it what
        was returned, in the order in which it was returned. At most `most` are unacked and unread
        at a time. Ends early if another reader has the rest: then `seen` is less than `total`.
        Raises Lost.
        """
        if self.total:
            await self._open(Window(min(MIN_WINDOW, most)))
        generation = self._generation
        while self.seen < self.total and (message := await self._next(most)) is not None:
            self.seen += 1
            self._window.kept += 1
            self._window.largest = max(self._window.largest, len(message.body))
            self._last = message.tag
            yield delivery_of(message, generation, Source.DEAD, generation.ack)
            self._gate.leave(len(message.body))

    async def _next(self, most: int) -> Delivered | None:
        """Return the next letter; None if the queue is empty or others get its letters.

        On a slow line none may come for a while though the broker has sent them: then none is ready
        either. The answer to the end of a consumer comes behind all that was sent to it, so what
        comes before the answer is given out as ever.
        """
        silent = 0
        while not self._generation.lost.done():
            full = self._window.kept >= self._window.size
            if self._arrived.empty() and (full or not self._tag):
                await self._end()
                await self._open(Window(self._window.next_size(most), self._last + 1))
            try:
                async with asyncio.timeout(SILENCE_INTERVAL):
                    message = await self._arrived.get()
            except TimeoutError:
                silent += 1
                if silent > MAX_SILENCES or not (await self._count())[0]:
                    self._leave()
            else:
                if message is not None:
                    return message
                if self._generation.lost.done():
                    break
                if self._leaving is not None and self._leaving.done():
                    await self._end()
                    if self.seen == self._seen_before:  # nothing came behind the question
                        return None
        raise self._gone()

    def _leave(self) -> None:
        """Ask for the end of the consumer. A None arrives behind the last letter."""
        if self._leaving is None:
            self._seen_before = self.seen
            with _lost():
                self._leaving = self._channel.cancel(self._tag)
            self._leaving.add_done_callback(self._on_left)

    def _on_left(self, leaving: asyncio.Future[Any]) -> None:
        leaving.exception()  # so that it counts as seen; `_next` asks `lost`
        self._arrived.put_nowait(None)

    def _gone(self) -> Lost:
        lost = self._generation.lost
        return Lost(f"lost the broker: {lost.result() if lost.done() else 'no reason given'}")

    async def _open(self, window: Window) -> None:
        self._window = window
        self._firsts.append(window.first)

        def arrived(message: Delivered) -> None:
            self._held.append(1)  # tags count from 1, without gaps (AMQP 0-9-1, delivery-tag)
            self._gate.arrived(len(message.body))
            if self._wanted:
                self._arrived.put_nowait(message)

        with _lost():
            await self._channel.qos(window.size)
            self._consumers += 1
            self._tag = f"dead-{self._consumers:06}"
            await self._channel.consume(self._letters.dead, arrived, self._tag)

    async def _end(self) -> None:
        """End the consumer. The broker answers after all acks that were sent before."""
        if self._tag:
            with _lost():
                await (self._leaving or self._channel.cancel(self._tag))
            self._tag, self._leaving = "", None

    async def remove(self, letter: Delivery) -> None:
        """Ack one letter: it is gone once `give_back` returns. Raises Lost."""
        with _lost():
            self._channel.ack(letter.tag)
        self._removed += 1
        self._held[letter.tag - 1] = 0
        if letter.tag >= self._window.first:
            self._window.kept -= 1

    async def give_back(self) -> None:
        """Put what was not removed back, and return when every ack is applied.

        In order, by nacks: what a closed channel held comes back in no certain order (measured with
        RabbitMQ 3.10.8 and 4.0.5). Waits a moment for all to be ready again, as the broker sees to
        that after it has answered: the next reader must find them. Raises Lost if the acks
        may be lost.
        """
        self._wanted = False
        self._arrived = asyncio.Queue()
        self._gate.close()
        with _lost():
            await self._end()
        await self._nack()
        self._over = True
        with _lost():
            await self._channel.close(CLOSE_TIMEOUT)
        await self._back(self.total - self._removed)

    async def _nack(self) -> None:
        ready, nacks, paced = (await self._count())[0], 0, True
        for first, end in self._groups():
            if count := self._held.count(1, first, end):
                last = self._held.rfind(1, first, end)
                with _lost():
                    self._channel.nack(last + 1)
                ready, nacks = ready + count, nacks + 1
                if paced and nacks % MAX_NACKS == 0:
                    paced = await self._back(ready)

    def _groups(self) -> Iterator[tuple[int, int]]:
        """Bounds in `_held` of what is given back with one nack: of one consumer each."""
        for start, end in pairwise((*self._firsts, len(self._held) + 1)):
            for tag in range(start, end, MAX_NACK_GROUP):
                yield tag - 1, min(tag + MAX_NACK_GROUP, end) - 1

    async def _back(self, ready: int) -> bool:
        """Poll for a second until `ready` letters are ready; False if another reader holds some."""
        for _ in range(MAX_RETURN_CHECKS):
            if (await self._count())[0] >= ready:
                return True
            await asyncio.sleep(RETURN_CHECK_INTERVAL)
        return False

    async def requeue(self, letter: Delivery, job: Message, ident: str | None) -> None:
        """Publish `job` to the jobs queue; then ack the letter that it was in.

        `ident` becomes the message id, by which a job that has no id in its body keeps its own.
        Raises TopologyError if the queue is full or missing, or Lost; the letter is then still in
        the dead queue.
        """
        properties = properties_of(job, ident, frame_max=self._generation.frame_max)
        async with delivering(self._letters.back, self._confirm_timeout):
            try:
                await self._generation.publish("", self._letters.back, job.body, properties)
            except Lost:
                raise self._gone() from None
        await self.remove(letter)


@contextmanager
def _lost() -> Iterator[None]:
    """What a call raises without its connection, as Lost."""
    try:
        yield
    except Lost:
        raise
    except OSError as error:
        raise Lost(f"lost the broker: {error!r}") from error
