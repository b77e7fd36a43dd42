"""Each room gets its table of the configuration, and single values of others. A composition root.

May touch: the constructors of the rooms, the configuration's values.
Must never: hand a room the whole configuration, or hold logic that a job passes through.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from scraperd.broker.ports import Limits
from scraperd.extract.limits import limits_of
from scraperd.fetch.client import Fetcher
from scraperd.fetch.memory import Budget
from scraperd.jobs.worker import Worker
from scraperd.politeness.host_rules import HostTable
from scraperd.politeness.robots import Robots
from scraperd.politeness.scheduler import HostScheduler
from scraperd.sandbox.extractor import Extractor
from scraperd.scrape.hops import Hops
from scraperd.scrape.permission import Permission
from scraperd.scrape.pipeline import Scraper, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.base.clocks import Clocks
    from scraperd.config.settings import Config
    from scraperd.extract.document import Limits as ExtractLimits
    from scraperd.fetch.http1.reading_time import ReadingTime
    from scraperd.jobs.record import Observer
    from scraperd.jobs.settle import Settler
    from scraperd.politeness.robots import Get


def fetcher_of(config: Config, reading_time: ReadingTime | None = None) -> Fetcher:
    """Return the sessions to sites, not opened yet.

    Shared: `concurrency` gives the number of connections; the limit by address and its wait are
    politeness's, because a lookup before the permit is made for that limit alone.
    """
    limited = bool(config.politeness.per_address_concurrency)
    return Fetcher(
        config.fetch,
        config.proxies,
        connections=config.fetch.max_connections or 2 * config.concurrency,
        lookup_wait=config.politeness.snooze_after if limited else None,
        reading_time=reading_time,
    )


def extract_limits(config: Config) -> ExtractLimits:
    """Return the bounds of one page. Shared: `fetch.download_maxsize`, the largest page."""
    return limits_of(config.extract, config.fetch.download_maxsize)


def extractor_of(config: Config) -> Extractor:
    """Return what searches pages, not opened yet."""
    return Extractor(config.sandbox, extract_limits(config), waiting_room=config.waiting_room)


def table_of(config: Config) -> HostTable:
    """Return what holds for each host. Shared: `fetch.proxy`, for hosts without their own."""
    return HostTable(config.politeness, config.hosts, config.fetch.proxy)


def scheduler_of(
    config: Config, table: HostTable, clock: Callable[[], float], jitter: Callable[[], float]
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


def scraper_of(config: Config, fetcher: Fetcher, clocks: Clocks) -> Scraper:
    """Return the straight line of a page, not opened yet.

    Shared: `jobs.retry_after_max` bounds the pause of a host, `fetch.connect_timeout` tells a host
    that hangs from a fetch that was short of time.
    """
    table, budget = table_of(config), Budget(config.fetch.memory_budget)
    hops = Hops(
        fetcher,
        table,
        scheduler_of(config, table, clocks.monotonic, clocks.roll),
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
    return Scraper(
        _page_settings(config),
        clocks,
        budget=budget,
        hops=hops,
        permission=permission,
        extractor=extractor_of(config),
    )


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
    observer: Observer,
    name: str,
    clocks: Clocks,
) -> Worker:
    """Return what runs the jobs. Shared: the names of `proxies`, which a job may choose from."""
    return Worker(config.jobs, config.proxies, scraper, settler, observer, name=name, clocks=clocks)


def broker_limits(config: Config) -> Limits:
    """Return what the broker takes. Shared: `jobs.max_result_size`, as a message's bytes."""
    return Limits(config.jobs.max_result_size, config.broker.ack_timeout)
