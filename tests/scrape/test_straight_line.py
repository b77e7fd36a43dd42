"""Tests of what stands between a job and its page: conditions, robots.txt, turns, memory.

May touch: sites on loopback, some of them as two hosts; a private nginx.
Must never: reach beyond this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import itertools
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from scraperd.base.clocks import SYSTEM, Clocks
from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.config.tables import HostSettings
from scraperd.contract import Failure, Job, Redirect, Result, decode_job
from scraperd.extract.compile import compile_rules
from scraperd.politeness.admission import MAX_UNSEARCHED, NotYet, Reservation
from scraperd.politeness.host_queue import HostQueue
from scraperd.politeness.host_rules import HostRules
from scraperd.politeness.throttle import Throttle
from scraperd.sandbox.extractor import Crowded
from scraperd.scrape.request import Target
from scraperd.scrape.result import Failed, Scraped, result_of
from scraperd.wiring import fetcher_of, opened, pages_of, scraper_of
from tests.rig.clocks.lived import lived
from tests.rig.page import label, loopback
from tests.rig.sites.nginx import Nginx
from tests.rig.sites.site import Site, Visit, page, redirect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from scraperd.scrape.pipeline import Scraper
    from tests.rig.page import Scrape
    from tests.rig.sites.site import Handler

NOISE = 0.05  # seconds a request may take from its start to where the site's clock is read
TAG = '"v1"'
DATE = "Sat, 01 Nov 2025 10:00:00 GMT"
VALIDATORS = [f"ETag: {TAG}", f"Last-Modified: {DATE}"]
UNCHANGED = f"HTTP/1.1 304 Not Modified\r\nETag: {TAG}\r\n\r\n".encode()


class Run:
    """A scraper as a daemon has it: one for all of a test's jobs."""

    def __init__(self, scraper: Scraper) -> None:
        self._scraper = scraper

    async def __call__(
        self, url: str, reservation: Reservation | None = None, **fields: Any
    ) -> Result | NotYet:
        """What becomes of a job: its result, or when it is to come back."""
        job = decode_job(msgspec.json.encode({"url": url, **fields}))
        assert isinstance(job, Job), job
        started = time.monotonic()
        with contextlib.closing(self._scraper.claim()) as claim:
            target = Target.of(job)
            ended = await self._scraper.scrape(target, None, claim, reservation=reservation)
        if isinstance(ended, NotYet):
            return ended
        timings = ended.facts.timings(time.monotonic() - started)
        return result_of(label(job), ended, timings)


@contextlib.asynccontextmanager
async def scraper(**settings: Any) -> AsyncIterator[Run]:
    """One that may reach these sites, with these settings."""
    config = loopback(**settings)
    async with fetcher_of(config) as fetcher, scraper_of(config, fetcher, SYSTEM) as one:
        yield Run(one)


@pytest.fixture
async def hosts(no_loose_ends: None) -> AsyncIterator[Site]:
    """A site that is reached as 127.0.0.1, 127.0.0.2, ...: to us, different hosts."""
    async with Site(listen="0.0.0.0") as site:
        yield site


def second(site: Site, path: str) -> str:
    """The URL of a path on the second host."""
    return f"http://127.0.0.2:{site.port}{path}"


def robots(*lines: str) -> bytes:
    return page("\n".join(["User-agent: *", *lines]).encode(), content_type="text/plain")


def timed(times: list[float], answer: bytes) -> Handler:
    """Answer so, and note when it was asked for."""

    async def send(visit: Visit) -> None:
        times.append(time.monotonic())
        await visit.send(answer)

    return send


def fine(result: Result | NotYet) -> Result:
    assert isinstance(result, Result), result
    assert (result.status, result.error) == ("ok", UNSET)
    return result


def failed(result: Result | NotYet) -> Failure:
    assert isinstance(result, Result), result
    assert result.status == "failed"
    assert result.error is not UNSET
    return result.error


# --- conditional fetches (RFC 9110 section 13)


