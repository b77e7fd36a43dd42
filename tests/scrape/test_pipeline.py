"""Tests of a job's way to its result: redirects, cookies, what is sent, what comes back.

May touch: the fault site and its sockets on loopback.
Must never: reach beyond this machine.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import UNSET

from scraperd.base.clocks import SYSTEM
from scraperd.contract import Failure, Job, Redirect, Result, decode_job, encode
from scraperd.fetch.client import REDIRECT_BODY, REDIRECT_WAIT, Fetcher
from scraperd.scrape.request import Target
from scraperd.scrape.result import Scraped
from scraperd.wiring import fetcher_of, scraper_of
from tests.rig.clocks.lived import lived
from tests.rig.page import loopback, scraping
from tests.rig.sites.site import Site, Visit, chunk, head, page, redirect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.config.settings import Config
    from scraperd.contract import Kind
    from tests.rig.page import Scrape
    from tests.rig.sites.certificates import Certificates

CHUNKED = "Transfer-Encoding: chunked"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
HTML = b"""<html lang=en><title>A page</title><meta name=description content="What it says">
<h1>Hello</h1><a href="/next" rel=next>Next</a>"""


def failed(result: Result) -> Failure:
    assert result.status == "failed"
    assert result.error is not UNSET
    return result.error


# --- what a status means


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (304, False),
        (400, False),
        (401, False),
        (403, False),
        (404, False),
        (408, True),
        (410, False),
        (429, True),
        (500, True),
        (501, False),
        (502, True),
        (503, True),
        (504, True),
    ],
)
async def test_statuses_that_are_failures(
    site: Site,
    scrape: Scrape,
    status: int,
    retryable: bool,  # noqa: FBT001
) -> None:
    """The body comes back all the same: it often says why. Which are retried is configured."""
    text = b"" if status == 304 else b"why"
    result = await scrape(site.at("/", page(text, status=status)))
    assert failed(result) == Failure(
        "http_status", f"the site answered {status}", retryable=retryable
    )
    assert (result.http_status, result.body) == (status, text.decode())


@pytest.mark.parametrize("status", [200, 201, 203, 206])
async def test_statuses_that_are_fine(site: Site, scrape: Scrape, status: int) -> None:
    """2xx is success (RFC 9110 section 15.3)."""
    result = await scrape(site.at("/", page(b"fine", status=status)))
    assert (result.status, result.http_status, result.body) == ("ok", status, "fine")


async def test_retry_codes_are_configured(site: Site) -> None:
    """`retry_http_codes` decides, not a list of ours."""
    config = loopback(jobs__retry_http_codes=(404,))
    site.at("/404", page(status=404))
    site.at("/503", page(status=503))
    async with fetcher_of(config) as fetcher:
        scrape = scraping(config, fetcher)
        assert failed(await scrape(site.url("/404"))).retryable
        assert not failed(await scrape(site.url("/503"))).retryable


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_travels_in_the_failure(site: Site, scrape: Scrape, status: int) -> None:
    """In seconds, whether the site says seconds or a date; for the verdict to obey."""
    site.at("/s", page(status=status, headers=["Retry-After: 17"]))
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    site.at("/d", page(status=status, headers=[f"Retry-After: {then}"]))
    assert failed(await scrape(site.url("/s"))).retry_after == 17
    seconds = failed(await scrape(site.url("/d"))).retry_after
    assert seconds is not UNSET
    assert 95 < seconds <= 100


# --- where redirects lead


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(site: Site, scrape: Scrape, status: int) -> None:
    """The result says which way it went and where it ended."""
    site.at("/a", redirect("/b", status))
    site.at("/b", redirect("c?x=%2F", status))
    site.at("/c", page(b"here"))
    result = await scrape(site.url("/a"))
    assert (result.status, result.body) == ("ok", "here")
    assert result.url == site.url("/a")
    assert result.final_url == site.url("/c?x=%2F")
    assert result.redirects == [
        Redirect(status, site.url("/b")),
        Redirect(status, site.url("/c?x=%2F")),
    ]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("http://127.0.0.1:{port}/dir/x", "/dir/x"),
        ("//127.0.0.1:{port}/dir/x", "/dir/x"),
        ("/x", "/x"),
        ("x", "/dir/x"),
        ("../x", "/x"),
        ("?y=1", "/dir/page?y=1"),
        ("x?u=http%3A%2F%2Fa%2Cb", "/dir/x?u=http%3A%2F%2Fa%2Cb"),
        ("x#part", "/dir/x"),
        ("/a b", "/a%20b"),
        ("/caf\xe9", "/caf%E9"),
        ("http://user:secret@127.0.0.1:{port}/x", "/x"),
    ],
)
async def test_forms_of_location(site: Site, scrape: Scrape, location: str, target: str) -> None:
    """Relative or not, odd or not: the next request goes where a browser's would."""

    async def answer(visit: Visit) -> None:
        first = visit.target == "/dir/page?x=1"
        await visit.send(redirect(location.format(port=site.port)) if first else page())

    for path in ("/dir/page", target.partition("?")[0]):
        site.at(path, answer)
    result = await scrape(site.url("/dir/page?x=1"))
    assert [visit.target for visit in site.visits] == ["/dir/page?x=1", target]
    assert result.final_url == site.url(target)
    assert site.visits[1].header("Authorization") is None


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:text/html,x",
        "mailto:a@b.example",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/",
        "http://[::1",
    ],
)
async def test_redirects_to_what_is_no_page(site: Site, scrape: Scrape, location: str) -> None:
    """Refused with its name, before anything of it is touched."""
    found = failed(await scrape(site.at("/", redirect(location))))
    assert (found.kind, found.retryable) == ("protocol", False)
    assert found.message.startswith(f"redirected to {location}: ")
    assert len(site.visits) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(page(b"choose", status=302), id="no Location"),
        pytest.param(redirect(""), id="empty Location"),
        pytest.param(page(status=300, headers=["Location: /x"]), id="300"),
        pytest.param(head("Location: /x", status="304 Not Modified"), id="304"),
        pytest.param(page(status=305, headers=["Location: /x"]), id="305"),
        pytest.param(page(status=404, headers=["Location: /x"]), id="404"),
    ],
)
async def test_what_is_no_redirect(site: Site, scrape: Scrape, answer: bytes) -> None:
    """Only 301, 302, 303, 307 and 308 with somewhere to go are followed."""
    assert failed(await scrape(site.at("/", answer))).kind == "http_status"
    assert len(site.visits) == 1


