"""Tests of a result's timings: which steps of a fetch happened, and how long each took.

May touch: sites, a nameserver and proxies on loopback.
Must never: reach beyond this machine.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from scraperd.contract import Timings
from scraperd.wiring import fetcher_of
from tests.rig.page import loopback, scraping
from tests.rig.sites.dns import Nameserver
from tests.rig.sites.proxies import RealProxy
from tests.rig.sites.site import Site, Visit, full_backlog, head, page, redirect

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.contract import Result
    from tests.rig.page import Scrape
    from tests.rig.sites.certificates import Certificates

STEPS = ("dns", "connect", "tls", "first_byte", "transfer")
ROUNDING = 1e-5  # seconds: each step is rounded to a microsecond


def steps_of(result: Result) -> dict[str, float]:
    """The steps that happened, in seconds; together they are no longer than the fetch."""
    assert isinstance(result.timings, Timings)
    told = msgspec.to_builtins(result.timings)
    found = {name: told[name] for name in STEPS if name in told}
    fetched = sum(took for name, took in found.items() if name != "dns")
    assert fetched <= told["fetch"] + ROUNDING
    assert all(took > 0 for took in found.values())
    return found


async def test_the_steps_of_a_first_page_and_of_a_second(site: Site, scrape: Scrape) -> None:
    """A connection is made once; on a kept one the answer is all there is."""
    site.at("/a", page())
    assert set(steps_of(await scrape(site.url("/a")))) == {"connect", "first_byte", "transfer"}
    assert set(steps_of(await scrape(site.url("/a")))) == {"first_byte", "transfer"}
    assert site.connections == 1


async def test_the_steps_of_a_name(site: Site) -> None:
    """The lookup is a step of the job that waited for it, and of no later one."""
    site.at("/a", page())
    async with Nameserver({"a.test": [("A", "127.0.0.1", 60)]}) as server:
        config = loopback(fetch__nameservers=(server.address,))
        async with fetcher_of(config) as fetcher:
            run = scraping(config, fetcher)
            url = f"http://a.test:{site.port}/a"
            first, second = steps_of(await run(url)), steps_of(await run(url))
    assert set(first) == {"dns", "connect", "first_byte", "transfer"}
    assert set(second) == {"first_byte", "transfer"}


async def test_the_steps_of_https(trusted: Certificates) -> None:
    """The handshake is told apart from the connection below it."""
    async with Site(trusted.good) as secure, fetcher_of(loopback()) as fetcher:
        run = scraping(loopback(), fetcher)
        secure.at("/a", page())
        first, second = steps_of(await run(secure.url("/a"))), steps_of(await run(secure.url("/a")))
    assert set(first) == {"connect", "tls", "first_byte", "transfer"}
    assert set(second) == {"first_byte", "transfer"}


async def test_a_handshake_that_never_ends(scrape: Scrape) -> None:
    """The connection was made, and the time was lost to TLS."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        steps = steps_of(await scrape(f"https://127.0.0.1:{port}/", timeout=0.5))
    assert set(steps) == {"connect", "tls"}
    assert steps["tls"] > 0.3


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_the_steps_through_a_proxy(
    scheme: str, trusted: Certificates, tmp_path: Path
) -> None:
    """The connection is that to the proxy; the handshake is with the site."""
    with RealProxy(scheme, tmp_path) as proxy:
        config = loopback(proxies={"exit": proxy.url()})
        async with Site(trusted.good) as secure, fetcher_of(config) as fetcher:
            secure.at("/a", page())
            result = await scraping(config, fetcher)(secure.url("/a"), proxy="exit")
            assert set(steps_of(result)) == {"connect", "tls", "first_byte", "transfer"}


async def test_which_step_a_slow_answer_is(site: Site, scrape: Scrape) -> None:
    """What the site takes before its first byte, and what it takes after that."""
    told: list[float] = []

    async def late(visit: Visit) -> None:
        began = time.monotonic()
        await asyncio.sleep(0.2)
        told.append(time.monotonic() - began)
        await visit.send(head("Content-Length: 4") + b"so")
        await asyncio.sleep(0.1)
        told.append(time.monotonic() - began - told[0])
        await visit.send(b"me")

    site.at("/late", late)
    site.at("/a", redirect("/late"))
    steps = steps_of(await scrape(site.url("/a")))
    assert steps["first_byte"] >= told[0]
    assert told[1] - 0.01 <= steps["transfer"] < steps["first_byte"]


async def test_the_steps_of_what_failed(site: Site, scrape: Scrape) -> None:
    """A connection that never comes is a step, and so is a body that never ends."""
    async with full_backlog() as port:
        refused = await scrape(f"http://127.0.0.1:{port}/", timeout=0.2)
    assert set(steps_of(refused)) == {"connect"}
    assert steps_of(refused)["connect"] > 0.1

    async def stuck(visit: Visit) -> None:
        await visit.send(head("Content-Length: 50") + b"some")
        await visit.gone()

    cut = steps_of(await scrape(site.at("/stuck", stuck), timeout=0.2))
    assert set(cut) == {"connect", "first_byte", "transfer"}
    assert cut["transfer"] > cut["first_byte"]
    silent = await scrape(site.at("/silent", Visit.gone), timeout=0.2)
    assert set(steps_of(silent)) <= {"connect"}


async def test_a_job_that_asked_no_site_has_no_steps(scrape: Scrape) -> None:
    """It was refused before anything was dialled."""
    result = await scrape("http://10.0.0.1/")
    assert steps_of(result) == {}
