"""One page without a broker: fetched, or read from a file; for writing and trying rules.

May touch: scrape/, the clocks: it is a composition root.
Must never: print, or exit.
"""

from __future__ import annotations

import asyncio
import mimetypes
import uuid
from typing import TYPE_CHECKING, NamedTuple

from msgspec import UNSET

from scraperd.base.clocks import SYSTEM
from scraperd.contract import Result, Timings
from scraperd.fetch.client import Fetcher
from scraperd.politeness.admission import NotYet
from scraperd.sandbox.extractor import Extractor
from scraperd.scrape.content import asked_of
from scraperd.scrape.pipeline import Scraper, result_of

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config
    from scraperd.contract import Job
    from scraperd.extract.rules import Rules

WORKER = "scrape"


class Once(NamedTuple):
    """The result, and how often each rule matched: its path and a number."""

    result: Result
    matches: list[tuple[str, int]]


async def scrape(config: Config, job: Job, rules: Rules | None) -> Once:
    """Fetch the job's page, waiting here for its host's permit, and take what was asked for."""
    started = SYSTEM.monotonic()
    async with Fetcher(config) as fetcher, Scraper(config, fetcher, SYSTEM) as scraper:
        page = scraper.page(job)
        await scraper.scrape(page, rules)
        while page.later is not None:  # here is no queue to wait in
            await asyncio.sleep(page.later.seconds)
            page.close()
            page = scraper.page(job, NotYet(page.later.host, 0.0))
            await scraper.scrape(page, rules)
    total = SYSTEM.monotonic() - started
    result = result_of(page, ident=_ident(job), attempt=1, worker=WORKER, total=total)
    return Once(result, _matches(rules, page.hits))


async def extract(config: Config, job: Job, rules: Rules | None, body: bytes, media: str) -> Once:
    """Take what was asked for from `body`, as if it had come from the job's URL."""
    async with Extractor(config) as extractor:
        found = await extractor.take(asked_of(job, job.url, media), body, rules, "")
    failure, seconds = found.taken.failure, round(found.seconds, 6)
    result = Result(
        id=_ident(job),
        url=job.url,
        status="failed" if failure else "ok",
        error=failure or UNSET,
        content_type=media or UNSET,
        size=len(body),
        attempt=1,
        timings=Timings(total=seconds, extract=seconds),
        worker=WORKER,
        meta=job.meta,
        **found.taken.fields(),
    )
    return Once(result, _matches(rules, found.taken.hits))


def media_type(path: Path) -> str:
    """What a file's name says it is; empty where it says nothing, as for a response."""
    return mimetypes.guess_type(path.name)[0] or ""


def _ident(job: Job) -> str:
    return uuid.uuid4().hex if job.id is UNSET else job.id


def _matches(rules: Rules | None, hits: dict[str, int]) -> list[tuple[str, int]]:
    paths = rules.paths if rules is not None else ()
    return [(path, hits.get(path, 0)) for path in paths]
