"""The daemon's side of the nursery: helpers are forked there, and their ends are told by it.

May touch: one child process, a socket to it, futures of the running loop.
Must never: signal a process that has ended (its number may be another's), or hand it a secret.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

import msgspec

from scraperd.sandbox.child import NEWS, NOBODY, ORDER, STARTED, Start

if TYPE_CHECKING:
    from asyncio import Future

FAREWELL: Final = 1.0  # seconds for it, and for a helper, to end by itself
# glibc gives the heap's top back after every page that was parsed; keeping it is cheaper.
_ENVIRONMENT: Final = {"MALLOC_TRIM_THRESHOLD_": str(64 * 1024 * 1024)}


@dataclass(slots=True, eq=False)
class Child:
    """A process that was forked. `ended` is its exit code then, or minus a signal's number."""

    pid: int
    ended: Future[int]


class Nursery:
    """A process that has loaded all that helpers need, and forks one in a few milliseconds.

    A new Python process takes 0.15 s of CPU to start. A page that takes too long ends its helper,
    so helpers are started often. This one starts when it is first needed, and again if it was
    killed. One for each event loop.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._asked: deque[Future[Child]] = deque()
        self._children: dict[int, Child] = {}
        self._gone = asyncio.Event()

    async def begin(self, nice: int, *, readable: bool) -> tuple[Child, IO[bytes], IO[bytes]]:
        """A helper, what it writes to, and what it reads from.

        Raises OSError if there is no descriptor or no process left.
        """
        with ExitStack() as ours, ExitStack() as theirs:
            asks, question = os.pipe()
            theirs.callback(os.close, asks)
            write = ours.enter_context(os.fdopen(question, "wb", 0))
            reply, tells = os.pipe()
            theirs.callback(os.close, tells)
            read = ours.enter_context(os.fdopen(reply, "rb", 0))
            child = await self._fork(asks, tells, nice, readable=readable)
            ours.pop_all()
        return child, read, write

    async def _fork(self, source: int, sink: int, nice: int, *, readable: bool) -> Child:
        channel = self._channel or self._open()
        try:
            order = ORDER.pack(NOBODY, nice, readable)
            socket.send_fds(channel, [order], [source, sink])
        except ConnectionError:  # it has ended, and this is the first that is heard of it
            self._lost()
            raise ChildProcessError("the helpers' parent had ended") from None
        future: Future[Child] = asyncio.get_running_loop().create_future()
        self._asked.append(future)
        return await future

    def kill(self, child: Child) -> None:
        """End a helper that has not ended. Its parent does it, which knows whose the number is."""
        if not child.ended.done() and self._channel is not None:
            with suppress(OSError):  # then it has ended, and its helpers with it
                self._channel.send(ORDER.pack(child.pid, 0, False))

    async def close(self) -> None:
        """End it. All helpers have ended."""
        process, channel = self._process, self._channel
        if process is None or channel is None:
            return
        with suppress(OSError):
            channel.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(FAREWELL):
                await self._gone.wait()
        except TimeoutError:
            process.kill()
            await self._gone.wait()

    def _open(self) -> socket.socket:
        """Start it. It inherits no environment, because its children parse untrusted pages.

        Not by the loop: uvloop forks, and copies the page tables of all our memory (20 ms of
        CPU at 800 MiB); this way costs less than 1 ms.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - nothing of a stranger's
                    [
                        *(sys.executable, "-P", "-m", "scraperd.sandbox.child"),
                        msgspec.json.encode(self._start).decode(),
                    ],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_ENVIRONMENT | {"PYTHONPATH": ":".join(filter(None, sys.path))},
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._channel = ours
        self._gone.clear()
        asyncio.get_running_loop().add_reader(ours, self._read, ours)
        return ours

    def _read(self, channel: socket.socket) -> None:
        """What it tells."""
        while self._channel is channel:
            try:
                news = channel.recv(NEWS.size)
            except BlockingIOError:
                return
            except ConnectionError:
                news = b""
            if not news:
                self._lost()
                return
            self._hear(*NEWS.unpack(news))

    def _hear(self, pid: int, code: int) -> None:
        if code == STARTED:
            child = Child(pid, asyncio.get_running_loop().create_future())
            self._children[pid] = child
            _answer(self._asked.popleft(), child)
        elif pid == NOBODY:
            _answer(self._asked.popleft(), OSError(code, os.strerror(code)))
        else:
            self._children.pop(pid).ended.set_result(code)

    def _lost(self) -> None:
        """It has ended, and its helpers with it (PR_SET_PDEATHSIG)."""
        process, channel = self._process, self._channel
        assert process is not None
        assert channel is not None
        self._process = self._channel = None
        asyncio.get_running_loop().remove_reader(channel)
        channel.close()
        code = process.wait()  # its end of the socket closes last
        for future in self._asked:
            _answer(future, ChildProcessError(f"the helpers' parent ended with {code}"))
        for child in self._children.values():
            child.ended.set_result(-signal.SIGKILL)
        self._asked.clear()
        self._children.clear()
        self._gone.set()


def _answer(future: Future[Child], answer: Child | OSError) -> None:
    if future.done():  # the caller is gone; without its pipes the helper ends
        return
    if isinstance(answer, Child):
        future.set_result(answer)
    else:
        future.set_exception(answer)
