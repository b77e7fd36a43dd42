"""Where a body is searched: on the event loop if that is cheap for sure, else in a helper process.

May touch: helper processes, the clocks.
Must never: run anything on the loop that could hold it, or let one host have all helpers.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter, deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import msgspec
from msgspec.structs import replace

from scraperd.contract import Failure
from scraperd.page.content import limits_of
from scraperd.page.document import Asked, Taken, take, worst
from scraperd.page.extract import Overrun
from scraperd.page.helper import REPLY, REQUEST, Reply, Start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scraperd.config import Config
    from scraperd.page.rules import Rules

ON_LOOP: Final = 0.06  # seconds; what a page may take at worst, to be searched on the loop
ON_LOOP_WORK: Final = 5_000  # steps of some microseconds each
ON_LOOP_OUTPUT: Final = 256 * 1024  # characters
RETIRED: Final = (
    256 * 1024 * 1024
)  # bytes; a helper that keeps more is ended: heaps don't always shrink
FAREWELL: Final = 1.0  # seconds for idle helpers to end by themselves
# glibc gives the heap's top back after every page that was parsed; keeping it is cheaper.
_ENVIRONMENT: Final = {"MALLOC_TRIM_THRESHOLD_": str(64 * 1024 * 1024)}
_READ: Final = 1024 * 1024  # bytes of a reply that may wait to be read


class Found(NamedTuple):
    """What was taken of a body, and how many seconds that took, without any waiting."""

    taken: Taken
    seconds: float


class Extractor:
    """Takes from bodies what is asked of them. One for the process; an async context manager."""

    def __init__(self, config: Config) -> None:
        self._limits = limits_of(config)
        self._start = Start(config.extract_timeout, config.extract_memory, self._limits)
        self._on_loop = replace(
            self._limits, output=min(self._limits.output, ON_LOOP_OUTPUT), work=ON_LOOP_WORK
        )
        self._turns = _Turns(config.extract_processes)
        self._idle: list[_Helper] = []
        self._starting: set[asyncio.Future[_Helper]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.gather(*(helper.end() for helper in self._idle))
        self._idle.clear()

    async def take(self, asked: Asked, body: bytes, rules: Rules | None, host: str) -> Found:
        """All that is asked of `body`, a page of `host`. Raises HelperError for an error of ours.

        Cancelled, it ends the helper that was at it.
        """
        if worst(asked, body, rules) <= ON_LOOP:
            began = time.monotonic()
            with suppress(Overrun):
                taken = take(asked, body, rules, self._on_loop)
                return Found(taken, time.monotonic() - began)
        async with self._turns.of(host):
            began = time.monotonic()
            answer = await self._ask(asked, body)
            if isinstance(answer, Failure):
                # What needs no parsing can still be had; a body that was asked for is not lost.
                rest = await self._ask(_unparsed(asked), body)
                answer = replace(rest if isinstance(rest, Taken) else Taken({}), failure=answer)
            return Found(answer, time.monotonic() - began)

    async def _ask(self, asked: Asked, body: bytes) -> Taken | Failure:
        """A helper's answer; a Failure if it did not live to give one."""
        helper = await self._helper()
        try:
            reply = await helper.ask(asked, body)
        except BaseException:
            await helper.kill()
            raise
        if not isinstance(reply, Reply):
            return Failure("extract", self._cause(reply))
        if reply.memory > RETIRED:
            await helper.kill()
        else:
            self._idle.append(helper)
        if reply.error:
            raise HelperError(reply.error)
        return reply.taken or Failure("extract", self._cause(None))

    async def _helper(self) -> _Helper:
        while self._idle:
            helper = self._idle.pop()
            if helper.alive:
                return helper
        starting = asyncio.ensure_future(_Helper.begin(self._start))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._started)
            raise

    def _started(self, starting: asyncio.Future[_Helper]) -> None:
        """A helper whose job was cancelled meanwhile is for the next one."""
        if not starting.cancelled() and starting.exception() is None:
            self._idle.append(starting.result())

    def _cause(self, code: int | None) -> str:
        """Why a helper gave no answer: its exit code, or None if its memory did not suffice."""
        if code == -signal.SIGPROF:
            return f"the page took over {self._start.timeout:g} s of CPU (extract_timeout)"
        if code is None:
            return f"the page took over {self._start.memory} bytes of memory (extract_memory)"
        return f"the page ended the process that searched it ({code}); see extract_memory"


class HelperError(Exception):
    """An error of ours in a helper; its traceback is the message."""


def _unparsed(asked: Asked) -> Asked:
    return replace(asked, links=False, metadata=False, text=False, feed=False, rules=None)


class _Helper:
    """One helper process. It belongs to one request at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def begin(cls, start: Start) -> _Helper:
        """Start one. It inherits no environment: what it parses comes from strangers."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "scraperd.page.helper"),
                msgspec.json.encode(start).decode(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_READ,
                env=_ENVIRONMENT | {"PYTHONPATH": ":".join(filter(None, sys.path))},
            )
        )

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.returncode is None

    async def ask(self, asked: Asked, body: bytes) -> Reply | int:
        """Its reply; if it gave none, its exit code, or minus the number of the signal."""
        sink, source = self._process.stdin, self._process.stdout
        assert sink is not None
        assert source is not None
        question = msgspec.msgpack.encode(asked)
        try:
            sink.write(REQUEST.pack(len(question), len(body)) + question)
            sink.write(body)
            await sink.drain()
            (length,) = REPLY.unpack(await source.readexactly(REPLY.size))
            return msgspec.msgpack.decode(await source.readexactly(length), type=Reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            return await self._process.wait()

    async def kill(self) -> None:
        """End it now, whatever it is at."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """Let it end, as it does when its input ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(FAREWELL):
                await self._process.wait()
        except TimeoutError:
            await self.kill()


class _Turns:
    """`limit` turns at a time; a host may have all but one, and those that wait go round."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._each = max(1, limit - 1)
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def of(self, host: str) -> AsyncIterator[None]:
        """Hold a turn of `host`."""
        if not (self._free and self._held[host] < self._each):
            await self._wait(host)
        else:
            self._free -= 1
            self._held[host] += 1
        try:
            yield
        finally:
            self._give_back(host)

    async def _wait(self, host: str) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(host, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self._give_back(host)  # the turn came just before
            raise

    def _give_back(self, host: str) -> None:
        self._free += 1
        self._held[host] -= 1
        if not self._held[host]:
            del self._held[host]
        self._serve()

    def _serve(self) -> None:
        """Give free turns to the hosts that wait, the one that was served last coming last."""
        for host in list(self._waiting):
            line = self._waiting.pop(host)
            while line and self._free and self._held[host] < self._each:
                future = line.popleft()
                if not future.done():
                    self._free -= 1
                    self._held[host] += 1
                    future.set_result(None)
                    break
            if line:
                self._waiting[host] = line
