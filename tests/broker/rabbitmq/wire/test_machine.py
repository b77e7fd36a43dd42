"""The machine of a connection: its tables, recorded sessions of RabbitMQ, and bytes that are wrong.

May touch: memory; tests/data/amqp/; pamqp as the oracle of what a session says.
Must never: need a broker.
"""

from __future__ import annotations

import lzma
import random
import struct
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp import frame as pamqp_frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from scraperd.broker.rabbitmq.wire import machine as module
from scraperd.broker.rabbitmq.wire.codec import frames
from scraperd.broker.rabbitmq.wire.errors import FRAME_ERROR, Closed
from scraperd.broker.rabbitmq.wire.machine import (
    MAX_CONTENT_HEADER_BYTES,
    MAX_FRAME_BYTES,
    MAX_OPENING_BYTES,
    Answer,
    Blocked,
    Cancelled,
    ChannelEnded,
    Confirmed,
    Delivered,
    Ended,
    Event,
    Login,
    Machine,
    Opened,
    Unroutable,
)
from tests.rig.clocks.effort import least, scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SESSIONS = sorted((Path(__file__).parents[3] / "data/amqp").glob("*.xz"))
CHANNELS = 4  # that each recorded session opens
LOGIN = Login("PLAIN", "\0guest\0guest", "/", 10, {"product": "test"})
NAMES = st.sampled_from(SESSIONS).map(lambda path: lzma.decompress(path.read_bytes()))


def received(*parts: Any, channel: int = 0) -> bytes:
    """Frames as pamqp writes them."""
    return b"".join(pamqp_frame.marshal(part, channel) for part in parts)


START = received(spec.Connection.Start(mechanisms="PLAIN AMQPLAIN", server_properties={"a": "b"}))
TUNE = received(spec.Connection.Tune(2047, 131072, 60))
OPEN_OK = received(spec.Connection.OpenOk())


def opened(admits: Callable[[int], bool] = lambda _: True, *, channels: int = 1) -> Machine:
    """A machine whose connection is open, with channels."""
    machine = Machine(LOGIN, admits)
    [event] = machine.receive(START + TUNE + OPEN_OK)
    assert isinstance(event, Opened)
    for _ in range(channels):
        machine.open_channel()
    machine.replies.clear()
    return machine


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    """The data in pieces."""
    for start, end in pairwise([0, *sorted(places), len(data)]):
        if start != end:
            yield data[start:end]


def opening_of(session: bytes) -> int:
    """Where the frame connection.open-ok ends: what follows needs channels."""
    at = 0
    while True:
        used, _, found = pamqp_frame.unmarshal(session[at:])
        at += used
        if isinstance(found, spec.Connection.OpenOk):
            return at


def told_by_pamqp(session: bytes) -> list[tuple[Any, ...]]:
    """What a session says, by another reader of frames."""
    said: list[tuple[Any, ...]] = []
    at, method, header, body = 0, None, None, b""
    while at < len(session):
        used, channel, found = pamqp_frame.unmarshal(session[at:])
        at += used
        if isinstance(found, spec.Basic.Deliver | spec.Basic.Return):
            method = found
        elif isinstance(found, ContentHeader):
            header, body = found, b""
        elif isinstance(found, ContentBody):
            body += found.value
        else:
            said += method_by_pamqp(channel, found)
        if header is not None and len(body) == header.body_size:
            said.append(content_by_pamqp(channel, method, header, body))
            method = header = None
    return said


def method_by_pamqp(channel: int, found: Any) -> list[tuple[Any, ...]]:
    """A method without content that was read by pamqp; nothing for those of the opening."""
    match found:
        case spec.Basic.Ack() | spec.Basic.Nack():
            taken = isinstance(found, spec.Basic.Ack)
            return [("confirm", channel, found.delivery_tag, found.multiple, taken)]
        case spec.Basic.Cancel():
            return [("cancel", channel, found.consumer_tag)]
        case spec.Channel.Close():
            return [("end", channel, found.reply_code, found.reply_text)]
        case spec.Connection.Blocked():
            return [("blocked", found.reason)]
        case spec.Connection.Unblocked():
            return [("blocked", "")]
    return [("answer", channel, found.name.lower().replace("ok", "-ok"))] if channel else []


