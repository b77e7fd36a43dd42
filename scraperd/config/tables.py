"""The tables of the configuration: each setting with its type, default, unit and reason.

May touch: nothing of ours but the version. Pure.
Must never: read a file or the environment.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

from msgspec import UNSET, Meta, Struct, UnsetType

from scraperd import __version__


def reloadable(unit: str, why: str) -> dict[str, Any]:
    """Describe a setting that a reload changes in a running process."""
    return {"description": why, "extra": {"unit": unit, "reload": True}}


def fixed(unit: str, why: str) -> dict[str, Any]:
    """Describe a setting that needs a restart: connections, processes and names are made of it."""
    return {"description": why, "extra": {"unit": unit, "reload": False}}


def _whole(pattern: str) -> str:
    """A pattern for the whole text: Python's `$` alone lets a line break follow."""
    return f"^{pattern}$(?!\\n)"


JOB_SHARE = 0.75  # of ack_timeout, for a job; the rest is for publishing its outcome
_Seconds = Annotated[float, Meta(gt=0, le=86400)]
_SecondsOrNone = Annotated[float, Meta(ge=0, le=86400)]
_Pages = Annotated[int, Meta(ge=1, le=100_000)]
Name = Annotated[str, Meta(pattern=_whole("[a-z0-9_-]{1,50}"))]
_LABEL = r"[A-Za-z0-9_\x80-\U0010ffff-]+"  # config/checks.py says whether the whole is a host
_HOST = rf"\*|(\*\.)?{_LABEL}(\.{_LABEL})*\.?|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?"
HostPattern = Annotated[str, Meta(pattern=_whole(f"({_HOST})"))]
_PortRange = Annotated[str, Meta(pattern=_whole("[0-9]{1,5}-[0-9]{1,5}"))]
_Port = Annotated[int, Meta(ge=1, le=65535)] | _PortRange
_SERVER = r"[0-9.]+(:[0-9]{1,5})?|[0-9a-f:.]+|\[[0-9a-f:.]+\](:[0-9]{1,5})?"
_Server = Annotated[str, Meta(pattern=_whole(f"({_SERVER})"))]
_LISTEN = r"([0-9.]{7,15}|\[[0-9a-f:.]{2,45}\]|localhost):[0-9]{1,5}"
_Queues = Annotated[str, Meta(pattern=_whole("[^\\x00-\\x1f\\x7f]+"), max_length=255)]
_UpToAnHour = Annotated[float, Meta(gt=0, le=3600)]  # the longest delay tier
_Bytes = Annotated[int, Meta(ge=1)]


class BrokerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `broker`; `Config` says what it is about."""

    prefix: Annotated[
        str,
        Meta(
            **fixed(
                "letters, digits, _ . and -, 1 to 100",
                "Starts every exchange and queue name, so that teams can share a broker.",
            ),
            pattern=_whole("[A-Za-z0-9_.-]{1,100}"),
        ),
    ] = "scraperd"
    allow_reply_to: Annotated[
        tuple[_Queues, ...],
        Meta(
            **reloadable(
                "queue names; * stands for any text, {prefix} for prefix; /topic/KEY for keys of "
                "amq.topic, where MQTT and STOMP clients read; 255 characters at most",
                "Where results may go if a job's reply_to says so; none means the results only.",
            )
        ),
    ] = ("{prefix}.reply.*", "amq.gen-*", "amq.rabbitmq.reply-to.*")
    passive_declare: Annotated[
        bool,
        Meta(
            **fixed(
                "true or false", "Only check that the queues exist; for brokers set up by policy."
            )
        ),
    ] = False
    management_api: Annotated[
        str,
        Meta(
            **fixed(
                "http://HOST:PORT or https://HOST:PORT",
                "RabbitMQ's management API, asked for policies, with the login of broker_url.",
            ),
            pattern=_whole(r"(https?://[^\s/?#@]+(/[^\s?#@]*)?)?"),
        ),
    ] = ""
    answer_status: Annotated[
        bool,
        Meta(
            **fixed(
                "true or false",
                "Answer scraperd status, host and top, over a connection and a queue of its own.",
            )
        ),
    ] = True
    jobs_max_length: Annotated[
        int,
        Meta(
            **fixed(
                "jobs",
                "Jobs that may wait in a new jobs queue; more are refused. 0 means no limit.",
            ),
            ge=0,
            le=1_000_000_000,
        ),
    ] = 0
    jobs_max_length_bytes: Annotated[
        int,
        Meta(
            **fixed("bytes", "The same by the bytes of their bodies together. 0 means no limit."),
            ge=0,
            le=1_000_000_000_000,
        ),
    ] = 0
    prefetch: Annotated[
        int,
        Meta(
            **reloadable(
                "jobs",
                "Unacked jobs held; 0 means twice concurrency. A crash redelivers all.",
            ),
            ge=0,
            le=65535,
        ),
    ] = 0
    ack_timeout: Annotated[
        _Seconds,
        Meta(
            **reloadable("seconds", "The broker's consumer_timeout: how long it waits for an ack.")
        ),
    ] = 1800.0
    ca_file: Annotated[
        str,
        Meta(
            **fixed(
                "path of a PEM file",
                "Authorities that may sign an amqps:// broker's certificate; else the system's.",
            )
        ),
    ] = ""
    cert_file: Annotated[
        str,
        Meta(**fixed("path of a PEM file", "Our certificate for an amqps:// broker, if it asks.")),
    ] = ""
    key_file: Annotated[
        str, Meta(**fixed("path of a PEM file", "The key of cert_file, if it is not in that file."))
    ] = ""
    verify: Annotated[
        bool,
        Meta(
            **fixed("true or false", "Whether an amqps:// broker must prove who it is: keep true.")
        ),
    ] = True
    heartbeat: Annotated[
        int, Meta(**fixed("seconds", "RabbitMQ's guide: 5 to 20; lower sees ghosts."), ge=1, le=600)
    ] = 10
    reconnect_min: Annotated[
        _Seconds, Meta(**fixed("seconds", "First wait for a broker that is away, then doubling."))
    ] = 1.0
    reconnect_max: Annotated[
        _Seconds, Meta(**fixed("seconds", "Longest wait for a broker that is away; jittered."))
    ] = 30.0
    confirm_timeout: Annotated[
        _Seconds,
        Meta(**fixed("seconds", "A publish not confirmed by then means a new connection.")),
    ] = 30.0

    @property
    def tls(self) -> dict[str, str]:
        """What is set of TLS, as the options of a broker's URL."""
        options = {"cafile": self.ca_file, "certfile": self.cert_file, "keyfile": self.key_file}
        verify = {} if self.verify else {"no_verify_ssl": "true"}
        return {name: text for name, text in options.items() if text} | verify

    def with_tls(self, url: str) -> str:
        """`url` with these settings as its options, if it is of amqps; its own options hold."""
        if not url.startswith("amqps://") or not self.tls:
            return url
        before, _, query = url.partition("?")
        own = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
        added = urlencode({name: text for name, text in self.tls.items() if name not in own})
        return "?".join(filter(None, (before, "&".join(filter(None, (query, added))))))


class FetchSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `fetch`; `Config` says what it is about."""

    download_timeout: Annotated[
        _Seconds, Meta(**reloadable("seconds", "One request, from dialling to the last byte."))
    ] = 30.0
    connect_timeout: Annotated[
        _Seconds, Meta(**reloadable("seconds", "Name lookup, TCP and TLS handshake."))
    ] = 10.0
    download_maxsize: Annotated[
        _Bytes, Meta(**reloadable("bytes", "Largest body, counted after decompression."))
    ] = 10 * 1024 * 1024
    transfer_maxsize: Annotated[
        _Bytes, Meta(**reloadable("bytes", "Largest body as it is sent, before decompression."))
    ] = 10 * 1024 * 1024
    max_redirects: Annotated[
        int, Meta(**reloadable("hops", "A longer chain fails as too_many_redirects."), ge=0, le=100)
    ] = 10
    max_headers: Annotated[
        int, Meta(**fixed("headers", "A response with more fails as protocol."), ge=1, le=10_000)
    ] = 200
    max_header_size: Annotated[
        int,
        Meta(
            **fixed(
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
            **reloadable(
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
            **reloadable(
                "bytes",
                "All bodies and results in flight; past it, fetches wait for memory.",
            ),
            ge=1024 * 1024,
        ),
    ] = 256 * 1024 * 1024
    nameservers: Annotated[
        tuple[_Server, ...],
        Meta(
            **fixed(
                "addresses, with :PORT if it is not 53",
                "Asked for names; none means those of /etc/resolv.conf.",
            )
        ),
    ] = ()
    dns_cache_ttl: Annotated[
        _SecondsOrNone,
        Meta(
            **reloadable(
                "seconds", "A name is looked up again after this, or its own TTL if shorter."
            )
        ),
    ] = 300.0
    verify_tls: Annotated[
        bool, Meta(**fixed("true or false", "Check certificates against the system's authorities."))
    ] = True
    ca_file: Annotated[
        str,
        Meta(
            **fixed(
                "path of a PEM file",
                "Authorities to trust instead of the system's; empty means the system's.",
            )
        ),
    ] = ""
    tls_minimum: Annotated[
        Literal["1.2", "1.3"],
        Meta(**fixed("1.2, 1.3", "The oldest TLS version that is spoken.")),
    ] = "1.2"
    tls_legacy_servers: Annotated[
        bool,
        Meta(
            **fixed(
                "true or false",
                "Speak with old servers too: without RFC 5746, or with RSA key exchange or SHA-1.",
            )
        ),
    ] = False
    user_agent: Annotated[
        str,
        Meta(
            **reloadable(
                "printable ASCII",
                "Empty means `scraperd/VERSION`; the contact URL is put behind it.",
            ),
            pattern=_whole("[ -~]*"),
        ),
    ] = ""
    contact_url: Annotated[
        str,
        Meta(
            **reloadable(
                "URL in ASCII", "Where a site's owner reads who you are; sent in the User-Agent."
            ),
            pattern=_whole("[!-~]*"),
        ),
    ] = ""
    allow_ports: Annotated[
        tuple[_Port, ...],
        Meta(
            **reloadable(
                'ports and "FIRST-LAST" ranges', "Where a URL may lead; none means any port."
            )
        ),
    ] = (80, 443, 8080, 8443)
    allow_networks: Annotated[
        tuple[str, ...],
        Meta(
            **reloadable(
                "addresses and networks",
                "Not public, or this machine's, yet allowed; metadata services by address only.",
            )
        ),
    ] = ()
    deny_networks: Annotated[
        tuple[str, ...],
        Meta(
            **reloadable(
                "addresses and networks", "Public ones that may not. Wins over allow_networks."
            )
        ),
    ] = ()
    allow_hosts: Annotated[
        tuple[HostPattern, ...],
        Meta(**reloadable("hosts, *.domain", "If there are any, no other host is fetched from.")),
    ] = ()
    deny_hosts: Annotated[
        tuple[HostPattern, ...],
        Meta(**reloadable("hosts, *.domain", "Never fetched from. Wins over allow_hosts.")),
    ] = ()
    proxy: Annotated[
        str,
        Meta(
            **reloadable(
                "name of a proxy", "Used where neither job nor host names one; empty means none."
            ),
            pattern=_whole("[a-z0-9_-]{0,50}"),
        ),
    ] = ""

    @property
    def agent(self) -> str:
        """The User-Agent header, with the contact URL unless it has it already."""
        agent = self.user_agent or f"scraperd/{__version__}"
        known = not self.contact_url or self.contact_url in agent
        return agent if known else f"{agent} (+{self.contact_url})"


class PolitenessSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `politeness`; `Config` says what it is about."""

    robotstxt_obey: Annotated[
        bool, Meta(**reloadable("true or false", "Ask robots.txt before a page (RFC 9309)."))
    ] = True
    robots_agent: Annotated[
        str,
        Meta(
            **reloadable(
                "letters, _ and -",
                "The name robots.txt knows us by; empty means the first word of the User-Agent.",
            ),
            pattern=_whole("[A-Za-z_-]*"),
        ),
    ] = ""
    robots_cache_ttl: Annotated[
        _Seconds,
        Meta(
            **reloadable("seconds", "How long a robots.txt is kept; RFC 9309 says a day at most.")
        ),
    ] = 86400.0
    max_crawl_delay: Annotated[
        _SecondsOrNone,
        Meta(
            **reloadable(
                "seconds", "A longer Crawl-delay is cut to this; throttling goes no further."
            )
        ),
    ] = 30.0
    per_host_concurrency: Annotated[
        _Pages, Meta(**reloadable("pages", "How many pages of one host are fetched at once."))
    ] = 8
    per_host_delay: Annotated[
        _SecondsOrNone,
        Meta(**reloadable("seconds", "Between two fetches from one host; each varies by half.")),
    ] = 0.0
    per_address_concurrency: Annotated[
        int,
        Meta(
            **reloadable(
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
            **reloadable(
                "addresses and networks",
                "Those of CDNs and large hosters, where many sites share an address: no limit.",
            )
        ),
    ] = ()
    autothrottle: Annotated[
        bool,
        Meta(
            **reloadable(
                "true or false", "Slow down for a host that answers 429 or 503, or ever slower."
            )
        ),
    ] = True
    snooze_after: Annotated[
        Annotated[float, Meta(ge=0, le=60)],
        Meta(
            **reloadable(
                "seconds", "A job whose host's turn is further off waits in a delay queue."
            )
        ),
    ] = 2.0


class ExtractSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `extract`; `Config` says what it is about."""

    max_rules: Annotated[
        int, Meta(**fixed("rules", "A job with more is invalid_job."), ge=1, le=10_000)
    ] = 500
    max_depth: Annotated[
        int, Meta(**fixed("levels", "Rules nested deeper are invalid_job."), ge=1, le=50)
    ] = 16
    max_selector_length: Annotated[
        int,
        Meta(
            **fixed("characters", "A longer selector, expression, or regex is invalid_job."),
            ge=1,
            le=10_000,
        ),
    ] = 1000
    max_selectors_length: Annotated[
        int,
        Meta(
            **fixed(
                "characters",
                "All selectors of a job together: lexbor reads them when rules are compiled.",
            ),
            ge=1,
            le=250_000,
        ),
    ] = 50_000
    max_matches: Annotated[
        int,
        Meta(**fixed("matches", "A page on which the rules match more fails as extract."), ge=1),
    ] = 100_000
    max_output_size: Annotated[
        _Bytes,
        Meta(**fixed("bytes", "A page of which more is taken, as JSON, fails as too_large.")),
    ] = 10 * 1024 * 1024


class SandboxSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `sandbox`; `Config` says what it is about."""

    timeout: Annotated[
        Annotated[float, Meta(gt=0, le=600)],
        Meta(**fixed("seconds of CPU", "What a page may take to be parsed and searched.")),
    ] = 5.0
    processes: Annotated[
        int,
        Meta(
            **fixed(
                "processes",
                "Search pages too large or rules too costly for the event loop; begun when needed.",
            ),
            ge=1,
            le=64,
        ),
    ] = 4
    memory: Annotated[
        int,
        Meta(
            **fixed("bytes", "What such a process may use; a tree takes 25 times its page."),
            ge=256 * 1024 * 1024,
        ),
    ] = 1024 * 1024 * 1024
    dumpable: Annotated[
        bool,
        Meta(
            **fixed(
                "true or false",
                "Whether processes of the same user may trace the daemon and look into it, and the "
                "kernel may dump its core: for debugging. Its memory holds passwords and cookies.",
            )
        ),
    ] = False


class JobsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `jobs`; `Config` says what it is about."""

    max_size: Annotated[
        int,
        Meta(
            **reloadable(
                "bytes",
                "A larger job is invalid_job, unread: to decode 1 MiB can hold all others for "
                "40 ms.",
            ),
            ge=1024,
            le=128 * 1024 * 1024,
        ),
    ] = 512 * 1024
    timeout: Annotated[
        _Seconds,
        Meta(
            **reloadable(
                "seconds", "One attempt in all; at most three quarters of broker.ack_timeout."
            )
        ),
    ] = 120.0
    shutdown_timeout: Annotated[
        _Seconds,
        Meta(**reloadable("seconds", "SIGTERM: how long jobs in flight may take to finish.")),
    ] = 30.0
    max_retries: Annotated[
        int,
        Meta(
            **reloadable("retries", "Further attempts after a failure that may pass."),
            ge=0,
            le=1000,
        ),
    ] = 3
    retry_backoff: Annotated[
        _Seconds,
        Meta(
            **reloadable(
                "seconds", "Bound of the first random delay; it doubles with each attempt."
            )
        ),
    ] = 5.0
    retry_backoff_max: Annotated[
        _UpToAnHour, Meta(**reloadable("seconds", "The bound grows no further than this."))
    ] = 600.0
    retry_after_max: Annotated[
        _UpToAnHour, Meta(**reloadable("seconds", "A longer Retry-After of a site is cut to this."))
    ] = 3600.0
    retry_http_codes: Annotated[
        tuple[Annotated[int, Meta(ge=100, le=599)], ...],
        Meta(**reloadable("statuses", "Responses that may be better next time.")),
    ] = (408, 425, 429, 500, 502, 503, 504, 522, 524)
    max_result_size: Annotated[
        _Bytes,
        Meta(**reloadable("bytes", "A larger result fails as too_large; RabbitMQ 4 takes 16 MiB.")),
    ] = 15 * 1024 * 1024
    delivery_limit: Annotated[
        int,
        Meta(
            **reloadable(
                "returns",
                "A job that came back this often (its process died) is dead; first it runs among "
                "few, then alone.",
            ),
            ge=3,
            le=50,
        ),
    ] = 5
    unknown_field_wait: Annotated[
        float,
        Meta(
            **reloadable(
                "seconds",
                "A job with a field that this version does not know waits so long for a newer "
                "process; 0: it is invalid_job at once.",
            ),
            ge=0,
            le=21600,
        ),
    ] = 0.0
    signing_key_file: Annotated[
        str,
        Meta(
            **reloadable(
                "path of a file with a key a line",
                "Keys that sign our notes on jobs, for all processes; else made from broker_url.",
            )
        ),
    ] = ""
    worker_name: Annotated[
        str,
        Meta(
            **fixed(
                "printable ASCII, no spaces, up to 100",
                "Names this process in results and logs; empty means HOST:PID.",
            ),
            pattern=_whole("[!-~]{0,100}"),
        ),
    ] = ""


class LogSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `log`; `Config` says what it is about."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(
            **reloadable("debug, info, warning, error", "`warning` keeps the lines of failed jobs.")
        ),
    ] = "info"
    urls: Annotated[
        Literal["full", "no-query", "host"],
        Meta(
            **reloadable("full, no-query, host", "How much of a URL is logged; never a password.")
        ),
    ] = "no-query"
    job_level: Annotated[
        Literal["debug", "info", "off"],
        Meta(
            **reloadable(
                "debug, info, off",
                "The level of the line of a job that did not fail. off: it has no line.",
            )
        ),
    ] = "info"
    job_sample: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            **reloadable("jobs", "Of so many jobs that end well, one has a line."),
        ),
    ] = 1
    failure_lines: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            **reloadable(
                "lines a minute",
                "For each host and failure kind; further failures of that minute are one count.",
            ),
        ),
    ] = 10
    format: Annotated[
        Literal["auto", "json", "console"],
        Meta(**fixed("auto, json, console", "auto: colours on a terminal, JSON elsewhere.")),
    ] = "auto"


class MetricsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `metrics`; `Config` says what it is about."""

    listen: Annotated[
        str,
        Meta(
            **fixed(
                "ADDRESS:PORT, or empty",
                "Serves /metrics, /healthz and /readyz without a password; empty means nowhere.",
            ),
            pattern=_whole(f"({_LISTEN})?"),
        ),
    ] = ""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on; None if nothing is to be served."""
        host, _, port = self.listen.rpartition(":")
        return (host.strip("[]"), int(port)) if port else None


class TracingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `tracing`; `Config` says what it is about."""

    endpoint: Annotated[
        str,
        Meta(
            **fixed(
                "http(s)://HOST[:PORT]/PATH, or empty",
                "Sends spans there by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; "
                "empty means off. It needs the extra `otel`.",
            ),
            pattern=_whole(r"(https?://[^@?#\s/]+/[^?#\s]*)?"),
        ),
    ] = ""
    sample_ratio: Annotated[
        float,
        Meta(
            **fixed(
                "0 to 1",
                "Share of the jobs without a traceparent that are traced; "
                "with one, its sampled flag is obeyed.",
            ),
            ge=0,
            le=1,
        ),
    ] = 0.01
    to_sites: Annotated[
        bool,
        Meta(
            **fixed(
                "true or false",
                "Sends the headers traceparent and tracestate to sites. "
                "They show a site which requests belong together.",
            )
        ),
    ] = False


class HttpSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `http`; `Config` says what it is about."""

    listen: Annotated[
        str,
        Meta(
            **fixed(
                "ADDRESS:PORT",
                "Where `scraperd serve` takes jobs. Without tokens only a loopback address is "
                "allowed.",
            ),
            pattern=_whole(_LISTEN),
        ),
    ] = "127.0.0.1:8080"
    tokens_file: Annotated[
        str,
        Meta(
            **fixed(
                "path of a file with a token a line",
                "Who may do what: NAME ROLE TOKEN [REQUESTS-A-SECOND] a line; else systemd's "
                "credential http-tokens. A reload reads the file again.",
            )
        ),
    ] = ""
    request_timeout: Annotated[
        Annotated[float, Meta(gt=0, le=3600)],
        Meta(
            **reloadable(
                "seconds",
                "How long a client may take for the head of a request, for its body, and to read "
                "the answer.",
            )
        ),
    ] = 30.0
    max_connections: Annotated[
        int,
        Meta(
            **reloadable(
                "connections",
                "Of clients. Past it an idle one is closed, or the new one gets 503.",
            ),
            ge=1,
            le=100_000,
        ),
    ] = 500
    dashboard: Annotated[
        bool,
        Meta(
            **fixed(
                "true, false",
                "Serve the dashboard at /, which shows the fleet, results and dead letters.",
            )
        ),
    ] = True
    max_viewers: Annotated[
        int,
        Meta(
            **fixed("viewers", "Of the dashboard at a time; one more gets 503."),
            ge=1,
            le=1000,
        ),
    ] = 20
    max_body: Annotated[
        int,
        Meta(
            **reloadable("bytes", "Largest body of a request with a job a line; more is 413."),
            ge=1024,
            le=1024 * 1024 * 1024,
        ),
    ] = 16 * 1024 * 1024
    max_jobs: Annotated[
        int,
        Meta(**reloadable("lines", "Most lines of a request; more is 413."), ge=1, le=1_000_000),
    ] = 10_000
    max_wait: Annotated[
        Annotated[float, Meta(gt=0, le=3600)],
        Meta(**reloadable("seconds", "Longest `?wait` for a result; more is 400.")),
    ] = 60.0
    result_hold: Annotated[
        _Seconds,
        Meta(
            **reloadable(
                "seconds from the submission",
                "How long the result of a job with `?wait` is kept here to be asked for.",
            )
        ),
    ] = 3600.0
    max_results: Annotated[
        int,
        Meta(
            **reloadable(
                "results",
                "Waited for or kept; past it one that came is dropped, or `?wait` is 503.",
            ),
            ge=1,
            le=1_000_000,
        ),
    ] = 1000
    max_results_size: Annotated[
        int,
        Meta(
            **reloadable(
                "bytes",
                "Of the kept results together; past it results are dropped, read ones first.",
            ),
            ge=1024 * 1024,
        ),
    ] = 128 * 1024 * 1024
    idempotency_window: Annotated[
        _Seconds,
        Meta(
            **reloadable(
                "seconds", "How long the answer to an Idempotency-Key is kept, in this process."
            )
        ),
    ] = 3600.0
    max_idempotency_keys: Annotated[
        int,
        Meta(
            **reloadable(
                "keys", "Keys that are kept; past it those used longest ago are forgotten."
            ),
            ge=1,
            le=1_000_000,
        ),
    ] = 10_000

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class CallbackSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `callbacks`; `Config` says what it is about."""

    allow_urls: Annotated[
        bool,
        Meta(
            **fixed(
                "true or false",
                "Whether a job's callback_url is obeyed. Each publisher could then have us POST to "
                "any public server.",
            )
        ),
    ] = False
    secrets_file: Annotated[
        str,
        Meta(
            **fixed(
                "path of a file with a whsec_ or whsk_ secret a line",
                "Sign callbacks to URLs, and to endpoints without a file of their own; else "
                "systemd's credential callback-secrets.",
            )
        ),
    ] = ""
    concurrency: Annotated[
        int,
        Meta(
            **fixed("callbacks", "Sent at once by this process; 0: it sends none."),
            ge=0,
            le=10_000,
        ),
    ] = 20
    per_host_concurrency: Annotated[
        int,
        Meta(
            **fixed(
                "callbacks",
                "Sent at once to one scheme, host and port; URLs of jobs apart from endpoints.",
            ),
            ge=1,
            le=10_000,
        ),
    ] = 4
    timeout: Annotated[
        Annotated[float, Meta(gt=0, le=300)],
        Meta(**fixed("seconds", "One attempt, from dialling to the answer.")),
    ] = 15.0
    max_payload: Annotated[
        int,
        Meta(
            **fixed(
                "bytes",
                "Largest body of a callback; past it the page's content is left out, and "
                "`truncated` is true.",
            ),
            ge=65_536,
        ),
    ] = 256 * 1024


class EndpointSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of the table `callback_endpoints`: where its callbacks go, and who signs them."""

    url: Annotated[str, Meta(pattern="^https?://", max_length=8192)]
    secrets_file: str = ""


class BatchSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `batches`; `Config` says what it is about."""

    enabled: Annotated[
        bool,
        Meta(
            **fixed(
                "true or false",
                "Whether a job may belong to a batch; all processes of a prefix need the same.",
            )
        ),
    ] = False
    expire_after: Annotated[
        Annotated[float, Meta(ge=1, le=30 * 86400)],
        Meta(**fixed("seconds", "A batch ends as expired after so long without an outcome of it.")),
    ] = 86400.0
    keep: Annotated[
        Annotated[float, Meta(ge=1, le=30 * 86400)],
        Meta(
            **fixed(
                "seconds",
                "How long an ended batch is known, of 10,000 at most; its id must not be used "
                "again.",
            )
        ),
    ] = 86400.0
    max_open: Annotated[
        int,
        Meta(
            **fixed("batches", "Open at once; past it the one that was idle longest expires."),
            ge=1,
            le=100_000,
        ),
    ] = 1000
    max_jobs: Annotated[
        int,
        Meta(
            **fixed(
                "jobs",
                "Counted ones of all open batches together, about 100 bytes of memory each; past "
                "it as max_open.",
            ),
            ge=100_000,
            le=100_000_000,
        ),
    ] = 1_000_000


class HostSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of the table `hosts`: UNSET where the setting of its own table holds."""

    per_host_concurrency: _Pages | UnsetType = UNSET
    per_host_delay: _SecondsOrNone | UnsetType = UNSET
    robotstxt_obey: bool | UnsetType = UNSET
    proxy: Annotated[str, Meta(pattern=_whole("[a-z0-9_-]{0,50}"))] | UnsetType = UNSET
