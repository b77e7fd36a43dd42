"""The straight line of a page: fetch one hop, (redirect: again), extract.

May touch: fetch, charset, extract, the wall clock for `fetched_at`.
Must never: know AMQP, log, or raise for what a site does.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import aiohttp
from msgspec import UNSET
from yarl import URL

from scraperd.contract import Failure, Redirect, Result, Timings, check_url, printable
from scraperd.page import charset
from scraperd.page.extract import Rules, extract
from scraperd.page.fetch import Fetcher, Request, Response, failure_of

if TYPE_CHECKING:
    from scraperd.config import Config
    from scraperd.contract import Job

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
_TEXT: Final = ("text/", "application/json", "application/xml", "application/javascript")
_TEXT_SUFFIXES: Final = ("+xml", "+json")
_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(slots=True)
class Page:
    """How far a job has come: what the straight line adds to, and the Result is made from."""

    job: Job
    redirects: list[Redirect] = field(default_factory=list)
    response: Response | None = None
    failure: Failure | None = None
    fetch_time: float = 0.0
    extract_time: float = 0.0
    fetched_at: str = ""
    content: dict[str, Any] = field(default_factory=dict)


class Scraper:
    """Turns a job into a Result. One for all jobs; holds nothing of any of them."""

    def __init__(self, config: Config, fetcher: Fetcher) -> None:
        self._config = config
        self._fetcher = fetcher

    async def scrape(self, job: Job, rules: Rules | None) -> Page:
        """Fetch the job's page and take from it what was asked for."""
        page = Page(job)
        started = time.monotonic()
        page.fetched_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        answer = await self._follow(job, page)
        page.fetch_time = time.monotonic() - started
        if isinstance(answer, Failure):
            page.failure = answer
            return page
        page.response = answer
        page.failure = failure_of(answer, self._config.retry_http_codes)
        started = time.monotonic()
        page.content, failure = _content(job, rules, answer, ok=page.failure is None)
        page.failure = page.failure or failure
        page.extract_time = time.monotonic() - started
        return page

    async def _follow(self, job: Job, page: Page) -> Response | Failure:
        """Fetch hop by hop; each is a request of its own within the job's one timeout."""
        config = self._config
        limit = tightest(config.max_redirects, job.max_redirects)
        deadline = time.monotonic() + tightest(config.download_timeout, job.timeout)
        cookies = _Cookies(job)
        request = _first_request(job, tightest(config.download_maxsize, job.max_body_size))
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return Failure("timeout", "redirects took up the timeout", retryable=True)
            answer = await self._fetcher.fetch(
                _replace(request, headers=cookies.added(request), timeout=left)
            )
            if isinstance(answer, Failure) or answer.location is None:
                return answer
            if len(page.redirects) >= limit:
                return Failure("too_many_redirects", f"more than {limit} redirects")
            cookies.learn(answer)
            target = _target(answer)
            if isinstance(target, Failure):
                return target
            page.redirects.append(Redirect(answer.status, str(target)))
            request = _next_request(request, answer.status, target)


def tightest(ours: Any, theirs: Any) -> Any:
    """A job's limit where it is tighter than the configured one."""
    return ours if theirs is UNSET else min(ours, theirs)


def result_of(page: Page, *, ident: str, attempt: int, worker: str, wait: float) -> Result:
    """The Result a scraped page ends in."""
    response, job = page.response, page.job
    total = wait + page.fetch_time + page.extract_time
    return Result(
        id=ident,
        url=job.url,
        status="failed" if page.failure else "ok",
        error=page.failure or UNSET,
        final_url=str(response.url) if response else UNSET,
        http_status=response.status if response else UNSET,
        redirects=page.redirects or UNSET,
        attempt=attempt,
        timings=Timings(
            total=round(total, 6),
            wait=round(wait, 6),
            fetch=round(page.fetch_time, 6),
            extract=round(page.extract_time, 6),
        ),
        fetched_at=page.fetched_at,
        worker=worker,
        meta=job.meta,
        **page.content,
    )


def _first_request(job: Job, max_body: int) -> Request:
    headers = dict(job.headers) if job.headers is not UNSET else {}
    named = {name.lower() for name in headers}
    body: bytes | None = None
    kind = ""
    if job.body is not UNSET:
        body, kind = job.body.encode(), "text/plain; charset=utf-8"
    elif job.json is not UNSET:
        body, kind = bytes(job.json), "application/json"
    elif job.form is not UNSET:
        body, kind = urlencode(job.form).encode(), "application/x-www-form-urlencoded"
    if kind and "content-type" not in named:
        headers["Content-Type"] = kind
    return Request(job.verb, URL(job.url).with_fragment(None), headers, body, 0.0, max_body)


