"""Bounds of processor time for any machine: a figure that was measured on one, scaled to this one.

May touch: the processor time of the thread that asks, some milliseconds of it.
Must never: look at the clock: what others take of the machine is no effort of the tested code.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds that `_task` takes on an idle core of the machine that the tests' figures are from
# (CPython 3.11.7, 2026-11-27).
REFERENCE: Final = 0.0015
_TEXT: Final = json.dumps([{"id": n, "url": f"http://a.example/{n}"} for n in range(600)])
_WORD: Final = re.compile(r"[a-z]+(\d+)?")


def scaled(seconds: float) -> float:
    """Return the processor time, in seconds, that takes `seconds` on the reference machine.

    It is calibrated in this moment, in this process: a core that is shared with a busy one, or
    whose caches others use, does less in a second. It is never less than `seconds`.
    """
    return seconds * max(1.0, least(_task) / REFERENCE)


def least(work: Callable[[], object], tries: int = 3) -> float:
    """Return the least processor time of this thread that `work` took, in seconds."""
    best = float("inf")
    for _ in range(tries):
        began = time.thread_time()
        work()
        best = min(best, time.thread_time() - began)
    return best


def _task() -> int:
    """Do what the tested code does: parse, match, make objects."""
    found = sum(len(one["url"]) for one in json.loads(_TEXT))
    return found + sum(1 for _ in _WORD.finditer(_TEXT)) + sum(n % 7 for n in range(20_000))
