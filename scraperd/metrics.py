"""The daemon's metrics and its health, as Prometheus and probes ask for them.

May touch: the services, to read; the broker's counts of its queues; the loop's time.
Must never: change what happens; label by host, URL, pod or process: a label has few values.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from scraperd import __version__
from scraperd.base.histogram import Histogram
from scraperd.bottleneck import LIMITS
from scraperd.broker.rabbitmq.topology import DELAYS
from scraperd.control.rules import DOS
from scraperd.extract.compiled import engine
from scraperd.ops.listener import Answer, listening
from scraperd.ops.stats import Stats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from prometheus_client.core import Metric

    from scraperd.bottleneck import Bottleneck
    from scraperd.reload import Reloader
    from scraperd.wiring import Services

LAG_INTERVAL: Final = 0.25  # seconds between two looks at how late the loop is
COUNT_INTERVAL: Final = 10.0  # seconds between two counts of all queues
AGAIN_INTERVAL: Final = 0.5  # seconds until the next try, if no queue was counted
SOON: Final = 60  # seconds: what comes back within them is demand of now
LAGS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@dataclass(slots=True)
class Watch:
    """What is measured now and then: the loop's lag, and the broker's counts of the queues.

    `run` is a service of the daemon. `queues` has ready messages and consumers by the queue's name
    without the prefix; a queue that could not be counted is missing.
    """

    services: Services
    lag: Histogram = field(default_factory=lambda: Histogram(LAGS))
    queues: dict[str, tuple[int, int]] = field(default_factory=dict)

    async def run(self) -> None:
        """Measure until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._time_loop())
            group.create_task(self._count_queues())

    async def _time_loop(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_INTERVAL)
            self.lag.add(max(0.0, time.monotonic() - before - LAG_INTERVAL))

    async def _count_queues(self) -> None:
        topology = self.services.publisher.addresses.topology
        start = len(topology.prefix) + 1
        while True:
            found: dict[str, tuple[int, int]] = {}
            for queue in topology.queues:
                if (count := await self.services.link.count(queue.name)) is not None:
                    found[queue.name[start:]] = count
            self.queues = found
            await asyncio.sleep(COUNT_INTERVAL if found else AGAIN_INTERVAL)

    @property
    def demand(self) -> int | None:
        """Jobs that could be worked on now or within a minute; None if it is not known.

        Those that are ready, those that came back, and those whose delay is a minute at most.
        """
        soon = [f"delay.{seconds}" for seconds in DELAYS if seconds <= SOON]
        names = ("jobs", "quarantine", "quarantine.solo", *soon)
        if "jobs" not in self.queues:
            return None
        return sum(self.queues[name][0] for name in names if name in self.queues)


