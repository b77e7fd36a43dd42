"""Where a body is searched: on the event loop if that is cheap for sure, else in a helper process.

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
from scraperd.contract import Failure, Peeked
from scraperd.extract.apply import Foreseen, Overrun
from scraperd.extract.document import Asked, Taken, take, worst
from scraperd.extract.limits import limits_of
from scraperd.extract.rules import CACHE, ELSEWHERE, RuleError
from scraperd.sandbox.child import Start
from scraperd.sandbox.habits import Habits, Leave
from scraperd.sandbox.lanes import Lanes, Share, Slices, TooLong
from scraperd.sandbox.pool import HelperError, Helpers

if TYPE_CHECKING:
    from scraperd.config.settings import Config
    from scraperd.extract.document import Limits
    from scraperd.extract.rules import Rules

ON_LOOP: Final = 0.04  # seconds; what a page may take at worst, to be parsed on the loop
ON_LOOP_RULES: Final = 0.03  # seconds; and what its rules may take at worst
ON_LOOP_TIME: Final = 0.05  # seconds of CPU; once they are over, no further selector is begun
ON_LOOP_WORK: Final = 5_000  # steps of some microseconds each
ON_LOOP_OUTPUT: Final = 256 * 1024  # characters
SLICE: Final = 0.005  # seconds; after so much of it the loop does something else
COMPILING: Final = 0.002  # seconds; after so much of it the rules of another job are compiled
EASY: Final = 0.01  # seconds in all; rules that take longer are compiled by helpers alone
REMEMBERED: Final = 4096  # such rules, by their hash
SEATED: Final = 30.0  # seconds of CPU that those who wait for a helper have before them at most
AWAY: Final = 50.0  # pages a second that are sent away rather than that they wait
SHORT: Final = (0.01, 0.05)  # seconds of CPU in the first lane: of an empty page, and at most
SHORT_EACH: Final = 1e-7  # seconds more for each byte
QUICK: Final = 0.3  # seconds of CPU in the second lane
QUICK_SIZE: Final = 4 * 1024 * 1024  # bytes; what is larger does not even try there
NICE: Final = (3, 12, 17)  # of helpers in each lane: the event loop goes first, then what is short
_OUT_OF_TIME: Final = -signal.SIGPROF
_NAMES: Final = Asked("", "", False, False, False, False, False, False, None, job=True)
_RULES: Final = Asked("", "", False, False, False, False, False, False, None, check=True)


class Found(NamedTuple):
    """What was taken of a body, and how many seconds that took, without any waiting."""

    taken: Taken
    seconds: float


class Crowded(Exception):  # noqa: N818 - a state of this process
    """So many pages wait for a helper already that this one should come back later."""

    def __init__(self) -> None:
        super().__init__("too many pages that take long wait already (extract_processes)")


class Unchecked(Exception):  # noqa: N818 - nothing is known of the rules
    """No helper lived to say whether rules are good; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(eq=False, slots=True)
class _Shared:
    """Rules that are being compiled, and how many jobs wait for them."""

    task: asyncio.Future[Rules]
    waiting: int = 0


