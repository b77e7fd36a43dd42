"""Frames, methods, properties and tables, both ways, beside pamqp: the same bytes, the same values.

May touch: memory only; pamqp as the oracle.
Must never: need a broker.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pamqp import body as pamqp_body
from pamqp import commands as spec
from pamqp import decode, encode, frame, heartbeat
from pamqp.header import ContentHeader, ProtocolHeader

from scraperd.broker.rabbitmq.wire.codec import frames, methods
from scraperd.broker.rabbitmq.wire.codec.properties import (
    Properties,
    read_properties,
    write_properties,
)
from scraperd.broker.rabbitmq.wire.codec.tables import read_table, write_table
from scraperd.broker.rabbitmq.wire.errors import ProtocolError, UnsendableError

NAMES = {form.name: form for form in methods.FORMS}
HEAD = 7  # bytes of a frame's head
SHORT = st.text(max_size=30)
SECONDS = st.integers(0, 2**32 - 1)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=30)
    | st.binary(max_size=20).map(bytearray)
    | st.floats(width=32, allow_nan=False)
    | SECONDS.map(lambda at: datetime.fromtimestamp(at, tz=UTC))
    | st.decimals(-1000, 1000, places=3).map(Decimal),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SHORT, inner, max_size=4),
    max_leaves=12,
)
TABLES = st.dictionaries(st.text(max_size=30), VALUES, max_size=6)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "bit": st.booleans(),
    "octet": st.integers(0, 255),
    "short": st.integers(0, 2**16 - 1),
    "long": st.integers(0, 2**32 - 1),
    "longlong": st.integers(0, 2**63 - 1),
    "shortstr": SHORT,
    "longstr": st.text(max_size=300),
    "table": TABLES,
}


def theirs(name: str) -> type[Any]:
    """The class of a method in pamqp."""
    kind, _, method = name.partition(".")
    called = "".join(part.capitalize() for part in method.split("-"))
    found: type[Any] = getattr(getattr(spec, kind.capitalize()), called)
    return found


def raw_of(name: str, fields: dict[str, Any]) -> bytes:
    """The payload of a method as pamqp writes it, without its rules for what a client may send."""
    method = type("Unchecked", (theirs(name),), {"validate": lambda _: None})()
    for slot, value in zip(method.attributes(), fields.values(), strict=True):
        setattr(method, slot, value)
    payload: bytes = method.index.to_bytes(4, "big") + method.marshal()
    return payload


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_method_is_written_and_read_as_pamqp_does(name: str, data: st.DataObject) -> None:
    """The same bytes for the same fields, and the same fields of the same bytes."""
    form = NAMES[name]
    fields = {field: data.draw(FIELDS[kind]) for kind, field in form.fields}
    payload = methods.encode(name, **fields)
    assert payload == raw_of(name, fields)
    assert methods.decode(payload) == (name, fields)
    _, channel, read = frame.unmarshal(frames.method(3, name, **fields))
    assert channel == 3
    assert [getattr(read, slot) for slot in read.attributes()] == [*fields.values()]  # type: ignore[union-attr]


@given(payload=st.binary(max_size=60), name=st.sampled_from(sorted(NAMES)))
def test_rubbish_is_no_method(payload: bytes, name: str) -> None:
    """Whatever the bytes are, a method comes out or the one error."""
    for raw in (payload, NAMES[name].ident + payload):
        try:
            found = methods.decode(raw)
        except ProtocolError:
            continue
        assert found.name in NAMES


@given(table=TABLES)
@settings(deadline=None)
@example(table={"scale": Decimal("1E+3"), "tiny": Decimal("1E-3"), "naive": datetime(2026, 1, 1)})  # noqa: DTZ001
def test_a_table_is_written_as_pamqp_does(table: dict[str, Any]) -> None:
    """The same bytes for values of all types, and they are read back as pamqp reads them."""
    raw = write_table(table)
    assert raw == encode.field_table(table)
    assert read_table(raw, 0, len(raw)) == (decode.field_table(raw)[1], len(raw))


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        1e300,
        Decimal("NaN"),
        Decimal("1E+999999999"),
        Decimal("0.1") ** 300,
        "\ud800",
        {"x" * 129: 1},
        (1, 2),
        object(),
        datetime(1950, 1, 1, tzinfo=UTC),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_amqp_has_no_form_for_is_one_error(value: Any) -> None:
    """At any depth, and at once."""
    for table in ({"a": value}, {"a": [value]}, {"a": {"b": value}}):
        with pytest.raises(UnsendableError):
            write_table(table)


def test_a_table_without_an_end_is_one_error() -> None:
    """Values that hold one another deeper than Python calls."""
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnsendableError):
        write_table({"a": deep})


PROPERTIES = st.builds(
    Properties,
    headers=st.none() | st.dictionaries(st.text(max_size=30), VALUES, min_size=1, max_size=6),
    delivery_mode=st.none() | st.integers(1, 2),
    priority=st.none() | st.integers(0, 255),
    timestamp=st.none() | SECONDS,
    cluster_id=st.none(),  # AMQP 0-9-1 deprecates it, and pamqp does not send it
    **{
        name: st.none() | st.text(min_size=1, max_size=60)
        for name in (
            "content_type",
            "content_encoding",
            "correlation_id",
            "reply_to",
            "expiration",
            "message_id",
            "message_type",
            "user_id",
            "app_id",
        )
    },  # type: ignore[arg-type]
)


@given(properties=PROPERTIES, size=st.integers(0, 2**64 - 1))
@settings(deadline=None)
def test_a_content_header_is_written_and_read_as_pamqp_does(
    properties: Properties, size: int
) -> None:
    """Every property, in every combination."""
    fields = {slot: getattr(properties, slot) for slot in Properties.__dataclass_fields__}
    del fields["cluster_id"]
    at = fields["timestamp"]
    fields["timestamp"] = None if at is None else datetime.fromtimestamp(at, tz=UTC)
    wanted = frame.marshal(
        ContentHeader(body_size=size, properties=spec.Basic.Properties(**fields)), 7
    )
    ours = frames.content(7, size, write_properties(properties), 2**31)
    assert ours == wanted
    assert read_properties(ours, HEAD + 12, len(ours) - 1) == properties


@given(raw=st.binary(max_size=60))
def test_rubbish_has_no_properties(raw: bytes) -> None:
    """Whatever the bytes are, nothing is raised."""
    assert isinstance(read_properties(raw, 0, len(raw)), Properties)


@given(tag=st.integers(0, 2**64 - 1), channel=st.integers(1, 65535), multiple=st.booleans())
def test_acks_are_those_of_pamqp(tag: int, channel: int, multiple: bool) -> None:  # noqa: FBT001
    """Acks and nacks, which are made without a detour."""
    if tag < 2**63:
        assert frames.ack(channel, tag, multiple=multiple) == frame.marshal(
            spec.Basic.Ack(tag, multiple), channel
        )
        assert frames.nack(channel, tag, multiple=multiple) == frame.marshal(
            spec.Basic.Nack(tag, multiple, requeue=True), channel
        )
    _, number, read = frame.unmarshal(frames.ack(channel, tag % 2**63, multiple=multiple))
    assert number == channel
    assert isinstance(read, spec.Basic.Ack)
    assert (read.delivery_tag, read.multiple) == (tag % 2**63, multiple)


@given(exchange=SHORT, key=SHORT, size=st.integers(0, 20_000))
@settings(deadline=None)
def test_a_publish_is_that_of_pamqp(exchange: str, key: str, size: int) -> None:
    """The method, and the body in frames of the agreed size."""
    fields = [0, exchange, key, True, False]
    payload = raw_of("basic.publish", dict(enumerate(fields)))  # type: ignore[arg-type]
    assert frames.publish(9, exchange, key) == frames.HEAD.pack(1, 9, len(payload)) + payload + (
        frames.END
    )
    body = bytes(size % 256 for _ in range(size))
    largest = 4096
    written = b"".join(frames.body(9, body, largest))
    pieces = [body[at : at + largest - 8] for at in range(0, size, largest - 8)]
    assert written == b"".join(frame.marshal(pamqp_body.ContentBody(p), 9) for p in pieces)


def test_what_has_no_fields_is_that_of_pamqp() -> None:
    """The greeting and the heartbeat."""
    assert ProtocolHeader().marshal() == frames.GREETING
    assert heartbeat.Heartbeat().marshal() == frames.BEAT


def test_headers_larger_than_a_frame_are_refused() -> None:
    """The broker would end the connection over them."""
    properties = write_properties(Properties(headers={"a": "x" * 5000}))
    with pytest.raises(UnsendableError, match="frame_max is 4096"):
        frames.content(1, 0, properties, 4096)


@pytest.mark.parametrize("text", ["x" * 256, "é" * 128, "\ud800"])
def test_a_short_string_that_is_too_long_is_refused(text: str) -> None:
    """By its bytes, before anything is sent."""
    with pytest.raises(UnsendableError):
        frames.publish(1, "", text)
