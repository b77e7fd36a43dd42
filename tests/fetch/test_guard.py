"""Tests of the address guard: every range, every wrapped form, every spelling, and the dial itself.

May touch: a site on loopback, this process's own file descriptors.
Must never: dial an address beyond this machine.
"""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from scraperd.base.urls import check_url, exact, resolve
from scraperd.config.tables import FetchSettings
from scraperd.extract.nodes import Base
from scraperd.fetch.guard import MAX_CACHED_ADDRESSES, Blocked, Guard
from tests.rig.sites.site import page

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.rig.sites.site import Site

DEFAULT: Final = Guard(FetchSettings())
ALL_V6: Final = Guard(FetchSettings(allow_networks=("::/0",)))
V4_DENIED: Final = [
    ("0.0.0.0", "0.255.255.255"),
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("168.63.129.16", "168.63.129.16"),
    ("169.254.0.0", "169.254.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.255"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.88.99.0", "192.88.99.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "255.255.255.255"),
]
V6_DENIED: Final = [
    ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
]
METADATA: Final = """
    169.254.169.254 169.254.170.2 169.254.42.42 100.100.100.200 168.63.129.16 192.0.0.192
    fe80::a9fe:a9fe fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42
    fd00:a9fe:a9fe::1 fd00:100::100:200
""".split()
NAT64: Final = int(IPv6Address("64:ff9b::"))
WRAPS: Final[dict[str, Callable[[int], int]]] = {
    "mapped": lambda v4: 0xFFFF << 32 | v4,
    "compatible": lambda v4: v4,
    "translated": lambda v4: 0xFFFF << 48 | v4,
    "NAT64": lambda v4: NAT64 | v4,
    "local NAT64": lambda v4: int(IPv6Address("64:ff9b:1::")) | v4,
    "6to4": lambda v4: 0x2002 << 112 | v4 << 80 | 1,
    "Teredo server": lambda v4: 0x20010000 << 96 | v4 << 64 | (0x08080808 ^ 0xFFFFFFFF),
    "Teredo client": lambda v4: 0x20010000 << 96 | 0x08080808 << 64 | (v4 ^ 0xFFFFFFFF),
}


def v4s(ranges: list[tuple[str, str]] = V4_DENIED) -> st.SearchStrategy[int]:
    return st.one_of(
        st.integers(int(IPv4Address(first)), int(IPv4Address(last))) for first, last in ranges
    )


def guard(allow: str = "", deny: str = "", **settings: Any) -> Guard:
    networks = {"allow_networks": tuple(allow.split()), "deny_networks": tuple(deny.split())}
    return Guard(FetchSettings(**networks, **settings))


def admits(number: int, kind: type[IPv4Address | IPv6Address]) -> bool:
    return DEFAULT.admits(str(kind(number)))


@pytest.mark.parametrize(("first", "last"), V4_DENIED + V6_DENIED)
def test_a_range_is_denied_from_its_first_address_to_its_last(first: str, last: str) -> None:
    """Both ends are denied, and their neighbours outside are not."""
    kind = type(ip_address(first))
    low, high = int(ip_address(first)), int(ip_address(last))
    assert not any(admits(number, kind) for number in (low, (low + high) // 2, high))
    if low > 0:
        assert admits(low - 1, kind)
    if high < 2 ** ip_address(first).max_prefixlen - 1:
        assert admits(high + 1, kind)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "2a00::1"])
def test_public_addresses_are_admitted(address: str) -> None:
    """The guard keeps nobody from the public internet."""
    assert DEFAULT.admits(address)


@given(v4s(), st.sampled_from(sorted(WRAPS)))
def test_a_denied_ipv4_address_is_denied_in_any_wrapping(v4: int, form: str) -> None:
    """Not even a setting that allows all of IPv6 opens IPv4 by way of it."""
    address = str(IPv6Address(WRAPS[form](v4)))
    if address in ("::", "::1"):
        return  # addresses of IPv6's own, which wrap nothing
    assert not DEFAULT.admits(address)
    assert not ALL_V6.admits(address)


