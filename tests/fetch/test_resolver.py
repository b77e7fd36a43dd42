"""Tests of the resolver against a real nameserver, one that can do everything wrong.

May touch: loopback sockets, the resolver's clock, variables that c-ares reads.
Must never: ask a nameserver of the machine, or wait for a TTL to pass.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from scraperd.config.tables import FetchSettings
from scraperd.fetch.guard import Blocked, Guard
from scraperd.fetch.resolver import (
    ABSENT_TTL,
    MAX_ADDRESSES,
    MAX_CACHED_NAMES,
    MAX_CHANNEL_AGE,
    MIN_CHANNEL_AGE,
    MIN_TTL,
    TROUBLE_TTL,
    LookupFailed,
    Resolver,
)
from scraperd.fetch.resolver import PATIENCE as REAL_PATIENCE
from tests.rig.clocks.lived import lived
from tests.rig.ports import free_port
from tests.rig.sites.dns import SPOOFED, Manner, Nameserver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.rig.page import Clock

PATIENCE = 0.4  # seconds; c-ares waits 0.25 at least
LOOPBACK = ("127.0.0.0/8", "::1/128")
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


async def test_a_channel_is_whole_however_memory_is_used() -> None:
    """What c-ares is told at its start must live until it has read it: here the collector runs all
    the time, and freed memory is used again at once.
    """
    kept: list[bytes] = []

    def reuse(phase: str, _info: object) -> None:
        if phase == "start":
            kept[:] = [bytes([n % 255 + 1]) * (n % 39 + 1) for n in range(200)]

    before = gc.get_threshold()
    gc.callbacks.append(reuse)
    gc.set_threshold(1)
    try:
        for _ in range(40):
            resolver = resolver_for()
            assert await resolver.resolve("localhost", 80)
            await resolver.close()
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(reuse)


@pytest.fixture
async def server(no_loose_ends: None) -> AsyncIterator[Nameserver]:
    """A nameserver that knows `a.test`."""
    async with Nameserver({"a.test": [("A", "127.0.0.1", 60)]}) as server:
        yield server


def resolver_for(
    *addresses: str,
    clock: Callable[[], float] = time.monotonic,
    patience: float = PATIENCE,
    **settings: Any,
) -> Resolver:
    own = FetchSettings(**{"nameservers": addresses, "allow_networks": LOOPBACK, **settings})
    return Resolver(own, Guard(own), clock=clock, patience=patience)


@pytest.fixture
async def resolver(server: Nameserver, clock: Clock) -> AsyncIterator[Resolver]:
    """A resolver that asks `server`, and whose time stands still."""
    resolver = resolver_for(server.address, clock=clock)
    yield resolver
    await resolver.close()


async def found(resolver: Resolver, name: str, **options: Any) -> list[str]:
    return [result["host"] for result in await resolver.resolve(name, 80, **options)]


async def failure(resolver: Resolver, name: str) -> LookupFailed:
    with pytest.raises(LookupFailed) as caught:
        await resolver.resolve(name, 80)
    return caught.value


# --- answers


async def test_both_families(server: Nameserver, resolver: Resolver) -> None:
    """A and AAAA are asked for, and come as aiohttp wants them, with the port and IPv6 first."""
    server.records["both.test"] = [("A", "127.0.0.1", 60), ("AAAA", "::1", 60)]
    six, four = await resolver.resolve("both.test", 8080)
    assert (six["host"], six["family"], six["port"]) == ("::1", socket.AF_INET6, 8080)
    assert (four["host"], four["family"], four["port"]) == ("127.0.0.1", socket.AF_INET, 8080)
    assert six["hostname"] == four["hostname"] == "both.test"
    assert six["flags"] & socket.AI_NUMERICHOST


async def test_the_order_of_the_answer_stays(server: Nameserver) -> None:
    """Nameservers turn the addresses round to spread the load: they are not sorted."""
    server.records["farm.test"] = [("A", "192.0.2.7", 60), ("A", "127.0.0.1", 60)]
    resolver = resolver_for(server.address, allow_networks=(*LOOPBACK, "192.0.2.0/24"))
    assert await found(resolver, "farm.test") == ["192.0.2.7", "127.0.0.1"]
    await resolver.close()


async def test_one_family_only(server: Nameserver, resolver: Resolver) -> None:
    """Whoever asks for IPv4 gets IPv4; a name without it then has no address."""
    server.records["both.test"] = [("A", "127.0.0.1", 60), ("AAAA", "::1", 60)]
    server.records["six.test"] = [("AAAA", "::1", 60)]
    assert await found(resolver, "both.test", family=socket.AF_INET) == ["127.0.0.1"]
    with pytest.raises(LookupFailed, match="no address"):
        await resolver.resolve("six.test", 80, socket.AF_INET)


async def test_a_long_answer_comes_over_tcp(server: Nameserver, resolver: Resolver) -> None:
    """An answer cut short over UDP is asked for again over TCP."""
    server.manners["a.test"] = Manner.TRUNCATED
    assert await found(resolver, "a.test") == ["127.0.0.1"]
    assert {question.transport for question in server.questions} == {"udp", "tcp"}


async def test_thousands_of_addresses(server: Nameserver, clock: Clock) -> None:
    """Of an answer with 4,000 addresses a few are kept, and its memory is soon given back."""
    ttl = int(MAX_CHANNEL_AGE) - 5  # seconds
    server.records["before.test"] = server.records["after.test"] = [("A", "127.0.0.1", ttl)]
    server.records["many.test"] = [
        ("A", f"127.1.{n // 250}.{n % 250 + 1}", 3600) for n in range(4000)
    ]
    resolver = resolver_for(server.address, clock=clock, patience=2.0)  # such an answer takes time
    await found(resolver, "before.test")
    assert len(await found(resolver, "many.test")) == MAX_ADDRESSES
    assert resolver.channels == 1
    clock.now += MIN_CHANNEL_AGE
    await found(resolver, "after.test")
    assert resolver.channels == 1
    clock.now += ttl  # for us both TTLs are over; for c-ares, whose clock is the real one, none is
    for name in ("before.test", "after.test"):
        await found(resolver, name)  # an old channel would answer from its own cache
    assert (server.asked("before.test"), server.asked("after.test")) == (2, 1)
    await resolver.close()


async def test_a_cname_is_followed(server: Nameserver, resolver: Resolver, clock: Clock) -> None:
    """The target's address is taken, and the shortest TTL of the chain holds."""
    server.records["www.test"] = [("CNAME", "cdn.test.", 40)]
    server.records["cdn.test"] = [("A", "127.0.0.2", 3600)]
    assert await found(resolver, "www.test") == ["127.0.0.2"]
    clock.now += 40
    await found(resolver, "www.test")
    assert server.asked("www.test") == 2


