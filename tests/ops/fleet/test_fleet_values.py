"""What a process says of itself: rates and quantiles, failures without secrets, questions.

May touch: values.
Must never: read a clock.
"""

from __future__ import annotations

import pytest

from scraperd.base.histogram import Histogram
from scraperd.contract import Failure, Kind, Result
from scraperd.ops.fleet.answer import Latency, Question, read_question, read_status, write
from scraperd.ops.fleet.faults import MAX_FAULTS, MAX_HOSTS, Faults
from scraperd.ops.fleet.recent import MAX_SAMPLES, Recent, Sample, quantile


def failed(kind: Kind, message: str) -> Result:
    """A result that failed so."""
    return Result(id="x", status="failed", attempt=1, error=Failure(kind, message))


def sample(at: float, done: int, took: Histogram) -> Sample:
    """A sample with `done` jobs of 100 bytes each."""
    counts = {"done": done, "bytes": 100 * done}
    return Sample(
        at=at, cpu=at / 2, counts=counts, kinds={"dns": done}, histograms={"job": took.cumulative}
    )


def test_quantiles_lie_between_the_bounds_of_their_values() -> None:
    """Of values that are known; none without values, and the highest bound above all."""
    took = Histogram((1.0, 2.0, 4.0))
    assert quantile(took.bounds, took.cumulative, 0.5) is None
    for _ in range(10):
        took.add(1.5)
    assert quantile(took.bounds, took.cumulative, 0.5) == 1.5
    took = Histogram((1.0, 2.0))
    took.add(50.0)
    assert quantile(took.bounds, took.cumulative, 0.99) == 2.0


def test_rates_and_latencies_are_of_the_last_minute() -> None:
    """What was before the oldest sample does not count."""
    recent, took = Recent(), Histogram((1.0, 2.0))
    took.add(1.9)
    for n in range(MAX_SAMPLES + 10):
        recent.add(sample(2.0 * n, 10 * n, took))
    now = sample(2.0 * n + 2, 10 * n + 10, took)
    assert recent.rates(now) == {"done": 5.0, "bytes": 500.0}
    assert recent.flow(now, "done", "bytes").mean_bytes == 100
    assert recent.load(now) == 0.5
    assert recent.latency(now, "job", took.bounds) == Latency()
    took.add(0.5)
    later = sample(now.at + 1, 0, took)
    assert recent.latency(later, "job", took.bounds).p99 is not None


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("http://u:p@h.example/a/b?token=1: refused", "http://h.example/: refused"),
        ("robots.txt of h does not allow /a?token=1", "robots.txt of h does not allow /a"),
        ("host \x1b[31m", "host \N{REPLACEMENT CHARACTER}[31m"),
    ],
)
def test_failures_are_told_without_urls(message: str, shown: str) -> None:
    """No userinfo, path of a URL, or query; nothing that steers a terminal."""
    faults = Faults(lambda: 5.0)
    faults.add("h", failed("connect", message))
    assert [it.message for it in faults.of("h")] == [shown]


def test_failures_that_quote_a_job_are_told_by_kind() -> None:
    """The words of these kinds can hold what a publisher or a page wrote."""
    faults = Faults(lambda: 5.0)
    for kind in ("invalid_job", "extract", "decode", "internal"):
        faults.add("h", failed(kind, "secret"))
    assert {it.message for it in faults.of("h")} == {""}


def test_failures_are_bounded() -> None:
    """Of many hosts and many failures the latest are kept."""
    faults = Faults(lambda: 5.0)
    for n in range(MAX_HOSTS + 5):
        for _ in range(MAX_FAULTS + 5):
            faults.add(f"h{n}", failed("dns", "x"))
    assert faults.of("h0") == []
    assert len(faults.of(f"h{MAX_HOSTS + 4}")) == MAX_FAULTS


def test_only_questions_of_this_form_are_read() -> None:
    """What was written is read; all else is None, and raises nothing."""
    for question in (Question("status"), Question("settings"), Question("host", "h.example")):
        assert read_question(write(question)) == question
    for body in (b"", b"\xff", b"[]", b"[" * 100_000, b'{"ask":"host"}', b'{"ask":"x"}'):
        assert read_question(body) is None
        assert read_status(body) is None
    assert read_question(write(Question("host", "h" * 254))) is None
