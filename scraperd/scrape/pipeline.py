"""The straight line of a page: robots, permit, fetch one hop, (redirect: again), extract.

May touch: everything else in scrape/, the clocks it is given.
Must never: know AMQP, log, or raise for what a site does.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import UNSET, UnsetType

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.base.text import printable
from scraperd.base.urls import MAX_URL, exact, host_of, origin_of, resolve
from scraperd.contract import Failure, Redirect, Result, Timings
from scraperd.fetch.errors import failure_of
from scraperd.fetch.memory import Budget
from scraperd.fetch.message import Request, Response, location_of, retry_after
from scraperd.politeness.admission import NotYet
from scraperd.politeness.host_queue import Wait
from scraperd.politeness.host_rules import HostTable
from scraperd.politeness.robots import MAX_BYTES, Robots
from scraperd.politeness.robots import Rules as RobotRules
from scraperd.politeness.scheduler import HostScheduler, Load, Permit
from scraperd.sandbox.extractor import Crowded, Extractor
from scraperd.scrape.content import asked_of, described, media_of, unchanged
from scraperd.scrape.cookies import Cookies, given
from scraperd.scrape.forms import encoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from yarl import URL

    from scraperd.base.clocks import Clocks
    from scraperd.config.settings import Config
    from scraperd.contract import Job, Peeked
    from scraperd.extract.rules import Rules
    from scraperd.fetch.client import Fetcher
    from scraperd.fetch.memory import Claim

_USERINFO = re.compile(r"//[^/?#]*@")
_SECRETS: Final = frozenset({"authorization", "cookie", "cookie2", "www-authenticate"})
_CONDITIONS: Final = frozenset({"if-none-match", "if-modified-since"})
_NOT_MODIFIED: Final = 304
_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110 section 9.2.1
ROBOTS_TIMEOUT: Final = (10.0, 3.0)  # seconds for each hop of a robots.txt; while others wait
ROBOTS_RUSH: Final = (5.0, 15.0)  # seconds until a job asks again while too many are asked for
SHORT_REST: Final = (2.0, 6.0)  # the same, where it found no descriptor, or its address is full
LONG_REST: Final = (15.0, 60.0)  # the same, where too many pages wait for helper processes
POST_PATIENCE: Final = 2  # times as many wait for helpers before a POST's page gives way
_UNAUTHORISED: Final = frozenset({401, 403, 407})
_BUSY: Final = frozenset({429, 503})  # RFC 6585 section 4, RFC 9110 section 15.6.4


@dataclass(slots=True)
class Page:
    """How far a job has come: what the straight line adds to, and the Result is made from.

    `place` is the reservation that an earlier `later` promised it. If `later` is set, the job
    has to come back for its host, and nothing else of the page counts.
    `hosts` are those that it has had a permit of.
    """

    job: Job
    claim: Claim | None = None
    place: NotYet | None = None
    later: NotYet | None = None
    begun: bool = False
    hosts: set[str] = field(default_factory=set)
    redirects: list[Redirect] = field(default_factory=list)
    response: Response | None = None
    failure: Failure | None = None
    fetch_time: float = 0.0
    extract_time: float = 0.0
    fetched_at: str = ""
    content: dict[str, Any] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)

    def became(self, size: int) -> None:
        """Its body, done with, became a result of `size` bytes."""
        self.response, self.content = None, {}
        if self.claim is not None:
            self.claim.resize(size)

    def close(self) -> None:
        """Give back the memory its body was counted for."""
        if self.claim is not None:
            self.claim.close()


class Scraper:
    """Turns jobs into pages. One for the process; an async context manager.

    `put_off_for` counts jobs that have to come back for this process's sake, by what it lacked.
    """

    def __init__(self, config: Config, fetcher: Fetcher, clocks: Clocks) -> None:
        self._config = config
        self._fetcher = fetcher
        self._clocks = clocks
        self._table = HostTable(config)
        self._scheduler = HostScheduler(config, self._table, clocks.monotonic, clocks.roll)
        self._robots = Robots(config, self._table, self._fetch_robots, clocks.monotonic)
        self._budget = Budget(config.memory_budget)
        self._extractor = Extractor(config)
        self.put_off_for: Counter[type[OutOfDescriptors | Crowded]] = Counter()

    async def __aenter__(self) -> Self:
        await self._extractor.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._robots.close()
        await self._extractor.__aexit__(*error)

    def page(self, job: Job, place: NotYet | None = None) -> Page:
        """Begin with `job`. The page is to be closed once nothing of it is needed any more."""
        return Page(job, self._budget.open(), place)

    def hold(self, deliveries: int) -> None:
        """So many bytes of large jobs are here as they were delivered: less is left for bodies."""
        self._budget.hold(deliveries)

    async def rules(self, raw: bytes) -> Rules:
        """A job's rules, compiled once for all jobs that have the same.

        Raises RuleError; and what to `put_off` the page with, if it can't be told now.
        """
        return await self._extractor.rules(raw)

    async def peek(self, body: bytes) -> Peeked:
        """What names the job whose body this is, without reading it in this process."""
        return await self._extractor.peek(body)

    async def scrape(self, page: Page, rules: Rules | None) -> None:
        """Fetch the job's page and take from it what was asked for."""
        promised, soon = page.place, self._config.snooze_after
        if promised and promised.seconds > soon and promised.host != host_of(page.job.url):
            page.later = promised  # for a later hop: the first need not be fetched before it
            return
        try:
            if self._extractor.crowded:
                self._extractor.look(
                    asked_of(page.job, "", "", ok=True), host_of(page.job.url) or ""
                )
            answer = await self._follow(page)
            match answer:
                case NotYet():
                    page.later = answer
                case Failure():
                    page.failure = answer
                case Response():
                    await self._take(page, answer, rules)
        except (OutOfDescriptors, Crowded) as lack:
            self.put_off(page, lack)

    def put_off(self, page: Page, lack: OutOfDescriptors | Crowded) -> None:
        """Let the job come back in a while, unless what it asked of the site can't be repeated.

        It is no attempt, and nobody is told but the operator: nobody has done anything wrong.
        """
        crowded = isinstance(lack, Crowded)
        seconds = self._clocks.between(*(LONG_REST if crowded else SHORT_REST))
        self.put_off_for[type(lack)] += 1
        sent, page.response, page.content = page.response, None, {}
        if sent is not None and page.job.verb not in _REPEATABLE:
            message = f"the page was fetched, but can't be searched now: {lack}"
            page.failure = Failure("timeout", message, retryable=True, retry_after=seconds)
        else:
            page.later = NotYet(_host(exact(page.job.url)), seconds)

    async def _take(self, page: Page, answer: Response, rules: Rules | None) -> None:
        """What was asked for, out of the final response."""
        page.response = answer
        if answer.status == _NOT_MODIFIED and _is_conditional(page.job):
            page.content = unchanged(answer)
            return
        page.failure = failure_of(answer, self._config.retry_http_codes)
        page.content = described(page.job, answer)
        url, ok = str(answer.url), page.failure is None
        asked = asked_of(page.job, url, media_of(answer), ok=ok)
        found = await self._extractor.take(
            asked, answer.body, rules, _host(answer.url), patience=_patience(page)
        )
        page.content |= found.taken.fields()
        page.failure = page.failure or found.taken.failure
        page.hits, page.extract_time = found.taken.hits, found.seconds

    async def _follow(self, page: Page) -> Response | Failure | NotYet:
        """Fetch hop by hop, each by a permit. Waiting for one is not held against the job."""
        config, job = self._config, page.job
        limit = tightest(config.max_redirects, job.max_redirects)
        timeout = tightest(config.download_timeout, job.timeout)
        request, cookies = await _first(
            job, tightest(config.download_maxsize, job.max_body_size), self._clocks.monotonic
        )
        request.claim = page.claim
        while True:
            request.spent, request.timeout = page.fetch_time, timeout - page.fetch_time
            if request.timeout <= 0:
                return Failure("timeout", "redirects took up the timeout", retryable=True)
            request.headers.pop("Cookie", None)
            if line := cookies.header(request.url):
                request.headers["Cookie"] = line
            answer = await self._hop(page, request)
            if not isinstance(answer, Response) or (location := location_of(answer)) is None:
                return answer
            if len(page.redirects) >= limit:
                return Failure("too_many_redirects", f"more than {limit} redirects")
            target = _target(request.url, location)
            if isinstance(target, Failure):
                return target
            page.redirects.append(Redirect(answer.status, str(target)))
            set_cookies = answer.headers.getall("Set-Cookie", ())
            cookies.learn(request.url, set_cookies, answer.headers, self._clocks.now())
            _redirect(request, answer.status, target)

    async def _hop(self, page: Page, request: Request) -> Response | Failure | NotYet:
        """One hop. A job that must not begin again fails where others would come back later."""
        patient = bool(page.redirects) and page.job.verb not in _REPEATABLE
        answer = await self._step(page, request, patient=patient)
        if not patient or not isinstance(answer, NotYet):
            return answer
        wait = (
            f"{answer.host}: its turn is too far off, or too many wait, to go on after a redirect"
        )
        seconds = round(answer.seconds, 3)
        return Failure("timeout", wait, retryable=True, retry_after=seconds)

    async def _step(
        self, page: Page, request: Request, *, patient: bool
    ) -> Response | Failure | NotYet:
        """May we, may we now, fetch.

        Where a redirect leads is up to whose site it is. So only on a host that
        gave the job a permit before may it go first; to another it comes like any job.
        """
        host = _host(request.url)
        promised = page.place
        request.proxy = page.job.proxy or self._table.of(host).proxy
        wait = Wait(
            urgent=host in page.hosts,
            never_expires=patient,
            reserved_in=promised.seconds if promised and promised.host == host else None,
            route=self._route(request.url, request.proxy),
        )
        if (early := self._scheduler.too_early(host, wait)) is not None:
            return early
        rules = await self._permission(request, host, wait)
        if not isinstance(rules, RobotRules):
            return rules
        if not rules.allows(request.url):
            return Failure("robots_denied", f"robots.txt of {host} does not allow this URL")
        await self._budget.room()
        address = await self._fetcher.located(request)
        delay = rules.crawl_delay or 0.0
        permit = await self._scheduler.acquire(host, wait, crawl_delay=delay, address=address)
        if isinstance(permit, NotYet):
            return permit
        page.hosts.add(host)
        if not page.begun:
            page.begun = True
            page.fetched_at = self._clocks.now().isoformat(timespec="milliseconds")
        started = self._clocks.monotonic()
        answer = await self._fetch(request, permit)
        page.fetch_time += self._clocks.monotonic() - started
        if permit.address_refused and isinstance(answer, Failure) and answer.kind == "connect":
            return NotYet(host, self._clocks.between(*SHORT_REST))
        return answer

    def _route(self, url: URL, proxy: str) -> str:
        """How the host is reached, if not as usual: at another port, or through another proxy."""
        if url.is_default_port() and proxy == self._table.of(_host(url)).proxy:
            return ""
        return f"{url.port} {proxy}"

    async def _permission(
        self, request: Request, host: str, wait: Wait
    ) -> RobotRules | Failure | NotYet:
        """The rules of the URL's origin; NotYet if they take longer than a permit may."""
        url, proxy = request.url, request.proxy
        known = self._robots.known(url, proxy)
        if known is not None:
            return known
        rules = await self._scheduler.prepare(host, lambda: self._robots.rules(url, proxy), wait)
        if isinstance(rules, NotYet) and self._robots.full:
            # Many hosts are slow to show theirs: come back in a while, not all at once.
            seconds = self._clocks.between(*ROBOTS_RUSH)
            return NotYet(host, max(rules.seconds, seconds))
        return rules

    async def _fetch(self, request: Request, permit: Permit) -> Response | Failure:
        """Fetch, and release the permit with what the answer says about the host's load."""
        load: Load | None = None
        penalty: float | None = None
        request.reach = None if request.proxy else partial(self._scheduler.add_address, permit)
        try:
            answer = await self._fetcher.fetch(request)
            if isinstance(answer, Failure):
                patient = request.timeout >= self._config.connect_timeout
                load = "hung" if answer.kind == "timeout" and patient else None
            elif answer.status in _BUSY:
                load, penalty = "busy", retry_after(answer.headers, self._clocks.now())
            else:
                load = "fine"
        finally:
            limit = self._config.retry_after_max
            self._scheduler.release(permit, load=load, penalty=penalty and min(penalty, limit))
        return answer

    async def _fetch_robots(self, url: URL, proxy: str) -> Response | Failure:
        """One hop of a robots.txt, the way its page will go. It goes first in its host's queue.

        But not where a redirect leads elsewhere: that is a URL like any other there.
        """
        host = _host(url)
        known = self._robots.known(url, proxy)
        rules = known if isinstance(known, RobotRules) else None
        own = url.raw_path == "/robots.txt"
        if not own and rules is not None and not rules.allows(url):
            return Failure("robots_denied", f"robots.txt of {host} does not allow {url.raw_path}")
        delay = rules.crawl_delay if rules is not None else None
        claim = self._budget.open()
        patience = ROBOTS_TIMEOUT[self._robots.full]
        timeout = min(self._config.download_timeout, patience)
        request = Request("GET", url, {}, None, timeout, MAX_BYTES, claim, proxy, truncate=True)
        address = await self._fetcher.located(request)
        wait = Wait(urgent=own, route=self._route(url, proxy))
        permit = await self._scheduler.acquire(host, wait, crawl_delay=delay, address=address)
        if isinstance(permit, NotYet):
            seconds = round(permit.seconds, 3)
            return Failure("robots_denied", "the host is busy", retryable=True, retry_after=seconds)
        try:
            answer = await self._fetch(request, permit)
        finally:
            claim.close()
        if proxy and isinstance(answer, Response) and answer.status in _UNAUTHORISED:
            # Perhaps the proxy's own answer: nothing that would allow us everything for a day.
            return Failure("proxy", f"proxy {proxy}: it answered {answer.status}", retryable=True)
        return answer


