"""The spans of jobs: made by OpenTelemetry's SDK, sent by its exporter from a thread of its own.

May touch: opentelemetry, which only this file imports; a thread that flushes at the end.
Must never: let the loop wait for a collector, or put a query, user info or a header into a span.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from scraperd import __version__
from scraperd.contract import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from scraperd.config.tables import TracingSettings
    from scraperd.fetch.message import Request, Response
    from scraperd.jobs.received import Received

MAX_TRACEPARENT: Final = 256  # characters; version 00 has 55
MAX_TRACESTATE: Final = 512  # characters, W3C Trace Context section 3.3.1.5
MAX_QUEUE: Final = 2048  # spans that wait for the collector; beyond that the oldest are dropped
_BATCH: Final = 512  # spans in one request
SEND_INTERVAL: Final = 1.0  # seconds between two requests, unless a batch is full before
SEND_TIMEOUT: Final = 5.0  # seconds for one batch, with all trials
MAX_FLUSH: Final = 2.0  # seconds that the end of the process waits for the collector
_HEADERS: Final = ("traceparent", "tracestate")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FAULTY: Final = 400  # the first status that is an error for a client
_w3c = TraceContextTextMapPropagator()


@asynccontextmanager
async def traced(
    settings: TracingSettings, name: str, roll: Callable[[], float]
) -> AsyncIterator[Tracing]:
    """Give what traces jobs, and send what is left at the end, within MAX_FLUSH seconds."""
    # It would quote trace headers, and write lines at each outage that are not JSON.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=SEND_TIMEOUT)
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
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=MAX_QUEUE,
            schedule_delay_millis=SEND_INTERVAL * 1000,
            max_export_batch_size=_BATCH,
        )
    )
    try:
        yield Tracing(provider.get_tracer("scraperd", __version__), settings, roll)
    finally:
        await _ended(provider.shutdown)


async def _ended(shutdown: Callable[[], None]) -> None:
    """Call `shutdown` in a thread that the process does not wait for beyond MAX_FLUSH."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        try:
            shutdown()
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name="traces", daemon=True).start()
    try:
        await asyncio.wait_for(done.wait(), MAX_FLUSH)
    except TimeoutError:
        return


class Tracing:
    """Decides which jobs are traced, and begins their spans."""

    def __init__(
        self, tracer: api.Tracer, settings: TracingSettings, roll: Callable[[], float]
    ) -> None:
        self._tracer = tracer
        self._settings = settings
        self._roll = roll

    @contextmanager
    def job(self, received: Received) -> Iterator[JobTrace | None]:
        """Begin the span of a job; its parent is what the publisher named."""
        headers = received.delivery.headers
        context = taken(headers)
        parent = api.get_current_span(context).get_span_context()
        if parent.is_valid:
            headers.update(_carried(context))
        if not (parent.trace_flags.sampled if parent.is_valid else self._sampled()):
            yield None
            return
        span = self._tracer.start_span("process jobs", context, SpanKind.CONSUMER)
        inner = api.set_span_in_context(span, context)
        if not parent.is_valid:
            headers.update(_carried(inner))  # its retries belong to one trace
        try:
            yield JobTrace(self._tracer, inner, to_sites=self._settings.to_sites)
        finally:
            span.set_attributes(
                {
                    "messaging.system": "rabbitmq",
                    "messaging.operation.type": "process",
                    "messaging.operation.name": "process",
                    "scraperd.source": received.delivery.source.value,
                    "scraperd.job.id": received.name,
                    "scraperd.job.attempt": received.envelope.attempt,
                }
            )
            span.end()

    def _sampled(self) -> bool:
        return self._roll() < self._settings.sample_ratio


class JobTrace:
    """One job that is traced: the spans within its own."""

    def __init__(self, tracer: api.Tracer, context: Context, *, to_sites: bool) -> None:
        self._tracer = tracer
        self._context = context
        self._to_sites = to_sites

    async def hop(
        self, request: Request, fetch: Callable[[Request], Awaitable[Response | Failure]]
    ) -> Response | Failure:
        """Fetch one hop in a client span."""
        method = request.method if request.method in _METHODS else "_OTHER"
        url = request.url
        with self._span(method.replace("_OTHER", "HTTP"), SpanKind.CLIENT) as (span, context):
            span.set_attributes(
                {
                    "http.request.method": method,
                    "url.full": str(url.with_user(None).with_query(None).with_fragment(None)),
                    "server.address": url.host or "",
                    "server.port": url.port or 0,
                }
            )
            if self._to_sites:
                others = {k: v for k, v in request.headers.items() if k.lower() not in _HEADERS}
                request.headers = {**others, **_carried(context)}
            answer = await fetch(request)
            _told(span, answer)
            return answer

    @contextmanager
    def extraction(self) -> Iterator[object]:
        """Begin the span of an extraction."""
        with self._span("extract", SpanKind.INTERNAL):
            yield None

    @contextmanager
    def publish(self) -> Iterator[dict[str, str]]:
        """Begin the span of a result's publish."""
        with self._span("publish result", SpanKind.PRODUCER) as (span, context):
            span.set_attributes(
                {"messaging.system": "rabbitmq", "messaging.operation.type": "send"}
            )
            yield _carried(context)

    @contextmanager
    def _span(self, name: str, kind: SpanKind) -> Iterator[tuple[Span, Context]]:
        """Begin a span within the job's. An error is told by its type: words may hold secrets."""
        span = self._tracer.start_span(name, self._context, kind)
        try:
            yield span, api.set_span_in_context(span, self._context)
        except BaseException as error:
            _failed(span, type(error).__name__)
            raise
        finally:
            span.end()


def _told(span: Span, answer: Response | Failure) -> None:
    """Put the answer's status, or the kind of its failure, into the span."""
    failure = answer if isinstance(answer, Failure) else answer.trouble
    if not isinstance(answer, Failure):
        span.set_attribute("http.response.status_code", answer.status)
        if answer.status >= _FAULTY:
            _failed(span, str(answer.status))
    if failure is not None:
        _failed(span, failure.kind)


def _failed(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def taken(headers: dict[str, Any]) -> Context:
    """Take the trace headers out of `headers`; without a valid traceparent the context is empty."""
    found: dict[str, str] = {}
    for name in [name for name in headers if name.lower() in _HEADERS]:
        value, lower = headers.pop(name), name.lower()
        most = MAX_TRACEPARENT if lower == "traceparent" else MAX_TRACESTATE
        if name == lower and isinstance(value, str) and len(value) <= most and value.isascii():
            found[name] = value
    return _w3c.extract(found, api.set_span_in_context(api.INVALID_SPAN))


def _carried(context: Context) -> dict[str, str]:
    """Return the headers that name the span of `context`."""
    headers: dict[str, str] = {}
    _w3c.inject(headers, context)
    return headers
