"""The straight line of a page: robots, permit, fetch one hop, (redirect: again), extract.

May touch: everything else in scrape/, the clocks it is given.
Must never: know AMQP, log, or raise for what a site does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import UNSET, Struct
from msgspec.structs import replace

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.base.urls import host_name
from scraperd.contract import Failure, Redirect
from scraperd.fetch.errors import failure_of
from scraperd.fetch.message import Response, location_of
from scraperd.politeness.admission import NotYet
from scraperd.politeness.host_queue import Wait
from scraperd.politeness.robots import Rules as RobotRules
from scraperd.sandbox.extractor import Crowded, Extractor
from scraperd.scrape.content import (
    described,
    extract_request,
    headers_of,
    leads_to,
    media_of,
    sniffing_of,
    unchanged,
)
from scraperd.scrape.hops import Hops
from scraperd.scrape.permission import Permission
from scraperd.scrape.request import first_request, redirect, redirect_target, tightest
from scraperd.scrape.result import Facts, Failed, Scraped, final_url
from scraperd.scrape.tracing import NOTHING, TRACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from msgspec import UnsetType
    from yarl import URL

    from scraperd.base.clocks import Clocks
    from scraperd.contract import Job, Peeked
    from scraperd.extract.rules import Rules
    from scraperd.fetch.memory import Budget, Claim
    from scraperd.fetch.message import Request
    from scraperd.politeness.admission import Reservation
    from scraperd.scrape.cookies.jar import Cookies
    from scraperd.scrape.hops import Hops
    from scraperd.scrape.permission import Permission
    from scraperd.scrape.request import Target

_NOT_MODIFIED: Final = 304
SHORT_REST: Final = (2.0, 6.0)  # seconds until a job comes back for a descriptor, or an address
LONG_REST: Final = (15.0, 60.0)  # the same, where too many pages wait for helper processes
POST_PATIENCE: Final = 2  # times as many wait for helpers before a POST's page gives way


@dataclass(slots=True)
class _Trip:
    """One job on its way through its hops: what it carries from one to the next.

    `hosts` are those that it has had a permit of. `facts` is a value: each hop puts another in
    its place, so that the job can be cut off at any moment. `taken` says that the page was there.
    """

    target: Target
    claim: Claim
    reservation: Reservation | None
    on_fetch: Callable[[], object]
    hosts: set[str] = field(default_factory=set)
    facts: Facts = field(default_factory=Facts)
    cookies: Cookies | None = None
    taken: bool = False

    def heard(self, status: int, url: URL, **more: Any) -> None:
        """Note the answer that came last: a failure behind it tells of it."""
        self.learn(http_status=status, final_url=final_url(url), **more)

    def ended(self, ended: Scraped | Failed) -> Scraped | Failed:
        """Put the cookies that were set into the facts, if the job asked for them."""
        if self.cookies is None or not self.target.job.wants("cookies"):
            return ended
        facts = ended.facts
        if facts.http_status is UNSET:
            return ended
        told = facts.content | {"cookies": self.cookies.told()}
        return replace(ended, facts=replace(facts, content=told))

    def learn(self, **news: Any) -> None:
        """Put what is known by now into the facts."""
        self.facts = replace(self.facts, **news)


class Settings(Struct, frozen=True):
    """What the settings of several tables say of a page's way (scraperd/wiring.py). In seconds."""

    download_timeout: float
    download_maxsize: int  # bytes
    max_redirects: int
    snooze_after: float
    retry_http_codes: tuple[int, ...]


