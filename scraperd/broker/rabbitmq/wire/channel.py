"""One channel: calls and their answers, publishes and their confirms, acks in runs.

May touch: the outbox and the machine of its connection, the running loop's futures.
Must never: wait; what is awaited is the future that a call returns.

How a future of a channel ends. Each is done once, in the turn of the loop in which it is known:

| future    | event                     | outcome                                |
| --------- | ------------------------- | -------------------------------------- |
| a call    | its answer                | the method, or what it says            |
| a publish | basic.ack                 | None                                   |
| a publish | basic.return, then an ack | Returned                               |
| a publish | basic.nack                | Nacked                                 |
| any       | the channel ends          | ChannelClosed, or its subclass by code |
| any       | the connection ends       | Closed                                 |
| `closed`  | any end                   | the same exception as its result       |
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from scraperd.broker.rabbitmq.wire.codec import frames
from scraperd.broker.rabbitmq.wire.codec.properties import write_properties
from scraperd.broker.rabbitmq.wire.errors import (
    COMMAND_INVALID,
    ChannelClosed,
    Closed,
    Nacked,
    ProtocolError,
    Returned,
    channel_closed,
)
from scraperd.broker.rabbitmq.wire.outbox import SLICE, Sending

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.broker.rabbitmq.wire.codec.methods import Method
    from scraperd.broker.rabbitmq.wire.codec.properties import Properties
    from scraperd.broker.rabbitmq.wire.machine import (
        Cancelled,
        ChannelEnded,
        Confirmed,
        Delivered,
        Flow,
        Machine,
        Unroutable,
    )
    from scraperd.broker.rabbitmq.wire.outbox import Outbox

MAX_REMEMBERED: Final = 1000  # frames basic.publish, by exchange and routing key
BUSY_AFTER: Final = 0.2  # seconds for a count, past which the queue may have been too busy to say
MAX_COUNTS: Final = 16  # such counts in a row


class Owner(Protocol):
    """What a channel needs of its connection."""

    @property
    def machine(self) -> Machine:
        """The state of the connection."""

    @property
    def outbox(self) -> Outbox:
        """What waits to be written."""

    def flush_later(self) -> None:
        """Write what is in the outbox at the end of this turn of the loop."""

    def acks_later(self, channel: Channel) -> None:
        """Ask the channel for its acks at the end of this turn of the loop."""


class _Publish:
    """A publish that waits for its turn on the channel, or for its confirm."""

    __slots__ = ("body", "done", "head", "ident", "returned")

    def __init__(
        self, head: bytes, body: bytes, ident: str | None, done: asyncio.Future[None]
    ) -> None:
        self.head = head
        self.body = body
        self.ident = ident
        self.done = done
        self.returned = ""


class Channel:
    """A channel of an open connection, until its end."""

    def __init__(self, owner: Owner, number: int) -> None:
        self._owner = owner
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._calls: deque[tuple[str, asyncio.Future[Any], Callable[[Method], Any]]] = deque()
        self._consumers: dict[str, Callable[[Delivered], None]] = {}
        self._methods: dict[tuple[str, str], bytes] = {}
        self._published = 0
        self._unconfirmed: dict[int, _Publish] = {}
        self._first_unconfirmed = 1
        self._idents: dict[str, list[int]] = {}  # delivery tags by message id
        self._sending = False  # a large body is under way
        self._flowing = True
        self._closing: asyncio.Future[Any] | None = None
        self._backlog: deque[_Publish | bytes] = deque()
        self._acks: list[int] = []
        self._first_unsettled = 1
        self._settled: set[int] = set()  # tags above the first that is not
        self.on_cancel: Callable[[str], None] = lambda _: None
        """Told the tag of a consumer that the broker ended."""
        self.closed: asyncio.Future[Closed] = self._loop.create_future()
        """Done, with the reason, once the channel has ended."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.closed.done()

    # Calls.

    def call(
        self,
        name: str,
        answer: str,
        convert: Callable[[Method], Any] = lambda method: method,
        **fields: Any,
    ) -> asyncio.Future[Any]:
        """Send a method; the future gets its answer. Raises UnsendableError, Closed."""
        self._check()
        frame = frames.method(self._number, name, **fields)
        done: asyncio.Future[Any] = self._loop.create_future()
        self._calls.append((answer, done, convert))
        self._put(frame)
        return done

    def confirm(self) -> asyncio.Future[Any]:
        """Ask for the confirm of each publish."""
        return self.call("confirm.select", "confirm.select-ok")

    def qos(self, prefetch: int) -> asyncio.Future[Any]:
        """Set the prefetch count of the consumers that follow."""
        return self.call("basic.qos", "basic.qos-ok", prefetch_count=prefetch)

    def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivered], None],
        tag: str = "",
        arguments: dict[str, Any] | None = None,
    ) -> asyncio.Future[str]:
        """Register a consumer. The future gets its tag; `on_delivery` must not raise or wait."""

        def registered(method: Method) -> str:
            name = str(method.fields["consumer_tag"])
            self._consumers[name] = on_delivery
            return name

        return self.call(
            "basic.consume",
            "basic.consume-ok",
            registered,
            queue=queue,
            consumer_tag=tag,
            arguments=arguments,
        )

    def cancel(self, tag: str) -> asyncio.Future[Any]:
        """End a consumer. The answer comes behind all that was delivered to it."""

        def ended(method: Method) -> None:
            self._consumers.pop(str(method.fields["consumer_tag"]), None)

        return self.call("basic.cancel", "basic.cancel-ok", ended, consumer_tag=tag)

    def declare_exchange(self, name: str, kind: str, *, passive: bool) -> asyncio.Future[Any]:
        """Declare a durable exchange, or ask whether it exists."""
        return self.call(
            "exchange.declare",
            "exchange.declare-ok",
            exchange=name,
            exchange_type=kind,
            durable=True,
            passive=passive,
        )

    def declare_queue(
        self, name: str, arguments: dict[str, Any] | None = None, *, passive: bool
    ) -> asyncio.Future[tuple[int, int]]:
        """Declare a durable queue, or ask for it: ready messages and consumers."""
        return self.call(
            "queue.declare",
            "queue.declare-ok",
            lambda method: (method.fields["message_count"], method.fields["consumer_count"]),
            queue=name,
            durable=True,
            passive=passive,
            arguments=arguments,
        )

    async def count(self, name: str) -> tuple[int, int]:
        """Return the ready messages of a queue, and its consumers. Raises Closed.

        RabbitMQ (3.10 and 4.0) waits a quarter of a second for a quorum queue that is busy, and
        then says zero of both. So two zeros that took that long are asked for again.
        """
        loop = asyncio.get_running_loop()
        for _ in range(MAX_COUNTS):
            began = loop.time()
            found = await self.declare_queue(name, passive=True)
            if any(found) or loop.time() - began < BUSY_AFTER:
                break
        return found

    def bind_queue(self, name: str, exchange: str, key: str) -> asyncio.Future[Any]:
        """Bind a queue to an exchange."""
        return self.call(
            "queue.bind", "queue.bind-ok", queue=name, exchange=exchange, routing_key=key
        )

    async def close(self, within: float) -> None:
        """Close it; return when the broker has applied all that was sent before.

        Raises TimeoutError after `within` seconds, and Closed if the connection ends first.
        """
        async with asyncio.timeout(within):
            await self.leave()

    def leave(self) -> asyncio.Future[Any]:
        """Have it closed. What waits for an answer or a confirm ends at once."""
        if self.is_closed or self._closing is not None:
            return self._closing or self.closed
        self._closing = closing = self._loop.create_future()
        end = ChannelClosed("closed")
        calls, self._calls = self._calls, deque([("", closing, lambda method: method)])
        for _, done, _ in calls:
            _end(done, end)
        self._end_publishes(end)
        self._flush_acks()
        self._put(b"")  # what closes it: made when nothing of this channel is under way
        return closing

    def reject_first(self, queue: str) -> asyncio.Future[Any]:
        """Get the first message of a queue and reject it, in one write: it is dead-lettered unread.

        For a message that the broker cannot deliver. The future is done if the queue is empty. If a
        message does arrive, the connection ends: nothing here expects one.
        """
        empty = self.call("basic.get", "basic.get-empty", queue=queue)
        self._put(frames.method(self._number, "basic.reject", delivery_tag=1))
        return empty

    # Publishes.

    def publish(
        self, exchange: str, key: str, body: bytes, properties: Properties
    ) -> asyncio.Future[None]:
        """Publish, mandatory; the future is done with the confirm.

        The message ids of publishes that wait for their confirms must differ: a return is known by
        its id. Raises UnsendableError, Closed.
        """
        self._check()
        number, to = self._number, (exchange, key)
        method = self._methods.get(to)
        if method is None:
            if len(self._methods) == MAX_REMEMBERED:
                self._methods.clear()
            method = self._methods[to] = frames.publish(number, exchange, key)
        head = method + frames.content(
            number, len(body), write_properties(properties), self._owner.machine.frame_max
        )
        done: asyncio.Future[None] = self._loop.create_future()
        publish = _Publish(head, body, properties.message_id, done)
        if self._sending or self._backlog or not self._flowing:
            self._backlog.append(publish)
        else:
            self._start(publish)
        return done

    def _start(self, publish: _Publish) -> None:
        """Write a publish, or begin to."""
        self._published += 1
        self._unconfirmed[self._published] = publish
        if publish.ident:
            self._idents.setdefault(publish.ident, []).append(self._published)
        outbox, body, publish.body = self._owner.outbox, publish.body, b""
        frame_max = self._owner.machine.frame_max
        if len(body) <= SLICE:
            outbox.put(publish.head, *frames.body(self._number, body, frame_max))
        else:
            self._sending = True
            outbox.put(publish.head)
            outbox.send(Sending(self._number, memoryview(body), frame_max, self._sent))
        publish.head = b""
        self._owner.flush_later()

    def _sent(self) -> None:
        """Take what waited for the large body that is written now."""
        self._sending = False
        while self._backlog and not self._sending:
            one = self._backlog[0]
            if isinstance(one, _Publish) and not self._flowing:
                return
            self._backlog.popleft()
            if isinstance(one, bytes):
                self._write(one)
            elif not one.done.done():  # not cancelled meanwhile
                self._start(one)

    def _put(self, frame: bytes) -> None:
        """Send a method, behind a large body that is under way."""
        if self._sending:
            self._backlog.append(frame)
        else:
            self._write(frame)

    def _write(self, frame: bytes) -> None:
        self._flush_acks()
        self._owner.outbox.put(frame or self._owner.machine.close_channel(self._number))
        self._owner.flush_later()

    # Acks.

    def ack(self, tag: int) -> None:
        """Ack a delivery, with all others of this turn of the loop. Raises Closed."""
        self._check()
        self._acks.append(tag)
        self._owner.acks_later(self)

    def nack(self, tag: int) -> None:
        """Put all deliveries up to `tag` that are not settled back. Raises Closed."""
        self._check()
        self._put(frames.nack(self._number, tag, multiple=True))
        if tag >= self._first_unsettled:
            self._first_unsettled = tag + 1
            self._settled = {one for one in self._settled if one > tag}

    def take_acks(self) -> None:
        """Put the acks of this turn into the outbox."""
        if self._acks and not self.is_closed:
            self._flush_acks()

    def _flush_acks(self) -> None:
        """Send the acks that were kept: by one ack what comes before all that is not settled.

        An ack with `multiple` must name a tag that is itself not acked yet, or RabbitMQ closes the
        channel (measured with 3.10.8): so the highest of this turn is named.
        """
        if not self._acks:
            return
        tags, self._acks = sorted(self._acks), []
        settled, first = self._settled, self._first_unsettled
        settled.update(tags)
        while first in settled:
            settled.discard(first)
            first += 1
        self._first_unsettled = first
        covered = [tag for tag in tags if tag < first]
        number = self._number
        out = [frames.ack(number, tag) for tag in tags[len(covered) :]]
        if covered:
            out.insert(0, frames.ack(number, covered[-1], multiple=len(covered) > 1))
        for frame in out:
            self._backlog.append(frame) if self._sending else self._owner.outbox.put(frame)
        self._owner.flush_later()

    # Events.

    def on_answer(self, method: Method) -> None:
        """Take the answer to the oldest call. Raises ProtocolError if it is another's."""
        answer, done, convert = self._calls.popleft() if self._calls else ("", None, None)
        if answer != method.name or done is None or convert is None:
            raise ProtocolError(COMMAND_INVALID, f"{method.name}, which answers no call")
        found = convert(method)
        if not done.done():
            done.set_result(found)

    def on_delivery(self, event: Delivered) -> None:
        """Hand a message to its consumer. Raises ProtocolError if there is no such consumer."""
        consumer = self._consumers.get(event.consumer)
        if consumer is None:
            raise ProtocolError(COMMAND_INVALID, f"a message for no consumer: {event.consumer!r}")
        consumer(event)

    def on_confirm(self, event: Confirmed) -> None:
        """End the publishes that are confirmed. Raises ProtocolError for one that was not sent."""
        if event.tag > self._published:
            raise ProtocolError(COMMAND_INVALID, f"a confirm of publish {event.tag}, never sent")
        if not event.multiple:
            self._confirm(event.tag, taken=event.taken)
            return
        last = event.tag or self._published  # 0 means all (AMQP 0-9-1, basic.ack)
        for tag in range(self._first_unconfirmed, last + 1):
            self._confirm(tag, taken=event.taken)
        self._first_unconfirmed = max(self._first_unconfirmed, last + 1)

    def _confirm(self, tag: int, *, taken: bool) -> None:
        publish = self._unconfirmed.pop(tag, None)
        if publish is None:
            return
        if publish.ident:
            tags = self._idents[publish.ident]
            tags.remove(tag)
            if not tags:
                del self._idents[publish.ident]
        if publish.done.done():
            return
        if publish.returned:
            publish.done.set_exception(Returned(publish.returned))
        elif taken:
            publish.done.set_result(None)
        else:
            publish.done.set_exception(Nacked("a queue rejected the message"))

    def on_return(self, event: Unroutable) -> None:
        """Remember for the confirm that follows that no queue took a publish.

        Raises ProtocolError for one that was not sent: its confirm would pass for a success.
        """
        for tag in self._idents.get(event.properties.message_id or "", ()):
            publish = self._unconfirmed[tag]
            if not publish.returned:
                publish.returned = event.text or "no route"
                return
        raise ProtocolError(COMMAND_INVALID, "a return of a message that was not published")

    def on_cancelled(self, event: Cancelled) -> None:
        """Tell the owner of a consumer that the broker ended it."""
        known = self._consumers.pop(event.consumer, None) is not None
        if known and event.wants_answer:
            self._put(frames.method(self._number, "basic.cancel-ok", consumer_tag=event.consumer))
        self.on_cancel(event.consumer)

    def on_flow(self, event: Flow) -> None:
        """Stop publishing, or go on."""
        self._flowing = event.active
        self._put(frames.method(self._number, "channel.flow-ok", active=event.active))
        if event.active and not self._sending:
            self._sent()

    def on_end(self, event: ChannelEnded) -> None:
        """End all that waits: the broker closed the channel, or has answered our close."""
        if event.code:
            self.end(channel_closed(event.text, event.code))
            return
        _, closing, _ = self._calls.popleft()
        if not closing.done():
            closing.set_result(None)
        self.end(ChannelClosed("closed"))

    def end(self, error: Closed) -> None:
        """End all that waits."""
        if self.is_closed:
            return
        self.closed.set_result(error)
        self._owner.outbox.drop(self._number)
        calls, self._calls = self._calls, deque()
        for _, done, _ in calls:
            _end(done, error)
        self._end_publishes(error)
        self._backlog.clear()
        self._acks.clear()
        self._consumers.clear()

    def _end_publishes(self, error: Closed) -> None:
        waiting = [*self._unconfirmed.values()]
        waiting += [one for one in self._backlog if isinstance(one, _Publish)]
        for publish in waiting:
            _end(publish.done, error)
        self._unconfirmed.clear()
        self._idents.clear()

    def _check(self) -> None:
        if self.closed.done():
            raise Closed(str(self.closed.result()), self.closed.result().code)
        if self._closing is not None:
            raise Closed("the channel is being closed")


def _end(done: asyncio.Future[Any], error: Closed) -> None:
    """End a future. Its task may have stopped waiting for it."""
    if not done.done():
        done.set_exception(error)
        done.exception()  # asyncio warns of an exception that is never read
