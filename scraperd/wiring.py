"""Each room gets its table of the configuration, and single values of others. A composition root.

May touch: the constructors of the rooms, the configuration's values.
Must never: hand a room the whole configuration, or hold logic that a job passes through.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from scraperd.base.clocks import SYSTEM
from scraperd.batches.keeper import WRITE_INTERVAL, Keeper
from scraperd.broker.ports import Limits
from scraperd.broker.rabbitmq.batches.consuming import BatchQueue
from scraperd.broker.rabbitmq.callbacks.consuming import Callbacks
from scraperd.broker.rabbitmq.consumers import Prefetch
from scraperd.broker.rabbitmq.generation import Settings as LinkSettings
from scraperd.broker.rabbitmq.inspection.policies import Surveyor
from scraperd.broker.rabbitmq.link import Link
from scraperd.broker.rabbitmq.publisher import RabbitPublisher
from scraperd.broker.rabbitmq.reply_patterns import Addresses
from scraperd.broker.rabbitmq.rules.following import Following
from scraperd.broker.rabbitmq.topology import Topology, declare
from scraperd.broker.rabbitmq.wire.gate import Gates
from scraperd.callbacks.courier import Counts, Courier
from scraperd.control.force import RulesInForce
from scraperd.extract.limits import limits_of
from scraperd.fetch.client import Fetcher
from scraperd.fetch.memory import Budget
from scraperd.jobs.callback.allowed import NONE, Allowed
from scraperd.jobs.settle import Settler
from scraperd.jobs.worker import Worker
from scraperd.ops.capacity import fitted
from scraperd.politeness.host_rules import HostTable
from scraperd.politeness.robots import Robots
from scraperd.politeness.scheduler import HostScheduler
from scraperd.sandbox.extractor import Extractor
from scraperd.scrape.hops import Hops
from scraperd.scrape.permission import Permission
from scraperd.scrape.pipeline import Scraper, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from scraperd.base.clocks import Clocks
    from scraperd.callbacks.signing import Signer
    from scraperd.config.settings import Config
    from scraperd.extract.document import Limits as ExtractLimits
    from scraperd.fetch.http1.reading_time import ReadingTime
    from scraperd.jobs import record
    from scraperd.jobs.signing import Keys
    from scraperd.ops.telemetry import Observer
    from scraperd.politeness.robots import Get


def fetcher_of(config: Config, reading_time: ReadingTime | None = None) -> Fetcher:
    """Return the sessions to sites, not opened yet.

    Shared: `concurrency` gives the number of connections; the limit by address and its wait are
    politeness's, because a lookup before the permit is made for that limit alone.
    """
    return Fetcher(
        config.fetch,
        config.proxies,
        connections=_connections(config),
        lookup_wait=_lookup_wait(config),
        reading_time=reading_time,
    )


def _connections(config: Config) -> int:
    return config.fetch.max_connections or 2 * config.concurrency


def _lookup_wait(config: Config) -> float | None:
    limited = bool(config.politeness.per_address_concurrency)
    return config.politeness.snooze_after if limited else None


def extract_limits(config: Config) -> ExtractLimits:
    """Return the bounds of one page."""
    return limits_of(config.extract)


def extractor_of(config: Config) -> Extractor:
    """Return what searches pages, not opened yet."""
    return Extractor(config.sandbox, extract_limits(config), waiting_room=config.waiting_room)


def table_of(config: Config) -> HostTable:
    """Return what holds for each host. Shared: `fetch.proxy`, for hosts without their own."""
    return HostTable(config.politeness, config.hosts, config.fetch.proxy)


def scheduler_of(
    config: Config,
    table: HostTable,
    clock: Callable[[], float],
    jitter: Callable[[], float],
    *,
    unsearched: Callable[[], int] = int,
) -> HostScheduler:
    """Return what gives permits. Shared: `jobs.timeout` bounds the wait for one."""
    return HostScheduler(
        config.politeness,
        table,
        clock,
        jitter,
        concurrency=config.concurrency,
        waiting_room=config.waiting_room,
        job_timeout=config.jobs.timeout,
        unsearched=unsearched,
    )


def robots_of(config: Config, table: HostTable, get: Get, clock: Callable[[], float]) -> Robots:
    """Return the rules of robots.txt files. Shared: `jobs.retry_after_max` bounds their wait too.

    Their name for us follows from `fetch.user_agent` where `politeness.robots_agent` is empty.
    """
    return Robots(
        config.politeness,
        table,
        get,
        clock,
        name=config.robots_name,
        concurrency=config.concurrency,
        retry_after_max=config.jobs.retry_after_max,
    )


class Pages(Struct, frozen=True):
    """The rooms that a page goes through; `scraper` is their door."""

    fetcher: Fetcher
    table: HostTable
    budget: Budget
    hops: Hops
    permission: Permission
    extractor: Extractor
    scraper: Scraper


def pages_of(config: Config, fetcher: Fetcher, clocks: Clocks) -> Pages:
    """Return the rooms of a page, not opened yet.

    Shared: `jobs.retry_after_max` bounds the pause of a host, `fetch.connect_timeout` tells a host
    that hangs from a fetch that was short of time.
    """
    table, budget = table_of(config), Budget(config.fetch.memory_budget)
    extractor = extractor_of(config)
    scheduler = scheduler_of(
        config, table, clocks.monotonic, clocks.roll, unsearched=extractor.waiting_for_loop
    )
    hops = Hops(
        fetcher,
        table,
        scheduler,
        clocks,
        connect_timeout=config.fetch.connect_timeout,
        retry_after_max=config.jobs.retry_after_max,
    )
    permission = Permission(
        hops,
        budget,
        clocks,
        robots=partial(robots_of, config, table, clock=clocks.monotonic),
        download_timeout=config.fetch.download_timeout,
    )
    scraper = Scraper(
        _page_settings(config),
        clocks,
        budget=budget,
        hops=hops,
        permission=permission,
        extractor=extractor,
    )
    return Pages(fetcher, table, budget, hops, permission, extractor, scraper)


@asynccontextmanager
async def opened(pages: Pages) -> AsyncIterator[Pages]:
    """Open the rooms that need it, and close them."""
    async with pages.scraper:
        yield pages


def scraper_of(config: Config, fetcher: Fetcher, clocks: Clocks) -> Scraper:
    """Return the straight line of a page, not opened yet."""
    return pages_of(config, fetcher, clocks).scraper


def configure_pages(pages: Pages, config: Config) -> None:
    """Hand each room of a page its settings anew, as when it was made.

    The table comes before the scheduler, which looks up in it what holds for its hosts now.
    """
    connections, wait = _connections(config), _lookup_wait(config)
    pages.fetcher.configure(config.fetch, config.proxies, connections=connections, lookup_wait=wait)
    pages.budget.configure(config.fetch.memory_budget)
    pages.extractor.configure(waiting_room=config.waiting_room)
    pages.table.configure(config.politeness, config.hosts, config.fetch.proxy)
    pages.hops.scheduler.configure(
        config.politeness,
        concurrency=config.concurrency,
        waiting_room=config.waiting_room,
        job_timeout=config.jobs.timeout,
    )
    pages.hops.configure(
        connect_timeout=config.fetch.connect_timeout, retry_after_max=config.jobs.retry_after_max
    )
    pages.permission.robots.configure(
        config.politeness,
        name=config.robots_name,
        concurrency=config.concurrency,
        retry_after_max=config.jobs.retry_after_max,
    )
    pages.permission.download_timeout = config.fetch.download_timeout
    pages.scraper.settings = _page_settings(config)


def _page_settings(config: Config) -> Settings:
    """What the way of a page needs: it has no table of its own, as it is made of other rooms."""
    return Settings(
        download_timeout=config.fetch.download_timeout,
        download_maxsize=config.fetch.download_maxsize,
        max_redirects=config.fetch.max_redirects,
        snooze_after=config.politeness.snooze_after,
        retry_http_codes=config.jobs.retry_http_codes,
    )


def worker_of(  # noqa: PLR0917 - as the daemon names its parts
    config: Config,
    scraper: Scraper,
    settler: Settler,
    observer: record.Observer,
    name: str,
    clocks: Clocks,
    tracer: record.Tracer | None = None,
    callbacks: Allowed = NONE,
) -> Worker:
    """Return what runs the jobs. Shared: the names of `proxies`, which a job may choose from."""
    return Worker(
        config.jobs,
        config.proxies,
        scraper,
        settler,
        observer,
        name=name,
        clocks=clocks,
        tracer=tracer,
        callbacks=callbacks,
        batches=config.batches.enabled,
    )


def callbacks_of(config: Config) -> Allowed:
    """Return which callbacks a job may ask for."""
    return Allowed(config.callbacks.allow_urls, frozenset(config.callback_endpoints))


def topology_of(config: Config) -> Topology:
    """Return the names of the queues. Shared: whether there are callbacks, and batches."""
    tallies = config.batches.enabled
    return Topology.of(config.broker, calls_back=config.calls_back, tallies=tallies)


def link_settings(config: Config, name: str) -> LinkSettings:
    """Return how the broker is reached. Shared: `fetch.connect_timeout`, as sites are dialled."""
    return LinkSettings.of(
        config.broker, config.broker_urls, f"scraperd {name}", config.fetch.connect_timeout
    )


def broker_limits(config: Config) -> Limits:
    """Return what the broker takes. Shared: `jobs.max_result_size`, as a message's bytes."""
    return Limits(config.jobs.max_result_size, config.broker.ack_timeout)


