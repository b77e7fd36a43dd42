"""What becomes of a callback out of its queue: read, sent, and to be acked, put off or buried.

May touch: what fetches pages, the clocks it is handed.
Must never: send a callback whose seal is not valid, follow a redirect, or raise for what a receiver
does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec.structs import replace

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.base.histogram import Histogram
from scraperd.base.text import printable
from scraperd.base.urls import check_url, exact, host_name, origin_of
from scraperd.broker.ports import Move
from scraperd.callbacks.destinations import Destinations
from scraperd.callbacks.ladder import (
    MAX_AGE,
    Again,
    Delivered,
    Ended,
    is_trouble,
    outcome_of,
)
from scraperd.fetch.message import Request
from scraperd.jobs.callback.note import Note, Obituary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yarl import URL

    from scraperd.base.clocks import Clocks
    from scraperd.callbacks.destinations import Destination
    from scraperd.callbacks.ladder import Outcome
    from scraperd.callbacks.signing import Signer
    from scraperd.config.tables import CallbackSettings
    from scraperd.contract import Failure
    from scraperd.fetch.client import Fetcher
    from scraperd.fetch.message import Response
    from scraperd.jobs.signing import Keys

MAX_ANSWER: Final = 4096  # bytes of a receiver's answer that are read
SHORT_OF: Final = 15.0  # seconds until the next trial, if this process has no descriptor left
UNKNOWN_FOR: Final = 300.0  # seconds until another process may know an endpoint that this does not
URLS: Final = ""  # the name of the signer for URLs
OUTCOMES: Final = ("delivered", "retried", "deferred", "dead")


class Events(Protocol):
    """What this room tells its owner. Fields are plain values, fit for a log."""

    def __call__(self, event: str, **fields: Any) -> None:
        """Something happened."""


@dataclass(slots=True)
class Counts:
    """What became of callbacks here, and how long attempts took."""

    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    seconds: Histogram = field(default_factory=Histogram)
    running: int = 0
    """Attempts that are on their way."""
    paused: int = 0
    """Destinations that get none but trials, at the end of the last attempt."""


class Courier:
    """Sends callbacks. `urls` are those of the endpoints by name; `signers` too, and for URLs."""

    def __init__(  # noqa: PLR0917 - as the daemon names its parts
        self,
        settings: CallbackSettings,
        urls: Mapping[str, str],
        signers: Mapping[str, Signer],
        fetcher: Fetcher,
        keys: Keys,
        counts: Counts,
        events: Events,
        clocks: Clocks,
    ) -> None:
        self._settings = settings
        self._urls = urls
        self._signers = signers
        self._fetcher = fetcher
        self._keys = keys
        self._counts = counts
        self._events = events
        self._clocks = clocks
        self._destinations = Destinations(settings.per_host_concurrency, clocks)
        self._slots = asyncio.Semaphore(settings.concurrency)

    async def handle(self, body: bytes, headers: Mapping[str, Any]) -> Move | None:
        """Return where a callback goes next; None if its receiver has it."""
        note = Note.of(headers, body, self._keys)
        if note is None:
            words = "its seal is not valid: another program wrote it, or the signing key changed"
            return self._bury(Note.unsealed(headers), body, Ended("forged", words))
        if (left := note.due - self._clocks.wall()) > 0:
            return Move(note.message(body, self._keys), left)
        name, url = self._target(note)
        if url is None:
            what = "a URL" if ":" in note.to else f"the endpoint {note.to}"
            return self._later(note, body, UNKNOWN_FOR, f"no process may send to {what}")
        destination = self._destinations.of(str(origin_of(url)), chosen=name == URLS)
        wait = await destination.enter()
        if wait is not None:
            return self._later(note, body, wait, "the receiver failed too often to be tried")
        outcome = await self._attempt(destination, note, name, url, body)
        return self._move(note, body, url, outcome)

    def _target(self, note: Note) -> tuple[str, URL | None]:
        """The name of the signer, and the URL; None for what this process may not send to."""
        if ":" not in note.to:
            found = self._urls.get(note.to)
            return note.to, None if found is None else exact(found)
        allowed = URLS in self._signers and check_url(note.to) is None
        return URLS, exact(note.to) if allowed else None

    async def _attempt(
        self, destination: Destination, note: Note, name: str, url: URL, body: bytes
    ) -> Outcome | float:
        """Send it once; the seconds to the next trial, if this process could not even try."""
        took, failed = None, False
        try:
            async with self._slots:
                began = self._clocks.monotonic()
                answer = await self._post(self._request(note, name, url, body))
                took = self._clocks.monotonic() - began
            failed = is_trouble(answer)
        except OutOfDescriptors:
            return SHORT_OF
        finally:
            self._leave(destination, url, took, failed=failed)
        self._counts.seconds.add(took)
        return outcome_of(answer, note.attempt, self._clocks.roll(), self._clocks.now())

    async def _post(self, request: Request) -> Response | Failure:
        self._counts.running += 1
        try:
            return await self._fetcher.fetch(request)
        finally:
            self._counts.running -= 1

    def _leave(
        self, destination: Destination, url: URL, took: float | None, *, failed: bool
    ) -> None:
        """Give the place at a destination back; say if it gets none from now on, or gets some."""
        was_paused = destination.paused
        pause = self._destinations.leave(destination, took, failed=failed)
        self._counts.paused = self._destinations.paused
        if pause is not None and not was_paused:
            self._events("callbacks_paused", host=host_name(url), seconds=pause)
        elif was_paused and not destination.paused:
            self._events("callbacks_resumed", host=host_name(url))

    def _request(self, note: Note, name: str, url: URL, body: bytes) -> Request:
        signed = self._signers[name].headers(note.ident, int(self._clocks.wall()), body)
        return Request(
            "POST",
            url,
            {"Content-Type": "application/json", **signed},
            body,
            self._settings.timeout,
            MAX_ANSWER,
            truncate=True,
            final=True,
        )

    def _move(self, note: Note, body: bytes, url: URL, outcome: Outcome | float) -> Move | None:
        """Tell what came of an attempt; where the callback goes next."""
        host = host_name(url)
        match outcome:
            case Delivered(status):
                self._count("delivered")
                self._events(
                    "callback_delivered",
                    id=note.job,
                    callback=note.ident,
                    host=host,
                    attempt=note.attempt,
                    http_status=status,
                )
                return None
            case Again(why, wait):
                self._count("retried")
                self._events(
                    "callback_failed",
                    id=note.job,
                    callback=note.ident,
                    host=host,
                    attempt=note.attempt,
                    error=why,
                    retry_in=round(wait, 1),
                )
                return self._put_off(replace(note, attempt=note.attempt + 1), body, wait)
            case Ended():
                return self._bury(note, body, outcome)
            case seconds:
                self._count("deferred")
                return self._put_off(note, body, seconds)

    def _later(self, note: Note, body: bytes, seconds: float, why: str) -> Move:
        """Put it off without an attempt, unless it is too old for that."""
        if self._clocks.wall() - note.since > MAX_AGE:
            return self._bury(note, body, Ended("too_old", f"older than 4 days, and {why}"))
        self._count("deferred")
        return self._put_off(note, body, seconds)

    def _put_off(self, note: Note, body: bytes, seconds: float) -> Move:
        due = int(self._clocks.wall() + seconds) + 1  # whole seconds; never before its time
        return Move(replace(note, due=due).message(body, self._keys), seconds)

    def _bury(self, note: Note, body: bytes, end: Ended) -> Move:
        self._count("dead")
        self._events(
            "callback_dead",
            id=printable(note.job, 255),
            callback=printable(note.ident),
            reason=end.reason,
            error=end.why,
        )
        obituary = Obituary(end.reason, end.why, int(self._clocks.wall()))
        if end.reason == "forged":  # no seal of ours on what others wrote
            return Move(note.forged(body, obituary))
        return Move(note.dead(body, self._keys, obituary))

    def failed(self, body: bytes, headers: Mapping[str, Any], error: BaseException) -> Move:
        """Return where a callback goes that met an error of ours, which the log has."""
        note = Note.of(headers, body, self._keys)
        words = f"{type(error).__name__}; see the log of the process"
        if note is None:
            return self._bury(Note.unsealed(headers), body, Ended("forged", words))
        return self._bury(note, body, Ended("internal", words))

    def _count(self, outcome: str) -> None:
        self._counts.outcomes[outcome] += 1