async def test_a_cname_to_itself(server: Nameserver, resolver: Resolver) -> None:
    """A chain that bites its tail is no address, at once."""
    server.records["loop.test"] = [("CNAME", "loop.test.", 60)]
    assert "no address" in str(await failure(resolver, "loop.test"))


async def test_an_answer_with_another_id(server: Nameserver, resolver: Resolver) -> None:
    """A forged answer that does not know the question's id is passed over."""
    server.manners["a.test"] = Manner.WRONG_ID
    assert SPOOFED not in await found(resolver, "a.test")


async def test_ids_and_ports_can_not_be_guessed(server: Nameserver, resolver: Resolver) -> None:
    """Questions have ids in no order, and come from many ports (RFC 5452 section 9.2)."""
    for number in range(20):
        await failure(resolver, f"n{number}.test")
    ids = [question.id for question in server.questions]
    assert len(set(ids)) > 30
    assert ids != sorted(ids)
    assert len({question.port for question in server.questions}) > 10


# --- no answer


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        (Manner.SERVFAIL, "SERVFAIL"),
        (Manner.REFUSED, "REFUSED"),
        (Manner.GARBAGE, "malformed"),
        (Manner.SILENCE, "in time"),
    ],
)
async def test_a_nameserver_that_fails(
    server: Nameserver, resolver: Resolver, manner: Manner, words: str
) -> None:
    """Each failure of a nameserver is told apart, may pass, and was tried twice."""
    server.manners["a.test"] = manner
    error = await failure(resolver, "a.test")
    assert (words in str(error), error.retryable) == (True, True)
    assert server.asked("a.test") == 2


