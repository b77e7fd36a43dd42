"""What the rest of the house may ask of a broker: values and protocols that every transport keeps.

May touch: the share of a hold that a job may take, from config.
Must never: import a transport, or name what only one kind of broker has.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec
from msgspec import Struct

from scraperd.config.tables import JOB_SHARE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from datetime import datetime

UNROUTABLE_REPLY: Final = "x-scraperd-unroutable-reply-to"  # on a result that went elsewhere
DROPPED: Final = "x-scraperd-dropped-headers"  # how many of the publisher's can't travel on
# Why a broker gives a job up: RabbitMQ's guide to dead letters, "Effects of dead-lettering".
REASONS: Final = frozenset({"expired", "delivery_limit", "rejected", "maxlen"})
_MAX_COUNT: Final = 1_000_000  # above it a header is a mistake or an attack
_RELEASE: Final = 0.9  # of the longest hold, after which a delivery is let go in another way


class Lost(ConnectionError):  # noqa: N818 - a state of the world, not a mistake
    """The epoch has ended: what is unacked in it will be delivered again."""


class Refused(Exception):  # noqa: N818 - a state of the world, not a mistake
    """No queue accepted the message before the deadline."""


class Source(Enum):
    """The queues that deliveries come from."""

    JOBS = "jobs"
    QUARANTINE = "quarantine"  # jobs that were redelivered once, a few at a time
    SOLO = "solo"  # jobs that were redelivered again, each alone in its process
    UNDELIVERED = "undelivered"  # jobs that the broker itself gave up
    DEAD = "dead"


class Epoch(Protocol):
    """The time from a connection to its loss. A delivery is settled in its own epoch or never."""

    lost: asyncio.Future[str]
    """Done, with the reason, once the epoch has ended."""

    @property
    def blames_a_publish(self) -> bool:
        """True if the broker ended the epoch over something that was published in it."""

    def end(self, reason: str) -> None:
        """End the epoch: the broker delivers again what is unacked."""


class Own(NamedTuple):
    """Properties of a publisher's message that mean nothing to us, and travel on with a job.

    `timestamp` is in seconds since 1970.
    """

    content_encoding: str | None = None
    type: str | None = None
    app_id: str | None = None
    timestamp: int | None = None


NOTHING: Final = Own()


class GivenUp(Struct, frozen=True):
    """Why the broker itself gave a job up, as it says, and when.

    `times` is how often it gives a job out at most, if that is the reason.
    """

    reason: str
    at: datetime | None = None
    times: int | None = None


def reason_of(said: Any) -> str:
    """Why a job was given up, as a header says it: one of REASONS, or `unknown`."""
    return said if isinstance(said, str) and said in REASONS else "unknown"


def count_of(value: Any) -> int:
    """The count that a header holds; 0 if it is not an integer, negative, or above _MAX_COUNT."""
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else 0


@dataclass(eq=False, slots=True)
class Delivery:
    """One delivery of one message. It is settled once, in its own epoch, or not at all.

    `headers` are the publisher's, ours and the broker's, fit to be sent again. `redeliveries` is
    the broker's own count for this queue; `arrived` is a time of the monotonic clock.
    """

    body: bytes
    headers: dict[str, Any]
    source: Source
    epoch: Epoch
    on_ack: Callable[[Delivery], Awaitable[bool]]
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    content_type: str | None = None
    own: Own = NOTHING
    redeliveries: int = 0
    given_up: GivenUp | None = None
    overfull: int = 0  # how many headers the transport takes, if the publisher gave it more
    unreadable: str = ""  # why the body can't be read, in words to go on after "the body"
    crowded: bool = False  # a large message that arrived when there was no room for it
    tag: Any = None  # the transport's own
    arrived: float = field(default_factory=time.monotonic)
    settled: bool = False

    async def ack(self) -> bool:
        """Tell the broker that the outcome is safe.

        False if the epoch has ended: then the broker delivers the job again, and no ack is sent.
        Raises RuntimeError at the second call.
        """
        if self.settled:
            raise RuntimeError(f"delivery {self.tag} is settled already")
        self.settled = True
        return await self.on_ack(self)


class Message(Struct, frozen=True):
    """What is published. Every publish is persistent and confirmed."""

    body: bytes
    headers: dict[str, Any] = msgspec.field(default_factory=dict)
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    content_type: str | None = "application/json"
    own: Own = NOTHING


class Results(Struct, frozen=True):
    """To the readers of results; `key` is the routing key that they select by (words and dots)."""

    key: str


class Reply(Struct, frozen=True):
    """To the address that the job named; where that cannot be, like `Results(key)`.

    Then the message has the address in the header UNROUTABLE_REPLY.
    """

    address: str
    key: str


class Delay(Struct, frozen=True):
    """Back to the jobs queue after at least `seconds`, or after the longest delay there is."""

    seconds: float


class Into(Struct, frozen=True):
    """Into one of the queues that deliveries come from."""

    source: Source


class Callbacks(Struct, frozen=True):
    """To the queue of callbacks: at once, or after `seconds` or some of them."""

    seconds: float | None = None


class DeadCallbacks(Struct, frozen=True):
    """To the queue of callbacks that are not sent any more."""


class Move(Struct, frozen=True):
    """Where a callback goes when its delivery is acked.

    It comes back after `seconds`, or some of them; without them it is dead.
    """

    message: Message
    seconds: float | None = None


class Batches(Struct, frozen=True):
    """To who tallies batches."""


Destination: TypeAlias = Results | Reply | Delay | Into | Callbacks | DeadCallbacks | Batches


class Publisher(Protocol):
    """Publishes, and returns once the message is stored."""

    async def publish(
        self, epoch: Epoch, destination: Destination, message: Message, until: float
    ) -> None:
        """Publish `message` in `epoch`. A queue that is full or missing is waited for.

        Raises Lost if the epoch ends first, and Refused at the time `until` (of the monotonic
        clock). A publish whose outcome is not known yet is waited for all the same.
        """

    def wait_within(self, seconds: float) -> float:
        """Return the longest delay, in seconds, that this transport has and that fits `seconds`.

        If all are longer, return the shortest.
        """

    def wait_at_least(self, seconds: float) -> float:
        """Return how long, in seconds, a `Delay` of `seconds` takes on this transport."""

    def let_go(self) -> None:
        """Wait no more: a publish that no queue accepts now raises Refused at once.

        One without a limit (`until` infinite) is still waited for.
        """


@dataclass(slots=True)
class Limits:
    """What the broker takes: bytes of a message, and seconds that a delivery may be unacked.

    A transport lowers them by what the broker says.
    """

    max_message: int
    ack_timeout: float

    @property
    def job(self) -> float:
        """Seconds that a job may take from its delivery to its outcome."""
        return self.ack_timeout * JOB_SHARE

    @property
    def release(self) -> float:
        """Seconds that a delivery may be held in all."""
        return self.ack_timeout * _RELEASE