async def test_a_created_page_is_not_a_redirect(site: Site, scrape: Scrape) -> None:
    """201 has a Location too, but it is an answer (RFC 9110 section 10.2.2)."""
    url = site.at("/", page(b"made", status=201, headers=["Location: /x"]))
    assert (await scrape(url)).body == "made"


@pytest.mark.parametrize(
    ("configured", "wanted", "hops"), [(3, None, 3), (3, 1, 1), (3, 9, 3), (3, 0, 0), (0, None, 0)]
)
async def test_too_many_redirects(
    site: Site, configured: int, wanted: int | None, hops: int
) -> None:
    """A loop ends at the limit, the tighter of the job's and ours; the way is in the result."""
    config = loopback(fetch__max_redirects=configured)
    fields = {} if wanted is None else {"max_redirects": wanted}
    async with fetcher_of(config) as fetcher:
        result = await scraping(config, fetcher)(site.at("/", redirect("/")), **fields)
    assert failed(result) == Failure("too_many_redirects", f"more than {hops} redirects")
    assert len(site.visits) == hops + 1
    assert len(result.redirects or []) == hops


async def test_a_chain_of_exactly_the_limit(site: Site, scrape: Scrape) -> None:
    """Five redirects with a limit of five are fine."""
    for n in range(5):
        site.at(f"/{n}", redirect(f"/{n + 1}"))
    site.at("/5", page(b"end"))
    assert (await scrape(site.url("/0"))).body == "end"


# --- what a redirect does to the request