def _patience(page: Page) -> int:
    """How many times the pages that should wait for a helper may do so before this one is put off.

    A request that can't be repeated is worth more; a failed one costs a helper next to nothing.
    """
    if page.failure is not None:
        return 0
    return 1 if page.job.verb in _REPEATABLE else POST_PATIENCE


def _host(url: URL) -> str:
    """Name the host as the scheduler knows it: without a final dot."""
    return (url.raw_host or "").rstrip(".")


def _is_conditional(job: Job) -> bool:
    named = {name.lower() for name in job.headers or ()}
    return not (job.etag is job.last_modified is UNSET and named.isdisjoint(_CONDITIONS))


def tightest(ours: Any, theirs: Any) -> Any:
    """A job's limit where it is tighter than the configured one."""
    return ours if theirs is UNSET else min(ours, theirs)


def result_of(page: Page, *, ident: str, attempt: int, worker: str, total: float) -> Result:
    """The Result a scraped page ends in; `total` is how many seconds it was here."""
    response, job = page.response, page.job
    wait = max(0.0, total - page.fetch_time - page.extract_time)
    return Result(
        id=ident,
        url=job.url,
        status="failed" if page.failure else "ok",
        error=page.failure or UNSET,
        final_url=_final(response),
        http_status=response.status if response else UNSET,
        redirects=page.redirects or UNSET,
        attempt=attempt,
        timings=Timings(
            total=round(total, 6),
            wait=round(wait, 6),
            fetch=round(page.fetch_time, 6),
            extract=round(page.extract_time, 6),
        ),
        fetched_at=page.fetched_at or UNSET,
        worker=worker,
        meta=job.meta,
        **page.content,
    )