@dataclass(slots=True)
class Services:
    """What a daemon runs, wired together, and the configuration that it runs with.

    `limit` is how many descriptors the process may have: `config` is as it was read, and what the
    rooms have fits that limit.
    """

    config: Config
    limit: int
    name: str
    pages: Pages
    publisher: RabbitPublisher
    limits: Limits
    keys: Keys
    gates: Gates
    worker: Worker
    link: Link
    surveyor: Surveyor
    observer: Observer
    callbacks: Counts = field(default_factory=Counts)
    poster: Fetcher | None = None
    """The connections to receivers of callbacks, if this process sends any."""
    batches: Keeper | None = None
    """The tally of batches, if there are any."""
    rules: RulesInForce = field(kw_only=True)
    """The rules that people set at run time."""


def services_of(  # noqa: PLR0917 - as the daemon names its parts
    config: Config,
    own: Config,
    limit: int,
    keys: Keys,
    pages: Pages,
    observer: Observer,
    name: str,
    tracer: record.Tracer | None = None,
) -> Services:
    """Build the house of a daemon: each part gets what it needs and no more."""
    topology, limits, allowed = topology_of(own), broker_limits(own), callbacks_of(own)
    publisher = _publisher_of(own, topology, observer)
    settler = Settler(publisher, limits, keys, SYSTEM, own.callbacks.max_payload)
    worker = worker_of(own, pages.scraper, settler, observer, name, SYSTEM, tracer, allowed)
    gates = Gates(own.jobs_budget, pages.scraper.hold)
    link = Link(
        link_settings(own, name),
        topology,
        limits,
        gates.make,
        prefetch=prefetch_of(own),
        on_delivery=worker.accept,
        on_lost=worker.abandon,
        events=observer.event,
        clocks=SYSTEM,
    )
    ready = link.consuming.wait
    surveyor = Surveyor(own.broker, own.broker_urls[0], topology, ready, observer.event)
    return Services(
        config=config,
        limit=limit,
        name=name,
        pages=pages,
        publisher=publisher,
        limits=limits,
        keys=keys,
        gates=gates,
        worker=worker,
        link=link,
        surveyor=surveyor,
        observer=observer,
        batches=keeper_of(own, keys, observer),
        rules=rules_of(keys, observer, worker, pages),
    )


