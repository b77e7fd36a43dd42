"""Config: a TOML file and SCRAPERD_... variables become one frozen value.

May touch: the file it is given and the environment, once, at the caller's word.
Must never: log, exit, or swallow a key it does not know.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import ssl
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from yarl import URL

from scraperd import __version__
from scraperd.contract import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ENV_PREFIX: Final = "SCRAPERD_"
ENV_CONFIG_FILE: Final = "SCRAPERD_CONFIG"  # the command line's own; names the file, is no setting


def _s(unit: str, why: str) -> dict[str, Any]:
    return {"description": why, "extra": {"unit": unit}}


def _whole(pattern: str) -> str:
    """A pattern for the whole text: Python's `$` alone lets a line break follow."""
    return f"^{pattern}$(?!\\n)"


_Seconds = Annotated[float, Meta(gt=0, le=86400)]
_SecondsOrNone = Annotated[float, Meta(ge=0, le=86400)]
_Pages = Annotated[int, Meta(ge=1, le=100_000)]
_Name = Annotated[str, Meta(pattern=_whole("[a-z0-9_-]{1,50}"))]
_HOST = r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[?[0-9a-f:.]*:[0-9a-f:.]*\]?"
_HostPattern = Annotated[str, Meta(pattern=_whole(f"({_HOST})"))]
_PortRange = Annotated[str, Meta(pattern=_whole("[0-9]{1,5}-[0-9]{1,5}"))]
_Port = Annotated[int, Meta(ge=1, le=65535)] | _PortRange
_SERVER = r"[0-9.]+(:[0-9]{1,5})?|[0-9a-f:.]+|\[[0-9a-f:.]+\](:[0-9]{1,5})?"
_Server = Annotated[str, Meta(pattern=_whole(f"({_SERVER})"))]
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
        str,
        Meta(
            **_s("amqp:// or amqps:// URL", "The broker. The path is the vhost; none means `/`."),
            pattern="^amqps?://",
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
    passive_declare: Annotated[
        bool,
        Meta(
            **_s("true or false", "Only check that the queues exist; for brokers set up by policy.")
        ),
    ] = False
    delivery_limit: Annotated[
        int,
        Meta(
            **_s("redeliveries", "A job that came back this often (the process died) is dead."),
            ge=1,
            le=1000,
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
    job_timeout: Annotated[
        _Seconds,
        Meta(**_s("seconds", "One attempt in all, well under the broker's ack timeout (30 min).")),
    ] = 120.0
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
            **_s("bytes", "A longer header of a response, or its status line, fails as protocol."),
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
            **_s("printable ASCII", "Empty means `scraperd/VERSION`, with the contact URL."),
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
    autothrottle: Annotated[
        bool,
        Meta(
            **_s("true or false", "Slow down for a host that answers 429 or 503, or ever slower.")
        ),
    ] = True
    park_after: Annotated[
        Annotated[float, Meta(ge=0, le=60)],
        Meta(**_s("seconds", "A job whose host's turn is further off waits in a delay queue.")),
    ] = 2.0
    hosts: Annotated[
        dict[_HostPattern, HostSettings],
        Meta(
            **_s(
                "table by host, *.domain or *",
                "Other values of per_host_concurrency, per_host_delay, robotstxt_obey and proxy.",
            )
        ),
    ] = {}

    allow_ports: Annotated[
        tuple[_Port, ...],
        Meta(**_s('ports and "FIRST-LAST" ranges', "Where a URL may lead; none means any port.")),
    ] = (80, 443, 8080, 8443)
    allow_networks: Annotated[
        tuple[str, ...],
        Meta(
            **_s(
                "addresses and networks",
                "Non-public ones that may be fetched from; metadata services by address only.",
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
    proxies: Annotated[
        dict[_Name, Annotated[str, Meta(pattern="^(http|socks5)://")]],
        Meta(
            **_s(
                "table of http:// or socks5:// URLs by name",
                "Proxies that a job, a host or `proxy` can choose by name.",
            )
        ),
    ] = {}
    proxy: Annotated[
        str,
        Meta(
            **_s("name of a proxy", "Used where neither job nor host names one; empty means none."),
            pattern=_whole("[a-z0-9_-]{0,50}"),
        ),
    ] = ""

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

    @property
    def prefetch_count(self) -> int:
        """What the broker is asked for: `prefetch`, or twice the concurrency.

        What is more than concurrency is for jobs that don't fetch: those that wait for
        their host's turn, and those on their way to a delay queue or to the results.
        """
        return self.prefetch or min(65535, self.concurrency + max(4, self.concurrency))

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
        """The User-Agent header."""
        contact = f" (+{self.contact_url})" if self.contact_url else ""
        return self.user_agent or f"scraperd/{__version__}{contact}"


class ConfigError(Exception):
    """The configuration can't be used. One line a fault: key, reason, what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """Read `path` (or none) and the environment, which wins.

    Raises ConfigError with every fault found, not only the first.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    bad: set[str] = set()
    for source, key, raw in [
        *_from_file(path),
        *_from_env(os.environ if environ is None else environ),
    ]:
        hint = _HINTS.get(key)
        if hint is None:
            faults.append(f"{source}: unknown setting {key!r}{_nearest(key)}")
            continue
        try:
            values[key] = msgspec.convert(raw, hint)
        except (msgspec.ValidationError, UnicodeError) as error:
            faults.append(f"{source}: {key}: {_reason(key, error)}")
            bad.add(key)
    config = msgspec.structs.replace(Config(), **values)
    faults.extend(fault for keys, fault in _impossible(config) if bad.isdisjoint(keys))
    if faults:
        raise ConfigError(faults)
    return config


def notify_socket(environ: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Where systemd listens and its watchdog interval in microseconds; ("", 0) without systemd."""
    environ = os.environ if environ is None else environ
    usec = environ.get("WATCHDOG_USEC", "0")
    ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    sound = re.fullmatch("[0-9]{1,20}", usec)  # 64 bits
    return environ.get("NOTIFY_SOCKET", ""), int(usec) if ours and sound else 0


def _from_file(path: Path | None) -> Iterator[tuple[str, str, Any]]:
    if path is None:
        return
    try:
        table = _toml_table(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
    except ValueError as error:  # that of TOML, of UTF-8, or of a number with 5,000 digits
        raise ConfigError([f"{path}: not TOML: {error}"]) from error
    for key, raw in table.items():
        yield str(path), key, raw


def _toml_table(text: str) -> dict[str, Any]:
    """TOML as a table. Raises ValueError."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _from_env(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name != ENV_CONFIG_FILE:
            key = name.removeprefix(ENV_PREFIX).lower()
            yield "environment", key, _env_value(key, environ[name])


def _env_value(key: str, text: str) -> Any:
    """A variable's text as the setting's type: text as it stands, the rest read as TOML."""
    if isinstance(getattr(Config(), key, None), str):
        return text
    try:
        return _toml_table(f"value = {text}")["value"]
    except ValueError:
        return text


def _nearest(key: str) -> str:
    close = difflib.get_close_matches(key, _HINTS, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; `config.example.toml` lists them all"


def _reason(key: str, error: Exception) -> str:
    """What is wrong and what is allowed. Never the value: it may be a URL with a password."""
    unit = _meta(key)["extra"]["unit"]
    not_utf8 = isinstance(error, UnicodeError)  # a variable can hold any bytes
    reason = "not UTF-8" if not_utf8 else str(error).partition(" - at")[0]
    return f"must be: {unit}" if "matching regex" in reason else f"{reason} ({unit})"


def _impossible(config: Config) -> Iterator[tuple[set[str], str]]:
    """What no type can say, and the settings it is about. Never the broker's URL itself."""
    try:
        URL(config.broker_url)
    except ValueError:
        yield (
            {"broker_url"},
            "broker_url: not a URL; percent-encode special characters in user name and password",
        )
    yield from _out_of_order(config)
    yield from _unusable(config)
    yield from _no_authorities(config)
    yield from _proxy_faults(config)


def _out_of_order(config: Config) -> Iterator[tuple[set[str], str]]:
    """Pairs of settings of which one must not be greater than the other."""
    ordered = [
        ("reconnect_min", "reconnect_max"),
        ("connect_timeout", "download_timeout"),
        ("download_timeout", "job_timeout"),
        ("retry_backoff", "retry_backoff_max"),
    ]
    for small, large in ordered:
        low, high = getattr(config, small), getattr(config, large)
        if low > high:
            fault = f"{small} ({low:g}) must not be greater than {large} ({high:g})"
            yield {small, large}, fault
    if 0 < config.prefetch < config.concurrency:
        fault = (
            f"prefetch ({config.prefetch}) must be 0 or at least concurrency "
            f"({config.concurrency}): fewer jobs would be held than scraped at once"
        )
        yield {"prefetch", "concurrency"}, fault
    if 0 < config.max_connections < config.concurrency:
        fault = (
            f"max_connections ({config.max_connections}) must be 0 or at least concurrency "
            f"({config.concurrency}): each page that is fetched needs one"
        )
        yield {"max_connections", "concurrency"}, fault


def _unusable(config: Config) -> Iterator[tuple[set[str], str]]:
    """Networks, ports and servers that are none."""
    for key in ("allow_networks", "deny_networks"):
        for text in getattr(config, key):
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                yield {key}, f"{key}: {error}"
    for port in config.allow_ports:
        first, _, last = str(port).partition("-")
        if not 1 <= int(first) <= int(last or first) <= 65535:  # noqa: PLR2004 - TCP's range
            yield {"allow_ports"}, f"allow_ports: {port} is no port or range of ports"
    for server in config.nameservers:
        if not _is_server(server):
            yield {"nameservers"}, f"nameservers: {server} is no address, or its port is none"


def _no_authorities(config: Config) -> Iterator[tuple[set[str], str]]:
    """A file that does not hold certificates."""
    if config.ca_file:
        try:
            ssl.create_default_context(cafile=config.ca_file)
        except (OSError, ValueError) as error:
            why = "not a file of PEM certificates"
            if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
                why = error.strerror or why
            yield {"ca_file"}, f"ca_file: {printable(config.ca_file)}: {why}"


def _is_server(text: str) -> bool:
    """Whether it is ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT."""
    match = re.fullmatch(r"(?:([0-9.]+)|\[([0-9a-f:.]+)\])(?::([0-9]+))?|([0-9a-f:.]+)", text)
    if match is None:
        return False
    v4, bracketed, port, bare = match.groups()
    try:
        ipaddress.ip_address(v4 or bracketed or bare)
    except ValueError:
        return False
    return port is None or 1 <= int(port) <= 65535  # noqa: PLR2004 - UDP's range


def _proxy_faults(config: Config) -> Iterator[tuple[set[str], str]]:
    """Proxies that are none, or are named and not there. Never a proxy's URL itself."""
    for name, url in config.proxies.items():
        if fault := _proxy_fault(url):
            yield {"proxies"}, f"proxies.{name}: {fault}"
    chosen = {f'hosts."{pattern}".proxy': own.proxy for pattern, own in config.hosts.items()}
    for where, proxy in {"proxy": config.proxy, **chosen}.items():
        if proxy and proxy not in config.proxies:
            yield {"proxies", where.partition(".")[0]}, f"{where}: no proxy {proxy!r} in proxies"


def _proxy_fault(text: str) -> str | None:
    try:
        url = URL(text)
    except ValueError:
        return "not a URL; percent-encode special characters in user name and password"
    if not url.host or url.explicit_port is None:
        return "must be http://[USER:PASSWORD@]HOST:PORT or socks5://[USER:PASSWORD@]HOST:PORT"
    if url.path not in ("", "/") or url.query_string:
        return "must end after the port"
    secrets = [part for part in (url.user, url.password) if part]
    if url.scheme == "socks5" and not all(len(s) < 256 and s.isascii() for s in secrets):  # noqa: PLR2004
        return "SOCKS5 takes a user name and password of up to 255 ASCII characters (RFC 1929)"
    return None


def _meta(key: str) -> dict[str, Any]:
    """The description and unit of a setting; nested annotations are merged by typing."""
    found: dict[str, Any] = {"description": "", "extra": {"unit": ""}}
    for meta in getattr(_HINTS[key], "__metadata__", ()):
        if meta.description:
            found = {"description": meta.description, "extra": meta.extra}
    return found


def example() -> str:
    """The text of config.example.toml: every setting, its reason, its unit, its default."""
    lines = [
        "# scraperd: every setting with its default. An unknown key or a wrong type ends the",
        "# start with exit code 78. A variable overrides each: SCRAPERD_CONCURRENCY=200.",
    ]
    defaults = Config()
    for key in _HINTS:
        meta = _meta(key)
        lines += [
            "",
            f"# {meta['description']} [{meta['extra']['unit']}]",
            f"{key} = {_toml(getattr(defaults, key))}",
        ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple():
            items = (f'"{item}"' if isinstance(item, str) else str(item) for item in value)
            return f"[{', '.join(items)}]"
        case dict():
            return "{}"
        case _:
            return f"{value:g}" if isinstance(value, float) else f"{value:_}"


_HINTS: Final[dict[str, Any]] = get_type_hints(Config, include_extras=True)