def content_by_pamqp(channel: int, method: Any, header: Any, body: bytes) -> tuple[Any, ...]:
    """A message that was read by pamqp."""
    properties = header.properties
    known = (properties.message_id, properties.headers or None, properties.priority)
    if isinstance(method, spec.Basic.Return):
        return "return", channel, method.reply_text, known
    where = (method.consumer_tag, method.delivery_tag, method.redelivered)
    return ("deliver", channel, where, known, body)


def told(events: list[Event]) -> list[tuple[Any, ...]]:
    """What the events of the machine say, in the same form."""
    said: list[tuple[Any, ...]] = []
    for event in events:
        match event:
            case Delivered(channel, consumer, tag, redelivered, properties, body):
                known = (properties.message_id, properties.headers, properties.priority)
                said.append(("deliver", channel, (consumer, tag, redelivered), known, body))
            case Unroutable(channel, properties, text):
                known = (properties.message_id, properties.headers, properties.priority)
                said.append(("return", channel, text, known))
            case Confirmed(channel, tag, multiple, taken):
                said.append(("confirm", channel, tag, multiple, taken))
            case Cancelled(channel, consumer):
                said.append(("cancel", channel, consumer))
            case ChannelEnded(channel, code, text):
                said.append(("end", channel, code, text))
            case Blocked(reason):
                said.append(("blocked", reason))
            case Answer(channel, method):
                said.append(("answer", channel, method.name))
            case Ended(code, text):
                said.append(("over", code, text))
    return said


def play_whole(session: bytes, places: list[int]) -> tuple[list[tuple[Any, ...]], Machine]:
    """What a session says when it comes in these pieces."""
    begin = opening_of(session)
    machine = Machine(LOGIN)
    events: list[Event] = []
    for piece in cut(session[:begin], [at for at in places if at < begin]):
        events += machine.receive(piece)
    assert [type(event) for event in events] == [Opened]
    events.clear()
    for _ in range(CHANNELS):
        machine.open_channel()
    rest = session[begin:]
    goodbye = rest.rindex(received(spec.Channel.CloseOk(), channel=3))
    for piece in cut(rest[:goodbye], [at - begin for at in places if begin < at < begin + goodbye]):
        events += machine.receive(piece)
    machine.close_channel(3)
    end = rest.rindex(received(spec.Connection.CloseOk()))
    events += machine.receive(rest[goodbye:end])
    machine.close()
    events += machine.receive(rest[end:])
    return told(events), machine


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_recorded_session_says_what_pamqp_reads_in_it(path: Path) -> None:
    """Deliveries with all types of headers, of no and of many frames; confirms, returns, a
    rejection, an alarm, a cancelled consumer, an error of a channel, and both ways to close.
    """
    session = lzma.decompress(path.read_bytes())
    said, machine = play_whole(session, [])
    wanted = told_by_pamqp(session)
    opening = [("answer", channel, "channel.open-ok") for channel in range(1, CHANNELS + 1)]
    assert wanted[:CHANNELS] == opening
    closed = ("end", 3, 0, "closed")
    wanted = [closed if one == ("answer", 3, "channel.close-ok") else one for one in wanted]
    assert said == [*wanted, ("over", 0, "closed")]
    assert machine.state == "closed"
    kinds = {one[0] for one in said}
    assert kinds == {
        "answer", "deliver", "confirm", "return", "blocked", "cancel", "end", "over",
    }  # fmt: skip
    assert {one[4] for one in said if one[0] == "confirm"} == {True, False}


