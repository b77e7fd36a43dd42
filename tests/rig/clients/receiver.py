"""A receiver of callbacks in a thread: it notes what it is sent, and answers as it is told.

May touch: a port of its own on a loopback address.
Must never: judge what it is sent; whoever looks at `taken` does.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from standardwebhooks.webhooks import Webhook

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OK = range(200, 300)


class Taken(NamedTuple):
    """A request that a receiver was sent, and the status that it answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def ident(self) -> str:
        """The `webhook-id`."""
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict[str, Any]:
        """The result, after the signature was found valid."""
        event = Webhook(SECRET).verify(self.body, self.headers)
        assert event["type"] == "scraperd.result"
        found: dict[str, Any] = event["data"]
        return found


class Receiver:
    """Takes callbacks, and answers `status`; a held one answers once `held` is set.

    `answer` may choose another status by the `webhook-id`.
    """

    def __init__(self, answer: Callable[[str], int] | None = None) -> None:
        self.status = 204
        self.taken: list[Taken] = []
        self.jobs: set[str] = set()
        """The ids of the jobs whose callbacks were answered with 2xx."""
        self.held = threading.Event()
        self.held.set()
        self._answer = answer or (lambda _: self.status)
        self._news = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Note a request; the status of its answer."""
        with self._news:
            status = self._answer(headers["webhook-id"])
            self.taken.append(Taken(path, headers, body, status))
            event = json.loads(body)
            if status in OK and event["type"] == "scraperd.result":
                self.jobs.add(event["data"]["id"])
            self._news.notify_all()
        self.held.wait(120)
        return status

    def wait_for(self, wanted: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Wait until `wanted` holds; looked at with each request."""
        with self._news:
            done = self._news.wait_for(wanted, timeout)
            assert done, f"{what}: not within {timeout:g} s; {len(self.taken)} requests came"

    def until(self, count: int) -> list[Taken]:
        """Wait for so many requests."""
        self.wait_for(lambda: len(self.taken) >= count, f"{count} callbacks")
        return self.taken


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, *_: object) -> None:
        """A daemon that was killed resets its connections; that is the test, no error."""


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            if len(body := self.rfile.read(size)) < size:
                return  # whoever sent it was killed
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(receiver.take(self.path, headers, body))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