@pytest.mark.parametrize(
    ("status", "method", "becomes", "keeps_body"),
    [
        (301, "GET", "GET", False),
        (302, "GET", "GET", False),
        (303, "GET", "GET", False),
        (307, "GET", "GET", False),
        (301, "HEAD", "HEAD", False),
        (303, "HEAD", "HEAD", False),
        (308, "HEAD", "HEAD", False),
        (301, "POST", "GET", False),
        (302, "POST", "GET", False),
        (303, "POST", "GET", False),
        (307, "POST", "POST", True),
        (308, "POST", "POST", True),
        (301, "PUT", "PUT", True),
        (302, "DELETE", "DELETE", True),
        (303, "PUT", "GET", False),
        (303, "DELETE", "GET", False),
        (307, "PATCH", "PATCH", True),
    ],
)
async def test_method_and_body_after_a_redirect(
    site: Site,
    scrape: Scrape,
    *,
    status: int,
    method: str,
    becomes: str,
    keeps_body: bool,
) -> None:
    """RFC 9110 section 15.4 and the Fetch standard; without the body goes all that describes it."""
    fields: dict[str, Any] = {} if method in ("GET", "HEAD") else {"body": "text"}
    site.at("/a", head("Content-Length: 0", "Location: /b", status=f"{status} Moved"))
    site.at("/b", head("Content-Length: 0"))
    headers = {"Content-Language": "en", "X-Mine": "1"}
    result = await scrape(site.url("/a"), method=method, headers=headers, **fields)
    assert result.status == "ok"
    second = site.seen("/b")[0]
    assert (second.method, second.body) == (becomes, b"text" if keeps_body else b"")
    dropped = method != becomes
    assert second.header("Content-Language") == (None if dropped else "en")
    assert (second.header("Content-Type") is not None) is keeps_body
    assert second.header("Content-Length") == ("4" if keeps_body else None)
    assert second.header("X-Mine") == "1"


async def test_secrets_stay_within_the_origin(site: Site, scrape: Scrape) -> None:
    """Authorization and the job's cookies go to another path, not to another port or host."""
    async with Site() as other:
        site.at("/a", redirect("/b"))
        site.at("/b", redirect(other.url("/c")))
        other.at("/c", redirect(site.url("/d")))
        site.at("/d", page())
        await scrape(
            site.url("/a"),
            headers={"authorization": "Bearer secret", "X-Mine": "1"},
            cookies={"sid": "1"},
        )
        visits = [*site.seen("/a"), *site.seen("/b"), *other.seen("/c"), *site.seen("/d")]
    assert [v.header("Authorization") for v in visits] == ["Bearer secret"] * 2 + [None] * 2
    assert [v.header("Cookie") for v in visits] == ["sid=1", "sid=1", None, "sid=1"]
    assert [v.header("X-Mine") for v in visits] == ["1"] * 4


@pytest.mark.parametrize("name", ["AUTHORIZATION", "authorizatioN", "Cookie2", "WWW_Authenticate"])
async def test_no_spelling_of_a_secret_survives(site: Site, scrape: Scrape, name: str) -> None:
    """In whatever case, and with underscores, which a CGI program can't tell from hyphens."""
    async with Site() as other:
        site.at("/a", redirect(other.url("/b")))
        other.at("/b", page())
        await scrape(site.url("/a"), headers={name: "secret", "X-Api-Key": "goes along"})
        [first], [second] = site.seen("/a"), other.seen("/b")
    assert first.header(name) == "secret"
    assert second.header(name) is None
    assert second.header("X-Api-Key") == "goes along"


async def test_secrets_are_not_sent_in_the_clear(trusted: Certificates) -> None:
    """From https to http on the same host is another origin."""
    async with Site(trusted.good) as secure, Site() as plain, fetcher_of(loopback()) as fetcher:
        secure.at("/", redirect(plain.url("/x")))
        plain.at("/x", page(b"plain"))
        result = await scraping(loopback(), fetcher)(
            secure.url(), headers={"Authorization": "secret", "Cookie": "sid=1"}
        )
        assert result.body == "plain"
        assert secure.visits[0].header("Cookie") == "sid=1"
        assert plain.visits[0].header("Cookie") is None
        assert plain.visits[0].header("Authorization") is None


async def test_the_same_origin_by_another_spelling(site: Site, scrape: Scrape) -> None:
    """The host in capitals is the same host; a name for its address is not."""
    site.at("/a", redirect(f"http://LOCALHOST:{site.port}/b"))
    site.at("/b", redirect(f"http://127.0.0.1:{site.port}/c"))
    site.at("/c", page())
    result = await scrape(f"http://localhost:{site.port}/a", headers={"Authorization": "secret"})
    assert result.status == "ok"
    sent = [visit.header("Authorization") for visit in site.visits]
    assert sent == ["secret", "secret", None]


async def test_cookies_that_redirects_set(site: Site, scrape: Scrape) -> None:
    """A login that sets a cookie and redirects works; ports share cookies (RFC 6265 8.5)."""
    async with Site() as other:
        cookies = ["Set-Cookie: s=1; Path=/", 'Set-Cookie: q="a b"; Path=/', "Set-Cookie: no=1"]
        site.at("/in/login", redirect(other.url("/x"), 303, headers=cookies))
        other.at("/x", redirect(site.url("/end"), headers=["Set-Cookie: s=2; Path=/"]))
        site.at("/end", page())
        await scrape(site.url("/in/login"), cookies={"mine": "1"}, form={"user": "me"})
        visits = [*site.seen("/in/login"), *other.seen("/x"), *site.seen("/end")]
    assert [visit.header("Cookie") for visit in visits] == [
        "mine=1",
        's=1; q="a b"',
        'mine=1; s=2; q="a b"',
    ]


