"""A message's properties on the wire, and what a delivery makes of a stranger's.

May touch: pamqp, to make the bytes that a broker would send and to read ours.
Must never: need a broker.
"""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from math import inf
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiormq.abc import DeliveredMessage
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp import decode, encode, frame
from pamqp.header import ContentHeader

from scraperd.broker.marks import Keys
from scraperd.broker.rabbitmq.codec import MOST_HEADERS, Delivery, Message, _sound, delivery_of

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.generation import Generation

GENERATION = cast("Generation", None)  # what settles a delivery; nothing here does


def table(*entries: tuple[bytes, bytes]) -> bytes:
    """An AMQP field table of names and typed values."""
    body = b"".join(struct.pack("B", len(name)) + name + value for name, value in entries)
    return struct.pack(">I", len(body)) + body


def arrived(
    properties: spec.Basic.Properties, *, redelivered: bool = True, keys: Keys | None = None
) -> Delivery:
    """A delivery with these properties, which went over the wire."""
    header = ContentHeader(body_size=4, properties=properties)
    _, _, read = frame.unmarshal(frame.marshal(header, 1))
    assert isinstance(read, ContentHeader)
    deliver = spec.Basic.Deliver("c", 5, redelivered, "", "team.jobs")
    channel = cast("Any", None)
    return delivery_of(
        DeliveredMessage(delivery=deliver, header=read, body=b"body", channel=channel),
        GENERATION,
        "team.jobs",
        keys,
    )


def with_headers(
    headers: dict[str, Any], *, redelivered: bool = True, keys: Keys | None = None
) -> Delivery:
    """A delivery with these headers."""
    return arrived(spec.Basic.Properties(headers=headers), redelivered=redelivered, keys=keys)


def test_a_message_as_it_is_published() -> None:
    """Persistent, with an id of its own, the time, our name, and all that it was given."""
    before = datetime.now(UTC).replace(microsecond=0)
    message = Message("x", "k", b"b", {"h": 1}, "corr", "reply", 9, "text/plain")
    header = ContentHeader(body_size=1, properties=message.properties())
    _, _, read = frame.unmarshal(frame.marshal(header, 1))
    assert isinstance(read, ContentHeader)
    sent = read.properties
    assert (sent.delivery_mode, sent.app_id, sent.headers) == (2, "scraperd", {"h": 1})
    assert (sent.correlation_id, sent.reply_to, sent.priority) == ("corr", "reply", 9)
    assert sent.content_type == "text/plain"
    assert sent.expiration is None
    assert isinstance(sent.timestamp, datetime)
    assert before <= sent.timestamp <= datetime.now(UTC)


def test_no_two_publishes_share_an_id() -> None:
    """The client tells confirms apart by message id, also for one message that is sent twice."""
    message = Message("", "q", b"")
    ids = {message.properties().message_id for _ in range(1000)}
    ids |= {Message("", "q", b"").properties().message_id for _ in range(1000)}
    assert len(ids) == 2000
    assert all(isinstance(ident, str) and len(ident) < 255 for ident in ids)


def test_a_delivery_with_everything() -> None:
    """Every property that a job may use arrives as it was sent."""
    delivery = arrived(
        spec.Basic.Properties(
            content_type="application/json",
            headers={"traceparent": "00-1-2-03"},
            priority=9,
            correlation_id="é",
            reply_to="amq.gen-x",
            message_id="m",
        )
    )
    assert (delivery.body, delivery.tag, delivery.generation) == (b"body", 5, GENERATION)
    assert (delivery.message_id, delivery.correlation_id, delivery.reply_to) == (
        "m",
        "é",
        "amq.gen-x",
    )
    assert (delivery.priority, delivery.content_type) == (9, "application/json")
    assert delivery.headers == delivery.passed_on() == {"traceparent": "00-1-2-03"}
    assert (delivery.attempt, delivery.crashes, delivery.settled) == (1, 0, False)


def test_a_delivery_with_nothing() -> None:
    """A bare body from the simplest client is a first attempt of a job that names no one."""
    delivery = arrived(spec.Basic.Properties())
    assert (delivery.message_id, delivery.correlation_id, delivery.reply_to) == (None, None, None)
    assert (delivery.priority, delivery.content_type, delivery.headers) == (None, None, {})
    assert (delivery.attempt, delivery.crashes, delivery.passed_on()) == (1, 0, {})


def test_empty_properties_are_as_if_absent() -> None:
    """Some clients send empty strings for what they do not set."""
    delivery = arrived(
        spec.Basic.Properties(message_id="", correlation_id="", reply_to="", content_type="")
    )
    assert (delivery.message_id, delivery.correlation_id) == (None, None)
    assert (delivery.reply_to, delivery.content_type) == (None, None)


