"""The headers of ours on a job that travels through our queues: written here, and read here.

May touch: headers as values, the keys that sign them. Pure.
Must never: raise over a header, or trust one that a publisher may have written.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from scraperd.base.text import printable
from scraperd.broker.ports import DROPPED, count_of, reason_of
from scraperd.contract import MAX_ATTEMPTS, Attempt
from scraperd.jobs.signing import (
    ATTEMPT,
    ATTEMPTS,
    JOB_ID,
    REPLY_TO,
    RUN,
    SNOOZES,
    STRIKES,
    TRIES,
    TURN,
    WAITS,
    claimed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scraperd.contract import Failure, Kind, Result
    from scraperd.jobs.signing import Keys

OURS: Final = "x-scraperd-"
STATUS: Final = "x-scraperd-status"
UNDELIVERED: Final = "x-scraperd-undelivered"  # why the broker gave the job up
_DEAD: Final = "x-scraperd-dead-"
_MAX_ADDRESS: Final = 255  # bytes
_MAX_MESSAGE: Final = 500  # characters of a failure's message
_MAX_WORKER: Final = 100  # characters of a process's name
_MAX_STORY: Final = 8192  # characters of the attempts; ours have half of that at most
_story = msgspec.json.Decoder(list[Attempt])
_DUE = re.compile(r"[0-9]{1,10}\.[0-9]{3}")
_TURN = re.compile(
    r"(?P<at>[0-9]{1,10}\.[0-9]{3}) (?P<host>[!-~]{1,255})( (?P<left>[0-9]{1,7}\.[0-9]{3}))?"
)


class Turn(Struct, frozen=True):
    """The turn that a host promised to a snoozed job.

    `at` is in seconds since 1970. `left` is the most that can be left of the wait when the job is
    back, in seconds, should a clock have been set meanwhile.
    """

    host: str
    at: float
    left: float = math.inf

    def encode(self) -> str:
        """As the header's value."""
        value = f"{self.at:.3f} {self.host}"
        return value if self.left == math.inf else f"{value} {self.left:.3f}"

    @classmethod
    def decode(cls, value: Any) -> Turn | None:
        """What `encode` wrote, or None."""
        match = _TURN.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return None
        return cls(match["host"], float(match["at"]), float(match["left"] or "inf"))


class Envelope(Struct, frozen=True):
    """What our headers say of a job, as far as their signature is valid.

    `ident` is its id; empty if nobody knew it when the job was moved, so that the message id, which
    is ours then, is not taken for one. `tries` and `waits` are believed from anybody: a forged one
    ends its own job only. So are `run`, `earlier` and `dropped`: they are told in its own result.
    `due` is when a retried job was to leave its delay queue; such a job has no turn. `due` and
    `signed_at` are in seconds since 1970.
    """

    run: int = 1
    attempt: int = 1
    earlier: tuple[Attempt, ...] = ()
    dropped: int = 0
    snoozes: int = 0
    strikes: int = 0
    turn: Turn | None = None
    due: float | None = None
    ident: str | None = None
    reply_to: str | None = None
    tries: int = 0
    waits: int = 0
    undelivered: str | None = None
    signed_at: int | None = None
    unverified: bool = False

    @classmethod
    def of(cls, headers: Mapping[str, Any], body: bytes, keys: Keys | None) -> Envelope:
        """Read a delivery's headers. Headers that none of `keys` has signed are left out.

        None is for the dead queue, where a claim leads to nothing.
        """
        if not any(name.startswith(OURS) for name in headers):
            return _NEW
        signed_at, unverified, claims = None, False, headers
        if keys is not None:
            claims, signed_at = keys.verified(body, headers)
            unverified = signed_at is None and claimed(headers)
        ident = headers.get(JOB_ID)
        # A dead letter that an operator moved by the broker's own means is begun again.
        again = keys is not None and f"{_DEAD}reason" in headers
        return cls(
            run=(count_of(headers.get(RUN)) or 1) + again,
            earlier=() if again else _told_of(headers.get(ATTEMPTS)),
            dropped=count_of(headers.get(DROPPED)),
            attempt=count_of(claims.get(ATTEMPT)) or 1,
            snoozes=count_of(claims.get(SNOOZES)),
            strikes=count_of(claims.get(STRIKES)),
            turn=Turn.decode(claims.get(TURN)),
            due=_due(claims.get(TURN)),
            ident=ident if isinstance(ident, str) else None,
            reply_to=_address(headers.get(REPLY_TO)),
            tries=count_of(headers.get(TRIES)),
            waits=count_of(headers.get(WAITS)),
            undelivered=_reason(headers),
            signed_at=signed_at,
            unverified=unverified,
        )

    def headers(self, keys: Keys, body: bytes) -> dict[str, Any]:
        """The headers that `of` reads, with a signature over the claims and the job's body."""
        claims = {ATTEMPT: self.attempt, **_noted({SNOOZES: self.snoozes, STRIKES: self.strikes})}
        if self.turn is not None:
            claims[TURN] = self.turn.encode()
        elif self.due is not None:
            claims[TURN] = f"{self.due:.3f}"
        if self.ident is not None:
            claims[JOB_ID] = self.ident
        if self.reply_to is not None:
            claims[REPLY_TO] = self.reply_to
        unsigned = {
            TRIES: self.tries,
            WAITS: self.waits,
            UNDELIVERED: self.undelivered,
            **self.story(),
        }
        return {**keys.sign(body, claims), **_noted(unsigned)}

    def story(self) -> dict[str, Any]:
        """The headers that are for people and dispatchers; without a value where nothing is."""
        earlier = msgspec.json.encode(self.earlier).decode() if self.earlier else None
        return {RUN: self.run if self.run > 1 else 0, ATTEMPTS: earlier, DROPPED: self.dropped}

    def retried(self, kind: Kind, worker: str, now: datetime, wait: float) -> Envelope:
        """For the next attempt, `wait` seconds from `now`: nothing is held against the job.

        No turn is promised. This attempt failed as `kind` in `worker`, which is noted.
        """
        this = Attempt(kind, now.isoformat(timespec="milliseconds"), worker[:_MAX_WORKER])
        return replace(
            self,
            attempt=self.attempt + 1,
            earlier=(*self.earlier, this)[-MAX_ATTEMPTS:],
            tries=self.tries + 1,
            strikes=0,
            turn=None,
            due=now.timestamp() + wait,
            undelivered=None,
        )

    def snoozed(self, turn: Turn) -> Envelope:
        """For the time until `turn`: the attempt stays the same."""
        return replace(
            self,
            snoozes=self.snoozes + 1,
            waits=self.waits + 1,
            turn=turn,
            due=None,
            undelivered=None,
        )