def _final(response: Response | None) -> str | UnsetType:
    """Where the response came from, unless it is longer, encoded, than a job's URL may be."""
    url = str(response.url) if response else ""
    return url if 0 < len(url) <= MAX_URL else UNSET


async def _first(job: Job, max_body: int, clock: Callable[[], float]) -> tuple[Request, Cookies]:
    """The job's request, and its cookies, which travel apart from the other headers."""
    headers = dict(job.headers or ())
    named = {name.lower(): name for name in headers}
    body: bytes | None = None
    kind = ""
    if job.body is not UNSET:
        body, kind = job.body.encode(), "text/plain; charset=utf-8"
    elif job.json is not UNSET:
        body, kind = bytes(job.json), "application/json"
    elif job.form is not UNSET:
        body, kind = await encoded(job.form, clock), "application/x-www-form-urlencoded"
    if kind and "content-type" not in named:
        headers["Content-Type"] = kind
    if job.etag is not UNSET:
        headers["If-None-Match"] = job.etag
    if job.last_modified is not UNSET:
        headers["If-Modified-Since"] = job.last_modified
    url = exact(job.url)
    line = headers.pop(named["cookie"]) if "cookie" in named else ""
    cookies = Cookies(url, given(job.cookies or {}, line) if job.cookies or line else [])
    return Request(job.verb, url, headers, body, 0.0, max_body), cookies


def _redirect(request: Request, status: int, target: URL) -> None:
    """Make it the request after a redirect: method by RFC 9110 15.4, secrets only in one origin."""
    if (status == 303 and request.method not in ("GET", "HEAD")) or (  # noqa: PLR2004
        status in (301, 302) and request.method == "POST"
    ):
        request.method, request.body = "GET", None
        _drop(request, lambda name: name.startswith("content-"))
    if origin_of(target) != origin_of(request.url):
        _drop(request, lambda name: name.replace("_", "-") in _SECRETS)
    request.url = target


def _drop(request: Request, unwanted: Callable[[str], bool]) -> None:
    kept = {name: value for name, value in request.headers.items() if not unwanted(name.lower())}
    request.headers = kept


def _target(base: URL, location: str) -> URL | Failure:
    """Where a redirect leads; anything but http(s) is refused."""
    try:
        return resolve(base, location)
    except ValueError as fault:
        shown = printable(_USERINFO.sub("//", location))
        return Failure("protocol", f"redirected to {shown}: {fault}")
