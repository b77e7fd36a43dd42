"""Tests of what a result tells of its way: redirects that end it, cookies, statuses of failures.

May touch: sites on loopback.
Must never: reach beyond this machine.
"""

from __future__ import annotations

import contextlib
import gzip
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import UNSET

from scraperd.base.clocks import SYSTEM
from scraperd.contract import Job, Redirect
from scraperd.scrape.request import Target
from scraperd.scrape.result import Failed
from scraperd.wiring import fetcher_of, scraper_of
from tests.rig.page import loopback, scraping
from tests.rig.sites.site import Site, Visit, head, page, redirect

if TYPE_CHECKING:
    from scraperd.contract import Result
    from tests.rig.page import Scrape

COOKIE = "Set-Cookie: sid=1; Path=/; HttpOnly"
TOLD = {
    "name": "sid",
    "value": "1",
    "domain": "127.0.0.1",
    "path": "/",
    "secure": False,
    "http_only": True,
    "host_only": True,
}


def cookies_of(result: Result) -> Any:
    return msgspec.to_builtins(result.cookies)


# --- follow_redirects: false


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_can_be_the_result(site: Site, scrape: Scrape, status: int) -> None:
    """It is ok, with its own headers, body and cookies, and says where it leads."""
    url = site.at("/in/a", redirect("../b?x=1#c", status, headers=[COOKIE]))
    result = await scrape(url, follow_redirects=False, include=["body", "cookies"])
    assert (result.status, result.http_status, result.error) == ("ok", status, UNSET)
    assert (result.final_url, result.redirects) == (url, UNSET)
    assert result.redirect_url == site.url("/b?x=1#c")
    assert result.headers is not UNSET
    assert result.headers["location"] == ["../b?x=1#c"]
    assert result.body == "<h1>Moved</h1>"
    assert cookies_of(result) == [TOLD]
    assert len(site.visits) == 1


@pytest.mark.parametrize(
    ("location", "leads"),
    [
        ("/b", "http://{host}/b"),
        ("//other.example/b", "http://other.example/b"),
        ("HTTPS://user:secret@Other.example:443/b", "https://other.example/b"),
        ("myapp://callback?code=7", "myapp://callback?code=7"),
        ("mailto:me@other.example", "mailto:me@other.example"),
        ("/\xe4", "http://{host}/%E4"),
        ("http://[", UNSET),
        ("/" + "x" * 8193, UNSET),
    ],
)
async def test_where_a_redirect_leads_is_told(
    site: Site, scrape: Scrape, location: str, leads: Any
) -> None:
    """Absolute as browsers read it (WHATWG URL), also where no job may go; without a password."""
    url = site.at("/a", redirect(location))
    result = await scrape(
        url, follow_redirects=False, extract={"t": {"selector": "p", "required": True}}
    )
    assert (result.status, result.http_status, result.data) == ("ok", 302, UNSET)
    wanted = leads if leads is UNSET else leads.replace("{host}", f"127.0.0.1:{site.port}")
    assert result.redirect_url == wanted


async def test_without_redirects_a_page_is_a_page(site: Site, scrape: Scrape) -> None:
    """What is no redirect is judged as always."""
    result = await scrape(site.at("/a", page(b"here")), follow_redirects=False)
    assert (result.status, result.body, result.redirect_url) == ("ok", "here", UNSET)
    result = await scrape(site.at("/b", page(status=404)), follow_redirects=False)
    assert (result.status, result.http_status, result.redirect_url) == ("failed", 404, UNSET)


async def test_a_redirect_whose_body_is_broken_is_no_result(site: Site, scrape: Scrape) -> None:
    """It failed, and says why, and where it leads all the same."""
    body = gzip.compress(b"moved")[:-8] + b"\0" * 8  # a wrong checksum
    lines = ["Location: /b", "Content-Encoding: gzip"]
    url = site.at("/a", page(body, status=302, headers=lines))
    result = await scrape(url, follow_redirects=False)
    assert result.error is not UNSET
    assert (result.error.kind, result.http_status) == ("decode", 302)
    assert result.redirect_url == site.url("/b")


# --- cookies that were set


async def test_cookies_of_all_hops_are_told(site: Site, scrape: Scrape) -> None:
    """Those of the redirects and of the page, as they are at the end."""
    site.at("/a", redirect("/b", headers=[COOKIE, "Set-Cookie: gone=1; Path=/"]))
    lines = ["Set-Cookie: gone=; Path=/; Max-Age=0", "Set-Cookie: last=2; Path=/"]
    site.at("/b", page(headers=lines))
    result = await scrape(site.url("/a"), include=["cookies"], cookies={"mine": "1"})
    assert [(each["name"], each["value"]) for each in cookies_of(result)] == [
        ("sid", "1"),
        ("last", "2"),
    ]
    assert cookies_of(result)[0] == TOLD


async def test_a_session_is_carried_on_by_the_next_job(site: Site, scrape: Scrape) -> None:
    """The list of one result is what the next job gives, and comes back with its next result."""
    site.at("/login", redirect("/home", 303, headers=[COOKIE, 'Set-Cookie: q="a b"; Path=/home']))
    site.at("/home", page())
    first = await scrape(site.url("/login"), form={"user": "me"}, include=["cookies"])
    site.at("/next", page(headers=["Set-Cookie: sid=2; Path=/"]))
    second = await scrape(site.url("/next"), cookies=cookies_of(first), include=["cookies"])
    await scrape(site.url("/home"), cookies=cookies_of(second))
    sent = [visit.header("Cookie") for visit in site.visits]
    assert sent == [None, 'q="a b"; sid=1', "sid=1", 'q="a b"; sid=2']


