"""Tests of the pauses between trials: they double, they are bounded, their jitter is injected.

May touch: nothing but the functions.
Must never: wait.
"""

from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraperd.base.backoff import CALM, Pauses, backoff, pause_after, within
from scraperd.base.fd_limits import PATIENCE, PAUSE, pauses

SECONDS = st.floats(0.001, 100.0)


def test_pauses_double_up_to_the_longest() -> None:
    """The first is as asked; none is longer than the longest, which stays."""
    assert list(islice(backoff(1.0, 5.0), 5)) == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_first_pause_beyond_the_longest_is_cut() -> None:
    """The bound holds from the first pause on."""
    assert list(islice(backoff(9.0, 5.0), 2)) == [5.0, 5.0]


def test_jitter_is_drawn_once_a_pause() -> None:
    """It shortens the pause that it is drawn for, and none that follows."""
    draws = iter([0.5, 0.0, 1.0])
    assert list(islice(backoff(1.0, 8.0, lambda: next(draws)), 3)) == [0.5, 0.0, 4.0]


def test_the_same_seed_makes_the_same_pauses() -> None:
    """Randomness comes from the caller alone."""
    first, second = (list(islice(backoff(1, 60, random.Random(7).random), 9)) for _ in range(2))
    assert first == second


@given(first=SECONDS, longest=SECONDS, roll=st.floats(0.0, 1.0))
def test_no_pause_is_longer_than_the_longest(first: float, longest: float, roll: float) -> None:
    """Whatever is asked and drawn, each pause is between nothing and the longest."""
    assert all(
        0.0 <= pause <= longest for pause in islice(backoff(first, longest, lambda: roll), 40)
    )


@given(failures=st.integers(1, 60), first=SECONDS, longest=SECONDS)
def test_the_pause_after_so_many_failures(failures: int, first: float, longest: float) -> None:
    """It is the one that an iterator comes to in that place, so there is one arithmetic."""
    pauses_ = list(islice(backoff(first, longest), failures))
    assert pause_after(failures, first, longest) == pauses_[-1]


def test_a_pause_after_very_many_failures_is_a_number() -> None:
    """A counter that runs for years does not end in an overflow."""
    assert pause_after(10**6, 1.0, 30.0) == 30.0


@given(patience=st.floats(0.0, 100.0), first=SECONDS, longest=SECONDS)
def test_pauses_within_a_patience(patience: float, first: float, longest: float) -> None:
    """All of them but the last add up to less than the patience; with the last they reach it."""
    waits = list(within(patience, backoff(first, longest)))
    assert sum(waits[:-1]) < patience or not waits
    assert sum(waits) >= patience


def test_no_patience_is_no_pause() -> None:
    """Who may not wait has one trial."""
    assert list(within(0.0, backoff(1.0, 2.0))) == []


@pytest.mark.parametrize("patience", [0.0, 0.2, 1.0, PATIENCE])
def test_the_wait_for_a_descriptor(patience: float) -> None:
    """It begins with the short pause, ends with long ones, and takes its patience, hardly more."""
    waits = list(pauses(patience))
    assert waits[:1] == ([PAUSE[0]] if patience else [])
    assert max(waits, default=0.0) <= PAUSE[1]
    assert patience <= sum(waits) < patience + PAUSE[1]


def test_the_wait_for_a_descriptor_by_default() -> None:
    """Without a word it takes PATIENCE."""
    assert list(pauses()) == list(pauses(PATIENCE))


def test_pauses_of_a_connection_double_until_one_has_lasted() -> None:
    """Each is drawn from its upper half; after a refusal the next is the longest."""
    drawn: list[tuple[float, float]] = []

    def between(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    pauses = Pauses(1.0, 5.0, between)
    assert [pauses.after(lasted) for lasted in (0, 0, 0, 0, CALM, 0)] == [1, 2, 4, 5, 1, 2]
    assert all(low == high / 2 for low, high in drawn)
    pauses.refused()
    assert [pauses.after(lasted) for lasted in (0, CALM)] == [5, 1]
