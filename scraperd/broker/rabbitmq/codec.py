"""The two ends of the wire: a Message to publish and a Delivery to settle.

May touch: AMQP property types, at the edge.
Must never: look into a body.
"""

from __future__ import annotations

import itertools
import re
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pamqp import commands as spec
from pamqp.encode import field_table

from scraperd.broker.marks import (
    ATTEMPT,
    CRASHES,
    JOB_ID,
    PARKS,
    REPLY_TO,
    TRIES,
    TURN,
    WAITS,
    claimed,
)
from scraperd.broker.rabbitmq.wire import header_decoding

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

    from scraperd.broker.marks import Keys
    from scraperd.broker.rabbitmq.generation import Generation

_COUNT: Final = "x-delivery-count"
_BROKERS_OWN: Final = ("x-death", "x-first-death-", "x-last-death-", _COUNT)
_ROUTING: Final = frozenset({"cc", "bcc"})  # RabbitMQ would send copies wherever they say
_OURS: Final = "x-scraperd-"
_MAX_SHORT: Final = 255  # bytes of an AMQP short string
_MAX_NAME: Final = 128  # bytes of a header's name (AMQP 0-9-1 section 4.2.5.5)
MOST_HEADERS: Final = 100  # of a publisher; with ours and the broker's below header_decoding.WIDEST
_MAX_HEADERS: Final = 64 * 1024  # bytes; they share one frame of 128 KiB with what we add
_MAX_MARK: Final = 1024  # bytes of one header of ours or the broker's
_MAX_COUNT: Final = 1_000_000  # above it a header is a joke or an attack
_FRESH: Final = 2 * 3600.0  # seconds: the longest delay queue, and as long in the jobs queue
_TURN = re.compile(
    r"(?P<at>[0-9]{1,10}\.[0-9]{3}) (?P<host>[!-~]{1,255})( (?P<left>[0-9]{1,7}\.[0-9]{3}))?"
)
_process: Final = uuid.uuid4().hex
_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Message:
    """What is published, where to, and its properties. Always persistent, confirmed, mandatory."""

    exchange: str
    routing_key: str
    body: bytes
    headers: dict[str, Any] = field(default_factory=dict)
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    content_type: str | None = "application/json"

    def properties(self) -> spec.Basic.Properties:
        """AMQP properties with a message id no other publish has: confirms are told apart by it."""
        return spec.Basic.Properties(
            content_type=self.content_type,
            delivery_mode=2,
            headers=self.headers,
            correlation_id=self.correlation_id,
            reply_to=self.reply_to,
            priority=self.priority,
            message_id=f"{_process}-{next(_serial)}",
            timestamp=datetime.now(UTC),
            app_id="scraperd",
        )


@dataclass(eq=False, slots=True)
class Delivery:
    """One delivery of one message. Settled once, by its own generation's channel or not at all."""

    body: bytes
    headers: dict[str, Any]
    message_id: str | None
    correlation_id: str | None
    reply_to: str | None
    priority: int | None
    content_type: str | None
    tag: int
    generation: Generation
    queue: str = ""
    arrived: float = field(default_factory=time.monotonic)
    forgiven: int = 0  # of its returns, those that it is known not to have caused
    least: int = 0  # how often it has come back at least, as it is in this queue
    signed_at: int | None = None  # when its marks were signed, in seconds since 1970
    disbelieved: bool = False  # it had marks that nobody vouches for
    settled: bool = False
    bare: bool = False
    cut: bool = False  # it has more headers than are read
    crowded: bool = False  # a large one, for which there was no room beside the others

    @property
    def returns(self) -> int:
        """How often the broker got it back to this queue without an ack (quorum queues count)."""
        return self.number(_COUNT)

    @property
    def crashes(self) -> int:
        """How often it came back without an outcome, in all queues, and not for a known reason."""
        before = max(self.least, self.number(CRASHES))
        return max(0, before + self.returns - self.forgiven)

    @property
    def witnessed(self) -> bool:
        """Whether the broker itself, or a mark that is not old, says that it came back.

        An old one may be a copy that someone kept, and what it leads to is paid by all others.
        """
        age = time.time() - (self.signed_at or 0)
        return self.returns > 0 or -_FRESH < age < _FRESH

    @property
    def fingerprint(self) -> int:
        """The same for each delivery of one message in this process, from one queue."""
        return hash((self.body, self.message_id, self.correlation_id, self.queue))

    @property
    def idents(self) -> tuple[Any, ...]:
        """What may name the job if its body does not; a message of ours names it by a header."""
        named = self.headers.get(JOB_ID)
        if named == "":  # moved before, and nobody knew: its message id is ours
            return ()
        return (named, self.message_id, self.correlation_id)

    @property
    def asked_by(self) -> str | None:
        """The queue that the result is wanted in, also where it is only a header any more."""
        kept = self.headers.get(REPLY_TO)
        if self.reply_to or not isinstance(kept, str):
            return self.reply_to
        return kept if len(kept.encode(errors="replace")) <= _MAX_SHORT else None

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1. A strange header counts as the first."""
        return self.number(ATTEMPT) or 1

    @property
    def parks(self) -> int:
        """How often the job was parked, in all its attempts."""
        return self.number(PARKS)

    @property
    def tries(self) -> int:
        """How many retries there were in all, believed or not: a forged count ends its own job."""
        return self.number(TRIES)

    @property
    def waits(self) -> int:
        """How many parks there were in all, believed or not."""
        return self.number(WAITS)

    def number(self, header: str) -> int:
        """A count that a header of ours or the broker's holds; 0 if it is none, or a joke."""
        value = self.headers.get(header, 0)
        return value if type(value) is int and 0 <= value <= _MAX_COUNT else 0

    @property
    def turn(self) -> tuple[str, float, float] | None:
        """Host, time (seconds since 1970) and most seconds left of the turn it was parked for."""
        value = self.headers.get(TURN)
        match = _TURN.fullmatch(value) if isinstance(value, str) else None
        return (match["host"], float(match["at"]), float(match["left"] or "inf")) if match else None

    def passed_on(self) -> dict[str, Any]:
        """The publisher's own headers, fit to travel on with the job or its result.

        A `bare` delivery has none: whatever of a stranger's properties ended the
        connection each time before must not do so when the job gets its outcome.
        """
        if self.bare:
            return {}
        return {
            name: value
            for name, value in self.headers.items()
            if not name.lower().startswith((*_BROKERS_OWN, _OURS)) and name.lower() not in _ROUTING
        }

    @property
    def overfull(self) -> bool:
        """Whether it has more headers of the publisher's than MOST_HEADERS."""
        many = len(self.headers) > MOST_HEADERS
        return self.cut or (many and len(self.passed_on()) > MOST_HEADERS)

    async def ack(self) -> bool:
        """Tell the broker that the outcome is safe.

        False if the generation has ended: then the broker delivers the job
        again, and this ack must not be sent.
        """
        if self.settled:
            raise RuntimeError(f"delivery {self.tag} is settled already")
        self.settled = True
        return await self.generation.ack(self.tag)


def delivery_of(
    message: DeliveredMessage, generation: Generation, queue: str, keys: Keys | None
) -> Delivery:
    """The client library's delivery, from `queue`, as ours.

    Marks that were not signed by one of `keys` are taken off. None is for a queue that only we
    write to, and where marks lead to nothing: the dead one.
    """
    properties = message.header.properties
    headers, signed_at, disbelieved = _sound(properties.headers), None, False
    if keys is not None:
        disbelieved = claimed(headers)
        headers, signed_at = keys.believed(message.body, headers)
        disbelieved = disbelieved and signed_at is None
    if not message.redelivered:  # RabbitMQ counts from the second delivery on; this is from
        headers.pop(_COUNT, None)  # the publisher, or from before someone moved the message
    return Delivery(
        body=message.body,
        headers=headers,
        message_id=_text(properties.message_id),
        correlation_id=_text(properties.correlation_id),
        reply_to=_text(properties.reply_to),
        priority=properties.priority,
        content_type=_text(properties.content_type),
        tag=message.delivery_tag or 0,
        generation=generation,
        queue=queue,
        signed_at=signed_at,
        disbelieved=disbelieved,
        cut=isinstance(properties.headers, header_decoding.Cut),
    )


def _sound(headers: Any) -> dict[str, Any]:
    """Headers that can be sent again; those that can't (a strange type) are left behind.

    A content header is one frame: where they are too large for it, only ours stay.
    """
    if not headers:
        return {}
    if len(max(headers, key=len)) > _MAX_NAME:
        headers = {name: v for name, v in headers.items() if len(name.encode()) <= _MAX_NAME}
    if 0 < _size(headers) <= _MAX_HEADERS:
        return dict(headers)
    sound = {name: v for name, v in headers.items() if _size({name: v}) > 0}
    if _size(sound) <= _MAX_HEADERS:
        return sound
    ours = {name: v for name, v in sound.items() if name.startswith((_OURS, _COUNT))}
    return {name: v for name, v in ours.items() if _size({name: v}) <= _MAX_MARK}


def _size(headers: Any) -> int:
    """Bytes on the wire; 0 for what can't be encoded."""
    try:
        return len(field_table(headers))
    except Exception:  # noqa: BLE001 - the library raises whatever a stranger's type provokes
        return 0


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


header_decoding.install()
