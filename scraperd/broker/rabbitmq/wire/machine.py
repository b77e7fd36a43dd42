"""The state of a connection: bytes in, events out; calls in, bytes out. Pure.

May touch: bytes and values.
Must never: raise for what was received, wait, or know of reconnecting.

The states of a connection. Bytes of another kind than the table names end it as `failed`:

| state          | received               | sent                   | next           | event        |
| -------------- | ---------------------- | ---------------------- | -------------- | ------------ |
| greeting       | connection.start       | connection.start-ok    | authenticating |              |
| authenticating | connection.tune        | tune-ok, open          | opening        |              |
| authenticating | connection.close       | connection.close-ok    | closed         | Ended        |
| opening        | connection.open-ok     |                        | open           | Opened       |
| opening        | connection.close       | connection.close-ok    | closed         | Ended        |
| open           | connection.close       | connection.close-ok    | closed         | Ended        |
| open           | connection.blocked     |                        | open           | Blocked      |
| open           | connection.unblocked   |                        | open           | Blocked      |
| open           | frames of channels     |                        | open           | as below     |
| closing        | connection.close-ok    |                        | closed         | Ended        |
| closing        | connection.close       | connection.close-ok    | closing        |              |
| closing        | frames of channels     |                        | closing        |              |

`close` leads from `open` to `closing`. After `closed` and `failed` nothing is read any more.
Heartbeats are taken in each state. The states of a channel, while the connection is open:

| state   | received               | sent                   | next           | event        |
| ------- | ---------------------- | ---------------------- | -------------- | ------------ |
| open    | basic.deliver, content |                        | open           | Delivered    |
| open    | basic.return, content  |                        | open           | Unroutable   |
| open    | basic.ack, basic.nack  |                        | open           | Confirmed    |
| open    | basic.cancel           |                        | open           | Cancelled    |
| open    | channel.flow           |                        | open           | Flow         |
| open    | any other method       |                        | open           | Answer       |
| open    | channel.close          | channel.close-ok       | closed         | ChannelEnded |
| closing | channel.close          | channel.close-ok       | closing        |              |
| closing | channel.close-ok       |                        | closed         | ChannelEnded |
| closing | anything else          |                        | closing        |              |

A channel is `open` from `open_channel` on, and `closing` from `close_channel` on.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from msgspec import Struct

from scraperd.broker.rabbitmq.wire.codec import frames, methods
from scraperd.broker.rabbitmq.wire.codec.properties import Properties, read_properties
from scraperd.broker.rabbitmq.wire.codec.tables import MAX_SHORT_BYTES
from scraperd.broker.rabbitmq.wire.errors import (
    CHANNEL_ERROR,
    COMMAND_INVALID,
    FRAME_ERROR,
    NOT_ALLOWED,
    REPLY_SUCCESS,
    SYNTAX_ERROR,
    UNEXPECTED_FRAME,
    Closed,
    ProtocolError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.broker.rabbitmq.wire.codec.methods import Method

MAX_FRAME_BYTES: Final = 131072  # that we offer: RabbitMQ's default
MIN_FRAME_BYTES: Final = 4096  # AMQP 0-9-1, frame-min-size
# A content header is one frame, and RabbitMQ does not compare what it sends with frame_max: with
# what it adds itself (x-death, x-delivery-count) a message that was published within the limit is
# above it (measured with 3.10.8 and 4.0.5). With frame_max = 0 publishers have no limit either.
MAX_CONTENT_HEADER_BYTES: Final = 1024 * 1024
MAX_GREETING_BYTES: Final = 16 * 1024  # of one frame, before frame_max is known
MAX_OPENING_BYTES: Final = 64 * 1024  # of all that is received before the connection is open
MAX_CHANNELS: Final = 2047  # that we ask for: RabbitMQ's default
_SHOWN: Final = 32  # bytes of a peer's rubbish that are quoted
_DELIVER: Final = b"\0\x3c\0\x3c"
_ACK: Final = b"\0\x3c\0\x50"
_CONFIRMS: Final = (_ACK, b"\0\x3c\0\x78")  # basic.ack, basic.nack
_SETTLED_BYTES: Final = 13  # of the payload of an ack or a nack
_HEADER_BYTES: Final = 14  # of a content header's payload, with the flags of its properties
_TLS_ALERT: Final = b"\x15\x03"
_KINDS: Final = frozenset({frames.METHOD, frames.HEADER, frames.BODY, frames.HEARTBEAT})
_CAPABILITIES: Final = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}

State: TypeAlias = Literal[
    "greeting", "authenticating", "opening", "open", "closing", "closed", "failed"
]


_EXPECTED: Final[dict[State, tuple[str, ...]]] = {
    "greeting": ("connection.start",),
    "authenticating": ("connection.tune", "connection.close"),
    "opening": ("connection.open-ok", "connection.close"),
    "open": ("connection.close", "connection.blocked", "connection.unblocked"),
    "closing": ("connection.close", "connection.close-ok"),
}


class Login(Struct, frozen=True):
    """What a connection tells the broker of itself. Its `repr` has no secret."""

    mechanism: str
    response: str
    vhost: str
    heartbeat: int
    properties: dict[str, Any]

    def __repr__(self) -> str:
        return f"Login({self.mechanism}, {self.vhost!r})"


@dataclass(slots=True)
class Opened:
    """The connection can be used: what the broker says of itself."""

    server: dict[str, Any]


@dataclass(slots=True)
class Ended:
    """The connection is over; `state` is the one in which it ended. Code 0: we asked for it."""

    code: int
    text: str
    state: State


@dataclass(slots=True)
class Blocked:
    """The broker takes no publish, for a reason; empty when it takes them again."""

    reason: str


@dataclass(slots=True)
class Delivered:
    """A message for a consumer."""

    channel: int
    consumer: str
    tag: int
    redelivered: bool
    properties: Properties
    body: bytes


@dataclass(slots=True)
class Unroutable:
    """A message of ours that came back."""

    channel: int
    properties: Properties
    text: str


@dataclass(slots=True)
class Confirmed:
    """The broker took publishes, or a queue rejected them: one, or all up to its tag."""

    channel: int
    tag: int
    multiple: bool
    taken: bool


@dataclass(slots=True)
class Cancelled:
    """The broker ended a consumer."""

    channel: int
    consumer: str
    wants_answer: bool


@dataclass(slots=True)
class Flow:
    """The broker stops publishes on a channel, or lets them go on."""

    channel: int
    active: bool


@dataclass(slots=True)
class Answer:
    """The answer to a call."""

    channel: int
    method: Method


@dataclass(slots=True)
class ChannelEnded:
    """A channel is over. Code 0: we asked for it."""

    channel: int
    code: int
    text: str


ChannelEvent: TypeAlias = (
    Delivered | Unroutable | Confirmed | Cancelled | Flow | Answer | ChannelEnded
)
Event: TypeAlias = Opened | Ended | Blocked | ChannelEvent


class _Content:
    """A message that is on its way, of which the method was read."""

    __slots__ = ("event", "left", "parts", "started")

    def __init__(self, event: Delivered | Unroutable) -> None:
        self.event = event
        self.started = False  # the content header was read
        self.left = 0
        self.parts: BytesIO | None = None


class _Channel:
    """What is known of a channel."""

    __slots__ = ("closing", "content")

    def __init__(self) -> None:
        self.closing = False
        self.content: _Content | None = None


class Machine:
    """One connection.

    `admits` is asked for each body by its size. Where it says no, `held` is that size, and nothing
    further is read before `go_on`. `replies` is what the peer is owed, for the caller to send.
    """

    def __init__(self, login: Login, admits: Callable[[int], bool] = lambda _: True) -> None:
        self._login = login
        self._admits = admits
        self._channels: dict[int, _Channel] = {}
        self._free: list[int] = []
        self._parts: list[bytes] = []  # of a frame that is not whole
        self._have = 0
        self._need = 1
        self._received = 0
        self._max_channels = MAX_CHANNELS
        self._server: dict[str, Any] = {}
        self._events: list[Event] = []  # of the bytes that are being read
        self._methods: dict[str, Callable[[Method], None]] = {
            "connection.start": self._on_start,
            "connection.tune": self._on_tune,
            "connection.open-ok": self._on_open,
            "connection.blocked": self._on_blocked,
            "connection.unblocked": self._on_blocked,
        }
        self.frame_max = MAX_GREETING_BYTES
        self.state: State = "greeting"
        self.held = 0
        self.replies: list[bytes] = [frames.GREETING]

    # Bytes in.

    def receive(self, data: bytes) -> list[Event]:
        """Return the events in these bytes and those before; the last may be that it is over."""
        if self.state in ("closed", "failed"):
            return []
        self._parts.append(data)
        self._have += len(data)
        self._received += len(data)
        if self.held or self._have < self._need:
            return []
        return self._read()

    def go_on(self) -> list[Event]:
        """Read on behind the content header of the body that was held."""
        self.held = 0
        return self._read() if self.state not in ("closed", "failed") else []

    def _read(self) -> list[Event]:
        """Read all frames that are whole."""
        parts, self._parts = self._parts, []
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        events: list[Event] = []
        self._events = events
        try:
            used = self._frames(data)
        except ProtocolError as error:
            events.append(self._fail(error))
            return events
        rest = data[used:] if used else data
        self._have = len(rest)
        self._parts = [rest] if rest else []
        opening = self.state in ("greeting", "authenticating", "opening")
        if opening and self._received > MAX_OPENING_BYTES:
            words = f"the peer sent {self._received} bytes and has not opened the connection"
            events.append(self._fail(ProtocolError(FRAME_ERROR, words)))
        return events

    def _fail(self, error: ProtocolError) -> Ended:
        ended = Ended(error.code, str(error), self.state)
        if self.state == "open":
            self.replies.append(_goodbye(error.code, str(error)))
        self.state = "failed"
        self._parts, self._have = [], 0
        return ended

    def _frames(self, data: bytes) -> int:
        """Read whole frames; return how many bytes they had. Raises ProtocolError."""
        at, length, unpack = 0, len(data), frames.HEAD.unpack_from
        while not self.held and self.state != "closed":
            if length - at < frames.HEAD.size:
                self._need = frames.HEAD.size
                if length > at and data[at] not in _KINDS:
                    raise _not_amqp(data[at:])
                break
            kind, number, size = unpack(data, at)
            if kind not in _KINDS:
                raise _not_amqp(data[at:])
            start = at + frames.HEAD.size
            end = start + size
            if size + frames.OVERHEAD_BYTES > self.frame_max and not self._is_header(kind, size):
                raise self._too_long(size + frames.OVERHEAD_BYTES)
            if end >= length:
                self._need = size + frames.OVERHEAD_BYTES
                break
            if data[end] != frames.END[0]:
                raise ProtocolError(FRAME_ERROR, "a frame that does not end with 0xCE")
            at = end + 1
            if number:
                self._on_channel(kind, number, data, start, end)
            elif kind != frames.HEARTBEAT:
                self._on_connection(kind, data[start:end])
        return at

    def _is_header(self, kind: int, size: int) -> bool:
        """Whether a frame above frame_max is a content header of a size that is taken."""
        return kind == frames.HEADER and self.state == "open" and size <= MAX_CONTENT_HEADER_BYTES

    def _too_long(self, size: int) -> ProtocolError:
        return ProtocolError(
            FRAME_ERROR, f"a frame of {size} bytes, above the agreed {self.frame_max}"
        )

    # The connection's own methods.

    def _on_connection(self, kind: int, payload: bytes) -> None:
        if kind != frames.METHOD:
            raise ProtocolError(COMMAND_INVALID, "content on channel 0")
        method = methods.decode(payload)
        if method.name not in _EXPECTED[self.state]:
            if self.state == "closing":
                return
            raise ProtocolError(
                COMMAND_INVALID, f"the method {method.name} in the state {self.state}"
            )
        if method.name == "connection.close":
            self.replies.append(frames.method(0, "connection.close-ok"))
            if self.state != "closing":
                code, text = method.fields["reply_code"], method.fields["reply_text"]
                self._events.append(Ended(code or REPLY_SUCCESS, text, self.state))
                self.state = "closed"
        elif method.name == "connection.close-ok":
            self._events.append(Ended(0, "closed", self.state))
            self.state = "closed"
        else:
            self._methods[method.name](method)

    def _on_start(self, method: Method) -> None:
        login, fields = self._login, method.fields
        if fields["version_major"] != 0 or fields["version_minor"] != 9:  # noqa: PLR2004
            raise ProtocolError(
                COMMAND_INVALID, "the peer speaks another version of AMQP than 0-9-1"
            )
        if login.mechanism not in fields["mechanisms"].split():
            raise ProtocolError(
                NOT_ALLOWED,
                f"the broker does not offer the login {login.mechanism}, "
                f"only {fields['mechanisms'][:_SHOWN]!r}",
            )
        self._server = fields["server_properties"]
        self.state = "authenticating"
        self.replies.append(
            frames.method(
                0,
                "connection.start-ok",
                client_properties={**login.properties, "capabilities": _CAPABILITIES},
                mechanism=login.mechanism,
                response=login.response,
                locale="en_US",
            )
        )

    def _on_tune(self, method: Method) -> None:
        fields = method.fields  # in both 0 is "no limit"
        self.frame_max = min(fields["frame_max"] or MAX_FRAME_BYTES, MAX_FRAME_BYTES)
        self._max_channels = min(fields["channel_max"] or MAX_CHANNELS, MAX_CHANNELS)
        if self.frame_max < MIN_FRAME_BYTES:
            raise ProtocolError(
                SYNTAX_ERROR,
                f"the broker's frame_max is {self.frame_max} bytes, below {MIN_FRAME_BYTES}",
            )
        self.state = "opening"
        self.replies += (
            frames.method(
                0,
                "connection.tune-ok",
                channel_max=self._max_channels,
                frame_max=self.frame_max,
                heartbeat=self._login.heartbeat,
            ),
            frames.method(0, "connection.open", virtual_host=self._login.vhost),
        )

    def _on_open(self, _method: Method) -> None:
        self.state = "open"
        self._events.append(Opened(self._server))

    def _on_blocked(self, method: Method) -> None:
        blocked = method.name == "connection.blocked"
        self._events.append(
            Blocked(method.fields["reason"] or "no reason given" if blocked else "")
        )

    # Channels.

    def _on_channel(self, kind: int, number: int, data: bytes, start: int, end: int) -> None:
        channel = self._channels.get(number)
        if self.state == "closing":
            return
        if channel is None:
            raise ProtocolError(CHANNEL_ERROR, f"a frame of channel {number}, which is not open")
        if channel.closing:
            if kind == frames.METHOD:
                self._on_method(number, channel, data[start:end])
        elif kind == frames.BODY:
            self._on_body(channel, data, start, end)
        elif kind == frames.HEADER:
            self._on_header(channel, data, start, end)
        elif kind == frames.METHOD:
            self._on_hot_method(number, channel, data, start, end)
        else:
            raise ProtocolError(FRAME_ERROR, "a heartbeat of a channel")

    def _on_hot_method(
        self, number: int, channel: _Channel, data: bytes, start: int, end: int
    ) -> None:
        """Take a method; those of a job's path without a detour."""
        if channel.content is not None:
            raise ProtocolError(UNEXPECTED_FRAME, "a method between the frames of a message")
        ident = data[start : start + 4]
        if ident == _DELIVER:
            channel.content = _Content(_delivered(number, data, start, end))
        elif ident in _CONFIRMS:
            if end - start != _SETTLED_BYTES:
                raise ProtocolError(SYNTAX_ERROR, "a confirm whose fields do not fit its frame")
            tag = int.from_bytes(data[start + 4 : end - 1], "big")
            multiple = bool(data[end - 1] & 1)
            self._events.append(Confirmed(number, tag, multiple, ident == _ACK))
        else:
            self._on_method(number, channel, data[start:end])

    def _on_header(self, channel: _Channel, data: bytes, start: int, end: int) -> None:
        content = channel.content
        if content is None or content.started or end - start < _HEADER_BYTES:
            raise ProtocolError(UNEXPECTED_FRAME, "a content header without its method")
        content.started = True
        content.left = size = int.from_bytes(data[start + 4 : start + 12], "big")
        content.event.properties = read_properties(data, start + 12, end)
        if not size:
            self._finish(channel, content, b"")
        elif not self._admits(size):
            self.held = size

    def _on_body(self, channel: _Channel, data: bytes, start: int, end: int) -> None:
        content = channel.content
        size = end - start
        if content is None or not content.started:
            raise ProtocolError(UNEXPECTED_FRAME, "a body without a content header")
        if size > content.left:
            raise ProtocolError(FRAME_ERROR, "a body longer than its content header says")
        content.left -= size
        if isinstance(content.event, Unroutable):  # its publisher has the body
            if not content.left:
                self._finish(channel, content, b"")
            return
        if content.parts is None:
            if not content.left:
                self._finish(channel, content, data[start:end])
                return
            content.parts = BytesIO()
        content.parts.write(memoryview(data)[start:end])
        if not content.left:
            self._finish(channel, content, content.parts.getvalue())  # not a copy

    def _finish(self, channel: _Channel, content: _Content, body: bytes) -> None:
        channel.content = None
        if isinstance(content.event, Delivered):
            content.event.body = body
        self._events.append(content.event)

    def _on_method(self, number: int, channel: _Channel, payload: bytes) -> None:
        """Take a method that is not on a job's path."""
        method = methods.decode(payload)
        name, fields = method
        if name == "channel.close":
            self.replies.append(frames.method(number, "channel.close-ok"))
            if not channel.closing:
                code, text = fields["reply_code"], fields["reply_text"]
                self._over(number, ChannelEnded(number, code or REPLY_SUCCESS, text))
        elif channel.closing:
            if name == "channel.close-ok":
                self._over(number, ChannelEnded(number, 0, "closed"))
        elif name == "basic.return":
            properties = Properties()
            channel.content = _Content(Unroutable(number, properties, fields["reply_text"]))
        elif name == "basic.cancel":
            self._events.append(Cancelled(number, fields["consumer_tag"], not fields["nowait"]))
        elif name == "channel.flow":
            self._events.append(Flow(number, fields["active"]))
        else:
            self._events.append(Answer(number, method))

    def _over(self, number: int, event: ChannelEnded) -> None:
        del self._channels[number]
        self._free.append(number)
        self._events.append(event)

    # Calls.

    def open_channel(self) -> int:
        """Return the number of a new channel, for a call channel.open. Raises Closed."""
        if self.state != "open":
            raise Closed(f"the connection is {self.state}")
        if not self._free and len(self._channels) == self._max_channels:
            raise Closed(f"all {self._max_channels} channels of the connection are open")
        number = self._free.pop() if self._free else len(self._channels) + 1
        self._channels[number] = _Channel()
        return number

    def close_channel(self, number: int) -> bytes:
        """Return what closes a channel; its end comes as an event."""
        self._channels[number].closing = True
        self._channels[number].content = None
        return frames.method(number, "channel.close", reply_code=REPLY_SUCCESS)

    def close(self, code: int = 0, text: str = "closed") -> bytes:
        """Return what closes an open connection; its end comes as an event."""
        self.state = "closing"
        self._admits = lambda _: True
        return _goodbye(code or REPLY_SUCCESS, text)