@pytest.mark.parametrize(
    ("fields", "header", "value"),
    [
        ({"etag": TAG}, "If-None-Match", TAG),
        ({"etag": 'W/"v1"'}, "If-None-Match", 'W/"v1"'),
        ({"last_modified": DATE}, "If-Modified-Since", DATE),
        ({"headers": {"if-none-match": TAG}}, "If-None-Match", TAG),
        ({"headers": {"IF-MODIFIED-SINCE": DATE}}, "If-Modified-Since", DATE),
    ],
)
async def test_a_page_that_has_not_changed(
    site: Site, scrape: Scrape, fields: dict[str, Any], header: str, value: str
) -> None:
    """The condition is sent as it was given; a 304 to it is a good end without a page."""
    wanted = {"include": ["body", "headers", "links"], "extract": {"a": "h1"}}
    result = await scrape(site.at("/", UNCHANGED), **fields, **wanted)
    assert site.visits[0].header(header) == value
    assert (result.status, result.http_status, result.not_modified) == ("ok", 304, True)
    assert result.etag == TAG
    for name in ("body", "content_hash", "size", "data", "links", "headers", "last_modified"):
        assert getattr(result, name) is UNSET, name


async def test_both_conditions_at_once(site: Site, scrape: Scrape) -> None:
    """A job may give both of a former result's validators; the site chooses (section 13.2.2)."""
    result = await scrape(site.at("/", UNCHANGED), etag=TAG, last_modified=DATE)
    assert result.not_modified is True
    assert site.visits[0].header("If-None-Match") == TAG
    assert site.visits[0].header("If-Modified-Since") == DATE


async def test_a_304_that_nobody_asked_for(site: Site, scrape: Scrape) -> None:
    """Without a condition it is a status like any other that is no success."""
    error = failed(await scrape(site.at("/", UNCHANGED)))
    assert (error.kind, error.retryable) == ("http_status", False)


async def test_a_condition_travels_through_a_redirect(site: Site, scrape: Scrape) -> None:
    """The page may have moved since its validators were given."""
    site.at("/new", UNCHANGED)
    result = await scrape(site.at("/", redirect("/new", 301)), etag=TAG)
    assert (result.status, result.not_modified) == ("ok", True)
    assert result.final_url == site.url("/new")
    assert site.seen("/new")[0].header("If-None-Match") == TAG


async def test_a_page_that_has_changed(site: Site, scrape: Scrape) -> None:
    """A 200 to a condition is a page like any other, with the new validators."""
    result = await scrape(site.at("/", page(b"new", headers=VALIDATORS)), etag='"v0"')
    assert (result.status, result.body, result.not_modified) == ("ok", "new", UNSET)
    assert (result.etag, result.last_modified) == (TAG, DATE)


async def test_the_hash_is_the_pages_own(site: Site, scrape: Scrape) -> None:
    """SHA-256 of the body without its content coding, so that it is the same with any coding."""
    body = b"<title>The same</title>" * 100
    site.at("/gzip", page(gzip.compress(body), headers=["Content-Encoding: gzip"]))
    plain, zipped = await scrape(site.at("/", page(body))), await scrape(site.url("/gzip"))
    assert plain.content_hash == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert zipped.content_hash == plain.content_hash
    assert zipped.size == plain.size == len(body)


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """A real server with one page."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.html").write_text("<title>One</title>")
    with Nginx(root, tmp_path / "nginx", extra="open_file_cache off;") as site:
        yield site


async def test_a_real_server_decides(nginx: Nginx, scrape: Scrape) -> None:
    """What it gave with the page makes it answer 304, until the page is another one."""
    url = f"{nginx.url}a.html"
    first = await scrape(url)
    assert first.body == "<title>One</title>"
    for name in ("etag", "last_modified"):
        again = await scrape(url, **{name: getattr(first, name)})
        assert (again.http_status, again.not_modified, again.body) == (304, True, UNSET)
    (nginx.root / "a.html").write_text("<title>Another</title>")
    changed = await scrape(url, etag=first.etag)
    assert (changed.http_status, changed.body) == (200, "<title>Another</title>")
    assert changed.etag not in (first.etag, UNSET)
    assert changed.content_hash != first.content_hash


# --- robots.txt (RFC 9309)


async def test_a_robots_txt_holds_for_its_origin_only(site: Site) -> None:
    """Another port is another origin (section 2.3), with a file of its own."""
    site.at("/robots.txt", robots("Disallow: /a"))
    site.at("/b", page())
    async with Site() as other, scraper(politeness__robotstxt_obey=True) as run:
        other.at("/a", page())
        assert failed(await run(site.url("/a"))).kind == "robots_denied"
        fine(await run(site.url("/b")))
        fine(await run(other.url("/a")))
        assert len(other.seen("/robots.txt")) == 1
    assert [visit.path for visit in site.visits] == ["/robots.txt", "/b"]


async def test_a_robots_txt_behind_a_redirect(site: Site) -> None:
    """It holds for the origin that was asked, wherever the file is (section 2.3.1.2)."""
    async with Site() as other, scraper(politeness__robotstxt_obey=True) as run:
        other.at("/r", robots("Disallow: /a"))
        other.at("/a", page())
        site.at("/robots.txt", redirect(other.url("/r")))
        assert failed(await run(site.url("/a"))).kind == "robots_denied"
        fine(await run(other.url("/a")))
    assert site.seen("/a") == []


async def test_a_robots_txt_is_no_way_round_another_hosts(hosts: Site) -> None:
    """Where it redirects to a page of another host, that host's own robots.txt holds for it."""

    async def own(visit: Visit) -> None:
        first = (visit.header("Host") or "").startswith("127.0.0.1")
        there = redirect(second(hosts, "/expensive"))
        await visit.send(there if first else robots("Disallow: /expensive"))

    hosts.at("/robots.txt", own)
    hosts.at("/page", page())
    hosts.at("/expensive", robots("Allow: /"))
    async with scraper(politeness__robotstxt_obey=True) as run:
        fine(await run(second(hosts, "/page")))
        denied = await run(hosts.url("/page"))
    assert isinstance(denied, Result)
    assert denied.error is not UNSET
    assert denied.error.kind == "robots_denied"
    assert hosts.seen("/expensive") == []


