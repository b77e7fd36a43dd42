"""Where a body is searched: on the event loop if that is provably cheap, else in a helper process.

May touch: the helpers, the clocks.
Must never: run anything on the loop that could hold it, or let one host have all helpers.
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from msgspec import UNSET, Raw
from msgspec.structs import replace

from scraperd.base.cache import Cache
from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.base.histogram import Histogram
from scraperd.contract import Failure, Peeked, read_batch
from scraperd.extract.apply import Foreseen, Overrun
from scraperd.extract.compile import CACHE
from scraperd.extract.compiled import engine
from scraperd.extract.document import (
    LIGHT_PAGE,
    LIGHT_RULES,
    Extracted,
    ExtractRequest,
    extract_document,
    kind_of,
    worst_case_seconds,
)
from scraperd.extract.rules import ELSEWHERE, RuleError
from scraperd.sandbox.child import Start
from scraperd.sandbox.fair_queue import HostFairQueue, TimeSharing, TimeSlice, TooLong
from scraperd.sandbox.habits import Habits, TokenBucket
from scraperd.sandbox.pool import HelperError, Helpers

if TYPE_CHECKING:
    from scraperd.config.tables import SandboxSettings
    from scraperd.extract.document import Limits
    from scraperd.extract.rules import Rules

ON_LOOP: Final = 0.04  # seconds; the worst case of a page that is parsed on the loop
ON_LOOP_RULES: Final = LIGHT_RULES
ON_LOOP_TIME: Final = 0.05  # seconds of CPU; after them no further selector is started
ON_LOOP_WORK: Final = 5_000  # steps of some microseconds each
ON_LOOP_OUTPUT: Final = 256 * 1024  # characters
SLICE: Final = 0.005  # seconds of pages, after which the loop does something else
COMPILING: Final = 0.002  # seconds of one job's rules, after which those of another are compiled
EASY: Final = 0.01  # seconds in all; rules that take longer are compiled by helpers alone
MAX_REMEMBERED: Final = 4096  # such rules, by their hash
MAX_BACKLOG: Final = (
    30.0  # seconds of CPU that those who wait for a helper have before them at most
)
MAX_SENT_AWAY: Final = 50.0  # pages a second that may be sent away instead of waiting
SHORT: Final = (0.01, 0.05)  # seconds of CPU in the first level: of an empty page, and at most
SHORT_EACH: Final = 1e-7  # seconds more for each byte
QUICK: Final = 0.3  # seconds of CPU in the second level
QUICK_SIZE: Final = 4 * 1024 * 1024  # bytes; what is larger does not even try there
NICE: Final = (3, 12, 17)  # of helpers in each level: the event loop goes first, then what is short
_OUT_OF_TIME: Final = -signal.SIGPROF
_NAMES: Final = ExtractRequest("", "", False, False, False, False, False, False, None, job=True)
_RULES: Final = ExtractRequest("", "", False, False, False, False, False, False, None, check=True)


class Answer(NamedTuple):
    """What was extracted of a body, and how many seconds that took, without any waiting."""

    extracted: Extracted
    seconds: float


class Crowded(Exception):  # noqa: N818 - a state of this process
    """Too many pages wait for a helper, so this one should come back later."""

    def __init__(self) -> None:
        super().__init__("too many pages that take long wait already (sandbox.processes)")


class Unchecked(Exception):  # noqa: N818 - nothing is known of the rules
    """No helper could say whether rules are valid; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(eq=False, slots=True)
class _Shared:
    """Rules that are being compiled, and how many jobs wait for them."""

    task: asyncio.Future[Rules]
    waiting: int = 0


class Extractor:
    """Extracts from bodies what is requested. One for the process; an async context manager.

    Helpers work in three levels, as in a multilevel feedback queue. In the first a page has little
    time, in the second more. A page that needs more time begins again in the next level. So slow
    pages wait for each other, and fast pages do not wait for them. With two helpers there are two
    levels, with one helper there is one. `waiting_room` bounds how many jobs wait for a helper.
    """

    def __init__(self, settings: SandboxSettings, limits: Limits, *, waiting_room: int) -> None:
        self._limits = limits
        self._timeout = settings.timeout
        self._memory = settings.memory
        self._on_loop = for_the_loop(self._limits)
        self._times = times(settings.processes, settings.timeout)
        self._most = slots_of(settings.processes, len(self._times))
        self._queue = HostFairQueue(self._most, [])
        self.configure(waiting_room=waiting_room)
        self._habits = Habits()
        self._sent_away = TokenBucket(MAX_SENT_AWAY)
        self._time_slice = TimeSlice(SLICE)
        self._compile_time = TimeSharing(COMPILING, EASY)
        self._elsewhere: Cache[bytes, bool] = Cache(MAX_REMEMBERED)
        self._compiling: dict[bytes, _Shared] = {}
        self.took = {"loop": Histogram(), "sandbox": Histogram()}
        """Seconds that pages took, by where they were searched."""
        self._helpers = Helpers(Start(self._memory, self._limits), settings.processes)

    def configure(self, *, waiting_room: int) -> None:
        """Take another bound of how many jobs wait for a helper."""
        self._queue.configure(max_waiting(self._times, self._most, waiting_room))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._helpers.close()

    def known_rules(self, raw: bytes) -> Rules | None:
        """Return rules that were compiled before; None if they were not, or are costly."""
        return CACHE.known(raw, self._limits.bounds)

    async def rules(self, raw: bytes) -> Rules:
        """Return the compiled rules, once for all jobs with the same; ELSEWHERE if they are costly.

        Rules of several jobs share the loop's time. A compilation ends when no job waits for it.
        Raises RuleError; and Crowded, OutOfDescriptors or Unchecked if no helper could check costly
        rules.
        """
        if (known := self.known_rules(raw)) is not None:
            return known
        if self._elsewhere and self._elsewhere.get(sha256(raw).digest()):
            return ELSEWHERE
        if (shared := self._compiling.get(raw)) is None:
            shared = self._compiling[raw] = _Shared(asyncio.ensure_future(self._compile(raw)))
            shared.task.add_done_callback(lambda _: self._compiled(raw, shared))
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                self._compiled(raw, shared)
                shared.task.cancel()

    async def _compile(self, raw: bytes) -> Rules:
        with suppress(TooLong):
            return await self._compile_time.run(CACHE.compiling(raw, self._limits.bounds))
        request = replace(_RULES, rules=raw)
        failure = (await self.extract(request, b"", ELSEWHERE, "", patience=1)).extracted.failure
        if failure is not None and failure.kind == "invalid_job":
            raise RuleError(failure.field or "extract", failure.message)
        if failure is not None:
            raise Unchecked(failure)
        self._elsewhere.put(sha256(raw).digest(), value=True)
        return ELSEWHERE

    def _compiled(self, raw: bytes, shared: _Shared) -> None:
        """Forget a compilation that is done or cancelled: the next caller begins again."""
        if self._compiling.get(raw) is shared:
            del self._compiling[raw]

    @property
    def crowded(self) -> bool:
        """Whether too many pages wait for a helper, in any level."""
        return any(map(self._queue.crowded, range(len(self._times))))

    def waiting_for_loop(self) -> int:
        """Return how many pages wait to be searched on the event loop."""
        return self._time_slice.waiting

    @property
    def idle_helpers(self) -> list[int]:
        """The process ids of the helpers that live and wait for a page."""
        return self._helpers.idle

    def usual_level(self, request: ExtractRequest, host: str) -> int:
        """Return the level in which pages of this kind end, as observed; 0 if few take long."""
        return self._habits.level(_kind(request, host))

    def look(self, request: ExtractRequest, host: str) -> None:
        """Raise Crowded if pages of this kind take long and too many such pages wait.

        Call it before the page is fetched.
        """
        self._check(self.usual_level(request, host), host, 1)

    def _check(self, level: int, host: str, patience: int) -> None:
        """Raise Crowded if too many wait in this level and the bucket lets one be sent away."""
        if self._queue.crowded(level, host, patience) and self._sent_away.take(time.monotonic()):
            raise Crowded

    async def extract(
        self,
        request: ExtractRequest,
        body: bytes,
        rules: Rules | None,
        host: str,
        *,
        patience: int = 0,
    ) -> Answer:
        """Return all that `request` names, out of `body`, a page of `host`.

        Raises HelperError for an error of ours. With `patience` it raises Crowded if `patience`
        times as many pages wait as should. If it is cancelled, its helper is ended.
        """
        kind = _kind(request, host)
        foreseen = math.inf
        vain = len(body) > LIGHT_PAGE and self._habits.level(kind) > 0  # most likely parsed in vain
        if rules is not ELSEWHERE and not vain:
            async with self._time_slice:
                began = time.monotonic()
                extracted = at_once(request, body, rules, self._on_loop)
                if isinstance(extracted, Extracted):
                    if self._habits:
                        self._habits.note(kind, 0)
                    took = time.monotonic() - began
                    self.took["loop"].add(took)
                    return Answer(extracted, took)
                foreseen = extracted
        level, found = (
            self._first(request, body, foreseen, known=self._habits.level(kind) > 0),
            None,
        )
        try:
            while found is None:
                if patience and not self._queue.ready(level, host):
                    self._check(level, host, patience)
                found = await self._in(level, request, body, host, kind)
                level += found is None
        finally:
            short = found is not None and found.seconds < SHORT[0]
            self._habits.note(kind, 0 if short else level)
        self.took["sandbox"].add(found.seconds)
        return found

    def _first(
        self, request: ExtractRequest, body: bytes, foreseen: float, *, known: bool = False
    ) -> int:
        """Return the first level worth a try; `known` says that pages of this kind are long."""
        if len(body) > QUICK_SIZE and request.parsed:
            return len(self._times) - 1
        return int(self._is_short(0) and (known or _is_longer(request, body, foreseen)))

    def _is_short(self, level: int) -> bool:
        """Whether pages have only some milliseconds in this level."""
        return self._times[level] <= SHORT[1] and level < len(self._times) - 1

    def _time(self, level: int, size: int) -> float:
        """Return the seconds of CPU that a page of `size` bytes has in a level."""
        if not self._is_short(level):
            return self._times[level]
        return min(SHORT[1], SHORT[0] + SHORT_EACH * size)

    async def peek(self, body: bytes) -> Peeked:
        """Return what names the job whose body this is. A helper reads it: it may end its reader.

        If no helper can be started the result is empty, and the job ends without a name.
        """
        level, answer = self._first(_NAMES, b"", 0.0), None
        async with self._queue.slot(level, ""):
            with suppress(OutOfDescriptors, HelperError):
                answer = await self._helpers.ask(_NAMES, body, QUICK, NICE[level])
        if not isinstance(answer, Extracted):
            return Peeked()
        parts = answer.parts
        names = ("id", "url", "callback_url", "callback")
        texts = {name: parts[name].decode() for name in names if name in parts}
        return Peeked(
            **texts,
            meta=Raw(parts["meta"]) if "meta" in parts else UNSET,
            batch=read_batch(parts["batch"]) if "batch" in parts else UNSET,
        )

    async def _in(
        self, level: int, request: ExtractRequest, body: bytes, host: str, kind: int
    ) -> Answer | None:
        """Return what a helper found in this level; None if the page needs more time than that."""
        async with self._queue.slot(level, host):
            if self._is_short(level) and self._habits.level(kind):
                return None  # its kind became known to be long while it waited
            began = time.monotonic()
            answer = await self._helpers.ask(
                request, body, self._time(level, len(body)), NICE[level]
            )
            if answer == _OUT_OF_TIME and level < len(self._times) - 1:
                return None
            if isinstance(answer, Extracted):
                return Answer(answer, time.monotonic() - began)
            failure = Failure("extract", self.cause(answer))
            # What needs no parsing is still extracted: a body that was requested is not lost.
            rest = await self._helpers.ask(_unparsed(request), body, self._timeout, NICE[level])
            extracted = replace(
                rest if isinstance(rest, Extracted) else Extracted({}), failure=failure
            )
            return Answer(extracted, time.monotonic() - began)

    def cause(self, code: int | None) -> str:
        """Return why a helper gave no answer, in the words of the job's failure.

        `code` is its exit code, minus a signal's number, or None if its memory was too small.
        """
        if code == _OUT_OF_TIME:
            return f"the page took over {self._timeout:g} s of CPU (sandbox.timeout)"
        memory = f"over {self._memory} bytes of memory (sandbox.memory)"
        if code is None:
            return f"the page took {memory}"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the page ended the process that searched it ({how}); most likely it took {memory}"


