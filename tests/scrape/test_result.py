"""A Result is made of what came of a page, in one place.

May touch: values.
Must never: need a network or a clock.
"""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from msgspec import UNSET, Raw
from yarl import URL

from scraperd.base.urls import MAX_URL
from scraperd.contract import Failure, Kind, Redirect, Result, Timings
from scraperd.scrape.result import Facts, Failed, Label, Scraped, final_url, result_of

LABEL = Label("7", 2, "w", "http://a.b/", Raw(b'{"k": 1}'))
FACTS = Facts(
    redirects=(Redirect(301, "http://a.b/c"),),
    fetched_at="2026-01-01T00:00:00.000+00:00",
    fetch_time=0.25,
    extract_time=0.125,
    http_status=200,
    final_url="http://a.b/c",
    content={"size": 3, "charset": "utf-8"},
)


def test_a_page_that_was_scraped_is_ok() -> None:
    """All that is known stands in its own field, and there is no error."""
    result = result_of(LABEL, Scraped(FACTS), FACTS.timings(1.0))
    assert (result.id, result.attempt, result.worker) == ("7", 2, "w")
    assert (result.url, result.meta) == ("http://a.b/", Raw(b'{"k": 1}'))
    assert (result.status, result.error, result.http_status) == ("ok", UNSET, 200)
    assert (result.final_url, result.fetched_at) == ("http://a.b/c", FACTS.fetched_at)
    assert result.redirects == [Redirect(301, "http://a.b/c")]
    assert (result.size, result.charset) == (3, "utf-8")
    assert result.timings == FACTS.timings(1.0)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_failure_takes_nothing_away(kind: Kind) -> None:
    """But for status and error, a failed job tells what the good one would."""
    failure = Failure(kind, "why")
    failed, good = (result_of(LABEL, end) for end in (Failed(failure, FACTS), Scraped(FACTS)))
    assert (failed.status, failed.error) == ("failed", failure)
    assert msgspec.structs.replace(failed, status="ok", error=UNSET) == good


def test_what_is_not_known_is_absent() -> None:
    """Of a job of which nothing is known but its id, nothing else is told."""
    told = result_of(Label("7", 1, "w"), Failed(Failure("internal", "why")))
    bare = Result(
        id="7",
        run=1,
        status="failed",
        attempt=1,
        worker="w",
        error=Failure("internal", "why"),
        contract_version="1.0",
    )
    assert msgspec.to_builtins(told) == msgspec.to_builtins(bare)


def test_what_was_neither_fetch_nor_extraction_was_waiting() -> None:
    """In microseconds; and never less than nothing, though the two overlap by a rounding."""
    assert FACTS.timings(1.0) == Timings(total=1.0, wait=0.625, fetch=0.25, extract=0.125)
    assert FACTS.timings(0.3).wait == 0.0
    assert Facts().timings(0.1234567) == Timings(0.123457, 0.123457, 0.0, 0.0)
    parts = Facts(fetch_time=0.1234567, extract_time=0.7654321)
    assert parts.timings(0.8888888) == Timings(0.888889, 0.0, 0.123457, 0.765432)


def test_a_final_url_is_one_that_a_job_could_have() -> None:
    """Encoded it may be longer than that: then it is left out."""
    start = "http://a.b/"
    longest = start + "x" * (MAX_URL - len(start))
    assert final_url(URL(longest)) == longest
    assert final_url(URL(f"{longest}x")) is UNSET