async def test_no_such_name(resolver: Resolver) -> None:
    """NXDOMAIN is final."""
    error = await failure(resolver, "nothing.test")
    assert ("NXDOMAIN" in str(error), error.retryable) == (True, False)


async def test_no_address(server: Nameserver, resolver: Resolver) -> None:
    """A name that exists and has no address is final, and not said to be missing."""
    server.records["mail.test"] = []
    error = await failure(resolver, "mail.test")
    assert ("no address" in str(error), error.retryable) == (True, False)


async def test_no_ipv6_and_trouble_with_ipv4(server: Nameserver, resolver: Resolver) -> None:
    """Trouble with IPv4 leaves the failure retryable, though the name has no IPv6 address."""
    server.manners["a.test", "A"] = Manner.SERVFAIL
    assert (await failure(resolver, "a.test")).retryable


@pytest.mark.parametrize(("failing", "late"), [("A", "AAAA"), ("AAAA", "A")])
async def test_trouble_before_a_late_no(
    failing: str, late: str, server: Nameserver, resolver: Resolver
) -> None:
    """Trouble with one family is not forgotten when "no data" about the other comes after it: the
    name may have an address, so the failure is retryable.
    """
    server.records["late.test"] = []
    server.manners["late.test", failing] = Manner.SERVFAIL
    server.unheard["late.test", late] = 1
    error = await failure(resolver, "late.test")
    assert ("SERVFAIL" in str(error), error.retryable) == (True, True)


async def test_silence_about_ipv6(server: Nameserver, resolver: Resolver) -> None:
    """A nameserver that drops the AAAA question does not take the IPv4 address away."""
    server.manners["a.test", "AAAA"] = Manner.SILENCE
    assert await found(resolver, "a.test") == ["127.0.0.1"]


async def test_no_nameserver(no_loose_ends: None) -> None:
    """A port where nothing listens is told from silence."""
    resolver = resolver_for(f"127.0.0.1:{free_port()}")
    error = await failure(resolver, "a.test")
    assert ("reached" in str(error), error.retryable) == (True, True)
    await resolver.close()


async def test_a_nameserver_that_is_no_address(no_loose_ends: None) -> None:
    """A wrong setting fails the lookups, and says where to look."""
    resolver = resolver_for("999.0.0.1")
    error = await failure(resolver, "a.test")
    assert ("nameservers" in str(error), error.retryable) == (True, True)
    await resolver.close()


async def test_the_second_nameserver(server: Nameserver) -> None:
    """A dead nameserver costs a moment; the next one answers."""
    resolver = resolver_for(f"127.0.0.1:{free_port()}", server.address)
    assert await found(resolver, "a.test") == ["127.0.0.1"]
    await resolver.close()


async def test_silence_is_bounded(server: Nameserver) -> None:
    """Three silent nameservers do not take three times as long as one."""
    server.manners["a.test"] = Manner.SILENCE
    async with Nameserver() as other, Nameserver() as third:
        other.manners["a.test"] = third.manners["a.test"] = Manner.SILENCE
        resolver = resolver_for(server.address, other.address, third.address)
        async with lived() as seconds:
            error = await failure(resolver, "a.test")
            assert seconds() < 5 * PATIENCE
        assert ("in time" in str(error), error.retryable) == (True, True)
        await resolver.close()