@given(st.integers(0, 2**128 - 1) | st.integers(0, 2**96 - 1) | st.integers(0, 2**49 - 1))
def test_nothing_outside_global_unicast_is_admitted(number: int) -> None:
    """2000::/3 is all that IANA gives out; NAT64's well-known prefix leads to IPv4."""
    outside = number >> 125 != 1
    assert not (outside and number >> 32 != NAT64 >> 32 and admits(number, IPv6Address))


@given(st.integers(0, 2**32 - 1))
def test_nat64_is_judged_by_the_address_inside(v4: int) -> None:
    """On a network with NAT64 all IPv4 sites have such addresses."""
    assert admits(NAT64 | v4, IPv6Address) == admits(v4, IPv4Address)


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_no_more_is_admitted_than_python_calls_global(ip: IPv4Address | IPv6Address) -> None:
    """An independent reading of the same registries, which is a lower bound of ours."""
    assert ip.is_global or not DEFAULT.admits(str(ip))


def test_no_network_is_admitted_that_python_calls_special() -> None:
    """The same, for both ends of each network that Python knows."""
    networks: list[Any] = []
    for known in (ipaddress._IPv4Constants, ipaddress._IPv6Constants):  # type: ignore[attr-defined]
        for value in vars(known).values():
            networks += value if isinstance(value, list) else [value]
    ends = {
        str(ip) for net in networks if not isinstance(net, str | staticmethod) for ip in _ends(net)
    }
    assert len(ends) > 60
    assert [end for end in ends if not ip_address(end).is_global and DEFAULT.admits(end)] == []


def _ends(network: Any) -> list[Any]:
    return [network[0], network[-1]] if hasattr(network, "prefixlen") else []


@pytest.mark.parametrize("address", ["", "example.com", "2130706433", "127.1", "0x7f.1", "1.2.3"])
def test_what_is_no_address_is_not_admitted(address: str) -> None:
    """What the guard can't read it does not let pass."""
    assert not DEFAULT.admits(address)


@pytest.mark.parametrize(
    ("allow", "deny", "address", "admitted"),
    [
        ("127.0.0.0/8", "", "127.0.0.1", True),
        ("127.0.0.0/8", "", "128.0.0.1", True),
        ("127.0.0.0/8", "", "10.0.0.1", False),
        ("127.0.0.0/8", "", "::1", False),
        ("127.0.0.0/8", "", "::ffff:127.0.0.1", True),
        ("127.0.0.0/8", "", "64:ff9b::7f00:1", True),
        ("127.0.0.0/8", "", "::127.0.0.1", False),
        ("127.0.0.0/8", "", "2002:7f00:1::", False),
        ("::1", "", "::1", True),
        ("10.1.2.3", "", "10.1.2.3", True),
        ("10.1.2.3", "", "10.1.2.4", False),
        ("fc00::/7", "", "fd12::1", True),
        ("2002::/16", "", "2002:808:808::1", True),
        ("2002::/16", "", "2002:a00:1::1", False),
        ("2002::/16 10.0.0.0/8", "", "2002:a00:1::1", True),
        ("64:ff9b:1::/96", "", "64:ff9b:1::808:808", True),
        ("64:ff9b:1::/96", "", "64:ff9b:1::a00:1", False),
        ("64:ff9b::/32 ::/0", "", "64:ff9b:1::808:808", False),
        ("169.254.0.0/15", "", "169.255.0.1", True),
        ("169.254.0.0/15", "", "169.254.0.1", False),
        ("fe80::/10", "", "fe80::1%lo", True),
        # deny wins, in any wrapping
        ("", "93.184.216.0/24", "93.184.216.34", False),
        ("", "93.184.216.0/24", "93.184.217.34", True),
        ("", "93.184.216.0/24", "64:ff9b::5db8:d822", False),
        ("::/0", "93.184.216.0/24", "::ffff:93.184.216.34", False),
        ("::/0", "93.184.216.0/24", "2002:5db8:d822::1", False),
        ("", "2606:2800::/32", "2606:2800:220:1::1", False),
        ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", False),
        ("10.1.2.3", "10.0.0.0/8", "10.1.2.3", False),
        ("127.0.0.0/8", "127.0.0.1", "::ffff:127.0.0.1", False),
    ],
)
def test_settings(allow: str, deny: str, address: str, admitted: bool) -> None:  # noqa: FBT001
    """An allow opens the mapped and the NAT64 form too; a deny closes every form."""
    assert guard(allow, deny).admits(address) is admitted


