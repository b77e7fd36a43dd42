"""What becomes of each callback: sent to a real site, put off, or buried with its reason.

May touch: a raw site on loopback; a wall clock that the test moves.
Must never: wait for a time of the ladder.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from standardwebhooks.webhooks import Webhook

from scraperd.base.clocks import SYSTEM, Clocks
from scraperd.callbacks.courier import MAX_ANSWER, URLS, Counts, Courier
from scraperd.callbacks.destinations import FAILURES
from scraperd.callbacks.ladder import ATTEMPTS, LADDER, MAX_AGE
from scraperd.callbacks.signing import read_secrets
from scraperd.fetch.client import Fetcher
from scraperd.jobs.callback.note import Note, Obituary
from scraperd.jobs.signing import Keys
from tests.rig.page import loopback
from tests.rig.sites.site import Site, page, redirect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scraperd.broker.ports import Move
    from tests.rig.sites.site import Visit

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEYS = Keys((b"k" * 32,), "p", lambda: 0.0)
BODY = b'{"type":"scraperd.result","data":{"id":"1"}}'


class Bench:
    """A courier, the callbacks it was given, and what it said."""

    def __init__(self, fetcher: Fetcher, urls: dict[str, str], **settings: Any) -> None:
        self.wall = SYSTEM.wall()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.counts = Counts()
        config = loopback(**{f"callbacks__{name}": value for name, value in settings.items()})
        self.courier = Courier(
            config.callbacks,
            urls,
            dict.fromkeys([*urls, URLS], read_secrets(SECRET)),
            fetcher,
            KEYS,
            self.counts,
            lambda event, **fields: self.said.append((event, fields)),
            Clocks(SYSTEM.monotonic, lambda: self.wall, lambda: 0.0),
        )

    def note(self, to: str, **more: Any) -> Note:
        """A callback that is due."""
        return replace(Note(to, "msg_1", "job 1", int(self.wall)), **more)

    async def give(self, note: Note) -> Move | None:
        """Give it as the queue does."""
        return await self.courier.handle(BODY, note.headers(BODY, KEYS))

    def left(self, move: Move | None) -> tuple[Note, float]:
        """The note that a callback leaves with, and for how many seconds."""
        assert move is not None
        assert move.seconds is not None
        note = Note.of(move.message.headers, move.message.body, KEYS)
        assert note is not None
        return note, note.due - self.wall


@asynccontextmanager
async def benched(urls: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Bench]:
    """A bench with connections of its own."""
    config = loopback()
    async with Fetcher(config.fetch, {}, connections=20, lookup_wait=None) as fetcher:
        yield Bench(fetcher, urls or {}, **settings)


async def test_a_callback_is_posted_and_signed(site: Site) -> None:
    """The body byte for byte, the standard's headers, no cookie, and nothing of the seal."""
    url = site.at("/hook", page(b"fine", headers=["Set-Cookie: a=b"]))
    async with benched({"billing": url}) as bench:
        assert await bench.give(bench.note("billing")) is None
        assert await bench.give(bench.note(url)) is None
    for visit in site.seen("/hook"):
        assert (visit.method, visit.body) == ("POST", BODY)
        assert visit.header("content-type") == "application/json"
        assert visit.header("cookie") is None
        Webhook(SECRET).verify(visit.body, dict(visit.headers))
        assert visit.header("webhook-id") == "msg_1"
        assert not [name for name, _ in visit.headers if name.lower().startswith("x-")]
    assert len(site.seen("/hook")) == 2
    assert bench.counts.outcomes["delivered"] == 2
    assert {event for event, _ in bench.said} == {"callback_delivered"}


async def test_a_failure_climbs_the_ladder_and_keeps_its_id(site: Site) -> None:
    """Each attempt has the same id and body; the last one ends in the queue of the dead."""
    url = site.at("/hook", page(status=404))
    async with benched() as bench:
        note = bench.note(url)
        for attempt, wait in enumerate(LADDER, 1):
            note, left = bench.left(await bench.give(note))
            assert note.attempt == attempt + 1
            assert wait <= left <= wait + 1
            bench.wall += left
        end = await bench.give(note)
    assert end is not None
    assert end.seconds is None
    assert Obituary.of(end.message.headers).reason == "exhausted"
    assert Note.of(end.message.headers, end.message.body, KEYS) == note
    assert {(v.header("webhook-id"), v.body) for v in site.seen("/hook")} == {("msg_1", BODY)}
    assert len(site.seen("/hook")) == ATTEMPTS
    assert bench.counts.outcomes == {"delivered": 0, "retried": 9, "deferred": 0, "dead": 1}


async def test_what_is_not_due_is_put_off_without_an_attempt(site: Site) -> None:
    """A wait of days is made of several tiers; the note stays as it is."""
    url = site.at("/hook", page())
    async with benched() as bench:
        note = bench.note(url, due=int(bench.wall) + 9000, attempt=4)
        assert bench.left(await bench.give(note))[0] == note
    assert not site.seen("/hook")


