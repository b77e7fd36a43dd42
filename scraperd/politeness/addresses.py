"""Which address a host is fetched from, and how many fetches it bears at once. Pure.

May touch: the configuration's values; times are handed in.
Must never: resolve a name.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from scraperd.politeness.throttle import smoothed

if TYPE_CHECKING:
    from scraperd.config.tables import PolitenessSettings
    from scraperd.politeness.host_queue import HostQueue

MAX_CACHED_KEYS: Final = 4096  # IP addresses whose key is remembered
EARLY_RETURN: Final = 0.8  # of the expected time: a job that comes back early keeps the host busy
UNLIMITED: Final = 2**31  # fetches; of an address that had a limit before the settings changed
IPV6_PREFIX: Final = 64  # bits of an IPv6 address that one customer has at least (RFC 6177, 7421)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Address:
    """One IPv4 address, or one /64 of IPv6, while a host of it is remembered.

    `limit` is the most fetches at once; a host that is allowed more by itself may
    have its own number. `queues` are those whose next fetch lacks only a place here.
    """

    limit: int
    active: int = 0
    waiting: int = 0  # jobs in the queues of all its hosts
    progress_at: float = 0.0  # when a fetch ended last, or the first of those that run started
    latency: float = 0.0  # seconds that a fetch lasted, smoothed
    next_reservation_at: float = 0.0  # when the next place falls due that is promised while full
    queues: deque[HostQueue] = field(default_factory=deque)

    def full(self, own_limit: int) -> bool:
        """True if a host that may have `own_limit` fetches at once may have no further one here."""
        return self.active >= max(self.limit, own_limit)

    def interval(self, now: float, expected_latency: float) -> float:
        """Seconds between two places that get free here; the longer the silence, the longer."""
        silence = now - self.progress_at if self.active else 0.0
        return EARLY_RETURN * max(self.latency or expected_latency, silence) / self.limit

    def reservation(self, now: float) -> float:
        """When the next place falls due, behind all that were promised to any of its hosts.

        Each name's own queue is short, so its jobs would all come back at once, and too early.
        """
        return max(now, self.next_reservation_at)

    def reserve(self, now: float, expected_latency: float) -> None:
        """Promise that place: the next one falls due an interval later."""
        self.next_reservation_at = self.reservation(now) + self.interval(now, expected_latency)

    def start(self, now: float) -> None:
        """A fetch from here starts."""
        if not self.active:
            self.progress_at = now
        self.active += 1

    def finish(self, started_at: float, now: float) -> None:
        """A fetch from here has ended."""
        took = now - started_at
        self.active -= 1
        self.latency = smoothed(self.latency, took) if self.latency else took
        self.progress_at = now


class Addresses:
    """The addresses that matter now: those of remembered hosts and of fetches that run."""

    def __init__(self, settings: PolitenessSettings) -> None:
        self._known: WeakValueDictionary[str, Address] = WeakValueDictionary()
        self._key = lru_cache(maxsize=MAX_CACHED_KEYS)(self._key_of)
        self.configure(settings)

    def configure(self, settings: PolitenessSettings) -> None:
        """Take another limit, and other networks that have none."""
        self._limit = settings.per_address_concurrency
        self._shared = tuple(ip_network(text) for text in settings.shared_networks)
        self._key.cache_clear()
        for key, address in self._known.items():
            limited = self._limit and self._key(key.partition("/")[0])
            address.limit = self._limit if limited else UNLIMITED

    def of(self, text: str) -> Address | None:
        """Find what an IP address counts as; None where no limit holds. Empty text is unknown."""
        if not self._limit or not text or not (key := self._key(text)):
            return None
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Address(self._limit)
        return found

    def _key_of(self, text: str) -> str:
        try:
            ip = ip_address(text.partition("%")[0])
        except ValueError:
            return ""
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if any(ip in network for network in self._shared):
            return ""
        if isinstance(ip, IPv6Address):
            return str(ip_network((ip, IPV6_PREFIX), strict=False))
        return str(ip)
