"""What traces a job, as its rooms see it: the job's fetches, its extraction, its publish. Pure.

May touch: a request and its answer, as types.
Must never: know how spans are made or sent, or cost anything while tracing is off.
"""

from __future__ import annotations

from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from scraperd.contract import Failure
    from scraperd.fetch.message import Request, Response


class Trace(Protocol):
    """One job that is traced. No call raises anything of its own."""

    async def hop(
        self, request: Request, fetch: Callable[[Request], Awaitable[Response | Failure]]
    ) -> Response | Failure:
        """Fetch one hop in a span of its own."""

    def extraction(self) -> AbstractContextManager[object]:
        """Return the span of an extraction, to be entered."""

    def publish(self) -> AbstractContextManager[dict[str, str]]:
        """Return the span of a result's publish; entered, it gives the result's headers."""


# The job that this task works on; None if it is not traced.
TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)
NOTHING: Final = nullcontext()