class Extractor:
    """Takes from bodies what is asked of them. One for the process; an async context manager.

    Helpers work in three lanes. In the first a page has little time, in the second more; one that
    needs more than that begins again in the next. So pages that take long wait for each other,
    and not the others for them. Of two helpers there are two lanes, of one there is one.
    """

    def __init__(self, config: Config) -> None:
        self._limits = limits_of(config)
        self._timeout = config.extract_timeout
        self._memory = config.extract_memory
        self._on_loop = for_the_loop(self._limits)
        self._times = times(config.extract_processes, config.extract_timeout)
        most = shares(config.extract_processes, len(self._times))
        self._lanes = Lanes(most, seats(self._times, most, config.waiting_room))
        self._habits = Habits()
        self._leave = Leave(AWAY)
        self._share = Share(SLICE)
        self._slices = Slices(COMPILING, EASY)
        self._elsewhere: Cache[bytes, bool] = Cache(REMEMBERED)
        self._compiling: dict[bytes, _Shared] = {}
        self._helpers = Helpers(Start(self._memory, self._limits), config.extract_processes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._helpers.close()

    async def rules(self, raw: bytes) -> Rules:
        """The compiled rules, once for all jobs that have the same; ELSEWHERE if they are dear.

        Those of several jobs are compiled in turns. Cancelled by all who wait for it, it ends.
        Raises RuleError; and Crowded, OutOfDescriptors or Unchecked if no helper could look at
        dear ones.
        """
        if (known := CACHE.known(raw, self._limits.bounds)) is not None:
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
            return await self._slices.run(CACHE.compiling(raw, self._limits.bounds))
        asked = replace(_RULES, rules=raw)
        failure = (await self.take(asked, b"", ELSEWHERE, "", patience=1)).taken.failure
        if failure is not None and failure.kind == "invalid_job":
            raise RuleError(failure.field or "extract", failure.message)
        if failure is not None:
            raise Unchecked(failure)
        self._elsewhere.put(sha256(raw).digest(), value=True)
        return ELSEWHERE

    def _compiled(self, raw: bytes, shared: _Shared) -> None:
        """Done, or given up: who asks now begins again."""
        if self._compiling.get(raw) is shared:
            del self._compiling[raw]

    @property
    def crowded(self) -> bool:
        """Whether too many pages wait for a helper, in any lane."""
        return any(map(self._lanes.crowded, range(len(self._times))))

    def look(self, asked: Asked, host: str) -> None:
        """Raise Crowded if pages of which this is asked take long, and too many wait that do.

        To be asked before the page is fetched.
        """
        self._check(self._habits.lane(_kind(asked, host)), host, 1)

    def _check(self, lane: int, host: str, patience: int) -> None:
        """Raise Crowded if too many wait in this lane, and not too many were sent away just now."""
        if self._lanes.crowded(lane, host, patience) and self._leave.take(time.monotonic()):
            raise Crowded

    async def take(
        self,
        asked: Asked,
        body: bytes,
        rules: Rules | None,
        host: str,
        *,
        patience: int = 0,
    ) -> Found:
        """All that is asked of `body`, a page of `host`.

        Raises HelperError for an error of ours. With `patience` it raises Crowded if that many
        times the pages that should are waiting. Cancelled, it ends the helper that was at it.
        """
        kind = _kind(asked, host)
        foreseen = math.inf
        if rules is not ELSEWHERE:
            async with self._share:
                began = time.monotonic()
                taken = at_once(asked, body, rules, self._on_loop)
                if isinstance(taken, Taken):
                    if self._habits:
                        self._habits.note(kind, 0)
                    return Found(taken, time.monotonic() - began)
                foreseen = taken
        lane, found = self._first(asked, body, foreseen, known=self._habits.lane(kind) > 0), None
        try:
            while found is None:
                if patience and not self._lanes.ready(lane, host):
                    self._check(lane, host, patience)
                found = await self._in(lane, asked, body, host, kind)
                lane += found is None
        finally:
            short = found is not None and found.seconds < SHORT[0]
            self._habits.note(kind, 0 if short else lane)
        return found

    def _first(self, asked: Asked, body: bytes, foreseen: float, *, known: bool = False) -> int:
        """The lane in which it is worth a try; the page's kind is `known` to be long."""
        if len(body) > QUICK_SIZE and asked.parsed:
            return len(self._times) - 1
        return int(self._is_short(0) and (known or _is_longer(asked, body, foreseen)))

    def _is_short(self, lane: int) -> bool:
        """Whether pages have only some milliseconds there."""
        return self._times[lane] <= SHORT[1] and lane < len(self._times) - 1

    def _time(self, lane: int, size: int) -> float:
        """Seconds of CPU that a page of so many bytes has in a lane."""
        if not self._is_short(lane):
            return self._times[lane]
        return min(SHORT[1], SHORT[0] + SHORT_EACH * size)

    async def peek(self, body: bytes) -> Peeked:
        """What names the job whose body this is; read by a helper, for it may end its reader.

        If no helper can be started nothing is known: the job ends without a name.
        """
        lane, answer = self._first(_NAMES, b"", 0.0), None
        async with self._lanes.turn(lane, ""):
            with suppress(OutOfDescriptors, HelperError):
                answer = await self._helpers.ask(_NAMES, body, QUICK, NICE[lane])
        if not isinstance(answer, Taken):
            return Peeked()
        parts = answer.parts
        texts = {name: parts[name].decode() for name in ("id", "url") if name in parts}
        return Peeked(**texts, meta=Raw(parts["meta"]) if "meta" in parts else UNSET)

    async def _in(self, lane: int, asked: Asked, body: bytes, host: str, kind: int) -> Found | None:
        """What a helper found in this lane; None if the page needs more time than it has there."""
        async with self._lanes.turn(lane, host):
            if self._is_short(lane) and self._habits.lane(kind):
                return None  # its kind became known to be long while it waited
            began = time.monotonic()
            answer = await self._helpers.ask(asked, body, self._time(lane, len(body)), NICE[lane])
            if answer == _OUT_OF_TIME and lane < len(self._times) - 1:
                return None
            if isinstance(answer, Taken):
                return Found(answer, time.monotonic() - began)
            failure = Failure("extract", self._cause(answer))
            # What needs no parsing can still be had; a body that was asked for is not lost.
            rest = await self._helpers.ask(_unparsed(asked), body, self._timeout, NICE[lane])
            taken = replace(rest if isinstance(rest, Taken) else Taken({}), failure=failure)
            return Found(taken, time.monotonic() - began)

    def _cause(self, code: int | None) -> str:
        """Why a helper gave no answer: its exit code, or None if its memory did not suffice."""
        if code == _OUT_OF_TIME:
            return f"the page took over {self._timeout:g} s of CPU (extract_timeout)"
        memory = f"over {self._memory} bytes of memory (extract_memory)"
        if code is None:
            return f"the page took {memory}"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the page ended the process that searched it ({how}); most likely it took {memory}"


def for_the_loop(limits: Limits) -> Limits:
    """The bounds of a page that is searched on the loop."""
    return replace(
        limits,
        output=min(limits.output, ON_LOOP_OUTPUT),
        work=ON_LOOP_WORK,
        searching=ON_LOOP_RULES,
    )


def at_once(asked: Asked, body: bytes, rules: Rules | None, limits: Limits) -> Taken | float:
    """What is taken of a body within bounds `for_the_loop`.

    Or, if that is for a helper, how many seconds the rules take at worst; 0 if that is not told.
    It takes less than 0.1 s of CPU, whatever the body holds and the rules are.
    """
    end = time.thread_time() + ON_LOOP_TIME  # a busy machine takes none of it
    if worst(asked, body, rules, ON_LOOP) <= ON_LOOP:
        try:
            return take(asked, body, rules, limits, lambda: time.thread_time() > end)
        except Foreseen as foreseen:
            return foreseen.seconds
        except Overrun:
            pass
    return 0.0


def times(processes: int, timeout: float) -> list[float]:
    """Seconds of CPU that a page has in each lane at most."""
    return [*(it for it in (SHORT[1], QUICK) if it < timeout), timeout][-processes:]


def shares(processes: int, lanes: int) -> list[int]:
    """How many helpers each lane and those behind it have: all, half, and a quarter of them."""
    behind = processes - max(1, processes // 2)
    most = [processes, behind, max(1, behind // 2)]
    return [most[0], most[-1]] if lanes == 2 else most[:lanes]  # noqa: PLR2004


def seats(times: list[float], most: list[int], room: int) -> list[float]:
    """How many pages should wait for a helper in each lane: in the first, any number.

    Those of other lanes hold memory, and places among the jobs in flight, that others need.
    """
    longest = [int(SEATED * many / each) for each, many in zip(times, most, strict=True)]
    return [math.inf, *(max(1, min(room, it)) for it in longest[1:])]


def _is_longer(asked: Asked, body: bytes, foreseen: float) -> bool:
    """Whether most such pages take longer than the first lane has."""
    return asked.text or asked.job or len(body) * SHORT_EACH > SHORT[1] or foreseen > QUICK


def _kind(asked: Asked, host: str) -> int:
    """What is asked of a page, whatever the page is.

    Rules are a publisher's own. Without any the same is asked by many: then the host counts.
    """
    whose = host if asked.rules is None else ""
    return hash((asked.rules, asked.links, asked.metadata, asked.text, asked.feed, whose))


def _unparsed(asked: Asked) -> Asked:
    return replace(asked, links=False, metadata=False, text=False, feed=False, rules=None)
