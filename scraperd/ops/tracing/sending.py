"""The way of spans to the collector: the SDK's batches and exporter, in a thread of their own.

May touch: opentelemetry, its requests, a thread that flushes at the end.
Must never: let the loop wait for a collector, lose a span uncounted, or tell a header or user info.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from scraperd import __version__
from scraperd.base.text import printable
from scraperd.ops.tracing.losses import Losses
from scraperd.ops.tracing.spans import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from scraperd.config.tables import TracingSettings
    from scraperd.ops.telemetry import Observer

MAX_QUEUE: Final = 2048  # spans that wait for the collector; beyond that new ones are lost
_BATCH: Final = 512  # spans in one request
SEND_INTERVAL: Final = 1.0  # seconds between two requests, unless a batch is full before
SEND_TIMEOUT: Final = 5.0  # seconds for one batch, with all trials
MAX_FLUSH: Final = 2.0  # seconds that the end of the process waits for the collector
_FULL: Final = (
    f"{MAX_QUEUE} spans wait for the collector, and no more may wait: "
    "lower tracing.sample_ratio, or give the collector more room"
)


@asynccontextmanager
async def traced(
    settings: TracingSettings, name: str, roll: Callable[[], float], observer: Observer
) -> AsyncIterator[Tracing]:
    """Give what traces jobs, and send what is left at the end, within MAX_FLUSH seconds.

    Spans that are lost are counted in `observer.spans_lost`, and told by its events.
    """
    # It would quote trace headers, and write lines at each outage that are not JSON.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    losses = Losses(settings.endpoint, observer.event, time.monotonic)
    observer.spans_lost = losses.counts
    way = _Way(_Sender(settings.endpoint, losses, asyncio.get_running_loop()), losses)
    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource(
            {
                "service.name": "scraperd",
                "service.version": __version__,
                "service.instance.id": name,
            }
        ),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(way)
    try:
        yield Tracing(provider.get_tracer("scraperd", __version__), settings, roll)
    finally:
        await _ended(provider.shutdown)
        losses.end(way.waiting)


async def _ended(shutdown: Callable[[], None]) -> None:
    """Call `shutdown` in a thread that the process does not wait for beyond MAX_FLUSH."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        try:
            shutdown()
        finally:
            _on_loop(loop, done.set)

    threading.Thread(target=work, name="traces", daemon=True).start()
    try:
        await asyncio.wait_for(done.wait(), MAX_FLUSH)
    except TimeoutError:
        return


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Have the loop make the call, from another thread; a loop that is closed makes none."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


class _Way(SpanProcessor):
    """Lets so many spans wait, and counts the others; the SDK's own queue loses them uncounted."""

    def __init__(self, sender: _Sender, losses: Losses) -> None:
        self._sender = sender
        self._losses = losses
        self._let_in = 0
        self._batches = BatchSpanProcessor(
            sender,
            max_queue_size=MAX_QUEUE,
            schedule_delay_millis=SEND_INTERVAL * 1000,
            max_export_batch_size=_BATCH,
        )

    @property
    def waiting(self) -> int:
        """Spans that the collector has neither taken nor refused; those of a batch on its way too.

        Each of the two numbers grows in one thread only.
        """
        return self._let_in - self._sender.settled

    def on_end(self, span: ReadableSpan) -> None:
        """Let a span in, if there is room."""
        if self.waiting >= MAX_QUEUE:
            self._losses.lost("overflow", 1, _FULL)
            return
        self._let_in += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what waits; the SDK waits for that for up to 30 seconds."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]


class _Sender(SpanExporter):
    """Sends batches by the SDK's exporter, and tells the loop what became of each.

    `settled` is the number of spans of the batches that were taken or lost.
    """

    def __init__(self, endpoint: str, losses: Losses, loop: asyncio.AbstractEventLoop) -> None:
        self.settled = 0
        self._losses = losses
        self._loop = loop
        self._session = _Session()
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint, timeout=SEND_TIMEOUT, session=self._session
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; called by the SDK in its thread."""
        session, losses = self._session, self._losses
        session.fault, session.rejected = "", 0
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - the SDK would log it, and go on
            result, session.fault = SpanExportResult.FAILURE, type(error).__name__
        self.settled += len(spans)
        # A redirect is a success to the SDK, and is not followed.
        if session.fault or result is not SpanExportResult.SUCCESS:
            why = _advised(session.fault or "the exporter refused the batch", session.status)
            self._tell(partial(losses.lost, "failed", len(spans), why))
        else:
            self._tell(losses.taken)
        if session.rejected:
            lost = min(session.rejected, len(spans))
            why = f"the collector refused {lost} of {len(spans)} spans: read the collector's log"
            self._tell(partial(losses.lost, "rejected", lost, why))
        return result

    def _tell(self, call: Callable[[], object]) -> None:
        _on_loop(self._loop, call)

    def shutdown(self) -> None:
        """Close the connections."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _Session(requests.Session):
    """Keeps in words what became of its last request: the exporter tells that its log only.

    `status` is 0 without an answer; `rejected` counts spans that a good answer refuses.
    """

    fault = ""
    status = 0
    rejected = 0

    def request(self, *args: Any, **more: Any) -> requests.Response:
        """Make a request, and note its end."""
        self.fault, self.status, self.rejected = "", 0, 0
        try:
            answer = super().request(*args, **more)
        except requests.RequestException as error:
            self.fault = _words(error)
            raise
        self.status = answer.status_code
        if self.status // 100 == 2:  # noqa: PLR2004 - the class of statuses
            self.rejected = _rejected(answer)
        else:
            self.fault = f"the collector answered with status {self.status}{_phrase(self.status)}"
        return answer


def _words(error: BaseException) -> str:
    """What went wrong, without the URL or a proxy's password: by the innermost error's own words.

    The outer ones quote what they were called with.
    """
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {SEND_TIMEOUT:g} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {SEND_TIMEOUT:g} s"
    for inner in reversed([*_chain(error)]):
        if isinstance(inner, ssl.SSLError):
            return f"TLS failed: {printable(inner.reason or type(inner).__name__)}"
        if isinstance(inner, OSError) and inner.strerror:
            return printable(inner.strerror)
    return type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _phrase(status: int) -> str:
    """The phrase of a status as the standard has it: the collector's own could be anything."""
    try:
        return f" ({HTTPStatus(status).phrase})"
    except ValueError:
        return ""


def _advised(fault: str, status: int) -> str:
    """A fault with what to change."""
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            what = "set OTEL_EXPORTER_OTLP_TRACES_HEADERS in the daemon's environment"
        case HTTPStatus.TOO_MANY_REQUESTS:
            what = "lower tracing.sample_ratio, or give the collector more room"
        case _:
            what = "look at the collector, or change tracing.endpoint"
    return f"{fault}: {what}"


def _rejected(answer: requests.Response) -> int:
    """How many spans an answer refuses (OTLP's partial success); 0 if it does not say."""
    if not answer.headers.get("Content-Type", "").startswith("application/x-protobuf"):
        return 0
    try:
        told = ExportTraceServiceResponse.FromString(answer.content)
    except DecodeError:
        return 0
    return max(0, int(told.partial_success.rejected_spans))