@pytest.mark.parametrize("status", [401, 403, 407])
async def test_what_a_proxy_says_is_no_robots_txt(site: Site, status: int) -> None:
    """A proxy that refuses us does not allow us the site: a failure of the proxy, and no fetch."""
    site.at("http://127.0.0.9:1/robots.txt", page(status=status))
    async with scraper(
        politeness__robotstxt_obey=True, proxies={"p": site.url("")}, fetch__proxy="p"
    ) as run:
        refused = await run("http://127.0.0.9:1/page")
    assert isinstance(refused, Result)
    assert refused.error is not UNSET
    assert refused.error.kind == "proxy"
    assert [visit.target for visit in site.visits] == ["http://127.0.0.9:1/robots.txt"]


async def test_hanging_robots_txt_leave_slots_for_others(hosts: Site) -> None:
    """Thirty hosts whose robots.txt never comes take half of the slots at most: a host whose rules
    are known is served at once, and jobs of the thirty are told to come back, not all at once.
    """

    async def known_or_never(visit: Visit) -> None:
        if (visit.header("Host") or "").startswith("127.0.0.1:"):
            await visit.send(robots("Allow: /"))
        else:
            await visit.gone()

    hosts.at("/robots.txt", known_or_never)
    hosts.at("/page", page())
    async with scraper(
        politeness__robotstxt_obey=True, concurrency=8, politeness__snooze_after=0.3
    ) as run:
        fine(await run(hosts.url("/page")))
        silent = [f"http://127.0.1.{n}:{hosts.port}/page" for n in range(1, 31)]
        jobs = [asyncio.create_task(run(url)) for url in silent]
        await hosts.until(lambda site: len(site.visits) == 2 + 4)
        async with asyncio.timeout(2):
            fine(await run(hosts.url("/page")))
        told = await asyncio.gather(*jobs)
        assert len(hosts.seen("/robots.txt")) == 1 + 4
    waits = [later.seconds for later in told if isinstance(later, NotYet)]
    assert len(waits) == 30
    assert min(waits) >= 5
    assert max(waits) - min(waits) > 3


async def test_a_way_that_leads_through_a_denied_page(site: Site) -> None:
    """Each hop is asked for: the denied one is not fetched, and what lies behind it neither."""
    site.at("/robots.txt", robots("Disallow: /b"))
    site.at("/b", redirect("/c"))
    site.at("/c", page())
    async with scraper(politeness__robotstxt_obey=True) as run:
        result = await run(site.at("/a", redirect("/b")))
    assert failed(result).kind == "robots_denied"
    assert isinstance(result, Result)
    assert [hop.url for hop in result.redirects or ()] == [site.url("/b")]
    assert [visit.path for visit in site.visits] == ["/robots.txt", "/a"]


