"""What no type can say of the settings: values that contradict each other, names that lead nowhere.

May touch: the authorities' certificates that a setting names, on disk.
Must never: raise for a value of a setting, or say a URL that may hold a password.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from typing import TYPE_CHECKING, Final

from yarl import URL

from scraperd.base.hosts import canonical
from scraperd.base.text import printable
from scraperd.base.urls import check_url
from scraperd.config.names import unit_of, value_of
from scraperd.config.tables import JOB_SHARE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scraperd.config.settings import Config

MAX_PORT: Final = 65_535
_ADDRESS: Final = re.compile(r"[0-9]+(?:\.[0-9]+){3}")


def impossible(config: Config) -> Iterator[tuple[set[str], str]]:
    """What no type can say, and the settings it is about. Never the broker's URL itself."""
    for url in config.broker_urls or ("",):
        if fault := _broker_fault(url):
            yield {"broker_url"}, f"broker_url: {fault}"
    if config.broker.tls and not any(url.startswith("amqps://") for url in config.broker_urls):
        names = {f"broker.{it}" for it in ("ca_file", "cert_file", "key_file", "verify")}
        yield (
            {*names, "broker_url"},
            "broker: settings of TLS are set, and no broker_url is amqps://",
        )
    yield from _out_of_order(config)
    yield from _unusable(config)
    yield from _no_authorities(config)
    yield from _host_faults(config)
    yield from _listen_faults(config)
    if not config.politeness.robots_agent and config.fetch.user_agent.startswith("Mozilla"):
        fault = (
            "fetch.user_agent: begins with Mozilla, by which no robots.txt means you; set "
            "politeness.robots_agent"
        )
        yield {"fetch.user_agent", "politeness.robots_agent"}, fault
    yield from _proxy_faults(config)
    for name, endpoint in config.callback_endpoints.items():
        if fault := check_url(endpoint.url):
            yield {"callback_endpoints"}, f"callback_endpoints.{name}.url: {fault}"


def _listen_faults(config: Config) -> Iterator[tuple[set[str], str]]:
    for name, address in (
        ("metrics.listen", config.metrics.address),
        ("http.listen", config.http.address),
    ):
        if address is not None:
            yield from (({name}, f"{name}: {fault}") for fault in _address_faults(*address))


def _address_faults(host: str, port: int) -> Iterator[str]:
    if not 1 <= port <= MAX_PORT:
        yield f"{port} is not a port (1 to {MAX_PORT})"
    try:
        ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        yield f"{printable(host)} is not an IP address"


