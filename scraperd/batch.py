"""Jobs of a file through the daemon's own pipeline, with a broker in memory. A composition root.

May touch: every room; the clocks; the lines it is given and the writer for the results.
Must never: print, exit, or keep more jobs in memory than it works on.
"""

from __future__ import annotations

import asyncio
import secrets
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from scraperd.base.clocks import SYSTEM
from scraperd.base.text import printable
from scraperd.broker.memory import MemoryBroker
from scraperd.broker.ports import Message
from scraperd.jobs.settle import Settler
from scraperd.jobs.signing import Keys
from scraperd.wiring import broker_limits, fetcher_of, scraper_of, worker_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from scraperd.config.settings import Config
    from scraperd.jobs.record import Observer

WORKER: Final = "batch"
LOOK_INTERVAL: Final = 0.05  # seconds between two looks at what is done


class ResumeError(Exception):
    """The results to resume from belong to another input; the message says where."""


class Line(Struct, frozen=True):
    """A job of the input: the number of its line, from 1, and its JSON."""

    number: int
    body: bytes
    url: str | None  # if the line is a URL alone

    @property
    def ident(self) -> str:
        """What names the job if its JSON does not."""
        return f"line-{self.number}"


class _Ident(msgspec.Struct):
    id: Any = None
    url: Any = None


_idents: Final = msgspec.json.Decoder(_Ident)


def lines_of(raw: Iterable[bytes]) -> Iterator[Line]:
    """The jobs of a file: a line is a URL, or a job's JSON. Empty lines and `#` are passed over.

    A byte order mark at the beginning is passed over too.
    """
    for number, line in enumerate(raw, 1):
        text = (line.removeprefix(BOM_UTF8) if number == 1 else line).strip()
        if not text or text.startswith(b"#"):
            continue
        if text.startswith(b"{"):
            yield Line(number, text, None)
        else:
            yield _plain(number, text)


def _plain(number: int, text: bytes) -> Line:
    """The job of a URL. One that is not UTF-8 is its own body: it is refused, and told where."""
    try:
        url = text.decode()
    except UnicodeDecodeError:
        return Line(number, text, None)
    return Line(number, msgspec.json.encode({"url": url}), url)


@dataclass(slots=True)
class Resumed:
    """The jobs that have a result already, by id: how many results, and the URL of the last."""

    known: dict[str, tuple[int, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Iterable[bytes]) -> Resumed:
        """Read results, one a line. A last line that was cut off is as if it were not there.

        Raises ResumeError for a line that is not a result.
        """
        found, torn = cls(), 0
        for number, line in enumerate(raw, 1):
            if torn:
                raise ResumeError(f"line {torn} of the results is not a result")
            try:
                result = _idents.decode(line.removeprefix(BOM_UTF8) if number == 1 else line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                torn = number
                continue
            count, _ = found.known.get(str(result.id), (0, None))
            found.known[str(result.id)] = count + 1, result.url
        return found

    def take(self, line: Line) -> bool:
        """True if the job of `line` has a result; each result stands for one job.

        Raises ResumeError if its result is of another URL.
        """
        ident = self._ident(line)
        count, url = self.known.get(ident, (0, None))
        if not count:
            return False
        if line.url is not None and url is not None and url != line.url:
            raise ResumeError(
                f"line {line.number} is {printable(line.url)}, but its result is of "
                f"{printable(str(url))}: the results to resume from belong to another input"
            )
        self.known[ident] = count - 1, url
        return True

    @staticmethod
    def _ident(line: Line) -> str:
        if line.url is not None:
            return line.ident
        try:
            own = _idents.decode(line.body).id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            own = None
        return own if isinstance(own, str) and own else line.ident


@dataclass(slots=True)
class Progress:
    """How far a batch is: jobs that were begun, that have a result, and that failed of those."""

    begun: int = 0
    done: int = 0
    failed: int = 0


async def run(
    config: Config,
    lines: Iterator[Line],
    write: Callable[[bytes], None],
    observer: Observer,
    *,
    stop: asyncio.Event,
    tell: Callable[[Progress], None],
) -> Progress:
    """Work on the jobs of `lines`; `write` gets each result's JSON as soon as it is there.

    Ends when every job has its result. Once `stop` is set no further job is begun, and what is
    under way has `shutdown_timeout` seconds. `tell` is called now and then. Raises what `write`
    and `lines` raise.
    """
    async with (
        fetcher_of(config) as fetcher,
        scraper_of(config, fetcher, SYSTEM) as scraper,
        asyncio.TaskGroup() as group,
    ):
        broker = MemoryBroker(prefetch=config.prefetch_count)
        limits = broker_limits(config)
        keys = Keys((secrets.token_bytes(32),), config.broker.prefix, SYSTEM.wall)
        settler = Settler(broker, limits, keys, SYSTEM)
        worker = worker_of(config, scraper, settler, observer, WORKER, SYSTEM)
        batch = _Batch(broker, lines, write, tell)
        working = group.create_task(worker.run(), name="worker")
        await asyncio.sleep(0)  # the worker owns its jobs' tasks from now on
        broker.begin(worker.accept, worker.abandon)
        try:
            await batch.work(stop)
        finally:
            broker.stop()
            await worker.drain(config.jobs.shutdown_timeout if stop.is_set() else 0.0)
            batch.collect()
            await working
    return batch.progress


class _Batch:
    """Feeds the broker as there is room, and takes the results out of it."""

    def __init__(
        self,
        broker: MemoryBroker,
        lines: Iterator[Line],
        write: Callable[[bytes], None],
        tell: Callable[[Progress], None],
    ) -> None:
        self._broker = broker
        self._lines = lines
        self._write = write
        self._tell = tell
        self._over = False
        self.progress = Progress()

    async def work(self, stop: asyncio.Event) -> None:
        """Until every job has its result, or `stop` is set."""
        while not stop.is_set():
            self._feed()
            self.collect()
            if self._over and self.progress.done == self.progress.begun:
                return
            try:
                async with asyncio.timeout(LOOK_INTERVAL):
                    await stop.wait()
            except TimeoutError:
                pass

    def _feed(self) -> None:
        """As many jobs as are worked on at a time wait here, and no more are read."""
        room = self.progress.begun - self.progress.done
        while not self._over and room < 2 * self._broker.prefetch:
            if (line := next(self._lines, None)) is None:
                self._over = True
                return
            self._broker.put(Message(line.body), line.ident)
            self.progress.begun += 1
            room += 1

    def collect(self) -> None:
        """Write the results that are there."""
        while self._broker.results:
            key, message = self._broker.results.popleft()
            self._write(message.body)
            self.progress.done += 1
            self.progress.failed += not key.startswith("ok.")
        self._tell(self.progress)
