"""Messages and deliveries of the ports as AMQP properties, and back, whatever a stranger sends.

May touch: pamqp, to make the bytes that a broker would send and to read ours.
Must never: need a broker.
"""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp import decode, frame
from pamqp.header import ContentHeader

from scraperd.broker.ports import NOTHING, Delivery, Epoch, GivenUp, Message, Own, Source
from scraperd.broker.rabbitmq.codec import (
    MAX_HEADERS,
    _sound,
    delivery_of,
    properties_of,
    travelling,
)
from scraperd.broker.rabbitmq.topology import MAX_REDELIVERIES
from scraperd.broker.rabbitmq.wire.codec.frames import content
from scraperd.broker.rabbitmq.wire.codec.properties import (
    Properties,
    read_properties,
    write_properties,
)
from scraperd.broker.rabbitmq.wire.codec.tables import read_table, write_table
from scraperd.broker.rabbitmq.wire.machine import Delivered

HEADER = 7 + 12  # bytes in front of the property flags: a frame's head; class, weight, size
EPOCH = cast("Epoch", None)  # what settles a delivery; nothing here does


async def never(_delivery: Delivery) -> bool:
    return False


def table(*entries: tuple[bytes, bytes]) -> bytes:
    """An AMQP field table of names and typed values."""
    body = b"".join(struct.pack("B", len(name)) + name + value for name, value in entries)
    return struct.pack(">I", len(body)) + body


def arrived(properties: spec.Basic.Properties, *, redelivered: bool = True) -> Delivery:
    """A delivery with these properties, which went over the wire."""
    raw = frame.marshal(ContentHeader(body_size=4, properties=properties), 1)
    return from_frame(raw, redelivered=redelivered)


def from_frame(raw: bytes, *, redelivered: bool = True) -> Delivery:
    """A delivery whose content header frame has these bytes."""
    read = read_properties(raw, HEADER, len(raw) - 1)
    message = Delivered(1, "c", 5, redelivered, read, b"body")
    return delivery_of(message, EPOCH, Source.JOBS, never)


def sent(message: Message) -> spec.Basic.Properties:
    """The properties of a message, as another library reads them off the wire."""
    raw = frame.marshal(ContentHeader(body_size=1, properties=spec.Basic.Properties()), 1)
    payload = raw[7:HEADER] + write_properties(properties_of(message))
    framed = raw[:3] + len(payload).to_bytes(4, "big") + payload + b"\xce"
    _, _, read = frame.unmarshal(framed)
    assert isinstance(read, ContentHeader)
    return read.properties


def with_headers(headers: dict[str, Any], *, redelivered: bool = True) -> Delivery:
    """A delivery with these headers."""
    return arrived(spec.Basic.Properties(headers=headers), redelivered=redelivered)


def test_a_message_as_it_is_published() -> None:
    """Persistent, with an id of its own, the time, our name, and all that it was given."""
    before = datetime.now(UTC).replace(microsecond=0)
    message = Message(b"b", {"h": 1}, "corr", "reply", 9, "text/plain")
    read = sent(message)
    assert (read.delivery_mode, read.app_id, read.headers) == (2, "scraperd", {"h": 1})
    assert (read.correlation_id, read.reply_to, read.priority) == ("corr", "reply", 9)
    assert read.content_type == "text/plain"
    assert read.expiration is None
    assert isinstance(read.timestamp, datetime)
    assert before <= read.timestamp <= datetime.now(UTC)


def test_no_two_publishes_share_an_id() -> None:
    """Returns are told apart by message id, also for one message that is sent twice."""
    message = Message(b"")
    ids = {properties_of(message).message_id for _ in range(1000)}
    ids |= {properties_of(Message(b"")).message_id for _ in range(1000)}
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
    assert (delivery.body, delivery.tag, delivery.source) == (b"body", 5, Source.JOBS)
    assert (delivery.message_id, delivery.correlation_id, delivery.reply_to) == (
        "m",
        "é",
        "amq.gen-x",
    )
    assert (delivery.priority, delivery.content_type) == (9, "application/json")
    assert delivery.headers == {"traceparent": "00-1-2-03"}
    assert (delivery.redeliveries, delivery.given_up, delivery.settled) == (0, None, False)


def test_a_delivery_with_nothing() -> None:
    """A bare body from the simplest client is a first attempt of a job that names no one."""
    delivery = arrived(spec.Basic.Properties())
    assert (delivery.message_id, delivery.correlation_id, delivery.reply_to) == (None, None, None)
    assert (delivery.priority, delivery.content_type, delivery.headers) == (None, None, {})
    assert (delivery.redeliveries, delivery.overfull, delivery.crowded) == (0, 0, False)


