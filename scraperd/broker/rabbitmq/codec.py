"""AMQP deliveries and properties as the values of the ports, and back.

May touch: the values of `wire`, what other protocols leave of theirs, the clock for the time of a
publish.
Must never: look into a body but through `protocols`, or trust a header.
"""

from __future__ import annotations

import itertools
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from scraperd.broker.ports import (
    DROPPED,
    NOTHING,
    Delivery,
    GivenUp,
    Message,
    Own,
    Source,
    count_of,
    reason_of,
)
from scraperd.broker.rabbitmq.protocols.addresses import (
    RESPONSE_TOPIC,
    address_of,
    topic_address,
)
from scraperd.broker.rabbitmq.protocols.amqp10 import TYPE as FRAMED
from scraperd.broker.rabbitmq.protocols.amqp10 import UnreadableError, content_of
from scraperd.broker.rabbitmq.protocols.application_properties import (
    HEADER as APPLICATION_PROPERTIES,
)
from scraperd.broker.rabbitmq.protocols.application_properties import properties_in
from scraperd.broker.rabbitmq.topology import MAX_REDELIVERIES
from scraperd.broker.rabbitmq.wire.codec.frames import room
from scraperd.broker.rabbitmq.wire.codec.properties import Properties, write_properties
from scraperd.broker.rabbitmq.wire.codec.tables import MAX_NAME_BYTES, Cut, write_table
from scraperd.broker.rabbitmq.wire.errors import UnsendableError
from scraperd.broker.rabbitmq.wire.machine import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scraperd.broker.ports import Epoch
    from scraperd.broker.rabbitmq.wire.machine import Delivered

_COUNT: Final = "x-delivery-count"
# Of dead letters, federation, shovels and other protocols. A result with `x-received-from` would
# not be federated back: https://www.rabbitmq.com/docs/federation-reference says that such a message
# has arrived. With `x-amqp-1.0-properties` RabbitMQ 3 gives a reader of AMQP 1.0 those of the job.
# Over `x-mqtt-publish-qos` of a type that is not its own it ends the connection of an MQTT client.
_BROKERS_OWN: Final = (
    *("x-death", "x-first-death-", "x-last-death-", _COUNT, "x-acquired-count"),
    *("x-received-from", "x-shovelled"),
    *("x-amqp-1.0-", "x-mqtt-", RESPONSE_TOPIC),
)
_ROUTING: Final = frozenset({"cc", "bcc"})  # RabbitMQ would send copies wherever they say
# A publish with it ends in 406 on a channel without a consumer of it. No job has it that came by
# AMQP 0-9-1: RabbitMQ writes the client's address in its place.
_UNNAMED: Final = "amq.rabbitmq.reply-to"
_OURS: Final = "x-scraperd-"
_APP: Final = "scraperd"  # of what we publish, unless it is a job that has its own
MAX_HEADERS: Final = 100  # of a publisher; with all others fewer than tables.MAX_ENTRIES
_MAX_HEADERS: Final = 64 * 1024  # bytes; they share one frame of 128 KiB with what we add
_MAX_OURS: Final = 1024  # bytes of one header of ours or the broker's
_MAX_SHORT: Final = 512  # bytes of a header of ours that is cut last: an id, a claim, a count
_MARK_BYTES: Final = len(write_table({DROPPED: 1 << 40}))
_TABLE_BYTES: Final = len(write_table({}))  # of a table without entries
_process: Final = uuid.uuid4().hex
_serial = itertools.count(1)


def properties_of(
    message: Message, ident: str | None = None, *, frame_max: int = MAX_FRAME_BYTES
) -> Properties:
    """AMQP properties, without what the broker would act on or has written itself.

    Without `ident` the message id is one that no other publish has: returns are told apart by it.
    They fit into one frame of `frame_max` bytes: RabbitMQ ends the connection over a larger one.
    """
    own = message.own
    properties = Properties(
        content_type=message.content_type,
        content_encoding=own.content_encoding,
        delivery_mode=2,
        headers=travelling(message.headers),
        correlation_id=message.correlation_id,
        reply_to=None if message.reply_to == _UNNAMED else message.reply_to,
        priority=message.priority,
        message_id=ident or f"{_process}-{next(_serial)}",
        timestamp=int(time.time()) if own.timestamp is None else own.timestamp,
        message_type=own.type,
        app_id=_APP if own is NOTHING else own.app_id,
    )
    # Headers have 64 KiB at most, with ours: they fit into RabbitMQ's default without a look.
    return properties if frame_max >= MAX_FRAME_BYTES else _within(properties, frame_max)


def _within(properties: Properties, frame_max: int) -> Properties:
    """The properties with as many headers as a frame takes, and a mark that says how many are cut.

    Kept first are the short ones of ours, which have a job's attempt, id and signature. Then come
    the long ones of ours, and then the publisher's.
    """
    headers, most = properties.headers or {}, room(frame_max)
    if not headers or len(write_properties(properties)) <= most:
        return properties
    left = most - len(write_properties(replace(properties, headers=None))) - _MARK_BYTES
    kept: dict[str, Any] = {}
    for name, value in sorted(headers.items(), key=_importance):
        size = _size({name: value}) - _TABLE_BYTES
        if name != DROPPED and 0 < size <= left:
            kept[name] = value
            left -= size
    lost = len(headers.keys() - kept.keys() - {DROPPED})
    kept[DROPPED] = count_of(headers.get(DROPPED)) + lost
    return replace(properties, headers=kept)


def _importance(header: tuple[str, Any]) -> int:
    """The place of a header among those that are kept, from 0: a sort leaves equals in order."""
    name, value = header
    if not name.lower().startswith(_OURS):
        return 2
    return int(_size({name: value}) > _MAX_SHORT)