_NEW: Final = Envelope()


def reason_for(kind: str, undelivered: str | None, strikes: int) -> str:
    """Return why a job that failed as `kind` lies in the dead queue, in one word."""
    if undelivered:
        return undelivered
    if kind == "invalid_job":
        return "invalid"
    if kind != "internal":
        return "exhausted"
    return "poisonous" if strikes else "internal"


class Obituary(Struct, frozen=True):
    """What a dead letter says of its job's end; None where that is unknown."""

    kind: str | None = None
    message: str = ""
    at: datetime | None = None
    strikes: int = 0
    undelivered: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, Any]) -> Obituary:
        """Read what `obituary` wrote. Never raises, whatever a publisher put there."""
        message = headers.get(f"{_DEAD}message")
        kind = headers.get(f"{_DEAD}kind", headers.get(f"{_DEAD}reason"))  # before version 1.0
        return cls(
            kind if isinstance(kind, str) else None,
            message[:_MAX_MESSAGE] if isinstance(message, str) else "",
            _moment(headers.get(f"{_DEAD}at")),
            count_of(headers.get(STRIKES)),
            _reason(headers),
        )


def obituary(
    result: Result, kind: str, failure: Failure, envelope: Envelope, now: datetime
) -> dict[str, Any]:
    """The headers of a dead letter. They are not signed: they lead to nothing, people read them."""
    headers = {
        **told(result),
        f"{_DEAD}reason": reason_for(kind, envelope.undelivered, envelope.strikes),
        f"{_DEAD}kind": kind,
        f"{_DEAD}message": printable(failure.message, _MAX_MESSAGE),
        f"{_DEAD}at": now.isoformat(timespec="seconds"),
        "x-scraperd-worker": result.worker or "",
        **_noted(
            {
                STRIKES: envelope.strikes,
                UNDELIVERED: envelope.undelivered,
                REPLY_TO: envelope.reply_to,
                **envelope.story(),
            }
        ),
    }
    if failure.field is not UNSET:
        headers[f"{_DEAD}field"] = printable(failure.field)
    return headers


def told(result: Result, envelope: Envelope = _NEW) -> dict[str, Any]:
    """The headers of a result: what a consumer can read without opening the body."""
    headers = {
        JOB_ID: result.id,
        RUN: result.run or 1,
        ATTEMPT: result.attempt,
        STATUS: result.status,
    }
    return headers | _noted({SNOOZES: envelope.snoozes, DROPPED: envelope.dropped})


def _noted(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Those that say something: no count of 0, and no text that is empty or None."""
    return {name: value for name, value in headers.items() if value}


def foreign(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers that are not ours: they travel on with the job and its result."""
    return {name: v for name, v in headers.items() if not name.lower().startswith(OURS)}


def _moment(value: Any) -> datetime | None:
    """A time with its zone (UTC if it has none), of a datetime or of ISO 8601; or None."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(found, datetime):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _address(value: Any) -> str | None:
    if not isinstance(value, str) or len(value.encode(errors="replace")) > _MAX_ADDRESS:
        return None
    return value


def _told_of(value: Any) -> tuple[Attempt, ...]:
    """The attempts that a header tells of; none if it is not as we write it."""
    if not isinstance(value, str) or len(value) > _MAX_STORY or not value.isascii():
        return ()
    try:
        return tuple(_story.decode(value)[-MAX_ATTEMPTS:])
    except msgspec.DecodeError:
        return ()


def _due(value: Any) -> float | None:
    """When a retried job was due, in seconds since 1970; None if it is not as we write it."""
    return float(value) if isinstance(value, str) and _DUE.fullmatch(value) else None


def _reason(headers: Mapping[str, Any]) -> str | None:
    """Why the broker gave it up; None if nothing is noted of that."""
    return reason_of(headers[UNDELIVERED]) if UNDELIVERED in headers else None