@given(session=NAMES, data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_pieces_give_the_same_events(session: bytes, data: st.DataObject) -> None:
    """However TCP cuts the stream."""
    places = data.draw(st.lists(st.integers(1, len(session) - 1), max_size=40, unique=True))
    assert play_whole(session, places)[0] == play_whole(session, [])[0]


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_cut_at_every_position_gives_the_same_events(path: Path) -> None:
    """Two pieces, cut at each byte but those inside of the large body."""
    session = lzma.decompress(path.read_bytes())
    wanted = play_whole(session, [])[0]
    large = max(len(one[4]) for one in wanted if one[0] == "deliver")
    assert large > 2 * MAX_FRAME_BYTES
    first = session.index(bytes(range(256)))
    near = [*range(1, first + 20), *range(first + large, len(session))]
    for at in near[:: max(1, len(near) // 400)]:
        assert play_whole(session, [at])[0] == wanted


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_byte_by_byte_is_linear(path: Path) -> None:
    """A stream that drips is not copied again for each byte."""
    session = lzma.decompress(path.read_bytes())
    begin = opening_of(session)
    large = session.index(bytes(range(256)))
    rest = session[begin : large + 2 * MAX_FRAME_BYTES]

    def drip(size: int) -> None:
        machine = opened(channels=CHANNELS)
        for at in range(0, size, 2):
            machine.receive(rest[at : at + 2])

    quarter, whole = least(lambda: drip(len(rest) // 4)), least(lambda: drip(len(rest)))
    assert whole < 8 * quarter, "linear takes 4 times as long, quadratic 16 times"


def test_random_changes_end_in_one_way() -> None:
    """A recorded session with bytes that were changed, lost or doubled: events come, or the
    connection fails; nothing is raised, and no time is lost.
    """
    dice = random.Random(20261127)
    sessions = [lzma.decompress(path.read_bytes()) for path in SESSIONS]
    failed = 0
    began = time.thread_time()
    for _ in range(1500):
        session = dice.choice(sessions)
        begin = opening_of(session)
        machine = opened(channels=CHANNELS)
        data = mutated(dice, session[begin : begin + 6000])
        for piece in cut(data, [dice.randrange(len(data)) for _ in range(dice.randrange(4))]):
            machine.receive(piece)
        failed += machine.state == "failed"
        assert machine.receive(b"x") == [] or machine.state != "failed"
    assert failed > 300
    assert time.thread_time() - began < scaled(6)


def mutated(dice: random.Random, data: bytes) -> bytes:
    """The data with one to eight mistakes."""
    raw = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(len(raw))
        size = dice.choice((1, 1, 2, 8, 100))
        match dice.randrange(5):
            case 0:
                raw[at] = dice.randrange(256)
            case 1:
                raw[at] ^= 1 << dice.randrange(8)
            case 2:
                del raw[at : at + size]
            case 3:
                raw[at:at] = raw[at : at + size]
            case _:
                raw[at : at + size] = dice.randbytes(size)
    return bytes(raw) or b"\0"


@given(data=st.binary(max_size=200), begun=st.booleans())
def test_rubbish_ends_in_one_way(data: bytes, begun: bool) -> None:  # noqa: FBT001
    """Whatever comes, at the start or later, the machine raises nothing."""
    machine = opened() if begun else Machine(LOGIN)
    for event in machine.receive(data):
        assert not isinstance(event, Ended) or machine.state in ("failed", "closed")


HTTP = b"HTTP/1.1 400 Bad Request\r\n\r\n"
STRANGERS = {
    "another version": (b"AMQP\0\0\x09\x00", "speaks another protocol: b'AMQP"),
    "amqp 1.0": (b"AMQP\x03\x01\0\0", "speaks another protocol"),
    "http": (HTTP, "does not speak AMQP: it sent b'HTTP/1.1 400"),
    "tls": (b"\x15\x03\x01\0\x02\x02F", "does broker_url need amqps://?"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak AMQP"),
    "a long frame": (frames.HEAD.pack(1, 0, 2**31), "a frame of 2147483656 bytes, above"),
    "no end": (START[:-1] + b"\0", "does not end with 0xCE"),
    "beats without end": (frames.BEAT * 9000, "has not opened the connection"),
    "a method of another time": (TUNE, "connection.tune in the state greeting"),
    "a channel": (received(spec.Channel.OpenOk(), channel=1), "channel 1, which is not open"),
    "content": (received(ContentBody(b"x")), "content on channel 0"),
    "version 1.0 of the method": (
        received(spec.Connection.Start(1, 0, mechanisms="PLAIN")),
        "another version of AMQP",
    ),
    "no login of ours": (
        received(spec.Connection.Start(mechanisms="GSSAPI")),
        "does not offer the login PLAIN, only 'GSSAPI'",
    ),
    "tiny frames": (START + received(spec.Connection.Tune(0, 100, 0)), "frame_max is 100 bytes"),
    "an unknown method": (
        START + frames.HEAD.pack(1, 0, 4) + b"\0\x0a\0\x63\xce",
        "unknown method",
    ),
    "a cut method": (START + frames.HEAD.pack(1, 0, 6) + b"\0\x0a\0\x1e\0\0\xce", "do not fit"),
}


@pytest.mark.parametrize(("data", "words"), STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_is_told_in_words(data: bytes, words: str) -> None:
    """What is no broker, or breaks the rules, ends the connection at once and within a few kB."""
    machine = Machine(LOGIN)
    ended = machine.receive(data)[-1]
    assert isinstance(ended, Ended)
    assert words in ended.text
    assert machine.state == "failed"
    assert not any(b"guest" in reply for reply in machine.replies) or data.startswith(START)
    assert machine.receive(START) == []


def test_a_stranger_cannot_send_without_end() -> None:
    """Before the connection is open the bytes are counted."""
    machine = Machine(LOGIN)
    sent = 0
    while machine.state == "greeting":
        machine.receive(frames.BEAT)
        sent += len(frames.BEAT)
    assert machine.state == "failed"
    assert sent <= MAX_OPENING_BYTES + len(frames.BEAT)


def test_the_login_is_in_no_repr() -> None:
    """A traceback of a mistake may show it."""
    assert "guest" not in repr(LOGIN)


def content(channel: int, size: int, *, declared: int | None = None) -> bytes:
    """A delivery of `size` bytes."""
    header = ContentHeader(
        body_size=size if declared is None else declared, properties=spec.Basic.Properties()
    )
    deliver = spec.Basic.Deliver("c", 1, redelivered=False, exchange="", routing_key="q")
    return received(deliver, header, *([ContentBody(b"x" * size)] if size else []), channel=channel)


DELIVER = received(spec.Basic.Deliver("c", 1, False, "", "q"), channel=1)
HEADER = received(ContentHeader(body_size=2, properties=spec.Basic.Properties()), channel=1)
BODY = received(ContentBody(b"xx"), channel=1)
WRONG = {
    "a header alone": (HEADER, 505),
    "a body alone": (BODY, 505),
    "two methods": (DELIVER + DELIVER, 505),
    "a body without a header": (DELIVER + BODY, 505),
    "two headers": (DELIVER + HEADER + HEADER, 505),
    "a body too long": (DELIVER + HEADER + BODY + BODY[:-1] + b"\xce", 505),
    "a longer body": (DELIVER + HEADER + received(ContentBody(b"xxx"), channel=1), 501),
    "an unknown channel": (received(spec.Basic.Ack(1), channel=2), 504),
    "a beat of a channel": (frames.HEAD.pack(8, 1, 0) + b"\xce", 501),
    "an ack cut short": (frames.HEAD.pack(1, 1, 5) + b"\0\x3c\0\x50\0\xce", 502),
    "a delivery cut short": (frames.HEAD.pack(1, 1, 6) + b"\0\x3c\0\x3c\xff\0\xce", 502),
    "a frame too long": (frames.HEAD.pack(3, 1, MAX_FRAME_BYTES), 501),
    "a second start": (START, 503),
}


@pytest.mark.parametrize(("data", "code"), WRONG.values(), ids=WRONG)
def test_a_broken_rule_ends_the_connection_by_its_code(data: bytes, code: int) -> None:
    """AMQP 0-9-1 section 4.2: the broker is told the reply code, and nothing is read any more."""
    machine = opened()
    ended = machine.receive(data)[-1]
    assert isinstance(ended, Ended)
    assert (ended.code, machine.state) == (code, "failed")
    _, _, goodbye = pamqp_frame.unmarshal(machine.replies[-1])
    assert isinstance(goodbye, spec.Connection.Close)
    assert goodbye.reply_code == code


def test_the_largest_frame_is_taken() -> None:
    """Of exactly frame_max bytes, as RabbitMQ sends them."""
    machine = opened()
    longest = MAX_FRAME_BYTES - frames.OVERHEAD_BYTES
    [event] = machine.receive(content(1, longest))
    assert isinstance(event, Delivered)
    assert len(event.body) == longest


def test_a_content_header_may_be_larger_than_agreed() -> None:
    """RabbitMQ adds its own headers to a message whose header filled a frame, and sends it in one
    frame. Above a mebibyte it is an error, and so is any other frame above the limit.
    """

    def header(size: int) -> bytes:
        head = struct.pack(">BHIHHQ", 2, 1, size, 60, 0, 0)
        return head + b"\0\0" + b"x" * (size - 14) + b"\xce"

    deliver = received(spec.Basic.Deliver("c", 1, False, "", "q"), channel=1)
    machine = opened()
    [event] = machine.receive(deliver + header(MAX_FRAME_BYTES))
    assert isinstance(event, Delivered)
    [ended] = machine.receive(deliver + header(MAX_CONTENT_HEADER_BYTES + 1))
    assert isinstance(ended, Ended)
    assert ended.code == 501


def test_a_body_without_room_waits() -> None:
    """Nothing behind its header is read, not even what is of another channel, until it may."""
    asked: list[int] = []

    def admits(size: int) -> bool:
        asked.append(size)
        return size != 30

    machine = opened(admits, channels=2)
    data = content(1, 10) + content(1, 30) + content(2, 20) + content(1, 0)
    assert [type(event) for event in machine.receive(data)] == [Delivered]
    assert machine.held == 30
    assert machine.receive(content(2, 5)) == []
    found = machine.go_on()
    assert [len(event.body) for event in found if isinstance(event, Delivered)] == [30, 20, 0, 5]
    assert asked == [10, 30, 20, 5]
    assert machine.held == 0


def test_a_returned_body_is_not_kept() -> None:
    """Its publisher has it."""
    machine = opened()
    returned = spec.Basic.Return(312, "NO_ROUTE", "", "q")
    header = ContentHeader(body_size=2**40, properties=spec.Basic.Properties(message_id="m"))
    assert machine.receive(received(returned, header, channel=1)) == []
    piece = received(ContentBody(b"x" * 100_000), channel=1)
    for _ in range(100):
        assert machine.receive(piece) == []
    content_of = machine._channels[1].content
    assert content_of is not None
    assert not content_of.parts


def rows(number: int) -> list[list[str]]:
    """The cells of each row of a table in the docstring of machine.py."""
    tables: list[list[list[str]]] = []
    for line in (module.__doc__ or "").splitlines():
        if line.startswith("| state"):
            tables.append([])
        elif line.startswith("| ") and not line.startswith("| -"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return tables[number]


CLOSE = received(spec.Connection.Close(320, "CONNECTION_FORCED - bye", 0, 0))
OF_CONNECTION = {
    "connection.start": START,
    "connection.tune": TUNE,
    "connection.open-ok": OPEN_OK,
    "connection.close": CLOSE,
    "connection.close-ok": received(spec.Connection.CloseOk()),
    "connection.blocked": received(spec.Connection.Blocked("low on memory")),
    "connection.unblocked": received(spec.Connection.Unblocked()),
    "frames of channels": content(1, 3),
}


def at(data: bytes) -> Machine:
    machine = Machine(LOGIN)
    machine.receive(data)
    machine.replies.clear()
    return machine


def closing() -> Machine:
    machine = opened()
    machine.close()
    return machine


TO_STATE: dict[str, Callable[[], Machine]] = {
    "greeting": lambda: at(b""),
    "authenticating": lambda: at(START),
    "opening": lambda: at(START + TUNE),
    "open": opened,
    "closing": closing,
}


@pytest.mark.parametrize("row", rows(0), ids=lambda row: f"{row[0]}, {row[1]}")
def test_each_row_of_a_connection(row: list[str]) -> None:
    """What is received in a state leads to the next one, with that answer and that event."""
    state, what, sent, following, event = row
    machine = TO_STATE[state]()
    assert machine.state == state
    events = machine.receive(OF_CONNECTION[what])
    assert machine.state == following
    if event == "as below":
        assert [type(one) for one in events] == [Delivered]
    else:
        assert [type(one).__name__ for one in events] == ([event] if event else [])
    names = [pamqp_frame.unmarshal(reply)[2].name for reply in machine.replies]
    words = [word.strip() for word in sent.split(",") if word.strip()]
    assert len(names) == len(words)
    for name, word in zip(names, words, strict=True):
        assert name.lower().replace("ok", "-ok").endswith(word)


def test_each_state_and_method_that_is_not_in_the_table_fails() -> None:
    """The table is whole: a method that it does not name for a state ends the connection."""
    named = {(row[0], row[1]) for row in rows(0)}
    assert {state for state, _ in named} == set(TO_STATE)
    for state, make in TO_STATE.items():
        for what, data in OF_CONNECTION.items():
            machine = make()
            machine.receive(data)
            ignored = state == "closing" and what not in ("connection.close", "connection.close-ok")
            assert (machine.state == "failed") == ((state, what) not in named and not ignored)


OF_CHANNEL = {
    "basic.deliver, content": content(1, 3),
    "basic.return, content": received(
        spec.Basic.Return(312, "NO_ROUTE", "", "q"),
        ContentHeader(body_size=0, properties=spec.Basic.Properties()),
        channel=1,
    ),
    "basic.ack, basic.nack": received(spec.Basic.Nack(1), channel=1),
    "basic.cancel": received(spec.Basic.Cancel("c"), channel=1),
    "channel.flow": received(spec.Channel.Flow(active=False), channel=1),
    "any other method": received(spec.Basic.QosOk(), channel=1),
    "channel.close": received(spec.Channel.Close(404, "NOT_FOUND", 0, 0), channel=1),
    "channel.close-ok": received(spec.Channel.CloseOk(), channel=1),
    "anything else": content(1, 3) + received(spec.Basic.Ack(1), channel=1),
}


@pytest.mark.parametrize("row", rows(1), ids=lambda row: f"{row[0]}, {row[1]}")
def test_each_row_of_a_channel(row: list[str]) -> None:
    """The same for a channel; a channel that is closed can be opened again under its number."""
    state, what, sent, following, event = row
    machine = opened()
    if state == "closing":
        machine.close_channel(1)
    events = machine.receive(OF_CHANNEL[what])
    assert [type(one).__name__ for one in events] == ([event] if event else [])
    names = [pamqp_frame.unmarshal(reply)[2].name for reply in machine.replies]
    assert [name.lower().replace("ok", "-ok") for name in names] == ([sent] if sent else [])
    assert machine.open_channel() == (1 if following == "closed" else 2)
    assert machine.state == "open"


def test_channels_end_at_the_agreed_number() -> None:
    """A broker that allows three gets three, and a number is used again."""
    machine = at(START + received(spec.Connection.Tune(3, 131072, 0)) + OPEN_OK)
    assert [machine.open_channel() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(Closed, match="all 3 channels"):
        machine.open_channel()
    machine.close_channel(2)
    machine.receive(received(spec.Channel.CloseOk(), channel=2))
    assert machine.open_channel() == 2


def test_the_agreed_values_are_sent() -> None:
    """The smaller of both frame sizes, our heartbeat, and the vhost."""
    machine = Machine(Login("PLAIN", "\0u\0p", "v/w", 7, {}))
    machine.receive(START + received(spec.Connection.Tune(0, 0, 60)))
    _, _, tuned = pamqp_frame.unmarshal(machine.replies[-2])
    _, _, asked = pamqp_frame.unmarshal(machine.replies[-1])
    assert isinstance(tuned, spec.Connection.TuneOk)
    assert (tuned.channel_max, tuned.frame_max, tuned.heartbeat) == (2047, MAX_FRAME_BYTES, 7)
    assert isinstance(asked, spec.Connection.Open)
    assert asked.virtual_host == "v/w"
    assert machine.frame_max == MAX_FRAME_BYTES
    assert at(START + received(spec.Connection.Tune(9, 4096, 60))).frame_max == 4096


def test_a_long_text_of_a_fault_fits_into_its_frame() -> None:
    """What is told to the broker is a short string."""
    machine = opened()
    machine.receive(HTTP * 9)
    _, _, goodbye = pamqp_frame.unmarshal(machine.replies[-1])
    assert isinstance(goodbye, spec.Connection.Close)
    assert goodbye.reply_code == FRAME_ERROR