@pytest.mark.parametrize("given", [{"cookies": {"sid": "old"}}, {"headers": {"cookie": "sid=old"}}])
async def test_a_jobs_cookie_set_anew_is_not_sent_twice(
    site: Site, scrape: Scrape, given: dict[str, Any]
) -> None:
    """However the job gave it, what the site sets instead is what the next hop gets."""
    site.at("/a", redirect("/b", headers=["Set-Cookie: sid=new; Path=/"]))
    site.at("/b", page())
    await scrape(site.url("/a"), **given)
    assert [visit.header("Cookie") for visit in site.visits] == ["sid=old", "sid=new"]


async def test_a_cookie_lives_by_the_clock_of_its_site(site: Site, scrape: Scrape) -> None:
    """Five minutes by the answer's own Date are not over, though by our clock they are."""
    date = datetime.now(UTC) - timedelta(hours=1)
    expires = format_datetime(date + timedelta(minutes=5), usegmt=True)
    lines = [
        f"Date: {format_datetime(date, usegmt=True)}",
        f"Set-Cookie: s=1; Path=/; Expires={expires}",
    ]
    site.at("/end", page(HTML))
    await scrape(site.at("/a", redirect("/end", headers=lines)))
    assert [visit.header("Cookie") for visit in site.seen("/end")] == ["s=1"]


async def test_no_cookie_of_one_job_reaches_another(site: Site, scrape: Scrape) -> None:
    """Not one it was given, not one a redirect set, not one the page set."""
    setting = ["Set-Cookie: s=1; Path=/"]
    site.at("/a", redirect("/b", headers=setting))
    site.at("/b", page(headers=setting))
    await scrape(site.url("/a"), cookies={"mine": "1"})
    await scrape(site.url("/b"))
    assert [visit.header("Cookie") for visit in site.visits] == ["mine=1", "mine=1; s=1", None]
    assert site.connections == 1  # they shared the connection, and nothing else


# --- bodies of redirects


async def flood(visit: Visit) -> None:
    await visit.send(head(CHUNKED, "Location: /end", status="302 Found"))
    await visit.flood(chunk(b"x" * 65536))


async def drip(visit: Visit) -> None:
    await visit.send(head(CHUNKED, "Location: /end", status="302 Found"))
    await visit.drip(chunk(b"x"))


async def never(visit: Visit) -> None:
    await visit.send(head("Content-Length: 10", "Location: /end", status="302 Found"))
    await visit.gone()


async def broken_off(visit: Visit) -> None:
    await visit.send(head("Content-Length: 10", "Location: /end", status="302 Found"))
    visit.hang_up()


async def broken_chunk(visit: Visit) -> None:
    await visit.send(head(CHUNKED, "Location: /end", status="302 Found"))
    await asyncio.sleep(0.02)
    await visit.send(b"zz\r\n")


async def not_gzip(visit: Visit) -> None:
    await visit.send(redirect("/end", headers=["Content-Encoding: gzip"]))


@pytest.mark.parametrize(
    "handler", [flood, drip, never, broken_off, broken_chunk, not_gzip], ids=lambda h: h.__name__
)
async def test_the_body_of_a_redirect_does_no_harm(
    site: Site, scrape: Scrape, handler: Callable[[Visit], Awaitable[None]]
) -> None:
    """Endless, slow, broken or undecodable: nobody asked for it, and the job goes on."""
    site.at("/end", page(b"end"))
    best = 1e9
    for _ in range(3):
        async with lived() as seconds:
            result = await scrape(site.at("/", handler), max_body_size=1000)
        assert (result.status, result.body) == ("ok", "end")
        best = min(best, seconds())
    patience = 0 if handler is flood else REDIRECT_WAIT  # too large is seen at once
    assert best < patience + 0.4


