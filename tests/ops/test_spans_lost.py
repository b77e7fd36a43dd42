"""Spans that no collector took: each is counted, and the log says why once a minute.

May touch: a collector in a thread, sockets on loopback, this process's own spans.
Must never: need a broker, or sleep for luck.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from scraperd.broker.ports import Delivery, Source
from scraperd.config.tables import TracingSettings
from scraperd.jobs.envelope import Envelope
from scraperd.jobs.received import Received
from scraperd.ops.telemetry import Observer
from scraperd.ops.tracing.losses import LINE_INTERVAL, Losses
from scraperd.ops.tracing.sending import MAX_QUEUE, traced
from tests.rig.clocks.lived import lived
from tests.rig.deliveries import Owner, acked
from tests.rig.ports import free_port
from tests.rig.sites.collector import Collector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from scraperd.ops.tracing.spans import Tracing

SECRET = "hunter2"


@dataclass
class Log:
    """A structlog logger's shape; keeps the events with their fields."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def warning(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    info = warning


@dataclass
class Traced:
    """What traces, and what is told and counted of it."""

    tracing: Tracing
    observer: Observer

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        return self.observer.log.events  # type: ignore[no-any-return]

    @property
    def counts(self) -> dict[str, int]:
        """The reasons that occurred."""
        return {why: count for why, count in (self.observer.spans_lost or {}).items() if count}

    def span(self, count: int = 1) -> None:
        """Trace so many jobs, of one span each."""
        for _ in range(count):
            received = Received(Delivery(b"", {}, Source.JOBS, Owner(), acked), Envelope())
            with self.tracing.job(received):
                pass

    async def until(self, wanted: Callable[[], object]) -> None:
        """Wait until it is so; a minute of the loop's life is too long."""
        async with lived() as seconds:
            while not wanted():
                assert seconds() < 60, self.events
                await asyncio.sleep(0.01)


@asynccontextmanager
async def tracing_to(endpoint: str) -> AsyncIterator[Traced]:
    """All jobs are traced, and their spans sent there."""
    observer = Observer(log=Log())
    settings = TracingSettings(endpoint=endpoint, sample_ratio=1)
    async with traced(settings, "w", lambda: 0.0, observer) as tracing:
        yield Traced(tracing, observer)


def partial_success(spans: int) -> bytes:
    """An answer that refuses so many spans."""
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = spans
    return answer.SerializeToString()


AT_COLLECTOR = "look at the collector, or change tracing.endpoint"
HEADERS = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"