def travelling(headers: Mapping[str, Any]) -> dict[str, Any]:
    """`headers` without the broker's own and those that it would route by."""
    return {
        name: value
        for name, value in headers.items()
        if not name.lower().startswith(_BROKERS_OWN) and name.lower() not in _ROUTING
    }


def delivery_of(
    message: Delivered,
    epoch: Epoch,
    source: Source,
    on_ack: Callable[[Delivery], Awaitable[bool]],
) -> Delivery:
    """The delivery of `wire`, from the queue that is `source`, as that of the ports."""
    properties = message.properties
    headers, dropped = _sound(_theirs(properties.headers))
    if dropped:
        headers[DROPPED] = count_of(headers.get(DROPPED)) + dropped
    if not message.redelivered:  # RabbitMQ counts from the second delivery on; this is from
        headers.pop(_COUNT, None)  # the publisher, or from before someone moved the message
    cut = isinstance(properties.headers, Cut)
    own, body, unreadable = _own(properties), message.body, ""
    if properties.message_type == FRAMED:
        own, body, unreadable = _unframed(own, body)
    return Delivery(
        body=body,
        headers=headers,
        source=source,
        epoch=epoch,
        on_ack=on_ack,
        message_id=_text(properties.message_id),
        correlation_id=_text(properties.correlation_id),
        reply_to=_reply_to(properties, headers),
        priority=properties.priority,
        content_type=_text(properties.content_type),
        own=own,
        redeliveries=count_of(headers.get(_COUNT)),
        given_up=given_up(headers),
        overfull=MAX_HEADERS if cut or _is_overfull(headers) else 0,
        unreadable=unreadable,
        tag=message.tag,
    )


def _unframed(own: Own, body: bytes) -> tuple[Own, bytes, str]:
    """A body of AMQP 1.0 as its publisher wrote it, and its properties, without the mark of that.

    Or all as it came, and why the body cannot be read.
    """
    try:
        content = content_of(body)
    except UnreadableError as error:
        return own, body, str(error)
    if content is body:
        return own, body, ""
    unmarked = own._replace(type=None)
    return NOTHING if unmarked == NOTHING else unmarked, content, ""


def _reply_to(properties: Properties, headers: Mapping[str, Any]) -> str | None:
    """Where the result is wanted: the publisher's reply_to, or a response topic of MQTT 5."""
    said = _text(properties.reply_to)
    if said is not None:
        return address_of(said)
    return topic_address(headers.get(RESPONSE_TOPIC)) if headers else None


def given_up(headers: Mapping[str, Any]) -> GivenUp | None:
    """Why and when the broker dead-lettered the message last, by `x-death`; None if it did not."""
    found = headers.get("x-death")
    if not isinstance(found, list) or not found:
        return None
    last = found[0] if isinstance(found[0], dict) else {}
    reason, at = reason_of(last.get("reason")), last.get("time")
    when = _moment(at) if isinstance(at, datetime) else None
    return GivenUp(reason, when, MAX_REDELIVERIES if reason == "delivery_limit" else None)


def _moment(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _is_overfull(headers: Mapping[str, Any]) -> bool:
    """True if there are more headers of the publisher's than MAX_HEADERS."""
    if len(headers) <= MAX_HEADERS:
        return False
    theirs = [name for name in travelling(headers) if not name.lower().startswith(_OURS)]
    return len(theirs) > MAX_HEADERS


def _own(properties: Properties) -> Own:
    """What a publisher said of a message, and what neither the broker nor a job acts on."""
    if properties.app_id == _APP:
        return NOTHING
    encoding, kind = _text(properties.content_encoding), _text(properties.message_type)
    app, at = _text(properties.app_id), properties.timestamp
    return Own(encoding, kind, app, at) if encoding or kind or app or at is not None else NOTHING


def _theirs(headers: dict[str, Any] | None) -> dict[str, Any] | None:
    """The headers of a message, with those that its publisher wrote by AMQP 1.0 among them."""
    if not headers or APPLICATION_PROPERTIES not in headers:
        return headers
    written = properties_in(headers[APPLICATION_PROPERTIES])
    return {**travelling(written), **headers}


def _sound(headers: Any) -> tuple[dict[str, Any], int]:
    """Headers that can be sent again, and how many were left behind, of a strange type or size.

    A content header is one frame: where they are too large for it, ours stay, and of the others
    as many as there is room for, in their order.
    """
    if not headers:
        return {}, 0
    sound = _sendable(headers)
    lost = headers.keys() - sound.keys() if len(sound) < len(headers) else ()
    return sound, sum(not name.lower().startswith(_BROKERS_OWN) for name in lost)


def _sendable(headers: dict[str, Any]) -> dict[str, Any]:
    if len(max(headers, key=len)) > MAX_NAME_BYTES:
        headers = {name: v for name, v in headers.items() if len(name.encode()) <= MAX_NAME_BYTES}
    if 0 < _size(headers) <= _MAX_HEADERS:
        return dict(headers)
    sound = {name: v for name, v in headers.items() if _size({name: v}) > 0}
    if _size(sound) <= _MAX_HEADERS:
        return sound
    kept: dict[str, Any] = {}
    room = _MAX_HEADERS
    for name in sorted(sound, key=lambda name: not name.startswith((_OURS, _COUNT))):
        size = _size({name: sound[name]})
        if size <= (_MAX_OURS if name.startswith((_OURS, _COUNT)) else room):
            kept[name] = sound[name]
            room -= size
    return kept


def _size(headers: Any) -> int:
    """Bytes on the wire; 0 for what can't be encoded."""
    try:
        return len(write_table(headers))
    except UnsendableError:
        return 0


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
