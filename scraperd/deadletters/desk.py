"""What `scraperd dead` and `callbacks` do: look at the letters that match, requeue, remove them.

May touch: the dead queue through broker/rabbitmq/dead_queue, the file that letters are saved to.
Must never: remove a letter whose job is not confirmed, or that is not on the disk if it is saved.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from msgspec import Struct

from scraperd.base.jsonline import dumps
from scraperd.broker.rabbitmq.dead_queue import MAX_WINDOW, DeadQueue
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.deadletters.letter import Filters, Readable, read

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from scraperd.broker.ports import Delivery


Opening: TypeAlias = "AbstractAsyncContextManager[DeadQueue]"  # the dead queue, once entered
MAX_UNCONFIRMED: Final = 64  # jobs that are published and not confirmed
FLYING_BYTES: Final = 16 * 1024 * 1024  # of their bodies
MAX_BATCH: Final = 256  # letters that one fsync is for
BATCH_BYTES: Final = 8 * 1024 * 1024
RATED: Final = 60  # seconds that a letter may lie here before its turn comes


class SaveError(Exception):
    """The file that letters are saved to can't be written; the message says why."""


class Wanted(Struct, frozen=True):
    """Which letters are selected, and at most how many of them; `read` says what a letter is."""

    filters: Filters
    limit: int | None = None
    read: Callable[[Delivery], Readable] = read


@dataclass(slots=True)
class Tally:
    """How it went so far. `total` letters were ready at the start, of which `seen` were read.

    `total` is None until they were counted. `broker` is where, without credentials. `readers` are
    other consumers of the queue: letters that they hold are not in `total`. `missing` are ids that
    were asked for and that no letter has.
    """

    total: int | None = None
    broker: str = ""
    readers: int = 0
    seen: int = 0
    matched: int = 0
    done: int = 0
    missing: set[str] = field(default_factory=set)
    rest: str = "not looked at"  # what the letters are that were not read

    @property
    def unseen(self) -> int:
        """How many letters were not read."""
        return (self.total or 0) - self.seen

    def left(self) -> str:
        """Which letters were left where they are, in words."""
        parts = [
            (self.matched - self.done, "meant and left"),
            (self.seen - self.matched, "not meant"),
            (self.unseen, self.rest),
        ]
        return ", ".join(f"{count} {what}" for count, what in parts if count > 0) or "none left"


async def look(dead: Opening, wanted: Wanted, each: Callable[[Readable], None]) -> Tally:
    """Call `each` with all letters that match, in the queue's order.

    Raises Lost or TopologyError.
    """
    tally = Tally()
    async with dead as queue, aclosing(_matching(queue, wanted, tally)) as letters:
        async for letter in letters:
            each(letter)
        await queue.give_back()
    return tally


async def requeue(dead: Opening, wanted: Wanted, tally: Tally, rate: float | None) -> None:
    """Publish the jobs of the letters that match, at most `rate` a second.

    They go in the queue's order. Each letter is acked after its job's confirm. Raises Lost,
    or TopologyError if the jobs queue takes no more: what is left is in the dead queue.
    """
    async with dead as queue:
        flights, pace = Flights(), Pace(rate)
        most = MAX_WINDOW if rate is None else max(1, min(MAX_WINDOW, int(rate * RATED)))

        async def one(letter: Readable) -> None:
            await queue.requeue(letter.delivery, letter.job, letter.ident)
            tally.done += 1

        try:
            async with aclosing(_matching(queue, wanted, tally, most)) as letters:
                async for letter in letters:
                    await pace.turn()
                    size = len(letter.delivery.body)
                    await flights.start(letter.ident or letter, size, one(letter))
            await flights.land()
        except TopologyError:
            await flights.land(quietly=True)
            await queue.give_back()
            raise
        finally:
            await flights.cancel()
        await queue.give_back()


async def purge(dead: Opening, wanted: Wanted, tally: Tally, save: Path | None) -> None:
    """Remove the letters that match; first append them to the file `save`, if it is given.

    Raises Lost or TopologyError, or SaveError if the file can't be written: what is not on
    the disk is still in the dead queue.
    """
    async with dead as queue:
        batch = Batch(queue, tally)
        with Saved(save) as saved:
            async with aclosing(_matching(queue, wanted, tally)) as letters:
                async for letter in letters:
                    saved.write(letter)
                    batch.add(letter)
                    if save is None or batch.full:
                        saved.flush()
                        await batch.remove()
            saved.flush()
            await batch.remove()
        await queue.give_back()