@pytest.mark.parametrize("address", METADATA)
def test_metadata_services_are_opened_by_name_only(address: str) -> None:
    """No default and no wide network opens them, in any wrapping; their own address does."""
    wide = guard("0.0.0.0/0 ::/0 100.64.0.0/10 192.0.0.0/24 fc00::/7")
    assert not DEFAULT.admits(address)
    assert not wide.admits(address)
    assert guard(address).admits(address)
    if "." in address:
        wrapped = [str(IPv6Address(wrap(int(IPv4Address(address))))) for wrap in WRAPS.values()]
        assert not any(wide.admits(one) for one in wrapped)
    assert not guard(address, deny=address).admits(address)


def test_one_metadata_address_opens_no_other() -> None:
    """Link-local is opened as far as it is named; metadata services not even by all of it."""
    one = guard("169.254.169.254")
    assert one.admits("::ffff:169.254.169.254")
    assert not one.admits("169.254.170.2")
    assert guard("169.254.0.0/16").admits("169.254.10.1")
    assert not guard("169.254.0.0/16").admits("169.254.169.254")
    assert not guard("169.254.170.0/24").admits("169.254.170.2")
    assert guard("169.254.170.2/32").admits("169.254.170.2")


SPELLINGS: Final = """
    127.0.0.1 127.0.0.1. 127.0.0.1.. 2130706433 2130706433. 017700000001 0x7f000001 0x7f000001.
    0X7F.1 0x7f.0.0.1 0x7f.1 0177.0.0.1 127.0.0.01 127.1 127.1. 127.0.1 0 0. 0x 0x. 00
    4294967296 1.2.3.4.5 256.1.1.1 a.1 a.0x7f a.0x 93.184.216.34. 1572395042 0x5db8d822 93.12114978
    １２７.０.０.１ ①②⑦.0.0.1 ①27.1 127。0。0。1 127．0．0．1 0ｘ7f.1
    [::1] [::] [0:0:0:0:0:0:0:1] [0000::0001] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1]
    [::ffff:0:127.0.0.1] [64:ff9b::127.0.0.1] [64:ff9b:1::8.8.8.8] [2002:7f00:1::] [fe80::1]
    [fe80::1%25lo] [fe80::1%lo] [::1%251] [2606:2800:220:1::1%251] [v1.fe80::1] [fec0::1] [ff02::1]
    [5f00::1] [3fff::1] 10.0.0.1 192.168.1.1 169.254.169.254 [fd00:ec2::254] 224.0.0.1
    255.255.255.255 100.100.100.200 168.63.129.16
    """.split()  # noqa: RUF001 - full-width, as IDNA folds it to ASCII
PUBLIC: Final = "93.184."  # how the public address begins that is in some of these spellings


@pytest.mark.parametrize("host", SPELLINGS)
def test_a_literal_is_refused_in_any_spelling(host: str) -> None:
    """Whatever some resolver might make of it, nothing is dialled; nor is a public address."""
    assert DEFAULT.refuses(URL(f"http://{host}/"))


