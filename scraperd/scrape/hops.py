"""One hop by the permit of its host, for pages and for robots.txt: acquire, fetch, release.

May touch: the scheduler, the fetcher, the clocks it is given.
Must never: fetch without a permit, or keep one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from scraperd.base.urls import host_name
from scraperd.contract import Failure
from scraperd.fetch.message import Response, retry_after
from scraperd.politeness.admission import NotYet
from scraperd.scrape.tracing import TRACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from yarl import URL

    from scraperd.base.clocks import Clocks
    from scraperd.fetch.client import Fetcher
    from scraperd.fetch.message import Request
    from scraperd.politeness.host_queue import Wait
    from scraperd.politeness.host_rules import HostTable
    from scraperd.politeness.scheduler import HostScheduler, Load, Permit

_BUSY: Final = frozenset({429, 503})  # RFC 6585 section 4, RFC 9110 section 15.6.4


class Hops:
    """Fetches hop by hop, each by a permit of its host. One for the process.

    A fetch that had `connect_timeout` and hung speaks of its host; a host that wants a pause gets
    `retry_after_max` seconds at most.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        table: HostTable,
        scheduler: HostScheduler,
        clocks: Clocks,
        *,
        connect_timeout: float,
        retry_after_max: float,
    ) -> None:
        self._fetcher = fetcher
        self.table = table
        self.scheduler = scheduler
        self._clocks = clocks
        self.paused: Callable[[str], NotYet | None] | None = None
        """Says of a host when its fetches may come back; None while no host is paused."""
        self.configure(connect_timeout=connect_timeout, retry_after_max=retry_after_max)

    def configure(self, *, connect_timeout: float, retry_after_max: float) -> None:
        """Take other settings, in seconds."""
        self._connect_timeout = connect_timeout
        self._retry_after_max = retry_after_max

    def route(self, url: URL, proxy: str) -> str:
        """How the host is reached, if not as usual: at another port, or through another proxy."""
        if url.is_default_port() and proxy == self.table.of(host_name(url)).proxy:
            return ""
        return f"{url.port} {proxy}"

    async def permit(
        self, request: Request, wait: Wait, crawl_delay: float | None
    ) -> Permit | NotYet:
        """Wait for the permit of the request's host; NotYet if that would take too long.

        Also if the host was paused meanwhile.
        """
        address = await self._fetcher.located(request)
        host = host_name(request.url)
        permit = await self.scheduler.acquire(host, wait, crawl_delay=crawl_delay, address=address)
        if self.paused is None or (held := self.paused(host)) is None:
            return permit
        if not isinstance(permit, NotYet):
            self.scheduler.release(permit, load=None)
        return held

    async def fetch(self, request: Request, permit: Permit) -> Response | Failure:
        """Fetch, and release the permit with what the answer says about the host's load."""
        load: Load | None = None
        penalty: float | None = None
        request.reach = None if request.proxy else partial(self.scheduler.add_address, permit)
        try:
            if (trace := TRACE.get()) is None:
                answer = await self._fetcher.fetch(request)
            else:
                answer = await trace.hop(request, self._fetcher.fetch)
            failure = answer if isinstance(answer, Failure) else answer.trouble
            if isinstance(answer, Response) and answer.status in _BUSY:
                load, penalty = "busy", retry_after(answer.headers, self._clocks.now())
            elif failure is not None:
                patient = request.timeout >= self._connect_timeout
                load = "hung" if failure.kind == "timeout" and patient else None
            else:
                load = "fine"
        finally:
            limit = self._retry_after_max
            self.scheduler.release(permit, load=load, penalty=penalty and min(penalty, limit))
        return answer