async def test_a_redirect_to_an_origin_that_denies(site: Site) -> None:
    """The target's own robots.txt is asked, though the first site allows everything."""
    async with Site() as other, scraper(politeness__robotstxt_obey=True) as run:
        other.at("/robots.txt", robots("Disallow: /"))
        result = await run(site.at("/a", redirect(other.url("/secret"))))
        assert failed(result).kind == "robots_denied"
        assert [visit.path for visit in other.visits] == ["/robots.txt"]


async def test_a_robots_txt_is_asked_for_under_our_name(site: Site) -> None:
    """As any page is; with nothing of the job in it."""
    site.at("/a", page())
    async with scraper(politeness__robotstxt_obey=True, fetch__user_agent="Tester/1.0") as run:
        fine(await run(site.url("/a"), headers={"Authorization": "x"}, cookies={"a": "b"}))
    [visit] = site.seen("/robots.txt")
    assert visit.header("User-Agent") == "Tester/1.0"
    assert (visit.header("Authorization"), visit.header("Cookie")) == (None, None)


async def test_a_robots_txt_that_takes_its_time(site: Site) -> None:
    """Its jobs do not wait for it here. They come back, and it has been asked for once."""
    come = asyncio.Event()

    async def slow(visit: Visit) -> None:
        await come.wait()
        await visit.send(robots("Disallow: /b"))

    site.at("/robots.txt", slow)
    site.at("/a", page())
    async with scraper(politeness__robotstxt_obey=True, politeness__snooze_after=0.1) as run:
        told = await asyncio.gather(*(run(site.url("/a")) for _ in range(3)))
        for not_yet in told:
            assert isinstance(not_yet, NotYet)
            assert not_yet.host == "127.0.0.1"
        come.set()
        assert isinstance(told[0], NotYet)
        promised = Reservation(told[0].host, told[0].seconds)
        fine(await run(site.url("/a"), reservation=promised))
        assert failed(await run(site.url("/b"))).kind == "robots_denied"
    assert [visit.path for visit in site.visits] == ["/robots.txt", "/a"]


async def test_a_robots_txt_that_never_comes_holds_no_end_up(site: Site) -> None:
    """The process can stop at once, though a fetch of one still runs."""
    site.at("/robots.txt", Visit.gone)
    async with lived() as seconds:
        async with scraper(politeness__robotstxt_obey=True, politeness__snooze_after=0.1) as run:
            assert isinstance(await run(site.url("/a")), NotYet)
            before = seconds()
        assert seconds() - before < 1
    await site.until(lambda site: site.open == 0)


# --- turns


async def test_each_hop_takes_its_own_hosts_turn(hosts: Site) -> None:
    """A redirect to a host with a delay waits for it; the host that sent it there has none."""
    at_a: list[float] = []
    at_b: list[float] = []
    hosts.at("/page", timed(at_b, page()))
    hosts.at("/from", timed(at_a, redirect(second(hosts, "/page"))))
    async with scraper(hosts={"127.0.0.2": _delay(2)}, politeness__snooze_after=5) as run:
        fine(await run(second(hosts, "/page")))
        started = time.monotonic()
        result = fine(await run(hosts.url("/from")))
    assert at_a[0] - started < 0.9
    assert at_b[1] - at_b[0] >= 1 - NOISE
    assert result.timings is not UNSET
    assert (result.timings.wait or 0) > 0.05


async def test_a_redirect_within_a_host_waits_too(site: Site) -> None:
    """To the host it is one more request; it comes before jobs that have not begun."""
    times: list[float] = []
    site.at("/a", timed(times, redirect("/b")))
    site.at("/b", timed(times, page()))
    site.at("/c", timed(times, page()))
    async with scraper(politeness__per_host_delay=0.3, politeness__snooze_after=10) as run:
        for result in await asyncio.gather(run(site.url("/a")), run(site.url("/c"))):
            fine(result)
    assert [visit.path for visit in site.visits] == ["/a", "/b", "/c"]
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.15 - NOISE


async def test_a_loop_of_redirects_ends(hosts: Site) -> None:
    """Also one over two hosts, each with a robots.txt."""
    hosts.at("/a", redirect(second(hosts, "/b")))
    hosts.at("/b", redirect(hosts.url("/a")))
    async with scraper(politeness__robotstxt_obey=True, fetch__max_redirects=6) as run:
        error = failed(await run(hosts.url("/a")))
    assert (error.kind, error.retryable) == ("too_many_redirects", False)
    assert len(hosts.seen("/a") + hosts.seen("/b")) == 7
    assert len(hosts.seen("/robots.txt")) == 2


