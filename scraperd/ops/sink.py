"""Where the lines of the log go: a file, a pipe, a socket or a terminal, without waiting.

May touch: one descriptor, timers of the running loop.
Must never: block the event loop, write a line twice, or keep more than MAX_BACKLOG_BYTES.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_BACKLOG_BYTES: Final = 1024**2  # of lines that the reader has not taken; a line has 100 kB
RETRY_INTERVAL: Final = 0.05  # seconds between two tries, while the reader takes nothing
MAX_WAIT: Final = 1.0  # seconds that a process without a running loop waits for the reader


class Outlet(Protocol):
    """What takes bytes."""

    def take(self, data: bytes) -> int:
        """Take what can be taken at once. Return how many bytes. Raises OSError."""

    def wait(self, seconds: float) -> None:
        """Wait until something can be taken, or for so many seconds."""

    def close(self) -> None:
        """Close what was opened for it, and leave the descriptor that it was given."""


class Sink:
    """Lines on their way to an outlet. To structlog it is a binary file.

    A line is written at the end of the loop's turn, together with the others of that turn; or at
    once by `flush`. A reader that stalls, such as a full pipe or a stopped journal, holds nobody
    up: lines are kept up to MAX_BACKLOG_BYTES, and those beyond are dropped and counted. So are
    lines that the outlet refuses, as a full disk does. Without a running loop (`turns`) a line
    is written at once, and MAX_WAIT is the longest time that this waits.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._begun = 0  # bytes of the first line that are written already
        self._torn = False  # the outlet has a line without its end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.Handle | None = None
        self._refused = False  # the last try failed
        self._untold = 0
        self._recovered: Callable[[int], None] = lambda _: None
        self.lost = 0
        """How many lines were lost so far."""

    @contextmanager
    def turns(self, recovered: Callable[[int], None]) -> Iterator[None]:
        """Write once a turn of the running loop.

        `recovered` is told how many lines were lost, once the outlet takes lines again. It may
        write one.
        """
        self._loop, self._recovered = asyncio.get_running_loop(), recovered
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop = None
            self._drain()

    def write(self, line: bytes) -> int:
        """Write a whole line later in this turn. Return its length."""
        if self._bytes + len(line) > MAX_BACKLOG_BYTES:
            self._lose(1)
            return len(line)
        self._lines.append(line)
        self._bytes += len(line)
        if self._loop is None:
            self._drain()
        elif self._timer is None:
            self._timer = self._loop.call_soon(self._on_turn)
        return len(line)

    def close(self) -> None:
        """Close the outlet. No line can be written afterwards."""
        self._outlet.close()

    def flush(self) -> None:
        """Write at once what can be written without waiting."""
        if self._loop is not None and self._lines:
            self._push()

    def _on_turn(self) -> None:
        self._timer = None
        self._push()

    def _push(self) -> None:
        """Hand the lines over; come back later for those that the outlet has no room for."""
        if self._lines:
            self._hand_over()
        if self._loop is None:
            return
        if self._lines:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(RETRY_INTERVAL, self._on_turn)
            return
        if self._untold and not self._refused:
            untold, self._untold = self._untold, 0
            self._recovered(untold)

    def _hand_over(self) -> None:
        data = self._lines[0] if len(self._lines) == 1 else b"".join(self._lines)
        data = data[self._begun :] if self._begun else data
        if self._torn:
            data = b"\n" + data
        try:
            taken = self._outlet.take(data)
        except OSError:  # a full disk, a reader that is gone: what it refused is not tried again
            self._refused = True
            self._give_up()
            return
        if taken:
            self._refused = False
        if self._torn and taken:
            self._torn, taken = False, taken - 1
        self._forget(taken)

    def _give_up(self) -> None:
        """Drop what is not written. The next line begins behind a line break if one is torn."""
        self._torn = self._torn or self._begun > 0
        self._lose(len(self._lines))
        self._lines.clear()
        self._bytes = self._begun = 0

    def _lose(self, count: int) -> None:
        self.lost += count
        self._untold += count

    def _forget(self, taken: int) -> None:
        taken += self._begun
        while self._lines and taken >= len(self._lines[0]):
            length = len(self._lines.popleft())
            taken -= length
            self._bytes -= length
        self._begun = taken

    def _drain(self) -> None:
        """Write everything, if the reader takes it within MAX_WAIT; else it is lost."""
        deadline = time.monotonic() + MAX_WAIT
        while self._lines:
            self._hand_over()
            if self._lines:
                if (left := deadline - time.monotonic()) <= 0:
                    self._give_up()
                else:
                    self._outlet.wait(left)


def outlet_of(descriptor: int) -> Outlet:
    """Return the outlet for an open descriptor, by what kind of file it is."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return _Socket(descriptor)
    if stat.S_ISFIFO(mode):
        return _Pipe(descriptor, select.PIPE_BUF)
    if stat.S_ISCHR(mode):
        return _terminal(descriptor)
    return _File(descriptor)


class _File:
    """A regular file: it is always ready."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def take(self, data: bytes) -> int:
        return os.write(self._descriptor, data)

    def wait(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


class _Pipe:
    """A descriptor that others share: its flags are theirs too, so it stays in blocking mode.

    One that poll(2) says is ready takes PIPE_BUF bytes without blocking (pipe(7)).
    """

    def __init__(self, descriptor: int, most: int) -> None:
        self._descriptor = descriptor
        self._most = most
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def take(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest and self._poll.poll(0):
            rest = rest[os.write(self._descriptor, rest[: self._most]) :]
        return len(data) - len(rest)

    def wait(self, seconds: float) -> None:
        self._poll.poll(seconds * 1000)

    def close(self) -> None:
        pass


class _NonBlocking(_Pipe):
    """A descriptor of our own, in non-blocking mode."""

    def take(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self._descriptor)


def _terminal(descriptor: int) -> Outlet:
    """A terminal, or another device. It is opened anew, as it can stop taking bytes (Ctrl-S)."""
    try:
        own = os.open(
            f"/proc/self/fd/{descriptor}",
            os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
        )
    except OSError:
        return _File(descriptor)
    return _NonBlocking(own, select.PIPE_BUF)


class _Socket:
    """A stream socket, as systemd's journal has it. A flag of each call says not to block."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLOUT)

    def take(self, data: bytes) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def wait(self, seconds: float) -> None:
        self._poll.poll(seconds * 1000)

    def close(self) -> None:
        self._socket.close()
