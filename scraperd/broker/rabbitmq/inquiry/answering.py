"""The daemon's side: a queue of its own for questions, and answers, on a connection of its own.

May touch: that connection; the clocks that it is handed.
Must never: wait for an answer to arrive, take a large question, or end the daemon.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

from scraperd.base.backoff import Pauses
from scraperd.broker.rabbitmq.inquiry.names import (
    MAX_QUESTION_BYTES,
    exchange_of,
    is_ident,
    no_exchange,
    question_queue,
    takes_answers,
)
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT, TopologyError
from scraperd.broker.rabbitmq.wire.codec.properties import Properties
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused
from scraperd.broker.rabbitmq.wire.errors import AccessRefused, Closed, NotFound
from scraperd.broker.rabbitmq.wire.gate import SmallOnly
from scraperd.broker.rabbitmq.wire.refusals import no_answers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.base.clocks import Clocks
    from scraperd.broker.rabbitmq.generation import Events
    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.gate import Gate
    from scraperd.broker.rabbitmq.wire.machine import Delivered

RATE: Final = 10  # questions a second that are answered; the queue drops what is older
MAX_WAITING: Final = 20  # questions in the queue; the oldest goes
QUESTION_TTL: Final = 2000  # ms; who asked does not wait longer
ANSWER_TTL: Final = "10000"  # ms
MAX_UNCONFIRMED: Final = 20  # answers under way; with more, none is given
MIN_PAUSE: Final = 1.0  # seconds between two connections
MAX_PAUSE: Final = 60.0  # seconds; after a refusal at once


class Answering:
    """Answers questions. `run` is a service of the daemon.

    `connect` opens a connection with such a gate, `ready` waits until the daemon consumes, and
    `answer` returns what a question gets, at once; None for one that is not understood.
    """

    def __init__(  # noqa: PLR0917 - as the daemon names its parts
        self,
        prefix: str,
        connect: Callable[[Gate], Awaitable[Connection]],
        ready: Callable[[], Awaitable[object]],
        answer: Callable[[bytes], bytes | None],
        events: Events,
        clocks: Clocks,
        *,
        passive: bool,
    ) -> None:
        self._prefix = prefix
        self._connect = connect
        self._ready = ready
        self._answer = answer
        self._events = events
        self._clocks = clocks
        self._passive = passive
        self._told = False
        self._free_at = 0.0
        self._unconfirmed = 0

    async def run(self) -> None:
        """Answer until cancelled. Whatever ends the connection, the daemon goes on."""
        pauses = Pauses(MIN_PAUSE, MAX_PAUSE, self._clocks.between)
        while True:
            await self._ready()
            began = self._clocks.monotonic()
            try:
                await self._live()
            except (AccessRefused, TopologyError) as error:
                pauses.refused()
                self._tell(error)
            except (OSError, BrokerRefused):
                pass  # the daemon's own connections say what is wrong with the broker
            pause = pauses.after(self._clocks.monotonic() - began)
            await asyncio.sleep(pause)

    async def _live(self) -> None:
        """One connection from begin to end. Raises OSError, BrokerRefused, TopologyError."""
        gate = SmallOnly(MAX_QUESTION_BYTES)
        connection = await self._connect(gate)
        loop = asyncio.get_running_loop()

        def cut(size: int) -> None:
            # Not at once: the machine is in the middle of what it received.
            loop.call_soon(connection.abort, Closed(f"a question of {size} bytes"))

        gate.on_large = cut
        try:
            channel = await self._exchange(connection)
            name = question_queue(self._prefix, secrets.token_hex(8))
            await channel.call(
                "queue.declare",
                "queue.declare-ok",
                queue=name,
                exclusive=True,
                auto_delete=True,
                arguments={"x-max-length": MAX_WAITING, "x-message-ttl": QUESTION_TTL},
            )
            await channel.bind_queue(name, exchange_of(self._prefix), "")
            await channel.qos(1)
            await channel.consume(name, lambda message: self._take(channel, message))
            ends = (channel.closed, connection.closed)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if channel.is_closed:
                raise channel.closed.result()
        finally:
            await connection.close(CLOSE_TIMEOUT)

    async def _exchange(self, connection: Connection) -> Channel:
        """Return a channel on which the exchange of questions is known to exist.

        The last queue that leaves takes it along, unless an operator made it otherwise.
        Raises TopologyError if an operator has to make it.
        """
        channel, name = await connection.channel(confirms=True), exchange_of(self._prefix)
        try:
            await channel.declare_exchange(name, "fanout", passive=True)
        except NotFound:
            if self._passive:
                raise TopologyError(no_exchange(self._prefix)) from None
            channel = await connection.channel(confirms=True)
            await channel.call(
                "exchange.declare",
                "exchange.declare-ok",
                exchange=name,
                exchange_type="fanout",
                auto_delete=True,
            )
        return channel

    def _take(self, channel: Channel, message: Delivered) -> None:
        """Answer one question, and take the next one when RATE allows it."""
        now = self._clocks.monotonic()
        self._free_at = max(now - 1.0, self._free_at) + 1 / RATE
        self._reply(channel, message)
        if (wait := self._free_at - now) <= 0:
            _ack(channel, message.tag)
        else:
            asyncio.get_running_loop().call_later(wait, _ack, channel, message.tag)

    def _reply(self, channel: Channel, message: Delivered) -> None:
        to, ident = message.properties.reply_to, message.properties.correlation_id
        if not takes_answers(to, self._prefix) or not is_ident(ident):
            return
        if self._unconfirmed >= MAX_UNCONFIRMED:
            return
        body = self._answer(message.body)
        if body is None or to is None:
            return
        properties = Properties(
            content_type="application/json",
            correlation_id=ident,
            expiration=ANSWER_TTL,
            message_id=secrets.token_hex(8),
        )
        self._unconfirmed += 1
        channel.publish("", to, body, properties).add_done_callback(self._published)

    def _published(self, publish: asyncio.Future[None]) -> None:
        """Forget an answer. If its queue is gone, so is who asked."""
        self._unconfirmed -= 1
        if not publish.cancelled():
            publish.exception()

    def _tell(self, error: AccessRefused | TopologyError) -> None:
        """Say once that questions cannot be answered, and what lacks."""
        if self._told:
            return
        self._told = True
        words = str(error)
        if isinstance(error, AccessRefused):
            lack = f"a permission on {exchange_of(self._prefix)!r} or on a queue of that name"
            words = no_answers(error, lack, self._prefix, passive=self._passive)
        self._events("status_unanswered", error=words)


def _ack(channel: Channel, tag: int) -> None:
    if not channel.is_closed:
        channel.ack(tag)
