"""Tests of where bodies are searched: the loop stays free, helpers are bounded and replaced.

May touch: helper processes it starts, a few seconds of their processor time.
Must never: end a process it did not start, or leave one behind.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import resource
import signal
import socket
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from scraperd.config.settings import Config
from scraperd.extract.compile import CACHE, compile_rules
from scraperd.extract.compiled import engine
from scraperd.extract.document import ExtractRequest
from scraperd.extract.rules import ELSEWHERE, RuleError
from scraperd.sandbox.child import Start
from scraperd.sandbox.extractor import (
    NICE,
    Crowded,
    Extractor,
    Unchecked,
    max_waiting,
    slots_of,
    times,
)
from scraperd.sandbox.fair_queue import HostFairQueue, TimeSharing, TimeSlice
from scraperd.sandbox.habits import Habits, TokenBucket
from scraperd.sandbox.pool import MAX_RETAINED_BYTES, Helpers
from scraperd.wiring import extract_limits, extractor_of
from tests.rig.clocks.effort import scaled
from tests.rig.process import started
from tests.rig.settings import configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

pytestmark = pytest.mark.usefixtures("no_loose_ends")

LARGE = b"<h1>Large</h1>" + b"<p>x</p>" * 80_000  # more than the loop takes
SLOW = b"<b>" * 3_000  # and "x b b b" takes hours on it
FREE = 0.1  # seconds that the loop may be held


def asked(rules: Any, **more: Any) -> ExtractRequest:
    """What a job with these rules asks."""
    return msgspec.structs.replace(
        ExtractRequest("http://h/", "text/html", True, False, False, False, False, False, b""),
        rules=None if rules is None else json.dumps(rules).encode(),
        **more,
    )


async def take(extractor: Extractor, page: bytes, rules: Any, host: str = "h", **more: Any) -> Any:
    """What is taken, as a dict of the Result's fields and the failure."""
    question = asked(rules, **more)
    compiled = compile_rules(question.rules) if question.rules is not None else None
    taken = (await extractor.extract(question, page, compiled, host)).extracted
    fields = {name: msgspec.json.decode(part) for name, part in taken.parts.items()}
    return fields | ({"failure": taken.failure} if taken.failure else {})


def children() -> set[int]:
    """The helpers that are alive."""
    return {pid for parent in nurseries() for pid in started(parent)}


def nurseries() -> set[int]:
    """The processes that helpers are forked from."""
    return {
        pid for pid in started(os.getpid()) if b"scraperd.sandbox.child" in contents(pid, "cmdline")
    }


def contents(pid: int, name: str) -> bytes:
    """What /proc says of a process."""
    return Path(f"/proc/{pid}/{name}").read_bytes()


