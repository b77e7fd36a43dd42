"""The spans of jobs: which jobs are traced, and what each span says.

May touch: opentelemetry; the headers of a delivery, and of a request.
Must never: put a query, user info or a header into a span.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace as api
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from scraperd.contract import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from scraperd.config.tables import TracingSettings
    from scraperd.fetch.message import Request, Response
    from scraperd.jobs.received import Received

MAX_TRACEPARENT: Final = 256  # characters; version 00 has 55
MAX_TRACESTATE: Final = 512  # characters, W3C Trace Context section 3.3.1.5
_HEADERS: Final = ("traceparent", "tracestate")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FAULTY: Final = 400  # the first status that is an error for a client
_w3c = TraceContextTextMapPropagator()


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
