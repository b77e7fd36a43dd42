"""What a dead letter says of itself: why, since when, which job; and which letters are meant.

May touch: a delivery's body and headers. Pure.
Must never: trust a header's type, or change a text: who prints it makes it fit to be seen.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec
from msgspec import UNSET

from scraperd.base.hosts import HostSet
from scraperd.base.urls import MAX_URL, host_of, without_credentials
from scraperd.broker.marks import CRASHES
from scraperd.contract import Kind, is_ident
from scraperd.jobs.undelivered import UNDELIVERED, death
from scraperd.jobs.undelivered import reason as undelivered

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.codec import Delivery

KINDS: Final = frozenset(get_args(Kind))
REASONS: Final = (
    *("invalid", "exhausted", "poisonous", "internal"),
    *("expired", "delivery_limit", "rejected", "maxlen", "unknown"),
)
_OURS: Final = "x-scraperd-dead-"
_MAX_MESSAGE: Final = 500  # characters: as many as the daemon writes
_NAME = re.compile(r"[^\s/:?#@\\\[\]*%]+")  # what may be a host's name; yarl looks closer


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, read. Its texts are as they came; None where nothing is known.

    `ident` is the job's id as the daemon would find it. `url` is without credentials.
    """

    delivery: Delivery
    reason: str
    kind: str | None
    message: str
    died: datetime | None
    ident: str | None
    url: str | None
    host: str | None

    def line(self, now: datetime) -> dict[str, Any]:
        """The letter in short. `age` is in seconds."""
        return {
            "age": None if self.died is None else int((now - self.died).total_seconds()),
            "died": None if self.died is None else self.died.isoformat(timespec="seconds"),
            "reason": self.reason,
            "kind": self.kind,
            "host": self.host,
            "attempts": self.delivery.attempt,
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
            "headers": delivery.headers,
            **body,
        }


class _Glimpse(msgspec.Struct):
    id: Any = UNSET
    url: Any = UNSET


_glimpse = msgspec.json.Decoder(_Glimpse)


def read(delivery: Delivery) -> Letter:
    """A delivery of the dead queue as a Letter. Never raises, whatever a stranger put there.

    What RabbitMQ put there has x-death, which the daemon takes off: beside it a header of ours is
    the publisher's invention.
    """
    try:
        seen = _glimpse.decode(delivery.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        seen = _Glimpse()
    url = seen.url if isinstance(seen.url, str) and len(seen.url) <= MAX_URL else None
    if (last := death(delivery.headers)) is None:
        reason, kind, message, died = _by_us(delivery.headers)
    else:
        reason, kind, message = undelivered(delivery.headers), None, ""
        died = _time(last.get("time"))
    host = host_of(url) if url is not None else None
    return Letter(
        delivery,
        reason=reason,
        kind=kind,
        message=message,
        died=died,
        ident=_ident(delivery, seen.id),
        url=None if url is None else without_credentials(url),
        host=host,
    )


def _by_us(headers: dict[str, Any]) -> tuple[str, str | None, str, datetime | None]:
    """Reason, kind, message and time, as `Settler` writes them (jobs/settle.py)."""
    said = headers.get(f"{_OURS}reason")
    kind = said if isinstance(said, str) and said in KINDS else None
    message = headers.get(f"{_OURS}message")
    crashes = headers.get(CRASHES)
    if kind is None:
        reason = "unknown"
    elif UNDELIVERED in headers:
        reason = undelivered(headers)
    elif kind == "invalid_job":
        reason = "invalid"
    elif kind != "internal":
        reason = "exhausted"
    else:
        reason = "poisonous" if type(crashes) is int and crashes > 0 else "internal"
    text = message[:_MAX_MESSAGE] if isinstance(message, str) else ""
    return reason, kind, text, _time(headers.get(f"{_OURS}at"))


def _time(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(found, datetime):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _ident(delivery: Delivery, own: Any) -> str | None:
    """The job's id in the order in which the daemon looks for it (jobs/worker.py)."""
    for ident in (own, *delivery.idents):
        if isinstance(ident, str) and is_ident(ident):
            return ident
    return None


def host_pattern(text: str) -> str:
    """A pattern of hosts as HostSet takes it, spelled as a letter's host is: names in punycode.

    Raises ValueError if it is none, such as a URL or a host with its port.
    """
    star, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if text == "*":
        return text
    if ":" in name and not star:
        return str(ipaddress.IPv6Address(name.strip("[]")))
    host = host_of(f"http://{name}/") if _NAME.fullmatch(name) else None
    if not host:
        raise ValueError(f"{text!r} is no host")
    return star + host


@dataclass(frozen=True, slots=True)
class Filters:
    """Which letters are meant: of each filter that is given, any of its values must fit."""

    reasons: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    hosts: HostSet = HostSet(())  # noqa: RUF009 - immutable
    idents: frozenset[str] = frozenset()
    before: datetime | None = None
    after: datetime | None = None

    def __bool__(self) -> bool:
        """Whether any is given."""
        given = (self.reasons, self.kinds, self.hosts, self.idents, self.before, self.after)
        return any(bool(one) for one in given)

    def fit(self, letter: Letter) -> bool:
        """Whether `letter` is meant. One whose time is not known is neither old nor new."""
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
