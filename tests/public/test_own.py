"""Tests of the machine's own public addresses: refused by default, whatever a firewall lets in.

May touch: the namespaces' own addresses; one of them moves to the scraper's machine.
Must never: run outside of them.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from scraperd.config.settings import Config
from scraperd.contract import Failure
from scraperd.fetch.message import Response
from scraperd.wiring import fetcher_of
from tests.public.conftest import PublicSite, fetch, hops, is_blocked
from tests.rig import public
from tests.rig.settings import configured
from tests.rig.sites.site import page

if TYPE_CHECKING:
    from tests.public.conftest import Canary
    from tests.rig.sites.dns import Nameserver

LITERALS = [f"[{one}]" if ":" in one else one for one in public.ALL_OWN]
WRAPPED = [
    form.format(IPv4Address(one))
    for one in public.ALL_OWN
    if ":" not in one
    for form in ("[::ffff:{}]", "[64:ff9b::{}]")
]
OWN = "is an address of this machine and not among fetch.allow_networks"
NAMES = ("own.test", "own2.test")


@pytest.mark.usefixtures("nothing_heard")
async def test_no_address_of_this_machine_is_fetched_from() -> None:
    """Main, secondary, another interface's, a local route's; IPv4, IPv6, mapped and NAT64."""
    plain = [f"http://{host}/" for host in LITERALS]
    answers = await fetch(Config(), *plain, *(f"http://{host}/" for host in WRAPPED))
    assert {url for url, answer in answers.items() if not is_blocked(answer)} == set()
    for answer in answers.values():
        assert isinstance(answer, Failure)
        assert "not among fetch.allow_networks" in answer.message
    said = [answer.message for answer in map(answers.get, plain) if isinstance(answer, Failure)]
    assert [message.partition(" ")[2] for message in said] == [OWN] * len(plain)


@pytest.mark.usefixtures("nothing_heard")
async def test_no_name_leads_to_an_address_of_this_machine(names: Nameserver) -> None:
    """The message says whose the address is and names the setting, but not the address."""
    config = configured(fetch__nameservers=(names.address,))
    (mapped,) = (await fetch(config, "http://own3.test/")).values()
    assert is_blocked(mapped)  # as any IPv6 form of an IPv4 address
    answers = await fetch(config, *(f"http://{name}/" for name in NAMES))
    assert {url for url, answer in answers.items() if not is_blocked(answer)} == set()
    for answer in answers.values():
        assert isinstance(answer, Failure)
        assert "one of this machine's own, and not among fetch.allow_networks" in answer.message
        assert not any(address in answer.message for address in public.ALL_OWN)


@pytest.mark.usefixtures("nothing_heard")
async def test_the_neighbours_are_fetched_from(site: PublicSite, names: Nameserver) -> None:
    """Sites in the same network, and a name that has an address of ours beside a site's."""
    config = configured(fetch__nameservers=(names.address,))
    async with PublicSite(public.OTHER_SITE) as other, PublicSite(public.SITE_V6) as third:
        for one in (other, third):
            one.at("/", page())
        hosts = (public.SITE, public.OTHER_SITE, f"[{public.SITE_V6}]", "mixed-own.test")
        answers = await fetch(config, *(f"http://{host}/" for host in hosts))
    assert [isinstance(answer, Response) for answer in answers.values()] == [True] * 4, answers


@pytest.mark.parametrize("network", ["alone", "whole"])
async def test_allow_networks_opens_an_address_of_this_machine(
    canary: Canary, names: Nameserver, network: str
) -> None:
    """Alone or in a network of its own, by address, mapped, and by name; no other address."""
    whole = ("93.184.216.0/24", "2606:2800:220:1::/64")
    allowed = whole if network == "whole" else (public.OWN, public.OWN_V6)
    config = configured(fetch__nameservers=(names.address,), fetch__allow_networks=allowed)
    good = (public.OWN, f"[{public.OWN_V6}]", f"[::ffff:{public.OWN}]", "own.test", "own3.test")
    answers = await fetch(config, *(f"http://{host}/" for host in (*good, public.OWN_OTHER)))
    *opened, other = answers.values()
    assert [isinstance(answer, Response) for answer in opened] == [True] * len(good), answers
    assert is_blocked(other)
    assert canary.connections >= len(good)  # of a name, two addresses may be tried
    second = await fetch(config, f"http://{public.OWN_SECOND}/")
    assert [is_blocked(answer) for answer in second.values()] == [allowed != whole]


async def test_deny_networks_wins() -> None:
    """What is allowed and denied is denied, also if it is this machine's own."""
    config = configured(fetch__allow_networks=(public.OWN,), fetch__deny_networks=(public.OWN,))
    (answer,) = (await fetch(config, f"http://{public.OWN}/")).values()
    assert isinstance(answer, Failure)
    assert "deny_networks" in answer.message


async def test_an_address_that_the_machine_gets_later_is_refused(names: Nameserver) -> None:
    """The daemon runs on, what it knows of the address and of its name is kept, and it is asked."""
    urls = (f"http://{public.MOVING}/", "http://moving.test/")
    names.records["moving.test"] = [("A", public.MOVING, 3600)]
    async with (
        PublicSite(public.MOVING) as site,
        fetcher_of(configured(fetch__nameservers=(names.address,))) as fetcher,
    ):
        site.at("/", page(headers=["Connection: close"]))
        before = await hops(fetcher, *urls)
        assert [isinstance(answer, Response) for answer in before.values()] == [True] * 2, before
        await asyncio.to_thread(public.take, public.MOVING)  # pyroute2 runs a loop of its own
        async with PublicSite("0.0.0.0") as own:
            after = await hops(fetcher, *urls)
        assert [is_blocked(answer) for answer in after.values()] == [True] * 2, after
        assert own.connections == 0
        assert site.connections == 2
    assert names.asked("moving.test") == 1
