"""The helper processes: started when they are needed, asked, and ended.

May touch: the nursery, the helpers' pipes.
Must never: leave a helper behind, or have more of them than it was told.
"""

from __future__ import annotations

import asyncio
import errno
import signal
from typing import IO, TYPE_CHECKING, Final, NamedTuple

import msgspec

from scraperd.base.fd_limits import OutOfDescriptors, is_short, with_descriptor
from scraperd.sandbox.child import REPLY, REQUEST, Reply, Start
from scraperd.sandbox.nursery import FAREWELL, Nursery

if TYPE_CHECKING:
    from scraperd.extract.document import Extracted, ExtractRequest
    from scraperd.sandbox.nursery import Child

# Bytes; a helper that keeps more is ended, as heaps don't shrink.
MAX_RETAINED_BYTES: Final = 256 * 1024 * 1024
_READ: Final = 1024 * 1024  # bytes of a reply that may wait to be read


class HelperError(Exception):
    """An error of ours in a helper; its traceback is the message."""


class Helpers:
    """At most `most` processes. The caller sees to it that no more are asked at the same time.

    If all exist, an idle one with another nice value is ended to make room.
    """

    def __init__(self, start: Start, most: int) -> None:
        self._nursery = Nursery(start)
        self._most = most
        self._asked = 0
        self._idle: list[_Helper] = []
        self._starting: set[asyncio.Future[_Helper]] = set()

    @property
    def idle(self) -> list[int]:
        """The process ids of the helpers that live and wait for a page."""
        return [helper.pid for helper in self._idle if helper.alive]

    async def ask(
        self, request: ExtractRequest, body: bytes, seconds: float, nice: int
    ) -> Extracted | int | None:
        """Return what a helper with this nice value extracts from `body` in `seconds` of CPU.

        Or its exit code (minus a signal's number) if it did not live to tell; None if its
        memory did not suffice. Raises HelperError for an error of ours, OutOfDescriptors if none
        was left to start one with.
        """
        self._asked += 1
        try:
            return await self._ask(request, body, seconds, nice)
        finally:
            self._asked -= 1

    async def _ask(
        self, request: ExtractRequest, body: bytes, seconds: float, nice: int
    ) -> Extracted | int | None:
        helper = await self._helper(nice, readable=request.text)
        reply = await self._reply(helper, request, body, seconds)
        if reply == -signal.SIGKILL:
            # Something killed it, perhaps while it was idle: try once more, with another helper.
            helper = await self._helper(nice, readable=request.text)
            reply = await self._reply(helper, request, body, seconds)
        if not isinstance(reply, Reply):
            return reply
        if reply.memory > MAX_RETAINED_BYTES:
            await helper.kill()
        else:
            self._idle.append(helper)
        if reply.error:
            raise HelperError(reply.error)
        return reply.extracted

    @staticmethod
    async def _reply(
        helper: _Helper, request: ExtractRequest, body: bytes, seconds: float
    ) -> Reply | int:
        try:
            return await helper.ask(request, body, seconds)
        except BaseException:
            await helper.kill()
            raise

    async def close(self) -> None:
        """End them all."""
        if self._starting:
            await asyncio.wait(self._starting, timeout=FAREWELL)
        await asyncio.gather(*(helper.end() for helper in self._idle))
        self._idle.clear()
        await self._nursery.close()

    async def _helper(self, nice: int, *, readable: bool) -> _Helper:
        """One that is idle, of this nice, or else a new one."""
        while (idle := self._idle_of(nice)) is not None:
            if idle.alive:
                return idle
            await idle.kill()
        if self._idle and self._asked + len(self._idle) > self._most:
            await self._idle.pop(0).kill()  # the new one has its place
        starting = asyncio.ensure_future(self._begin(nice, readable=readable))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._started)
            raise

    def _idle_of(self, nice: int) -> _Helper | None:
        """The last one of this nice that became idle; it is idle no more."""
        for at, helper in reversed([*enumerate(self._idle)]):
            if helper.nice == nice:
                return self._idle.pop(at)
        return None

    async def _begin(self, nice: int, *, readable: bool) -> _Helper:
        """Start one, and wait for what that takes if it is not there (or OutOfDescriptors)."""
        try:
            return await with_descriptor(
                lambda: _Helper.begin(self._nursery, nice, readable=readable), lacks=_may_pass
            )
        except OutOfDescriptors as lack:
            if isinstance(lack.__cause__, ChildProcessError):
                raise HelperError(str(lack.__cause__)) from None
            raise

    def _started(self, starting: asyncio.Future[_Helper]) -> None:
        """A helper whose job was cancelled meanwhile is for the next one."""
        if not starting.cancelled() and starting.exception() is None:
            self._idle.append(starting.result())


class _Pipes(NamedTuple):
    """What is read from a helper, what closes that, and what is written to it."""

    source: asyncio.StreamReader
    ends: asyncio.BaseTransport
    sink: asyncio.StreamWriter


async def _connected(read: IO[bytes], write: IO[bytes]) -> _Pipes:
    loop = asyncio.get_running_loop()
    source = asyncio.StreamReader(_READ)
    ends, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(source), read)
    flow, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop), write
    )
    return _Pipes(source, ends, asyncio.StreamWriter(flow, protocol, None, loop))


class _Helper:
    """One helper process. It belongs to one request at a time."""

    def __init__(self, nursery: Nursery, child: Child, nice: int, pipes: _Pipes) -> None:
        self._nursery = nursery
        self._child = child
        self.nice = nice
        self._source, self._ends, self._sink = pipes

    @classmethod
    async def begin(cls, nursery: Nursery, nice: int, *, readable: bool) -> _Helper:
        """Start one. Raises OSError."""
        child, read, write = await nursery.begin(nice, readable=readable)
        return cls(nursery, child, nice, await _connected(read, write))

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._child.ended.done()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    async def ask(self, request: ExtractRequest, body: bytes, seconds: float) -> Reply | int:
        """Its reply; if it gave none, its exit code, or minus the number of the signal."""
        question = msgspec.msgpack.encode(request)
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
        self._nursery.kill(self._child)
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
        """Wait until it has ended."""
        try:
            return await asyncio.shield(self._child.ended)
        finally:
            self._ends.close()
            self._sink.close()


def _may_pass(error: Exception) -> bool:
    """Whether the next trial may start a helper: the nursery was killed, or resources are short.

    EAGAIN of fork(2) means too many tasks.
    """
    if isinstance(error, ChildProcessError):
        return True
    return isinstance(error, OSError) and (is_short(error) or error.errno == errno.EAGAIN)
