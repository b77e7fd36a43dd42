"""The methods of AMQP 0-9-1 that we send or receive, as a table, and as bytes. Pure.

May touch: bytes and values.
Must never: raise anything but ProtocolError for what was received.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from scraperd.broker.rabbitmq.wire.codec.tables import long, read_table, short, write_table
from scraperd.broker.rabbitmq.wire.errors import (
    COMMAND_INVALID,
    SYNTAX_ERROR,
    ProtocolError,
    UnsendableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# Class, method, name, then the fields in their order: AMQP 0-9-1, chapter 1 of the reference, and
# RabbitMQ's extensions (confirm, connection.blocked, exchange and basic.nack).
_TABLE: Final = """
10 10 connection.start      octet:version_major octet:version_minor table:server_properties
                            longstr:mechanisms longstr:locales
10 11 connection.start-ok   table:client_properties shortstr:mechanism longstr:response
                            shortstr:locale
10 20 connection.secure     longstr:challenge
10 30 connection.tune       short:channel_max long:frame_max short:heartbeat
10 31 connection.tune-ok    short:channel_max long:frame_max short:heartbeat
10 40 connection.open       shortstr:virtual_host shortstr:capabilities bit:insist
10 41 connection.open-ok    shortstr:known_hosts
10 50 connection.close      short:reply_code shortstr:reply_text short:class_id short:method_id
10 51 connection.close-ok
10 60 connection.blocked    shortstr:reason
10 61 connection.unblocked
20 10 channel.open          shortstr:out_of_band
20 11 channel.open-ok       longstr:channel_id
20 20 channel.flow          bit:active
20 21 channel.flow-ok       bit:active
20 40 channel.close         short:reply_code shortstr:reply_text short:class_id short:method_id
20 41 channel.close-ok
40 10 exchange.declare      short:ticket shortstr:exchange shortstr:exchange_type bit:passive
                            bit:durable bit:auto_delete bit:internal bit:nowait table:arguments
40 11 exchange.declare-ok
50 10 queue.declare         short:ticket shortstr:queue bit:passive bit:durable bit:exclusive
                            bit:auto_delete bit:nowait table:arguments
50 11 queue.declare-ok      shortstr:queue long:message_count long:consumer_count
50 20 queue.bind            short:ticket shortstr:queue shortstr:exchange shortstr:routing_key
                            bit:nowait table:arguments
50 21 queue.bind-ok
50 50 queue.unbind          short:ticket shortstr:queue shortstr:exchange shortstr:routing_key
                            table:arguments
50 51 queue.unbind-ok
60 10 basic.qos             long:prefetch_size short:prefetch_count bit:globally
60 11 basic.qos-ok
60 20 basic.consume         short:ticket shortstr:queue shortstr:consumer_tag bit:no_local
                            bit:no_ack bit:exclusive bit:nowait table:arguments
60 21 basic.consume-ok      shortstr:consumer_tag
60 30 basic.cancel          shortstr:consumer_tag bit:nowait
60 31 basic.cancel-ok       shortstr:consumer_tag
60 40 basic.publish         short:ticket shortstr:exchange shortstr:routing_key bit:mandatory
                            bit:immediate
60 50 basic.return          short:reply_code shortstr:reply_text shortstr:exchange
                            shortstr:routing_key
60 60 basic.deliver         shortstr:consumer_tag longlong:delivery_tag bit:redelivered
                            shortstr:exchange shortstr:routing_key