@pytest.mark.parametrize(
    ("value", "attempt"),
    [(1, 1), (2, 2), (1_000_000, 1_000_000)]
    + [(value, 1) for value in (0, -5, 1_000_001, 2**62, True, "3", 2.0, None, [3], {"a": 3})],
)
def test_the_attempt_is_a_small_number_or_the_first(value: Any, attempt: int) -> None:
    """A header that no retry of ours would carry makes a first attempt, and no crash."""
    assert with_headers({"x-scraperd-attempt": value}).attempt == attempt


@pytest.mark.parametrize(
    ("value", "parks"),
    [(1, 1), (0, 0), (1_000_000, 1_000_000)]
    + [(value, 0) for value in (-5, 1_000_001, 2**62, True, "3", 2.0, None, [3], {"a": 3})],
)
def test_the_parks_are_a_small_number_or_none(value: Any, parks: int) -> None:
    """A header that no parking of ours would carry means never parked, and no crash."""
    assert with_headers({"x-scraperd-parks": value}).parks == parks


@pytest.mark.parametrize(
    ("value", "turn"),
    [
        ("1700000000.125 www.example.com", ("www.example.com", 1700000000.125, inf)),
        ("1700000000.125 a.b 12.500", ("a.b", 1700000000.125, 12.5)),
        ("1700000000.125 a.b -1.000", None),
        ("1700000000.125 a.b inf", None),
        ("0.000 ::1", ("::1", 0.0, inf)),
        ("1700000000.125  a.b", None),
        ("1700000000.125 a b", None),
        ("1700000000.125 a\n", None),
        ("1700000000.125 ä", None),
        ("1700000000.125 " + "a" * 256, None),
        ("1700000000 a.b", None),
        ("17000000000.000 a.b", None),
        ("-170000000.000 a.b", None),
        ("inf a.b", None),
        ("nan a.b", None),
        ("1e5.000 a.b", None),
        ("\u0661.000 a.b", None),
        ("", None),
        (1700000000, None),
        (None, None),
        (["1700000000.125 a.b"], None),
    ],
)
def test_a_turn_is_as_we_write_it_or_none(
    value: Any, turn: tuple[str, float, float] | None
) -> None:
    """A time to the millisecond, a host, what can be left; what a stranger writes is no promise."""
    assert with_headers({"x-scraperd-turn": value}).turn == turn


def test_what_a_parked_job_carries_is_left_behind_by_what_comes_of_it() -> None:
    """The turn and the parks are ours: they are not passed on as the publisher's own."""
    ours = {"x-scraperd-turn": "1700000000.125 a.b", "x-scraperd-parks": 2}
    delivery = with_headers({**ours, "traceparent": "t"})
    assert (delivery.parks, delivery.turn) == (2, ("a.b", 1700000000.125, inf))
    assert delivery.passed_on() == {"traceparent": "t"}


def test_headers_too_large_for_a_frame_keep_ours() -> None:
    """A parked job with a stranger's large headers keeps its turn, and its count of parks."""
    ours = {"x-scraperd-turn": "1700000000.125 a.b", "x-scraperd-parks": 2}
    delivery = with_headers({**ours, "large": "x" * 70_000})
    assert delivery.headers == ours


def test_how_many_headers_are_too_many() -> None:
    """Of the publisher's own; what the broker and the daemon add to them does not count."""
    own: dict[str, Any] = {f"h{n}": n for n in range(MOST_HEADERS)}
    ours = {"x-scraperd-attempt": 2, "x-scraperd-job-id": "a", "x-delivery-count": 1, "x-death": []}
    assert not with_headers({**own, **ours}).overfull
    assert with_headers({**own, **ours, "one": 1}).overfull
    assert with_headers({f"h{n}": n for n in range(5000)}).overfull


@pytest.mark.parametrize(
    ("value", "count"),
    [(1, 1), (20, 20)] + [(value, 0) for value in (0, -5, True, "3", 2.5, None, [3])],
)
def test_the_broker_s_count_of_deliveries(value: Any, count: int) -> None:
    """A whole number on a redelivered message counts; anything else is no count."""
    assert with_headers({"x-delivery-count": value}).crashes == count


def test_a_first_delivery_has_no_count() -> None:
    """A count on a first delivery is a publisher's own, or from an earlier life: it is not ours."""
    delivery = with_headers({"x-delivery-count": 50, "a": 1}, redelivered=False)
    assert delivery.crashes == 0
    assert delivery.headers == {"a": 1}


