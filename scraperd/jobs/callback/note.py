"""The message of a callback: the body that is sent, and the notes on it, sealed. Pure.

May touch: an outcome, headers as values, the keys of the fleet.
Must never: raise over a header, or believe a note without a valid seal.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Struct, structs

from scraperd.base.text import printable
from scraperd.broker.ports import Message
from scraperd.contract import encode
from scraperd.jobs.outcome import light

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from scraperd.jobs.outcome import Outcome
    from scraperd.jobs.signing import Keys

TYPE: Final = "scraperd.result"
_OURS: Final = "x-scraperd-callback-"
_TO: Final = f"{_OURS}to"  # a URL, or the name of an endpoint
_ID: Final = f"{_OURS}id"  # the webhook-id
_JOB: Final = f"{_OURS}job"  # the id of the job
_ATTEMPT: Final = f"{_OURS}attempt"  # the next attempt, from 1
_DUE: Final = f"{_OURS}due"  # when that is, in whole seconds since 1970
_SINCE: Final = f"{_OURS}since"  # when the callback was made, or replayed
_SEAL: Final = f"{_OURS}seal"
_REASON: Final = f"{_OURS}dead-reason"
_WHY: Final = f"{_OURS}dead-error"
_DIED: Final = f"{_OURS}dead-at"
_PURPOSE: Final = b"scraperd callback 1"
_NAMING: Final = b"scraperd webhook-id 1"
_ID_DIGITS: Final = 32  # hexadecimal: 128 bits
_MAX_WHY: Final = 500  # characters
_MAX_TEXT: Final = 8192  # characters of a header; a URL has no more


class Note(Struct, frozen=True):
    """What is noted on a callback. Times are in whole seconds since 1970."""

    to: str
    ident: str
    job: str
    since: int
    attempt: int = 1
    due: int = 0

    def headers(self, body: bytes, keys: Keys) -> dict[str, Any]:
        """Return the note as headers, sealed together with the body."""
        return {
            _TO: self.to,
            _ID: self.ident,
            _JOB: self.job,
            _ATTEMPT: self.attempt,
            _DUE: self.due,
            _SINCE: self.since,
            _SEAL: keys.seal(_PURPOSE, self.values(body)),
        }

    def values(self, body: bytes) -> Iterator[bytes]:
        """Yield what the seal is over."""
        for value in (self.to, self.ident, self.job, self.since, self.attempt, self.due):
            yield str(value).encode(errors="surrogatepass")
        yield hashlib.sha256(body).digest()

    @classmethod
    def unsealed(cls, headers: Mapping[str, Any]) -> Note:
        """Read a note as it stands; it may be anybody's. What is not readable is empty or 0."""
        return cls(
            _text(headers.get(_TO)),
            _text(headers.get(_ID)),
            _text(headers.get(_JOB)),
            _number(headers.get(_SINCE)),
            _number(headers.get(_ATTEMPT)),
            _number(headers.get(_DUE)),
        )

    @classmethod
    def of(cls, headers: Mapping[str, Any], body: bytes, keys: Keys) -> Note | None:
        """Read a note; None if it has no valid seal."""
        note, seal = cls.unsealed(headers), headers.get(_SEAL)
        if not isinstance(seal, str):
            return None
        return note if keys.is_sealed(seal, _PURPOSE, note.values(body)) else None

    def message(self, body: bytes, keys: Keys) -> Message:
        """Return the message that waits for its next attempt."""
        return Message(body, self.headers(body, keys))

    def dead(self, body: bytes, keys: Keys, obituary: Obituary) -> Message:
        """Return the message that is not sent any more."""
        return Message(body, self.headers(body, keys) | obituary.headers())

    def forged(self, body: bytes, obituary: Obituary) -> Message:
        """Return the dead message that another program wrote: without a seal of ours."""
        headers = {
            _TO: printable(self.to, _MAX_TEXT),  # whole: it may be ours, under an older key
            _ID: printable(self.ident, _MAX_WHY),
            _JOB: printable(self.job, _MAX_WHY),
        }
        return Message(body, headers | obituary.headers())


class Obituary(Struct, frozen=True):
    """Why a callback is dead: the reason in a word, and in words; `died` as in Note."""

    reason: str
    why: str
    died: int

    def headers(self) -> dict[str, Any]:
        """Return it as headers."""
        return {_REASON: self.reason, _WHY: printable(self.why, _MAX_WHY), _DIED: self.died}

    @classmethod
    def of(cls, headers: Mapping[str, Any]) -> Obituary:
        """Read it; what is not readable is empty or 0."""
        return cls(
            _text(headers.get(_REASON)), _text(headers.get(_WHY)), _number(headers.get(_DIED))
        )


def new_note(to: str, ident: str, job: str, now: datetime) -> Note:
    """Return the note of a callback that is made now."""
    return Note(to, ident, job, int(now.timestamp()))


def webhook_id(keys: Keys, job: str, run: int, body: bytes) -> str:
    """Return the `webhook-id` for one run of a job, the same however often the job is delivered.

    It is keyed: a receiver that knows the id could else try what the job's body holds.
    """
    values = job.encode(errors="surrogatepass"), b"%d" % run, hashlib.sha256(body).digest()
    return f"msg_{keys.seal(_NAMING, values)[:_ID_DIGITS]}"


def payload(outcome: Outcome, now: datetime, most: int) -> bytes:
    """Return the body that is sent, of `most` bytes at most.

    Past that the page's content is left out, and if need be `meta` and the redirects too; then
    `truncated` is true.
    """
    at = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    whole = _body(at, outcome.body)
    if len(whole) <= most:
        return whole
    less = light(outcome.result)
    body = _body(at, encode(less), truncated=True)
    if len(body) > most:
        least = structs.replace(less, meta=UNSET, redirects=UNSET)
        body = _body(at, encode(least), truncated=True)
    return body


def event_body(what: str, at: datetime, data: bytes) -> bytes:
    """Return the body that tells of something else than a result."""
    return _body(at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), data, what=what)


def _body(at: str, result: bytes, *, truncated: bool = False, what: str = TYPE) -> bytes:
    flag = b',"truncated":true' if truncated else b""
    return b'{"type":"%b","timestamp":"%b"%b,"data":%b}' % (
        what.encode(),
        at.encode(),
        flag,
        result,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= _MAX_TEXT else ""


def _number(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 1 << 53 else 0