def for_the_loop(limits: Limits, *, compiled: bool = engine.AVAILABLE) -> Limits:
    """The bounds of a page that is searched on the loop; `compiled` says by which tree."""
    return replace(
        limits,
        output=min(limits.output, ON_LOOP_OUTPUT),
        work=ON_LOOP_WORK,
        searching=ON_LOOP_RULES,
        bounded=compiled,
    )


def at_once(
    request: ExtractRequest, body: bytes, rules: Rules | None, limits: Limits
) -> Extracted | float:
    """Return what `request` names, within the bounds `for_the_loop`.

    If the page is for a helper, return the worst case of its rules in seconds, or 0 if that is not
    known. It takes less than 0.1 s of CPU, for any body and any rules.
    """
    earliest, end = time.monotonic() + ON_LOOP_TIME, time.thread_time() + ON_LOOP_TIME
    kind = kind_of(request, body)
    took = worst_case_seconds(request, body, rules, ON_LOOP, bounded=limits.bounded, kind=kind)
    if took <= ON_LOOP:

        def overdue() -> bool:
            """A busy machine takes none of the time. What it counts is asked of the kernel late."""
            return time.monotonic() > earliest and time.thread_time() > end

        try:
            return extract_document(request, body, rules, limits, overdue, kind=kind)
        except Foreseen as foreseen:
            return foreseen.seconds
        except Overrun:
            pass
    return 0.0


