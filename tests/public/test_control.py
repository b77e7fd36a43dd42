"""What shows that the other tests here could fail: public sites are reached, and so is the canary.

May touch: the namespace's own addresses.
Must never: run outside of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.public.conftest import PublicSite
from tests.rig import public
from tests.rig.sites.site import page

if TYPE_CHECKING:
    from tests.public.conftest import Canary, Command


@pytest.mark.parametrize("host", [public.SITE, "public.test"])
async def test_a_page_on_a_public_address_is_fetched(
    scrape: Command, site: PublicSite, host: str
) -> None:
    """With the defaults, by its address and by its name, after its robots.txt."""
    result = await scrape(f"http://{host}/")
    assert (result["status"], result["http_status"]) == ("ok", 200), result
    assert site.seen("/")


@pytest.mark.parametrize("host", [f"[{public.SITE_V6}]", "public6.test"])
async def test_a_page_on_a_public_ipv6_address_is_fetched(scrape: Command, host: str) -> None:
    """The same over IPv6."""
    async with PublicSite(public.SITE_V6) as site:
        site.at("/", page())
        result = await scrape(f"http://{host}/")
    assert result["status"] == "ok", result


async def test_the_canary_is_reached_if_the_settings_allow_it(
    scrape: Command, canary: Canary
) -> None:
    """It does listen, and it does count."""
    settings = {"fetch__allow_networks": ["127.0.0.0/8", public.METADATA]}
    for host in ("loopback.test", public.METADATA):
        before = canary.connections
        result = await scrape(f"http://{host}/", **settings)
        assert result["status"] == "ok", result
        assert canary.connections > before