def test_empty_properties_are_as_if_absent() -> None:
    """Some clients send empty strings for what they do not set."""
    delivery = arrived(
        spec.Basic.Properties(message_id="", correlation_id="", reply_to="", content_type="")
    )
    assert (delivery.message_id, delivery.correlation_id) == (None, None)
    assert (delivery.reply_to, delivery.content_type) == (None, None)


SECTION = b"\0\x53\x77\xa1\4body"  # AMQP 1.0: a value that is a string


def framed(body: bytes, **properties: Any) -> Delivery:
    """A delivery of a body that RabbitMQ marked as one of AMQP 1.0."""
    read = Properties(message_type="amqp-1.0", **properties)
    return delivery_of(Delivered(1, "c", 5, False, read, body), EPOCH, Source.JOBS, never)


def test_a_body_of_amqp_1_0_is_unwrapped_once() -> None:
    """Its mark goes with its framing, as the job may be published again; the rest stays."""
    delivery = framed(SECTION, app_id="shop")
    assert (delivery.body, delivery.own, delivery.unreadable) == (b"body", Own(app_id="shop"), "")
    assert framed(SECTION).own is NOTHING
    assert framed(SECTION, app_id="scraperd").body == b"body"
    assert sent(Message(b"", own=delivery.own)).message_type is None


def test_a_body_of_amqp_1_0_that_is_no_text_stays_as_it_came() -> None:
    """Its dead letter is read by the same rule again."""
    delivery = framed(b"\0\x53\x77\x40")
    assert (delivery.body, delivery.own.type) == (b"\0\x53\x77\x40", "amqp-1.0")
    assert delivery.unreadable.startswith("is null of AMQP 1.0: send the job as JSON")


def test_a_type_that_a_publisher_set_does_no_harm() -> None:
    """JSON that only says that it is of AMQP 1.0 is JSON, and goes on with the same type."""
    delivery = framed(b'{"url": "http://x/"}')
    assert (delivery.body, delivery.unreadable) == (b'{"url": "http://x/"}', "")
    assert delivery.own.type == "amqp-1.0"
    read = Properties(message_type="other")
    other = delivery_of(Delivered(1, "c", 5, False, read, SECTION), EPOCH, Source.JOBS, never)
    assert other.body == SECTION


@pytest.mark.parametrize(
    ("reply_to", "header", "address"),
    [
        ("/reply-queue/amq.gen-x", None, "amq.gen-x"),
        ("/queues/a%2Eb", None, "a.b"),
        (None, "a.b", "/topic/a.b"),
        ("mine", "a.b", "mine"),
        (None, 5, None),
        (None, None, None),
    ],
)
def test_where_a_client_of_another_protocol_wants_its_result(
    reply_to: str | None, header: Any, address: str | None
) -> None:
    """By reply_to in the forms of AMQP 1.0 and STOMP, or by the response topic of MQTT 5."""
    headers = {} if header is None else {"x-reply-to-topic": header}
    delivery = arrived(spec.Basic.Properties(reply_to=reply_to, headers=headers))
    assert delivery.reply_to == address
    assert arrived(spec.Basic.Properties(reply_to=delivery.reply_to)).reply_to == address


def test_application_properties_are_headers() -> None:
    """Those of AMQP 1.0, which RabbitMQ 3 leaves in one header; not those that are the broker's."""
    section = b"\0\x53\x74\xc1\x1e\4\xa1\3own\xa1\1a\xa1\x10x-delivery-count\x41\xa1\5other\x41"
    headers = {"x-amqp-1.0-app-properties": section, "other": 1}
    read = Properties(headers=headers)
    delivery = delivery_of(Delivered(1, "c", 5, True, read, b""), EPOCH, Source.JOBS, never)
    assert travelling(delivery.headers) == {"own": "a", "other": 1}
    assert delivery.redeliveries == 0


def test_headers_too_large_for_a_frame_keep_ours() -> None:
    """A snoozed job with a stranger's large headers keeps its turn, and its count of snoozes."""
    ours = {"x-scraperd-turn": "1700000000.125 a.b", "x-scraperd-snoozes": 2}
    delivery = with_headers({**ours, "large": "x" * 70_000})
    assert delivery.headers == {**ours, "x-scraperd-dropped-headers": 1}


def test_headers_beyond_64_kib_are_left_behind_one_by_one_and_counted() -> None:
    """What fits stays, in its order; the count adds up with what was lost on an earlier move."""
    large = {f"h{number}": "x" * 20_000 for number in range(5)}
    found = with_headers({**large, "small": 1, "x-scraperd-dropped-headers": 2}).headers
    assert found == {
        **{f"h{number}": "x" * 20_000 for number in range(3)},
        "small": 1,
        "x-scraperd-dropped-headers": 4,
    }


