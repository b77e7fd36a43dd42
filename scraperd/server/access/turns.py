"""Requests that take turns: one at a time, and few that wait.

May touch: a lock of the running loop.
Must never: let more wait than may.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from scraperd.server.problems import unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turns:
    """Turns for what one request does at a time, in the order in which they came.

    With `most` here, one more is told that it is `busy`, and to come again in `again` seconds.
    """

    def __init__(self, most: int, busy: str, again: int) -> None:
        self._most = most
        self._busy = busy
        self._again = again
        self._lock = asyncio.Lock()
        self._here = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it. Raises Problem."""
        if self._here >= self._most:
            raise unavailable(self._busy, self._again)
        self._here += 1
        try:
            async with self._lock:
                yield
        finally:
            self._here -= 1
