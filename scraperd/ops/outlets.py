"""What takes the bytes of the log and of standard error: files, pipes, sockets, terminals.

May touch: the descriptor it is given, and one that is opened anew for the same file.
Must never: wait for a reader unasked, or change a flag that other processes share.
"""

from __future__ import annotations

import io
import os
import select
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_ANEW: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Outlet(Protocol):
    """What takes bytes."""

    def take(self, data: bytes) -> int:
        """Take what can be taken at once. Return how many bytes. Raises OSError."""

    def wait(self, seconds: float) -> None:
        """Wait until something can be taken, or for so many seconds."""

    def close(self) -> None:
        """Close what was opened for it, and leave the descriptor that it was given."""


class Unwaited(io.RawIOBase):
    """A stream that waits for no reader: what its outlet does not take at once is dropped.

    For a daemon's standard error, to which Python and libraries write from the event loop.
    """

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Return the length of `data`, whatever became of it."""
        given = bytes(data)
        with suppress(OSError):  # a full disk, a reader that is gone
            self._outlet.take(given)
        return len(given)

    def close(self) -> None:
        """Close what the outlet opened for itself."""
        if not self.closed:
            self._outlet.close()
        super().close()


def unwaited(stream: TextIO) -> TextIO:
    """Return a stream for the same file that waits for no reader; `stream` if it has no file."""
    try:
        outlet = Unwaited(outlet_of(stream.fileno()))
    except OSError:  # io.UnsupportedOperation: it is in memory
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(outlet, 1), stream.encoding, "backslashreplace", write_through=True
    )


def outlet_of(descriptor: int) -> Outlet:
    """Return the outlet for an open descriptor, by what kind of file it is."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return _Socket(descriptor)
    if stat.S_ISFIFO(mode):
        return _pipe(descriptor)
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


class _Polled(_File):
    """A file that can be full, and that poll(2) tells of."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def wait(self, seconds: float) -> None:
        self._poll.poll(seconds * 1000)


class _Terminal(_Polled):
    """A terminal on a descriptor of our own, in non-blocking mode."""

    def take(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self._descriptor)


class _Pipe(_Polled):
    """A pipe, perhaps with several writers: lines of up to PIPE_BUF bytes stay whole (pipe(7))."""

    def take(self, data: bytes) -> int:
        start, size = 0, len(data)
        while start < size and self._is_ready():
            end = start + select.PIPE_BUF
            if end < size:
                end = data.rfind(b"\n", start, end) + 1 or end
            try:
                start += os.write(self._descriptor, data[start:end])
            except BlockingIOError:
                break
        return min(start, size)

    def _is_ready(self) -> bool:
        return True


class _OwnPipe(_Pipe):
    """A pipe on a descriptor of our own, in non-blocking mode."""

    def close(self) -> None:
        os.close(self._descriptor)


class _SharedPipe(_Pipe):
    """A pipe on the descriptor that others share. Its flags are theirs too: it stays blocking.

    One that poll(2) says is ready takes PIPE_BUF bytes, unless another writer comes in between.
    """

    def _is_ready(self) -> bool:
        return bool(self._poll.poll(0))


def _pipe(descriptor: int) -> Outlet:
    try:
        return _OwnPipe(_anew(descriptor))
    except OSError:  # of another user, or without a reader
        return _SharedPipe(descriptor)


def _terminal(descriptor: int) -> Outlet:
    """A terminal, which can stop taking bytes (Ctrl-S), or another device."""
    try:
        return _Terminal(_anew(descriptor))
    except OSError:
        return _File(descriptor)


def _anew(descriptor: int) -> int:
    """Open the file of a descriptor once more, with flags that are only ours. Raises OSError."""
    return os.open(f"/proc/self/fd/{descriptor}", _ANEW)


class _Socket(_Polled):
    """A stream socket, as systemd's journal has it. A flag of each call says not to block."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        super().__init__(self._socket.fileno())

    def take(self, data: bytes) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self._socket.close()