def _next_request(request: Request, status: int, target: URL) -> Request:
    """The request after a redirect: method by RFC 9110 15.4, credentials only within an origin."""
    headers, method, body = request.headers, request.method, request.body
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):  # noqa: PLR2004
        method, body = "GET", None
        headers = {k: v for k, v in headers.items() if not k.lower().startswith("content-")}
    if target.origin() != request.url.origin():
        headers = {k: v for k, v in headers.items() if k.lower() not in _SECRET_HEADERS}
    return _replace(request, url=target, method=method, body=body, headers=headers)


def _replace(request: Request, **changes: Any) -> Request:
    values = {name: getattr(request, name) for name in Request.__slots__}
    return Request(**{**values, **changes})


def _target(answer: Response) -> URL | Failure:
    """Where a redirect leads; userinfo is dropped, anything but http(s) refused."""
    location = answer.location or ""
    try:
        target = answer.url.join(URL(location)).with_fragment(None)
        target = target.with_user(None) if target.user or target.password else target
    except ValueError:
        return Failure("protocol", f"redirected to no URL: {printable(location)}")
    if fault := check_url(str(target)):
        return Failure("protocol", f"redirected to a URL that {printable(fault)}")
    return target


class _Cookies:
    """The cookies of one job: its own go to the first origin only, set ones by RFC 6265."""

    def __init__(self, job: Job) -> None:
        self._own = job.cookies if job.cookies is not UNSET else {}
        self._origin = URL(job.url).origin() if self._own else None
        self._jar: aiohttp.CookieJar | None = None

    def added(self, request: Request) -> Any:
        """The request's headers, with a Cookie header if any cookie goes there."""
        pairs = dict(self._own) if self._own and request.url.origin() == self._origin else {}
        if self._jar is not None:
            pairs |= {k: m.value for k, m in self._jar.filter_cookies(request.url).items()}
        if not pairs:
            return request.headers
        given = next((v for k, v in request.headers.items() if k.lower() == "cookie"), None)
        others = {k: v for k, v in request.headers.items() if k.lower() != "cookie"}
        line = "; ".join(f"{name}={value}" for name, value in pairs.items())
        return {**others, "Cookie": f"{given}; {line}" if given else line}

    def learn(self, answer: Response) -> None:
        """Keep what a redirect sets: the next hop may depend on it."""
        lines = answer.headers.getall("Set-Cookie", ())
        if lines:
            self._jar = self._jar or aiohttp.CookieJar(unsafe=True)
            self._jar.update_cookies_from_headers(lines, answer.url)


def _content(
    job: Job, rules: Rules | None, response: Response, *, ok: bool
) -> tuple[dict[str, Any], Failure | None]:
    """What the job asked for, as fields of the Result. A failed page is not extracted from."""
    media = response.headers.get("Content-Type", "")
    mime = media.partition(";")[0].strip().lower()
    found: dict[str, Any] = {"size": len(response.body)}
    if mime:
        found["content_type"] = printable(media)
    if job.wants("headers"):
        found["headers"] = _headers(response)
    parsed = rules is not None or job.wants("links") or job.wants("metadata")
    is_html = mime in _HTML or (not mime and response.body.lstrip()[:1] == b"<")
    is_text = is_html or mime.startswith(_TEXT) or mime.endswith(_TEXT_SUFFIXES)
    name = charset.sniff(response.body, media) if is_text else ""
    if name:
        found["charset"] = name
    if job.wants("body"):
        found |= _body(response.body, name)
    if not (ok and parsed):
        return found, None
    if not is_html:
        return found, Failure("extract", f"the response is {printable(mime) or 'empty'}, not HTML")
    taken = extract(
        charset.to_utf8(response.body, name),
        str(response.url),
        rules=rules,
        links=job.wants("links"),
        metadata=job.wants("metadata"),
    )
    return found | {"data": taken.data, "links": taken.links, "metadata": taken.metadata}, None


def _headers(response: Response) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in response.headers.items():
        text = value.encode("utf-8", "replace").decode()  # aiohttp smuggles odd bytes as surrogates
        headers.setdefault(name.lower(), []).append(text)
    return headers


def _body(body: bytes, name: str) -> dict[str, str]:
    if name:
        return {"body": charset.to_text(body, name)}
    return {"body": base64.b64encode(body).decode(), "body_encoding": "base64"}
