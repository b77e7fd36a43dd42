"""What a daemon answers to `scraperd status`, `host` and `top`: made of the services, when asked.

May touch: the services, to read; the loop's time and its thread's CPU time.
Must never: change what happens, wait, or tell a credential or the URL of a job.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace
from yarl import URL

from scraperd import __version__
from scraperd.base.clocks import SYSTEM
from scraperd.base.text import printable, text_without_queries
from scraperd.base.urls import named_host
from scraperd.broker.rabbitmq.inquiry.answering import Answering
from scraperd.config.masked import changed
from scraperd.contract import Failure
from scraperd.ops.fleet.answer import (
    Capacity,
    HostAnswer,
    Latency,
    RulesAnswer,
    Status,
    read_question,
    write,
)
from scraperd.ops.fleet.faults import Faults
from scraperd.ops.fleet.recent import INTERVAL, Recent, Sample
from scraperd.ops.stats import OK, Stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.base.histogram import Histogram
    from scraperd.batches.progress import Progress
    from scraperd.bottleneck import Bottleneck
    from scraperd.reload import Reloader
    from scraperd.wiring import Services

MAX_HOSTS: Final = 20  # of those that wait, in an answer
MAX_KINDS: Final = 5
MAX_WORDS: Final = 300  # characters of what a reload or the broker said
CONNECTIONS: Final = 3  # of a process: to consume, to publish, to answer
BUSY: Final = 0.05  # of a processor; with less, what it could do is a guess


class Answers:
    """Answers questions about this process. `run` is a service of the daemon.

    `look` has rules looked for that were not there before.
    """

    def __init__(
        self,
        services: Services,
        reloader: Reloader,
        bottleneck: Bottleneck,
        look: Callable[[], None],
    ) -> None:
        self._services = services
        self._reloader = reloader
        self._bottleneck = bottleneck
        self._look = look
        self._recent = Recent()
        self._started = time.monotonic()
        self._faults = Faults(SYSTEM.wall)
        self._stats = services.observer.stats = services.observer.stats or Stats()
        self._stats.faults = self._faults

    async def run(self) -> None:
        """Answer, and keep samples, until cancelled."""
        services = self._services
        answering = Answering(
            services.publisher.addresses.topology.prefix,
            services.link.beside,
            services.link.consuming.wait,
            self.answer,
            services.observer.event,
            SYSTEM,
            passive=services.config.broker.passive_declare,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(answering.run(), name="answering")
            group.create_task(self._sample_now_and_then(), name="samples")

    async def _sample_now_and_then(self) -> None:
        while True:
            self._recent.add(self._sample())
            await asyncio.sleep(INTERVAL)

    def answer(self, body: bytes) -> bytes | None:
        """Return the answer to a question; None to what is not one."""
        question = read_question(body)
        if question is None:
            return None
        status = self._status()
        match question.ask:
            case "status":
                self._fill(status, self._sample())
            case "capacity":
                status.capacity = self._capacity(self._counted())
            case "host":
                if (host := named_host(question.host)) is None:
                    return None
                status.about = self._about(host)
            case "batches":
                status.batches = self._batches(question.batch)
            case "settings":
                status.settings = changed(self._services.config)
            case "rules":
                self._look()
                assert status.rules is not None
                status.rules.touched = dict(self._services.rules.touched)
        return write(status)

    @property
    def _histograms(self) -> dict[str, Histogram]:
        stats = self._stats
        return {
            "job": stats.total,
            "queue": stats.queue_wait,
            "publish": stats.publish,
            **stats.phases,
        }

    def _sample(self) -> Sample:
        """Return all counts of this moment, the steps of jobs included."""
        attempts = self._stats.attempts
        return replace(
            self._counted(),
            kinds={kind: count for kind, count in attempts.items() if kind != OK},
            histograms={name: one.cumulative for name, one in self._histograms.items()},
        )

    def _counted(self) -> Sample:
        """Return the counts of this moment that cost nothing to read."""
        services, tally, stats = self._services, self._services.observer.tally, self._stats
        link, publisher = services.link, services.publisher
        counts = {
            "done": tally.done,
            "failed": tally.failed,
            "retried": tally.retried,
            "snoozed": tally.snoozed,
            "requeued": tally.requeued,
            "dead": tally.dead,
            "bytes": stats.bytes,
            "taken": link.taken,
            "taken_bytes": link.taken_bytes,
            "sent": publisher.sent,
            "sent_bytes": publisher.sent_bytes,
        }
        return Sample(at=time.monotonic(), cpu=time.thread_time(), counts=counts)

    def _status(self) -> Status:
        """Return what this process is like, without what takes longer to be counted."""
        services, pages = self._services, self._services.pages
        link, scheduler, rules = services.link, pages.hops.scheduler, services.rules
        return Status(
            name=services.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            up=round(time.monotonic() - self._started, 1),
            state=self._state,
            why=_words(link.not_ready),
            consuming=link.registered,
            generation=link.connections,
            reload=_words(self._reloader.state),
            reload_failed=self._reloader.failed,
            in_flight=services.worker.in_flight,
            unacked=link.unacked,
            unconfirmed=link.unconfirmed,
            fetches=scheduler.busy,
            fetches_limit=scheduler.slots,
            waiting=scheduler.ordinary_waiting + scheduler.priority_waiting,
            memory=pages.budget.used,
            memory_limit=pages.budget.limit,
            rules=RulesAnswer(rules.version, len(rules.rules), rules.refused),
        )

    def _fill(self, status: Status, now: Sample) -> None:
        """Add what takes longer to be counted."""
        shown = ("done", "failed", "retried", "snoozed", "requeued", "dead", "bytes")
        rates = self._recent.rates(now)
        status.totals = {name: now.counts[name] for name in shown}
        status.rates = {name: rates[name] for name in shown}
        status.latency = {
            name: found
            for name, one in self._histograms.items()
            if (found := self._recent.latency(now, name, one.bounds)) != Latency()
        }
        status.kinds = self._recent.kinds(now, MAX_KINDS)
        status.limits = self._bottleneck.shares
        scheduler = self._services.pages.hops.scheduler
        status.hosts, status.hosts_waiting = scheduler.waiting_hosts(MAX_HOSTS)

    @property
    def _state(self) -> str:
        """The state in a word."""
        services = self._services
        if services.worker.draining:
            return "draining"
        if not services.link.consuming.is_set():
            return "no broker"
        if not services.link.registered:
            return "paused"
        return "starved" if services.link.not_ready else "consuming"

    def _capacity(self, now: Sample) -> Capacity:
        """Return what a broker has to bear of this process, and how much more could come."""
        recent, services = self._recent, self._services
        load, done = recent.load(now), recent.rates(now)["done"]
        return Capacity(
            consumed=recent.flow(now, "taken", "taken_bytes"),
            published=recent.flow(now, "sent", "sent_bytes"),
            prefetch=services.config.prefetch_count,
            consumers=services.link.consumers,
            connections=_connections(services),
            largest_message=services.limits.max_message,
            cpu_share=load,
            pages_rate=done,
            pages_possible=round(done / load, 1) if load >= BUSY and done else None,
        )

    def _batches(self, ident: str) -> list[Progress] | None:
        """Return what is known of a batch, or of the newest; None if another process tallies."""
        keeper = self._services.batches
        if keeper is None or not keeper.holds:
            return None
        return [keeper.progress(ident)] if ident else keeper.listed()

    def _about(self, host: str) -> HostAnswer:
        """Return what is known of a host."""
        pages = self._services.pages
        found = pages.hops.scheduler.seen(host)
        return HostAnswer(host, found, self._robots(host), self._faults.of(host))

    def _robots(self, host: str) -> str:
        """What is known of the host's robots.txt, in words, by the usual route."""
        pages = self._services.pages
        rules = pages.table.of(host)
        if not rules.obey_robots:
            return "not asked (robotstxt_obey is false)"
        shown = f"[{host}]" if ":" in host else host
        said = []
        for scheme in ("https", "http"):
            known = pages.permission.robots.known(URL(f"{scheme}://{shown}/"), rules.proxy)
            if isinstance(known, Failure):
                again = f", asked again in {known.retry_after:g} s" if known.retry_after else ""
                said.append(f"{scheme}: {_words(known.message)}{again}")
            elif known is not None:
                delay = "none" if known.crawl_delay is None else f"{known.crawl_delay:g} s"
                said.append(f"{scheme}: read, Crawl-delay {delay}")
        return "; ".join(said) or "not read yet, or forgotten"


def _words(text: str) -> str:
    """What the broker or a file provoked, fit for a terminal, without credentials and queries."""
    return printable(text_without_queries(text), MAX_WORDS)


def _connections(services: Services) -> int:
    """How many a process has to the broker: callbacks, the tally and rules have one each."""
    more = (services.poster is not None, services.batches is not None, services.rules.version > 0)
    return CONNECTIONS + sum(more)
