"""Results that clients wait for, or ask for later: held in this process, for a while, and not more.

May touch: futures of the running loop, a clock.
Must never: hold more results or bytes than its bounds, or give one to who does not know its handle.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

HANDLE_BYTES: Final = 18  # random bytes of a handle


@dataclass(slots=True)
class Entry:
    """A job whose result is waited for. `came` gives the result; None if it will not come here."""

    ident: str
    expires: float
    came: asyncio.Future[bytes | None]

    @property
    def body(self) -> bytes | None:
        """The result; None as long as it is not there."""
        return self.came.result() if self.came.done() else None

    @property
    def pending(self) -> bool:
        """Whether the result may still come here."""
        return not self.came.done()


class Held:
    """Results by their handles, each for `seconds` from its job's submission.

    There are at most `most`, with the pending ones, and at most `most_bytes` of those that came.
    Past that, those are dropped that were read, and then the oldest.
    """

    def __init__(
        self, most: int, most_bytes: int, seconds: float, clock: Callable[[], float]
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._clock = clock
        self._entries: dict[str, Entry] = {}  # in the order of their ends
        self._read: dict[str, None] = {}  # the results that were read, the one of longest ago first
        self._unread: dict[str, None] = {}  # the others that came, the oldest first
        self._size = 0

    def expect(self, ident: str) -> str | None:
        """Return a handle for the result of a job; None if as many are pending as may be."""
        self._expire()
        if len(self._entries) >= self._most:
            if (first := self._first()) is None:
                return None
            self.drop(first)
        handle = secrets.token_urlsafe(HANDLE_BYTES)
        came: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._entries[handle] = Entry(ident, self._clock() + self._seconds, came)
        return handle

    def take(self, handle: str | None, body: bytes) -> None:
        """Note a result. One with an unknown handle is dropped, and so is a second one."""
        entry = self._entries.get(handle or "")
        if handle is None or entry is None or not entry.pending:
            return
        entry.came.set_result(body)
        self._unread[handle] = None
        self._size += len(body)
        while self._size > self._most_bytes and (first := self._first()) not in (None, handle):
            self.drop(first or "")

    def _first(self) -> str | None:
        """Return the handle of the result that is to be dropped next."""
        return next(chain(self._read, self._unread), None)

    def note_read(self, handle: str) -> None:
        """Note that a result was read: from now on it is dropped before unread ones."""
        if handle in self._unread:
            del self._unread[handle]
            self._read[handle] = None

    def drop(self, handle: str) -> None:
        """Forget a job, such as one that was not published."""
        self._read.pop(handle, None)
        self._unread.pop(handle, None)
        entry = self._entries.pop(handle, None)
        if entry is not None:
            self._size -= len(entry.body or b"")

    def lose(self) -> None:
        """Note that no pending result will come: the queue for them is gone."""
        for handle, entry in [*self._entries.items()]:
            if entry.pending:
                entry.came.set_result(None)
                self.drop(handle)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many are pending, how many came, and the bytes of the latter."""
        self._expire()
        kept = len(self._read) + len(self._unread)
        return len(self._entries) - kept, kept, self._size

    def get(self, handle: str) -> Entry | None:
        """Return what is known of a handle; None if it is nothing, or is over."""
        self._expire()
        return self._entries.get(handle)

    @staticmethod
    async def wait(entry: Entry, seconds: float) -> None:
        """Return once the result has come, or will not come here, or after so many seconds."""
        await asyncio.wait([entry.came], timeout=seconds)

    def _expire(self) -> None:
        now = self._clock()
        while self._entries:
            handle, entry = next(iter(self._entries.items()))
            if entry.expires > now:
                return
            self.drop(handle)
