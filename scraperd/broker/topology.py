"""Names and arguments of every exchange, queue and binding: pure data, plus declare().

May touch: a channel, to declare on.
Must never: publish, consume, or declare a thing that is not in the data.
"""

from __future__ import annotations

import re
import shlex
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiormq import exceptions as amqp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiormq.channel import Channel

# Seconds, each about 1.6 times the one before: a job that waits for a time in the future gets near
# it in few moves (docs/decisions/0010-fairness.md).
DELAYS: Final = (
    *(1, 2, 4, 6, 10, 15, 25, 40, 60),
    *(100, 150, 250, 400, 600, 1000, 1500, 2500, 3600),
)
_ARGUMENT = re.compile(  # a value is bare, or `the value '5' of type 'long'`, or none
    r"inequivalent arg '(?P<arg>[^']*)' for (?P<what>queue|exchange) '(?P<name>[^']*)' "
    r"in vhost '(?P<vhost>.*)': received (?P<ours>.*) but current is (?P<theirs>.*)"
)
_VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '[^']*')?|none")


class TopologyError(Exception):
    """The broker's queues are not what they must be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue and the one binding it may have, as (exchange, key)."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    binding: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """Every name under one prefix."""

    prefix: str
    delivery_limit: int

    @property
    def jobs(self) -> str:
        """The jobs exchange, its routing key, and the jobs queue: one name for all three."""
        return f"{self.prefix}.jobs"

    @property
    def results(self) -> str:
        """The results exchange (topic) and the results queue."""
        return f"{self.prefix}.results"

    @property
    def dead(self) -> str:
        """The queue of invalid, exhausted and poisonous jobs."""
        return f"{self.prefix}.dead"

    def delay(self, seconds: float) -> str:
        """The shortest tier that waits at least `seconds`; the longest for anything above it."""
        tier = min(bisect_left(DELAYS, seconds), len(DELAYS) - 1)
        return self._tier(DELAYS[tier])

    @property
    def delays(self) -> tuple[str, ...]:
        """The delay queues, from the shortest."""
        return tuple(self._tier(seconds) for seconds in DELAYS)

    def delay_within(self, seconds: float) -> str:
        """The longest tier of at most `seconds`; the shortest for anything below it."""
        return self._tier(DELAYS[max(0, bisect_right(DELAYS, seconds) - 1)])

    def _tier(self, seconds: int) -> str:
        return f"{self.prefix}.delay.{seconds}"

    def refuses(self, queue: str) -> bool:
        """Whether a reply_to must not be used: our own queues, and RabbitMQ's direct reply-to.

        That is no queue: the broker returns a mandatory publish to it though it
        delivers it, and 3.10 ends the connection over a malformed one.
        """
        ours = queue.startswith(f"{self.prefix}.") and queue != self.results
        return ours or queue.startswith("amq.rabbitmq.")

    @property
    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """Pairs of name and type."""
        return ((self.jobs, "direct"), (self.results, "topic"))

    @property
    def queues(self) -> tuple[Queue, ...]:
        """Every queue. Dead-lettering is at-least-once, which needs reject-publish."""
        safe = {
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
            "x-dead-letter-strategy": "at-least-once",
        }
        to_dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": self.dead}
        to_jobs = {"x-dead-letter-exchange": self.jobs, "x-dead-letter-routing-key": self.jobs}
        plain = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
        limit = {"x-delivery-limit": self.delivery_limit}
        return (
            Queue(self.dead, plain),
            Queue(self.results, plain, (self.results, "#")),
            Queue(self.jobs, {**safe, **to_dead, **limit}, (self.jobs, self.jobs)),
            *(Queue(self._tier(s), {**safe, **to_jobs, "x-message-ttl": s * 1000}) for s in DELAYS),
        )


async def declare(
    topology: Topology, open_channel: Callable[[], Awaitable[Channel]], *, passive: bool
) -> None:
    """Declare all of it, or with `passive` only check that it exists.

    Raises TopologyError where the broker has something else by that name.
    """
    channel = await open_channel()
    name = ""
    try:
        for name, kind in topology.exchanges:
            await channel.exchange_declare(name, exchange_type=kind, durable=True, passive=passive)
        for queue in topology.queues:
            name = queue.name
            await channel.queue_declare(
                name, durable=True, arguments=queue.arguments, passive=passive
            )
            if queue.binding and not passive:
                exchange, key = queue.binding
                await channel.queue_bind(name, exchange, key)
    except amqp.ChannelPreconditionFailed as error:
        raise TopologyError(_conflict(name, str(error))) from error
    except amqp.ChannelNotFoundEntity as error:
        raise TopologyError(
            f"{name!r} does not exist on the broker. Create it as docs/operations.md lists, or set "
            "passive_declare = false and let scraperd create it."
        ) from error
    except amqp.ChannelAccessRefused as error:
        raise TopologyError(
            f"the broker's user may not declare {name!r}: {error}. Give it the permission, or "
            "create the queues by policy and set passive_declare = true."
        ) from error
    await channel.close()


def _conflict(name: str, text: str) -> str:
    """The broker's 406 in words: which queue or exchange, both values, and the remedy."""
    match = _ARGUMENT.search(text)
    if match is None:
        return f"{name!r} exists and differs from what scraperd needs: {text}"
    what, name, vhost = match["what"], match["name"], shlex.quote(match["vhost"])
    ours, theirs = _value(match["ours"]), _value(match["theirs"])
    if what == "queue":
        delete = f"drain and delete it (rabbitmqctl delete_queue --vhost {vhost} {name})"
    else:
        delete = f"delete it (rabbitmqadmin --vhost={vhost} delete exchange name={name})"
    back = f"set delivery_limit back to {theirs}, " if _is_limit(match["arg"], theirs) else ""
    return (
        f"{what} {name!r} exists with {match['arg']} = {theirs}, but scraperd asks for "
        f"{ours}. That can't be changed: {back}choose another prefix, or {delete} and start again."
    )


def _value(text: str) -> str:
    """A value as the broker's messages quote it; `nothing` where the argument is not set."""
    match = _VALUE.fullmatch(text)
    return text if match is None else match["value"] or "nothing"


def _is_limit(argument: str, value: str) -> bool:
    """Whether it is the one argument a setting decides."""
    return argument == "x-delivery-limit" and value.isdigit()