@pytest.mark.parametrize(
    "host",
    [
        *SPELLINGS,
        *("%31%32%37.0.0.1", "127%2e0%2E0.1", "%30x7f.1", "127.0.0.1%2e", "%5b::1%5d", "[::%31]"),
        *("127.0.0.1%00.example", "127.0.0.1%2f.example", "a@127.0.0.1", "127.0.0.1\\@a.example"),
        *("127\u00ad.0.0.1", "127.0\u200b.0.1", "\u2060127.0.0.1", "127\uff610\uff610\uff611"),
    ],
)
def test_all_ways_in_read_a_host_alike(host: str) -> None:
    """The URL of a job, a Location and a link lead to the same host, or nowhere; and nothing that
    spells an address of this machine or its networks passes the guard on any way.
    """
    url, here = f"http://{host}/", "http://a.example/"
    found = [exact(url)] if check_url(url) is None else []
    with suppress(ValueError):
        found.append(resolve(URL(here), url))
    if link := Base(here).resolve(url):
        found.append(exact(link))
    assert len({each.raw_host for each in found}) <= 1
    for each in found:
        assert (each.raw_host or "").startswith(PUBLIC) or DEFAULT.refuses(each), each


def test_a_spelling_is_no_matter_of_case() -> None:
    """A URL that yarl was told to leave as it is keeps its capitals."""
    assert DEFAULT.refuses(URL("http://0X7F.1/", encoded=True))


@pytest.mark.parametrize(
    "host",
    """
    93.184.216.34 [2606:2800:220:1::1] [2606:2800:0220:0001:0:0:0:1] [64:ff9b::8.8.8.8]
    example.com example.com. a.1e5 1e100 0b1 0xg a.0xg 1.2.3.4.example 0x7f.example bücher.example
    127.0.0.1.nip.example xn--bcher-kva.example _dmarc.example 3com.example 7-11
    """.split(),
)
def test_names_and_public_literals_are_not_refused(host: str) -> None:
    """A name is judged where it is dialled, by what it resolves to."""
    assert DEFAULT.refuses(URL(f"http://{host}/")) is None


def test_all_that_is_wrong_is_named_at_once() -> None:
    """Host, port and address: an operator who allows one does not meet the next."""
    closed = Guard(FetchSettings(allow_hosts=("example.com",)))
    assert closed.refuses(URL("http://10.0.0.1:22/")) == (
        "10.0.0.1 is not among fetch.allow_hosts; port 22 is not among fetch.allow_ports; "
        "10.0.0.1 is not public and not among fetch.allow_networks"
    )
    assert DEFAULT.refuses(URL("http://[::1]:8000/")) == (
        "port 8000 is not among fetch.allow_ports; ::1 is not public and not among "
        "fetch.allow_networks"
    )
    assert DEFAULT.refuses_port_only(URL("http://example.com:22/"))
    assert not DEFAULT.refuses_port_only(URL("http://10.0.0.1:22/"))
    assert not closed.refuses_port_only(URL("http://other.example:22/"))
    assert not DEFAULT.refuses_port_only(URL("http://example.com/"))