# --- names


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a..test", ".test", "a.test..", "x" * 64, ".".join(["x" * 50] * 5),
        "a b", "é.test", "a\0.test", "a\\.test", "a.test\n", "[::1]", "*.test",
    ],
)  # fmt: skip
async def test_what_is_no_name(server: Nameserver, resolver: Resolver, name: str) -> None:
    """What can't be a host's name is final, and no nameserver hears of it."""
    error = await failure(resolver, name)
    assert not error.retryable
    assert server.questions == []


async def test_the_longest_name(server: Nameserver, resolver: Resolver) -> None:
    """A name of 253 bytes is asked for (RFC 1035 section 2.3.4)."""
    name = ".".join(["x" * 63, "y" * 63, "z" * 63, "a" * 61])
    server.records[name] = [("A", "127.0.0.1", 60)]
    assert len(name) == 253
    assert await found(resolver, name) == ["127.0.0.1"]


async def test_names_are_absolute(
    server: Nameserver, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's `intranet` is never looked for in the operator's search domain."""
    monkeypatch.setenv("LOCALDOMAIN", "corp.example")  # as `search` in resolv.conf
    monkeypatch.setenv("RES_OPTIONS", "ndots:5")
    server.records["intranet.corp.example"] = [("A", "127.0.0.1", 60)]
    assert "NXDOMAIN" in str(await failure(resolver, "intranet"))
    assert "NXDOMAIN" in str(await failure(resolver, "www.intranet."))
    assert server.asked("intranet.corp.example") == 0


async def test_no_aliases(
    server: Nameserver, resolver: Resolver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The variable HOSTALIASES changes nothing."""
    (tmp_path / "aliases").write_text("intranet a.test\n")
    monkeypatch.setenv("HOSTALIASES", str(tmp_path / "aliases"))
    await failure(resolver, "intranet")
    assert server.asked("a.test") == 0


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "any.localhost"])
async def test_localhost(server: Nameserver, resolver: Resolver, name: str) -> None:
    """`localhost` is this machine, and not asked for (RFC 6761 section 6.3)."""
    assert "127.0.0.1" in await found(resolver, name)
    assert server.questions == []


def _hosts() -> list[str]:
    return Path("/etc/hosts").read_text().splitlines()


async def test_the_hosts_file(server: Nameserver) -> None:
    """Every name of /etc/hosts is found there and asked of nobody."""
    lines = [line.partition("#")[0].split() for line in _hosts()]
    names = {name: fields[0] for fields in lines for name in fields[1:] if "%" not in fields[0]}
    assert names, "this machine has an empty /etc/hosts"
    resolver = resolver_for(server.address, allow_networks=("0.0.0.0/0", "::/0"))
    for name in names:
        assert await found(resolver, name) != []
    assert server.questions == []
    await resolver.close()


# --- the guard


async def test_good_and_forbidden_addresses(server: Nameserver, resolver: Resolver) -> None:
    """Of an answer that mixes them, the good ones are given."""
    server.records["mixed.test"] = [("A", "10.0.0.1", 60), ("A", "127.0.0.2", 60)]
    assert await found(resolver, "mixed.test") == ["127.0.0.2"]


@pytest.mark.parametrize(
    ("addresses", "good"),
    [
        (["127.0.0.1", "127.0.0.2", "::1"], True),
        (["127.0.0.1", "10.0.0.1"], False),
        (["127.0.0.1", "fd00::1"], False),
        (["10.0.0.1"], False),
        ([f"127.0.1.{n}" for n in range(MAX_ADDRESSES)], True),
        ([f"127.0.1.{n}" for n in range(MAX_ADDRESSES + 1)], False),
    ],
    ids=["all", "not IPv4", "not IPv6", "none", "many", "too many"],
)
async def test_a_name_for_somebody_else(
    server: Nameserver, resolver: Resolver, addresses: list[str], *, good: bool
) -> None:
    """It must have no address but admitted ones, in the cache too, and the message keeps them."""
    server.records["mixed.test"] = [("AAAA" if ":" in one else "A", one, 60) for one in addresses]
    for _ in range(2):
        if good:
            await resolver.check("mixed.test")
            continue
        with pytest.raises(Blocked, match="allowed") as caught:
            await resolver.check("mixed.test")
        assert not any(one in str(caught.value) for one in addresses)
    assert server.asked("mixed.test") == 1
    with pytest.raises(LookupFailed, match="no such name"):
        await resolver.check("nothing.test")


