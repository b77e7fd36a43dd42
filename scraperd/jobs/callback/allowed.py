"""Which callbacks a job may ask for. Pure.

May touch: a job, or what could be read of one.
Must never: let a job choose a URL unless the operator allowed that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from scraperd.base.text import printable
from scraperd.base.urls import check_url

if TYPE_CHECKING:
    from scraperd.contract import Batch, Invalid, Job, Peeked


class Allowed(Struct, frozen=True):
    """Whether a job may name a URL, and which endpoints it may name."""

    urls: bool = False
    names: frozenset[str] = frozenset()

    def fault(self, job: Job) -> tuple[str, str] | None:
        """Return the field that asks for a callback that is not to be had, and why."""
        return self._fault(job, "") or (self._fault(job.batch, "batch.") if job.batch else None)

    def _fault(self, whose: Job | Batch, where: str) -> tuple[str, str] | None:
        if whose.callback_url and not self.urls:
            why = "URLs are not allowed here (callbacks.allow_urls is false)"
            return f"{where}callback_url", why
        if whose.callback and whose.callback not in self.names:
            shown = printable(whose.callback)
            return f"{where}callback", f"no endpoint is named {shown} here (callback_endpoints)"
        return None

    def target(self, seen: Job | Batch | Invalid | Peeked) -> str | None:
        """Return where the result is wanted: a URL, or the name of an endpoint, which has no colon.

        None if nothing is asked for, or what is asked for is not allowed.
        """
        if seen.callback_url and self.urls and check_url(seen.callback_url) is None:
            return seen.callback_url
        if seen.callback and seen.callback in self.names:
            return seen.callback
        return None


NONE = Allowed()
