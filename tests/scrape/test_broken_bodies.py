"""Tests of a body that can't be read: what its head said is known all the same.

May touch: the fault site on loopback.
Must never: reach beyond this machine.
"""

from __future__ import annotations

import gzip
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


async def not_gzip(visit: Visit, status: str) -> None:
    lines = ("Content-Encoding: gzip", "Content-Length: 5", "Retry-After: 7")
    await visit.send(head(*lines, status=status) + b"plain")


async def half_gzip(visit: Visit, status: str) -> None:
    lines = ("Content-Encoding: gzip", f"Content-Length: {len(PACKED) // 2}", "Retry-After: 7")
    await visit.send(head(*lines, status=status) + PACKED[: len(PACKED) // 2])


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