def test_headers_are_cut_to_the_frame_that_the_broker_takes() -> None:
    """The short ones of ours stay before the long ones, and these before the publisher's; the mark
    counts on.
    """
    short = {"x-scraperd-job-id": "i" * 255, "x-scraperd-attempt": 3}
    long = {"x-scraperd-attempts": "[" + "a" * 3000 + "]"}
    theirs = {"a": "x" * 900, "b": "x" * 4000, "c": "x" * 90}
    headers = {**theirs, **long, **short, "x-scraperd-dropped-headers": 2}
    message = Message(b"", headers)
    assert properties_of(message).headers == headers
    cut = properties_of(message, frame_max=4096).headers
    assert cut == {**short, **long, "c": "x" * 90, "x-scraperd-dropped-headers": 4}
    assert properties_of(Message(b"", short), frame_max=4096).headers == short


@given(
    headers=st.dictionaries(
        st.one_of(st.text(max_size=30), st.text(max_size=20).map("x-scraperd-{}".format)),
        st.one_of(st.text(max_size=3000), st.integers(-(2**40), 2**40), st.none()),
        max_size=40,
    ),
    short=st.text(max_size=63),
    frame_max=st.integers(4096, 9000),
)
def test_no_message_has_a_header_frame_above_the_limit(
    headers: dict[str, Any], short: str, frame_max: int
) -> None:
    """Whatever a publisher and we wrote: RabbitMQ would end the connection over such a frame."""
    own = Own(short, short, short, 1)
    message = Message(b"", headers, short, short, 3, short, own)
    raw = write_properties(properties_of(message, frame_max=frame_max))
    assert len(content(1, 0, raw, frame_max)) <= frame_max


def test_the_publishers_own_properties_travel_with_a_job() -> None:
    """Coding, type, application and time are read, and written on the job when it is moved."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    theirs = spec.Basic.Properties(
        content_encoding="gzip", message_type="job", app_id="shop", timestamp=at
    )
    own = arrived(theirs).own
    assert own == Own("gzip", "job", "shop", int(at.timestamp()))
    again = sent(Message(b"", own=own))
    assert (again.content_encoding, again.message_type) == ("gzip", "job")
    assert (again.app_id, again.timestamp) == ("shop", at)
    assert arrived(sent(Message(b""))).own is NOTHING  # what we said is not theirs
    assert arrived(spec.Basic.Properties(app_id="shop")).own == Own(app_id="shop")


@pytest.mark.parametrize("name", ["x-received-from", "x-shovelled", "x-shovelled-timestamp"])
def test_headers_of_federation_and_shovels_stay_behind(name: str) -> None:
    """A result that has them would not be federated back to where its job came from."""
    assert travelling({name: "a", "own": 1}) == {"own": 1}


@pytest.mark.parametrize(
    "name", ["x-amqp-1.0-properties", "x-mqtt-publish-qos", "x-reply-to-topic"]
)
def test_what_another_protocol_said_of_the_job_is_not_said_of_its_result(name: str) -> None:
    """RabbitMQ would give a reader of AMQP 1.0 or MQTT 5 the properties of the job, and end the
    connection of an MQTT client over a value that it did not write. None of them counts as lost.
    """
    assert travelling({name: "a", "own": 1}) == {"own": 1}
    assert _sound({name: 2**80, "own": 1, "other": 2**80}) == ({"own": 1}, 1)


def test_how_many_headers_are_too_many() -> None:
    """Of the publisher's own; what the broker and the daemon add to them does not count."""
    own: dict[str, Any] = {f"h{n}": n for n in range(MAX_HEADERS)}
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
    assert with_headers({"x-delivery-count": value}).redeliveries == count


def test_a_first_delivery_has_no_count() -> None:
    """A count on a first delivery is a publisher's own, or from an earlier life: it is not ours."""
    delivery = with_headers({"x-delivery-count": 50, "a": 1}, redelivered=False)
    assert delivery.redeliveries == 0
    assert delivery.headers == {"a": 1}


def test_what_the_broker_would_act_on_is_not_published_again() -> None:
    """Its own headers, and those that route copies, are taken off whatever is published."""
    own = {"traceparent": "t", "x-mine": 1, "cc-me": "x", "x-scraperd-attempt": 2}
    others = {
        "x-death": [{"count": 5}],
        "x-first-death-queue": "q",
        "x-first-death-reason": "expired",
        "x-last-death-exchange": "",
        "x-delivery-count": 3,
        "CC": ["elsewhere"],
        "BCC": ["elsewhere"],
        "cc": ["elsewhere"],
        "X-Death": [],
    }
    assert properties_of(Message(b"", {**own, **others})).headers == own