@pytest.mark.parametrize("size", [0, 1000, REDIRECT_BODY])
async def test_a_connection_is_kept_across_a_redirect(
    site: Site, scrape: Scrape, size: int
) -> None:
    """The body of an ordinary redirect is read to its end, though it arrives later."""

    async def later(visit: Visit) -> None:
        await visit.send(head(f"Content-Length: {size}", "Location: /b", status="302 Found"))
        await asyncio.sleep(0.02)
        await visit.send(b"x" * size)

    site.at("/a", later)
    site.at("/b", page())
    for _ in range(3):
        assert (await scrape(site.url("/a"))).status == "ok"
    assert (len(site.visits), site.connections) == (6, 1)


# --- limits only tighten


@pytest.mark.parametrize(("configured", "wanted"), [(0.2, None), (0.2, 60), (60, 0.2)])
async def test_the_timeout_only_tightens(
    site: Site, configured: float, wanted: float | None
) -> None:
    """The smaller of the configured timeout and the job's counts."""
    config = loopback(fetch__download_timeout=configured)
    fields = {} if wanted is None else {"timeout": wanted}
    async with fetcher_of(config) as fetcher, lived() as seconds:
        result = await scraping(config, fetcher)(site.at("/", Visit.gone), **fields)
    assert failed(result) == Failure("timeout", "not finished within 0.2 s", retryable=True)
    assert seconds() < 1


@pytest.mark.parametrize(("configured", "wanted"), [(50, None), (50, 5000), (5000, 50)])
async def test_the_body_size_only_tightens(site: Site, configured: int, wanted: int | None) -> None:
    """The smaller of the configured size and the job's counts."""
    config = loopback(fetch__download_maxsize=configured)
    fields = {} if wanted is None else {"max_body_size": wanted}
    async with fetcher_of(config) as fetcher:
        result = await scraping(config, fetcher)(site.at("/", page(b"x" * 51)), **fields)
    assert failed(result) == Failure("too_large", "the body is larger than 50 bytes")


async def test_a_chain_shares_one_timeout(site: Site, scrape: Scrape) -> None:
    """Each hop in good time, all of them not: the timeout is the job's."""

    async def slow(visit: Visit) -> None:
        await asyncio.sleep(0.4)
        await visit.send(redirect("/"))

    result = await scrape(site.at("/", slow), timeout=0.95)
    assert failed(result) == Failure("timeout", "not finished within 0.95 s", retryable=True)
    assert 1 <= len(result.redirects or []) <= 2  # and not the five that are allowed


# --- what is sent


async def test_the_url_is_sent_as_the_job_wrote_it(site: Site, scrape: Scrape) -> None:
    """Byte for byte but for the fragment; `final_url` says the same."""
    target = "/a%2Fb/%7Ec/?u=http%3A%2F%2Fd%3Fe%3D1%2C2&x[]=1&f=%E9+g"
    site.at(target.partition("?")[0], page())
    result = await scrape(site.url(f"{target}#part"))
    assert site.visits[0].target == target
    assert result.final_url == site.url(target)


async def test_a_query_that_is_empty_is_sent(site: Site, scrape: Scrape) -> None:
    """As browsers and curl do, `GET /x?`: for a job's URL, for a redirect, and in the result."""
    site.at("/x", redirect("/y?"))
    site.at("/y", page())
    result = await scrape(site.url("/x?#part"))
    assert [visit.target for visit in site.visits] == ["/x?", "/y?"]
    assert [hop.url for hop in result.redirects or []] == [result.final_url] == [site.url("/y?")]


@pytest.mark.parametrize(
    ("fields", "sent", "content_type"),
    [
        ('"body": "gr\\u00fc\\u00df dich"', "grüß dich".encode(), "text/plain; charset=utf-8"),
        ('"body": ""', b"", "text/plain; charset=utf-8"),
        (
            '"json": {"b": 1.0,  "a":"\\u00e9", "n": 12345678901234567890123}',
            b'{"b": 1.0,  "a":"\\u00e9", "n": 12345678901234567890123}',
            "application/json",
        ),
        ('"json": null', b"null", "application/json"),
        ('"json": [1,\\n2]'.replace("\\n", "\n"), b"[1,\n2]", "application/json"),
        (
            '"form": {"a b": "c&d=e", "u": "\\u00fc", "empty": ""}',
            b"a+b=c%26d%3De&u=%C3%BC&empty=",
            "application/x-www-form-urlencoded",
        ),
        (
            '"json": {}, "headers": {"content-TYPE": "application/vnd.api+json"}',
            b"{}",
            "application/vnd.api+json",
        ),
    ],
)
async def test_bodies(
    site: Site, config: Config, fetcher: Fetcher, *, fields: str, sent: bytes, content_type: str
) -> None:
    """Each kind of body with its type; JSON as it was written, not as it was understood."""
    job = decode_job(f'{{"url": "{site.at("/", page())}", {fields}}}'.encode())
    scraper = scraper_of(config, fetcher, SYSTEM)
    assert isinstance(job, Job)
    ended = await scraper.scrape(Target.of(job), None, scraper.claim())
    assert isinstance(ended, Scraped)
    [visit] = site.visits
    assert (visit.method, visit.body) == ("POST", sent)
    assert visit.header("Content-Type") == content_type
    assert visit.header("Content-Length") == str(len(sent))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_methods(site: Site, scrape: Scrape, method: str) -> None:
    """The method is the job's; without a body nothing is said of one's type."""
    result = await scrape(site.at("/", page(b"done")), method=method)
    assert (result.status, result.body) == ("ok", "done")
    assert site.visits[0].method == method
    assert site.visits[0].header("Content-Type") is None


