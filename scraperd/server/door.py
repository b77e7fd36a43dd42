"""The gateway's session with the broker: jobs go out confirmed, results come to a queue of its own.

May touch: the broker's client.
Must never: say that a job is published before its confirm, or end because the broker is away.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from scraperd.base.backoff import backoff
from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq import client
from scraperd.broker.rabbitmq.reply_patterns import Addresses
from scraperd.broker.rabbitmq.topology import Topology, TopologyError
from scraperd.server.problems import NotSent, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scraperd.base.clocks import Clocks
    from scraperd.config.tables import BrokerSettings

HEALTHY: Final = 10.0  # seconds of a session, after which the pauses begin anew
AGAIN: Final = 5  # seconds after which a client may ask again while the broker is away
WINDOW: Final = 100  # jobs that are being published at a time, of all requests
RESULTS: Final = 10  # results that are not acked at a time; each may have jobs.max_result_size
REFUSAL_INTERVAL: Final = 10.0  # seconds between two lines of the log about refused jobs
AWAY: Final = "the broker is away; send the request again later"
BUSY: Final = "the broker is slow to confirm earlier jobs; send the request again later"
UNCONFIRMED: Final = (
    "the broker did not confirm the job, which may have arrived all the same; send it again later"
)
REFUSED: Final = (
    "the broker does not take jobs now: the jobs queue is full or missing, or the gateway lacks a "
    "permission; the gateway's log says which"
)


@dataclass(frozen=True, slots=True)
class Session:
    """A publisher, and the name of the queue that results come back to."""

    publisher: client.Publisher
    replies: str
    url: str = field(repr=False)


class Door:
    """Publishes jobs while there is a session. `run` keeps one.

    `on_result` is told the correlation id and the body of each result, `on_lost` that results of
    earlier jobs will not come. `event` writes to the log.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        urls: tuple[str, ...],
        connect_timeout: float,
        *,
        on_result: Callable[[str | None, bytes], None],
        on_lost: Callable[[], None],
        event: Callable[..., None],
        clocks: Clocks,
    ) -> None:
        self._settings = settings
        self._urls = urls
        self._connect_timeout = connect_timeout
        self._topology = Topology.of(settings)
        self._on_result = on_result
        self._on_lost = on_lost
        self._event = event
        self._clocks = clocks
        self._session: Session | None = None
        self._next_refusal = 0.0
        self._slots = asyncio.Semaphore(WINDOW)

    def configure(self, connect_timeout: float) -> None:
        """Take another time for the next connection."""
        self._connect_timeout = connect_timeout

    async def run(self) -> None:
        """Keep a session until cancelled; again with jittered backoff when it ends.

        Raises WrongUrl for a URL that can't be right.
        """
        pauses = self._pauses()
        while True:
            began = self._clocks.monotonic()
            try:
                await self._serve()
            except (Lost, TopologyError) as error:
                self._event("gateway_waits", error=str(error))
            finally:
                self._session = None
                self._on_lost()
            if self._clocks.monotonic() - began >= HEALTHY:
                pauses = self._pauses()
            await asyncio.sleep(next(pauses))

    def _pauses(self) -> Iterator[float]:
        settings = self._settings
        return backoff(settings.reconnect_min, settings.reconnect_max, self._clocks.roll)

    async def _serve(self) -> None:
        """Publish and take results until the session ends. Raises Lost or TopologyError then."""
        async with client.connected(self._urls, self._connect_timeout) as session:
            await client.count(session.channel, self._topology.jobs)
            queue = await client.replies(session, self._topology)
            publisher = client.Publisher(
                session.channel, self._topology, self._settings.confirm_timeout
            )
            self._session = Session(publisher, queue.name, session.url)
            self._event("gateway_ready", broker=session.broker, queue=self._topology.jobs)
            async with aclosing(client.messages(queue, prefetch=RESULTS)) as stream:
                async for received in stream:
                    self._on_result(received.correlation_id, received.body)
                    await received.ack()

    @property
    def ready(self) -> bool:
        """Whether jobs can be published now."""
        return self._session is not None

    async def enter(self) -> None:
        """Wait for a place among the jobs that are being published; `leave` gives it back.

        So what waits for the broker is bounded. Raises Problem after broker.confirm_timeout.
        """
        try:
            async with asyncio.timeout(self._settings.confirm_timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise _not_sent(BUSY) from None

    def leave(self) -> None:
        """Give back what `enter` gave."""
        self._slots.release()

    async def publish(self, body: bytes, correlation: str, *, replied: bool = False) -> None:
        """Publish a job, and return once the broker has confirmed it.

        With `replied` its result comes to the gateway only. Raises Problem: then the
        job may have arrived all the same, if its confirm was lost.
        """
        session = self._session
        if session is None:
            raise _not_sent(AWAY)
        reply_to = session.replies if replied else None
        try:
            with client.lost_in_words(session.url):
                await session.publisher.publish(body, correlation, reply_to)
        except TopologyError as error:
            self._refused(error)
            raise unavailable(REFUSED, AGAIN) from error
        except Lost as error:
            self._refused(error)
            raise unavailable(UNCONFIRMED, AGAIN) from error

    def _refused(self, error: Exception) -> None:
        """Log why; clients are not told the broker's address."""
        if (now := self._clocks.monotonic()) >= self._next_refusal:
            self._next_refusal = now + REFUSAL_INTERVAL
            self._event("gateway_refused", error=str(error))


def _not_sent(detail: str) -> NotSent:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    return NotSent(status, detail, headers={"Retry-After": str(AGAIN)})


def reply_fault(settings: BrokerSettings) -> str | None:
    """Say why no result could come back to a gateway; None if it can."""
    topology = Topology.of(settings)
    if Addresses.of(topology, settings.allow_reply_to).refuses(f"{topology.prefix}.reply.gateway"):
        return (
            "broker.allow_reply_to: must have {prefix}.reply.*, or no result of a job with `?wait` "
            "comes back to the gateway"
        )
    return None