def test_what_travels_on_with_a_job() -> None:
    """The publisher's own headers do; the broker's, ours, and those that route copies do not."""
    own = {"traceparent": "t", "x-death-wish": "d", "x-mine": 1, "cc-me": "x", "Xx-scraperd-": 1}
    others = {
        "x-death": [{"count": 5}],
        "x-first-death-queue": "q",
        "x-first-death-reason": "expired",
        "x-last-death-exchange": "",
        "x-delivery-count": 3,
        "x-scraperd-attempt": 2,
        "x-scraperd-dead-reason": "dns",
        "CC": ["elsewhere"],
        "BCC": ["elsewhere"],
        "cc": ["elsewhere"],
        "X-Scraperd-Attempt": 2,
        "X-Death": [],
        "x-scraperd-signature": "1",
    }
    del own["x-death-wish"]
    assert with_headers({**own, **others}).passed_on() == own


def test_marks_are_believed_with_a_signature_only() -> None:
    """Over the wire: signed, they are what was noted; forged, changed, or beside a publisher's
    headers that are too large for a frame, they are so too or as if absent.
    """
    keys = Keys([b"k" * 32], "team")
    marks = {"x-scraperd-attempt": 3, "x-scraperd-crashes": 2, "x-scraperd-job-id": "é"}
    marks |= {"x-scraperd-parks": 4, "x-scraperd-turn": "1700000000.125 a.b"}
    signed = keys.sign(b"body", marks)
    for more in ({}, {"large": "x" * 70_000}, {"x-scraperd-tries": 9}):
        delivery = with_headers({**signed, **more}, redelivered=False, keys=keys)
        assert (delivery.attempt, delivery.crashes, delivery.parks) == (3, 2, 4)
        assert delivery.turn
        assert (delivery.witnessed, delivery.disbelieved) == (True, False)
        assert delivery.passed_on() == {}
    for forged in (marks, {**signed, "x-scraperd-crashes": 1}, {**marks, "x-delivery-count": 9}):
        delivery = with_headers(forged, redelivered=False, keys=keys)
        assert (delivery.attempt, delivery.crashes, delivery.parks) == (1, 0, 0)
        assert delivery.turn is None
        assert (delivery.witnessed, delivery.disbelieved) == (False, True)
    assert not with_headers({"x-scraperd-job-id": "a"}, keys=keys).disbelieved
    assert with_headers({"x-delivery-count": 1}, keys=keys).witnessed


# A value of every type that RabbitMQ's tables have, as bytes and as Python has it.
TYPES: dict[str, tuple[bytes, Any]] = {
    "boolean": (b"t\1", True),
    "signed 8": (b"b\xff", -1),
    "unsigned 8": (b"B\xff", 255),
    "signed 16": (b"s\xff\xfe", -2),
    "unsigned 16": (b"u\xff\xff", 65535),
    "signed 32": (b"I\xff\xff\xff\xff", -1),
    "unsigned 32": (b"i\xff\xff\xff\xff", 2**32 - 1),
    "signed 64": (b"l" + struct.pack(">q", -(2**63)), -(2**63)),
    "float": (b"f" + struct.pack(">f", 1.5), 1.5),
    "double": (b"d" + struct.pack(">d", 1.5), 1.5),
    "decimal": (b"D\2" + struct.pack(">i", -12345), Decimal("-123.45")),
    "text": (b"S" + struct.pack(">I", 3) + "aé".encode(), "aé"),
    "bytes": (b"x" + struct.pack(">I", 2) + b"\xff\0", bytearray(b"\xff\0")),
    "array": (b"A" + struct.pack(">I", 4) + b"t\1t\0", [True, False]),
    "timestamp": (
        b"T" + struct.pack(">Q", 1_000_000_000),
        datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
    ),
    "milliseconds": (b"T" + struct.pack(">Q", 10**12), datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)),
    "table": (b"F" + table((b"a", b"t\1")), {"a": True}),
    "nothing": (b"V", None),
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_header_of_every_type_can_travel_on(kind: str) -> None:
    """What a broker can deliver is sent again with the same meaning."""
    raw, value = TYPES[kind]
    _, headers = decode.field_table(table((b"k", raw)))
    sound = _sound(headers)
    assert sound == {"k": value}
    assert decode.field_table(encode.field_table(sound))[1] == {"k": value}


# Bytes that decode and can't be encoded, or not to the same.
ODD = {
    "a double beyond a float": b"d" + struct.pack(">d", 1e300),
    "text that is not UTF-8": b"S" + struct.pack(">I", 2) + b"\xff\xfe",
    "an array of such": b"A" + struct.pack(">I", 9) + b"d" + struct.pack(">d", 1e300),
    "a table of such": b"F" + table((b"a", b"d" + struct.pack(">d", -1e300))),
}


@pytest.mark.parametrize("raw", ODD.values(), ids=ODD)
def test_a_header_that_can_t_be_sent_is_left_behind(raw: bytes) -> None:
    """One strange header goes, the others stay: the job must not be stuck for it."""
    others = tuple((kind.encode(), value) for kind, (value, _) in TYPES.items())
    _, headers = decode.field_table(table((b"odd", raw), *others))
    assert "odd" in headers
    sound = _sound(headers)
    assert sound == {kind: value for kind, (_, value) in TYPES.items()}
    assert encode.field_table(sound)