def opened(pid: int) -> dict[str, str]:
    """The open files of a process: what each number stands for."""
    return {path.name: str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = contents(pid, "stat").rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def extracting(**settings: Any) -> AsyncIterator[Extractor]:
    """An extractor that leaves no process behind."""
    async with extractor_of(configured(**settings)) as extractor:
        yield extractor
    assert not nurseries()


@asynccontextmanager
async def free_loop() -> AsyncIterator[None]:
    """Fail if the loop is held meanwhile for longer than it may be.

    By the processor time of its thread: by the clock, whoever else uses the machine would count.
    """
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    watching = asyncio.create_task(watch())
    yield
    watching.cancel()
    assert longest < scaled(FREE), f"the loop was held for {longest:.3f} s"


async def test_a_small_page_needs_no_helper() -> None:
    """An ordinary page is searched at once, without another process."""
    async with extracting() as extractor:
        before = children()
        assert await take(extractor, b"<h1>Hi</h1>", {"t": "h1"}) == {"data": {"t": "Hi"}}
        assert children() == before


async def test_a_large_page_gives_what_a_small_one_gives() -> None:
    """The same function runs in both places: the result is the same, field by field."""
    rules = {"t": "h1", "n": {"selector": "p", "type": "list", "limit": 3}}
    async with extracting() as extractor, free_loop():
        there = await take(extractor, LARGE, rules, body=True, links=True, metadata=True)
        assert len(children()) >= 1
    here = await take_here(LARGE, rules, body=True, links=True, metadata=True)
    assert there == here
    assert there["data"] == {"t": "Large", "n": ["x", "x", "x"]}
    assert there["body"].encode() == LARGE


async def take_here(page: bytes, rules: Any, **more: Any) -> Any:
    """The same without a helper."""
    from scraperd.extract.document import extract_document as take_now

    question = asked(rules, **more)
    assert question.rules is not None
    taken = take_now(question, page, compile_rules(question.rules), extract_limits(Config()))
    return {name: msgspec.json.decode(part) for name, part in taken.parts.items()}


async def test_a_page_that_takes_too_long_fails_and_keeps_its_body() -> None:
    """Past `sandbox.timeout` of CPU the helper ends; the bound is named, the next page is fine."""
    async with extracting(sandbox__timeout=0.2) as extractor, free_loop():
        found = await take(extractor, SLOW, {"t": "x b b b"}, body=True)
        assert found["failure"].kind == "extract"
        assert found["failure"].message == "the page took over 0.2 s of CPU (sandbox.timeout)"
        assert not found["failure"].retryable
        assert found["body"].encode() == SLOW
        assert (await take(extractor, LARGE, {"t": "h1"}))["data"] == {"t": "Large"}


async def test_a_page_that_takes_too_much_memory_fails() -> None:
    """26 kB make five million elements: the bound is named, and this process has none of them."""
    page = b"<p>" + b"".join(b"<b c=%x>" % n for n in range(1200)) + b"<p>x" * 4000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with extracting(sandbox__memory=256 * 1024 * 1024) as extractor, free_loop():
        found = await take(extractor, page, {"t": "h1"}, body=True)
        assert found["failure"].kind == "extract"
        assert "bytes of memory (sandbox.memory)" in found["failure"].message
        assert found["body"].encode() == page
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize(
    ("settings", "rules", "kind", "words"),
    [
        (
            {"extract__max_matches": 100},
            {"p": {"selector": "p", "type": "list"}},
            "extract",
            "extract.p: more than 100 matches (extract.max_matches)",
        ),
        (
            {"extract__max_output_size": 10_000},
            {"p": {"selector": "p", "type": "list"}},
            "too_large",
            "extract.p: more than 10000 bytes (extract.max_output_size)",
        ),
        (
            {"extract__max_output_size": 10_000},
            {"p": {"selector": "body", "output": "html"}},
            "too_large",
            "extract.p: more than 10000 bytes (extract.max_output_size)",
        ),
    ],
)
async def test_what_is_found_is_bounded(
    settings: dict[str, Any], rules: Any, kind: str, words: str
) -> None:
    """Past a bound the job ends as `extract` or `too_large`, with the rule and the setting."""
    async with extracting(**settings) as extractor, free_loop():
        for page in (LARGE, b"<p>0123456789</p>" * 1500):  # in a helper, and on the loop
            failure = (await take(extractor, page, rules))["failure"]
            assert (failure.kind, failure.message) == (kind, words)


async def test_links_are_bounded_as_well() -> None:
    """The bound counts all that is taken, by rules or not."""
    page = b"<a href=/0123456789>x</a>" * 10_000
    async with extracting(extract__max_output_size=100_000) as extractor:
        failure = (await take(extractor, page, None, links=True))["failure"]
        assert failure.kind == "too_large"
        assert failure.message == "links: more than 100000 bytes (extract.max_output_size)"


async def test_a_cancelled_job_takes_its_helper_along() -> None:
    """Nobody waits for what nobody wants any more, and the next page gets a new helper."""
    async with extracting(sandbox__processes=1) as extractor:
        before = children()
        slow = asyncio.create_task(take(extractor, SLOW, {"t": "x b b b"}))
        while not any(cpu(pid) > 0.3 for pid in children() - before):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # it is at it, and not only starting
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert children() == before
        assert (await take(extractor, LARGE, {"t": "h1"}))["data"] == {"t": "Large"}


async def test_a_job_cancelled_while_its_helper_starts_leaves_none_behind() -> None:
    """The helper that was on its way is there for the next page, and ends with the others."""
    async with extracting(sandbox__processes=1) as extractor:
        for _ in range(3):
            job = asyncio.create_task(take(extractor, LARGE, {"t": "h1"}))
            await asyncio.sleep(0)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
        assert (await take(extractor, LARGE, {"t": "h1"}))["data"] == {"t": "Large"}
        job = asyncio.create_task(take(extractor, SLOW, {"t": "x b b b"}))
        await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job


async def test_a_helper_that_died_between_two_pages_is_replaced() -> None:
    """Whatever ended an idle helper, the next page does not pay for it."""
    async with extracting(sandbox__processes=1) as extractor:
        before = children()
        await take(extractor, LARGE, {"t": "h1"})
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        while pid in extractor.idle_helpers:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        assert (await take(extractor, LARGE, {"t": "h1"}))["data"] == {"t": "Large"}


async def test_a_helper_killed_at_its_page_is_replaced_too() -> None:
    """Nobody but a stranger sends SIGKILL; the page is asked of another helper."""
    async with extracting(sandbox__processes=1) as extractor:
        before = children()
        await take(extractor, LARGE, {"t": "h1"})
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)  # and at once, before anybody could have noticed
        assert (await take(extractor, LARGE, {"t": "h1"}))["data"] == {"t": "Large"}