class Collector:
    """Makes the metric families of what the services are like at the moment of a scrape."""

    def __init__(
        self,
        services: Services,
        stats: Stats,
        watch: Watch,
        reloader: Reloader,
        bottleneck: Bottleneck,
    ) -> None:
        self._services = services
        self._stats = stats
        self._watch = watch
        self._reloader = reloader
        self._bottleneck = bottleneck

    def collect(self) -> Iterator[Metric]:
        """Yield the families; called by prometheus_client."""
        yield from self._about()
        yield from self._jobs()
        yield from self._times()
        yield from self._room()
        yield from self._callbacks()
        yield from self._batches()
        yield from self._rules()
        yield from self._broker()
        yield from self._queues()

    def _about(self) -> Iterator[Metric]:
        tree = "compiled" if engine.AVAILABLE else "python"
        labels = {"version": __version__, "python": platform.python_version(), "extraction": tree}
        yield gauge("build_info", "What runs; always 1.", {tuple(labels.values()): 1}, [*labels])
        told = self._reloader
        yield gauge("config_reload_success", "1 if the last reload was good, or none was yet.",
                    int(not told.failed))  # fmt: skip
        yield gauge("config_reload_time_seconds",
                    "When the configuration that holds was read, in seconds since 1970.",
                    told.read_at)  # fmt: skip
        observer = self._services.observer
        yield counter("log_lines_lost", "Lines of the log that no reader took.", observer.unlogged)
        if observer.spans_lost is not None:
            yield counter("spans_lost", "Spans that the collector did not take, by reason.",
                          _by_one(dict(observer.spans_lost)), ["reason"])  # fmt: skip

    def _jobs(self) -> Iterator[Metric]:
        stats, tally = self._stats, self._services.observer.tally
        yield counter("jobs", "Jobs that ended here, by outcome and kind of failure.",
                      dict(stats.ended), ["outcome", "kind"])  # fmt: skip
        yield counter("attempts", "Attempts, with those that are retried, by kind of failure.",
                      _by_one(stats.attempts), ["kind"])  # fmt: skip
        yield counter("retries", "Jobs that were put off to be tried again.", tally.retried)
        yield counter("snoozes", "Moves of jobs to a delay queue, to wait for a turn.",
                      tally.snoozed)  # fmt: skip
        yield counter("moves", "Jobs that were moved to a queue unread, by queue.",
                      _by_one(stats.moved), ["queue"])  # fmt: skip
        yield counter("late_acks", "Outcomes published, but acked too late: a duplicate comes.",
                      tally.lost)  # fmt: skip
        yield counter("responses", "Last responses of pages, by class of status.",
                      _by_one(stats.responses), ["class"])  # fmt: skip
        yield counter("response_bytes", "Bytes of bodies, after decompression.", stats.bytes)

    def _times(self) -> Iterator[Metric]:
        stats = self._stats
        yield histogram("queue_wait_seconds",
                        "From the publisher's timestamp (whole seconds) to the first delivery.",
                        {(): stats.queue_wait})  # fmt: skip
        yield histogram("return_lateness_seconds",
                        "From a snoozed job's turn, or a retried job's delay, to its return.",
                        {(): stats.lateness})  # fmt: skip
        yield histogram("fetch_phase_seconds", "Steps of fetches, of all hops of a job together.",
                        _by_one(stats.phases), ["phase"])  # fmt: skip
        yield histogram("extract_seconds", "Searching a page, on the loop or in a helper process.",
                        _by_one(self._services.pages.extractor.took), ["where"])  # fmt: skip
        yield histogram("publish_seconds", "From publishing an outcome to its confirm and ack.",
                        {(): stats.publish})  # fmt: skip
        yield histogram("job_seconds", "From the begin of a job here to its result.",
                        {(): stats.total})  # fmt: skip
        yield histogram("loop_lag_seconds", "How late the event loop's timers are.",
                        {(): self._watch.lag})  # fmt: skip

    def _room(self) -> Iterator[Metric]:
        services, pages = self._services, self._services.pages
        scheduler, budget = pages.hops.scheduler, pages.budget
        yield gauge("jobs_in_flight", "Deliveries taken over and not settled.",
                    services.worker.in_flight)  # fmt: skip
        yield gauge("fetches_running", "Fetches that have a permit.", scheduler.busy)
        yield gauge("fetches_limit", "Fetches that may run at once (concurrency).",
                    scheduler.slots)  # fmt: skip
        waiting = {("ordinary",): scheduler.ordinary_waiting,
                   ("priority",): scheduler.priority_waiting}  # fmt: skip
        yield gauge("permits_waiting", "Jobs that wait here for a permit.", waiting, ["class"])
        yield gauge("hosts_known", "Hosts that are remembered.", len(scheduler))
        yield gauge("memory_budget_used_bytes", "Bodies and results in flight.", budget.used)
        yield gauge("memory_budget_limit_bytes", "Bytes that they may take now.", budget.limit)
        yield gauge("memory_budget_waiting", "Bodies and fetches that wait for memory.",
                    budget.waiting)  # fmt: skip
        lacks = {(kind.__name__.lower(),): n for kind, n in pages.scraper.snoozed_for.items()}
        seconds = {(limit,): self._bottleneck.seconds[limit] for limit in LIMITS}
        yield counter("limited_seconds", "Seconds for which this held the daemon back.",
                      seconds, ["by"])  # fmt: skip
        yield counter("shortages", "Jobs sent back as this process lacked something, by what.",
                      lacks, ["lack"])  # fmt: skip

    def _callbacks(self) -> Iterator[Metric]:
        counts = self._services.callbacks
        yield counter("callbacks", "What became of callbacks here, by outcome.",
                      _by_one(counts.outcomes), ["outcome"])  # fmt: skip
        yield histogram("callback_seconds", "Attempts of callbacks, from dialling to the answer.",
                        {(): counts.seconds})  # fmt: skip
        yield gauge("callbacks_running", "Attempts of callbacks on their way.", counts.running)
        yield gauge("callback_hosts_paused", "Receivers that get callbacks now and then only.",
                    counts.paused)  # fmt: skip

    def _batches(self) -> Iterator[Metric]:
        if (keeper := self._services.batches) is None:
            return
        yield gauge("batches_tallying", "1 if this process tallies the batches of the fleet.",
                    int(keeper.holds))  # fmt: skip
        yield gauge("batches_open", "Batches of which jobs are missing, as far as known here.",
                    keeper.open)  # fmt: skip
        yield counter("batches", "Batches that ended here, by how: done or expired.",
                      _by_one(dict(keeper.counts.ended)), ["outcome"])  # fmt: skip
        yield counter("batch_notes",
                      "Notes on jobs of batches: counted, duplicate, late or refused.",
                      _by_one(dict(keeper.counts.notes)), ["outcome"])  # fmt: skip

    def _rules(self) -> Iterator[Metric]:
        rules = self._services.rules
        found = Counter(rule.do for rule in rules.rules)
        yield gauge("rules_in_force", "Rules in force that people set, by what they do.",
                    {(do,): found[do] for do in DOS}, ["do"])  # fmt: skip
        yield counter("rules_refused", "Sets of rules without a valid seal.", rules.refused)

    def _broker(self) -> Iterator[Metric]:
        link = self._services.link
        yield gauge("broker_consuming", "1 while it is fed: it consumes and is not blocked.",
                    int(not link.not_ready))  # fmt: skip
        yield counter("broker_connections", "How often it came to consume.", link.connections)
        yield counter("broker_deliveries", "Deliveries from all queues, redeliveries too.",
                      link.taken)  # fmt: skip
        yield counter("broker_blocked_seconds", "Seconds for which the broker blocked publishes.",
                      link.blocked_time)  # fmt: skip
        yield gauge("broker_unacked", "Deliveries of this process that are not acked.",
                    link.unacked)  # fmt: skip
        yield gauge("broker_unconfirmed", "Publishes of this process without a confirm yet.",
                    link.unconfirmed)  # fmt: skip

    def _queues(self) -> Iterator[Metric]:
        queues = self._watch.queues
        ready = {(name,): count[0] for name, count in queues.items()}
        consumers = {(name,): count[1] for name, count in queues.items()}
        yield gauge("queue_ready", "Ready messages of our queues, as the broker counted them last.",
                    ready, ["queue"])  # fmt: skip
        yield gauge("queue_consumers", "Consumers of our queues, of all processes.",
                    consumers, ["queue"])  # fmt: skip
        if (demand := self._watch.demand) is not None:
            yield gauge("demand", "Jobs that could be worked on now or within a minute.", demand)