60 70 basic.get             short:ticket shortstr:queue bit:no_ack
60 72 basic.get-empty       shortstr:cluster_id
60 80 basic.ack             longlong:delivery_tag bit:multiple
60 90 basic.reject          longlong:delivery_tag bit:requeue
60 120 basic.nack           longlong:delivery_tag bit:multiple bit:requeue
85 10 confirm.select        bit:nowait
85 11 confirm.select-ok
"""
_ID: Final = struct.Struct(">HH")
_NUMBERS: Final = {"octet": 1, "short": 2, "long": 4, "longlong": 8}  # bytes
_BITS: Final = 8  # in an octet
_LENGTH: Final = 4  # bytes of a long string's length


class Method(NamedTuple):
    """A method that was received."""

    name: str
    fields: dict[str, Any]


class _Form(NamedTuple):
    ident: bytes
    name: str
    fields: tuple[tuple[str, str], ...]  # type and name


def _forms() -> list[_Form]:
    rows: list[list[str]] = []
    for line in _TABLE.strip().splitlines():
        rows.append([]) if line[0].isdigit() else None
        rows[-1] += line.split()
    return [
        _Form(
            _ID.pack(int(kind), int(number)),
            name,
            tuple((field.partition(":")[0], field.partition(":")[2]) for field in fields),
        )
        for kind, number, name, *fields in rows
    ]


FORMS: Final = _forms()
_BY_NAME: Final[Mapping[str, _Form]] = {form.name: form for form in FORMS}
_BY_ID: Final[Mapping[bytes, _Form]] = {form.ident: form for form in FORMS}


def encode(name: str, **fields: Any) -> bytes:
    """Return the payload of a method frame; a field that is not given is empty, 0 or False.

    Raises UnsendableError.
    """
    form = _BY_NAME[name]
    parts, bits, place = [form.ident], 0, 0
    for kind, field in form.fields:
        if kind == "bit":
            bits |= bool(fields.get(field)) << place
            place += 1
            continue
        if place:
            parts.append(bytes([bits]))
            bits = place = 0
        parts.append(_encoded(kind, fields.get(field)))
    if place:
        parts.append(bytes([bits]))
    return b"".join(parts)


def _encoded(kind: str, value: Any) -> bytes:
    if kind == "table":
        return write_table(value or {})
    if kind == "shortstr":
        return short(value or "")
    if kind == "longstr":
        return long((value or "").encode())
    try:
        return int(value or 0).to_bytes(_NUMBERS[kind], "big")
    except OverflowError:
        raise UnsendableError(f"{value} does not fit into a field of the type {kind}") from None


def decode(payload: bytes) -> Method:
    """Return the method in the payload of a method frame. Raises ProtocolError."""
    form = _BY_ID.get(payload[: _ID.size])
    if form is None:
        raise ProtocolError(COMMAND_INVALID, f"an unknown method: {payload[: _ID.size].hex()}")
    try:
        fields, at = _fields(form, payload)
    except ValueError:
        at, fields = -1, {}
    if at != len(payload):
        raise ProtocolError(SYNTAX_ERROR, f"a method {form.name} whose fields do not fit its frame")
    return Method(form.name, fields)


def _fields(form: _Form, payload: bytes) -> tuple[dict[str, Any], int]:
    """Return the fields and where they end. Raises ValueError."""
    found: dict[str, Any] = {}
    at, end, place = _ID.size, len(payload), 0
    for kind, name in form.fields:
        if kind == "bit":
            if at >= end:
                raise ValueError("too short")
            found[name] = bool(payload[at] >> place & 1)
            place += 1
            continue
        if place:
            at, place = at + 1, 0
        if kind == "table":
            table, at = read_table(payload, at, end)
            found[name] = table or {}
        else:
            found[name], at = _field(kind, payload, at, end)
    return found, at + bool(place)


def _field(kind: str, payload: bytes, at: int, end: int) -> tuple[Any, int]:
    """Return a number or a text, and where it ends. Raises ValueError."""
    size = _NUMBERS.get(kind, 1 if kind == "shortstr" else _LENGTH)
    if at + size > end:
        raise ValueError("too short")
    number = int.from_bytes(payload[at : at + size], "big")
    at += size
    if kind in _NUMBERS:
        return number, at
    if at + number > end:
        raise ValueError("too short")
    return payload[at : at + number].decode("utf-8", "replace"), at + number