async def test_waiting_is_not_held_against_a_job(site: Site) -> None:
    """What is waited for a turn counts as `wait`, and takes nothing of the job's timeout."""
    site.at("/", page())
    async with scraper(politeness__per_host_delay=2, politeness__snooze_after=5) as run:
        fine(await run(site.url()))
        result = fine(await run(site.url(), timeout=0.9))
    assert result.timings is not UNSET
    assert (result.timings.wait or 0) > 0.9
    assert (result.timings.fetch or 0) < 0.9
    assert result.timings.total >= (result.timings.wait or 0)


async def test_a_job_that_comes_back_is_served_in_its_place(site: Site) -> None:
    """One whose turn is too far off is told when; with that reservation, it is served then."""
    site.at("/", page())
    async with scraper(politeness__per_host_delay=0.4, politeness__snooze_after=0.05) as run:
        fine(await run(site.url()))
        later = await run(site.url())
        assert isinstance(later, NotYet)
        assert 0 < later.seconds <= 0.6
        await asyncio.sleep(later.seconds)
        fine(await run(site.url(), reservation=Reservation(later.host, 0.0)))


@given(moments=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1, exclude_max=True)), max_size=20))
def test_no_dice_bring_two_starts_closer_than_half_a_delay(
    moments: list[tuple[float, float]],
) -> None:
    """However late each start is, and whatever is thrown: a late one is not made up for by less
    than the shortest pause.
    """
    queue = HostQueue("h", HostRules(10**6, 1.0, obey_robots=False, proxy=""), Throttle(10**6, 1.0))
    now, starts = 100.0, []
    for late, jitter in moments:
        now = max(now, queue.opens_at) + late
        starts.append(now)
        queue.start(now, jitter)
    for earlier, later in itertools.pairwise([*starts, max(now, queue.opens_at)]):
        assert not starts or later - earlier >= 0.5 - 1e-9


# --- what is known of a job that is cut off


async def test_a_job_that_is_cut_off_at_a_hop_tells_of_its_way(site: Site) -> None:
    """A redirect, and then silence until the job's time is over: a timeout that may be retried,
    with the redirect, the time of the first fetch, and the seconds that it took.
    """
    target = Target.of(Job(url=site.at("/a", redirect("/b"))))
    site.at("/b", Visit.gone)
    begun: list[str] = []
    config = loopback()
    async with fetcher_of(config) as fetcher, scraper_of(config, fetcher, SYSTEM) as one:
        with contextlib.closing(one.claim()) as claim:
            began = time.monotonic()
            ended = await one.scrape(
                target, None, claim, within=0.5, on_fetch=lambda: begun.append("a")
            )
            took = time.monotonic() - began
    assert isinstance(ended, Failed)
    assert ended.failure == Failure("timeout", "the job took over 0.5 s", retryable=True)
    result = result_of(label(target.job), ended, ended.facts.timings(0.5))
    assert result.redirects == [Redirect(302, site.url("/b"))]
    assert (result.status, result.final_url) == ("failed", site.url("/a"))
    assert result.http_status == 302  # of the answer that came last
    assert result.fetched_at is not UNSET
    assert result.timings is not UNSET
    assert 0 < (result.timings.fetch or 0) < took
    assert begun == ["a"]


async def test_a_job_that_is_cut_off_at_its_page_tells_of_the_page(site: Site) -> None:
    """The page has come, and looking through it takes hours: what needs no look is told."""
    body = b"<b>" * 3_000
    url, raw = site.at("/", page(body, content_type="text/html")), b'{"t": "x b b b"}'
    target, rules = Target.of(Job(url=url, extract=msgspec.Raw(raw))), compile_rules(raw)
    config = loopback(sandbox__timeout=60)
    async with fetcher_of(config) as fetcher, scraper_of(config, fetcher, SYSTEM) as one:
        with contextlib.closing(one.claim()) as claim:
            ended = await one.scrape(target, rules, claim, within=3)
    assert isinstance(ended, Failed)
    assert ended.failure.message == "the job took over 3 s"
    result = result_of(label(target.job), ended)
    assert (result.http_status, result.final_url) == (200, site.url("/"))
    assert (result.size, result.content_type) == (len(body), "text/html")