async def _matching(
    queue: DeadQueue, wanted: Wanted, tally: Tally, most: int = MAX_WINDOW
) -> AsyncGenerator[Readable]:
    """Yield the letters that match, and keep the tally."""
    await queue.begin()
    tally.total, tally.readers, tally.broker = queue.total, queue.readers, queue.broker
    tally.missing = set(wanted.filters.idents)
    async with aclosing(queue.letters(most)) as deliveries:
        async for delivery in deliveries:
            tally.seen = queue.seen
            letter = wanted.read(delivery)
            tally.missing.discard(letter.ident or "")
            if wanted.filters.fit(letter):
                tally.matched += 1
                yield letter
                if tally.matched == wanted.limit:
                    tally.rest = "beyond the limit"
                    if tally.unseen:
                        tally.missing.clear()  # unknown: not all letters were seen
                    return
    tally.rest = "given to another reader"


class Pace:
    """Lets through at most `rate` a second, evenly and without bursts; None means without limit."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 0.0 if rate is None else 1 / rate
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until the next one may go."""
        if self._gap:
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(self._next - now)
            self._next = max(now, self._next) + self._gap


@dataclass(slots=True)
class Flights:
    """Publishes on their way: bounded in number and bytes, and no two with the same key."""

    _tasks: dict[object, tuple[asyncio.Task[None], int]] = field(default_factory=dict)

    async def start(self, key: object, size: int, flight: Coroutine[Any, Any, None]) -> None:
        """Begin `flight` of `size` bytes when there is room. Raises what one before raised."""
        try:
            while self._tasks and (key in self._tasks or not self._room(size)):
                await self._one()
        except BaseException:
            flight.close()
            raise
        self._tasks[key] = asyncio.ensure_future(flight), size

    def _room(self, size: int) -> bool:
        flying = sum(others for _, others in self._tasks.values())
        return len(self._tasks) < MAX_UNCONFIRMED and flying + size <= FLYING_BYTES

    async def _one(self) -> None:
        tasks = [task for task, _ in self._tasks.values()]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for key in [key for key, (task, _) in self._tasks.items() if task.done()]:
            self._tasks.pop(key)[0].result()

    async def land(self, *, quietly: bool = False) -> None:
        """Wait for all. Raises what one of them raised, unless `quietly`."""
        if quietly:
            await asyncio.gather(
                *(task for task, _ in self._tasks.values()), return_exceptions=True
            )
            self._tasks.clear()
        while self._tasks:
            await self._one()

    async def cancel(self) -> None:
        """End what is still on its way: those letters stay in the dead queue."""
        for task, _ in self._tasks.values():
            task.cancel()
        await self.land(quietly=True)


@dataclass(slots=True)
class Batch:
    """Letters that are removed together. Only the deliveries' tags matter, but bodies are held."""

    queue: DeadQueue
    tally: Tally
    _letters: list[Readable] = field(default_factory=list)
    _bytes: int = 0

    def add(self, letter: Readable) -> None:
        """One more."""
        self._letters.append(letter)
        self._bytes += len(letter.delivery.body)

    @property
    def full(self) -> bool:
        """Whether it is time to save and remove them."""
        return len(self._letters) >= MAX_BATCH or self._bytes >= BATCH_BYTES

    async def remove(self) -> None:
        """Ack each of them."""
        for letter in self._letters:
            await self.queue.remove(letter.delivery)
            self.tally.done += 1
        self._letters, self._bytes = [], 0


class Saved:
    """A file of letters, one JSON line each, only appended to, and only its owner's to read."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = -1
        self._lines: list[bytes] = []

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._open(self._path)
            except OSError as error:
                raise SaveError(f"{self._path}: can't be opened: {error.strerror}") from error
        return self

    def _open(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            self._lines.append(b"")  # ends a line that was cut off when a disk was full
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # a new file's name must survive as well
        os.close(folder)

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            os.close(self._fd)

    def write(self, letter: Readable) -> None:
        """One more line, at the next `flush`."""
        if self._path is not None:
            self._lines.append(whole_json(letter).encode())

    def flush(self) -> None:
        """Return when all lines are on the disk. Raises SaveError."""
        data = memoryview(b"".join(line + b"\n" for line in self._lines))
        self._lines = []
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            if self._fd >= 0:
                os.fsync(self._fd)
        except OSError as error:
            raise SaveError(f"{self._path}: can't be written: {error.strerror}") from error


def whole_json(letter: Readable, indent: int | None = None) -> str:
    """All of a letter as JSON, so that no character of it means anything to a terminal."""
    return dumps(letter.whole(), indent)