async def test_a_jobs_headers(site: Site, scrape: Scrape) -> None:
    """They replace ours, come once, and carry what a header may."""
    headers = {"USER-agent": "mine", "Accept": "x/y", "X-Text": "grüß\tdich", "X-Empty": ""}
    await scrape(site.at("/", page()), headers=headers)
    [visit] = site.visits
    assert visit.header("User-Agent") == "mine"
    assert visit.header("Accept") == "x/y"
    assert visit.header("X-Text") == "grüß\tdich".encode().decode("latin-1")
    assert visit.header("X-Empty") == ""


# --- what comes back


async def test_a_page_as_it_comes_back(site: Site, scrape: Scrape) -> None:
    """The plain case, field by field; what was not asked for is absent."""
    url = site.at("/", page(HTML))
    result = msgspec.json.decode(encode(await scrape(url, meta={"k": [1]})))
    timings = result.pop("timings")
    assert timings["total"] >= timings["fetch"] > 0
    assert datetime.fromisoformat(result.pop("fetched_at")).tzinfo is not None
    assert result.pop("meta") == {"k": [1]}
    assert result == {
        "id": "job",
        "run": 1,
        "url": url,
        "status": "ok",
        "final_url": url,
        "http_status": 200,
        "content_type": "text/html; charset=utf-8",
        "charset": "utf-8",
        "size": len(HTML),
        "content_hash": f"sha256:{hashlib.sha256(HTML).hexdigest()}",
        "body": HTML.decode(),
        "attempt": 1,
        "worker": "test",
        "contract_version": "1.0",
    }


@pytest.mark.parametrize(
    "include",
    [
        [],
        ["body"],
        ["headers"],
        ["links"],
        ["metadata"],
        ["body", "headers"],
        ["links", "metadata"],
        ["body", "headers", "links", "metadata"],
        ["body", "body"],
    ],
)
@pytest.mark.parametrize("extract", [None, {"h": "h1"}])
async def test_what_was_asked_for(
    site: Site, scrape: Scrape, include: list[str], extract: dict[str, str] | None
) -> None:
    """Of body, headers, links, metadata and data exactly what the job names comes back."""
    fields = {"include": include} | ({"extract": extract} if extract else {})
    result = await scrape(site.at("/", page(HTML, headers=["X-A: 1", "x-a: 2"])), **fields)
    parts = ("body", "headers", "links", "metadata", "data")
    found = {part for part in parts if getattr(result, part) is not UNSET}
    assert found == {*include, *(["data"] if extract else [])}
    if result.headers is not UNSET:
        assert result.headers["x-a"] == ["1", "2"]
    if result.links is not UNSET:
        assert [link.url for link in result.links] == [site.url("/next")]
    if result.metadata is not UNSET:
        assert (result.metadata.title, result.metadata.language) == ("A page", "en")
    if result.data is not UNSET:
        assert result.data == {"h": "Hello"}


async def test_rules_alone_leave_the_body_out(site: Site, scrape: Scrape) -> None:
    """With `extract` and no `include` only the data comes back: it is what was asked for."""
    result = await scrape(site.at("/", page(HTML)), extract={"h": "h1"})
    assert (result.data, result.body) == ({"h": "Hello"}, UNSET)


async def test_a_failed_page_is_not_extracted_from(site: Site, scrape: Scrape) -> None:
    """The data of an error page would be taken for the page's."""
    result = await scrape(
        site.at("/", page(HTML, status=500)), extract={"h": "h1"}, include=["body", "links"]
    )
    assert failed(result).kind == "http_status"
    assert (result.data, result.links) == (UNSET, UNSET)
    assert result.body == HTML.decode()