class Scraper:
    """Turns jobs into pages. One for the process; an async context manager.

    `snoozed_for` counts jobs that have to come back for this process's sake, by what it lacked.
    """

    def __init__(
        self,
        settings: Settings,
        clocks: Clocks,
        *,
        budget: Budget,
        hops: Hops,
        permission: Permission,
        extractor: Extractor,
    ) -> None:
        self.settings = settings
        self._clocks = clocks
        self._budget = budget
        self._hops = hops
        self._permission = permission
        self._extractor = extractor
        self.snoozed_for: Counter[type[OutOfDescriptors | Crowded]] = Counter()

    async def __aenter__(self) -> Self:
        await self._extractor.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._permission.close()
        await self._extractor.__aexit__(*error)

    def claim(self) -> Claim:
        """Open what one job holds of the memory budget. It is to be closed with the job."""
        return self._budget.open()

    def hold(self, deliveries: int) -> None:
        """So many bytes of large jobs are here as they were delivered: less is left for bodies."""
        self._budget.hold(deliveries)

    def known_rules(self, raw: bytes) -> Rules | None:
        """A job's rules if a job before it had the same; None if they are not compiled yet."""
        return self._extractor.known_rules(raw)

    async def rules(self, raw: bytes) -> Rules:
        """A job's rules, compiled once for all jobs that have the same.

        Raises RuleError; and what to `snooze` the job for, if it can't be told now.
        """
        return await self._extractor.rules(raw)

    async def peek(self, body: bytes) -> Peeked:
        """What names the job whose body this is, without reading it in this process."""
        return await self._extractor.peek(body)

    def limited(self, job: Job, *, max_retries: float) -> dict[str, float] | UnsetType:
        """Return what counts in place of each limit of the job's that is looser than configured."""
        own = self.settings
        pairs = (
            ("timeout", job.timeout, own.download_timeout),
            ("max_body_size", job.max_body_size, own.download_maxsize),
            ("max_redirects", job.max_redirects, own.max_redirects),
            ("max_retries", job.max_retries, max_retries),
        )
        found = {name: ours for name, its, ours in pairs if its is not UNSET and its > ours}
        return found or UNSET

    def snooze(self, host: str, lack: OutOfDescriptors | Crowded) -> NotYet:
        """Say when a job of `host` comes back that this process lacks something for.

        It is no attempt, and nobody is told but the operator: nobody has done anything wrong.
        """
        self.snoozed_for[type(lack)] += 1
        rest = LONG_REST if isinstance(lack, Crowded) else SHORT_REST
        return NotYet(host, self._clocks.between(*rest))

    async def scrape(
        self,
        target: Target,
        rules: Rules | None,
        claim: Claim,
        *,
        reservation: Reservation | None = None,
        within: float | None = None,
        on_fetch: Callable[[], object] = lambda: None,
    ) -> Scraped | Failed | NotYet:
        """Fetch the job's page, and take from it what was asked for, in `within` seconds.

        The body is counted in `claim`. `reservation` is what an earlier NotYet promised.
        `on_fetch` is called at the first fetch: until then the job has asked nothing of a site.
        """
        trip = _Trip(target, claim, reservation, on_fetch)
        try:
            async with asyncio.timeout(within):
                ended = await self._scrape(trip, rules)
        except TimeoutError:
            if within is None:
                raise
            over = f"the job took over {within:.3g} s"
            ended = Failed(Failure("timeout", over, retryable=True), trip.facts)
        except (OutOfDescriptors, Crowded) as lack:
            ended = self._lacking(trip, lack)
        return ended if isinstance(ended, NotYet) else trip.ended(ended)

    async def _scrape(self, trip: _Trip, rules: Rules | None) -> Scraped | Failed | NotYet:
        promised, host = trip.reservation, trip.target.host
        if promised and promised.seconds > self.settings.snooze_after and promised.host != host:
            # It is for a later hop: the first need not be fetched before it.
            return NotYet(promised.host, promised.seconds)
        if self._extractor.crowded:
            self._extractor.look(extract_request(trip.target.job, "", "", ok=True), host)
        answer = await self._follow(trip)
        match answer:
            case NotYet():
                return answer
            case Failure():
                return Failed(answer, trip.facts)
            case Response():
                return await self._take(trip, answer, rules)

    def _lacking(self, trip: _Trip, lack: OutOfDescriptors | Crowded) -> Failed | NotYet:
        """Let the job come back, unless what it asked of the site can't be repeated."""
        not_yet = self.snooze(trip.target.host, lack)
        if not trip.taken or trip.target.repeatable:
            return not_yet
        message = f"the page was fetched, but can't be searched now: {lack}"
        failure = Failure("timeout", message, retryable=True, retry_after=not_yet.seconds)
        known = trip.facts
        facts = replace(known, content={}, hits={}, extract_time=0.0)
        return Failed(failure, facts)

    async def _take(self, trip: _Trip, answer: Response, rules: Rules | None) -> Scraped | Failed:
        """What was asked for, out of the final response."""
        job = trip.target.job
        is_same = answer.status == _NOT_MODIFIED and trip.target.conditional
        content = unchanged(answer) if is_same else described(job, answer)
        location = location_of(answer)
        if location is not None:
            content |= {"headers": headers_of(answer)} | leads_to(answer, location)
        trip.taken = True
        trip.heard(answer.status, answer.url, content=content)
        if is_same:
            return Scraped(trip.facts)
        is_page = location is None
        failure = failure_of(answer, self.settings.retry_http_codes) if is_page else None
        if answer.trouble is not None:
            return Failed(failure or answer.trouble, trip.facts)
        media = media_of(answer)
        asked = extract_request(
            job,
            str(answer.url),
            media,
            ok=is_page and failure is None,
            sniffing=sniffing_of(answer, media),
            largest=tightest(self.settings.download_maxsize, job.max_body_size),
        )
        patience = _patience(trip.target, failure)
        trace = TRACE.get()
        try:
            with NOTHING if trace is None else trace.extraction():
                extracted, seconds = await self._extractor.extract(
                    asked, answer.body, rules, host_name(answer.url), patience=patience
                )
        finally:
            self._hops.scheduler.searched()
        content = content | extracted.fields()  # another dict: the facts keep theirs
        trip.learn(content=content, hits=extracted.hits, extract_time=seconds)
        failure = failure or extracted.failure
        return Scraped(trip.facts) if failure is None else Failed(failure, trip.facts)

    async def _follow(self, trip: _Trip) -> Response | Failure | NotYet:
        """Fetch hop by hop, each by a permit. Waiting for one is not held against the job."""
        settings, job = self.settings, trip.target.job
        limit = tightest(settings.max_redirects, job.max_redirects)
        timeout = tightest(settings.download_timeout, job.timeout)
        largest = tightest(settings.download_maxsize, job.max_body_size)
        request, cookies = await first_request(trip.target, largest, self._clocks)
        request.claim, request.final = trip.claim, job.follow_redirects is False
        trip.cookies = cookies
        while True:
            request.spent = trip.facts.fetch_time
            request.timeout = timeout - request.spent
            if request.timeout <= 0:
                return Failure("timeout", "redirects took up the timeout", retryable=True)
            request.headers.pop("Cookie", None)
            if line := cookies.header(request.url):
                request.headers["Cookie"] = line
            answer = await self._hop(trip, request)
            if not isinstance(answer, Response):
                return answer
            location = None if request.final else location_of(answer)
            if location is not None or job.wants("cookies"):
                lines = answer.headers.getall("Set-Cookie", ())
                cookies.learn(request.url, lines, answer.headers, self._clocks.now())
            if location is None:
                return answer
            target = self._redirected(trip, answer, location, limit)
            if isinstance(target, Failure):
                return target
            redirect(request, answer.status, target)

    def _redirected(
        self, trip: _Trip, answer: Response, location: str, limit: int
    ) -> URL | Failure:
        """Note where the answer leads; a failure if it leads nowhere, or is one too many."""
        trip.heard(answer.status, answer.url)
        job, seen = trip.target.job, trip.facts.redirects
        if len(seen) >= limit:
            trip.learn(content=described(job, answer) | leads_to(answer, location))
            return Failure("too_many_redirects", f"more than {limit} redirects")
        target = redirect_target(answer.url, location)
        if isinstance(target, Failure):
            return target
        headers = headers_of(answer) if job.wants("redirect_headers") else UNSET
        trip.learn(redirects=(*seen, Redirect(answer.status, str(target), headers)))
        return target

    async def _hop(self, trip: _Trip, request: Request) -> Response | Failure | NotYet:
        """One hop. A job that must not begin again fails where others would come back later."""
        patient = bool(trip.facts.redirects) and not trip.target.repeatable
        answer = await self._step(trip, request, patient=patient)
        if not patient or not isinstance(answer, NotYet):
            return answer
        wait = (
            f"{answer.host}: its turn is too far off, or too many wait, to go on after a redirect"
        )
        seconds = round(answer.seconds, 3)
        return Failure("timeout", wait, retryable=True, retry_after=seconds)

    async def _step(
        self, trip: _Trip, request: Request, *, patient: bool
    ) -> Response | Failure | NotYet:
        """May we, may we now, fetch."""
        host = host_name(request.url)
        request.proxy = trip.target.job.proxy or self._hops.table.of(host).proxy
        wait = self._wait_of(trip, request, patient=patient)
        held = None if self._hops.paused is None else self._hops.paused(host)
        if (early := held or self._hops.scheduler.too_early(host, wait)) is not None:
            return early
        rules = await self._permission.of(request, wait)
        if not isinstance(rules, RobotRules):
            return rules
        if not rules.allows(request.url):
            return Failure("robots_denied", f"robots.txt of {host} does not allow this URL")
        await self._budget.room()
        permit = await self._hops.permit(request, wait, rules.crawl_delay or 0.0)
        if isinstance(permit, NotYet):
            return permit
        trip.hosts.add(host)
        if not trip.facts.fetched_at:
            trip.on_fetch()
            now = self._clocks.now().isoformat(timespec="milliseconds")
            trip.learn(fetched_at=now, steps=request.steps)
        started = self._clocks.monotonic()
        try:
            answer = await self._hops.fetch(request, permit)
        except asyncio.CancelledError:
            if request.head is not None:
                trip.heard(request.head.status, request.url)
            raise
        finally:
            trip.learn(fetch_time=trip.facts.fetch_time + self._clocks.monotonic() - started)
        if permit.address_refused and isinstance(answer, Failure) and answer.kind == "connect":
            return NotYet(host, self._clocks.between(*SHORT_REST))
        return answer

    def _wait_of(self, trip: _Trip, request: Request, *, patient: bool) -> Wait:
        """What this hop asks of its host's queue.

        Where a redirect leads is up to whose site it is. So only on a host that
        gave the job a permit before may it go first; to another it comes like any job.
        """
        host, promised = host_name(request.url), trip.reservation
        return Wait(
            urgent=host in trip.hosts,
            never_expires=patient,
            reserved_in=promised.seconds if promised and promised.host == host else None,
            route=self._hops.route(request.url, request.proxy),
        )


def _patience(target: Target, failure: Failure | None) -> int:
    """How many times the pages that should wait for a helper may do so before this one gives way.

    A request that can't be repeated is worth more; a failed one costs a helper next to nothing.
    """
    if failure is not None:
        return 0
    return 1 if target.repeatable else POST_PATIENCE
