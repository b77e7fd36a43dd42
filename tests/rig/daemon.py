"""The real daemon as a child process, and the dispatcher's side of its queues by pika.

May touch: child processes, the private broker.
Must never: import the daemon's code to drive it; it is used as a user would.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any, Self

import pika

from tests.rig.checks.events import faults
from tests.rig.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pika.adapters.blocking_connection import BlockingChannel


LOOPBACK = {  # what lets the daemon reach the tests' sites, and hurry
    "fetch__allow_networks": ["127.0.0.0/8", "::1/128"],
    "fetch__allow_ports": [],
    "politeness__robotstxt_obey": False,
    "politeness__per_host_concurrency": 10_000,
    "politeness__per_address_concurrency": 0,
    "politeness__autothrottle": False,
}


def until(
    wanted: Callable[[], bool], what: str = "", timeout: float = 60, pause: float = 0.02
) -> None:
    """Ask until it is so, of what sends no news; after `timeout` seconds `what` was not so.

    `pause` is the time between two questions, in seconds.
    """
    deadline = time.monotonic() + timeout
    while not wanted():
        assert time.monotonic() < deadline, what or f"not so within {timeout} s"
        time.sleep(pause)


class Logging(Process):
    """A process of scraperd that runs until SIGTERM, and logs JSON.

    At the end each line of its log must be an event of ops/events.py, with fields of their types.
    """

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        if raised[0] is None:  # no other fault is to be hidden
            wrong = list(faults(line.text for line in self.lines if line.stream == "stdout"))
            assert not wrong, wrong[:5]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one kind so far."""
        lines = [json.loads(line.text) for line in self.lines if line.text.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def drain(self) -> int:
        """SIGTERM, and the exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait(60)


class Daemon(Logging):
    """`scraperd run`, configured by variables only. Quick retries unless told otherwise."""

    def __init__(
        self,
        broker_url: str,
        prefix: str,
        env: dict[str, str] | None = None,
        *,
        options: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        quick: dict[str, Any] = {
            "jobs__retry_backoff": 0.1,
            "jobs__retry_backoff_max": 1,
            "broker__reconnect_min": 0.1,
            "log__format": "json",
            "log__failure_lines": 100_000,  # tests look for the line of each job
        }
        if os.geteuid():  # only root looks into a process of another kind
            quick["sandbox__dumpable"] = True
        values = {
            **LOOPBACK,
            **quick,
            **settings,
            "broker_url": broker_url,
            "broker__prefix": prefix,
        }
        super().__init__(
            [sys.executable, "-m", "scraperd", "run", *options],
            env={**variables(values), **(env or {})},
        )

    def ready(self) -> Self:
        """Wait until it consumes."""
        self.wait_for_line('"event":"ready"')
        return self


def environment(settings: dict[str, Any]) -> dict[str, str]:
    """This process's environment with these settings, and with no other of scraperd's variables."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("SCRAPERD_")}
    return {**others, **variables(settings)}


def variables(settings: dict[str, Any]) -> dict[str, str]:
    """Settings as environment variables, which are read as TOML; the machine's file is not read.

    None leaves a setting to the file of the test.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    named = {f"SCRAPERD_{name.upper()}": _toml(value) for name, value in given.items()}
    return {"SCRAPERD_CONFIG": os.devnull, **named}


def _toml(value: Any, *, inner: bool = False) -> str:
    """JSON, but for tables: TOML has `=` in them."""
    if isinstance(value, dict):
        items = (f"{json.dumps(k)} = {_toml(v, inner=True)}" for k, v in value.items())
        return f"{{{', '.join(items)}}}"
    return value if isinstance(value, str) and not inner else json.dumps(value)


class Dispatcher:
    """Publishes jobs and reads results, by pika."""

    def __init__(self, channel: BlockingChannel, prefix: str) -> None:
        self.channel = channel
        self.prefix = prefix

    def publish(
        self, job: dict[str, Any] | bytes, *, queue: str = "jobs", **properties: Any
    ) -> None:
        """Publish one job to `prefix.queue`, confirmed and mandatory."""
        body = job if isinstance(job, bytes) else json.dumps(job).encode()
        properties.setdefault("delivery_mode", 2)
        self.channel.basic_publish(
            "", f"{self.prefix}.{queue}", body, pika.BasicProperties(**properties), mandatory=True
        )

    def publish_many(self, urls: list[str], **job: Any) -> list[str]:
        """Publish a job for each URL and return their ids."""
        idents = [uuid.uuid4().hex for _ in urls]
        for ident, url in zip(idents, urls, strict=True):
            self.publish({"url": url, "id": ident, **job})
        return idents

    def take(self, queue: str, timeout: float = 20) -> tuple[Any, bytes]:
        """Wait for one message of `prefix.queue`; its properties and its body."""
        for message in self.stream(queue, timeout):
            return message
        raise AssertionError(f"nothing in {self.prefix}.{queue} within {timeout} s")

    def results(self, count: int, timeout: float = 60) -> list[dict[str, Any]]:
        """Wait for `count` results."""
        found = []
        for _, body in self.stream("results", timeout):
            found.append(json.loads(body))
            if len(found) == count:
                return found
        raise AssertionError(f"{len(found)} of {count} results within {timeout} s")

    def stream(self, queue: str, timeout: float) -> Iterator[tuple[Any, bytes]]:
        """Messages as they come, acked, until `timeout` seconds have passed in all."""
        deadline = time.monotonic() + timeout
        name = queue if queue.startswith("amq.") else f"{self.prefix}.{queue}"
        consumer = self.channel.consume(name, inactivity_timeout=0.1)
        try:
            for method, properties, body in consumer:
                if method is not None and body is not None:
                    self.channel.basic_ack(method.delivery_tag or 0)
                    yield properties, body
                elif time.monotonic() > deadline:
                    return
        finally:
            self.channel.cancel()

    def depth(self, queue: str) -> int:
        """Ready messages of `prefix.queue`."""
        found = self.channel.queue_declare(f"{self.prefix}.{queue}", passive=True)
        return int(found.method.message_count or 0)
