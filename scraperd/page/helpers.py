"""The helper processes: begun when they are needed, asked, and ended.

May touch: processes, their pipes.
Must never: start one with an inherited environment, or leave one behind.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from scraperd.page.descriptors import PATIENCE, PAUSE, Exhausted, is_short
from scraperd.page.helper import REPLY, REQUEST, Reply, Start

if TYPE_CHECKING:
    from scraperd.page.document import Asked, Taken

RETIRED: Final = 256 * 1024 * 1024  # bytes; a helper that keeps more is ended: heaps don't shrink
FAREWELL: Final = 1.0  # seconds for idle helpers to end by themselves
# glibc gives the heap's top back after every page that was parsed; keeping it is cheaper.
_ENVIRONMENT: Final = {"MALLOC_TRIM_THRESHOLD_": str(64 * 1024 * 1024)}
_READ: Final = 1024 * 1024  # bytes of a reply that may wait to be read


class HelperError(Exception):
    """An error of ours in a helper; its traceback is the message."""


class Helpers:
    """As many processes as are asked at the same time; who asks sees to how many those are."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._idle: list[_Helper] = []
        self._starting: set[asyncio.Future[_Helper]] = set()

    async def ask(self, asked: Asked, body: bytes, seconds: float) -> Taken | int | None:
        """What a helper took of `body` within so many seconds of CPU.

        Or its exit code (minus a signal's number) if it did not live to tell; None if its
        memory did not suffice. Raises HelperError for an error of ours, Exhausted if there were
        no descriptors to start one with.
        """
        helper = await self._helper()
        reply = await self._reply(helper, asked, body, seconds)
        if reply == -signal.SIGKILL:
            # Whoever did that, perhaps while it was idle: once more, with another.
            helper = await self._helper()
            reply = await self._reply(helper, asked, body, seconds)
        if not isinstance(reply, Reply):
            return reply
        if reply.memory > RETIRED:
            await helper.kill()
        else:
            self._idle.append(helper)
        if reply.error:
            raise HelperError(reply.error)
        return reply.taken

    @staticmethod
    async def _reply(helper: _Helper, asked: Asked, body: bytes, seconds: float) -> Reply | int:
        try:
            return await helper.ask(asked, body, seconds)
        except BaseException:
            await helper.kill()
            raise

    async def close(self) -> None:
        """End them all."""
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.gather(*(helper.end() for helper in self._idle))
        self._idle.clear()

    async def _helper(self) -> _Helper:
        while self._idle:
            helper = self._idle.pop()
            if helper.alive:
                return helper
            await helper.kill()
        starting = asyncio.ensure_future(self._begin())
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._started)
            raise

    async def _begin(self) -> _Helper:
        """Start one, and wait for what that takes if it is not there (or Exhausted)."""
        pause, waited = PAUSE[0], 0.0
        while True:
            try:
                return await _Helper.begin(self._start)
            except OSError as error:
                if not (is_short(error) or error.errno == errno.EAGAIN):  # fork(2): too many tasks
                    raise
            if waited >= PATIENCE:
                raise Exhausted
            await asyncio.sleep(pause)
            waited += pause
            pause = min(2 * pause, PAUSE[1])

    def _started(self, starting: asyncio.Future[_Helper]) -> None:
        """A helper whose job was cancelled meanwhile is for the next one."""
        if not starting.cancelled() and starting.exception() is None:
            self._idle.append(starting.result())


class _Helper:
    """One helper process. It belongs to one request at a time."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        sink: asyncio.StreamWriter,
        source: asyncio.StreamReader,
        ends: asyncio.BaseTransport,
    ) -> None:
        self._process = process
        self._sink = sink
        self._source = source
        self._ends = ends

    @classmethod
    async def begin(cls, start: Start) -> _Helper:
        """Start one. It inherits no environment: what it parses comes from strangers.

        Not by the loop: uvloop forks, and copies the page tables of all our memory (20 ms of
        CPU at 800 MiB); this way costs less than 1 ms.
        """
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - see above; nothing of a stranger's
            [
                *(sys.executable, "-P", "-m", "scraperd.page.helper"),
                msgspec.json.encode(start).decode(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=_ENVIRONMENT | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        )
        loop = asyncio.get_running_loop()
        source = asyncio.StreamReader(_READ)
        ends, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(source), process.stdout
        )
        flow, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop), process.stdin
        )
        return cls(process, asyncio.StreamWriter(flow, protocol, None, loop), source, ends)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    async def ask(self, asked: Asked, body: bytes, seconds: float) -> Reply | int:
        """Its reply; if it gave none, its exit code, or minus the number of the signal."""
        question = msgspec.msgpack.encode(asked)
        try:
            self._sink.write(REQUEST.pack(len(question), len(body), seconds) + question)
            self._sink.write(body)
            await self._sink.drain()
            (length,) = REPLY.unpack(await self._source.readexactly(REPLY.size))
            return msgspec.msgpack.decode(await self._source.readexactly(length), type=Reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            return await self._gone()

    async def kill(self) -> None:
        """End it now, whatever it is at."""
        self._process.kill()
        await self._gone()

    async def end(self) -> None:
        """Let it end, as it does when its input ends."""
        self._sink.close()
        try:
            async with asyncio.timeout(FAREWELL):
                await self._gone()
        except TimeoutError:
            await self.kill()

    async def _gone(self) -> int:
        """Wait until it has ended. Its memory is gone before its output closes: that is quick."""
        with suppress(ConnectionError):
            while await self._source.read(_READ):
                pass
        code = self._process.wait()
        self._ends.close()
        self._sink.close()
        return code
