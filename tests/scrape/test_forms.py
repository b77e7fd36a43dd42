"""Forms as bodies: the same bytes as the standard library's, in steps that hold nobody up.

May touch: tasks of the test's own loop.
Must never: take a busy machine for a held loop: what is measured is the thread's processor time.
"""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraperd.contract import MAX_FORM, MAX_JOB
from scraperd.scrape.forms import SLICE, encoded
from tests.rig.clocks import hours
from tests.rig.clocks.effort import scaled

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(TEXTS, TEXTS))
def test_a_form_is_encoded_as_everybody_does(form: dict[str, str]) -> None:
    """To the byte as urlencode."""
    assert asyncio.run(encoded(form, time.monotonic)) == urlencode(form).encode()


@pytest.mark.parametrize("length", [8191, 8192, 8193, 30_000])
def test_a_long_value_is_whole(length: int) -> None:
    """Where it is cut into steps nothing is lost and nothing comes twice."""
    form = {"a b": "é \U0001f600" * length, "": "x" * length}
    assert asyncio.run(encoded(form, time.monotonic)) == urlencode(form).encode()


@pytest.mark.parametrize(("later", "turns"), [(0.0, 1), (SLICE, 1), (1.01 * SLICE, 2)])
def test_the_loop_gets_its_turn_after_a_slice(later: float, turns: int) -> None:
    """Not before, by the clock that is handed in; a turn takes no time if nobody wants it."""
    times = [SLICE]

    def clock() -> float:
        times.append(SLICE + later)
        return times[-2]

    async def life() -> int:
        encoding = asyncio.create_task(encoded({"a": "b", "c": "d"}, clock))
        count = 0
        while not encoding.done() and count < 9:
            await asyncio.sleep(0)
            count += 1
        assert asyncio.get_running_loop().time() == 0
        return count

    assert hours.run(life()) == turns


@pytest.mark.parametrize("fields", [1, MAX_FORM])
def test_the_largest_form_holds_the_loop_for_moments(fields: int) -> None:
    """As large as a job may be and all of it to be quoted: another task gets its turns, and never
    waits for more than 20 ms of processor.
    """
    value = "\U0001f600" * (MAX_JOB // 4 // fields)
    steps: list[float] = []

    async def beat() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            steps.append(time.thread_time() - began)

    async def both() -> None:
        beating = asyncio.create_task(beat())
        await encoded({f"field {n}": value for n in range(fields)}, time.monotonic)
        beating.cancel()

    asyncio.run(both())
    assert max(steps, default=0.0) < scaled(0.02)  # a fast machine is done within one slice
