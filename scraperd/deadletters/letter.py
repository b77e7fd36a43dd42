"""What a dead letter says of itself: why, since when, which job; and which letters match.

May touch: a delivery's body and headers. Pure.
Must never: trust a header's type, or change a text: who prints it makes it fit to be seen.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final, Protocol, get_args

import msgspec
from msgspec import UNSET, Struct

from scraperd.base.hosts import HostSet
from scraperd.base.inflate import Undecodable, unpacked
from scraperd.base.urls import MAX_URL, host_of, without_credentials
from scraperd.broker.ports import Message
from scraperd.contract import Kind
from scraperd.jobs.envelope import Envelope, Obituary, foreign, reason_for
from scraperd.jobs.received import ident_of
from scraperd.jobs.signing import RUN

if TYPE_CHECKING:
    from datetime import datetime

    from scraperd.broker.ports import Delivery

KINDS: Final = frozenset(get_args(Kind))
REASONS: Final = (
    *("invalid", "exhausted", "poisonous", "internal"),
    *("expired", "delivery_limit", "rejected", "maxlen", "unknown"),
)
MAX_UNPACKED: Final = 16 * 1024 * 1024  # bytes; a job that is larger shows no URL


class Readable(Protocol):
    """What a dead letter of any queue says; see Letter."""

    @property
    def delivery(self) -> Delivery:
        """The delivery that it was read from."""

    @property
    def reason(self) -> str:
        """Why it is dead, in a word."""

    @property
    def kind(self) -> str | None:
        """The kind of failure of its job."""

    @property
    def died(self) -> datetime | None:
        """Since when it is dead."""

    @property
    def ident(self) -> str | None:
        """The id of its job."""

    @property
    def host(self) -> str | None:
        """The host that it is about."""

    @property
    def job(self) -> Message:
        """What is published again."""

    def line(self, now: datetime) -> dict[str, Any]:
        """Return it in short."""

    def whole(self) -> dict[str, Any]:
        """Return all of it, for JSON."""


class Letter(Struct, frozen=True):
    """A dead letter, read. Its texts are as they came; None where nothing is known.

    `ident` is the job's id as the daemon would find it. `url` is without credentials.
    """

    delivery: Delivery
    envelope: Envelope
    reason: str
    kind: str | None
    message: str
    died: datetime | None
    ident: str | None
    url: str | None
    host: str | None

    @property
    def job(self) -> Message:
        """The job as it was first published, without what was noted on it: for another run."""
        it = self.delivery
        return Message(
            it.body,
            {**foreign(it.headers), RUN: self.envelope.run + 1},
            correlation_id=it.correlation_id,
            reply_to=it.reply_to or self.envelope.reply_to,
            priority=it.priority,
            content_type=it.content_type,
            own=it.own,
        )

    def line(self, now: datetime) -> dict[str, Any]:
        """The letter in short. `age` is in seconds."""
        return {
            "age": None if self.died is None else int((now - self.died).total_seconds()),
            "died": None if self.died is None else self.died.isoformat(timespec="seconds"),
            "reason": self.reason,
            "kind": self.kind,
            "host": self.host,
            "run": self.envelope.run,
            "attempt": self.envelope.attempt,
            "id": self.ident,
            "url": self.url,
            "message": self.message,
            "bytes": len(self.delivery.body),
        }

    def whole(self) -> dict[str, Any]:
        """Body, properties and headers as they came; a body that is not UTF-8 as base64."""
        delivery = self.delivery
        try:
            body = {"body": delivery.body.decode()}
        except UnicodeDecodeError:
            text = base64.b64encode(delivery.body).decode()
            body = {"body": text, "body_encoding": "base64"}
        return {
            "id": self.ident,
            "reason": self.reason,
            "kind": self.kind,
            "died": None if self.died is None else self.died.isoformat(timespec="seconds"),
            "message_id": delivery.message_id,
            "correlation_id": delivery.correlation_id,
            "reply_to": delivery.reply_to,
            "priority": delivery.priority,
            "content_type": delivery.content_type,
            **{name: value for name, value in delivery.own._asdict().items() if value is not None},
            "headers": delivery.headers,
            **body,
        }


class _Peeked(msgspec.Struct):
    id: Any = UNSET
    url: Any = UNSET


_peeked = msgspec.json.Decoder(_Peeked)


def read(delivery: Delivery) -> Letter:
    """Return a delivery of the dead queue as a Letter. Never raises, for any untrusted content.

    A letter that RabbitMQ put there has x-death, which the daemon never publishes. Headers of ours
    on such a letter come from the publisher.
    """
    try:
        coding = delivery.own.content_encoding or ""
        seen = _peeked.decode(unpacked(delivery.body, coding, MAX_UNPACKED, "content_encoding"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Undecodable):
        seen = _Peeked()
    url = seen.url if isinstance(seen.url, str) and len(seen.url) <= MAX_URL else None
    envelope = Envelope.of(delivery.headers, delivery.body, None)
    if delivery.given_up is None:
        reason, kind, message, died = _by_us(delivery)
    else:
        reason, kind, message = delivery.given_up.reason, None, ""
        died = delivery.given_up.at
    host = host_of(url) if url is not None else None
    return Letter(
        delivery,
        envelope,
        reason=reason,
        kind=kind,
        message=message,
        died=died,
        ident=ident_of(delivery, envelope, seen.id),
        url=None if url is None else without_credentials(url),
        host=host,
    )


def _by_us(delivery: Delivery) -> tuple[str, str | None, str, datetime | None]:
    """Reason, kind, message and time, as the daemon notes them."""
    note = Obituary.of(delivery.headers)
    kind = note.kind if note.kind in KINDS else None
    reason = "unknown" if kind is None else reason_for(kind, note.undelivered, note.strikes)
    return reason, kind, note.message, note.at


class Filters(Struct, frozen=True):
    """Which letters match: of each filter that is given, one of its values must fit."""

    reasons: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    hosts: HostSet = HostSet(())
    idents: frozenset[str] = frozenset()
    before: datetime | None = None
    after: datetime | None = None

    def __bool__(self) -> bool:
        """Whether any is given."""
        given = (self.reasons, self.kinds, self.hosts, self.idents, self.before, self.after)
        return any(bool(one) for one in given)

    def fit(self, letter: Readable) -> bool:
        """Whether `letter` matches. A letter without a known time matches no filter of time."""
        if self.reasons and letter.reason not in self.reasons:
            return False
        if self.kinds and letter.kind not in self.kinds:
            return False
        if self.hosts and (letter.host is None or letter.host not in self.hosts):
            return False
        if self.idents and letter.ident not in self.idents:
            return False
        if self.before and (letter.died is None or letter.died > self.before):
            return False
        return not self.after or (letter.died is not None and letter.died >= self.after)