def rules_of(keys: Keys, observer: Observer, worker: Worker, pages: Pages) -> RulesInForce:
    """Return the rules that people set, which the worker and the hops of pages are told of.

    Until it is known whether there are any, each job asks.
    """
    rules = RulesInForce(keys, observer.event, SYSTEM)

    def changed() -> None:
        worker.rules = None if rules.quiet else rules
        pages.hops.paused = rules.paused if rules.pauses_hosts else None
        if pages.table.limit(rules.limits):
            pages.hops.scheduler.look_up()
        worker.enforce()

    rules.on_change, worker.rules = changed, rules
    return rules


def following_of(services: Services) -> Following:
    """Return what reads the rules in the broker."""
    return Following(
        services.publisher.addresses.topology.prefix,
        services.link.exists,
        partial(services.link.beside, purpose="rules"),
        services.link.consuming.wait,
        services.rules,
        events=services.observer.event,
        trouble=services.observer.trouble,
        clocks=SYSTEM,
    )


def keeper_of(config: Config, keys: Keys, observer: Observer) -> Keeper | None:
    """Return the tally of batches; None without them. Shared: how long a delivery may be held."""
    if not config.batches.enabled:
        return None
    interval = min(WRITE_INTERVAL, config.broker.ack_timeout / 3)
    return Keeper(config.batches, keys, observer.event, SYSTEM, write_interval=interval)


