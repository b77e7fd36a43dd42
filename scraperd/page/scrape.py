"""The straight line of a page: fetch one hop, (redirect: again), extract.

May touch: fetch, charset, extract, the wall clock for `fetched_at`.
Must never: know AMQP, log, or raise for what a site does.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from msgspec import UNSET

from scraperd.contract import Failure, Redirect, Result, Timings, check_url, printable
from scraperd.page import charset
from scraperd.page.cookies import Cookies, given
from scraperd.page.extract import Rules, extract
from scraperd.page.fetch import Fetcher, Request, Response, failure_of, location_of
from scraperd.page.urls import exact, origin_of, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from yarl import URL

    from scraperd.config import Config
    from scraperd.contract import Job

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
_TEXT: Final = ("text/", "application/json", "application/xml", "application/javascript")
_TEXT_SUFFIXES: Final = ("+xml", "+json")
_USERINFO = re.compile(r"//[^/?#]*@")
_SNIFFED: Final = 1445  # bytes; where the MIME Sniffing Standard stops looking
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # bytes that no text holds


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
        request, cookies = _first(job, tightest(config.download_maxsize, job.max_body_size))
        while True:
            request.timeout = deadline - time.monotonic()
            if request.timeout <= 0:
                return Failure("timeout", "redirects took up the timeout", retryable=True)
            request.headers.pop("Cookie", None)
            if line := cookies.header(request.url):
                request.headers["Cookie"] = line
            answer = await self._fetcher.fetch(request)
            if isinstance(answer, Failure) or (location := location_of(answer)) is None:
                return answer
            if len(page.redirects) >= limit:
                return Failure("too_many_redirects", f"more than {limit} redirects")
            target = _target(request.url, location)
            if isinstance(target, Failure):
                return target
            page.redirects.append(Redirect(answer.status, str(target)))
            cookies.learn(request.url, answer.headers.getall("Set-Cookie", ()))
            _redirect(request, answer.status, target)


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


def _first(job: Job, max_body: int) -> tuple[Request, Cookies]:
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
        body, kind = urlencode(job.form).encode(), "application/x-www-form-urlencoded"
    if kind and "content-type" not in named:
        headers["Content-Type"] = kind
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
        _drop(request, lambda name: name == "authorization")
    request.url = target


def _drop(request: Request, unwanted: Callable[[str], bool]) -> None:
    kept = {name: value for name, value in request.headers.items() if not unwanted(name.lower())}
    request.headers = kept


def _target(base: URL, location: str) -> URL | Failure:
    """Where a redirect leads; anything but http(s) is refused."""
    try:
        target = resolve(base, location)
        fault = check_url(str(target))
    except ValueError:
        fault = "not a URL"
    if fault:
        shown = printable(_USERINFO.sub("//", location))
        return Failure("protocol", f"redirected to {shown}: {fault}")
    return target


def _content(
    job: Job, rules: Rules | None, response: Response, *, ok: bool
) -> tuple[dict[str, Any], Failure | None]:
    """What the job asked for, as fields of the Result. A failed page is not extracted from."""
    media = _clean(response.headers.get("Content-Type", ""))
    mime = media.partition(";")[0].strip().lower()
    found: dict[str, Any] = {"size": len(response.body)}
    if mime:
        found["content_type"] = printable(media)
    if job.wants("headers"):
        found["headers"] = _headers(response)
    parsed = rules is not None or job.wants("links") or job.wants("metadata")
    start = response.body[:_SNIFFED]
    is_html = mime in _HTML or (not mime and start.lstrip()[:1] == b"<")
    is_text = is_html or mime.startswith(_TEXT) or mime.endswith(_TEXT_SUFFIXES)
    is_text = is_text or (not mime and bool(start) and not _BINARY.search(start))
    name = charset.sniff(response.body, media) if is_text else ""
    if name:
        found["charset"] = name
    if job.wants("body"):
        found |= _body(response.body, name)
    if not (ok and parsed):
        return found, None
    if not is_html:
        return found, Failure(
            "extract", f"the response is {printable(mime) or 'of no type'}, not HTML"
        )
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
        headers.setdefault(name.lower(), []).append(_clean(value))
    return headers


def _clean(value: str) -> str:
    """A header's text: UTF-8, or else Latin-1; aiohttp hands odd bytes on as surrogates."""
    if value.isascii():
        return value
    raw = value.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _body(body: bytes, name: str) -> dict[str, str]:
    if name or not body:
        return {"body": charset.to_text(body, name) if name else ""}
    return {"body": base64.b64encode(body).decode(), "body_encoding": "base64"}
