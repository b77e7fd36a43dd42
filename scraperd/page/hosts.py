"""Which hosts a pattern means, and what holds for one host: the settings, with its own over them.

May touch: the configuration's values. Pure.
Must never: resolve a name.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scraperd.config import Config, HostSettings

KEPT: Final = 4096  # hosts whose rules are remembered


@dataclass(frozen=True, slots=True)
class HostRules:
    """What holds for one host. Delay in seconds; `proxy` is a name, empty for none."""

    concurrency: int
    delay: float
    obey_robots: bool
    proxy: str


class HostTable:
    """The settings with the table `hosts` over them; for each, the most specific pattern wins."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._own = {_canonical(pattern): own for pattern, own in config.hosts.items()}
        self.of = lru_cache(maxsize=KEPT)(self._of)

    def _of(self, host: str) -> HostRules:
        config = self._config
        found = [self._own[name] for name in names_of(host) if name in self._own]
        return HostRules(
            concurrency=_first(found, "per_host_concurrency", config.per_host_concurrency),
            delay=_first(found, "per_host_delay", config.per_host_delay),
            obey_robots=_first(found, "robotstxt_obey", config.robotstxt_obey),
            proxy=_first(found, "proxy", config.proxy),
        )


class HostSet:
    """Hosts by pattern: `host in HostSet(["example.com", "*.example.org"])`."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = frozenset(_canonical(pattern) for pattern in patterns)

    def __contains__(self, host: str) -> bool:
        return any(name in self._patterns for name in names_of(host))

    def __bool__(self) -> bool:
        return bool(self._patterns)


def names_of(host: str) -> Iterator[str]:
    """The patterns that mean `host`, the most specific first.

    `www.example.com` is meant by itself, `*.example.com`, `*.com` and `*`. A
    domain's own name is not among its `*.domain`, as in certificates (RFC 9525).
    """
    host = _canonical(host)
    yield host
    if ":" not in host:
        labels = host.split(".")
        for start in range(1, len(labels)):
            yield f"*.{'.'.join(labels[start:])}"
    yield "*"


def _canonical(host: str) -> str:
    """One spelling a host: lower case, no final dot, an IPv6 address shortest, without brackets."""
    host = host.lower().strip("[]").rstrip(".")
    if ":" in host:
        with suppress(ValueError):
            return str(ipaddress.IPv6Address(host))
    return host


def _first(found: list[HostSettings], name: str, default: Any) -> Any:
    return next((value for own in found if (value := getattr(own, name)) is not UNSET), default)