async def test_a_redirect_is_not_followed(site: Site) -> None:
    """Also to a place that would be allowed."""
    target = site.at("/target", page())
    url = site.at("/hook", redirect(target, 307))
    async with benched() as bench:
        note, _ = bench.left(await bench.give(bench.note(url)))
    assert note.attempt == 2
    assert not site.seen("/target")


async def test_410_and_a_forbidden_address_end_at_once(site: Site) -> None:
    """With their reasons; the second one without a connection."""
    gone = site.at("/gone", page(status=410))
    async with benched() as bench:
        ends = [
            await bench.give(bench.note(to))
            for to in (gone, "http://169.254.169.254/latest", "http://10.0.0.1/", "http://[::]/")
        ]
    reasons = [Obituary.of(end.message.headers).reason for end in ends if end]
    assert reasons == ["gone", "blocked", "blocked", "blocked"]


async def test_an_endless_answer_is_read_to_a_bound(site: Site) -> None:
    """Its status counts, and a few KiB of it are read; a silent receiver costs the timeout."""

    async def flood(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await visit.flood(b"x" * MAX_ANSWER)

    async def silent(visit: Visit) -> None:
        await visit.gone()

    async with benched(timeout=0.2) as bench:
        assert await bench.give(bench.note(site.at("/flood", flood))) is None
        note, _ = bench.left(await bench.give(bench.note(site.at("/silent", silent))))
    assert note.attempt == 2


async def test_what_others_wrote_is_not_sent(site: Site) -> None:
    """Without a seal, with a seal of other notes, and with one over another body."""
    url = site.at("/hook", page())
    async with benched() as bench:
        note = bench.note(url)
        sealed = note.headers(BODY, KEYS)
        elsewhere = replace(note, to=site.url("/other")).headers(BODY, KEYS)
        for headers, body in (
            ({}, BODY),
            ({name: value for name, value in sealed.items() if "seal" not in name}, BODY),
            (elsewhere | {"x-scraperd-callback-to": url}, BODY),
            (sealed, BODY + b" "),
            ({"x-scraperd-callback-to": ["x"], "x-scraperd-callback-seal": 7}, b"\xff"),
        ):
            end = await bench.courier.handle(body, headers)
            assert end is not None
            assert end.seconds is None
            assert Obituary.of(end.message.headers).reason == "forged"
    assert not site.visits


async def test_an_endpoint_that_is_not_known_here_may_be_known_elsewhere() -> None:
    """It waits without an attempt, but not for longer than four days."""
    async with benched() as bench:
        note, left = bench.left(await bench.give(bench.note("other")))
        assert note.attempt == 1
        assert left > 60
        bench.wall += MAX_AGE + 1
        end = await bench.give(note)
    assert end is not None
    assert Obituary.of(end.message.headers).reason == "too_old"


async def test_a_dead_receiver_is_left_alone_and_loses_nobody_an_attempt(site: Site) -> None:
    """After five failures the next callbacks leave unsent; those for others go."""
    bad = site.at("/bad", page(status=503))
    async with benched() as bench:
        for _ in range(FAILURES):
            await bench.give(bench.note(bad))
        for _ in range(20):
            note, left = bench.left(await bench.give(bench.note(bad)))
            assert note.attempt == 1
            assert left > 10
    assert len(site.seen("/bad")) == FAILURES
    assert bench.counts.outcomes["deferred"] == 20
    assert bench.counts.paused == 1
    assert [event for event, _ in bench.said].count("callbacks_paused") == 1


async def test_one_receiver_gets_a_few_at_once_and_others_do_not_wait(site: Site) -> None:
    """While one holds its callbacks, the rest of them come back later, and others are sent."""
    held = asyncio.Event()

    async def hold(visit: Visit) -> None:
        await held.wait()
        await visit.send(page())

    slow = site.at("/slow", hold)
    async with benched(per_host_concurrency=2) as bench, Site() as other:
        tasks = [asyncio.ensure_future(bench.give(bench.note(slow))) for _ in range(10)]
        await site.until(lambda site: len(site.seen("/slow")) == 2)
        done = [task.result() for task in tasks if task.done()]
        assert len(done) == 6  # two are sent, and two wait here
        assert all(bench.left(move)[0].attempt == 1 for move in done)
        assert await bench.give(bench.note(other.at("/quick", page()))) is None
        held.set()
        assert await asyncio.gather(*(t for t in tasks if not t.done())) == [None] * 4
    assert len(site.seen("/slow")) == 4


@pytest.mark.parametrize("seal", [True, False])
async def test_an_error_of_ours_ends_one_callback(seal: bool) -> None:  # noqa: FBT001 - a column
    """In the queue of the dead, so that it is there once the error is mended."""
    async with benched() as bench:
        headers = bench.note("billing").headers(BODY, KEYS) if seal else {}
        end = bench.courier.failed(BODY, headers, ValueError("a secret"))
    told = Obituary.of(end.message.headers)
    assert told.reason == ("internal" if seal else "forged")
    assert "a secret" not in json.dumps(end.message.headers)