@pytest.mark.parametrize(
    ("settings", "url", "reason"),
    [
        ({}, "http://example.com:22/", "port 22 is not among fetch.allow_ports"),
        ({}, "https://example.com:8443/", None),
        ({"allow_ports": (443,)}, "https://example.com/", None),
        ({"allow_ports": (443,)}, "http://example.com/", "port 80 is not among fetch.allow_ports"),
        ({"allow_ports": ("8000-8002",)}, "http://example.com:8000/", None),
        ({"allow_ports": ("8000-8002",)}, "http://example.com:8002/", None),
        ({"allow_ports": ("8000-8002",)}, "http://example.com:7999/", "port 7999"),
        ({"allow_ports": ("8000-8002",)}, "http://example.com:8003/", "port 8003"),
        ({"allow_ports": ("8000-8002", 80)}, "http://example.com/", None),
        ({"allow_ports": ()}, "http://example.com:22/", None),
        ({"deny_hosts": ("*.example.com",)}, "http://WWW.Example.com/", "deny_hosts"),
        ({"deny_hosts": ("*.example.com",)}, "http://www.example.com./", "deny_hosts"),
        ({"deny_hosts": ("*.example.com",)}, "http://example.com/", None),
        ({"deny_hosts": ("xn--bcher-kva.de",)}, "http://BÜCHER.de/", "deny_hosts"),
        ({"deny_hosts": ("93.184.216.34",)}, "http://93.184.216.34/", "deny_hosts"),
        ({"deny_hosts": ("2606::1",)}, "http://[2606::1]/", "deny_hosts"),
        ({"allow_hosts": ("example.com",)}, "http://example.com/", None),
        ({"allow_hosts": ("example.com",)}, "http://example.org/", "not among fetch.allow_hosts"),
        ({"allow_hosts": ("example.com",)}, "http://93.184.216.34/", "not among fetch.allow_hosts"),
        ({"allow_hosts": ("127.0.0.1",)}, "http://127.0.0.1/", "allow_networks"),
        (
            {"allow_hosts": ("*.example.com",), "deny_hosts": ("a.example.com",)},
            "http://a.example.com/",
            "a.example.com is among fetch.deny_hosts",
        ),
        ({}, "http://10.0.0.1/", "10.0.0.1 is not public and not among fetch.allow_networks"),
        ({"allow_networks": ("10.0.0.0/8",)}, "http://10.0.0.1/", None),
        ({"allow_networks": ("127.0.0.0/8",)}, "http://127.1/", "usual form"),
        ({"deny_networks": ("93.0.0.0/8",)}, "http://93.1.1.1/", "deny_networks"),
        ({"allow_networks": ("0.0.0.0/0",)}, "http://169.254.169.254/", "have to name it"),
    ],
)
def test_refusals_name_the_setting(settings: dict[str, Any], url: str, reason: str | None) -> None:
    """An operator reads in the result which setting to change."""
    refused = Guard(FetchSettings(**settings)).refuses(URL(url))
    assert refused is reason if reason is None else reason in (refused or "")


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, ("127.0.0.1", 80)),
        (socket.AF_INET, ("localhost", 80)),
        (socket.AF_INET6, ("::1", 80, 0, 0)),
        (socket.AF_INET6, ("fe80::1%1", 80, 0, 1)),
        (socket.AF_INET6, ("::ffff:10.0.0.1", 80, 0, 0)),
    ],
)
def test_no_socket_is_made_for_a_blocked_address(family: int, address: tuple[Any, ...]) -> None:
    """Blocked is raised instead, without the address, and no descriptor is left open."""
    before = descriptors()
    with pytest.raises(Blocked) as caught:
        DEFAULT.socket((family, socket.SOCK_STREAM, 6, "", address))
    assert descriptors() == before
    assert address[0] not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def descriptors() -> set[str]:
    return {
        str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()
    }


def test_an_admitted_address_gets_a_plain_socket() -> None:
    """Of the kind asked for, and non-blocking, as the event loop needs it."""
    info = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2606:2800:220:1::1", 443, 0, 0))
    with DEFAULT.socket(info) as made:
        assert (made.family, made.type) == (socket.AF_INET6, socket.SOCK_STREAM)
        assert not made.getblocking()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_connector_dials_nothing_that_is_blocked(site: Site, host: str) -> None:
    """A literal and a name both end at the socket factory, and the site sees no connection."""
    url = site.at("/", page()).replace("127.0.0.1", host)
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        await status(DEFAULT, url)
    assert isinstance(caught.value.os_error, Blocked)
    assert site.connections == 0
    assert await status(guard("127.0.0.0/8"), url) == 200


async def status(by: Guard, url: str) -> int:
    connector = aiohttp.TCPConnector(socket_factory=by.socket, family=socket.AF_INET)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        return answer.status


def test_judgements_are_remembered_within_bounds() -> None:
    """Strangers choose the addresses, so they choose how many there are."""
    busy = guard()
    for number in range(3 * MAX_CACHED_ADDRESSES):
        busy.admits(str(IPv4Address(0x5DB80000 + number)))
    assert busy.remembered == MAX_CACHED_ADDRESSES
