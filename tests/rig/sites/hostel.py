"""A small site in a thread, for tests that drive the daemon from outside: pages that can be held.

May touch: a port of its own on a loopback address.
Must never: be slow by a clock; it answers at once or when it is told to.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Hostel:
    """Paths: /page/N is a page; /status/CODE answers so; /hold/N waits for `release`;
    /drip/BYTES/N is a page that large whose last byte waits for `release`;
    /flaky/K/N answers 503 K times, then as /page; /size/BYTES is a page that large;
    /deep/TAGS is one of so many <b> in each other;
    /busy/SECONDS/N answers 429 with that Retry-After once, then as /page;
    /to/URL redirects there, /keep/URL with the method kept (307); /robots.txt is as `robots`
    says: a text, or the URL it redirects to. Each `host` of 127.0.0.0/8 is another one to the
    daemon; 0.0.0.0 stands for all of them, see `url`.
    """

    def __init__(self, host: str = "127.0.0.1", robots: str | None = None) -> None:
        self._host = host
        self._robots = robots  # None means there is none
        self._news = threading.Condition()
        self._hits: list[tuple[float, str]] = []
        self._counts: Counter[str] = Counter()
        self._open = False
        self.connections = 0
        self.most = 0  # requests that were here at once
        self._here = 0
        self._server = _Server((host, 0), _handler(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str, host: str = "") -> str:
        return f"http://{host or self._host}:{self._server.server_port}{path}"

    @property
    def hits(self) -> Counter[str]:
        """How often each path was asked for."""
        with self._news:
            return self._counts.copy()

    def times(self, start: str = "/") -> list[float]:
        """When paths that start so were asked for, by the monotonic clock, in order."""
        with self._news:
            return sorted(at for at, path in self._hits if path.startswith(start))

    def order(self) -> list[str]:
        """The paths that were asked for, in order."""
        with self._news:
            return [path for _, path in self._hits]

    def wait_for(self, wanted: Callable[[Counter[str]], bool], timeout: float = 20) -> None:
        """Wait until `wanted` holds of `hits`."""
        with self._news:
            if not self._news.wait_for(lambda: wanted(self._counts), timeout):
                last = [path for _, path in self._hits[-20:]]
                raise AssertionError(f"not seen within {timeout} s: {last}")

    def release(self) -> None:
        """Let every held page go, now and from now on."""
        with self._news:
            self._open = True
            self._news.notify_all()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Note the hit, and say what to answer: status, headers, body; /hold blocks here."""
        _, kind, value, *_ = [*path.split("/"), ""]
        with self._news:
            self._hits.append((time.monotonic(), path))
            self._counts[path] += 1
            self._news.notify_all()
            seen = self._counts[path]
        if kind == "hold":
            self.hold()
        if target := self._redirect(kind, path):
            return (307 if kind == "keep" else 302), {"Location": target}, b""
        if kind == "robots.txt":
            return (404 if self._robots is None else 200), {}, (self._robots or "").encode()
        if kind == "status":
            return int(value), {}, b"<title>status</title>"
        if kind == "flaky" and seen <= int(value):
            return 503, {}, b"<title>busy</title>"
        if kind == "busy" and seen == 1:
            return 429, {"Retry-After": value}, b"<title>busy</title>"
        piece = {"size": b"x", "drip": b"x", "deep": b"<b>"}.get(kind)
        filler = piece * int(value) if piece else b""
        return 200, {}, b"<title>%s</title><h1>A page</h1><p>%s</p>" % (path.encode(), filler)

    def _redirect(self, kind: str, path: str) -> str:
        robots = self._robots or ""
        if kind == "robots.txt" and robots.startswith("http:"):
            return robots
        return path.removeprefix(f"/{kind}/") if kind in ("to", "keep") else ""

    def hold(self) -> None:
        """Wait for `release`."""
        with self._news:
            self._news.wait_for(lambda: self._open, 120)

    def here(self, change: int) -> None:
        """Note a request that comes, or whose answer leaves next."""
        with self._news:
            self._here += change
            self.most = max(self.most, self._here)

    def connected(self) -> None:
        """Note a connection."""
        with self._news:
            self.connections += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, *_: object) -> None:
        """A client that was killed resets its connections; that is the test, no error."""


def _handler(site: Hostel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            site.connected()
            super().setup()

        def do_GET(self) -> None:
            site.here(1)
            status, headers, body = site.answer(self.path)
            site.here(-1)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            drips = self.path.startswith("/drip/")
            self.wfile.write(body[:-1] if drips else body)
            if drips:
                site.hold()
                self.wfile.write(body[-1:])

        def do_POST(self) -> None:
            # Unread, a body would pass for the next request: its 414 and a reset may be faster
            # than the answer.
            left = int(self.headers.get("Content-Length", 0))
            while left and (piece := self.rfile.read(min(left, 65536))):
                left -= len(piece)
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler
