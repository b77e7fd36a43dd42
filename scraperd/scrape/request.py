"""A job as its first request, and that request after each redirect.

May touch: a job, and the clock it is given, for the time that a large form takes.
Must never: fetch anything, or let a job's secrets reach another origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import UNSET, Struct

from scraperd.base.text import printable, text_without_queries
from scraperd.base.urls import MAX_URL, exact, host_name, origin_of, resolve
from scraperd.contract import Failure
from scraperd.fetch.message import Request
from scraperd.scrape.cookies.jar import Cookies, given
from scraperd.scrape.forms import encoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from yarl import URL

    from scraperd.base.clocks import Clocks
    from scraperd.contract import Job

_SECRETS: Final = frozenset({"authorization", "cookie", "cookie2", "www-authenticate"})
_CONDITIONS: Final = frozenset({"if-none-match", "if-modified-since"})
_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110 section 9.2.1


class Target(Struct, frozen=True):
    """A job with its URL parsed: once a job, and here."""

    job: Job
    url: URL

    @classmethod
    def of(cls, job: Job) -> Self:
        """Parse the URL of `job`, which `decode_job` has checked."""
        return cls(job, exact(job.url))

    @property
    def host(self) -> str:
        """The host as the scheduler knows it."""
        return host_name(self.url)

    @property
    def repeatable(self) -> bool:
        """True if a site has to bear the same request twice."""
        return self.job.verb in _REPEATABLE

    @property
    def conditional(self) -> bool:
        """True if the job wants the page only if it is another one by now."""
        job = self.job
        named = {name.lower() for name in job.headers or ()}
        return not (job.etag is job.last_modified is UNSET and named.isdisjoint(_CONDITIONS))


async def first_request(target: Target, max_body: int, clocks: Clocks) -> tuple[Request, Cookies]:
    """Return the job's request, and its cookies, which travel apart from the other headers."""
    job = target.job
    headers = dict(job.headers or ())
    named = {name.lower(): name for name in headers}
    body, kind = await _body_of(job, clocks.monotonic)
    if kind and "content-type" not in named:
        headers["Content-Type"] = kind
    if job.etag is not UNSET:
        headers["If-None-Match"] = job.etag
    if job.last_modified is not UNSET:
        headers["If-Modified-Since"] = job.last_modified
    line = headers.pop(named["cookie"]) if "cookie" in named else ""
    now = clocks.now() if isinstance(job.cookies, list) else None
    cookies = Cookies(target.url, given(job.cookies or {}, line), now)
    return Request(job.verb, target.url, headers, body, 0.0, max_body), cookies


async def _body_of(job: Job, clock: Callable[[], float]) -> tuple[bytes | None, str]:
    """The body and its Content-Type."""
    if job.body is not UNSET:
        return job.body.encode(), "text/plain; charset=utf-8"
    if job.json is not UNSET:
        return bytes(job.json), "application/json"
    if job.form is not UNSET:
        return await encoded(job.form, clock), "application/x-www-form-urlencoded"
    return None, ""


def redirect_target(base: URL, location: str) -> URL | Failure:
    """Return where a redirect leads. Anything but http(s) is refused."""
    try:
        return resolve(base, location)
    except ValueError as fault:
        one_word = printable(location, MAX_URL).replace(" ", "%20")  # a password may hold spaces
        told = printable(text_without_queries(one_word))
        return Failure("protocol", f"redirected to {told}: {fault}")


def redirect(request: Request, status: int, target: URL) -> None:
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


def tightest(ours: Any, theirs: Any) -> Any:
    """Return a job's limit where it is tighter than the configured one."""
    return ours if theirs is UNSET else min(ours, theirs)
