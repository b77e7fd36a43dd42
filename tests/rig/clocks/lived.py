"""How long an event loop has lived, on a machine that may be too busy to let it live.

May touch: the running loop's timers.
Must never: count a time in which this process was not let run.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

TICK: Final = 0.005  # seconds


@asynccontextmanager
async def lived() -> AsyncIterator[Callable[[], float]]:
    """Yield a clock that counts the loop's own seconds, tick by tick, while the block runs.

    A timer of the loop's that is late by a second, as others had the processor, counts as one
    tick: what was due meanwhile was late by no fault of the tested code.
    """
    ticks = 0

    async def count() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(TICK)
            ticks += 1

    counting = asyncio.create_task(count())
    try:
        yield lambda: ticks * TICK
    finally:
        counting.cancel()
