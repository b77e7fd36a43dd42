"""The gateway as a child process, and a client of it that is not ours: http.client.

May touch: child processes, ports on loopback.
Must never: import the gateway's code to drive it.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.rig.daemon import LOOPBACK, Logging, variables
from tests.rig.ports import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pika.adapters.blocking_connection import BlockingChannel

    from tests.rig.daemon import Dispatcher

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}


class Got(NamedTuple):
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body; each error has one too."""
        kind = "application/json" if self.status < 400 else "application/problem+json"
        assert self.headers["Content-Type"] == kind
        found = json.loads(self.body)
        assert self.status < 400 or found["status"] == self.status
        return found


class Gateway(Logging):
    """`scraperd serve`, configured by variables only. Its log has only known events."""

    def __init__(
        self, broker_url: str, prefix: str, env: dict[str, str] | None = None, **settings: Any
    ) -> None:
        self.port = free_port()
        values = {
            **LOOPBACK,
            "log__format": "json",
            "broker__reconnect_min": 0.1,
            "broker__reconnect_max": 0.5,
            "http__listen": f"{HOST}:{self.port}",
            **settings,
            "broker_url": broker_url,
            "broker__prefix": prefix,
        }
        argv = [sys.executable, "-m", "scraperd", "serve"]
        super().__init__(argv, env={**variables(values), **(env or {})})

    def ready(self, event: str = "gateway_ready") -> Self:
        """Wait until it has reached the broker, or for another event."""
        self.wait_for_line(f'"event":"{event}"')
        return self

    def listening(self) -> Self:
        """Wait until it takes requests."""
        return self.ready("gateway_start")

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | Iterable[bytes] | dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        token: str = "",
    ) -> Got:
        """Send a request on a connection of its own."""
        own = {"Authorization": f"Bearer {token}"} if token else {}
        if isinstance(body, dict):
            own, body = {**own, **JSON}, json.dumps(body)
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            connection.request(method, path, body, {**own, **(headers or {})})
            answer = connection.getresponse()
            return Got(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection((HOST, self.port), timeout=60)


def answer_on(connection: socket.socket) -> Got:
    """Read an answer from a bare connection."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return Got(answer.status, answer.headers, answer.read())


def declare_jobs(channel: BlockingChannel, prefix: str, **arguments: Any) -> None:
    """Declare the jobs exchange and queue, without a daemon that would take the jobs."""
    name = f"{prefix}.jobs"
    channel.exchange_declare(name, "direct", durable=True)
    kind = {"x-queue-type": "quorum"}
    channel.queue_declare(name, durable=True, arguments={**kind, **arguments})
    channel.queue_bind(name, name, name)


def taken(desk: Dispatcher, count: int) -> list[tuple[Any, dict[str, Any]]]:
    """So many messages of the jobs queue, which then has no other."""
    found = []
    for properties, body in desk.stream("jobs", 30):
        found.append((properties, json.loads(body)))
        if len(found) == count:
            break
    assert desk.depth("jobs") == 0
    return found


class Events:
    """A viewer's stream."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self._answer = answer
        self.id = ""

    def next(self) -> dict[str, Any]:
        """The next event."""
        while line := self._answer.readline().decode():
            if line.startswith("id: "):
                self.id = line[4:].strip()
            if line.startswith("data: "):
                found: dict[str, Any] = json.loads(line[6:])
                return found
        raise AssertionError("the stream has ended")

    def end(self) -> None:
        """Read to the end; http.client raises if it was cut off."""
        self._answer.read()


@contextmanager
def following(gateway: Gateway, token: str, last: str = "") -> Iterator[Events]:
    """A viewer, until the end. A place that another one has just left is waited for."""
    connection = http.client.HTTPConnection(HOST, gateway.port, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": last}
    while True:
        connection.request("GET", "/v1/events", headers=headers)
        answer = connection.getresponse()
        if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
            break
        answer.read()
    try:
        yield Events(answer)
    finally:
        answer.close()
        connection.close()
