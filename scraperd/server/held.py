"""Results that clients wait for, or ask for later: held in this process, for a while, and not more.

May touch: futures of the running loop, a clock.
Must never: hold more results or bytes than its bounds, or give one to who does not know its handle.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

HANDLE_BYTES: Final = 18  # random bytes of a handle
# How many results one token may wait for, in the places that are free then. So some always are:
# Choudhury and Hahne, Dynamic Queue Length Thresholds for Shared-Memory Packet Switches (1998).
SHARE: Final = 4


@dataclass(slots=True)
class Shelf:
    """What is held for one token: the handles of results that came, and how many may come."""

    read: dict[str, None] = field(default_factory=dict)  # the one of longest ago first
    unread: dict[str, None] = field(default_factory=dict)  # the oldest first
    pending: int = 0
    size: int = 0  # bytes of the results

    @property
    def came(self) -> int:
        """How many results came."""
        return len(self.read) + len(self.unread)

    @property
    def first(self) -> str | None:
        """The handle of the result that is to be dropped next."""
        return next(chain(self.read, self.unread), None)


@dataclass(slots=True)
class Entry:
    """A job whose result is waited for. `came` gives the result; None if it will not come here."""

    ident: str
    since: float
    came: asyncio.Future[bytes | None]
    shelf: Shelf

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
    Past that, the token that has the most loses results: first those that were read, and then the
    oldest. No token can have all places.
    """

    def __init__(
        self, most: int, most_bytes: int, seconds: float, clock: Callable[[], float]
    ) -> None:
        self.configure(most, most_bytes, seconds)
        self._clock = clock
        self._entries: dict[str, Entry] = {}  # in the order of their submissions
        self._shelves: dict[str, Shelf] = {}  # by the name of the token, "" where none is needed

    def configure(self, most: int, most_bytes: int, seconds: float) -> None:
        """Take other bounds. What is held is dropped to them when the next result comes."""
        self._most = most
        self._most_bytes = most_bytes
        self._seconds = seconds

    def expect(self, ident: str, holder: str = "") -> str | None:
        """Return a handle for the result of a job; None if as many are pending as may be."""
        self._expire()
        shelf = self._shelves.setdefault(holder, Shelf())
        free = self._most - sum(it.pending for it in self._shelves.values())
        if free <= 0 or (holder and shelf.pending >= SHARE * free):
            return None
        while len(self._entries) >= self._most:
            self.drop(max(self._shelves.values(), key=lambda it: it.came).first or "")
        handle = secrets.token_urlsafe(HANDLE_BYTES)
        came: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._entries[handle] = Entry(ident, self._clock(), came, shelf)
        shelf.pending += 1
        return handle

    def take(self, handle: str | None, body: bytes) -> None:
        """Note a result. One with an unknown handle is dropped, and so is a second one."""
        entry = self._entries.get(handle or "")
        if handle is None or entry is None or not entry.pending:
            return
        entry.came.set_result(body)
        entry.shelf.pending -= 1
        entry.shelf.unread[handle] = None
        entry.shelf.size += len(body)
        while self._size > self._most_bytes and (first := self._largest(handle)) is not None:
            self.drop(first)

    @property
    def _size(self) -> int:
        return sum(it.size for it in self._shelves.values())

    def _largest(self, but: str) -> str | None:
        """Return the result to drop next, of the token with the most bytes that has another."""
        for shelf in sorted(self._shelves.values(), key=lambda it: -it.size):
            if shelf.first not in (None, but):
                return shelf.first
        return None

    def note_read(self, handle: str) -> None:
        """Note that a result was read: from now on it is dropped before unread ones."""
        entry = self._entries.get(handle)
        if entry is not None and handle in entry.shelf.unread:
            del entry.shelf.unread[handle]
            entry.shelf.read[handle] = None

    def drop(self, handle: str) -> None:
        """Forget a job, such as one that was not published."""
        entry = self._entries.pop(handle, None)
        if entry is None:
            return
        shelf = entry.shelf
        if handle in shelf.read or handle in shelf.unread:
            shelf.read.pop(handle, None)
            shelf.unread.pop(handle, None)
            shelf.size -= len(entry.body or b"")
        else:
            shelf.pending -= 1

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
        kept = sum(it.came for it in self._shelves.values())
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
        submitted = self._clock() - self._seconds
        while self._entries:
            handle, entry = next(iter(self._entries.items()))
            if entry.since > submitted:
                return
            self.drop(handle)