async def test_a_job_that_is_told_to_come_back_has_begun_nothing(site: Site) -> None:
    """`on_fetch` is not called: until it is, a process that ends may give the job to another."""
    site.at("/", page())
    begun: list[str] = []
    config = loopback(politeness__per_host_delay=60, politeness__snooze_after=0.05)
    async with fetcher_of(config) as fetcher, scraper_of(config, fetcher, SYSTEM) as one:
        for name, expected in (("first", Scraped), ("second", NotYet)):
            with contextlib.closing(one.claim()) as claim:
                ended = await one.scrape(
                    Target.of(Job(url=site.url())),
                    None,
                    claim,
                    on_fetch=lambda name=name: begun.append(name),
                )
            assert isinstance(ended, expected)
    assert begun == ["first"]


async def test_how_long_a_job_rests_is_for_the_die_to_say() -> None:
    """Without descriptors some seconds, beside too many long pages more, spread by the die."""
    config = loopback()
    for roll, rests in ((0.0, (2.0, 15.0)), (0.5, (4.0, 37.5))):
        clocks = Clocks(time.monotonic, time.time, lambda roll=roll: roll)
        async with fetcher_of(config) as fetcher, scraper_of(config, fetcher, clocks) as one:
            told = [one.snooze("h", lack) for lack in (OutOfDescriptors(), Crowded())]
            assert told == [NotYet("h", rest) for rest in rests]
            assert one.snoozed_for == {OutOfDescriptors: 1, Crowded: 1}


# --- memory


async def test_fetches_wait_for_memory(site: Site) -> None:
    """Bodies of many times the budget, all at once: each is fetched when there is room for it."""
    body = b"<title>large</title>" + b"x" * 700_000
    site.at("/", page(body))
    patience = {"fetch__download_timeout": 60, "politeness__snooze_after": 60}  # on any machine
    async with scraper(fetch__memory_budget=1024 * 1024, **patience) as run:
        results = await asyncio.gather(*(run(site.url()) for _ in range(12)))
    hashes = {fine(result).content_hash for result in results}
    assert hashes == {f"sha256:{hashlib.sha256(body).hexdigest()}"}


async def test_a_fetch_does_not_begin_without_memory(site: Site) -> None:
    """While a body that takes all of it is not done with, no other page is asked for."""
    site.at("/a", page(b"x" * 1_100_000))
    site.at("/b", page())
    config = loopback(fetch__memory_budget=1024 * 1024)
    async with fetcher_of(config) as fetcher, scraper_of(config, fetcher, SYSTEM) as one:
        held = one.claim()
        ended = await one.scrape(Target.of(Job(url=site.url("/a"))), None, held)
        assert isinstance(ended, Scraped)
        waiting = asyncio.create_task(Run(one)(site.url("/b"), timeout=0.5))
        async with scraper() as other:  # whose memory is its own
            fine(await other(site.at("/c", page())))
        assert site.seen("/b") == []
        held.close()
        fine(await waiting)


def _delay(seconds: float) -> Any:
    return msgspec.convert({"per_host_delay": seconds}, HostSettings)


# --- pages that come sooner than they can be searched


async def test_pages_do_not_pile_up_before_they_are_searched(hosts: Site) -> None:
    """A site that answers at once gets no more requests while too many pages wait for the loop."""
    concurrency, jobs = 150, 600
    settings = {"concurrency": concurrency, "politeness__per_host_concurrency": jobs}
    config = loopback(**settings, politeness__per_address_concurrency=0, broker__prefetch=jobs)
    body = page(b"<p>text <a href=/x>x</a></p>" * 2000)
    held: list[int] = []
    async with fetcher_of(config) as fetcher, opened(pages_of(config, fetcher, SYSTEM)) as pages:
        waiting = pages.extractor.waiting_for_loop

        async def answer(visit: Visit) -> None:
            held.append(waiting())
            assert pages.hops.scheduler.busy + waiting() <= concurrency + MAX_UNSEARCHED + 1
            await visit.send(body)

        run, url = Run(pages.scraper), hosts.at("/", answer)
        found = await asyncio.gather(*(run(url, include=["links"]) for _ in range(jobs)))
    for result in found:
        fine(result)
    assert max(held) > MAX_UNSEARCHED, "the pages were searched as fast as they came"
