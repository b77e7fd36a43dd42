"""A job's URL is parsed once, from its delivery to its line in the log.

May touch: a site on loopback, the whole path of a job over the broker in memory, sys.setprofile.
Must never: replace what parses: the interpreter itself tells what is called.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Self

import msgspec
from yarl import URL

from scraperd import batch
from scraperd.base.urls import exact, host_of, without_credentials
from scraperd.contract import decode_result
from scraperd.ops.telemetry import Observer
from tests.rig.page import loopback
from tests.rig.sites.site import page, redirect

if TYPE_CHECKING:
    from types import FrameType

    from scraperd.contract import Result
    from tests.rig.sites.site import Site

PARSERS = {exact.__code__: "text", host_of.__code__: "url", URL.__new__.__code__: "val"}


class Log:
    """A logger's shape that keeps the lines of jobs."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []

    def info(self, event: str, **fields: Any) -> None:
        if event == "job":
            self.jobs.append(fields)

    error = debug = warning = info

    def is_enabled_for(self, _level: int) -> bool:
        return True


class Parses:
    """Counts calls of all that parses a URL, for one text: the outermost of each."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.names: list[str] = []

    def __enter__(self) -> Self:
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _arg: Any) -> None:
        name = PARSERS.get(frame.f_code)
        if event == "call" and name is not None and frame.f_locals[name] == self._text:
            outer = frame.f_back
            if outer is None or outer.f_code not in PARSERS:
                self.names.append(frame.f_code.co_name)


async def life(log: Log, *jobs: dict[str, Any], **settings: Any) -> list[Result]:
    """The jobs through the daemon's own path; their results."""
    bodies: list[bytes] = []
    lines = [batch.Line(n, msgspec.json.encode(job), None) for n, job in enumerate(jobs, 1)]
    await batch.run(
        loopback(**settings),
        iter(lines),
        bodies.append,
        Observer(log=log),
        stop=asyncio.Event(),
        tell=lambda _: None,
    )
    return [decode_result(body) for body in bodies]


async def test_a_jobs_url_is_parsed_once(site: Site) -> None:
    """Decoded, asked for at robots.txt and at its host's queue, fetched, redirected, extracted,
    settled under a routing key with its host, and logged with its host: by one parse.
    """
    site.at("/b", page(b"<h1>Here</h1>", content_type="text/html"))
    url = site.at("/a@x", redirect("/b"))
    log = Log()
    job = {"url": url, "extract": {"title": "h1"}, "include": ["body", "headers"]}
    with Parses(url) as parses:
        [result] = await life(log, job, politeness__robotstxt_obey=True)
    assert (result.status, result.data) == ("ok", {"title": "Here"})
    assert [line["host"] for line in log.jobs] == ["127.0.0.1"]
    assert parses.names == ["exact"]


async def test_a_job_that_moves_is_parsed_once_a_delivery(site: Site) -> None:
    """A job that fails, waits in a delay queue and is delivered again: one parse each time."""
    url = site.at("/gone", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
    log = Log()
    with Parses(url) as parses:
        settings = {
            "jobs__max_retries": 1,
            "jobs__retry_backoff": 0.05,
            "jobs__retry_backoff_max": 0.05,
        }
        [result] = await life(log, {"url": url}, **settings)
    assert result.attempt == 2
    assert parses.names == ["exact"] * len(log.jobs)


def test_the_count_sees_each_parser() -> None:
    """Whoever parses the text in whichever way is counted; another text is not."""
    url = "http://u:p@a.b/"
    with Parses(url) as parses:
        exact(url)
        host_of(url)
        URL(url)
        without_credentials(url)
        exact("http://c.d/")
    assert parses.names == ["exact", "host_of", "__new__", "__new__"]