class Paths:
    """What the listener's paths answer with."""

    def __init__(self, collector: Collector, services: Services) -> None:
        self._services = services
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    @property
    def all(self) -> dict[str, Any]:
        """The paths, each with what answers it."""
        return {"/healthz": self.healthz, "/readyz": self.readyz, "/metrics": self.metrics}

    async def healthz(self, _accept: str) -> Answer:
        """200: the event loop turns, or this would not be answered."""
        return Answer(200, b"ok\n")

    async def readyz(self, _accept: str) -> Answer:
        """200 if jobs come here, or would; else 503 and why they do not."""
        services = self._services
        why = "draining" if services.worker.draining else services.link.not_ready
        return Answer(503, f"{why}\n".encode()) if why else Answer(200, b"ready\n")

    async def metrics(self, accept: str) -> Answer:
        """The metrics, in Prometheus's text format or in OpenMetrics, as `accept` prefers."""
        encode, content_type = choose_encoder(accept)
        return Answer(200, encode(self._registry), content_type)


@asynccontextmanager
async def serving(
    services: Services, reloader: Reloader, bottleneck: Bottleneck, address: tuple[str, int]
) -> AsyncIterator[int]:
    """Count and measure, and serve that; yields the port. Raises CannotListen."""
    services.observer.stats = stats = services.observer.stats or Stats()
    watch = Watch(services)
    paths = Paths(Collector(services, stats, watch, reloader, bottleneck), services)
    async with listening(*address, paths.all) as found, asyncio.TaskGroup() as group:
        watching = group.create_task(watch.run(), name="watch")
        yield found
        watching.cancel()


def gauge(name: str, about: str, value: Any, labels: list[str] | None = None) -> Metric:
    """A gauge with one value, or with one for each tuple of labels."""
    return _filled(GaugeMetricFamily(f"scraperd_{name}", about, labels=labels or []), value)


def counter(name: str, about: str, value: Any, labels: list[str] | None = None) -> Metric:
    """A counter, whose name gets `_total` behind it."""
    return _filled(CounterMetricFamily(f"scraperd_{name}", about, labels=labels or []), value)


def _filled(family: Any, value: Any) -> Metric:
    samples = value if isinstance(value, dict) else {(): value}
    for labels, number in samples.items():
        family.add_metric(list(labels), number)
    return family  # type: ignore[no-any-return]


def histogram(
    name: str, about: str, found: dict[Any, Histogram], labels: list[str] | None = None
) -> Metric:
    """A histogram for each tuple of labels."""
    family = HistogramMetricFamily(f"scraperd_{name}", about, labels=labels or [])
    for values, it in found.items():
        bounds = [*map(str, it.bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, it.cumulative), strict=True))
        family.add_metric(list(values), buckets=buckets, sum_value=it.sum)
    return family


def _by_one(found: dict[str, Any]) -> dict[tuple[str], Any]:
    return {(name,): value for name, value in found.items()}