@pytest.mark.parametrize(
    ("status", "phrase", "advice"),
    [
        (302, " (Found)", AT_COLLECTOR),
        (400, " (Bad Request)", AT_COLLECTOR),
        (401, " (Unauthorized)", f"set {HEADERS} in the daemon's environment"),
        (599, "", AT_COLLECTOR),
    ],
)
async def test_a_collector_that_refuses_is_told_once_and_its_recovery_too(
    status: int, phrase: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect is a refusal: the SDK takes it for a success, and does not follow it.

    The second batch that is lost has no line within the minute; the recovery counts both.
    """
    monkeypatch.setenv(HEADERS, f"authorization={SECRET}")
    with Collector() as collector:
        collector.status = status
        collector.headers = {"Location": f"/{SECRET}"}
        async with tracing_to(collector.endpoint) as it:
            for lost in (2, 5):
                it.span(lost - sum(it.counts.values()))
                await it.until(lambda lost=lost: it.counts == {"failed": lost})
            collector.status = 200
            it.span()
            await it.until(lambda: len(it.events) == 2)
        (lost_event, lost_fields), (event, fields) = it.events
        told = {"spans": 2, "endpoint": collector.endpoint}
        assert lost_event == "spans_lost"
        error = f"the collector answered with status {status}{phrase}: {advice}"
        assert lost_fields == {**told, "error": error}
        assert (event, fields.pop("seconds") > 0) == ("spans_taken", True)
        assert fields == {"endpoint": collector.endpoint, "spans": 5}
        assert SECRET not in str(it.events)


async def test_spans_that_the_collector_rejects_are_lost() -> None:
    """Its good answer says how many; no more than were sent, and only if it is such an answer."""
    with Collector() as collector:
        collector.headers, collector.answer = {"Content-Type": "text/html"}, partial_success(1)
        async with tracing_to(collector.endpoint) as it:
            it.span(3)
            await it.until(lambda: len(collector.spans) == 3)
            collector.headers = {"Content-Type": "application/x-protobuf"}
            it.span(3)
            await it.until(lambda: it.counts == {"rejected": 1})
            collector.answer = partial_success(2**62)
            it.span(3)
            await it.until(lambda: it.counts == {"rejected": 4})
            collector.answer = b"\xff"
            it.span(3)
            await it.until(lambda: len(collector.spans) == 12)
        assert it.counts == {"rejected": 4}
        assert [fields["spans"] for _, fields in it.events] == [1, 3]
        assert it.events[0][1]["error"].startswith("the collector refused 1 of 3 spans: ")


async def test_no_span_is_lost_uncounted() -> None:
    """A collector that hangs: so many spans wait, the others and at the end all are lost."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", free_port()))
        silent.listen()
        host, port = silent.getsockname()
        async with tracing_to(f"http://{host}:{port}/v1/traces") as it:
            it.span(MAX_QUEUE + 7)
            assert it.counts == {"overflow": 7}
            [(event, fields)] = it.events
            assert (event, fields["spans"]) == ("spans_lost", 1)
            assert "lower tracing.sample_ratio" in fields["error"]
        assert sum(it.counts.values()) == MAX_QUEUE + 7
        assert it.counts["unsent"] >= MAX_QUEUE - 512
        assert sum(fields["spans"] for _, fields in it.events) == MAX_QUEUE + 7


@pytest.mark.parametrize(
    ("scheme", "host", "error"),
    [
        ("http", "127.0.0.1", "Connection refused"),
        ("http", "no-such-host.invalid", ("Name or service not known", "Temporary failure")),
        ("https", "127.0.0.1", "TLS failed: "),
    ],
)
async def test_a_fault_of_the_connection_is_told_in_its_own_words(
    scheme: str, host: str, error: str | tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the URL, and without a proxy's password."""
    proxy = f"http://u:{SECRET}@127.0.0.1:{free_port()}"
    with Collector() as collector:
        port = collector.origin.rsplit(":", 1)[1] if scheme == "https" else free_port()
        for proxied in (False, True) if error == "Connection refused" else (False,):
            monkeypatch.setenv("HTTP_PROXY", proxy if proxied else "")
            async with tracing_to(f"{scheme}://{host}:{port}/v1/traces") as it:
                it.span()
                await it.until(lambda it=it: it.events)
            [(_, fields)] = it.events
            assert fields["error"].startswith(error)
            assert fields["error"].endswith(f": {AT_COLLECTOR}")
            assert SECRET not in str(it.events)


def test_each_reason_has_a_line_a_minute() -> None:
    """What one hides does not hide another, and nothing is left untold at the end."""
    log, now = Log(), [1000.0]
    losses = Losses("http://c/", log.warning, lambda: now[0])
    losses.taken()
    losses.lost("failed", 10, "down")
    losses.lost("overflow", 1, "full")
    now[0] += LINE_INTERVAL - 1
    losses.lost("failed", 20, "down")
    losses.lost("overflow", 2, "full")
    now[0] += 1
    losses.lost("failed", 30, "slow")
    losses.taken()
    losses.taken()
    losses.lost("failed", 5, "down again")
    losses.end(4)
    told = [(event, fields["spans"], fields.get("error")) for event, fields in log.events]
    assert told[:4] == [
        ("spans_lost", 10, "down"),
        ("spans_lost", 1, "full"),
        ("spans_lost", 50, "slow"),
        ("spans_taken", 60, None),
    ]
    assert sorted(told[4:])[:2] == [("spans_lost", 2, "full"), ("spans_lost", 4, told[4][2])]
    assert sorted(told[4:])[2:] == [("spans_lost", 5, "down again")]
    assert losses.counts == {"failed": 65, "overflow": 3, "rejected": 0, "unsent": 4}