def test_not_a_number_is_a_header_too() -> None:
    """NaN, which equals nothing, travels."""
    _, headers = decode.field_table(table((b"k", b"d" + struct.pack(">d", math.nan))))
    assert math.isnan(_sound(headers)["k"])


def test_deeply_nested_headers_do_not_break_it() -> None:
    """A table in a table, thousands deep, is left behind."""
    deep: Any = 1
    for _ in range(5000):
        deep = {"a": deep}
    assert _sound({"deep": deep, "a": 1}) == {"a": 1}


@pytest.mark.parametrize("headers", [None, {}])
def test_no_headers_are_none(headers: Any) -> None:
    """A message without headers has an empty table of them."""
    assert _sound(headers) == {}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.binary()
    | st.floats()
    | st.datetimes(timezones=st.just(UTC))
    | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=200), inner, max_size=2)
    ),
)
NAMES = st.sampled_from(["x-scraperd-attempt", "x-delivery-count", "x-death", "CC"]) | st.text(
    max_size=300
)


@given(headers=st.dictionaries(NAMES, VALUES, max_size=4))
@settings(max_examples=200, deadline=None)
@example(headers={"\ud800": 1})
@example(headers={"a": "\ud800", "b": 2**80})
def test_any_headers_make_a_delivery_that_can_be_settled(headers: dict[str, Any]) -> None:
    """Whatever is in the table: an attempt, a count, and headers that can be published again."""
    delivery = Delivery(b"", _sound(headers), None, None, None, None, None, 1, GENERATION)
    assert 1 <= delivery.attempt <= 1_000_000
    assert delivery.crashes >= 0
    onward = Message("", "q", b"", {**delivery.passed_on(), "x-scraperd-attempt": 2})
    sent = ContentHeader(body_size=0, properties=onward.properties())
    assert frame.marshal(sent, 1)


def property_frame(flag: int, value: bytes) -> bytes:
    """A content header frame with one property, as raw as a stranger's client can make it."""
    payload = struct.pack(">HHQH", 60, 0, 4, flag) + value
    return struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce"


SHORT = b"\3\xff\xfe\xfd"
UNREADABLE = {
    "content_type": (1 << 15, SHORT),
    "correlation_id": (1 << 10, SHORT),
    "reply_to": (1 << 9, SHORT),
    "message_id": (1 << 7, SHORT),
    "timestamp": (1 << 6, struct.pack(">Q", 2**63)),
    "a header's name": (1 << 13, table((b"\xff", b"t\1"))),
    "a header's type": (1 << 13, table((b"a", b"?\1"))),
    "delivery_mode": (1 << 12, b"\x09"),
    "expiration": (1 << 8, SHORT),
    "type": (1 << 5, SHORT),
    "user_id": (1 << 4, SHORT),
    "app_id": (1 << 3, SHORT),
    "cluster_id": (1 << 2, SHORT),
}


@pytest.mark.parametrize(("flag", "value"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_property_that_can_t_be_read_is_absent(flag: int, value: bytes) -> None:
    """One job with a broken property must not end the connection that carries all the others."""
    _, _, header = frame.unmarshal(property_frame(flag, value))
    assert isinstance(header, ContentHeader)
    delivery = arrived(header.properties)
    assert (delivery.message_id, delivery.correlation_id, delivery.reply_to) == (None, None, None)
    assert (delivery.content_type, delivery.headers, delivery.attempt) == (None, {}, 1)


def test_what_follows_an_unreadable_property_is_read() -> None:
    """Only the broken property is lost: the ones before and behind it keep their places."""
    flags = 1 << 15 | 1 << 13 | 1 << 10 | 1 << 9 | 1 << 7 | 1 << 6
    bad = table((b"\xff", b"t\1"))
    values = b"\1c" + bad + SHORT + b"\1r" + b"\1m" + b"\xff" * 8
    _, _, header = frame.unmarshal(property_frame(flags, values))
    assert isinstance(header, ContentHeader)
    delivery = arrived(header.properties)
    assert (delivery.content_type, delivery.reply_to, delivery.message_id) == ("c", "r", "m")
    assert (delivery.correlation_id, delivery.headers) == (None, {})


def test_a_header_that_is_no_date_is_absent_alone() -> None:
    """A timestamp beyond the year 9999 among the headers is None, and the others stay."""
    late = b"T" + b"\xff" * 8
    _, headers = decode.field_table(table((b"late", late), (b"a", b"t\1")))
    assert _sound(headers) == {"late": None, "a": True}


def test_a_delivery_is_itself_and_no_other() -> None:
    """Two deliveries of equal content are two: each is settled on its own."""
    one, two = with_headers({}), with_headers({})
    assert one != two
    assert len({one, two}) == 2
