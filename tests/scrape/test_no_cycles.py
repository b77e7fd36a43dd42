"""A page leaves no cycle of references behind: it is freed at once, without the collector.

May touch: a site in a thread, the rooms of a page, the garbage collector, which it stops meanwhile.
Must never: count what was there before.
"""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from scraperd.base.clocks import SYSTEM
from scraperd.contract import Job, decode_job
from scraperd.scrape.request import Target
from scraperd.wiring import fetcher_of, scraper_of
from tests.rig.ports import free_port
from tests.rig.settings import configured

if TYPE_CHECKING:
    from scraperd.scrape.pipeline import Scraper
    from tests.rig.sites.hostel import Hostel

PAGES = 20


async def scrape(scraper: Scraper, job: dict[str, Any]) -> None:
    """Scrape one page, whatever comes of it."""
    decoded = decode_job(json.dumps(job).encode(), 16 * 2**20)
    assert isinstance(decoded, Job)
    claim = scraper.claim()
    try:
        await scraper.scrape(Target.of(decoded), None, claim, within=30)
    finally:
        claim.close()


async def left_behind(job: dict[str, Any]) -> int:
    """How many objects only the collector frees after PAGES pages."""
    config = configured(
        fetch__allow_networks=("127.0.0.0/8",),
        fetch__allow_ports=(),
        politeness__robotstxt_obey=False,
        politeness__autothrottle=False,
    )
    async with fetcher_of(config) as fetcher, scraper_of(config, fetcher, SYSTEM) as scraper:
        for _ in range(3):  # what is made once
            await scrape(scraper, job)
        await asyncio.sleep(0.1)
        gc.collect()
        gc.disable()
        try:
            for _ in range(PAGES):
                await scrape(scraper, job)
            await asyncio.sleep(0.1)  # callbacks of closed connections
            return gc.collect()
        finally:
            gc.enable()


@pytest.mark.parametrize(
    "job",
    [
        {"path": "/page/1"},
        {"path": "/page/1", "links": True},
        {"path": "/status/404"},
        {"path": "/size/300000"},
        {"path": "/page/1", "method": "POST", "body": "x" * 100},
        {"path": "/page/1", "method": "POST", "body": "x" * 3_000_000},
        {"path": "/size/300000", "max_body_size": 1000},
        {"path": "/hold/1", "timeout": 0.05},
        {"path": "/hold/1", "timeout": 0.05, "method": "POST", "body": "x" * 3_000_000},
        {"path": "/page/1", "port": True},
    ],
    ids=lambda job: "-".join(f"{key}" for key in job) + job["path"].replace("/", "-"),
)
def test_nothing_waits_for_the_collector(hostel: Hostel, job: dict[str, Any]) -> None:
    """After twenty such pages no object is in a cycle, that was made for one of them."""
    asked = {name: value for name, value in job.items() if name not in {"path", "port", "links"}}
    url = hostel.url(job["path"])
    asked["url"] = f"http://127.0.0.1:{free_port()}/" if "port" in job else url
    if "links" in job:
        asked["include"] = ["links", "metadata", "headers", "cookies"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(left_behind(asked)) < PAGES
