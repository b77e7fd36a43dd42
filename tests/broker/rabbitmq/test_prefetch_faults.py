"""How much is taken after the broker failed as it delivered, and when it is more again.

May touch: values, and times that are handed in.
Must never: ask a broker.
"""

from __future__ import annotations

from typing import Any

import pytest

from scraperd.broker.ports import Source
from scraperd.broker.rabbitmq.consumers import Prefetch
from scraperd.broker.rabbitmq.link import CALM_INTERVAL, Faults

FULL = Prefetch(200, 10)
GONE: Any = object()  # a generation that has ended


@pytest.mark.parametrize(
    ("faults", "left"),
    [(0, (200, 10, 10)), (1, (20, 1, 1)), (2, (1, 1, 1)), (99, (1, 1, 1))],
)
def test_each_fault_leaves_less_until_a_message_is_alone(
    faults: int, left: tuple[int, int, int]
) -> None:
    """All of it, a tenth, then one message of each queue, however many come."""
    found = FULL.shrunk(faults)
    assert (found.jobs, found.quarantine, found.undelivered) == left
    assert found.of(Source.UNDELIVERED) == left[2]


def test_calm_brings_it_back_step_by_step() -> None:
    """After each interval without a fault it is one step more, however many faults there were."""
    faults = Faults()
    for _ in range(5):
        faults.add(GONE, (Source.JOBS,), 100.0)
    assert faults.alone
    counts = [faults.count]
    times = (100 + CALM_INTERVAL - 1, 100 + CALM_INTERVAL, 100 + 2 * CALM_INTERVAL, 1e6)
    counts += [faults.count for now in times if faults.calm(now)]
    assert counts == [5, 1, 0]
    assert not faults.alone


def test_the_next_fault_after_a_find_is_searched_at_once() -> None:
    """Where there is one such message there may be more."""
    faults = Faults()
    faults.add(GONE, (Source.JOBS,), 0.0)
    assert not faults.alone
    faults.add(GONE, (Source.JOBS,), 0.0)
    assert faults.alone
    faults.found()
    assert not faults.alone
    faults.add(GONE, (Source.JOBS,), 0.0)
    assert faults.alone


def test_what_was_set_aside_is_searched_last() -> None:
    """It goes from the jobs to `undelivered`, and is to be found there in the same search."""
    faults = Faults()
    faults.add(GONE, (Source.UNDELIVERED, Source.QUARANTINE, Source.JOBS), 0.0)
    assert faults.sources == (Source.QUARANTINE, Source.JOBS, Source.UNDELIVERED)
