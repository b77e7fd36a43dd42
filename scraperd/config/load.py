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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import msgspec
from yarl import URL

from scraperd.base.text import printable
from scraperd.config.settings import JOB_SHARE, Config, HostSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "Config",
    "ConfigError",
    "HostSettings",
    "example",
    "load",
    "marks_file",
    "marks_keys",
    "notify_socket",
]

ENV_PREFIX: Final = "SCRAPERD_"
MARKS_CREDENTIAL: Final = "scraperd-marks-key"  # in systemd's $CREDENTIALS_DIRECTORY
SHORTEST_KEY: Final = 32  # bytes of text: what `openssl rand -hex 16` prints has 128 random bits
LARGEST_KEY_FILE: Final = 16 * 1024  # bytes
ENV_CONFIG_FILE: Final = "SCRAPERD_CONFIG"  # the command line's own; names the file, is no setting
# What Kubernetes sets in each container of a namespace that has a Service named scraperd.
_SERVICE_LINK: Final = re.compile(
    r"SCRAPERD_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT: Final = "SCRAPERD_PORT"  # the same, if its value is a URL like tcp://10.0.0.7:5672
_SERVICE_URL: Final = ("tcp://", "udp://", "sctp://")


class ConfigError(Exception):
    """The configuration can't be used. One line a fault: key, reason, what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = [printable(fault, 2_000) for fault in faults]
        super().__init__("\n".join(self.faults))


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
            faults.append(f"{source}: {key}{_entry(hint, raw)}: {_reason(key, error)}")
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


def marks_file(config: Config, environ: Mapping[str, str] | None = None) -> Path | None:
    """Where the keys of marks are: in marks_key_file, or in systemd's credential, or nowhere."""
    environ = os.environ if environ is None else environ
    if config.marks_key_file:
        return Path(config.marks_key_file)
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(folder) / MARKS_CREDENTIAL
        return path if path.exists() else None
    return None


def marks_keys(config: Config, environ: Mapping[str, str] | None = None) -> tuple[bytes, ...]:
    """The keys of marks, one a line of their file: the first is to sign, all are to be believed.

    None if there is no such file. Raises ConfigError, which says where, and never a key.
    """
    if (path := marks_file(config, environ)) is None:
        return ()
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_KEY_FILE + 1)
    except (OSError, ValueError) as error:  # a ValueError: the path has a null byte
        why = getattr(error, "strerror", None) or "not a path"
        raise ConfigError([f"marks_key_file: {printable(str(path))}: {why}"]) from error
    lines = [(number, line.strip()) for number, line in enumerate(data.split(b"\n"), 1)]
    faults = [
        f"marks_key_file: line {number} of {printable(str(path))} has {len(line)} bytes, fewer "
        f"than {SHORTEST_KEY}; `openssl rand -hex 32` makes a key"
        for number, line in lines
        if 0 < len(line) < SHORTEST_KEY
    ]
    keys = tuple(line for _, line in lines if line)
    if len(data) > LARGEST_KEY_FILE or not keys:
        has = f"more than {LARGEST_KEY_FILE} bytes" if keys else "no key"
        faults.append(f"marks_key_file: {printable(str(path))} has {has}; write one key a line")
    if faults:
        raise ConfigError(faults)
    return keys


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
        if not name.startswith(ENV_PREFIX) or name == ENV_CONFIG_FILE:
            continue
        if not _is_service_link(name, environ[name]):
            key = name.removeprefix(ENV_PREFIX).lower()
            yield "environment", key, _env_value(key, environ[name])