async def test_a_signal_for_the_group_does_not_end_a_helper() -> None:
    """Ctrl-C and a service manager's SIGTERM reach all processes; what is in flight must finish."""
    async with extracting(sandbox__processes=1) as extractor:
        before = children()
        await take(extractor, LARGE, {"t": "h1"})
        (pid,) = children() - before
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGHUP,
            signal.SIGUSR1,
            signal.SIGUSR2,
        ):
            os.kill(pid, number)
        assert (await take(extractor, LARGE, {"t": "h1"}))["data"] == {"t": "Large"}
        assert children() - before == {pid}


async def test_a_helper_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """What parses strangers' pages inherits neither the environment nor a connection."""
    monkeypatch.setenv("SCRAPERD_BROKER_URL", "amqp://user:secret@broker/")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with extracting(sandbox__processes=1) as extractor:
            before = children()
            await take(extractor, LARGE, {"t": "h1"})
            (pid,) = children() - before
            assert b"secret" not in contents(pid, "environ") + contents(pid, "cmdline")
            held = opened(pid)
            assert {name for name in held.values() if name.startswith("socket:")} <= {
                held["0"],
                held["1"],
            }


async def test_a_helper_that_keeps_much_memory_is_ended() -> None:
    """Another page would have to live with what a large one left behind; a small one leaves little.

    The parent's own size must not count, though the kernel's figures begin with it.
    """
    ballast = bytearray(400 * 1024 * 1024)
    ballast[:: resource.getpagesize()] = b"x" * len(ballast[:: resource.getpagesize()])
    async with extracting(sandbox__processes=1) as extractor:
        await take(extractor, LARGE, {"t": "h1"})
        assert len(children()) == 1
        await take(extractor, b"<p>x</p>" * 800_000, {"t": "h1"}, body=True, metadata=True)
        used = sum(map(helper_memory, children()))
        assert used < MAX_RETAINED_BYTES
    del ballast


def helper_memory(pid: int) -> int:
    """Bytes that a process holds now."""
    return int(contents(pid, "statm").split()[1]) * resource.getpagesize()