def _broker_fault(url: str) -> str | None:
    if not url.startswith(("amqp://", "amqps://")):
        return f"must be: {unit_of('broker_url')}"
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
        ("broker.reconnect_min", "broker.reconnect_max"),
        ("fetch.connect_timeout", "fetch.download_timeout"),
        ("fetch.download_timeout", "jobs.timeout"),
        ("jobs.retry_backoff", "jobs.retry_backoff_max"),
        ("http.max_wait", "http.result_hold"),
    ]
    for small, large in ordered:
        low, high = value_of(config, small), value_of(config, large)
        if low > high:
            fault = f"{small} ({low:g}) must not be greater than {large} ({high:g})"
            yield {small, large}, fault
    if config.jobs.max_size > (half := config.fetch.memory_budget // 2):
        fault = (
            f"jobs.max_size ({config.jobs.max_size}) must not be greater than half of "
            f"fetch.memory_budget ({half}): a job takes several times its bytes"
        )
        yield {"jobs.max_size", "fetch.memory_budget"}, fault
    if config.jobs.timeout > (most := config.broker.ack_timeout * JOB_SHARE):
        fault = (
            f"jobs.timeout ({config.jobs.timeout:g}) must not be greater than three quarters of "
            f"broker.ack_timeout ({most:g}): the broker takes a job back that is not acked by then"
        )
        yield {"jobs.timeout", "broker.ack_timeout"}, fault
    if 0 < config.broker.prefetch < config.concurrency:
        fault = (
            f"broker.prefetch ({config.broker.prefetch}) must be 0 or at least concurrency "
            f"({config.concurrency}): fewer jobs would be held than scraped at once"
        )
        yield {"broker.prefetch", "concurrency"}, fault
    if 0 < config.fetch.max_connections < config.concurrency:
        fault = (
            f"fetch.max_connections ({config.fetch.max_connections}) must be 0 or at least "
            f"concurrency ({config.concurrency}): each page that is fetched needs one"
        )
        yield {"fetch.max_connections", "concurrency"}, fault


def _unusable(config: Config) -> Iterator[tuple[set[str], str]]:
    """Values that are not networks, ports or servers."""
    for key in ("fetch.allow_networks", "fetch.deny_networks", "politeness.shared_networks"):
        for text in value_of(config, key):
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                yield {key}, f"{key}: {error}"
    for port in config.fetch.allow_ports:
        first, _, last = str(port).partition("-")
        if not 1 <= int(first) <= int(last or first) <= MAX_PORT:
            yield {"fetch.allow_ports"}, f"fetch.allow_ports: {port} is no port or range of ports"
    for server in config.fetch.nameservers:
        if not _is_server(server):
            fault = f"fetch.nameservers: {server} is no address, or its port is none"
            yield {"fetch.nameservers"}, fault


def _host_faults(config: Config) -> Iterator[tuple[set[str], str]]:
    """Patterns that mean no host, or an address in an odd form, and hosts that are named twice."""
    for key in ("hosts", "fetch.allow_hosts", "fetch.deny_hosts"):
        seen: dict[str, str] = {}
        for pattern in value_of(config, key):
            host = canonical(pattern)
            if fault := _pattern_fault(pattern, host.removeprefix("*.")):
                yield {key}, f"{key}: {printable(pattern)} {fault}"
            if host in seen:
                both = f"{printable(seen[host])} and {printable(pattern)}"
                yield {key}, f"{key}: {both} are the same host"
            seen[host] = pattern


def _pattern_fault(pattern: str, host: str) -> str:
    """Why a pattern means no host; `host` is what it means, as dialled."""
    if pattern == "*":
        return ""
    written = pattern.removeprefix("*.").strip("[]").rstrip(".").lower()
    if ":" in written or written.rpartition(".")[2].isdigit():
        try:
            ipaddress.ip_address(written)
        except ValueError:
            return "is no address; a host is named without its port"
    elif check_url(f"http://{written}/") is not None:
        return "is no host"
    elif _ADDRESS.fullmatch(host):
        return f"is read as the address {host}; write that"
    return ""


def _no_authorities(config: Config) -> Iterator[tuple[set[str], str]]:
    """A file that does not hold certificates."""
    if config.fetch.ca_file:
        try:
            ssl.create_default_context(cafile=config.fetch.ca_file)
        except (OSError, ValueError) as error:
            why = "not a file of PEM certificates"
            if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
                why = error.strerror or why
            yield {"fetch.ca_file"}, f"fetch.ca_file: {printable(config.fetch.ca_file)}: {why}"


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
    return port is None or 1 <= int(port) <= MAX_PORT


def _proxy_faults(config: Config) -> Iterator[tuple[set[str], str]]:
    """Proxies that are none, or are named and not there. Never a proxy's URL itself."""
    for name, url in config.proxies.items():
        if fault := _proxy_fault(url):
            yield {"proxies"}, f"proxies.{name}: {fault}"
    chosen = {f'hosts."{pattern}".proxy': own.proxy for pattern, own in config.hosts.items()}
    for where, proxy in {"fetch.proxy": config.fetch.proxy, **chosen}.items():
        if proxy and proxy not in config.proxies:
            yield {"proxies", where.partition('."')[0]}, f"{where}: no proxy {proxy!r} in proxies"


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
