"""A cache: the values used last, bounded by their number, their size and their time. Pure.

May touch: nothing; the caller says what time it is.
Must never: hold more than its bounds allow, or read a clock.

For values that callers put in. `functools.lru_cache` keeps what a pure function returned.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class _Entry(NamedTuple):
    value: object
    size: int
    until: float


class Cache(Generic[K, V]):
    """At most `max_entries` values, of at most `max_size` together; without a bound, any number.

    Past a bound the values that were not used for longest are dropped. A value that is larger than
    `max_size` by itself is not kept at all.
    """

    def __init__(self, max_entries: float = math.inf, max_size: float = math.inf) -> None:
        self._max_entries = max_entries
        self._max_size = max_size
        self._entries: OrderedDict[K, _Entry] = OrderedDict()  # the one used last comes last
        self.size = 0
        """The sizes of all values together, in the unit of `max_size`."""

    def configure(self, max_entries: float, max_size: float = math.inf) -> None:
        """Take other bounds, and drop what is past them."""
        self._max_entries = max_entries
        self._max_size = max_size
        self._drop()

    def get(self, key: K, now: float = -math.inf) -> V | None:
        """Return the value of `key`, which counts as used; None if it is missing or over by `now`.

        A value that is over is dropped.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= now:
            self.pop(key)
            return None
        self._entries.move_to_end(key)
        return cast("V", entry.value)

    def put(self, key: K, value: V, *, size: int = 0, until: float = math.inf) -> None:
        """Keep `value` under `key`, in place of what is there. It is over at `until`."""
        self.pop(key)
        self._entries[key] = _Entry(value, size, until)
        self.size += size
        self._drop()

    def _drop(self) -> None:
        while len(self._entries) > self._max_entries or self.size > self._max_size:
            self.pop(next(iter(self._entries)))

    def pop(self, key: K) -> V | None:
        """Drop the value of `key` and return it; None if it is missing."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.size -= entry.size
        return cast("V", entry.value)

    def clear(self) -> None:
        """Drop all values."""
        self._entries.clear()
        self.size = 0

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        """The keys, the one that was not used for longest first."""
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Cache of {len(self)}, size {self.size}>"
