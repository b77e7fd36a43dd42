"""The leave of a request to go on: it ends when the token of the request is taken away.

May touch: timeouts of the running loop.
Must never: cut off what has begun at the broker; only waits for a client or a result end.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from scraperd.server.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scraperd.server.tokens import Holder, Role

TAKEN: Final = (
    "the token of this request was taken away while the request was worked on; ask the operator"
)


class Leave:
    """Of one request. Whoever waits on its behalf waits within `waiting`."""

    def __init__(self) -> None:
        self.token: tuple[Holder, Role] | None = None
        """Whose token it is, and the role that is needed; None where no token is."""
        self.over = False
        self._waits: set[asyncio.Timeout] = set()

    def end(self) -> None:
        """Let each wait end now, and each later one at once."""
        if self.over:
            return
        self.over = True
        for wait in self._waits:
            wait.reschedule(0)  # which is over

    def check(self) -> None:
        """Raise Problem if the leave has ended."""
        if self.over:
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                TAKEN,
                headers={"WWW-Authenticate": 'Bearer realm="scraperd", error="invalid_token"'},
            )

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Wait within: the wait ends by Problem as soon as the leave ends."""
        self.check()
        try:
            async with asyncio.timeout(None) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            if not wait.expired():
                raise
            self.check()


LEAVE: Final = web.RequestKey("LEAVE", Leave)
"""Where a request has its leave."""
