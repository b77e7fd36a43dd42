"""Which signals are one request that came twice, and which are a second request.

May touch: values.
Must never: send a signal.
"""

from __future__ import annotations

from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING

import pytest

from scraperd.ops.stopping import TWIN_INTERVAL, Stop

if TYPE_CHECKING:
    from signal import Signals


@pytest.mark.parametrize(
    ("first", "next_", "seconds", "meaning"),
    [
        (SIGINT, SIGINT, 0.0, "twin"),
        (SIGINT, SIGINT, TWIN_INTERVAL, "twin"),
        (SIGINT, SIGINT, TWIN_INTERVAL + 0.01, "second"),
        (SIGINT, SIGTERM, 0.1, "twin"),
        (SIGTERM, SIGINT, 0.1, "twin"),
        (SIGTERM, SIGTERM, 0.1, "second"),
        (SIGTERM, SIGINT, TWIN_INTERVAL + 0.01, "second"),
    ],
)
def test_a_signal_that_comes_twice_is_one_request(
    first: Signals, next_: Signals, seconds: float, meaning: str
) -> None:
    """What a terminal and a supervisor both send counts once; a later signal, or SIGTERM twice,
    is a second request, also after a twin.
    """
    stop = Stop()
    assert stop.take(first, 100.0) == "first"
    assert stop.take(next_, 100.0 + seconds) == meaning
    assert stop.take(SIGINT, 100.0 + 3 * TWIN_INTERVAL) == "second"
    assert stop.first == first