async def test_only_forbidden_addresses(server: Nameserver, resolver: Resolver) -> None:
    """A name that leads inside is blocked, each time, and the message keeps the address."""
    server.records["inside.test"] = [("A", "10.0.0.1", 60), ("AAAA", "fd00::1", 60)]
    for _ in range(2):
        with pytest.raises(Blocked) as caught:
            await resolver.resolve("inside.test", 80)
        assert "10.0.0.1" not in str(caught.value)
        assert "fd00" not in str(caught.value)
    assert server.asked("inside.test") == 1


async def test_rebinding(server: Nameserver, resolver: Resolver, clock: Clock) -> None:
    """A name that led outside at first and then leads inside is blocked then."""
    server.sequences["turn.test"] = [[("A", "127.0.0.1", 0)], [("A", "10.0.0.1", 0)]]
    assert await found(resolver, "turn.test") == ["127.0.0.1"]
    clock.now += MIN_TTL
    with pytest.raises(Blocked):
        await resolver.resolve("turn.test", 80)


# --- many callers


async def test_one_question_for_many_callers(server: Nameserver, resolver: Resolver) -> None:
    """However many want a name, however it is spelt, it is asked for once."""
    server.gate.clear()
    names = ["a.test", "A.Test", "a.test."] * 20
    callers = [asyncio.create_task(found(resolver, name)) for name in names]
    await server.until(lambda: server.asked("a.test") > 0)
    server.gate.set()
    assert await asyncio.gather(*callers) == [["127.0.0.1"]] * 60
    await found(resolver, "a.test")
    assert server.asked("a.test") == 1


async def test_a_caller_leaves(server: Nameserver, resolver: Resolver) -> None:
    """The first caller's cancellation takes nothing away from the second."""
    server.gate.clear()
    first = asyncio.create_task(found(resolver, "a.test"))
    await server.until(lambda: server.asked("a.test") > 0)
    second = asyncio.create_task(found(resolver, "a.test"))
    await asyncio.sleep(0)
    first.cancel()
    server.gate.set()
    assert await second == ["127.0.0.1"]
    assert first.cancelled()
    assert server.asked("a.test") == 1


@pytest.mark.parametrize("name", ["a.test", "nothing.test"])
async def test_all_callers_leave(server: Nameserver, resolver: Resolver, name: str) -> None:
    """A lookup nobody waits for any more ends in the cache, and no error of it is lost."""
    server.gate.clear()
    caller = asyncio.create_task(found(resolver, name))
    await server.until(lambda: server.asked(name) > 0)
    caller.cancel()
    await asyncio.wait((caller,))
    assert (resolver.under_way, resolver.cached) == (1, 0)
    server.gate.set()
    async with asyncio.timeout(5):
        while resolver.under_way:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    assert resolver.cached == 1


async def test_closed_under_way(server: Nameserver, resolver: Resolver) -> None:
    """Whoever waits when the resolver is closed is told so at once, and not cancelled."""
    server.gate.clear()
    caller = asyncio.create_task(found(resolver, "a.test"))
    await server.until(lambda: server.asked("a.test") > 0)
    await resolver.close()
    with pytest.raises(LookupFailed, match="given up"):
        await caller
    assert resolver.under_way == 0


async def test_many_names_at_once(server: Nameserver) -> None:
    """Two hundred different names are looked up side by side, with the patience of a real daemon:
    a nameserver in Python answers four hundred questions in a second on a busy machine.
    """
    names = [f"n{number}.test" for number in range(200)]
    server.records.update({name: [("A", "127.0.0.1", 60)] for name in names})
    resolver = resolver_for(f"127.0.0.1:{server.port}", patience=REAL_PATIENCE)
    answers = await asyncio.gather(*(found(resolver, name) for name in names))
    await resolver.close()
    assert answers == [["127.0.0.1"]] * 200


