"""One job raises in each step of its life, one step at a time: it fails, and nothing else does.

May touch: the worker with its real settler and observer; an epoch and a publisher that keep.
Must never: replace the worker's own code: a step raises by what it is handed.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from scraperd.base.clocks import SYSTEM
from scraperd.broker.ports import (
    Delivery,
    Destination,
    Into,
    Limits,
    Message,
    Reply,
    Results,
    Source,
)
from scraperd.contract import Peeked
from scraperd.fetch.memory import Budget, Claim
from scraperd.jobs.settle import Settler
from scraperd.jobs.signing import Keys
from scraperd.ops.telemetry import Observer
from scraperd.scrape.result import Facts, Scraped
from scraperd.wiring import worker_of
from tests.rig.clocks.lived import lived
from tests.rig.settings import configured

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.broker.ports import Epoch
    from scraperd.extract.rules import Rules
    from scraperd.jobs.record import Record
    from scraperd.scrape.request import Target

EVIL = "evil"


class Odd(BaseException):
    """What a library may raise that thinks nobody catches it."""


ERRORS = (ZeroDivisionError, RecursionError, MemoryError, UnicodeError, Odd, asyncio.CancelledError)


@dataclass
class Fault:
    """Raises `error` where `step` is asked for by the evil job, `times` times."""

    step: str = ""
    error: type[BaseException] = ZeroDivisionError
    times: int = 1

    def at(self, step: str, *, evil: bool = True) -> None:
        if step == self.step and evil and self.times:
            self.times -= 1
            raise self.error("built in")


class Body(bytes):
    """A body that raises when it is decoded."""

    fault: Fault

    def decode(self, *args: Any, **kwargs: Any) -> str:
        self.fault.at("decode")
        return super().decode(*args, **kwargs)


class Headers(dict[str, Any]):
    """Headers that raise when ours are read, or when the publisher's are copied."""

    fault: Fault
    read = False  # by the envelope, which looks at all of them once

    def get(self, name: str, default: Any = None) -> Any:
        self.fault.at("envelope")
        return super().get(name, default)

    def items(self) -> Any:
        self.fault.at("headers", evil=self.read)
        self.read = True
        return super().items()


class Raising(Delivery):
    """A delivery whose parts raise when they are read."""

    __slots__ = ("_crowded", "_overfull", "fault")
    fault: Fault

    @property
    def crowded(self) -> bool:
        self.fault.at("crowded")
        return self._crowded

    @crowded.setter
    def crowded(self, value: bool) -> None:
        self._crowded = value

    @property
    def overfull(self) -> int:
        self.fault.at("overfull")
        return self._overfull

    @overfull.setter
    def overfull(self, value: int) -> None:
        self._overfull = value

    async def ack(self) -> bool:
        self.fault.at("before the ack")
        acked = await super().ack()
        self.fault.at("behind the ack")
        return acked


@dataclass(eq=False)
class Kept:
    """An epoch that takes acks."""

    lost: asyncio.Future[str] = field(default_factory=asyncio.Future)
    acked: list[int] = field(default_factory=list)
    blames_a_publish: bool = False

    async def ack(self, delivery: Delivery) -> bool:
        self.acked.append(delivery.tag)
        return True

    def end(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)


class Sent:
    """A publisher that remembers; it can raise when the evil job is published."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.messages: list[tuple[Destination, Message]] = []

    async def publish(
        self, _epoch: Epoch, destination: Destination, message: Message, _until: float
    ) -> None:
        evil = EVIL.encode() in message.body
        self.fault.at("publish", evil=evil)
        self.fault.at("publish to the dead", evil=evil and destination == Into(Source.DEAD))
        self.messages.append((destination, message))

    def wait_within(self, seconds: float) -> float:
        return seconds

    def wait_at_least(self, seconds: float) -> float:
        return seconds

    def let_go(self) -> None:
        """Nothing waits for a queue here."""


class Told(Observer):
    """The observer as it is; it can raise when it is told of the evil job's end."""

    fault: Fault

    def record(self, record: Record) -> None:
        self.fault.at("record", evil=record.result.id == EVIL)
        super().record(record)


@dataclass
class Scrapes:
    """A scraper that raises where the fault says so."""

    fault: Fault
    evil: int = 0  # the tag of its delivery, which the task that works on it is named by

    def claim(self) -> Claim:
        task = asyncio.current_task()
        self.fault.at("begin", evil=task is not None and task.get_name() == f"job {self.evil}")
        return Budget(2**20).open()

    def known_rules(self, _raw: bytes) -> None:
        """None are compiled before a job asks for them."""

    async def rules(self, raw: bytes) -> Rules:
        self.fault.at("rules", evil=EVIL.encode() in raw)
        raise NotImplementedError

    def limited(self, _job: object, *, max_retries: float) -> UnsetType:
        """No limit of a job's is looser."""
        assert max_retries >= 0
        return UNSET

    async def peek(self, _body: bytes) -> Peeked:
        self.fault.at("peek")
        return Peeked(EVIL)

    async def scrape(
        self, target: Target, _rules: Rules | None, _claim: Claim, **_: Any
    ) -> Scraped:
        evil = EVIL in target.job.url
        self.fault.at("scrape", evil=evil)
        unwritable = self.fault.step == "encode" and evil
        return Scraped(Facts(content={"data": {"x": object()}} if unwritable else {}))


