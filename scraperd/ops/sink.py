"""The lines of the log on their way to an outlet, many at a time.

May touch: one outlet, timers of the running loop.
Must never: block the event loop, write a line twice, or keep more than MAX_BACKLOG_BYTES.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scraperd.ops.outlets import Outlet

MAX_BACKLOG_BYTES: Final = 1024**2  # of lines that the reader has not taken; a line has 100 kB
MAX_JOBS_BYTES: Final = MAX_BACKLOG_BYTES * 3 // 4  # of it; the rest is for lines that are rare
MAX_DELAY: Final = 0.01  # seconds that a line may wait for others: a write for each costs 1 %
RETRY_INTERVAL: Final = 0.05  # seconds between two tries, while the reader takes nothing
MAX_WAIT: Final = 1.0  # seconds that a process without a running loop waits for the reader


class Sink:
    """Lines on their way to an outlet. To structlog it is a binary file.

    A line is written at the end of the loop's turn, together with the others of that turn; or at
    once by `flush`; or within MAX_DELAY, if it says that it can wait. A reader that stalls, such
    as a full pipe or a stopped journal, delays nobody: lines are kept up to MAX_BACKLOG_BYTES,
    and those beyond are dropped and counted. So are lines that the outlet refuses, as a full disk
    does. Without a running loop (`turns`) a line is written at once, and MAX_WAIT is the longest
    time that this waits.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._begun = 0  # bytes of the first line that are written already
        self._torn = False  # the outlet has a line without its end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.Handle | None = None
        self._unhurried = False  # the timer is for lines that can wait
        self._refused = False  # the last try failed
        self._stalled = False  # the reader was waited for in vain, and has taken nothing since
        self._untold = 0
        self._recovered: Callable[[int], None] = lambda _: None
        self.lost = 0
        """How many lines were lost so far."""

    @contextmanager
    def turns(self, recovered: Callable[[int], None]) -> Iterator[None]:
        """Write at the ends of turns of the running loop.

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
            self._tell()

    def write(self, line: bytes, most: int = MAX_BACKLOG_BYTES, *, can_wait: bool = False) -> int:
        """Write a whole line later in this turn, unless more than `most` bytes would then wait.

        One that `can_wait` is written with the next that can't, and within MAX_DELAY. Return its
        length.
        """
        if self._bytes + len(line) > most:
            self._lose(1)
            return len(line)
        self._lines.append(line)
        self._bytes += len(line)
        if self._loop is None:
            self._drain()
        elif self._timer is None or (self._unhurried and not can_wait):
            self._schedule(can_wait=can_wait)
        return len(line)

    def _schedule(self, *, can_wait: bool) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        if can_wait:
            self._timer = self._loop.call_later(MAX_DELAY, self._on_turn)
        else:
            self._timer = self._loop.call_soon(self._on_turn)
        self._unhurried = can_wait

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
            self._unhurried = False
            return
        self._tell()

    def _tell(self) -> None:
        """Say how many lines were lost, if the outlet takes lines."""
        if self._untold and not self._refused and not self._stalled:
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
            self._refused = self._stalled = False
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
        """Write everything, if the reader takes it within MAX_WAIT; else it is lost.

        A reader that was waited for in vain is not waited for again.
        """
        deadline = time.monotonic() + (0 if self._stalled else MAX_WAIT)
        while self._lines:
            self._hand_over()
            if self._lines:
                if (left := deadline - time.monotonic()) <= 0:
                    self._stalled = True
                    self._give_up()
                else:
                    self._outlet.wait(left)