async def test_one_host_does_not_get_all_helpers() -> None:
    """While one host's pages hold all the helpers they may, another host's page is searched."""
    async with extracting(sandbox__processes=2, sandbox__timeout=60) as extractor:
        slow = [
            asyncio.create_task(take(extractor, SLOW, {"t": "x b b b"}, "bad")) for _ in range(5)
        ]
        found = await take(extractor, LARGE, {"t": "h1"}, "good")
        assert found["data"] == {"t": "Large"}
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_pages_that_take_long_wait_for_each_other_only() -> None:
    """With one quick helper and one slow, slow pages of many hosts hold up no quick one."""
    async with extracting(sandbox__processes=2, sandbox__timeout=60) as extractor:
        slow = [
            asyncio.create_task(take(extractor, SLOW, {"t": "x b b b"}, f"bad{n}"))
            for n in range(3)
        ]
        for number in range(3):
            found = await take(extractor, LARGE, {"t": "h1"}, f"good{number}")
            assert found["data"] == {"t": "Large"}
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_the_helpers_of_a_dead_parent_are_replaced() -> None:
    """Whatever ended the process that forks helpers, no helper outlives it and no page is lost."""
    async with extracting(sandbox__processes=2) as extractor:
        await take(extractor, LARGE, {"t": "h1"})
        (nursery,) = nurseries()
        (pid,) = children()
        os.kill(nursery, signal.SIGKILL)
        while pid in started(nursery):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        assert (await take(extractor, LARGE, {"t": "h1"}))["data"] == {"t": "Large"}
        (nursery,) = nurseries()
        slow = asyncio.create_task(take(extractor, SLOW, {"t": "x b b b"}))
        while not any(cpu(pid) > 0.5 for pid in children()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # it is at it, in its second level
        os.kill(nursery, signal.SIGKILL)
        assert (await take(extractor, LARGE, {"t": "h1"}, "other"))["data"] == {"t": "Large"}
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)


