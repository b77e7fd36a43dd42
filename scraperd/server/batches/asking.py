"""Asks the fleet about batches, on a connection that is opened when it is first needed.

May touch: that connection.
Must never: ask more often than daemons answer, or let more requests wait than a few.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from scraperd.batches.progress import Progress, question, read_answer
from scraperd.broker.rabbitmq.inquiry.asking import asking
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.server.access.turns import Turns
from scraperd.server.problems import unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.broker.rabbitmq.inquiry.asking import Asker

WAIT: Final = 1.0  # seconds for an answer
KEEP: Final = 0.5  # seconds for which an answer is given again
MIN_PAUSE: Final = 0.2  # seconds between two questions: daemons answer ten a second, of all askers
MAX_WAITING: Final = 50  # requests
LINE_INTERVAL: Final = 10.0  # seconds between two lines of the log
AGAIN: Final = 2  # seconds after which a client may ask again
BUSY: Final = "too many requests ask for batches; send the request again later"
AWAY: Final = "the broker is away, or does not let the gateway ask; send the request again later"
NOBODY: Final = "no daemon tallies batches now; send the request again later"


class Batches:
    """Says how far a batch is, as the daemon says that tallies batches.

    `event` writes to the log.
    """

    def __init__(
        self,
        urls: tuple[str, ...],
        prefix: str,
        connect_timeout: float,
        event: Callable[..., None],
    ) -> None:
        self._urls = urls
        self._prefix = prefix
        self._connect_timeout = connect_timeout
        self._event = event
        self._next_line = 0.0
        self._stack = AsyncExitStack()
        self._asker: Asker | None = None
        self._turns = Turns(MAX_WAITING, BUSY, AGAIN)
        self._free_at = 0.0
        self._known: dict[str, tuple[float, Progress]] = {}

    def configure(self, connect_timeout: float) -> None:
        """Take another time for the next connection."""
        self._connect_timeout = connect_timeout

    async def close(self) -> None:
        """Close the connection."""
        self._asker = None
        await self._stack.aclose()

    async def of(self, ident: str) -> Progress:
        """Return how far a batch is. Raises Problem if nobody can say."""
        async with self._turns.turn():
            return self._recent(ident) or await self._paced(ident)

    def _recent(self, ident: str) -> Progress | None:
        at, found = self._known.get(ident, (0.0, None))
        return found if time.monotonic() - at < KEEP else None

    async def _paced(self, ident: str) -> Progress:
        await asyncio.sleep(self._free_at - time.monotonic())
        self._free_at = time.monotonic() + MIN_PAUSE
        found = await self._asked(ident)
        if len(self._known) >= MAX_WAITING:
            self._known.clear()
        self._known[ident] = time.monotonic(), found
        return found

    async def _asked(self, ident: str) -> Progress:
        """Ask; once more on a new connection if the one there was has ended."""
        for fresh in (self._asker is None, True):
            try:
                asker = await self._opened()
                found = await (await asker.ask(question(ident))).first(read_answer, WAIT)
            except (OSError, TopologyError) as error:
                await self._drop()
                if fresh:
                    self._log(error)
                    raise unavailable(AWAY, AGAIN) from error
                continue
            if not found:
                raise unavailable(NOBODY, AGAIN)
            return found[0]
        raise AssertionError("the second trial returns or raises")

    def _log(self, error: Exception) -> None:
        """Log why; clients are not told the broker's address."""
        if (now := time.monotonic()) >= self._next_line:
            self._next_line = now + LINE_INTERVAL
            self._event("gateway_refused", error=str(error))

    async def _opened(self) -> Asker:
        if self._asker is None:
            context = asking(self._urls, self._prefix, self._connect_timeout)
            self._asker = await self._stack.enter_async_context(context)
        return self._asker

    async def _drop(self) -> None:
        """Close a connection over which an error came."""
        self._asker, stack, self._stack = None, self._stack, AsyncExitStack()
        await stack.aclose()
