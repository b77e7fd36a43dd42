"""What a row plays on: brokers, a site, a dispatcher, and one daemon after the other.

May touch: private nodes, loopback, child processes.
Must never: sleep for luck; each wait is for something that is seen, and has an end.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.faults.dispatcher import Collector, Publisher, connect
from tests.faults.ledger import Ledger, Letter
from tests.faults.process import Daemon
from tests.rig.sites.hostel import Hostel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pika.adapters.blocking_connection import BlockingChannel

    from tests.faults.probes import Probe
    from tests.rig.brokers.cluster import Cluster
    from tests.rig.brokers.node import Node

SPARE = 4  # descriptors and tasks that it may hold at the end beyond those at the start
LOOK = 0.02  # seconds between two looks at something that sends no news


@dataclass
class Scene:
    """One row's world. `short` asks for few jobs and quick heartbeats.

    `cuts` counts what may make duplicates, `duplicates` is their number where it is known, `again`
    that of jobs which are to run once more after their result; `away` are the times in which no
    broker could be reached.
    """

    nodes: list[Node]
    short: bool
    group: Cluster | None = None  # the nodes, if they are one
    prefix: str = field(default_factory=lambda: f"f{secrets.token_hex(3)}")
    settings: dict[str, Any] = field(default_factory=dict)
    hooks: dict[str, str] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)
    daemons: list[Daemon] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    before: Probe | None = None
    after: Probe | None = None
    cuts: int = 0
    duplicates: int | None = None
    again: int = 0
    healed: list[float] = field(default_factory=list)
    away: list[tuple[float, float]] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    _finished: bool = False

    def __enter__(self) -> Self:
        urls = [node.url for node in self.nodes]
        with ExitStack() as stack:
            self.site = stack.enter_context(Hostel())
            self.publisher = Publisher(urls, self.prefix, self.ledger)
            self.collector = Collector(urls, self.prefix, self.ledger)
            for client in (self.publisher, self.collector):
                client.start()
                stack.callback(client.close)
            stack.callback(self._end_daemons)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end_daemons(self) -> None:
        for daemon in self.daemons:
            daemon.close()

    @property
    def node(self) -> Node:
        return self.nodes[0]

    @property
    def daemon(self) -> Daemon:
        """The one that runs, or ran last."""
        return self.daemons[-1]

    @property
    def cluster(self) -> Cluster:
        """The nodes, of a row that has them as one."""
        assert self.group is not None, "the row asked for no cluster"
        return self.group

    def many(self, full: int, short: int) -> int:
        """A number for the full form and one for the short."""
        return short if self.short else full

    def start(
        self,
        *,
        ready: bool = True,
        log: str = "",
        through: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        """Start a daemon, the first or the next. Settings, and the URLs of proxies it reaches its
        brokers `through`, last until they are changed.
        """
        self.settings |= settings
        self.urls = list(through or self.urls or [node.url for node in self.nodes])
        daemon = Daemon(self.urls, self.prefix, hooks=self.hooks, log=log, **self.settings)
        self.daemons.append(daemon)
        if ready:
            self.ready()

    def ready(self, timeout: float = 60) -> None:
        """Wait until the daemon consumes; before any load its descriptors are counted."""
        self.daemon.ready(timeout)
        if not self.ledger.letters:
            self.before = self._probe(self.daemon)

    def kill(self) -> None:
        """Kill -9 of the daemon: what it holds comes back."""
        self.cuts += 1
        self.daemon.killed()

    def load(self, count: int, path: str = "/page/{n}", **job: Any) -> list[str]:
        """Have this many jobs published, numbered through the row; their ids."""
        first = len(self.ledger.letters)
        idents = []
        for n in range(first, first + count):
            idents.append(f"{n}-{uuid.uuid4().hex[:8]}")
            self.job(path.format(n=n), idents[-1], **job)
        return idents

    def job(
        self, path: str, ident: str, *, status: str = "ok", dead: int | None = 0, **job: Any
    ) -> None:
        """Have one job published."""
        body = json.dumps({"url": self.site.url(path), "id": ident, **job}).encode()
        self.publisher.post(Letter(ident, body, status=status, dead=dead))

    def outcomes(self, count: int, timeout: float = 60) -> None:
        """Wait until as many jobs as this have their outcome."""
        self.ledger.wait(lambda ledger: len(ledger.came) >= count, f"{count} outcomes", timeout)

    def more(self, count: int, timeout: float = 60) -> None:
        """Wait for as many further outcomes, or for all there can be."""
        aim = min(len(self.ledger.letters), len(self.ledger.came) + count)
        self.outcomes(aim, timeout)

    def hits(self, count: int, timeout: float = 30) -> None:
        """Wait until the site was asked for as many pages."""
        self.site.wait_for(lambda hits: hits.total() >= count, timeout)

    def accepted(self, timeout: float = 60) -> None:
        """Wait until the broker has confirmed all that was published."""
        ledger = self.ledger
        ledger.wait(lambda _: len(ledger.accepted) == len(ledger.letters), "accepted", timeout)

    def quiet(self, timeout: float = 120) -> None:
        """Wait until each job has its outcome and its dead letter."""
        self.ledger.wait(lambda ledger: ledger.quiet, "an outcome of each job", timeout)

    def until(self, wanted: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Wait for something that sends no news."""
        deadline = time.monotonic() + timeout
        while not wanted():
            assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s"
            time.sleep(LOOK)

    def heal(self) -> None:
        """The fault is over now."""
        self.healed.append(time.monotonic())

    @contextlib.contextmanager
    def broker_away(self) -> Iterator[None]:
        """While this lasts, no broker can be reached; connections are cut by it."""
        self.cuts += 1
        self._gone = time.monotonic()
        yield
        self.away.append((self._gone, time.monotonic()))
        self.heal()

    def lasts(self, seconds: float) -> None:
        """How long a fault lasts is part of it."""
        began = time.monotonic()
        self.until(lambda: time.monotonic() - began >= seconds, "time passes", seconds + 5)

    def still_away(self, seconds: float) -> None:
        """Wait until the broker has been away for so long: the fault is its length."""
        self.lasts(seconds - (time.monotonic() - self._gone))

    @contextlib.contextmanager
    def channel(self, node: Node | None = None) -> Iterator[BlockingChannel]:
        """A channel to do mischief with."""
        connection = connect((node or self.node).url)
        try:
            yield connection.channel()
        finally:
            connection.close()

    def finish(self) -> None:
        """Wait for all outcomes, count what the daemon holds, end it, see what is left.

        A row calls it itself where what it plays on ends with it; again it does nothing.
        """
        if self._finished:
            return
        self._finished = True
        self.quiet()
        if self.daemon.expected is None:
            self.daemon.consuming()
            self.drained()  # a second copy of a job, from a cut, may come to its end yet
            self.after = self.settled(self.daemon)
            self.daemon.ended()
        self.left = self.drained()

    def _probe(self, daemon: Daemon) -> Probe:
        return daemon.probe(int(self.site.url("").rsplit(":", 1)[1]), self._running())

    def settled(self, daemon: Daemon) -> Probe:
        """What a daemon holds at rest; a few beats long it may still be putting things away."""
        now = self._probe(daemon)
        for _ in range(10):
            was = self.before or now
            if now.tasks <= was.tasks + SPARE and now.fds <= was.fds + SPARE:
                break
            now = self._probe(daemon)
        return now

    def _running(self) -> Node:
        return next(node for node in self.nodes if node.running)

    def has_jobs(self) -> bool:
        """True if a queue of jobs has one, ready or unacked."""
        counts = self._running().counts()
        queues = ("jobs", "quarantine", "quarantine.solo", "undelivered")
        return any(sum(counts.get(f"{self.prefix}.{name}", ())[:2]) for name in queues)

    def drained(self) -> dict[str, int]:
        """What is in our queues, once that is nothing or 20 seconds passed: ready, unacked, or
        dead and not confirmed by the dead queue.
        """
        node = self._running()
        deadline = time.monotonic() + 20
        while True:
            left = Counter(node.dead_letters())
            left.update(
                {name: ready + unacked for name, (ready, unacked, _) in node.counts().items()}
            )
            stays = (".batches", ".rules")  # a tally, and rules, are kept there
            names = [it for it in left if self._ours(it) and not it.endswith(stays)]
            left = +Counter({name: left[name] for name in names})
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(LOOK)

    def _ours(self, queue: str) -> bool:
        return queue.startswith(f"{self.prefix}.")

    def sweep(self) -> None:
        """Delete the row's queues from a broker that others use too."""
        with self.channel() as channel:
            for name in filter(self._ours, self.node.counts()):
                channel.queue_delete(name)
            for name in ("jobs", "results"):
                channel.exchange_delete(f"{self.prefix}.{name}")