@dataclass
class Log:
    """A structlog logger's shape; keeps the lines, and can raise."""

    fault: Fault
    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **fields: Any) -> None:
        self.fault.at("log", evil=fields.get("id") == EVIL)
        self.lines.append((event, fields))

    error = debug = info

    def is_enabled_for(self, _level: int) -> bool:
        return True


class Steps:
    """A worker with its real settler, and what came of its jobs."""

    def __init__(self, fault: Fault, **config: Any) -> None:
        self.fault, self.epoch = fault, Kept()
        self.sent, self.log = Sent(fault), Log(fault)
        self.keys = Keys([b"k"], "team", time.time)
        settler = Settler(self.sent, Limits(2**20, 1800), self.keys, SYSTEM)
        self.observer = Told(log=self.log)
        self.observer.fault = fault
        self.scrapes: Any = Scrapes(fault)
        self.worker = worker_of(
            configured(**config), self.scrapes, settler, self.observer, "w", SYSTEM
        )
        self.tag = 0

    def deliver(
        self,
        ident: str,
        *,
        kind: type[Delivery] = Delivery,
        body: bytes = b"",
        signed: bool = True,
        **notes: Any,
    ) -> Delivery:
        source = notes.pop("source", Source.JOBS)
        names = ("reply_to", "message_id", "redeliveries")
        properties = {name: notes.pop(name) for name in names if name in notes}
        extract = {"extract": {EVIL: EVIL}} if self.fault.step == "rules" and ident == EVIL else {}
        body = body or json.dumps({"url": f"http://x/{ident}", "id": ident, **extract}).encode()
        self.tag += 1
        if ident == EVIL:
            self.scrapes.evil = self.tag
        ours = {name: value for name, value in notes.items() if type(value) in (int, str)}
        headers = Headers({**notes, **self.keys.sign(body, ours)} if signed else notes)
        headers.fault = self.fault if kind is Raising else Fault()
        if kind is Raising:
            body = Body(body)
            body.fault = self.fault
        delivery = kind.__new__(kind)
        if isinstance(delivery, Raising):
            delivery.fault = self.fault
        kind.__init__(
            delivery,
            body,
            headers,
            source,
            self.epoch,
            self.epoch.ack,
            tag=self.tag,
            **properties,
        )
        self.worker.accept(delivery)
        return delivery

    async def run(self, deliver: Callable[[], object]) -> None:
        running = asyncio.create_task(self.worker.run())
        await asyncio.sleep(0)
        deliver()
        async with lived() as seconds:
            while self.worker.in_flight:
                assert seconds() < 10
                await asyncio.sleep(0)
        await self.worker.drain(1)
        await running  # raises if one job's error has reached the worker

    def results(self, ident: str) -> list[dict[str, Any]]:
        sent = [m for to, m in self.sent.messages if isinstance(to, Results | Reply)]
        return [found for m in sent if (found := json.loads(m.body))["id"] == ident]

    @property
    def dead(self) -> list[Message]:
        return [m for to, m in self.sent.messages if to == Into(Source.DEAD)]


BEFORE = "envelope crowded decode overfull begin rules scrape publish headers".split()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("step", BEFORE)
async def test_a_job_that_raises_in_a_step_fails_alone(
    step: str, error: type[BaseException]
) -> None:
    """1 failed, 0 died: it is dead as `internal` with a traceback in the log, and those beside it
    are done.
    """
    steps = Steps(Fault(step, error))

    def deliver() -> None:
        for n in range(5):
            steps.deliver(f"good{n}")
        steps.deliver(EVIL, kind=Raising, message_id="m1")
        for n in range(5, 10):
            steps.deliver(f"good{n}")

    await steps.run(deliver)
    assert not steps.fault.times, "the fault did not come"
    assert [steps.results(f"good{n}")[0]["status"] for n in range(10)] == ["ok"] * 10
    [letter] = steps.dead
    ident = letter.headers["x-scraperd-job-id"]
    [result] = steps.results(ident)
    no_json = (step, error) == ("decode", RecursionError)  # that is nested too deep, and foreseen
    assert result["error"]["kind"] == ("invalid_job" if no_json else "internal")
    assert no_json or error.__name__ in result["error"]["message"]
    assert ident in (EVIL, "m1")
    assert no_json or any(e == "internal_error" and f["exc_info"] for e, f in steps.log.lines)
    assert sorted(steps.epoch.acked) == list(range(1, 12))
    assert not steps.epoch.lost.done()


async def test_a_result_that_cannot_be_written_fails_alone() -> None:
    """What no encoder takes ends as `internal` too."""
    steps = Steps(Fault("encode"))
    await steps.run(lambda: (steps.deliver(EVIL), steps.deliver("good")))
    assert steps.results(EVIL)[0]["error"]["message"] == "TypeError in w; see its log"
    assert steps.results("good")[0]["status"] == "ok"