async def test_a_page_that_needs_longer_goes_on_in_the_next_lane() -> None:
    """Beside pages that take a minute, of many hosts, quick ones are done."""
    async with extracting(sandbox__timeout=60) as extractor:
        slow = [
            asyncio.create_task(take(extractor, SLOW, {f"t{n}": "x b b b"}, f"bad{n}"))
            for n in range(9)
        ]
        for number in range(20):
            found = await take(extractor, LARGE, {"t": "h1"}, f"good{number}")
            assert found["data"] == {"t": "Large"}
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_long_pages_leave_half_of_the_processors() -> None:
    """A helper of the first level may use all that we may, one of a later level the last half."""
    ours = os.sched_getaffinity(0)
    helpers = Helpers(Start(Config().sandbox.memory, extract_limits(Config())), len(NICE))
    for nice in NICE:
        await helpers.ask(asked({"t": "h1"}), b"<h1>Hi</h1>", 5.0, nice)
    allowed = {os.getpriority(os.PRIO_PROCESS, it): os.sched_getaffinity(it) for it in children()}
    await helpers.close()
    half = set(sorted(ours)[len(ours) // 2 :])
    mine, lowest = os.getpriority(os.PRIO_PROCESS, 0), 19  # the tests themselves may run as nice
    places = zip(NICE, (ours, half, half), strict=True)
    assert allowed == {min(mine + nice, lowest): place for nice, place in places}


async def refused(extractor: Extractor, question: ExtractRequest) -> bool:
    """Whether a page of which this is asked should not even be fetched, after a moment."""
    await asyncio.sleep(0.01)
    try:
        extractor.look(question, "h")
    except Crowded:
        return True
    return False


async def test_more_long_pages_than_should_wait_are_sent_away() -> None:
    """Only those that would wait; of a kind that is known to be long, before it is fetched."""
    async with extracting(sandbox__timeout=60, concurrency=8) as extractor:
        rules = {"t": "x b b b"}
        question = asked(rules)
        extractor.look(question, "h")
        compiled = compile_rules(question.rules or b"")
        page = b"<b>" * 12_000
        slow = [
            asyncio.create_task(extractor.extract(question, page, compiled, f"h{n}", patience=1))
            for n in range(40)
        ]
        while sum(task.done() for task in slow) < 30:  # noqa: ASYNC110 - one by one
            await asyncio.sleep(0.001)
        ends = [task.exception() for task in slow if task.done()]
        assert {type(end) for end in ends} == {Crowded}
        while not await refused(extractor, question):  # some have gone on meanwhile
            page_of = extractor.extract(question, page, compiled, f"h{len(slow)}", patience=1)
            slow.append(asyncio.create_task(page_of))
        extractor.look(asked({"t": "h2"}), "h")
        assert (await take(extractor, LARGE, {"t": "h1"}, "other"))["data"] == {"t": "Large"}
        patient = asyncio.create_task(extractor.extract(question, page, compiled, "h"))
        await asyncio.sleep(0.1)
        assert not patient.done()
        for task in [*slow, patient]:
            task.cancel()
        await asyncio.gather(*slow, patient, return_exceptions=True)


async def test_one_page_or_another_host_says_nothing_of_a_kind() -> None:
    """A page that goes through all levels counts once; without rules the kind is a host's own."""
    async with extracting(sandbox__timeout=0.4) as extractor:
        await take(extractor, b"<b>" * 12_000, {"t": "x b b b"}, "bad")
        assert extractor.usual_level(asked({"t": "x b b b"}), "bad") == 0
        plain = asked(None)
        huge = b"<p>x</p>" * 600_000
        for _ in range(4):
            await take(extractor, huge, None, "bad", links=True)
        known = msgspec.structs.replace(plain, links=True)
        assert extractor.usual_level(known, "bad") == 2
        assert extractor.usual_level(known, "good") == 0


@pytest.mark.skipif(not engine.AVAILABLE, reason="the compiled tree is not built here")
async def test_a_large_page_of_a_long_kind_is_not_tried_on_the_loop() -> None:
    """A site of pages beyond the bounds can't have the loop parse each of them in vain."""
    large = b"<p>x</p>" * 12_000
    async with extracting(sandbox__timeout=0.4) as extractor:
        for _ in range(4):
            await take(extractor, b"<p>x</p>" * 600_000, None, "bad", links=True)
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        while children():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        await take(extractor, large, None, "good", links=True)
        await take(extractor, b"<p>x", None, "bad", links=True)
        assert not children()
        await take(extractor, large, None, "bad", links=True)
        assert children()


async def test_nothing_is_put_off_while_nothing_waits() -> None:
    """However long a page may take there is a seat; and who may go at once needs none."""
    for timeout in (0.1, 5, 31, 600):
        for processes in (1, 2, 3, 8, 64):
            levels = times(processes, timeout)
            room = max_waiting(levels, slots_of(processes, len(levels)), 25)
            assert room[0] == math.inf
            assert all(1 <= seat <= 25 for seat in room[1:])
    async with extracting(sandbox__timeout=600) as extractor:
        question = asked({"t": "h1"})
        for _ in range(4):
            await take(extractor, b"<p>x</p>" * 600_000, {"t": "h1"})
        assert extractor.usual_level(question, "h") == 2
        assert not extractor.crowded
        extractor.look(question, "h")


def dear(name: int = 0) -> dict[str, Any]:
    """As many rules as one job may have: they take 65 ms to compile on a fast machine."""
    return {f"r{k}": ",".join(["a"] * 300 + [f"x{name}y{k}"]) for k in range(75)}


async def test_rules_that_no_helper_lived_to_check_are_not_bad() -> None:
    """What a helper lacks is no fault of the rules."""
    async with extracting(sandbox__timeout=0.01) as extractor:
        with pytest.raises(Unchecked, match=r"sandbox\.timeout"):
            await extractor.rules(json.dumps(dear()).encode())


def test_what_a_kind_of_page_takes_is_learned_from_several() -> None:
    """One long page says nothing, two do; many more short ones take it back."""
    habits = Habits()
    habits.note(1, 2)
    assert habits.level(1) == 0
    habits.note(1, 1)
    assert habits.level(1) == 1
    assert habits.level(2) == 0
    for _ in range(20):
        habits.note(1, 2)  # one in five is long
        for _ in range(4):
            habits.note(1, 0)
        assert habits.level(1) == 2
    for _ in range(40):
        habits.note(1, 0)
    assert not habits
    for kind in range(10_000):
        habits.note(kind, 1)
    assert len(habits) <= 1024


def test_so_many_may_leave_in_a_second() -> None:
    """As many at once, then at that rate."""
    bucket = TokenBucket(10)
    assert [bucket.take(100.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert bucket.take(100.11)
    assert not bucket.take(100.12)
    assert sum(bucket.take(200.0) for _ in range(12)) == 10


async def test_many_pages_at_once_do_not_hold_the_loop() -> None:
    """Hundreds of pages that come in the same moment are searched between other things."""
    page = b"<div><p>text <a href=/x>x</a></p></div>" * 300
    rules = {"a": {"selector": "a", "type": "list"}, "p": {"selector": "p", "type": "list"}}
    async with extracting() as extractor, free_loop():
        pages = [take(extractor, page, rules, links=True) for _ in range(200)]
        for found in await asyncio.gather(*pages):
            assert len(found["data"]["a"]) == 300
        assert not children()


async def test_a_share_of_the_loop_is_given_in_order() -> None:
    """One after the other, first come, first served, also if one is cancelled or fails."""
    share, done = TimeSlice(0.0), []

    async def one(number: int) -> None:
        async with share:
            done.append(number)
            if number == 3:
                raise ValueError

    tasks = [asyncio.create_task(one(number)) for number in range(6)]
    await asyncio.sleep(0)
    assert share.waiting == 5
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert share.waiting == 0
    assert done == [0, 1, 3, 4, 5]
    async with share:
        pass


async def test_costly_rules_do_not_hold_the_loop_and_compile_once() -> None:
    """Compiling is done in slices; jobs that come with the same rules meanwhile wait for it."""
    rules = {
        f"r{n}": {"selector": "p", "regex": r"\pL{30}" + f"x{n}{time.monotonic_ns()}"}
        for n in range(5)
    } | {f"j{n}": {"jmespath": "a" + "[]" * 200} for n in range(24)}
    raw = json.dumps(rules).encode()
    async with extracting() as extractor, free_loop():
        before = CACHE.compiled
        found = await asyncio.gather(*(extractor.rules(raw) for _ in range(50)))
        assert {id(one) for one in found} == {id(ELSEWHERE)}
        assert CACHE.compiled == before
        assert len(children()) == 1
        assert await extractor.rules(raw) is ELSEWHERE
        with pytest.raises(RuleError, match="not a CSS selector"):
            await extractor.rules(b'{"a": ":x("}')


async def test_slices_leave_half_of_the_time_to_others() -> None:
    """However much work there is: after each whole slice as long a pause, on any machine."""
    slices, worked = TimeSharing(0.002, 10), 0.0

    def work() -> Generator[None, None, None]:
        nonlocal worked
        for _ in range(50):
            began = time.monotonic()
            while time.monotonic() < began + 0.001:
                pass
            worked += time.monotonic() - began
            yield

    began = time.monotonic()
    await asyncio.gather(*(slices.run(work()) for _ in range(4)))
    assert worked > 0.2
    assert time.monotonic() - began > 1.8 * worked


async def test_dear_rules_are_compiled_by_helpers_alone() -> None:
    """They give what they give here, on any page, small or of another kind; and are refused with
    the same words.
    """
    rules = dear()
    good, bad = (json.dumps(rules | {"t": selector}).encode() for selector in ("h1", "h1:"))
    with pytest.raises(RuleError) as expected:
        compile_rules(bad)
    compiled = compile_rules(good)
    CACHE.kept.clear()
    question = asked(rules | {"t": "h1"})
    async with extracting() as extractor, free_loop():
        with pytest.raises(RuleError) as refused:
            await extractor.rules(bad)
        assert str(refused.value) == str(expected.value)
        assert await extractor.rules(good) is ELSEWHERE
        text = b"<h1>Hi</h1><i>%s</i>" % (b"x1 " * 20_000)  # large, and of few elements
        for page in (b"<h1>Hi</h1><i>x1</i>", text):
            here = (await extractor.extract(question, page, compiled, "h")).extracted
            there = (await extractor.extract(question, page, ELSEWHERE, "h")).extracted
            assert there == here
            assert there.failure is None
        image = msgspec.structs.replace(question, media="image/png")
        failure = (await extractor.extract(image, b"\x89PNG", ELSEWHERE, "h")).extracted.failure
        assert failure is not None
        assert failure.message == "the response is image/png, not HTML"


async def test_small_rules_do_not_wait_for_large_ones() -> None:
    """Beside 20 jobs with the dearest rules allowed, small ones take a slice of two, in order."""
    async with extracting() as extractor, free_loop():
        many = [json.dumps(dear(n)).encode() for n in range(20)]
        others = [asyncio.create_task(extractor.rules(raw)) for raw in many]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in others)
        began = time.thread_time()
        small = json.dumps({"a": f"h1.x{time.monotonic_ns()}"}).encode()
        assert (await extractor.rules(small)).by_name
        assert time.thread_time() - began < scaled(0.3)
        assert not all(task.done() for task in others)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        again = await extractor.rules(json.dumps({"a": f"b.x{time.monotonic_ns()}"}).encode())
        assert again.by_name


async def test_rules_that_one_job_gives_up_are_compiled_for_the_others() -> None:
    """A cancelled job takes none of what others wait for; the last one ends the compiling."""
    raw = json.dumps({f"r{k}": f"{'a,' * 300}x{time.monotonic_ns()}" for k in range(70)}).encode()
    async with extracting() as extractor:
        first, second = (asyncio.create_task(extractor.rules(raw)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        assert await second is ELSEWHERE
        assert first.cancelled()


def test_all_selectors_of_a_job_are_bounded() -> None:
    """What lexbor has to read when rules are compiled has a bound, which is named."""
    rules = {f"r{k}": "a," * 450 + "b" for k in range(60)}
    with pytest.raises(RuleError, match=r"50000 characters \(extract.max_selectors_length\)"):
        compile_rules(json.dumps(rules).encode())


async def test_turns_go_round_and_none_is_lost() -> None:
    """Never more than the limit, never more than all but one a host, and all come to their turn."""
    queue, running, most = HostFairQueue([3], [math.inf]), dict.fromkeys("abc", 0), 0
    order: list[str] = []

    async def one(host: str, *, steps: int) -> None:
        nonlocal most
        async with queue.slot(0, host):
            order.append(host)
            running[host] += 1
            assert running[host] <= 2
            most = max(most, sum(running.values()))
            for _ in range(steps):
                await asyncio.sleep(0)
            running[host] -= 1

    jobs = [asyncio.create_task(one("a", steps=1 + n % 3)) for n in range(20)]
    jobs += [asyncio.create_task(one(host, steps=2)) for host in "bcbcbc"]
    await asyncio.sleep(0)
    for job in jobs[5:20:4]:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert most == 3
    assert order[:3] == ["a", "a", "b"]
    assert max(at for at, host in enumerate(order) if host != "a") < 18
    async with queue.slot(0, "x"), queue.slot(0, "x"), queue.slot(0, "y"):
        pass
    assert not queue.hosts


async def test_what_is_short_has_turns_of_its_own() -> None:
    """Long work never has all slots, short work may; and no level starves."""
    queue, order = HostFairQueue([3, 2, 1], [math.inf, 2, 2]), ""
    running = [0, 0, 0]
    gates: list[tuple[int, asyncio.Event]] = []

    async def one(level: int) -> None:
        nonlocal order
        async with queue.slot(level, f"h{len(order)}"):
            order += str(level)
            running[level] += 1
            assert [sum(running[n:]) <= most for n, most in enumerate((3, 2, 1))] == [True] * 3
            gate = asyncio.Event()
            gates.append((level, gate))
            await gate.wait()
            running[level] -= 1

    async def step() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    jobs = [asyncio.create_task(one(level)) for level in (2, 2, 1, 1, 0, 0, 0, 0)]
    await step()
    assert order == "210"  # one of each, and no more of what is long
    for _ in range(3):  # what is short comes and goes
        gates.pop()[1].set()
        await step()
    assert order == "210000"
    gates.pop()[1].set()
    await step()
    for level, gate in gates:
        if level == 1:
            gate.set()
    await step()
    assert order == "2100001"
    jobs += [asyncio.create_task(one(0)) for _ in range(5)]
    await step()
    while gates:  # the second long one comes, though short ones wait
        gates.pop(0)[1].set()
        await step()
    assert order.count("2") == 2
    assert order.index("2", 1) < len(order) - 1
    await asyncio.gather(*jobs)
    assert not any(running)
