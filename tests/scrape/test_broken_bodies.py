"""Tests of a body that can't be read: what its head said is known all the same.

May touch: the fault site on loopback.
Must never: reach beyond this machine.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from typing import TYPE_CHECKING

import pytest
from msgspec import UNSET

from scraperd.wiring import fetcher_of
from tests.rig.page import loopback, scraping
from tests.rig.sites.site import Site, Visit, chunk, head, page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.rig.page import Scrape

    Answer = Callable[[Visit, str], Awaitable[None]]

PACKED = gzip.compress(b"<title>why</title>" * 500)
LONG = b"".join(b"<title>%d</title><p>%d" % (n, n * n) for n in range(2000)) + b"<last>here</last>"
CUT = gzip.compress(LONG)[:-5000]
KEPT = zlib.decompressobj(31).decompress(CUT)


async def not_gzip(visit: Visit, status: str) -> None:
    lines = ("Content-Encoding: gzip", "Content-Length: 5", "Retry-After: 7")
    await visit.send(head(*lines, status=status) + b"plain")


async def half_gzip(visit: Visit, status: str) -> None:
    lines = ("Content-Encoding: gzip", "Retry-After: 7")
    await visit.send(head(*lines, status=status) + PACKED[: len(PACKED) // 2])
    visit.hang_up()


async def cut_off(visit: Visit, status: str) -> None:
    await visit.send(head("Content-Length: 50", "Retry-After: 7", status=status) + b"some")
    visit.hang_up()


async def broken_chunk(visit: Visit, status: str) -> None:
    lines = ("Transfer-Encoding: chunked", "Retry-After: 7")
    await visit.send(head(*lines, status=status) + chunk(b"some") + b"zz\r\n")


async def too_large(visit: Visit, status: str) -> None:
    await visit.send(head("Content-Length: 5000", "Retry-After: 7", status=status) + b"x" * 5000)


async def endless(visit: Visit, status: str) -> None:
    await visit.send(head("Retry-After: 7", status=status))
    await visit.flood(b"x" * 1000)


async def silent(visit: Visit, status: str) -> None:
    await visit.send(head("Content-Length: 5", "Retry-After: 7", status=status))
    await visit.gone()


TROUBLES: dict[Answer, str] = {
    not_gzip: "decode",
    half_gzip: "decode",
    cut_off: "protocol",
    broken_chunk: "protocol",
    too_large: "too_large",
    endless: "too_large",
    silent: "timeout",
}


def answering(answer: Answer, status: str) -> Callable[[Visit], Awaitable[None]]:
    """A handler that answers so, with this status."""
    return lambda visit: answer(visit, status)


@pytest.mark.parametrize("answer", TROUBLES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("status", [403, 404, 429, 503])
async def test_the_head_decides(site: Site, scrape: Scrape, answer: Answer, status: int) -> None:
    """The failure is the status, with its Retry-After, and says what was wrong with the body."""
    url = site.at("/", answering(answer, f"{status} No"))
    result = await scrape(url, max_body_size=1000, timeout=0.5)
    assert result.error is not UNSET
    assert (result.error.kind, result.http_status) == ("http_status", status)
    assert result.error.retryable is (status in (429, 503))
    assert result.error.retry_after == 7
    assert result.error.message.startswith(f"the site answered {status}; ")
    assert (result.size, result.body) == (UNSET, UNSET), "a body that nobody has read"


@pytest.mark.parametrize("answer", TROUBLES, ids=lambda one: one.__name__)
async def test_a_good_status_with_a_bad_body(site: Site, scrape: Scrape, answer: Answer) -> None:
    """It is no page, and the result has what the head said."""
    url = site.at("/", answering(answer, "200 OK"))
    result = await scrape(url, max_body_size=1000, timeout=0.5, include=["headers", "body"])
    assert result.error is not UNSET
    assert (result.error.kind, result.http_status) == (TROUBLES[answer], 200)
    assert result.final_url == url
    assert result.headers is not UNSET
    assert result.headers["retry-after"] == ["7"]
    assert (result.size, result.body) == (UNSET, UNSET)


def cut_page(*lines: str, status: int = 200) -> bytes:
    """A message that is whole, with a stream that is not."""
    return page(CUT, status=status, headers=["Content-Encoding: gzip", *lines])


async def test_a_page_that_its_site_cut(site: Site, scrape: Scrape) -> None:
    """What came is a page with a mark, and has no validators: a 304 would keep it cut for ever."""
    lines = ('ETag: "v1"', "Last-Modified: Sat, 01 Nov 2025 10:00:00 GMT")
    url = site.at("/", cut_page(*lines))
    rules = {"title": "title", "last": "last"}
    result = await scrape(url, extract=rules, include=["body", "links"])
    assert (result.status, result.error, result.body_truncated) == ("ok", UNSET, "decode")
    assert (result.body, result.size) == (KEPT.decode(), len(KEPT))
    assert result.content_hash == f"sha256:{hashlib.sha256(KEPT).hexdigest()}"
    assert result.data == {"title": "0", "last": None}
    assert (result.etag, result.last_modified) == (UNSET, UNSET)
    whole = await scrape(site.at("/whole", page(LONG)))
    assert whole.body_truncated is UNSET


async def test_what_the_cut_page_lacks_is_told_with_the_mark(site: Site, scrape: Scrape) -> None:
    """A required value that is not in what came: the failure has the mark beside it."""
    rules = {"last": {"selector": "last", "required": True}}
    result = await scrape(site.at("/", cut_page()), extract=rules)
    assert result.error is not UNSET
    assert (result.error.kind, result.body_truncated) == ("extract", "decode")


@pytest.mark.parametrize("status", [403, 404, 429, 503])
async def test_the_head_decides_of_a_cut_page_too(site: Site, scrape: Scrape, status: int) -> None:
    """The failure is the status; what came of its body is there, with the mark."""
    result = await scrape(site.at("/", cut_page("Retry-After: 7", status=status)))
    assert result.error is not UNSET
    assert (result.error.kind, result.http_status) == ("http_status", status)
    assert result.error.retry_after == 7
    assert (result.body, result.body_truncated) == (KEPT.decode(), "decode")


async def test_a_robots_txt_that_its_site_cut(site: Site) -> None:
    """What is missing may deny the page, so nothing is fetched, and it is asked for again."""
    packed = gzip.compress(b"User-agent: *\nAllow: /\n# and so on\nDisallow: /\n")
    site.at("/robots.txt", page(packed[:-8], headers=["Content-Encoding: gzip"]))
    obedient = loopback(politeness__robotstxt_obey=True)
    async with fetcher_of(obedient) as fetcher:
        result = await scraping(obedient, fetcher)(site.at("/", page(b"here")))
    assert result.error is not UNSET
    assert (result.error.kind, result.error.retryable) == ("decode", True)
    assert result.error.message.startswith("robots.txt: ")
    assert site.seen("/") == []


# A silent robots.txt has ten seconds; its status is judged by the same code.
@pytest.mark.parametrize("answer", [*TROUBLES][:-1], ids=lambda one: one.__name__)
@pytest.mark.parametrize(("status", "allowed"), [(404, True), (403, True), (503, False)])
async def test_robots_txt_is_judged_by_its_status(
    site: Site, answer: Answer, status: int, *, allowed: bool
) -> None:
    """RFC 9309 section 2.3.1: 4xx allows all, 5xx nothing, whatever its body."""
    site.at("/robots.txt", answering(answer, f"{status} No"))
    obedient = loopback(politeness__robotstxt_obey=True)
    async with fetcher_of(obedient) as fetcher:
        result = await scraping(obedient, fetcher)(site.at("/", page(b"here")))
    assert (result.status == "ok") is allowed, result.error