@pytest.mark.parametrize(
    ("death", "given_up"),
    [
        ([{"reason": "expired", "time": datetime(2026, 1, 2, tzinfo=UTC)}, {"reason": "maxlen"}],
         GivenUp("expired", datetime(2026, 1, 2, tzinfo=UTC))),
        ([{"reason": "delivery_limit"}], GivenUp("delivery_limit", times=MAX_REDELIVERIES)),
        ([{"reason": "because"}], GivenUp("unknown")),
        ([{"reason": 7, "time": "soon"}], GivenUp("unknown")),
        (["a", "b"], GivenUp("unknown")),
        ([], None),
        ("expired", None),
        (None, None),
    ],
)  # fmt: skip
def test_why_the_broker_gave_a_job_up(death: Any, given_up: GivenUp | None) -> None:
    """The last entry of x-death says it; a stranger's value is unknown, or as if absent."""
    assert with_headers({"x-death": death}).given_up == given_up


def read(raw: bytes) -> dict[str, Any] | None:
    """The table in these bytes."""
    found, end = read_table(raw, 0, len(raw))
    assert end == len(raw)
    return found


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
    "text that is not UTF-8": (b"S" + struct.pack(">I", 2) + b"\xff\xfe", b"\xff\xfe"),
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
    sound = _sound(read(table((b"k", raw))))[0]
    assert sound == {"k": value}
    assert decode.field_table(write_table(sound))[1] == {"k": value}


# Bytes that decode and can't be encoded, or not to the same.
ODD = {
    "a double beyond a float": b"d" + struct.pack(">d", 1e300),
    "an array of such": b"A" + struct.pack(">I", 9) + b"d" + struct.pack(">d", 1e300),
    "a table of such": b"F" + table((b"a", b"d" + struct.pack(">d", -1e300))),
}


@pytest.mark.parametrize("raw", ODD.values(), ids=ODD)
def test_a_header_that_can_t_be_sent_is_left_behind(raw: bytes) -> None:
    """One strange header goes, the others stay: the job must not be stuck for it."""
    others = tuple((kind.encode(), value) for kind, (value, _) in TYPES.items())
    headers = read(table((b"odd", raw), *others))
    assert headers is not None
    assert "odd" in headers
    sound = _sound(headers)[0]
    assert sound == {kind: value for kind, (_, value) in TYPES.items()}
    assert write_table(sound)


def test_not_a_number_is_a_header_too() -> None:
    """NaN, which equals nothing, travels."""
    headers = read(table((b"k", b"d" + struct.pack(">d", math.nan))))
    assert math.isnan(_sound(headers)[0]["k"])


def test_deeply_nested_headers_do_not_break_it() -> None:
    """A table in a table, thousands deep, is left behind."""
    deep: Any = 1
    for _ in range(5000):
        deep = {"a": deep}
    assert _sound({"deep": deep, "a": 1})[0] == {"a": 1}


@pytest.mark.parametrize("headers", [None, {}])
def test_no_headers_are_none(headers: Any) -> None:
    """A message without headers has an empty table of them."""
    assert _sound(headers)[0] == {}


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
    """Whatever is in the table, its headers can be published again."""
    delivery = Delivery(b"", _sound(headers)[0], Source.JOBS, EPOCH, never)
    onward = Message(b"", {**delivery.headers, "x-scraperd-attempt": 2})
    assert sent(onward).headers


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
    delivery = from_frame(property_frame(flag, value))
    assert (delivery.message_id, delivery.correlation_id, delivery.reply_to) == (None, None, None)
    assert (delivery.content_type, delivery.headers, delivery.redeliveries) == (None, {}, 0)


def test_what_follows_an_unreadable_property_is_read() -> None:
    """Only the broken property is lost: the ones before and behind it keep their places."""
    flags = 1 << 15 | 1 << 13 | 1 << 10 | 1 << 9 | 1 << 7 | 1 << 6
    bad = table((b"\xff", b"t\1"))
    values = b"\1c" + bad + SHORT + b"\1r" + b"\1m" + b"\xff" * 8
    delivery = from_frame(property_frame(flags, values))
    assert (delivery.content_type, delivery.reply_to, delivery.message_id) == ("c", "r", "m")
    assert (delivery.correlation_id, delivery.headers) == (None, {})


def test_a_header_that_is_no_date_is_absent_alone() -> None:
    """A timestamp beyond the year 9999 among the headers is None, and the others stay."""
    late = b"T" + b"\xff" * 8
    headers = read(table((b"late", late), (b"a", b"t\1")))
    assert _sound(headers)[0] == {"late": None, "a": True}


def test_a_delivery_is_itself_and_no_other() -> None:
    """Two deliveries of equal content are two: each is settled on its own."""
    one, two = with_headers({}), with_headers({})
    assert one != two
    assert len({one, two}) == 2
