"""An event loop whose clock jumps: hours of waiting pass in the time it takes to do the work.

May touch: the timers of its own loop.
Must never: wait, or be used with sockets.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Where a loop would wait for its next timer, the clock moves on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if timeout is None and not ready:
            raise RuntimeError("nothing will ever happen: all tasks wait, and no timer is set")
        self.now += timeout if timeout and not ready else 0.0
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and is exact."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._jumping.now


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it to its end on such a loop."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(coroutine)
