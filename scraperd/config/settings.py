"""Config: all tables in one value, and what follows from settings of several tables.

May touch: the tables. Pure.
Must never: be handed to a room; wiring.py gives each room its table.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from scraperd.config.tables import (
    BatchSettings,
    BrokerSettings,
    CallbackSettings,
    EndpointSettings,
    ExtractSettings,
    FetchSettings,
    HostPattern,
    HostSettings,
    HttpSettings,
    JobsSettings,
    LogSettings,
    MetricsSettings,
    Name,
    PolitenessSettings,
    SandboxSettings,
    TracingSettings,
    fixed,
    reloadable,
)


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting: three at the top of the file, and the tables, in the file's order."""

    broker_url: Annotated[
        # No pattern: msgspec 0.22 frees one that stands in a union with an array.
        str | tuple[str, ...],
        Meta(
            **fixed(
                "amqp:// or amqps:// URL, or a list of them",
                "The broker. The path is the vhost; none means `/`. Several are tried in turn.",
            ),
        ),
    ] = "amqp://guest:guest@localhost:5672/"
    broker_url_file: Annotated[
        str,
        Meta(
            **fixed(
                "path of a file with a URL a line",
                "The broker's URLs in place of broker_url; else systemd's credential broker-url.",
            )
        ),
    ] = ""
    concurrency: Annotated[
        int, Meta(**reloadable("pages", "How many pages are scraped at once."), ge=1, le=100_000)
    ] = 100

    broker: Annotated[
        BrokerSettings,
        Meta(description="The broker's use: names of queues, connections, jobs that are held."),
    ] = BrokerSettings()
    jobs: Annotated[
        JobsSettings,
        Meta(
            description="The life of one job: sizes, times, retries, the key for our notes on it."
        ),
    ] = JobsSettings()
    fetch: Annotated[
        FetchSettings,
        Meta(
            description="One request: times, sizes, DNS, TLS, who you are, and where it may lead."
        ),
    ] = FetchSettings()
    politeness: Annotated[
        PolitenessSettings,
        Meta(
            description="How much one site is asked for: robots.txt, limits by host and by address."
        ),
    ] = PolitenessSettings()
    extract: Annotated[
        ExtractSettings,
        Meta(description="How many rules a job may have, and how much they may take of a page."),
    ] = ExtractSettings()
    sandbox: Annotated[
        SandboxSettings,
        Meta(
            description="The processes that search costly pages, and who may look into the daemon."
        ),
    ] = SandboxSettings()
    log: Annotated[LogSettings, Meta(description="What is logged, and in which form.")] = (
        LogSettings()
    )
    metrics: Annotated[
        MetricsSettings,
        Meta(description="Where Prometheus scrapes the daemon, and probes ask for its health."),
    ] = MetricsSettings()
    tracing: Annotated[
        TracingSettings,
        Meta(description="Where the spans of jobs are sent (OpenTelemetry), and of which jobs."),
    ] = TracingSettings()
    http: Annotated[
        HttpSettings,
        Meta(description="The gateway `scraperd serve`, which takes jobs over HTTP; else unused."),
    ] = HttpSettings()
    callbacks: Annotated[
        CallbackSettings,
        Meta(description="Results that are POSTed too (webhooks), if a job asks for that."),
    ] = CallbackSettings()
    batches: Annotated[
        BatchSettings,
        Meta(description="Batches of jobs: one message when all of a batch have their outcome."),
    ] = BatchSettings()

    hosts: Annotated[
        dict[HostPattern, HostSettings],
        Meta(
            **reloadable(
                "table by host, *.domain or *",
                "Other values of per_host_concurrency, per_host_delay, robotstxt_obey and proxy.",
            )
        ),
    ] = {}
    proxies: Annotated[
        dict[Name, Annotated[str, Meta(pattern="^(http|socks5)://")]],
        Meta(
            **reloadable(
                "table of http:// or socks5:// URLs by name",
                "Proxies that a job, a host or `fetch.proxy` can choose by name.",
            )
        ),
    ] = {}

    callback_endpoints: Annotated[
        dict[Name, EndpointSettings],
        Meta(
            **fixed(
                "table of url and secrets_file by name",
                "Where the result of a job with `callback = NAME` is POSTed; without secrets_file, "
                "systemd's credential callback-secrets-NAME, or those of `callbacks`.",
            )
        ),
    ] = {}

    @property
    def calls_back(self) -> bool:
        """Whether any job may ask for a callback."""
        return self.callbacks.allow_urls or bool(self.callback_endpoints)

    @property
    def prefetch_count(self) -> int:
        """What the broker is asked for: `broker.prefetch`, or twice the concurrency.

        What is more than concurrency is for jobs that don't fetch: those that wait for
        their host's turn, and those on their way to a delay queue or to the results.
        """
        return self.broker.prefetch or min(65535, self.concurrency + max(4, self.concurrency))

    @property
    def broker_urls(self) -> tuple[str, ...]:
        """The brokers, in the order in which they are tried, each with its options for TLS."""
        urls = (self.broker_url,) if isinstance(self.broker_url, str) else self.broker_url
        return tuple(map(self.broker.with_tls, urls))

    @property
    def quarantine_prefetch(self) -> int:
        """How many jobs that came back once run at a time: a crash counts against all of them."""
        return max(1, self.concurrency // 10)

    @property
    def jobs_budget(self) -> int:
        """Bytes of large jobs that are held at once: an eighth of fetch.memory_budget.

        Decoded, a job takes several times its bytes (fetch/memory.py).
        """
        return max(self.fetch.memory_budget // 8, self.jobs.max_size)

    @property
    def waiting_room(self) -> int:
        """How many jobs may wait here for a host's turn: a quarter of those that don't fetch."""
        return max(2, (self.prefetch_count - self.concurrency) // 4)

    @property
    def robots_name(self) -> str:
        """The product token robots.txt knows us by (RFC 9309 section 2.2.1)."""
        word = re.match("[A-Za-z_-]*", self.fetch.agent)
        return self.politeness.robots_agent or (word and word[0]) or "scraperd"
