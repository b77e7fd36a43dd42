"""What an IP address counts as, how many fetches it bears, and when a place gets free there.

May touch: addresses; times are handed in.
Must never: resolve a name.
"""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraperd.config.tables import PolitenessSettings
from scraperd.politeness.addresses import EARLY_RETURN, Address, Addresses
from scraperd.politeness.throttle import LATENCY_WEIGHT

NOW = 1000.0


def addresses(limit: int = 4, *shared: str) -> Addresses:
    """With this limit, and these networks that have none."""
    return Addresses(
        PolitenessSettings(per_address_concurrency=limit, shared_networks=tuple(shared))
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2"),
    ],
)
def test_what_counts_as_one_address(one: str, other: str) -> None:
    """An IPv4 address however it is written, and all of one /64."""
    known = addresses()
    found = known.of(one)
    assert found is not None
    assert found.limit == 4
    assert known.of(other) is found


@pytest.mark.parametrize(
    ("one", "other"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:1::1")]
)
def test_what_counts_as_two(one: str, other: str) -> None:
    """Two IPv4 addresses, and two neighbours of /64."""
    known = addresses()
    assert known.of(one) is not known.of(other)


def test_where_there_is_no_limit() -> None:
    """Switched off, unknown, no address at all, or in a network that many sites share."""
    assert addresses(0).of("192.0.2.1") is None
    known = addresses(4, "198.51.100.0/24", "2001:db8::/32")
    assert known.of("") is None
    assert known.of("example.com") is None
    assert known.of("198.51.100.7") is None
    assert known.of("::ffff:198.51.100.7") is None
    assert known.of("2001:db8:5::1") is None
    assert known.of("198.51.101.7") is not None


def test_an_address_is_kept_while_somebody_holds_it() -> None:
    """A fetch that runs or a host that is remembered; then its counts are forgotten."""
    known = addresses()
    found = known.of("192.0.2.1")
    assert found is not None
    found.start(NOW)
    again = known.of("192.0.2.1")
    assert again is found
    del found, again
    gc.collect()
    fresh = known.of("192.0.2.1")
    assert fresh is not None
    assert fresh.active == 0


def test_an_address_bears_so_many_fetches() -> None:
    """As its limit says, or as many as one host may have by itself."""
    address = Address(2)
    for active, own, full in [(1, 1, False), (2, 1, True), (2, 3, False), (3, 3, True)]:
        address.active = active
        assert address.full(own) is full


def test_how_often_a_place_gets_free() -> None:
    """As long as a fetch lasts here, over as many as run side by side; before one has ended, as
    long as the host's are expected to last; and as long as it is silent while fetches run.
    """
    address = Address(4)
    assert address.interval(NOW, 2.0) == pytest.approx(EARLY_RETURN * 2.0 / 4)
    address.latency = 1.0
    assert address.interval(NOW, 2.0) == pytest.approx(EARLY_RETURN * 1.0 / 4)
    address.start(NOW)
    assert address.interval(NOW + 0.5, 2.0) == pytest.approx(EARLY_RETURN * 1.0 / 4)
    assert address.interval(NOW + 8.0, 2.0) == pytest.approx(EARLY_RETURN * 8.0 / 4)


def test_silence_is_counted_from_the_first_fetch_or_the_last_end() -> None:
    """A later start does not end it; an end does, and so does a start after nothing ran."""
    address = Address(1)
    address.latency = 0.001
    address.start(NOW)
    address.start(NOW + 3)
    assert address.interval(NOW + 4, 1.0) == pytest.approx(EARLY_RETURN * 4)
    address.finish(NOW + 3, NOW + 5)
    address.latency = 0.001
    assert address.interval(NOW + 6, 1.0) == pytest.approx(EARLY_RETURN * 1)
    address.finish(NOW, NOW + 7)
    address.latency = 0.001
    assert address.active == 0
    assert address.interval(NOW + 60, 1.0) == pytest.approx(EARLY_RETURN * 0.001)
    address.start(NOW + 100)
    assert address.interval(NOW + 102, 1.0) == pytest.approx(EARLY_RETURN * 2)


def test_the_latency_is_smoothed() -> None:
    """The first fetch sets it, each next one moves it by its weight."""
    address = Address(4)
    address.start(NOW)
    address.start(NOW)
    address.finish(NOW, NOW + 2)
    assert address.latency == 2.0
    address.finish(NOW, NOW + 6)
    assert address.latency == pytest.approx(2.0 + LATENCY_WEIGHT * 4.0)


def test_promises_follow_one_another() -> None:
    """Each an interval behind the one before, and none in the past."""
    address = Address(4)
    address.latency = 1.0
    every = EARLY_RETURN / 4
    due = []
    for _ in range(3):
        due.append(address.reservation(NOW))
        address.reserve(NOW, 2.0)
    assert due == pytest.approx([NOW, NOW + every, NOW + 2 * every])
    assert address.reservation(NOW + 50) == NOW + 50


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30), st.integers(1, 8))
def test_latency_stays_within_what_was_seen(latencies: list[float], limit: int) -> None:
    """It is a mean of them, and as many fetches are counted as run."""
    address = Address(limit)
    for n, took in enumerate(latencies):
        address.start(NOW)
        assert address.active == 1
        address.finish(NOW, NOW + took)
        assert address.active == 0
        seen = latencies[: n + 1]
        assert min(seen) - 1e-6 <= address.latency <= max(seen) + 1e-6
        assert address.interval(NOW, 1.0) >= 0
