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

if TYPE_CHECKING:
    from scraperd.config.settings import Config
    from scraperd.politeness.host_queue import Line

KEPT: Final = 4096  # addresses whose key is remembered
EARLY: Final = 0.8  # of the time a fetch is expected to take
WEIGHT: Final = 0.3  # of the newest latency
SITE: Final = 64  # bits of an IPv6 address that one customer has at least (RFC 6177, RFC 7421)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Address:
    """One IPv4 address, or one /64 of IPv6, while a host of it is remembered.

    `limit` is the most fetches at once; a host that is allowed more by itself may
    have its own number. `lines` are those whose next fetch waits for nothing else.
    """

    limit: int
    active: int = 0
    waiting: int = 0  # jobs in the lines of all its hosts
    progress: float = 0.0  # when a fetch ended last, or the first of those that run was started
    latency: float = 0.0  # seconds that a fetch lasted, the newest counting most
    tail: float = 0.0  # when the next place falls due that is promised while it is full
    lines: deque[Line] = field(default_factory=deque)

    def full(self, own: int) -> bool:
        """Whether a host that may have `own` fetches at once may have no further one here."""
        return self.active >= max(self.limit, own)

    def interval(self, now: float, usual: float) -> float:
        """Seconds between two places that get free here; as long as all is silent, the longer."""
        silent = now - self.progress if self.active else 0.0
        return EARLY * max(self.latency or usual, silent) / self.limit

    def place(self, now: float, usual: float) -> float:
        """A place behind all that were promised to any of its hosts: when it falls due.

        Each name's own line is short, so its jobs would all come back at once, and too early.
        """
        at = max(now, self.tail)
        self.tail = at + self.interval(now, usual)
        return at

    def start(self, now: float) -> None:
        """A fetch from here starts."""
        if not self.active:
            self.progress = now
        self.active += 1

    def end(self, began: float, now: float) -> None:
        """A fetch from here has ended."""
        self.active -= 1
        self.latency += WEIGHT * (now - began - self.latency) if self.latency else now - began
        self.progress = now


class Addresses:
    """The addresses that matter now: those of remembered hosts and of fetches that run."""

    def __init__(self, config: Config) -> None:
        self._limit = config.per_address_concurrency
        self._shared = tuple(ip_network(text) for text in config.shared_networks)
        self._known: WeakValueDictionary[str, Address] = WeakValueDictionary()
        self._key = lru_cache(maxsize=KEPT)(self._key_of)

    def of(self, text: str) -> Address | None:
        """What an IP address counts as; None where there is no limit: an empty text is unknown."""
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
            return str(ip_network((ip, SITE), strict=False))
        return str(ip)