def _delivered(number: int, data: bytes, start: int, end: int) -> Delivered:
    """Return a delivery by its method; properties and body come later. Raises ProtocolError."""
    tag = start + 5 + data[start + 4]  # the byte at `end` is part of the frame
    exchange = tag + 9
    if exchange < end:
        key = exchange + 1 + data[exchange]
        if key < end and key + 1 + data[key] == end:
            return Delivered(
                number,
                data[start + 5 : tag].decode("utf-8", "replace"),
                int.from_bytes(data[tag : tag + 8], "big"),
                bool(data[tag + 8] & 1),
                _NONE,
                b"",
            )
    raise ProtocolError(SYNTAX_ERROR, "a delivery whose fields do not fit its frame")


_NONE: Final = Properties()


def _goodbye(code: int, text: str) -> bytes:
    """Return a frame connection.close with as much of `text` as it takes."""
    words = text.encode(errors="replace")[:MAX_SHORT_BYTES].decode(errors="ignore")
    return frames.method(0, "connection.close", reply_code=code, reply_text=words)


def _not_amqp(data: bytes) -> ProtocolError:
    """Return what is said to a peer whose bytes are no frame."""
    shown = bytes(data[:_SHOWN])
    if shown.startswith(b"AMQP"):
        return ProtocolError(FRAME_ERROR, f"the peer speaks another protocol: {shown[:8]!r}")
    if shown.startswith(_TLS_ALERT):
        return ProtocolError(FRAME_ERROR, "the peer wants TLS: does broker_url need amqps://?")
    return ProtocolError(FRAME_ERROR, f"the peer does not speak AMQP: it sent {shown!r}")
