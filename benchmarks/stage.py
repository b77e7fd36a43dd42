"""What every measurement stands on: a private broker, a private nginx full of real pages, children.

May touch: the rig, loopback, a temporary folder, /proc of the processes it started.
Must never: measure; it only sets the scene and reads the instruments.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import pika
from pika.exceptions import ChannelClosedByBroker

from benchmarks.kernel import memory, times
from tests.rig import process
from tests.rig.brokers.node import Node
from tests.rig.daemon import environment
from tests.rig.sites.nginx import Nginx
from tests.rig.sites.pages import html_files, postgres_docs, python_docs

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable, Iterator, Mapping

    from pika.adapters.blocking_connection import BlockingChannel

CHECKOUT = Path(__file__).resolve().parents[1]
PREFIX = "bench"
CONCURRENCY = 100  # pages at once, and the prefetch: the same for whatever is measured


@dataclass(frozen=True, slots=True)
class PageFile:
    """One page: where nginx serves it, and the file behind it."""

    url: str
    file: Path


class Stage:
    """A broker, a web server and a dispatcher's channel, for as long as the `with` block.

    The server has each of the `folders` under its name; without any, the manuals of Python and
    PostgreSQL. `conf` adds to the settings of the broker, `release` "4" is RabbitMQ 4.
    """

    def __init__(
        self,
        folders: Mapping[str, Path] | None = None,
        conf: dict[str, str] | None = None,
        release: str = "",
    ) -> None:
        self._folders = folders or {"python": python_docs(), "postgres": postgres_docs()}
        self._conf = conf
        self._release = release

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            site = self.folder / "site"
            site.mkdir()
            for name, target in self._folders.items():
                (site / name).symlink_to(target)
            self.node = stack.enter_context(self._node())
            nginx = stack.enter_context(Nginx(site, self.folder / "nginx"))
            self.pages = list(_pages(nginx.url, site))
            parameters = pika.URLParameters(self.node.url)
            parameters.heartbeat = 0  # nobody services this connection between two calls
            connection = stack.enter_context(pika.BlockingConnection(parameters))
            self.channel: BlockingChannel = connection.channel()
            with self.daemon(log__level="warning") as child:
                self._until_declared(child)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _node(self) -> Node:
        return Node(self.folder / "rabbitmq", conf=self._conf, release=self._release)

    @property
    def jobs(self) -> str:
        """The jobs queue."""
        return f"{PREFIX}.jobs"

    @property
    def results(self) -> str:
        """The results queue and the exchange before it."""
        return f"{PREFIX}.results"

    @contextmanager
    def child(self, *module: str, tree: Path = CHECKOUT, **settings: Any) -> Iterator[Child]:
        """`python -m MODULE` in `tree`, its output in a file; ended by SIGTERM, which must do."""
        env = environment({"broker_url": self.node.url, "broker__prefix": PREFIX, **settings})
        env.pop("PYTHONPATH", None)  # it would win over `tree`
        log = self.folder / "child.log"
        with log.open("wb") as output:
            popen = process.spawn([sys.executable, "-m", *module], env=env, cwd=tree, stdout=output)
        try:
            yield Child(popen, log)
        finally:
            if code := process.end(popen, 40):
                print(f"{' '.join(module)} ended with {code}:\n{_tail(log)}", file=sys.stderr)

    @contextmanager
    def daemon(self, tree: Path = CHECKOUT, **settings: Any) -> Iterator[Child]:
        """The real daemon, JSON lines to a file."""
        values = {
            "concurrency": CONCURRENCY,
            "politeness__per_host_concurrency": CONCURRENCY,  # everything comes from one host
            "fetch__allow_networks": ["127.0.0.0/8"],
            "fetch__allow_ports": [],
            "log__format": "json",
        }
        with self.child("scraperd", "run", tree=tree, **{**values, **settings}) as child:
            yield child

    def publish(self, jobs: Iterable[dict[str, Any]]) -> int:
        """Publish the jobs and wait until all of them are in the queue; returns how many."""
        persistent = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        count = 0
        for count, job in enumerate(jobs, 1):  # noqa: B007 - the count is the answer
            self.channel.basic_publish("", self.jobs, json.dumps(job).encode(), persistent)
        deadline = time.monotonic() + 60
        while self.depth(self.jobs) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.depth(self.jobs)} of {count} jobs in the queue")
            time.sleep(0.02)
        return count

    def depth(self, queue: str) -> int:
        """Ready messages of a queue."""
        return self.channel.queue_declare(queue, passive=True).method.message_count or 0

    def purge(self) -> None:
        """Empty the jobs and the results."""
        for queue in (self.jobs, self.results):
            self.channel.queue_purge(queue)

    def _until_declared(self, child: Child) -> None:
        """Wait until the daemon consumes: then every queue is there."""
        deadline = time.monotonic() + 60
        while child.popen.poll() is None and time.monotonic() < deadline:
            try:
                if self.channel.queue_declare(self.jobs, passive=True).method.consumer_count:
                    return
            except ChannelClosedByBroker:
                self.channel = self.channel.connection.channel()
            time.sleep(0.1)
        raise RuntimeError(f"the daemon does not consume:\n{_tail(child.log)}")


@dataclass(frozen=True, slots=True)
class Child:
    """A measured process. What the kernel knows of it, read from /proc."""

    popen: subprocess.Popen[bytes]
    log: Path

    def cpu(self, *, helpers: bool = True) -> float:
        """CPU seconds so far, user and system, of it, and of the helpers it has or had.

        Those that it had are counted by their parent.
        """
        own = self.popen.pid
        if not helpers:
            return sum(times(own)[:2])
        return sum(sum(times(pid)) for pid in [own, *process.started(own), *process.helpers(own)])

    def peak_rss(self) -> float:
        """Peak resident memory in MiB (VmHWM)."""
        if peak := memory(self.popen.pid, "VmHWM:"):
            return peak
        raise RuntimeError("no VmHWM in /proc")


def _pages(url: str, site: Path) -> Iterator[PageFile]:
    for folder in sorted(site.iterdir()):
        for file in html_files(folder.resolve()):
            path = file.relative_to(folder.resolve()).as_posix()
            yield PageFile(f"{url}{folder.name}/{quote(path)}", file)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1000:]
