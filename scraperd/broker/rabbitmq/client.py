"""The dispatcher's side, for the command line: publish jobs, read results.

May touch: aio_pika.
Must never: decode a body, or be used by the daemon.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aio_pika
from aio_pika.abc import DeliveryMode
from aiormq import exceptions as amqp
from msgspec import Struct
from yarl import URL

from scraperd.base.tasks import reraise_own_cancel
from scraperd.base.text import printable
from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.inquiry.names import reply_queue
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT, TopologyError
from scraperd.broker.rabbitmq.wire import header_decoding
from scraperd.broker.rabbitmq.wire.dial import (
    TLS_OPTIONS,
    BrokerRefused,
    Target,
    check,
    dial,
    endpoint,
)
from scraperd.broker.rabbitmq.wire.errors import (
    AccessRefused,
    Nacked,
    NotFound,
    PreconditionFailed,
    Returned,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from aio_pika.abc import (
        AbstractChannel,
        AbstractConnection,
        AbstractIncomingMessage,
        AbstractQueue,
    )

    from scraperd.broker.rabbitmq.topology import Topology


# What a call of the library raises once its connection is gone: a closed channel is a RuntimeError,
# and calls that were pending when a heartbeat was missed end with a CancelledError.
HEARTBEAT: Final = 10  # seconds
CUT_SHORT: Final = "the broker cut the login short"
_LOST: Final = (amqp.AMQPError, OSError, RuntimeError, asyncio.CancelledError)


@contextmanager
def _translated() -> Iterator[None]:
    """The library's errors as those of `wire`, which the rest of this room knows."""
    try:
        yield
    except amqp.ChannelPreconditionFailed as error:
        raise PreconditionFailed(str(error)) from error
    except amqp.ChannelAccessRefused as error:
        raise AccessRefused(str(error)) from error
    except amqp.ChannelNotFoundEntity as error:
        raise NotFound(str(error)) from error
    except amqp.PublishError as error:
        raise Returned(str(error)) from error
    except amqp.DeliveryError as error:
        raise Nacked(str(error)) from error


async def _dial(urls: tuple[str, ...], within: float) -> tuple[str, AbstractConnection]:
    """The first broker that answers, and a connection to it. Raises WrongUrl, or Lost, in words."""
    header_decoding.install()
    await asyncio.to_thread(check, urls)  # files are read
    faults = []
    for url in urls:
        try:
            return url, await _connect(url, within)
        except (OSError, BrokerRefused) as error:
            faults.append(f"no broker at {endpoint(url)}: {error}")
    raise Lost("\n".join(faults))


async def _connect(url: str, within: float) -> AbstractConnection:
    """A connection by the library. Raises OSError or BrokerRefused, in words.

    Our own `dial` comes first, as for the daemon: it has the words for what a peer does, and the
    library takes any number of bytes from a peer that is no broker.
    """
    await (await dial(url, "scraperd command", HEARTBEAT, within)).close(CLOSE_TIMEOUT)
    plain = URL(url).without_query_params(*TLS_OPTIONS)
    context = await asyncio.to_thread(Target.of(url).context)
    try:
        async with asyncio.timeout(within):
            return await aio_pika.connect(plain, ssl_context=context)
    except TimeoutError:
        raise OSError(f"no answer within {within:g} s (fetch.connect_timeout)") from None
    except asyncio.CancelledError as error:
        reraise_own_cancel(error)  # else the library's own, for a login that was cut short
        raise OSError(CUT_SHORT) from error
    except Exception as error:  # the library raises whatever the end of a login provokes
        raise OSError(f"{CUT_SHORT}: {printable(repr(error), 200)}") from error


@dataclass(frozen=True, slots=True)
class Session:
    """A channel of its own connection, and whose it is."""

    channel: AbstractChannel
    url: str = field(repr=False)

    @property
    def broker(self) -> str:
        """Return the broker's URL without credentials."""
        return endpoint(self.url)

    def reply_queue(self, topology: Topology) -> str:
        """Return a name for a queue of our own, under the prefix."""
        return reply_queue(self.url, topology.prefix, secrets.token_hex(8))


@asynccontextmanager
async def connected(urls: tuple[str, ...], within: float) -> AsyncIterator[Session]:
    """A session with the first broker that answers, dialled `within` seconds each.

    Raises Lost, WrongUrl, or TopologyError for what this user may not do.
    """
    url, connection = await _dial(urls, within)
    with lost_in_words(url):
        async with connection:
            yield Session(await connection.channel(on_return_raises=True), url)


