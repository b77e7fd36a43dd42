"""Poison-job isolation: the policy's truth table, and what this process knows it did not cause.

May touch: counts.
Must never: need a worker or a broker.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraperd.broker.ports import Source
from scraperd.jobs import quarantine
from scraperd.jobs.quarantine import MAX_DISCOUNTS, Discounts, quarantine_for, strikes

COLUMNS = (Source.JOBS, Source.QUARANTINE, Source.SOLO)
PLACES = {"runs": None, "quarantine": Source.QUARANTINE, "solo": Source.SOLO}


def rows() -> list[tuple[str, list[str]]]:
    """The table in the file's docstring."""
    assert quarantine.__doc__
    found = re.findall(
        r"^\| (.+?) *\| (\w+) +\| (\w+) +\| (\w+) +\|$", quarantine.__doc__, re.MULTILINE
    )
    return [(name, list(cells)) for name, *cells in found]


@pytest.mark.parametrize(
    ("name", "counts", "witnessed"),
    [
        ("0", [0], True),
        ("1", [1], True),
        ("2 or more", [2, 3, 1000], True),
        ("the same, unwitnessed", [2, 3, 1000], False),
    ],
)
def test_the_table_at_the_head_of_the_file_is_true(
    name: str,
    counts: list[int],
    witnessed: bool,  # noqa: FBT001 - a column
) -> None:
    """Each of its cells is what the policy says."""
    [cells] = [cells for row, cells in rows() if row == name]
    for count in counts:
        places = [quarantine_for(source, count, witnessed=witnessed) for source in COLUMNS]
        assert places == [PLACES[cell] for cell in cells], count


def test_one_strike_unwitnessed_is_as_one_that_is() -> None:
    """Among few others a job runs also by a note alone."""
    assert quarantine_for(Source.JOBS, 1, witnessed=False) is Source.QUARANTINE
    assert quarantine_for(Source.QUARANTINE, 1, witnessed=False) is None


@pytest.mark.parametrize(
    ("source", "noted", "redeliveries", "discounted", "count"),
    [
        (Source.JOBS, 0, 0, 0, 0),
        (Source.JOBS, 0, 1, 0, 1),
        (Source.JOBS, 2, 1, 0, 3),
        (Source.JOBS, 0, 3, 3, 0),
        (Source.JOBS, 0, 3, 2, 1),
        (Source.QUARANTINE, 0, 0, 0, 1),
        (Source.QUARANTINE, 3, 1, 1, 3),
        (Source.SOLO, 0, 0, 0, 2),
        (Source.SOLO, 1, 2, 1, 3),
        (Source.UNDELIVERED, 0, 100, 0, 100),
    ],
)
def test_strikes(
    source: Source, noted: int, redeliveries: int, discounted: int, count: int
) -> None:
    """What is noted and what the broker counts, less what is known; a queue stands for its own."""
    assert strikes(source, noted, redeliveries, discounted) == count


@given(st.sampled_from(COLUMNS), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_strikes_never_fall_below_zero_and_rise_with_each_redelivery(
    source: Source, noted: int, redeliveries: int, discounted: int
) -> None:
    """One more redelivery that is not discounted is one more strike."""
    count = strikes(source, noted, redeliveries, min(discounted, redeliveries))
    assert count >= 0
    assert strikes(source, noted, redeliveries + 1, min(discounted, redeliveries)) == count + 1


def test_among_many_all_redeliveries_are_no_more_than_one_strike() -> None:
    """A job that was cut off again and again may never have been read. Alone it was."""
    discounts = Discounts()
    assert [discounts.of(1, Source.JOBS, n) for n in range(4)] == [0, 0, 1, 2]
    assert [discounts.of(1, Source.QUARANTINE, n) for n in range(4)] == [0, 0, 1, 2]
    assert [discounts.of(1, Source.SOLO, n) for n in range(4)] == [0, 0, 0, 0]


def test_a_process_that_lives_discounts_what_it_saw() -> None:
    """Each loss that it survived is one redelivery that the job did not cause."""
    discounts = Discounts()
    discounts.add(1, 0)
    discounts.add(1, 1)
    assert [discounts.of(1, Source.SOLO, n) for n in range(4)] == [0, 1, 2, 2]
    assert discounts.of(2, Source.SOLO, 2) == 0


def test_of_too_many_discounts_the_oldest_is_forgotten() -> None:
    """One that was added again is not the oldest."""
    discounts = Discounts()
    for fingerprint in range(MAX_DISCOUNTS):
        discounts.add(fingerprint, 0)
    discounts.add(0, 1)
    discounts.add(-1, 0)
    assert [discounts.of(n, Source.SOLO, 2) for n in (0, 1, 2, -1)] == [2, 0, 1, 1]
