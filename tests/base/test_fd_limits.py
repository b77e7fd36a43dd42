"""No file descriptors left: no site is blamed, no job is lost, nothing spins, and it passes.

May touch: the limit of this process and of daemons it starts, always put back; loopback sites.
Must never: leave a process without descriptors.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from scraperd.base.fd_limits import (
    PATIENCE,
    OutOfDescriptors,
    is_short,
    none_left,
    pauses,
    raise_limit,
    with_descriptor,
)
from scraperd.config.settings import Config
from scraperd.contract import Failure
from scraperd.extract.document import ExtractRequest
from scraperd.fetch.message import Request, Response
from scraperd.ops.capacity import HELPER, OTHERS, fit, needed
from scraperd.wiring import extractor_of, fetcher_of
from tests.rig.daemon import Daemon
from tests.rig.page import loopback
from tests.rig.settings import configured
from tests.rig.sites.dns import Nameserver
from tests.rig.sites.site import page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel
    from tests.rig.sites.site import Site

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
HURRY = {"fetch__connect_timeout": 0.4}  # half of which a fetch waits for a descriptor
QUESTION = ExtractRequest("http://h/", "text/html", True, True, True, False, False, False, None)
LARGE = b"<p>x</p>" * 50_000  # more tags than are parsed on the loop: it takes a helper


def leave(pid: int, count: int = 0) -> None:
    """Let a process open so many more: what counts is the number of the next descriptor."""
    used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    free = [number for number in range(max(used) + count + 2) if number not in used]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[count], HARD))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def put_back(pid: int) -> None:
    """Let it open as many as ever."""
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (HARD, HARD))


@contextmanager
def none_here() -> Iterator[None]:
    """This process can open nothing, though a thread of it closes something meanwhile.

    The numbers below the limit are the standard streams', which stay open.
    """
    assert all(map(_is_open, range(3)))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, HARD))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def cpu(pid: int) -> float:
    """Seconds of processor time so far (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def get(url: str, proxy: str = "") -> Request:
    return Request("GET", URL(url), {}, None, 5.0, 1000, proxy=proxy)


# --- the wait itself


async def test_the_wait_ends_with_the_first_trial_that_works() -> None:
    """Each trial that lacks a descriptor makes room first; the answer of the next is returned."""
    errors, told = [OSError(errno.EMFILE, "no"), OSError(errno.ENFILE, "no")], []

    async def attempt() -> str:
        if errors:
            raise errors.pop(0)
        return "made"

    assert await with_descriptor(attempt, make_room=lambda: told.append("room")) == "made"
    assert told == ["room", "room"]


async def test_an_error_of_another_kind_is_raised_at_once() -> None:
    """What is not a lack of descriptors is not tried again."""
    trials = []

    async def attempt() -> None:
        trials.append(1)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    with pytest.raises(ConnectionRefusedError):
        await with_descriptor(attempt)
    assert len(trials) == 1


async def test_the_wait_ends_when_its_patience_does() -> None:
    """OutOfDescriptors names its cause, and there was a trial after the last pause."""
    trials = []

    async def attempt() -> None:
        trials.append(1)
        raise OSError(errno.EMFILE, "no")

    with pytest.raises(OutOfDescriptors) as raised:
        await with_descriptor(attempt, 0.1)
    assert isinstance(raised.value.__cause__, OSError)
    assert len(trials) == 1 + len(list(pauses(0.1)))


# --- one fetch, one page


async def test_a_fetch_without_a_descriptor_is_no_failure_of_the_site(site: Site) -> None:
    """OutOfDescriptors is raised, its words name the remedy, and the next fetch is fine."""
    url = site.at("/", page(b"here"))
    async with fetcher_of(loopback(**HURRY)) as fetcher:
        with none_here(), pytest.raises(OutOfDescriptors, match="LimitNOFILE"):
            await fetcher.fetch(get(url))
        assert isinstance(await fetcher.fetch(get(url)), Response)


async def test_a_name_without_a_descriptor_is_no_failure_of_the_nameserver(site: Site) -> None:
    """c-ares reports that no nameserver can be reached; that is not believed, and not kept."""
    url = site.at("/", page(b"here")).replace("127.0.0.1", "a.test")
    async with (
        Nameserver({"a.test": [("A", "127.0.0.1", 60)]}) as server,
        fetcher_of(loopback(**HURRY, fetch__nameservers=(server.address,))) as fetcher,
    ):
        with none_here(), pytest.raises(OutOfDescriptors):
            await fetcher.fetch(get(url))
        assert isinstance(await fetcher.fetch(get(url)), Response)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_is_not_blamed_either(scheme: str, site: Site) -> None:
    """Its library hides the errno, so it is tried whether a socket can be had."""
    proxies = {"exit": f"{scheme}://127.0.0.1:{site.port}"}
    async with fetcher_of(loopback(**HURRY, proxies=proxies)) as fetcher:
        with none_here(), pytest.raises(OutOfDescriptors):
            await fetcher.fetch(get(site.url(), "exit"))


async def test_a_fetch_waits_for_a_descriptor(site: Site) -> None:
    """One that is there soon is enough; the site sees one request, a little later."""
    url = site.at("/", page(b"here"))
    async with fetcher_of(loopback()) as fetcher:
        with none_here():
            fetch = asyncio.create_task(fetcher.fetch(get(url)))
            await asyncio.sleep(0.2)
            assert not fetch.done()
        assert isinstance(await fetch, Response)
    assert len(site.visits) == 1


async def test_idle_connections_give_way(site: Site) -> None:
    """A connection kept for later is closed for one that is needed now."""
    url = site.at("/", page(b"here"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(5)
        async with fetcher_of(loopback()) as fetcher:
            await fetcher.fetch(get(url))
            with none_here():
                fetch = asyncio.create_task(
                    fetcher.fetch(get(f"http://127.0.0.1:{other.getsockname()[1]}/"))
                )
                await site.until(lambda site: site.open == 0)
            accepted, _ = await asyncio.to_thread(other.accept)
            accepted.sendall(page(b"there"))
            assert isinstance(await fetch, Response)
            accepted.close()


async def test_a_refusal_is_still_the_sites() -> None:
    """With descriptors to spare, what fails is a failure, and at once."""
    async with fetcher_of(loopback()) as fetcher:
        failure = await fetcher.fetch(get("http://127.0.0.1:1/"))
    assert isinstance(failure, Failure)
    assert failure.message == "127.0.0.1:1: connection refused"
    assert not none_left()
    assert not is_short(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))


@pytest.mark.usefixtures("no_loose_ends")
async def test_a_helper_is_waited_for() -> None:
    """A page that needs a helper waits for the pipes of one, or comes back: no error of ours."""
    async with extractor_of(Config()) as extractor:
        with none_here():
            with pytest.raises(OutOfDescriptors):
                await extractor.extract(QUESTION, LARGE, None, "h")
            taking = asyncio.create_task(extractor.extract(QUESTION, LARGE, None, "h"))
            await asyncio.sleep(0.2)
            assert not taking.done()
        assert (await taking).extracted.failure is None


# --- the daemon


def test_a_daemon_without_descriptors_loses_and_blames_nothing(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Jobs are snoozed in the same attempt, at no cost of CPU; with descriptors all are done."""
    with Daemon(broker_url, prefix, log__level="debug").ready() as daemon:
        leave(daemon.pid)
        before = cpu(daemon.pid)
        idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20)])
        daemon.wait_for_line('"verdict":"snooze"', PATIENCE + 10)
        assert cpu(daemon.pid) - before < 1.0
        assert dispatcher.depth("results") == dispatcher.depth("dead") == 0
        put_back(daemon.pid)
        results = dispatcher.results(20)
        assert {r["id"] for r in results} == set(idents)
        assert {(r["status"], r["attempt"]) for r in results} == {("ok", 1)}
        assert daemon.drain() == 0
    assert daemon.logged("internal_error") == daemon.logged("broker_lost") == []


def test_a_few_descriptors_are_shared(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Forty fetches that want to run at once run four at a time; none fails, none is an attempt
    more. One that got no descriptor for three seconds, on a busy machine, is snoozed.
    """
    with Daemon(broker_url, prefix, log__level="debug", concurrency=40).ready() as daemon:
        leave(daemon.pid, 4)
        dispatcher.publish_many([hostel.url(f"/size/{100_000 + n}") for n in range(40)])
        results = dispatcher.results(40)
        put_back(daemon.pid)
    assert {(r["status"], r["attempt"]) for r in results} == {("ok", 1)}
    assert {line["verdict"] for line in daemon.logged("job")} - {"snooze"} == {"done"}
    assert hostel.most <= 4


# --- how many it takes


def test_what_a_configuration_needs() -> None:
    """Connections, a second one for each fetch that dials, the helpers' pipes and the rest."""
    config = configured(concurrency=100, fetch__max_connections=300, sandbox__processes=4)
    assert needed(config) == 300 + 100 + 4 * HELPER + OTHERS
    twice = configured(concurrency=100, sandbox__processes=4)
    assert needed(twice) == 200 + 100 + 4 * HELPER + OTHERS
    fewer = configured(concurrency=100, fetch__max_connections=10, sandbox__processes=4)
    assert needed(fewer) == 100 + 100 + 4 * HELPER + OTHERS  # those in use are never closed


@pytest.mark.parametrize("limit", [100, 128, 256, 512, 1024, 4096])
@pytest.mark.parametrize("connections", [0, 10, 300, 100_000])
def test_a_configuration_that_fits(limit: int, connections: int) -> None:
    """What is too much is lowered until it fits, first the connections; what fits is untouched."""
    config = configured(concurrency=100, fetch__max_connections=connections, sandbox__processes=4)
    fitted = fit(config, limit)
    assert needed(fitted) <= limit
    assert fitted.concurrency == 100 or fitted.fetch.max_connections <= fitted.concurrency + 1
    assert (fitted == config) == (needed(config) <= limit)


def test_even_the_lowest_limit_leaves_one_fetch() -> None:
    """No limit makes a configuration without a slot or a connection."""
    fitted = fit(Config(), 1)
    assert (fitted.concurrency, fitted.fetch.max_connections) == (1, 1)


def test_the_soft_limit_is_raised() -> None:
    """As far as it goes without a privilege."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
    try:
        assert raise_limit() == before[1] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
