"""What the tests inside the namespace share: a public site, names, a canary on private addresses.

May touch: ports 80 and 443 of the namespaces that tests/rig/public.py makes.
Must never: be collected outside of it; tests/e2e/test_public.py runs these tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
import uvloop
from yarl import URL

from scraperd.contract import Failure
from scraperd.fetch.message import Request, Response
from scraperd.wiring import fetcher_of
from tests.rig import public
from tests.rig.daemon import environment
from tests.rig.sites.dns import Nameserver
from tests.rig.sites.site import Site, page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from scraperd.config.settings import Config
    from scraperd.fetch.client import Fetcher

if public.INSIDE not in os.environ:
    collect_ignore_glob = ["test_*.py"]

BLOCKED: Final = "blocked_address"
FORBIDDEN: Final = (
    *("127.0.0.1", "::1", public.METADATA, public.PRIVATE, public.PRIVATE_V6),
    *public.ALL_OWN,
)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon's own event loop."""
    return {"uvloop": uvloop.new_event_loop}


class PublicSite(Site):
    """A site on an address and a port of one's choice."""

    def __init__(self, address: str, port: int = 80) -> None:
        super().__init__(host=f"[{address}]" if ":" in address else address)
        self._address = address
        self.port = port

    async def __aenter__(self) -> Self:
        listening = public.listen(self._address, self.port)
        self._server = await asyncio.start_server(self._serve, sock=listening)
        return self


class Canary:
    """Listens where nothing may connect to."""

    def __init__(self) -> None:
        self.sites = [PublicSite(address, port) for address in FORBIDDEN for port in (80, 443)]
        for site in self.sites:
            site.at("/", page(b"<title>secret</title>"))

    @property
    def connections(self) -> int:
        return sum(site.connections for site in self.sites)


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    """On loopback, private addresses, the machine's own, and where a metadata service would be."""
    async with AsyncExitStack() as stack:
        canary = Canary()
        for site in canary.sites:
            await stack.enter_async_context(site)
        yield canary


@pytest.fixture
async def nothing_heard(canary: Canary) -> AsyncIterator[None]:
    """Whatever a test does that asks for this, the canary sees no connection."""
    yield
    assert [site.url() for site in canary.sites if site.connections] == []


async def fetch(config: Config, *urls: str) -> dict[str, Response | Failure]:
    """Each URL's one hop, by one Fetcher, whatever the decoding of a job would say to it."""
    async with fetcher_of(config) as fetcher:
        return await hops(fetcher, *urls)


async def hops(fetcher: Fetcher, *urls: str) -> dict[str, Response | Failure]:
    """The same, by a Fetcher of one's own."""
    requests = [Request("GET", URL(url), {}, None, 5.0, 1 << 20) for url in urls]
    answers = await asyncio.gather(*(fetcher.fetch(one) for one in requests))
    return dict(zip(urls, answers, strict=True))


def is_blocked(answer: Response | Failure) -> bool:
    return isinstance(answer, Failure) and answer.kind == BLOCKED


@pytest.fixture
async def site() -> AsyncIterator[PublicSite]:
    """A site on a public address; it has no robots.txt."""
    async with PublicSite(public.SITE) as site:
        site.at("/", page(b"<title>public</title>"))
        yield site


@pytest.fixture
async def names() -> AsyncIterator[Nameserver]:
    """Names that lead where they must not, besides good ones."""
    records = {
        "public.test": [("A", public.SITE, 60)],
        "public6.test": [("AAAA", public.SITE_V6, 60)],
        "loopback.test": [("A", "127.0.0.1", 60)],
        "loopback6.test": [("AAAA", "::1", 60)],
        "any.test": [("A", "0.0.0.0", 60)],
        "mapped.test": [("AAAA", "::ffff:127.0.0.1", 60)],
        "metadata.test": [("A", public.METADATA, 60)],
        "private.test": [("A", public.PRIVATE, 60), ("AAAA", public.PRIVATE_V6, 60)],
        "alias.test": [("CNAME", "loopback.test.", 60)],
        "own.test": [("A", public.OWN, 60), ("AAAA", public.OWN_V6, 60)],
        "own2.test": [("A", public.OWN_SECOND, 60), ("AAAA", public.OWN_SECOND_V6, 60)],
        "own3.test": [("AAAA", f"::ffff:{public.OWN}", 60)],
        "mixed-own.test": [("A", public.OWN, 60), ("A", public.SITE, 60)],
        "mixed.test": [("A", "127.0.0.1", 60), ("A", public.SITE, 60), ("AAAA", "::1", 60)],
    }
    async with Nameserver(records) as names:
        yield names


class Command:
    """`scraperd scrape`, with the defaults but for the nameserver."""

    def __init__(self, names: Nameserver) -> None:
        self._names = names

    async def __call__(self, url: str, **settings: Any) -> dict[str, Any]:
        """The result of one URL; `settings` are of scraperd's configuration."""
        settings = {"fetch__nameservers": [self._names.address], **settings}
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "scraperd", "scrape", "--compact", url),
            env=environment(settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await child.communicate()
        assert not err, err.decode()
        result: dict[str, Any] = json.loads(out)
        return result


@pytest.fixture
def scrape(names: Nameserver) -> Command:
    """Called with a URL, it returns the result as the command line prints it."""
    return Command(names)