async def test_no_cookies_are_told_unless_asked_for(site: Site, scrape: Scrape) -> None:
    """The field is absent; if it was asked for and none was set, it is empty."""
    site.at("/a", page(headers=[COOKIE]))
    assert (await scrape(site.url("/a"))).cookies is UNSET
    assert (await scrape(site.at("/b", page()), include=["cookies"])).cookies == []


async def test_a_failed_page_tells_its_cookies_too(site: Site, scrape: Scrape) -> None:
    """A site that refuses a page may have set the session that the next try needs."""
    url = site.at("/a", page(status=403, headers=[COOKIE]))
    result = await scrape(url, include=["cookies"])
    assert (result.status, cookies_of(result)) == ("failed", [TOLD])


# --- headers of the hops


async def test_the_headers_of_each_hop(site: Site, scrape: Scrape) -> None:
    """On request, with lower-case names, each a list; else without."""
    site.at("/a", redirect("/b", headers=["X-Hop: 1", "x-hop: 2"]))
    site.at("/b", redirect("/c", 301))
    site.at("/c", page())
    result = await scrape(site.url("/a"), include=["redirect_headers"])
    assert result.headers is UNSET
    assert result.redirects is not UNSET
    first, second = result.redirects
    assert (first.status, first.url, second.status) == (302, site.url("/b"), 301)
    assert first.headers is not UNSET
    assert second.headers is not UNSET
    assert (first.headers["x-hop"], first.headers["location"]) == (["1", "2"], ["/b"])
    assert second.headers["location"] == ["/c"]
    plain = await scrape(site.url("/a"))
    assert plain.redirects == [Redirect(302, site.url("/b")), Redirect(301, site.url("/c"))]


# --- the status in each failure that had one


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("http://10.0.0.1/", "blocked_address"),
        ("http://127.0.0.1:1/", "connect"),
        ("http://no-such-name.invalid/", "dns"),
        ("ftp://127.0.0.1/", "protocol"),
        ("/a", "too_many_redirects"),
        ("/hangs", "timeout"),
        ("/junk", "protocol"),
    ],
)
async def test_a_failure_behind_a_redirect_tells_its_status(
    site: Site, location: str, kind: str
) -> None:
    """The answer that came last is told: its status, its URL, and the way to it."""
    config = loopback(fetch__nameservers=("127.0.0.1:1",))
    site.at("/hangs", Visit.gone)
    site.at("/junk", b"\x00 no HTTP\r\n\r\n")
    url = site.at("/a", redirect(location))
    async with fetcher_of(config) as fetcher:
        result = await scraping(config, fetcher)(url, timeout=0.5, max_redirects=1)
    assert result.error is not UNSET
    assert (result.error.kind, result.http_status, result.final_url) == (kind, 302, url)


async def test_one_redirect_too_many_says_where_it_leads(site: Site, scrape: Scrape) -> None:
    """With max_redirects 0 the failure has all that the redirect said."""
    url = site.at("/a", redirect("/b"))
    result = await scrape(url, max_redirects=0, include=["headers"])
    assert (result.http_status, result.redirect_url) == (302, site.url("/b"))
    assert result.headers is not UNSET
    assert result.headers["location"] == ["/b"]


async def test_a_robots_txt_behind_a_redirect_denies_with_the_status(site: Site) -> None:
    """The redirect had answered."""
    robots = page(b"User-agent: *\nDisallow: /b", content_type="text/plain")
    site.at("/robots.txt", robots)
    config = loopback(politeness__robotstxt_obey=True)
    async with fetcher_of(config) as fetcher:
        result = await scraping(config, fetcher)(site.at("/a", redirect("/b")))
    assert result.error is not UNSET
    assert (result.error.kind, result.http_status) == ("robots_denied", 302)


async def test_a_job_that_is_cut_off_in_the_body_tells_the_status(site: Site) -> None:
    """Its head had come, when the time of the whole job was over."""

    async def stuck(visit: Visit) -> None:
        await visit.send(head("Content-Length: 50") + b"some")
        await visit.gone()

    target = Target.of(Job(url=site.at("/a", stuck)))
    config = loopback()
    async with fetcher_of(config) as fetcher, scraper_of(config, fetcher, SYSTEM) as one:
        with contextlib.closing(one.claim()) as claim:
            ended = await one.scrape(target, None, claim, within=0.3)
    assert isinstance(ended, Failed)
    assert ended.failure.kind == "timeout"
    assert (ended.facts.http_status, ended.facts.final_url) == (200, site.url("/a"))
    assert ended.facts.fetch_time > 0.2


async def test_an_extraction_that_fails_tells_the_status(site: Site, scrape: Scrape) -> None:
    """The page was there; what was asked of it was not."""
    rules = {"t": {"selector": "h6", "required": True}}
    result = await scrape(site.at("/a", page()), extract=rules)
    assert result.error is not UNSET
    assert (result.error.kind, result.http_status) == ("extract", 200)
