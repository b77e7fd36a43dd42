"""One connection to the broker: the machine on a transport, one write in a turn of the loop.

May touch: its transport, the running loop; the kernel, to ask what has arrived.
Must never: reconnect, or wait inside of a callback.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from scraperd.broker.rabbitmq.wire.channel import Channel
from scraperd.broker.rabbitmq.wire.codec import frames
from scraperd.broker.rabbitmq.wire.errors import (
    INTERNAL_ERROR,
    Closed,
    ProtocolError,
)
from scraperd.broker.rabbitmq.wire.gate import MAX_HOLD
from scraperd.broker.rabbitmq.wire.machine import (
    Answer,
    Blocked,
    Cancelled,
    ChannelEnded,
    Confirmed,
    Delivered,
    Ended,
    Machine,
    Opened,
    Unroutable,
)
from scraperd.broker.rabbitmq.wire.outbox import Outbox

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.wire.gate import Gate
    from scraperd.broker.rabbitmq.wire.machine import ChannelEvent, Event, Login

_ACKED: Final = struct.Struct("=120xQ")  # tcpi_bytes_acked in struct tcp_info (Linux 4.1)
_BEATS: Final = 2  # heartbeats that are sent in the agreed interval, as RabbitMQ does
_LOOKS: Final = 4  # in which it is looked whether anything came
MAX_GOODBYE: Final = 1.0  # seconds that a last word may take to be written
_SILENT: Final = 3  # intervals, and as many seconds, without a byte: the broker is gone


class Connection(asyncio.Protocol):
    """A connection, from the first byte to its end."""

    def __init__(self, login: Login, gate: Gate | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._gate = gate
        self._heartbeat = login.heartbeat
        self._transport: asyncio.Transport | None = None
        self._channels: dict[int, Channel] = {}
        self._acking: list[Channel] = []
        self._read: deque[list[Event]] = deque()  # and not handed on yet
        self._flushing = False
        self._paused = False
        self._heard = True  # since the last beat
        self._wrote = True
        self._silent = 0
        self._looks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._hold: asyncio.TimerHandle | None = None
        self._end: Closed | None = None
        self.machine: Final = Machine(login, gate.admits if gate else lambda _: True)
        self.outbox: Final = Outbox()
        self.blocked = ""
        """Why the broker takes no publish now; empty if it takes them."""
        self.opened: asyncio.Future[dict[str, Any] | Ended] = self._loop.create_future()
        """What the broker says of itself, or how the connection ended before that."""
        self.closed: asyncio.Future[Closed] = self._loop.create_future()
        """Done, with the reason, once the connection has ended."""

    async def channel(self, *, confirms: bool = False) -> Channel:
        """Return a fresh channel: an error there closes it and nothing else. Raises Closed."""
        if self.closed.done():
            raise Closed(str(self.closed.result()), self.closed.result().code)
        number = self.machine.open_channel()
        channel = self._channels[number] = Channel(self, number)
        opened = channel.call("channel.open", "channel.open-ok")
        confirmed = channel.confirm() if confirms else opened
        await opened
        await confirmed
        return channel

    def waiting(self) -> int:
        """Bytes that were written and not acknowledged by the other end (tcp(7), SIOCOUTQ)."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return 0
        unsent = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        buffered = self.outbox.waiting + transport.get_write_buffer_size()
        return buffered + int.from_bytes(unsent, "little")

    def arrived(self) -> int:
        """Bytes that the other end has acknowledged so far."""
        if self._transport is None or self._transport.is_closing():
            return 0
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
        return int(_ACKED.unpack(info)[0]) if len(info) == _ACKED.size else 0

    @property
    def _socket(self) -> Any:
        return self._transport.get_extra_info("socket") if self._transport else None

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the broker."""
        self._transport = cast("asyncio.Transport", transport)
        self._reply()
        if self._heartbeat:
            self._timer = self._loop.call_later(self._heartbeat / _LOOKS, self._look)

    def data_received(self, data: bytes) -> None:
        """Take what the broker sent."""
        self._heard = True
        self._take_in(self.machine.receive(data))

    def eof_received(self) -> None:
        """The broker sends no more: the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End all that waits."""
        while self._read:
            self._dispatch(self._read.popleft())
        words = f": {exc}" if exc else ""
        self._finish(Ended(0, f"the broker cut the connection{words}", self.machine.state))

    def pause_writing(self) -> None:
        """Write no more: the kernel's buffer and the transport's are full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Write on."""
        self._paused = False
        self.flush_later()

    # Writing.

    def flush_later(self) -> None:
        """Write what is in the outbox at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def acks_later(self, channel: Channel) -> None:
        """Ask the channel for its acks at the end of this turn of the loop."""
        if channel not in self._acking:
            self._acking.append(channel)
            self.flush_later()

    def _flush(self) -> None:
        self._flushing = False
        acking, self._acking = self._acking, []
        for channel in acking:
            channel.take_acks()
        transport = self._transport
        if self._paused or transport is None or transport.is_closing():
            return
        data = self.outbox.take()
        if data:
            self._wrote = True
            transport.write(data)
        if self.outbox and not self._paused:
            self.flush_later()

    def _reply(self) -> None:
        """Send what the machine owes the broker."""
        replies = self.machine.replies
        if replies:
            self.machine.replies = []
            self.outbox.put(*replies)
            self.flush_later()

    def _look(self) -> None:
        """End the connection if nothing comes; at each second look, see to a heartbeat.

        Looks are counted and not seconds: after a stop of this process there may be bytes to read.
        """
        self._silent = 0 if self._heard or self.machine.held else self._silent + 1
        self._heard = False
        interval = self._heartbeat / _LOOKS
        if self._silent * interval >= _SILENT * (self._heartbeat + 1):
            self.abort(Closed(f"nothing came from the broker for {self._silent * interval:g} s"))
            return
        self._looks += 1
        if self._looks % (_LOOKS // _BEATS) == 0:
            self._beat()
        self._timer = self._loop.call_later(interval, self._look)

    def _beat(self) -> None:
        """Send a heartbeat if nothing else was sent."""
        if self.machine.state == "open" and not self._wrote and not self._paused:
            self.outbox.put(frames.BEAT)
            self.flush_later()
        self._wrote = False

    # Reading.

    def _take_in(self, events: list[Event]) -> None:
        """Send what the events ask for, and hand them on.

        Deliveries are handed on two turns later. A confirm on the other connection that is read in
        this turn leads to an ack in the next, which goes out before a delivery of this turn starts.
        The delivery can be the copy of the acked one, and end the process at once (a poison job).
        """
        self._reply()
        self._look_at_gate()
        if self._gate is None:
            self._dispatch(events)
        elif events:
            self._read.append(events)
            self._loop.call_soon(self._loop.call_soon, self._dispatch_next)

    def _dispatch_next(self) -> None:
        if self._read:
            self._dispatch(self._read.popleft())

    def _dispatch(self, events: list[Event]) -> None:
        """Hand events to the channels; a broken rule, or a broken handler, ends the connection."""
        try:
            for event in events:
                if isinstance(event, Opened | Ended | Blocked):
                    self._take(event)
                elif (channel := self._channels.get(event.channel)) is not None:
                    self._hand_over(channel, event)  # else `give_up` has ended it meanwhile
        except ProtocolError as error:
            self._break_off(error.code, str(error))
        except Exception as error:  # noqa: BLE001 - a transport would only log it
            self._break_off(INTERNAL_ERROR, f"a mistake of scraperd: {error!r}")

    def _hand_over(self, channel: Channel, event: ChannelEvent) -> None:
        if isinstance(event, Delivered):
            channel.on_delivery(event)
        elif isinstance(event, Confirmed):
            channel.on_confirm(event)
        elif isinstance(event, Answer):
            channel.on_answer(event.method)
        elif isinstance(event, ChannelEnded):
            del self._channels[event.channel]
            channel.on_end(event)
        elif isinstance(event, Unroutable):
            channel.on_return(event)
        elif isinstance(event, Cancelled):
            channel.on_cancelled(event)
        else:
            channel.on_flow(event)

    def _take(self, event: Opened | Ended | Blocked) -> None:
        match event:
            case Blocked(reason):
                self.blocked = reason
            case Opened(server):
                if not self.opened.done():
                    self.opened.set_result(server)
            case Ended():
                self._finish(event)

    def _look_at_gate(self) -> None:
        """Stop reading while there is no room for the next body."""
        transport, gate = self._transport, self._gate
        if not self.machine.held or gate is None or transport is None or self._hold is not None:
            return
        transport.pause_reading()
        self._hold = self._loop.call_later(MAX_HOLD, self._go_on)
        gate.on_room = self._go_on_soon

    def _go_on_soon(self) -> None:
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Let the body in that was held: there is room, or it has waited for MAX_HOLD."""
        if self._hold is None or self._gate is None or self._transport is None:
            return
        self._hold.cancel()
        self._hold = None
        self._gate.on_room = None
        self._gate.let_in(self.machine.held)
        self._heard = True
        self._take_in(self.machine.go_on())
        if not self.machine.held and not self._transport.is_closing():
            self._transport.resume_reading()

    # The end.

    def _break_off(self, code: int, words: str) -> None:
        """End it over something that the broker sent, and tell the broker."""
        state = self.machine.state
        if state == "open":
            self.outbox.put(self.machine.close(code, words))
        self._finish(Ended(0, words, state))

    def _finish(self, ended: Ended) -> None:
        """End all that waits, and the transport once what is owed was written."""
        if not self.opened.done():
            self.opened.set_result(ended)
        is_the_brokers = self.machine.state == "closed"
        self._end_all(Closed(ended.text, ended.code if is_the_brokers else 0))
        self._reply()
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self._flush()
            transport.close()
            self._loop.call_later(MAX_GOODBYE, transport.abort)  # a peer may not read it

    def _end_all(self, error: Closed) -> None:
        if not self.closed.done():
            self.closed.set_result(error)
        for timer in (self._timer, self._hold):
            if timer is not None:
                timer.cancel()
        self.give_up(error)

    def give_up(self, error: Closed) -> None:
        """End all calls and publishes, and ask the broker to close the connection."""
        acking, self._acking = self._acking, []
        for channel in acking:
            channel.take_acks()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.end(error)
        self.outbox.clear()
        if self.machine.state == "open":
            self.outbox.put(self.machine.close())
            self.flush_later()
            if self._hold is not None:  # the answer comes behind the body that waits
                self._loop.call_soon(self._go_on)

    async def close(self, within: float) -> None:
        """Close it in order within so many seconds, or cut it. Never raises but CancelledError."""
        self.give_up(Closed("closed"))
        try:
            if self.machine.state == "closing" and not self.closed.done():
                await asyncio.wait([self.closed], timeout=within)
        finally:
            self.abort(Closed("closed"))

    def abort(self, error: Closed) -> None:
        """End it without a word to the broker."""
        self._end_all(error)
        if self._transport is not None:
            self._transport.abort()
