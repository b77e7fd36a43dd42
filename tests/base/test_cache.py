"""Tests of the cache: what it keeps, what it drops, and in which order.

May touch: nothing but the class.
Must never: read a clock.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scraperd.base.cache import Cache

MAX_ENTRIES = 4
MAX_SIZE = 10


def test_the_value_used_last_is_kept() -> None:
    """To be read counts as being used; what was not used for longest goes first."""
    cache: Cache[str, int] = Cache(max_entries=2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert list(cache) == ["a", "c"]
    assert cache.get("b") is None


def test_sizes_are_bounded_together() -> None:
    """A large value takes the place of several small ones; one larger than all is not kept."""
    cache: Cache[str, int] = Cache(max_size=10)
    for name in "abc":
        cache.put(name, 0, size=3)
    cache.put("d", 0, size=7)
    assert (list(cache), cache.size) == (["c", "d"], 10)
    cache.put("e", 0, size=11)
    assert (list(cache), cache.size) == ([], 0)


def test_a_value_ends_at_its_time() -> None:
    """At `until` it is over, and gives its size back; without a time it never is."""
    cache: Cache[str, int] = Cache()
    cache.put("a", 1, size=5, until=10.0)
    cache.put("b", 2, size=5)
    assert cache.get("a", now=9.9) == 1
    assert cache.get("a", now=10.0) is None
    assert cache.get("b", now=1e9) == 2
    assert ("a" in cache, "b" in cache, cache.size) == (False, True, 5)


def test_a_value_that_is_put_again_replaces_the_old_one() -> None:
    """Its size, its time and its place are those of the new value."""
    cache: Cache[str, int] = Cache(max_entries=2)
    cache.put("a", 1, size=5, until=1.0)
    cache.put("b", 2)
    cache.put("a", 3, size=2)
    cache.put("c", 4)
    assert (list(cache), cache.size, cache.get("a", now=2.0)) == (["a", "c"], 2, 3)


def test_values_are_dropped_on_request() -> None:
    """`pop` returns what it drops, `clear` leaves nothing."""
    cache: Cache[str, int] = Cache()
    cache.put("a", 1, size=5)
    assert (cache.pop("a"), cache.pop("a"), cache.size) == (1, None, 0)
    cache.put("b", 2, size=5)
    cache.clear()
    assert (len(cache), cache.size, repr(cache)) == (0, 0, "<Cache of 0, size 0>")


class AgainstALine(RuleBasedStateMachine):
    """The cache beside a list that is kept in order by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: Cache[int, int] = Cache(MAX_ENTRIES, MAX_SIZE)
        self.line: list[tuple[int, int, int, float]] = []  # key, value, size, until
        self.now = 0.0

    def without(self, key: int) -> None:
        self.line = [entry for entry in self.line if entry[0] != key]

    @rule(
        key=st.integers(0, 6), value=st.integers(), size=st.integers(0, 12), lasts=st.integers(1, 9)
    )
    def put(self, key: int, value: int, size: int, lasts: int) -> None:
        self.cache.put(key, value, size=size, until=self.now + lasts)
        self.without(key)
        self.line.append((key, value, size, self.now + lasts))
        while len(self.line) > MAX_ENTRIES or sum(entry[2] for entry in self.line) > MAX_SIZE:
            self.line.pop(0)

    @rule(key=st.integers(0, 6))
    def get(self, key: int) -> None:
        found = next((entry for entry in self.line if entry[0] == key), None)
        self.without(key)
        if found is not None and found[3] <= self.now:
            found = None
        if found is not None:
            self.line.append(found)
        assert self.cache.get(key, self.now) == (None if found is None else found[1])

    @rule(key=st.integers(0, 6))
    def pop(self, key: int) -> None:
        found = next((entry[1] for entry in self.line if entry[0] == key), None)
        self.without(key)
        assert self.cache.pop(key) == found

    @rule(seconds=st.integers(1, 5))
    def later(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def they_agree(self) -> None:
        assert list(self.cache) == [entry[0] for entry in self.line]
        assert self.cache.size == sum(entry[2] for entry in self.line)


TestAgainstALine = AgainstALine.TestCase
