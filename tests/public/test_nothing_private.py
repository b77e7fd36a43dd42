"""Tests of the guard as it ships: by no way does a stranger's URL lead to a private address.

May touch: the namespace's own addresses.
Must never: run outside of it, or open a network in `allow_networks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from scraperd.config.settings import Config
from scraperd.contract import Failure
from scraperd.fetch.guard import Blocked
from scraperd.fetch.protocol import Target
from scraperd.wiring import fetcher_of
from tests.public.conftest import BLOCKED, fetch, is_blocked
from tests.rig import public
from tests.rig.settings import configured
from tests.rig.sites.site import page, redirect

if TYPE_CHECKING:
    from tests.public.conftest import Command, PublicSite
    from tests.rig.sites.dns import Nameserver

pytestmark = pytest.mark.usefixtures("nothing_heard")


async def test_no_spelling_of_an_address_gets_through() -> None:
    """Dotted, decimal, hexadecimal, octal, short, full-width, IPv6 with IPv4 inside."""
    hosts = """
        127.0.0.1 127.0.0.1. 2130706433 0x7f000001 0x7f.1 0177.0.0.1 127.1 0 0.0.0.0 127.255.0.1
        １２７.０.０.１ ①②⑦.0.0.1 [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1]
        [64:ff9b::7f00:1] [2002:7f00:1::] 169.254.169.254 2852039166 0xa9fea9fe 169.254.43518
        [::ffff:169.254.169.254] 10.0.0.1 10.1 167772161 [fd00:ec2::254] [fe80::1%25lo]
    """.split()  # noqa: RUF001 - full-width, as IDNA folds it to ASCII
    urls = [f"{scheme}://{host}/" for host in hosts for scheme in ("http", "https")]
    answers = await fetch(Config(), *urls)
    assert {url for url, answer in answers.items() if not is_blocked(answer)} == set()


async def test_no_name_leads_to_a_private_address(names: Nameserver) -> None:
    """A record, AAAA record, alias and the hosts file are judged by what they lead to."""
    urls = [f"http://{name}/" for name in names.records if not name.startswith(("public", "mixed"))]
    config = configured(fetch__nameservers=(names.address,))
    answers = await fetch(config, *urls, "http://localhost/", "http://localhost./")
    assert {url for url, answer in answers.items() if not is_blocked(answer)} == set()
    shown = " ".join(answer.message for answer in answers.values() if isinstance(answer, Failure))
    assert not any(secret in shown for secret in ("127.0.0.1", "::1", "169.254", "10.0.0", "ec2"))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", public.METADATA),
        *(public.OWN, public.OWN_SECOND, f"[{public.OWN_V6}]", f"[::ffff:{public.OWN}]"),
    ],
)
async def test_the_dial_itself_is_guarded(host: str) -> None:
    """The last line: a literal that nobody looked at before, and that no resolver ever sees."""
    target = Target(URL(f"http://{host}/"))
    async with fetcher_of(Config()) as fetcher:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await fetcher.connectors[""].lend(target, aiohttp.ClientTimeout(total=5))
    assert isinstance(caught.value.os_error, Blocked)


@pytest.mark.parametrize(
    "target",
    [
        "http://[::ffff:7f00:1]/",
        "//169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "https://loopback.test/",
        f"http://{public.OWN}/",
    ],
)
async def test_no_redirect_leads_to_a_private_address(
    scrape: Command, site: PublicSite, target: str
) -> None:
    """Each hop is judged anew."""
    site.at("/away", redirect(target))
    result = await scrape(f"http://{public.SITE}/away")
    assert result["error"]["kind"] == BLOCKED, result
    assert site.seen("/away")


async def test_a_name_with_a_private_address_too_is_fetched_from_the_public_one(
    scrape: Command, site: PublicSite
) -> None:
    """Happy Eyeballs gets no private address to try."""
    result = await scrape("http://mixed.test/")
    assert result["status"] == "ok", result
    assert site.seen("/")


async def test_a_name_that_changes_its_mind_gets_nowhere(
    scrape: Command, site: PublicSite, names: Nameserver
) -> None:
    """DNS rebinding: a public address for the first fetch, then loopback, with a TTL of 0.

    A fetch asks twice where nothing is kept: for the address's limit, and to dial.
    """
    here, loopback = [("A", public.SITE, 0)], [("A", "127.0.0.1", 0)]
    names.sequences["rebind.test"] = [here, here, loopback]
    site.at("/first", redirect("/second", headers=["Connection: close"]))
    site.at("/second", page(b"never asked for"))
    result = await scrape(
        "http://rebind.test/first", fetch__dns_cache_ttl=0, politeness__robotstxt_obey=False
    )
    assert result["error"]["kind"] == BLOCKED, result
    assert names.asked("rebind.test") >= 3
    assert site.seen("/first")
    assert not site.seen("/second")


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1/robots.txt", "http://metadata.test/", "http://own.test/"]
)
async def test_robots_txt_may_not_redirect_to_a_private_address(
    scrape: Command, site: PublicSite, target: str
) -> None:
    """It is fetched under the same guard as the page."""
    site.at("/robots.txt", redirect(target))
    await scrape(f"http://{public.SITE}/", politeness__robotstxt_obey=True)
    assert site.seen("/robots.txt")