def times(processes: int, timeout: float) -> list[float]:
    """Return the most seconds of CPU that a page has in each level."""
    return [*(it for it in (SHORT[1], QUICK) if it < timeout), timeout][-processes:]


def slots_of(processes: int, levels: int) -> list[int]:
    """Return the helpers of each level and those behind it: all, a half, a quarter."""
    behind = processes - max(1, processes // 2)
    most = [processes, behind, max(1, behind // 2)]
    return [most[0], most[-1]] if levels == 2 else most[:levels]  # noqa: PLR2004


def max_waiting(times: list[float], most: list[int], room: int) -> list[float]:
    """Return how many pages should wait for a helper in each level: in the first, any number.

    Pages of the other levels hold memory and prefetch slots that other jobs need.
    """
    longest = [int(MAX_BACKLOG * many / each) for each, many in zip(times, most, strict=True)]
    return [math.inf, *(max(1, min(room, it)) for it in longest[1:])]


def _is_longer(request: ExtractRequest, body: bytes, foreseen: float) -> bool:
    """Whether most such pages need more time than the first level has."""
    return request.text or request.job or len(body) * SHORT_EACH > SHORT[1] or foreseen > QUICK


def _kind(request: ExtractRequest, host: str) -> int:
    """Return what tells kinds of pages apart: what is requested of them.

    Rules are a publisher's own. Without rules many request the same, so the host counts too.
    """
    whose = host if request.rules is None else ""
    return hash((request.rules, request.links, request.metadata, request.text, request.feed, whose))


def _unparsed(request: ExtractRequest) -> ExtractRequest:
    return replace(request, links=False, metadata=False, text=False, feed=False, rules=None)