# --- the cache


@pytest.mark.parametrize(
    ("records", "kept"),
    [
        ([("A", "127.0.0.1", 60)], 60),
        ([("A", "127.0.0.1", 60), ("AAAA", "::1", 30)], 30),
        ([("A", "127.0.0.1", 86400)], 300),  # dns_cache_ttl
        ([("A", "127.0.0.1", 0)], MIN_TTL),
        ([], ABSENT_TTL),
    ],
)
async def test_how_long_an_answer_is_kept(
    server: Nameserver,
    resolver: Resolver,
    clock: Clock,
    records: list[tuple[str, str, int]],
    kept: float,
) -> None:
    """For its TTL, within bounds; after that the nameserver itself is asked again."""
    server.records["name.test"] = records
    for second in (0, kept - 1, kept):
        clock.now = 1000.0 + second
        await asyncio.gather(resolver.resolve("name.test"), return_exceptions=True)
        assert server.asked("name.test") == (2 if second == kept else 1)


async def test_how_long_trouble_is_kept(
    server: Nameserver, resolver: Resolver, clock: Clock
) -> None:
    """A failure that may pass is kept for moments only, then the name is found."""
    server.manners["a.test"] = Manner.SERVFAIL
    await failure(resolver, "a.test")
    server.manners.clear()
    await failure(resolver, "a.test")
    clock.now += TROUBLE_TTL
    assert await found(resolver, "a.test") == ["127.0.0.1"]


async def test_no_cache(server: Nameserver, clock: Clock) -> None:
    """With dns_cache_ttl = 0 nothing is kept but what c-ares keeps, and that for a second."""
    resolver = resolver_for(server.address, clock=clock, dns_cache_ttl=0.0)
    for count in (1, 2, 3):
        await found(resolver, "a.test")
        assert server.asked("a.test") == count
        clock.now += MIN_CHANNEL_AGE
    await resolver.close()


async def test_the_cache_is_bounded(server: Nameserver, resolver: Resolver) -> None:
    """Of more names than it holds, those used last are kept."""
    for name in ("used.test", "first.test", "last.test"):
        server.records[name] = [("A", "127.0.0.1", 0)]  # c-ares asks for it each time
    await resolver.resolve("used.test")
    await resolver.resolve("first.test")
    for start in range(0, MAX_CACHED_NAMES + 100, 100):
        names = [f"n{number}.localhost" for number in range(start, start + 100)]
        await asyncio.gather(*(resolver.resolve(name) for name in names))
        await resolver.resolve("used.test")
    await resolver.resolve("last.test")
    assert resolver.cached == MAX_CACHED_NAMES
    for name in ("last.test", "used.test", "first.test"):
        await resolver.resolve(name)
    assert server.asked("last.test") == 1
    assert server.asked("used.test") == 1
    assert server.asked("first.test") == 2


# --- the loops


async def _some_of_everything() -> None:
    async with Nameserver({"a.test": [("A", "127.0.0.1", 60)]}) as server:
        server.manners["silent.test"] = Manner.SILENCE
        server.manners["a.test"] = Manner.TRUNCATED
        resolver = resolver_for(server.address, dns_cache_ttl=0.0)
        left = asyncio.create_task(found(resolver, "silent.test"))
        assert await found(resolver, "a.test") == ["127.0.0.1"]
        assert "NXDOMAIN" in str(await failure(resolver, "nothing.test"))
        left.cancel()
        await resolver.close()


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the count is all


@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_is_left_behind(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """On either loop, no file or thread outlives a closed resolver, busy as it was."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_some_of_everything())  # pycares keeps one thread for good, from the first on
    before = _open_files(), threading.active_count()
    for _ in range(5):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(_some_of_everything())
    deadline = time.monotonic() + 60
    while (_open_files(), threading.active_count()) > before:
        assert time.monotonic() < deadline, (before, _open_files(), threading.active_count())
        time.sleep(0.01)