@pytest.mark.parametrize(
    ("content_type", "data", "words"),
    [
        ("image/png", PNG, "image/png, not HTML"),
        ("application/json", b'{"a": 1}', "application/json, not HTML"),
        ("text/plain", b"<h1>not HTML</h1>", "text/plain, not HTML"),
        ("image/\xe9\x00", PNG, "image/png by its first bytes, not HTML"),
        (None, PNG, "image/png by its first bytes, not HTML"),
        (None, b"", "of no type, not HTML"),
    ],
)
@pytest.mark.parametrize("asked", [{"extract": {"h": "h1"}}, {"include": ["links"]}])
async def test_nothing_can_be_extracted_from_what_is_no_html(
    site: Site,
    scrape: Scrape,
    *,
    content_type: str | None,
    data: bytes,
    words: str,
    asked: dict[str, Any],
) -> None:
    """`extract`, with the reason; empty data would pass for a page without what was sought."""
    if content_type and "\x00" in content_type:
        content_type = content_type.replace("\x00", "\x01")  # the parser refuses a NUL itself
    result = await scrape(site.at("/", page(data, content_type=content_type)), **asked)
    assert failed(result) == Failure("extract", f"the response is {words}")
    assert result.http_status == 200


@pytest.mark.parametrize(
    ("text", "encoding", "content_type", "meta"),
    [
        ("Grüße, Señor", "iso-8859-1", "text/html; charset=ISO-8859-1", ""),
        ("Привет", "windows-1251", 'text/html; charset="windows-1251"', ""),
        ("Привет", "koi8-r", "text/html", "<meta charset=koi8-r>"),
        (
            "日本語のページ",
            "shift_jis",
            "text/html",
            '<meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS">',
        ),
        ("中文网页", "gb18030", "text/html; charset=gb2312", ""),
        ("한국어", "euc-kr", "application/xhtml+xml; charset=euc-kr", ""),
        ("\ufeffGrüße 日本", "utf-16-le", "text/html; charset=iso-8859-1", ""),
        ("\ufeffGrüße 日本", "utf-8", "text/html; charset=iso-8859-1", ""),
        ("Grüße 日本", "utf-8", "text/html", ""),
        ("50 €, “quoted”", "windows-1252", "text/html", ""),
        ("50 €, “quoted”", "windows-1252", "text/html; charset=\xe9\xff", ""),
    ],
)
async def test_pages_in_any_charset(
    site: Site, scrape: Scrape, *, text: str, encoding: str, content_type: str, meta: str
) -> None:
    """By BOM, header, meta or fallback: body and data are the right text either way."""
    mark, text = ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)
    sent = f"{mark}{meta}<h1>{text}</h1>".encode(encoding)
    result = await scrape(
        site.at("/", page(sent, content_type=content_type)), extract={"h": "h1"}, include=["body"]
    )
    assert result.data == {"h": text}
    assert result.body == f"{meta}<h1>{text}</h1>"
    assert result.size == len(sent)


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "application/octet-stream", "application/pdf", "image/png; charset=utf-8", None],
)
@pytest.mark.parametrize("data", [PNG, bytes(range(256)), b"text but binary by its type"])
async def test_binary_bodies_come_in_base64(
    site: Site, scrape: Scrape, content_type: str | None, data: bytes
) -> None:
    """A body that is no text comes back bit by bit, and the result says how."""
    if content_type is None and data.startswith(b"text"):
        data += b"\x00"
    result = await scrape(site.at("/", page(data, content_type=content_type)))
    assert result.body_encoding == "base64"
    assert isinstance(result.body, str)
    assert base64.b64decode(result.body, validate=True) == data
    assert (result.size, result.charset) == (len(data), UNSET)


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("text/plain", "Grüße"),
        ("application/json", '{"a": "ü"}'),
        ("application/ld+json; charset=utf-8", "{}"),
        ("application/rss+xml", "<rss/>"),
        ("image/svg+xml", "<svg/>"),
        ("TEXT/CSS", "a {}"),
        (None, "just text, Grüße"),
        (None, " <h1>HTML</h1>"),
    ],
)
async def test_text_bodies_come_as_text(
    site: Site, scrape: Scrape, content_type: str | None, data: str
) -> None:
    """Text by its type, or without a type by holding no byte that text doesn't."""
    result = await scrape(site.at("/", page(data.encode(), content_type=content_type)))
    assert (result.body, result.body_encoding) == (data, UNSET)


