"""One page without a broker: fetched, or read from a file; for writing and trying rules.

May touch: everything else in scrape/, the clocks it is given.
Must never: print, or exit.
"""

from __future__ import annotations

import asyncio
import math
import mimetypes
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from msgspec import UNSET
from msgspec.structs import replace

from scraperd.contract import Timings
from scraperd.politeness.admission import NotYet, Reservation
from scraperd.scrape.content import extract_request
from scraperd.scrape.request import Target
from scraperd.scrape.result import Facts, Failed, Label, Scraped, result_of

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.base.clocks import Clocks
    from scraperd.contract import Job, Result
    from scraperd.extract.rules import Rules
    from scraperd.sandbox.extractor import Extractor
    from scraperd.scrape.pipeline import Scraper

WORKER = "scrape"


class Once(NamedTuple):
    """The result, and how often each rule matched: its path and a number."""

    result: Result
    matches: list[tuple[str, int]]


async def scrape(scraper: Scraper, job: Job, rules: Rules | None, clocks: Clocks) -> Once:
    """Fetch the job's page, waiting here for its host's permit, and take what was asked for."""
    started = clocks.monotonic()
    target = Target.of(job)
    with closing(scraper.claim()) as claim:
        ended = await scraper.scrape(target, rules, claim)
        while isinstance(ended, NotYet):  # here is no queue to wait in
            await asyncio.sleep(ended.seconds)
            claim.resize(0)
            reservation = Reservation(ended.host, 0.0)
            ended = await scraper.scrape(target, rules, claim, reservation=reservation)
    timings = ended.facts.timings(clocks.monotonic() - started)
    label = replace(_label(job), limited=scraper.limited(job, max_retries=math.inf))
    return Once(result_of(label, ended, timings), _matches(rules, ended.facts.hits))


async def extract(
    extractor: Extractor, job: Job, rules: Rules | None, body: bytes, media: str
) -> Once:
    """Take what was asked for from `body`, as if it had come from the job's URL."""
    found = await extractor.extract(extract_request(job, job.url, media), body, rules, "")
    taken, seconds = found.extracted, round(found.seconds, 6)
    given = {"content_type": media or UNSET, "size": len(body)}
    facts = Facts(content=given | taken.fields(), hits=taken.hits)
    ended = Scraped(facts) if taken.failure is None else Failed(taken.failure, facts)
    result = result_of(_label(job), ended, Timings(total=seconds, extract=seconds))
    return Once(result, _matches(rules, taken.hits))


def media_type(path: Path) -> str:
    """What a file's name says it is; empty where it says nothing, or that the file is packed."""
    mime, coding = mimetypes.guess_type(path.name)
    return "" if mime is None or coding is not None else mime


def _label(job: Job) -> Label:
    ident = uuid.uuid4().hex if job.id is UNSET else job.id
    return Label(ident, 1, WORKER, job.url, job.meta)


def _matches(rules: Rules | None, hits: dict[str, int]) -> list[tuple[str, int]]:
    paths = rules.paths if rules is not None else ()
    return [(path, hits.get(path, 0)) for path in paths]
