"""What holds for one host: the settings, with the table `hosts` over them.

May touch: the configuration's values. Pure.
Must never: resolve a name.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import UNSET, Struct
from msgspec.structs import replace

from scraperd.base.hosts import canonical, names_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scraperd.config.tables import HostSettings, PolitenessSettings

MAX_CACHED_HOSTS: Final = 4096  # hosts whose rules are remembered


class HostRules(Struct, frozen=True):
    """What holds for one host. `delay` is in seconds; `proxy` is a name, empty without a proxy."""

    concurrency: int
    delay: float
    obey_robots: bool
    proxy: str


class Limit(NamedTuple):
    """What a person set for some hosts at run time; None leaves it as it is. `delay` in seconds."""

    concurrency: int | None = None
    delay: float | None = None


class HostTable:
    """The settings with the table `hosts` over them; for each, the most specific pattern wins.

    Limits that were set at run time go over both.

    `proxy` is the one for hosts that have none of their own.
    """

    def __init__(
        self, settings: PolitenessSettings, hosts: Mapping[str, HostSettings], proxy: str
    ) -> None:
        self._limits: dict[str, Limit] = {}
        self.of = lru_cache(maxsize=MAX_CACHED_HOSTS)(self._of)
        self.configure(settings, hosts, proxy)

    def configure(
        self, settings: PolitenessSettings, hosts: Mapping[str, HostSettings], proxy: str
    ) -> None:
        """Take other settings, as when it was made."""
        self._settings = settings
        self._proxy = proxy
        self._own = {canonical(pattern): own for pattern, own in hosts.items()}
        self.of.cache_clear()

    def limit(self, limits: Mapping[str, Limit]) -> bool:
        """Take other limits, by patterns; False if they are the same as before."""
        found = {canonical(pattern): limit for pattern, limit in limits.items()}
        if found == self._limits:
            return False
        self._limits = found
        self.of.cache_clear()
        return True

    def _of(self, host: str) -> HostRules:
        rules = self._configured(host)
        if not self._limits:
            return rules
        limit = next((self._limits[it] for it in names_of(host) if it in self._limits), Limit())
        concurrency = rules.concurrency if limit.concurrency is None else limit.concurrency
        delay = rules.delay if limit.delay is None else limit.delay
        return replace(rules, concurrency=concurrency, delay=delay)

    def _configured(self, host: str) -> HostRules:
        settings = self._settings
        found = [self._own[name] for name in names_of(host) if name in self._own]
        return HostRules(
            concurrency=_first(found, "per_host_concurrency", settings.per_host_concurrency),
            delay=_first(found, "per_host_delay", settings.per_host_delay),
            obey_robots=_first(found, "robotstxt_obey", settings.robotstxt_obey),
            proxy=_first(found, "proxy", self._proxy),
        )


def _first(found: list[HostSettings], name: str, default: Any) -> Any:
    return next((value for own in found if (value := getattr(own, name)) is not UNSET), default)
