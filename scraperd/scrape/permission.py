"""May a URL be fetched: its origin's robots.txt, which is fetched by permits of its own.

May touch: the hops of the process, the memory budget, the clocks it is given.
Must never: take what a proxy says for the site's own word.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from scraperd.base.urls import host_name, path_of
from scraperd.contract import Failure
from scraperd.fetch.message import Request, Response
from scraperd.politeness.admission import NotYet
from scraperd.politeness.host_queue import Wait
from scraperd.politeness.robots import MAX_BYTES, Rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from yarl import URL

    from scraperd.base.clocks import Clocks
    from scraperd.fetch.memory import Budget
    from scraperd.politeness.robots import Get, Robots
    from scraperd.scrape.hops import Hops

ROBOTS_TIMEOUT: Final = (10.0, 3.0)  # seconds for each hop of a robots.txt; while others wait
ROBOTS_RUSH: Final = (5.0, 15.0)  # seconds until a job asks again while too many are asked for
_UNAUTHORISED: Final = frozenset({401, 403, 407})


class Permission:
    """Says what robots.txt allows. One for the process.

    `robots` makes the rules of the files with the function that fetches one hop of them.
    """

    def __init__(
        self,
        hops: Hops,
        budget: Budget,
        clocks: Clocks,
        *,
        robots: Callable[[Get], Robots],
        download_timeout: float,
    ) -> None:
        self._hops = hops
        self._budget = budget
        self._clocks = clocks
        self.robots = robots(self._fetch)
        self.download_timeout = download_timeout

    async def close(self) -> None:
        """End the fetches that run."""
        await self.robots.close()

    async def of(self, request: Request, wait: Wait) -> Rules | Failure | NotYet:
        """Return the rules of the URL's origin; NotYet if they take longer than a permit may."""
        url, proxy, host = request.url, request.proxy, host_name(request.url)
        known = self.robots.known(url, proxy)
        if known is not None:
            return known
        rules = await self._hops.scheduler.prepare(
            host, lambda: self.robots.rules(url, proxy), wait
        )
        if isinstance(rules, NotYet) and self.robots.full:
            # Many hosts are slow to show theirs: come back in a while, not all at once.
            return NotYet(host, max(rules.seconds, self._clocks.between(*ROBOTS_RUSH)))
        return rules

    async def _fetch(self, url: URL, proxy: str) -> Response | Failure:
        """One hop of a robots.txt, the way its page will go. It goes first in its host's queue.

        But not where a redirect leads elsewhere: that is a URL like any other there.
        """
        known = self.robots.known(url, proxy)
        rules = known if isinstance(known, Rules) else None
        own = path_of(url) == "/robots.txt"
        if not own and rules is not None and not rules.allows(url):
            why = f"robots.txt of {host_name(url)} does not allow {url.raw_path}"
            return Failure("robots_denied", why)
        with closing(self._budget.open()) as claim:
            timeout = min(self.download_timeout, ROBOTS_TIMEOUT[self.robots.full])
            request = Request("GET", url, {}, None, timeout, MAX_BYTES, claim, proxy, truncate=True)
            wait = Wait(urgent=own, route=self._hops.route(url, proxy))
            delay = rules.crawl_delay if rules is not None else None
            permit = await self._hops.permit(request, wait, delay)
            if isinstance(permit, NotYet):
                return Failure(
                    "robots_denied",
                    "the host is busy",
                    retryable=True,
                    retry_after=round(permit.seconds, 3),
                )
            answer = await self._hops.fetch(request, permit)
        if proxy and isinstance(answer, Response) and answer.status in _UNAUTHORISED:
            # Perhaps the proxy's own answer: nothing that would allow us everything for a day.
            return Failure("proxy", f"proxy {proxy}: it answered {answer.status}", retryable=True)
        return answer