def batch_queue_of(services: Services) -> BatchQueue | None:
    """Return what hands the tally the notes on jobs of batches; None without batches."""
    if services.batches is None:
        return None
    return BatchQueue(
        services.publisher.addresses.topology,
        partial(services.link.beside, purpose="batches"),
        services.link.consuming.wait,
        services.batches,
        events=services.observer.event,
        trouble=services.observer.trouble,
        clocks=SYSTEM,
    )


@asynccontextmanager
async def posting(
    services: Services, config: Config, signers: Mapping[str, Signer]
) -> AsyncIterator[Callbacks | None]:
    """Open what sends callbacks; None if this process sends none.

    Connections to receivers are its own, so that they take none from pages. Shared: `fetch`, for
    what may be connected to and how.
    """
    table = config.callbacks
    if not signers:
        yield None
        return
    own = Fetcher(config.fetch, {}, connections=table.concurrency, lookup_wait=None)
    async with own as fetcher:
        services.poster = fetcher
        courier = Courier(
            table,
            {name: endpoint.url for name, endpoint in config.callback_endpoints.items()},
            signers,
            fetcher,
            services.keys,
            services.callbacks,
            services.observer.event,
            SYSTEM,
        )
        topology = services.publisher.addresses.topology
        yield Callbacks(
            topology.callbacks,
            services.publisher,
            partial(services.link.beside_epoch, purpose="callbacks"),
            services.link.consuming.wait,
            partial(declare, topology, passive=config.broker.passive_declare),
            courier.handle,
            courier.failed,
            prefetch=2 * table.concurrency,
            events=services.observer.event,
            trouble=services.observer.trouble,
            clocks=SYSTEM,
        )


def _publisher_of(config: Config, topology: Topology, observer: Observer) -> RabbitPublisher:
    return RabbitPublisher(
        Addresses.of(topology, config.broker.allow_reply_to),
        observer.event,
        passive=config.broker.passive_declare,
        confirm_timeout=config.broker.confirm_timeout,
        clocks=SYSTEM,
    )


def prefetch_of(config: Config) -> Prefetch:
    """Return how many jobs the broker is asked for."""
    return Prefetch(config.prefetch_count, config.quarantine_prefetch)


def configure(services: Services, config: Config, secrets: Iterable[bytes]) -> None:
    """Hand the settings to all rooms anew, within one turn of the loop. Nothing here can fail."""
    services.config = config
    own = fitted(config, services.limit, services.observer.event)
    services.observer.configure(own.log)
    configure_pages(services.pages, own)
    if services.poster is not None:
        most = own.callbacks.concurrency
        services.poster.configure(own.fetch, {}, connections=most, lookup_wait=None)
    services.worker.configure(own.jobs, own.proxies)
    services.keys.configure(secrets)
    services.limits.max_message = own.jobs.max_result_size
    services.limits.ack_timeout = own.broker.ack_timeout
    topology = services.publisher.addresses.topology
    services.publisher.addresses = Addresses.of(topology, own.broker.allow_reply_to)
    services.gates.configure(own.jobs_budget)
    services.link.configure(link_settings(own, services.name), prefetch_of(own))