def _is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes made this variable of a Service named scraperd, and nobody meant us."""
    if name == _SERVICE_PORT:
        return text.startswith(_SERVICE_URL)
    return _SERVICE_LINK.fullmatch(name) is not None


def _env_value(key: str, text: str) -> Any:
    """A variable's text as the setting's type: text as it stands, the rest read as TOML."""
    several = key == "broker_url" and text.lstrip().startswith("[")  # no URL does
    if isinstance(getattr(Config(), key, None), str) and not several:
        return text
    try:
        return _toml_table(f"value = {text}")["value"]
    except ValueError:
        return text


def _nearest(key: str) -> str:
    close = difflib.get_close_matches(key, _HINTS, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; `config.example.toml` lists them all"


def _entry(hint: Any, raw: Any) -> str:
    """Which entry of a table is wrong, where it is one."""
    for name, value in raw.items() if isinstance(raw, dict) else ():
        try:
            msgspec.convert({name: value}, hint)
        except (msgspec.ValidationError, UnicodeError) as error:
            inner = re.search(r"at `\$\[\.\.\.\]\.([a-z_]+)`", str(error))
            return f'."{printable(name)}"' + (f".{inner[1]}" if inner else "")
    return ""


def _reason(key: str, error: Exception) -> str:
    """What is wrong and what is allowed. Never the value: it may be a URL with a password."""
    unit = _meta(key)["extra"]["unit"]
    not_utf8 = isinstance(error, UnicodeError)  # a variable can hold any bytes
    reason = "not UTF-8" if not_utf8 else str(error).partition(" - at")[0]
    return f"must be: {unit}" if "matching regex" in reason else f"{reason} ({unit})"


def _impossible(config: Config) -> Iterator[tuple[set[str], str]]:
    """What no type can say, and the settings it is about. Never the broker's URL itself."""
    for url in config.broker_urls or ("",):
        if fault := _broker_fault(url):
            yield {"broker_url"}, f"broker_url: {fault}"
    yield from _out_of_order(config)
    yield from _unusable(config)
    yield from _no_authorities(config)
    yield from _host_faults(config)
    if not config.robots_agent and config.user_agent.startswith("Mozilla"):
        fault = (
            "user_agent: begins with Mozilla, by which no robots.txt means you; set robots_agent"
        )
        yield {"user_agent", "robots_agent"}, fault
    yield from _proxy_faults(config)


def _broker_fault(url: str) -> str | None:
    if not url.startswith(("amqp://", "amqps://")):
        return f"must be: {_meta('broker_url')['extra']['unit']}"
    if url.count("://") > 1:
        return 'more than one URL in one text; write a list: ["amqp://...", "amqp://..."]'
    try:
        URL(url)
    except (ValueError, IndexError):  # yarl's for a bracket in front of an empty host
        return "not a URL; percent-encode special characters in user name and password"
    return None


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
    if config.max_job_size > (half := config.memory_budget // 2):
        fault = (
            f"max_job_size ({config.max_job_size}) must not be greater than half of memory_budget "
            f"({half}): a job takes several times its bytes"
        )
        yield {"max_job_size", "memory_budget"}, fault
    if config.job_timeout > (most := config.ack_timeout * JOB_SHARE):
        fault = (
            f"job_timeout ({config.job_timeout:g}) must not be greater than three quarters of "
            f"ack_timeout ({most:g}): the broker takes a job back that is not acked by then"
        )
        yield {"job_timeout", "ack_timeout"}, fault
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
    for key in ("allow_networks", "deny_networks", "shared_networks"):
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


def _host_faults(config: Config) -> Iterator[tuple[set[str], str]]:
    """Patterns that look like an address and are none, and hosts that are named twice."""
    for key in ("hosts", "allow_hosts", "deny_hosts"):
        seen: dict[str, str] = {}
        for pattern in getattr(config, key):
            host = pattern.strip("[]").rstrip(".").lower()
            if ":" in host or host.rpartition(".")[2].isdigit():
                try:
                    host = str(ipaddress.ip_address(host.removeprefix("*.")))
                except ValueError:
                    yield {key}, f"{key}: {pattern} is no address; a host is named without its port"
            if host in seen:
                yield {key}, f"{key}: {seen[host]} and {pattern} are the same host"
            seen[host] = pattern


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
    match = re.fullmatch(r"(?:([0-9.]+)|\[([0-9a-f:.]+)\])(?::([0-9]{1,5}))?|([0-9a-f:.]+)", text)
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
    except (ValueError, IndexError):  # as above
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
        meta, value = _meta(key), getattr(defaults, key)
        lines += ["", f"# {meta['description']} [{meta['extra']['unit']}]"]
        lines += _EXAMPLES[key] if isinstance(value, dict) else [f"{key} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


# The tables come last: in TOML, what follows a table's head belongs to the table.
_EXAMPLES: Final = {
    "hosts": ["[hosts]", '# "*.example.com" = { per_host_delay = 2.0, per_host_concurrency = 1 }'],
    "proxies": ["[proxies]", '# office = "http://user:password@proxy.example:3128"'],
}


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple():
            items = (f'"{item}"' if isinstance(item, str) else str(item) for item in value)
            return f"[{', '.join(items)}]"
        case _:
            return f"{value:g}" if isinstance(value, float) else f"{value:_}"


_HINTS: Final[dict[str, Any]] = get_type_hints(Config, include_extras=True)
