"""Where we may connect: public addresses, and what the operator's settings add and take away.

May touch: the configuration's values, the kernel's routes; makes sockets, leaves them unconnected.
Must never: resolve a name, or tell an address that a name resolved to.
"""

from __future__ import annotations

import re
import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from scraperd.base.hosts import HostSet
from scraperd.base.text import printable
from scraperd.fetch.own import is_own, lacking, question

if TYPE_CHECKING:
    from aiohttp import AddrInfoType
    from yarl import URL

    from scraperd.config.tables import FetchSettings

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_CACHED_ADDRESSES: Final = 4096  # addresses whose judgement is remembered


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


# The IANA special-purpose registries (RFC 6890, 8190) and what they leave out. Of ranges that are
# deprecated or hold services of the network itself, all is denied: no page is published there.
# Those in _GUARDED are not repeated here.
_NOT_PUBLIC: Final = _networks(
    "0.0.0.0/8",  # this network (RFC 791); Linux takes 0.0.0.0 for itself
    "10.0.0.0/8",  # private (RFC 1918)
    "100.64.0.0/10",  # shared by a carrier's customers (RFC 6598)
    "127.0.0.0/8",  # loopback (RFC 1122 section 3.2.1.3)
    "172.16.0.0/12",  # private (RFC 1918)
    "192.0.0.0/24",  # protocol assignments (RFC 6890 section 2.1)
    "192.0.2.0/24",  # documentation (RFC 5737)
    "192.88.99.0/24",  # 6to4 relays, deprecated (RFC 7526)
    "192.168.0.0/16",  # private (RFC 1918)
    "198.18.0.0/15",  # benchmarking (RFC 2544)
    "198.51.100.0/24",  # documentation (RFC 5737)
    "203.0.113.0/24",  # documentation (RFC 5737)
    "224.0.0.0/4",  # multicast (RFC 5771)
    "240.0.0.0/4",  # reserved (RFC 1112 section 4), and broadcast (RFC 919)
    "2001::/23",  # protocol assignments (RFC 2928): Teredo, ORCHID, benchmarking
    "2001:db8::/32",  # documentation (RFC 3849)
    "2002::/16",  # 6to4 (RFC 3056); its relays are deprecated (RFC 7526)
    "3fff::/20",  # documentation (RFC 9637)
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")  # RFC 4291 section 2.4; IANA gives out no other
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")

# Never opened by a wider entry of allow_networks. The addresses of metadata services are those of
# the clouds' own documentation; 169.254.169.254 and its neighbours are link-local.
_GUARDED: Final = _networks(
    "169.254.0.0/16",  # link-local (RFC 3927)
    "169.254.169.254",  # AWS, Azure, Google Cloud and most others
    "169.254.170.2",  # AWS: credentials of containers
    "169.254.170.23",  # AWS: credentials of pods
    "fe80::/10",  # link-local (RFC 4291 section 2.5.6)
    "100.100.100.200",  # Alibaba Cloud
    "168.63.129.16",  # Azure: its host agent, at a public address
    "192.0.0.192",  # Oracle Cloud Classic
    "fd00:42::42",  # Scaleway
    "fd00:100::100:200",  # Alibaba Cloud
    "fd00:a9fe:a9fe::1",  # Akamai
    "fd00:c1::a9fe:a9fe",  # Oracle Cloud
    "fd00:ec2::/32",  # AWS: metadata, credentials of pods, DNS, time
    "fd20:ce::254",  # Google Cloud
    "64:ff9b:1::/48",  # NAT64 of this network (RFC 8215): leads to any IPv4 address
)

# IPv6 addresses that hold an IPv4 address: its distance from the right in bits, and what it is
# XORed with.
_WRAPS: Final = (
    (IPv6Network("::/96"), 0, 0),  # compatible, deprecated (RFC 4291 section 2.5.5.1)
    (_MAPPED, 0, 0),  # RFC 4291 section 2.5.5.2; the kernel connects to the IPv4 address
    (IPv6Network("::ffff:0:0:0/96"), 0, 0),  # translated, obsolete (RFC 2765)
    (_NAT64, 0, 0),  # RFC 6052 section 2.1
    (IPv6Network("64:ff9b:1::/48"), 0, 0),  # RFC 8215, with a prefix of 96 bits
    (IPv6Network("2002::/16"), 80, 0),  # 6to4 (RFC 3056 section 2)
    (IPv6Network("2001::/32"), 64, 0),  # Teredo's server (RFC 4380 section 4)
    (IPv6Network("2001::/32"), 0, 0xFFFFFFFF),  # Teredo's client, obfuscated
)
_NO_IPV4: Final = (IPv6Address("::"), IPv6Address("::1"))  # though they are in ::/96

# What the WHATWG URL standard takes for an IPv4 address ("ends in a number"): 127.1, 0x7f000001.
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.*", re.IGNORECASE)

_DENIED: Final = "is among fetch.deny_networks"
_OUTRIGHT: Final = (
    "is link-local or a metadata service's; fetch.allow_networks would have to name it"
)
_PRIVATE: Final = "is not public and not among fetch.allow_networks"
_OWN: Final = "is an address of this machine and not among fetch.allow_networks"
# One text for all: of several addresses that fail alike, aiohttp raises the first error as it is.
_NOT_LET: Final = (
    "the address is not one that fetch.allow_networks and fetch.deny_networks let through, or it"
    " is this machine's own and not among fetch.allow_networks"
)


class Blocked(OSError):  # noqa: N818 - an outcome, not an error of ours
    """A host, port or address we must not connect to.

    Its text names the setting, and never an address that a name resolved to.
    """


class _Judgement(NamedTuple):
    """What the settings say of an address: its fault, or what the kernel must be asked of it."""

    fault: str | None
    questions: tuple[bytes, ...] = ()


def guarded(settings: FetchSettings) -> tuple[object, ...]:
    """Return what a guard's judgements follow from."""
    return (
        settings.allow_ports,
        settings.allow_networks,
        settings.deny_networks,
        settings.allow_hosts,
        settings.deny_hosts,
    )


class Guard:
    """What the settings allow; holds nothing of any job. For all connections but those to proxies.

    The judgement is made where an address is dialled, so that a name that
    resolves again, or an odd spelling, makes no difference to it. What the
    settings say of an address is remembered; whether it is this machine's own
    is asked each time, as it may become so.
    """

    def __init__(self, settings: FetchSettings) -> None:
        self._judged = lru_cache(maxsize=MAX_CACHED_ADDRESSES)(self._judge)
        self._asks = not lacking()
        self.configure(settings)

    def configure(self, settings: FetchSettings) -> None:
        """Take other settings. A connection that is open was judged by those before."""
        self._deny = _networks(*settings.deny_networks)
        self._allow = _networks(*settings.allow_networks)
        self._allow_hosts = HostSet(settings.allow_hosts)
        self._deny_hosts = HostSet(settings.deny_hosts)
        self._ports = tuple(_range(port) for port in settings.allow_ports)
        self._judged.cache_clear()

    @property
    def remembered(self) -> int:
        """Of how many addresses the judgement is remembered."""
        return self._judged.cache_info().currsize

    def refuses(self, url: URL) -> str | None:
        """Why nothing may be dialled for `url`, or None: its host, its port, its address literal.

        All reasons at once, so that an operator who allows one does not meet the next.
        """
        host = url.raw_host or ""
        faults = (self._host_fault(host), self._port_fault(url.port), self._literal_fault(host))
        return "; ".join(filter(None, faults)) or None

    def refuses_port_only(self, url: URL) -> bool:
        """Whether the port is all that is wrong with `url`, whose host is a name."""
        host = url.raw_host or ""
        return (
            self._port_fault(url.port) is not None
            and self._host_fault(host) is None
            and not _is_numeric(host)
        )

    def _host_fault(self, host: str) -> str | None:
        if self._deny_hosts and host in self._deny_hosts:
            return f"{printable(host)} is among fetch.deny_hosts"
        if self._allow_hosts and host not in self._allow_hosts:
            return f"{printable(host)} is not among fetch.allow_hosts"
        return None

    def _port_fault(self, port: int | None) -> str | None:
        if not self._ports or port is None or any(port in ports for ports in self._ports):
            return None
        return f"port {port} is not among fetch.allow_ports"

    def _literal_fault(self, host: str) -> str | None:
        """What is wrong with a host that is an address; None for a name.

        A numeric host that is not in dotted decimal is always refused:
        it means different things to different resolvers.
        """
        if not _is_numeric(host):
            return None
        if not _canonical(host):
            return f"{printable(host)} is not an address in its usual form"
        fault = self._early_fault(host)
        return fault and f"{host} {fault}"

    def admits(self, address: str) -> bool:
        """Whether we may connect to this IP address. False for a text that is not an address."""
        return self._early_fault(address) is None

    def owns(self, address: str) -> bool:
        """Whether all that is wrong with this IP address is that it is this machine's own."""
        return self._early_fault(address) is _OWN

    def socket(self, info: AddrInfoType) -> socket.socket:
        """Make a socket for this address: aiohttp's `socket_factory`. Raises Blocked, OSError."""
        family, kind, protocol, _, address = info
        if self._fault(address[0]):
            raise Blocked(_NOT_LET)
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    def _early_fault(self, address: str) -> str | None:
        """As `_fault`, before the dial.

        What the kernel can't say now is not a fault, as the dial asks again.
        """
        try:
            return self._fault(address)
        except OSError:
            return None

    def _fault(self, address: str) -> str | None:
        """Why nothing may be sent to this address. Raises OSError if the kernel can't say."""
        fault, questions = self._judged(address)
        if fault is None and self._asks and any(is_own(asked) for asked in questions):
            return _OWN
        return fault

    def _judge(self, text: str) -> _Judgement:
        try:
            ip = ip_address(text.partition("%")[0])
        except ValueError:
            return _Judgement("is not an IP address")
        inner = _inner(ip)
        forms = (ip, *inner)
        if any(_in(form, self._deny) for form in forms):
            return _Judgement(_DENIED)
        if any(_in(form, _GUARDED) and not self._allows(form) for form in forms):
            return _Judgement(_OUTRIGHT)
        around = ip in _MAPPED and self._allows(inner[0])
        if (around or self._opens(ip)) and all(self._opens(form) for form in inner):
            asked = (form for form in forms if not self._allows(form))
            return _Judgement(None, tuple(question(form) for form in asked))
        return _Judgement(_PRIVATE)

    def _opens(self, ip: Address) -> bool:
        return _is_public(ip) or self._allows(ip)

    def _allows(self, ip: Address) -> bool:
        """Named by allow_networks; a guarded one by nothing wider than what guards it."""
        guards = [network for network in _GUARDED if ip in network]
        return any(
            ip in network and all(_within(network, guard) for guard in guards)
            for network in self._allow
        )


def _is_public(ip: Address) -> bool:
    usable = isinstance(ip, IPv4Address) or ip in _GLOBAL_UNICAST or ip in _NAT64
    return usable and not _in(ip, _NOT_PUBLIC)


def _inner(ip: Address) -> list[IPv4Address]:
    """The IPv4 addresses inside an IPv6 one."""
    if isinstance(ip, IPv4Address) or ip in _NO_IPV4:
        return []
    return [
        IPv4Address((int(ip) >> shift & 0xFFFFFFFF) ^ mask)
        for network, shift, mask in _WRAPS
        if ip in network
    ]


def _is_numeric(host: str) -> bool:
    """Whether it is an address, in whatever form, and not a name."""
    return ":" in host or _NUMERIC.fullmatch(host) is not None


def _canonical(host: str) -> bool:
    """Whether it is IPv4 in dotted decimal, or IPv6 without a zone (which only this host knows)."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _in(ip: Address, networks: tuple[Network, ...]) -> bool:
    return any(ip in network for network in networks)


def _within(network: Network, other: Network) -> bool:
    return network.network_address in other and network.prefixlen >= other.prefixlen


def _range(port: int | str) -> range:
    first, _, last = str(port).partition("-")
    return range(int(first), int(last or first) + 1)