@pytest.mark.parametrize(
    ("answer", "method"),
    [
        pytest.param(head(status="204 No Content"), "GET", id="204"),
        pytest.param(page(b""), "GET", id="empty"),
        pytest.param(page(b"", content_type=None), "GET", id="empty without a type"),
        pytest.param(page(b"", content_type="image/png"), "GET", id="empty image"),
        pytest.param(head("Content-Length: 100", "Content-Type: text/html"), "HEAD", id="HEAD"),
        pytest.param(page(gzip.compress(b""), headers=["Content-Encoding: gzip"]), "GET", id="gz"),
    ],
)
async def test_no_body_is_an_empty_text(
    site: Site, scrape: Scrape, answer: bytes, method: str
) -> None:
    """An empty body is there, empty, and in no encoding."""
    result = await scrape(site.at("/", answer), method=method)
    assert (result.status, result.body, result.size) == ("ok", "", 0)
    assert result.body_encoding is UNSET


async def test_a_gzipped_page(site: Site, scrape: Scrape) -> None:
    """`size` and everything else speaks of the page, not of what was sent."""
    url = site.at("/", page(gzip.compress(HTML), headers=["Content-Encoding: gzip"]))
    result = await scrape(url, extract={"h": "h1"}, include=["body"])
    assert (result.size, result.data, result.body) == (len(HTML), {"h": "Hello"}, HTML.decode())


async def test_headers_with_odd_bytes(site: Site, scrape: Scrape) -> None:
    """UTF-8 comes back as UTF-8, other bytes as Latin-1, and the result is always JSON."""
    odd = [
        "X-Utf: gr\xc3\xbc\xc3\x9f",
        "X-Latin: gr\xfc\xdf",
        "X-Control: a\x01b",
        "X-Mixed: \xff\xc3",
    ]
    result = await scrape(site.at("/", page(headers=odd)), include=["headers"])
    assert result.headers is not UNSET
    assert result.headers["x-utf"] == ["grüß"]
    assert result.headers["x-latin"] == ["grüß"]
    assert result.headers["x-control"] == ["a\x01b"]
    assert result.headers["x-mixed"] == ["ÿÃ"]


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("protocol", b"noise\xff\xfe\r\n\r\n"),
        ("protocol", redirect("http://\xff\xfe\x01/")),
        ("protocol", redirect("ftp://\xff/")),
        ("decode", page(b"\xff", headers=["Content-Encoding: gzip"])),
        ("http_status", page(b"\xff\xfe", status=404, content_type="\xff/\xfe; charset=\xfd")),
    ],
)
async def test_failures_with_odd_bytes(
    site: Site, scrape: Scrape, kind: Kind, answer: bytes
) -> None:
    """Whatever bytes a failure quotes, its message is printable and the result is JSON."""
    found = failed(await scrape(site.at("/", answer), include=["body", "headers"]))
    assert found.kind == kind
    assert found.message.isprintable()


async def test_whatever_a_site_sends_there_is_a_result(site: Site, scrape: Scrape) -> None:
    """Five hundred answers with random damage: each ends in a valid result, none raises."""
    dice = random.Random(20240917)
    models = [
        page(HTML, headers=["Set-Cookie: a=b; Path=/", "X-A: 1"]),
        page(gzip.compress(HTML), headers=["Content-Encoding: gzip"]),
        redirect("/end", headers=["Set-Cookie: a=b; Domain=127.0.0.1"]),
        head(CHUNKED, "Content-Type: text/html") + chunk(HTML) + chunk(b""),
        page(status=429, headers=["Retry-After: Wed, 21 Oct 2099 07:28:00 GMT"]),
    ]
    site.at("/end", page())
    kinds = set()
    for number in range(500):
        answer = bytearray(dice.choice(models))
        for _ in range(dice.randint(1, 4)):
            answer[dice.randrange(min(len(answer), 250))] = dice.randrange(256)

        async def send(visit: Visit, answer: bytes = bytes(answer)) -> None:
            await visit.send(answer)
            visit.hang_up()

        result = await scrape(
            site.at(f"/{number}", send),
            include=["body", "headers", "links", "metadata"],
            timeout=1,
        )
        kinds.add(result.error.kind if result.error is not UNSET else "ok")
    assert "internal" not in kinds
    assert {"ok", "protocol", "extract", "http_status", "decode"} <= kinds
