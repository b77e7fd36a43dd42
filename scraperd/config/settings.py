"""Every setting: its type, its default, its unit and its reason, and what follows from several.

May touch: nothing.
Must never: read a file or the environment.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from scraperd import __version__


def _s(unit: str, why: str) -> dict[str, Any]:
    return {"description": why, "extra": {"unit": unit}}


def _whole(pattern: str) -> str:
    """A pattern for the whole text: Python's `$` alone lets a line break follow."""
    return f"^{pattern}$(?!\\n)"


JOB_SHARE = 0.75  # of ack_timeout, for a job; the rest is for publishing its outcome
_Seconds = Annotated[float, Meta(gt=0, le=86400)]
_SecondsOrNone = Annotated[float, Meta(ge=0, le=86400)]
_Pages = Annotated[int, Meta(ge=1, le=100_000)]
_Name = Annotated[str, Meta(pattern=_whole("[a-z0-9_-]{1,50}"))]
_HOST = r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?"
_HostPattern = Annotated[str, Meta(pattern=_whole(f"({_HOST})"))]
_PortRange = Annotated[str, Meta(pattern=_whole("[0-9]{1,5}-[0-9]{1,5}"))]
_Port = Annotated[int, Meta(ge=1, le=65535)] | _PortRange
_SERVER = r"[0-9.]+(:[0-9]{1,5})?|[0-9a-f:.]+|\[[0-9a-f:.]+\](:[0-9]{1,5})?"
_Server = Annotated[str, Meta(pattern=_whole(f"({_SERVER})"))]
_Queues = Annotated[str, Meta(pattern=_whole("[^\\x00-\\x1f\\x7f]+"), max_length=255)]
_UpToAnHour = Annotated[float, Meta(gt=0, le=3600)]  # the longest delay tier
_Bytes = Annotated[int, Meta(ge=1)]


class HostSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may differ for a host or the hosts of a domain; UNSET where the setting itself holds."""

    per_host_concurrency: _Pages | UnsetType = UNSET
    per_host_delay: _SecondsOrNone | UnsetType = UNSET
    robotstxt_obey: bool | UnsetType = UNSET
    proxy: Annotated[str, Meta(pattern=_whole("[a-z0-9_-]{0,50}"))] | UnsetType = UNSET


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting, its default, its unit and its reason, in the order of the example file."""

    broker_url: Annotated[
        # No pattern: msgspec 0.22 frees one that stands in a union with an array.
        str | tuple[str, ...],
        Meta(
            **_s(
                "amqp:// or amqps:// URL, or a list of them",
                "The broker. The path is the vhost; none means `/`. Several are tried in turn.",
            ),
        ),
    ] = "amqp://guest:guest@localhost:5672/"
    prefix: Annotated[
        str,
        Meta(
            **_s(
                "letters, digits, _ . and -, 1 to 100",
                "Starts every exchange and queue name, so that teams can share a broker.",
            ),
            pattern=_whole("[A-Za-z0-9_.-]{1,100}"),
        ),
    ] = "scraperd"
    allow_reply_to: Annotated[
        tuple[_Queues, ...],
        Meta(
            **_s(
                "queue names; * stands for any text, {prefix} for prefix; 255 characters at most",
                "Where results may go if a job's reply_to says so; none means the results only.",
            )
        ),
    ] = ("{prefix}.reply.*", "amq.gen-*")
    marks_key_file: Annotated[
        str,
        Meta(
            **_s(
                "path of a file with a key a line",
                "Keys that sign our notes on jobs, for all processes; else made from broker_url.",
            )
        ),
    ] = ""
    passive_declare: Annotated[
        bool,
        Meta(
            **_s("true or false", "Only check that the queues exist; for brokers set up by policy.")
        ),
    ] = False
    delivery_limit: Annotated[
        int,
        Meta(
            **_s(
                "returns",
                "A job that came back this often (its process died) is dead; first it runs among "
                "few, then alone.",
            ),
            ge=3,
            le=50,
        ),
    ] = 5
    heartbeat: Annotated[
        int, Meta(**_s("seconds", "RabbitMQ's guide: 5 to 20; lower sees ghosts."), ge=1, le=600)
    ] = 10
    reconnect_min: Annotated[
        _Seconds, Meta(**_s("seconds", "First wait for a broker that is away, then doubling."))
    ] = 1.0
    reconnect_max: Annotated[
        _Seconds, Meta(**_s("seconds", "Longest wait for a broker that is away; jittered."))
    ] = 30.0
    confirm_timeout: Annotated[
        _Seconds,
        Meta(**_s("seconds", "A publish not confirmed by then means a new connection.")),
    ] = 30.0

    concurrency: Annotated[
        int, Meta(**_s("pages", "How many pages are scraped at once."), ge=1, le=100_000)
    ] = 100
    prefetch: Annotated[
        int,
        Meta(
            **_s(
                "jobs",
                "Unacked jobs held; 0 means twice concurrency. A crash redelivers all.",
            ),
            ge=0,
            le=65535,
        ),
    ] = 0
    max_job_size: Annotated[
        int,
        Meta(
            **_s(
                "bytes",
                "A larger job is invalid_job, unread: to decode 1 MiB can hold all others for "
                "40 ms.",
            ),
            ge=1024,
            le=128 * 1024 * 1024,
        ),
    ] = 512 * 1024
    job_timeout: Annotated[
        _Seconds,
        Meta(**_s("seconds", "One attempt in all; at most three quarters of ack_timeout.")),
    ] = 120.0
    ack_timeout: Annotated[
        _Seconds,
        Meta(**_s("seconds", "The broker's consumer_timeout: how long it waits for an ack.")),
    ] = 1800.0
    shutdown_timeout: Annotated[
        _Seconds, Meta(**_s("seconds", "SIGTERM: how long jobs in flight may take to finish."))
    ] = 30.0
    max_retries: Annotated[
        int, Meta(**_s("retries", "Further attempts after a failure that may pass."), ge=0, le=1000)
    ] = 3
    retry_backoff: Annotated[
        _Seconds,
        Meta(**_s("seconds", "Bound of the first random delay; it doubles with each attempt.")),
    ] = 5.0
    retry_backoff_max: Annotated[
        _UpToAnHour, Meta(**_s("seconds", "The bound grows no further than this."))
    ] = 600.0
    retry_after_max: Annotated[
        _UpToAnHour, Meta(**_s("seconds", "A longer Retry-After of a site is cut to this."))
    ] = 3600.0
    retry_http_codes: Annotated[
        tuple[Annotated[int, Meta(ge=100, le=599)], ...],
        Meta(**_s("statuses", "Responses that may be better next time.")),
    ] = (408, 425, 429, 500, 502, 503, 504, 522, 524)
    max_result_size: Annotated[
        _Bytes,
        Meta(**_s("bytes", "A larger result fails as too_large; RabbitMQ 4 takes 16 MiB.")),
    ] = 15 * 1024 * 1024

    download_timeout: Annotated[
        _Seconds, Meta(**_s("seconds", "One request, from dialling to the last byte."))
    ] = 30.0
    connect_timeout: Annotated[
        _Seconds, Meta(**_s("seconds", "Name lookup, TCP and TLS handshake."))
    ] = 10.0
    download_maxsize: Annotated[
        _Bytes, Meta(**_s("bytes", "Largest body, counted after decompression."))
    ] = 10 * 1024 * 1024
    max_redirects: Annotated[
        int, Meta(**_s("hops", "A longer chain fails as too_many_redirects."), ge=0, le=100)
    ] = 10
    transfer_maxsize: Annotated[
        _Bytes, Meta(**_s("bytes", "Largest body as it is sent, before decompression."))
    ] = 10 * 1024 * 1024
    max_headers: Annotated[
        int, Meta(**_s("headers", "A response with more fails as protocol."), ge=1, le=10_000)
    ] = 200
    max_header_size: Annotated[
        int,
        Meta(
            **_s(
                "bytes",
                "Longest header of a response; all of them together may take four times that.",
            ),
            ge=1024,
            le=1024 * 1024,
        ),
    ] = 64 * 1024
    max_connections: Annotated[
        int,
        Meta(
            **_s(
                "connections",
                "Open to sites, idle ones included; 0 means twice concurrency.",
            ),
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    memory_budget: Annotated[
        int,
        Meta(
            **_s(
                "bytes",
                "All bodies and results in flight; past it, fetches wait for memory.",
            ),
            ge=1024 * 1024,
        ),
    ] = 256 * 1024 * 1024
    nameservers: Annotated[
        tuple[_Server, ...],
        Meta(
            **_s(
                "addresses, with :PORT if it is not 53",
                "Asked for names; none means those of /etc/resolv.conf.",
            )
        ),
    ] = ()
    dns_cache_ttl: Annotated[
        _SecondsOrNone,
        Meta(**_s("seconds", "A name is looked up again after this, or its own TTL if shorter.")),
    ] = 300.0
    verify_tls: Annotated[
        bool, Meta(**_s("true or false", "Check certificates against the system's authorities."))
    ] = True
    ca_file: Annotated[
        str,
        Meta(
            **_s(
                "path of a PEM file",
                "Authorities to trust instead of the system's; empty means the system's.",
            )
        ),
    ] = ""
    tls_minimum: Annotated[
        Literal["1.2", "1.3"],
        Meta(**_s("1.2, 1.3", "The oldest TLS version that is spoken.")),
    ] = "1.2"
    user_agent: Annotated[
        str,
        Meta(
            **_s(
                "printable ASCII",
                "Empty means `scraperd/VERSION`; the contact URL is put behind it.",
            ),
            pattern=_whole("[ -~]*"),
        ),
    ] = ""
    contact_url: Annotated[
        str,
        Meta(
            **_s("URL in ASCII", "Where a site's owner reads who you are; sent in the User-Agent."),
            pattern=_whole("[!-~]*"),
        ),
    ] = ""

    robotstxt_obey: Annotated[
        bool, Meta(**_s("true or false", "Ask robots.txt before a page (RFC 9309)."))
    ] = True
    robots_agent: Annotated[
        str,
        Meta(
            **_s(
                "letters, _ and -",
                "The name robots.txt knows us by; empty means the first word of the User-Agent.",
            ),
            pattern=_whole("[A-Za-z_-]*"),
        ),
    ] = ""
    robots_cache_ttl: Annotated[
        _Seconds,
        Meta(**_s("seconds", "How long a robots.txt is kept; RFC 9309 says a day at most.")),
    ] = 86400.0
    max_crawl_delay: Annotated[
        _SecondsOrNone,
        Meta(**_s("seconds", "A longer Crawl-delay is cut to this; throttling goes no further.")),
    ] = 30.0
    per_host_concurrency: Annotated[
        _Pages, Meta(**_s("pages", "How many pages of one host are fetched at once."))
    ] = 8
    per_host_delay: Annotated[
        _SecondsOrNone,
        Meta(**_s("seconds", "Between two fetches from one host; each varies by half.")),
    ] = 0.0
    per_address_concurrency: Annotated[
        int,
        Meta(
            **_s(
                "pages",
                "Fetched at once from one address, of all its hosts; 0 means no limit.",
            ),
            ge=0,
            le=100_000,
        ),
    ] = 32
    shared_networks: Annotated[
        tuple[str, ...],
        Meta(
            **_s(
                "addresses and networks",
                "Those of CDNs and large hosters, where many sites share an address: no limit.",
            )
        ),
    ] = ()
    autothrottle: Annotated[
        bool,
        Meta(
            **_s("true or false", "Slow down for a host that answers 429 or 503, or ever slower.")
        ),
    ] = True
    snooze_after: Annotated[
        Annotated[float, Meta(ge=0, le=60)],
        Meta(**_s("seconds", "A job whose host's turn is further off waits in a delay queue.")),
    ] = 2.0

    allow_ports: Annotated[
        tuple[_Port, ...],
        Meta(**_s('ports and "FIRST-LAST" ranges', "Where a URL may lead; none means any port.")),
    ] = (80, 443, 8080, 8443)
    allow_networks: Annotated[
        tuple[str, ...],
        Meta(
            **_s(
                "addresses and networks",
                "Not public, or this machine's, yet allowed; metadata services by address only.",
            )
        ),
    ] = ()
    deny_networks: Annotated[
        tuple[str, ...],
        Meta(**_s("addresses and networks", "Public ones that may not. Wins over allow_networks.")),
    ] = ()
    allow_hosts: Annotated[
        tuple[_HostPattern, ...],
        Meta(**_s("hosts, *.domain", "If there are any, no other host is fetched from.")),
    ] = ()
    deny_hosts: Annotated[
        tuple[_HostPattern, ...],
        Meta(**_s("hosts, *.domain", "Never fetched from. Wins over allow_hosts.")),
    ] = ()
    proxy: Annotated[
        str,
        Meta(
            **_s("name of a proxy", "Used where neither job nor host names one; empty means none."),
            pattern=_whole("[a-z0-9_-]{0,50}"),
        ),
    ] = ""

    extract_timeout: Annotated[
        Annotated[float, Meta(gt=0, le=600)],
        Meta(**_s("seconds of CPU", "What a page may take to be parsed and searched.")),
    ] = 5.0
    extract_processes: Annotated[
        int,
        Meta(
            **_s(
                "processes",
                "Search pages too large or rules too costly for the event loop; begun when needed.",
            ),
            ge=1,
            le=64,
        ),
    ] = 4
    extract_memory: Annotated[
        int,
        Meta(
            **_s("bytes", "What such a process may use; a tree takes 25 times its page."),
            ge=256 * 1024 * 1024,
        ),
    ] = 1024 * 1024 * 1024
    extract_max_rules: Annotated[
        int, Meta(**_s("rules", "A job with more is invalid_job."), ge=1, le=10_000)
    ] = 500
    extract_max_depth: Annotated[
        int, Meta(**_s("levels", "Rules nested deeper are invalid_job."), ge=1, le=50)
    ] = 16
    extract_max_selector: Annotated[
        int,
        Meta(
            **_s("characters", "A longer selector, expression, or regex is invalid_job."),
            ge=1,
            le=10_000,
        ),
    ] = 1000
    extract_max_selectors: Annotated[
        int,
        Meta(
            **_s(
                "characters",
                "All selectors of a job together: lexbor reads them when rules are compiled.",
            ),
            ge=1,
            le=250_000,
        ),
    ] = 50_000
    extract_max_matches: Annotated[
        int, Meta(**_s("matches", "A page on which the rules match more fails as extract."), ge=1)
    ] = 100_000
    extract_max_output: Annotated[
        _Bytes, Meta(**_s("bytes", "A page of which more is taken, as JSON, fails as too_large."))
    ] = 10 * 1024 * 1024

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(**_s("debug, info, warning, error", "`warning` drops the line a job writes.")),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(**_s("auto, json, console", "auto: colours on a terminal, JSON elsewhere.")),
    ] = "auto"
    worker_name: Annotated[
        str,
        Meta(
            **_s(
                "printable ASCII, no spaces, up to 100",
                "Names this process in results and logs; empty means HOST:PID.",
            ),
            pattern=_whole("[!-~]{0,100}"),
        ),
    ] = ""
    dumpable: Annotated[
        bool,
        Meta(
            **_s(
                "true or false",
                "Whether processes of the same user may trace the daemon and look into it, and the "
                "kernel may dump its core: for debugging. Its memory holds passwords and cookies.",
            )
        ),
    ] = False

    hosts: Annotated[
        dict[_HostPattern, HostSettings],
        Meta(
            **_s(
                "table by host, *.domain or *",
                "Other values of per_host_concurrency, per_host_delay, robotstxt_obey and proxy.",
            )
        ),
    ] = {}
    proxies: Annotated[
        dict[_Name, Annotated[str, Meta(pattern="^(http|socks5)://")]],
        Meta(
            **_s(
                "table of http:// or socks5:// URLs by name",
                "Proxies that a job, a host or `proxy` can choose by name.",
            )
        ),
    ] = {}

    @property
    def prefetch_count(self) -> int:
        """What the broker is asked for: `prefetch`, or twice the concurrency.

        What is more than concurrency is for jobs that don't fetch: those that wait for
        their host's turn, and those on their way to a delay queue or to the results.
        """
        return self.prefetch or min(65535, self.concurrency + max(4, self.concurrency))

    @property
    def broker_urls(self) -> tuple[str, ...]:
        """The brokers, in the order in which they are tried."""
        return (self.broker_url,) if isinstance(self.broker_url, str) else self.broker_url

    @property
    def quarantine_prefetch(self) -> int:
        """How many jobs that came back once run at a time: a crash counts against all of them."""
        return max(1, self.concurrency // 10)

    @property
    def jobs_budget(self) -> int:
        """Bytes of large jobs that are held at once: an eighth of memory_budget.

        Decoded, a job takes several times its bytes (fetch/memory.py).
        """
        return max(self.memory_budget // 8, self.max_job_size)

    @property
    def waiting_room(self) -> int:
        """How many jobs may wait here for a host's turn: a quarter of those that don't fetch."""
        return max(2, (self.prefetch_count - self.concurrency) // 4)

    @property
    def robots_name(self) -> str:
        """The product token robots.txt knows us by (RFC 9309 section 2.2.1)."""
        word = re.match("[A-Za-z_-]*", self.agent)
        return self.robots_agent or (word and word[0]) or "scraperd"

    @property
    def agent(self) -> str:
        """The User-Agent header, with the contact URL unless it has it already."""
        agent = self.user_agent or f"scraperd/{__version__}"
        known = not self.contact_url or self.contact_url in agent
        return agent if known else f"{agent} (+{self.contact_url})"
