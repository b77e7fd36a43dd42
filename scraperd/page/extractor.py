"""Where a body is searched: on the event loop if that is cheap for sure, else in a helper process.

May touch: the helpers, the clocks.
Must never: run anything on the loop that could hold it, or let one host have all helpers.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from msgspec import UNSET, Raw
from msgspec.structs import replace

from scraperd.contract import Failure, Glimpse
from scraperd.page.content import limits_of
from scraperd.page.document import Asked, Taken, take, worst
from scraperd.page.extract import Overrun
from scraperd.page.helper import Start
from scraperd.page.helpers import Helpers
from scraperd.page.lanes import Lane, Share, Slices
from scraperd.page.rules import CACHE

if TYPE_CHECKING:
    from scraperd.config import Config
    from scraperd.page.document import Limits
    from scraperd.page.rules import Rules

ON_LOOP: Final = 0.04  # seconds; what a page may take at worst, to be parsed on the loop
ON_LOOP_RULES: Final = 0.03  # seconds; and what its rules may take at worst
ON_LOOP_TIME: Final = 0.05  # seconds of CPU; once they are over, no further selector is begun
ON_LOOP_WORK: Final = 5_000  # steps of some microseconds each
ON_LOOP_OUTPUT: Final = 256 * 1024  # characters
SLICE: Final = 0.005  # seconds; after so much of it the loop does something else
COMPILING: Final = 0.002  # seconds; after so much of it the rules of another job are compiled
QUICK: Final = 0.3  # seconds of CPU in the quick lane
_OUT_OF_TIME: Final = -signal.SIGPROF
_NAMES: Final = Asked("", "", False, False, False, False, False, False, None, job=True)
QUICK_SIZE: Final = 4 * 1024 * 1024  # bytes; what is larger does not even try there


class Found(NamedTuple):
    """What was taken of a body, and how many seconds that took, without any waiting."""

    taken: Taken
    seconds: float


@dataclass(eq=False, slots=True)
class _Shared:
    """Rules that are being compiled, and how many jobs wait for them."""

    task: asyncio.Future[Rules]
    waiting: int = 0


class Extractor:
    """Takes from bodies what is asked of them. One for the process; an async context manager.

    Helpers work in two lanes. In the quick one a page has little time; one that needs more
    begins again in the slow lane. So pages that take seconds wait for each other, and not the
    others for them. Of a single helper all pages wait for each other.
    """

    def __init__(self, config: Config) -> None:
        self._limits = limits_of(config)
        self._timeout = config.extract_timeout
        self._memory = config.extract_memory
        self._on_loop = for_the_loop(self._limits)
        slow = max(1, config.extract_processes // 2)
        self._slow = Lane(slow)
        quick = config.extract_processes - slow
        self._quick = Lane(quick) if quick else None
        self._share = Share(SLICE)
        self._slices = Slices(COMPILING)
        self._compiling: dict[bytes, _Shared] = {}
        self._helpers = Helpers(Start(self._memory, self._limits))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._helpers.close()

    async def rules(self, raw: bytes) -> Rules:
        """The compiled rules, once for all jobs that have the same. Raises RuleError.

        Those of several jobs are compiled in turns. Cancelled by all who wait for it, it ends.
        """
        if (known := CACHE.known(raw, self._limits.bounds)) is not None:
            return known
        if (shared := self._compiling.get(raw)) is None:
            steps = CACHE.compiling(raw, self._limits.bounds)
            shared = self._compiling[raw] = _Shared(asyncio.ensure_future(self._slices.run(steps)))
            shared.task.add_done_callback(lambda _: self._compiled(raw, shared))
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                self._compiled(raw, shared)
                shared.task.cancel()

    def _compiled(self, raw: bytes, shared: _Shared) -> None:
        """Done, or given up: who asks now begins again."""
        if self._compiling.get(raw) is shared:
            del self._compiling[raw]

    async def take(self, asked: Asked, body: bytes, rules: Rules | None, host: str) -> Found:
        """All that is asked of `body`, a page of `host`. Raises HelperError for an error of ours.

        Cancelled, it ends the helper that was at it.
        """
        async with self._share:
            began = time.monotonic()
            if (taken := at_once(asked, body, rules, self._on_loop)) is not None:
                return Found(taken, time.monotonic() - began)
        if self._quick is not None and len(body) <= QUICK_SIZE and self._timeout > QUICK:
            found = await self._in(self._quick, asked, body, host, QUICK)
            if found is not None:
                return found
        found = await self._in(self._slow, asked, body, host, self._timeout)
        assert found is not None
        return found

    async def glimpse(self, body: bytes) -> Glimpse:
        """What names the job whose body this is; read by a helper, for it may end its reader."""
        async with (self._quick or self._slow).turn(""):
            answer = await self._helpers.ask(_NAMES, body, QUICK)
        if not isinstance(answer, Taken):
            return Glimpse()
        parts = answer.parts
        texts = {name: parts[name].decode() for name in ("id", "url") if name in parts}
        return Glimpse(**texts, meta=Raw(parts["meta"]) if "meta" in parts else UNSET)

    async def _in(
        self, lane: Lane, asked: Asked, body: bytes, host: str, seconds: float
    ) -> Found | None:
        """What a helper of the lane found; None if the page needs more time than this lane has."""
        async with lane.turn(host):
            began = time.monotonic()
            answer = await self._helpers.ask(asked, body, seconds)
            if answer == _OUT_OF_TIME and seconds < self._timeout:
                return None
            if isinstance(answer, Taken):
                return Found(answer, time.monotonic() - began)
            failure = Failure("extract", self._cause(answer))
            # What needs no parsing can still be had; a body that was asked for is not lost.
            rest = await self._helpers.ask(_unparsed(asked), body, self._timeout)
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


def at_once(asked: Asked, body: bytes, rules: Rules | None, limits: Limits) -> Taken | None:
    """What is taken of a body within bounds `for_the_loop`; None if that is for a helper.

    It takes less than 0.1 s of CPU, whatever the body holds and the rules are.
    """
    end = time.thread_time() + ON_LOOP_TIME  # a busy machine takes none of it
    if worst(asked, body, rules, ON_LOOP) <= ON_LOOP:
        with suppress(Overrun):
            return take(asked, body, rules, limits, lambda: time.thread_time() > end)
    return None


def _unparsed(asked: Asked) -> Asked:
    return replace(asked, links=False, metadata=False, text=False, feed=False, rules=None)