@pytest.mark.parametrize("step", ["behind the ack", "record", "log"])
async def test_a_job_that_raises_after_its_ack_is_not_settled_again(step: str) -> None:
    """Its outcome is published: an error in what is only said of it is logged, and that is all."""
    steps = Steps(Fault(step))
    await steps.run(lambda: (steps.deliver(EVIL, kind=Raising), steps.deliver("good")))
    assert not steps.fault.times
    assert [result["status"] for result in steps.results(EVIL)] == ["ok"]
    assert steps.results("good")
    assert not steps.dead
    assert sorted(steps.epoch.acked) == [1, 2]


async def test_a_job_that_cannot_be_told_of_is_buried_bare() -> None:
    """Raising with the result and again with the first dead letter, it goes with its body alone."""
    steps = Steps(Fault("headers", times=2))
    await steps.run(lambda: (steps.deliver(EVIL, kind=Raising), steps.deliver("good")))
    [letter] = steps.dead
    assert EVIL.encode() in letter.body
    assert letter.reply_to is None
    assert steps.results("good")


@pytest.mark.parametrize("step", ["publish", "before the ack"])
async def test_a_job_that_cannot_be_settled_ends_its_generation(step: str) -> None:
    """Then the broker counts its delivery, for which it is not excused; the process lives."""
    steps = Steps(Fault(step, times=100))
    await steps.run(lambda: steps.deliver(EVIL, kind=Raising))
    assert steps.epoch.lost.done()
    assert "could not be settled" in steps.epoch.lost.result()
    assert not steps.epoch.acked
    again = Steps(Fault())
    back = again.deliver  # the same message, as the broker gives it back
    await again.run(lambda: back(EVIL, redeliveries=1))
    assert [to for to, _ in again.sent.messages] == [Into(Source.QUARANTINE)]


@pytest.mark.parametrize("step", ["peek", "headers", "publish to the dead"])
async def test_a_job_past_its_limit_that_raises_fails_alone(step: str) -> None:
    """Its body is not read here, and what else may raise ends it too."""
    steps = Steps(Fault(step), jobs__delivery_limit=3)
    notes = {"x-scraperd-strikes": 3, "source": Source.SOLO}
    await steps.run(lambda: (steps.deliver(EVIL, kind=Raising, **notes), steps.deliver("good")))
    [letter] = steps.dead
    assert letter.headers["x-scraperd-dead-kind"] == "internal"
    assert steps.results("good")


async def test_the_body_of_a_job_past_its_limit_is_not_read() -> None:
    """A body that is no job at all ends like any other, with what the helper saw."""
    steps = Steps(Fault(), jobs__delivery_limit=3)
    await steps.run(lambda: steps.deliver("", body=b"\xff{", **{"x-scraperd-strikes": 3}))
    [result] = steps.results(EVIL)
    assert "delivered 3 times before" in result["error"]["message"]


@pytest.mark.parametrize("lane", ["redelivered", "draining"])
async def test_a_job_that_cannot_be_moved_fails_alone(lane: str) -> None:
    """To the quarantine, or back to its queue when the process ends."""
    steps = Steps(Fault("headers"))

    def deliver() -> None:
        if lane == "draining":
            steps.worker.close()
        notes = {"redeliveries": 1} if lane != "draining" else {}
        steps.deliver(EVIL, kind=Raising, message_id=EVIL, **notes)

    running = asyncio.create_task(steps.worker.run())
    await asyncio.sleep(0)
    deliver()
    await steps.worker.drain(1)
    await running
    [letter] = steps.dead
    assert letter.headers["x-scraperd-job-id"] == EVIL


HEADERS = st.dictionaries(
    st.sampled_from(
        (
            "x-scraperd-attempt x-scraperd-job-id x-scraperd-turn x-scraperd-snoozes "
            "x-scraperd-strikes x-scraperd-reply-to x-delivery-count x-death CC other"
        ).split()
    ),
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=9)  # others are dropped where they are read
    | st.binary(max_size=9)
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from(["9" * 5000, "9999999999.999 x 9999999.999", "1.000 \x7f"]),
)


@given(
    headers=HEADERS,
    body=st.binary(max_size=20) | st.just(b'{"url":"http://x/"}'),
    ident=st.text(st.characters(codec="utf-8"), max_size=300),
    signed=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_no_property_ends_the_worker(
    headers: dict[str, Any],
    body: bytes,
    ident: str,
    signed: bool,  # noqa: FBT001 - drawn
) -> None:
    """Whatever stands in headers, properties and body: the job is moved or settled."""

    async def play() -> None:
        steps = Steps(Fault())
        source = Source.SOLO
        await steps.run(
            lambda: steps.deliver(
                "", body=body, source=source, message_id=ident, signed=signed, **headers
            )
        )
        assert steps.epoch.acked == [1]
        assert steps.sent.messages

    asyncio.run(play())