@contextmanager
def lost_in_words(url: str) -> Iterator[None]:
    """Around all that is done in a session with the broker at `url`.

    Raises Lost for its end, TopologyError for what this user may not do.
    """
    try:
        with _translated():
            yield
    except (Lost, BrokenPipeError):
        raise  # the second is about our own output
    except AccessRefused as error:
        raise TopologyError(
            f"this user may not do that at {endpoint(url)}: {printable(str(error), 500)}"
        ) from error
    except _LOST as error:
        reraise_own_cancel(error)
        raise Lost(f"lost the broker at {endpoint(url)}: {error!r}") from error
    except Exception as error:
        if type(error) is Exception:  # how the library ends calls when it closed in order
            raise Lost(f"lost the broker at {endpoint(url)}: connection closed") from error
        raise


async def count(channel: AbstractChannel, queue: str) -> tuple[int, int]:
    """Ready messages and consumers of a queue. Raises TopologyError if it does not exist."""
    try:
        with _translated():
            found = await channel.declare_queue(queue, passive=True)
    except NotFound:
        raise TopologyError(f"queue {queue!r} does not exist; start the daemon once") from None
    answer = found.declaration_result
    return answer.message_count or 0, answer.consumer_count or 0


@asynccontextmanager
async def delivering(queue: str, within: float) -> AsyncGenerator[None]:
    """A publish of a job to this queue, to be confirmed within `within` seconds.

    Raises TopologyError if the queue is full or missing, Lost without a confirm.
    """
    try:
        async with asyncio.timeout(within):
            yield
    except TimeoutError:
        raise Lost(
            f"no confirm within {within:g} s; does the broker hold publishers back "
            "(memory or disk alarm)? What was sent may still arrive."
        ) from None
    except NotFound:
        raise TopologyError(f"exchange {queue!r} does not exist; start the daemon once") from None
    except AccessRefused:
        raise TopologyError(f"this user may not write to the exchange {queue!r}") from None
    except Returned:
        raise TopologyError(f"queue {queue!r} does not exist; start the daemon once") from None
    except Nacked:
        raise TopologyError(
            f"queue {queue!r} refuses jobs: it is full. It has a length limit, by "
            "broker.jobs_max_length, broker.jobs_max_length_bytes or a policy. Publish again later "
            "what was not confirmed, or raise the limit (docs/operations/queues.md)."
        ) from None


class Publisher(Struct, frozen=True):
    """Publishes jobs, confirmed `within` seconds, and mandatory."""

    channel: AbstractChannel
    topology: Topology
    within: float

    async def publish(self, body: bytes, ident: str, reply_to: str | None = None) -> None:
        """Publish one job; returns when the broker has it.

        Raises TopologyError if no queue takes it, Lost without a confirm.
        """
        message = aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
            correlation_id=ident,
            reply_to=reply_to,
        )
        async with delivering(self.topology.jobs, self.within):
            exchange = await self.channel.get_exchange(self.topology.jobs, ensure=False)
            with _translated():
                await exchange.publish(message, self.topology.jobs, mandatory=True)


async def replies(session: Session, topology: Topology) -> AbstractQueue:
    """A queue of our own for results, gone when we are."""
    name = session.reply_queue(topology)
    return await session.channel.declare_queue(name, exclusive=True, auto_delete=True)


async def tap(session: Session, topology: Topology, pattern: str) -> AbstractQueue:
    """A queue of our own with a copy of each result from now on. Raises TopologyError."""
    queue = await replies(session, topology)
    try:
        with _translated():
            await queue.bind(topology.results, pattern)
    except NotFound:
        raise TopologyError(
            f"exchange {topology.results!r} does not exist; start the daemon once"
        ) from None
    return queue


async def messages(queue: AbstractQueue, *, prefetch: int = 100) -> AsyncGenerator[Received]:
    """Each message of `queue`; it stays the broker's until it is acked. Ends with the broker."""
    arrived: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
    channel = queue.channel
    await channel.set_qos(prefetch_count=prefetch)
    channel.close_callbacks.add(lambda *_: arrived.put_nowait(None))
    tag = await queue.consume(arrived.put)
    try:
        while (message := await arrived.get()) is not None:
            yield Received(message)
        raise Lost("the broker closed the connection")
    finally:
        if not channel.is_closed:
            await queue.cancel(tag)


class Received(Struct, frozen=True):
    """A message that was read."""

    message: Any

    @property
    def body(self) -> bytes:
        """The bytes as they came."""
        return bytes(self.message.body)

    @property
    def correlation_id(self) -> str | None:
        """The correlation id of a job, which its result has too."""
        found = self.message.correlation_id
        return found if isinstance(found, str) else None

    async def ack(self) -> None:
        """Remove it from its queue. A cancellation comes when the ack is on its way."""
        acked = asyncio.ensure_future(self.message.ack())
        try:
            await asyncio.shield(acked)
        except asyncio.CancelledError:
            await acked
            raise
