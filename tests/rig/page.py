"""What tests of the rooms of a page share: the event loop of production, a site, a way to a result.

May touch: the rig, pytest's temporary folders.
Must never: let an error pass that only the event loop or the garbage collector heard of.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

import jsonschema
import msgspec
import pytest
import uvloop

from scraperd.base.clocks import SYSTEM
from scraperd.config.settings import Config
from scraperd.contract import Failure, Job, Result, decode_job, decode_result, encode, schema
from scraperd.extract.compile import compile_rules
from scraperd.politeness.admission import NotYet
from scraperd.scrape.request import Target
from scraperd.scrape.result import Label, result_of
from scraperd.wiring import fetcher_of, scraper_of
from tests.rig.settings import configured
from tests.rig.sites.certificates import Certificates
from tests.rig.sites.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from scraperd.config.settings import Config
    from scraperd.fetch.client import Fetcher
    from scraperd.fetch.message import Response

    Scrape: TypeAlias = Callable[..., Awaitable[Result]]

__all__ = [  # what a conftest takes
    "certificates",
    "clock",
    "config",
    "fetcher",
    "no_loose_ends",
    "pytest_asyncio_loop_factories",
    "scrape",
    "site",
    "trusted",
]
_RESULT = jsonschema.Draft202012Validator(schema(Result))


def failed(answer: Response | Failure) -> Response | Failure:
    """What went wrong with an answer or with its body; the answer itself if nothing did."""
    return answer if isinstance(answer, Failure) else answer.trouble or answer


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon runs on uvloop, and so do these tests: the two loops differ in how they fail."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def no_loose_ends() -> AsyncIterator[None]:
    """Fail a test that leaves an exception nobody retrieved, or something unclosed."""
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    yield
    gc.collect(1)
    await asyncio.sleep(0)
    assert heard == []


@pytest.fixture
async def site(no_loose_ends: None) -> AsyncIterator[Site]:
    """A site of the test's own."""
    async with Site() as site:
        yield site


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A good certificate and every bad one."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def trusted(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """The same, and this test's clients trust their authority, as an operator would make them."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    return certificates


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


def loopback(**settings: Any) -> Config:
    """Settings of a client that may reach these tests' sites, which asks for no robots.txt."""
    return configured(
        **{
            "fetch__allow_networks": ("127.0.0.0/8", "::1/128"),
            "fetch__allow_ports": (),
            "politeness__robotstxt_obey": False,
            **settings,
        }
    )


@pytest.fixture
def config() -> Config:
    """Small limits; a test module may have its own."""
    return loopback(fetch__download_timeout=2, fetch__connect_timeout=1, fetch__max_redirects=5)


@pytest.fixture
async def fetcher(config: Config, no_loose_ends: None) -> AsyncIterator[Fetcher]:
    """One session, as all jobs of a process share it."""
    async with fetcher_of(config) as fetcher:
        yield fetcher


@pytest.fixture
def scrape(config: Config, fetcher: Fetcher) -> Scrape:
    """Called with a URL and other fields of a job, it returns the job's Result."""
    return scraping(config, fetcher)


def label(job: Job) -> Label:
    """Whose result it is, in these tests."""
    return Label("job", 1, "test", job.url, job.meta)


def scraping(config: Config, fetcher: Fetcher) -> Scrape:
    """Run jobs as the daemon does, from their JSON to the result's, which is checked each time.

    Each by a scraper that remembers nothing of the others: no host is slowed down for it.
    """

    async def run(url: str, **fields: Any) -> Result:
        job = decode_job(msgspec.json.encode({"url": url, **fields}))
        assert isinstance(job, Job), job
        rules = compile_rules(bytes(job.extract)) if isinstance(job.extract, msgspec.Raw) else None
        async with scraper_of(config, fetcher, SYSTEM) as scraper:
            with closing(scraper.claim()) as claim:
                ended = await scraper.scrape(Target.of(job), rules, claim)
        assert not isinstance(ended, NotYet)
        total = ended.facts.fetch_time + ended.facts.extract_time
        encoded = encode(result_of(label(job), ended, ended.facts.timings(total)))
        _RESULT.validate(msgspec.json.decode(encoded))
        return decode_result(encoded)

    return run
