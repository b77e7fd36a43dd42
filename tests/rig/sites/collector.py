"""A collector of OpenTelemetry in a thread, and what any HTTP server in a thread needs.

May touch: loopback, a thread for each server.
Must never: be asked for anything but what the real program sent it.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Served:
    """An HTTP server in a thread, while it is entered."""

    def __init__(self, handler: type[Silent]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Silent(BaseHTTPRequestHandler):
    """A handler that writes no lines."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Collector(Served):
    """Decodes what is sent to it by OTLP over HTTP, and answers as it is told to."""

    def __init__(self) -> None:
        self.status, self.answer = 200, b""
        self.headers: dict[str, str] = {}
        self.raw = b""
        self.spans: list[Any] = []
        collector = self

        class Handler(Silent):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.raw += body
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(collector.status)
                for name, value in collector.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(collector.answer)))
                self.end_headers()
                self.wfile.write(collector.answer)

        super().__init__(Handler)
        self.endpoint = f"{self.origin}/v1/traces"

    def of(self, trace: str) -> dict[str, list[Any]]:
        """The spans of a trace by their names."""
        found: dict[str, list[Any]] = {}
        for span in self.spans:
            if span.trace_id.hex() == trace:
                found.setdefault(span.name, []).append(span)
        return found


def attributes(span: Any) -> dict[str, Any]:
    """The attributes of a span by their names."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
