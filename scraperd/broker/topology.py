"""Names and arguments of every exchange, queue and binding: pure data, plus declare().

May touch: a channel, to declare on.
Must never: publish, consume, or declare a thing that is not in the data.
"""

from __future__ import annotations

import re
import shlex
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
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
# A crash counts against every unacked delivery, so the count that ends a job is ours, kept in a
# header (docs/decisions/0016-suspicion.md). The broker's own is the net beneath: for a message that
# ends each process before it can be looked at, and where a limit does harm, none that is ever met
# (unset, RabbitMQ 4 drops a message at its 20th return; 3.10 does not take -1).
RETURNS: Final = 100
ENDLESS: Final = 1_000_000_000
_ARGUMENT = re.compile(  # a value is bare, or `the value '5' of type 'long'`, or none
    r"inequivalent arg '(?P<arg>[^']*)' for (?P<what>queue|exchange) '(?P<name>[^']*)' "
    r"in vhost '(?P<vhost>.*)': received (?P<ours>.*) but current is (?P<theirs>.*)"
)
_NET: Final = "x-delivery-limit"
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

    @property
    def jobs(self) -> str:
        """The jobs exchange, its routing key, and the jobs queue: one name for all three."""
        return f"{self.prefix}.jobs"

    @property
    def results(self) -> str:
        """The results exchange (topic) and the results queue."""
        return f"{self.prefix}.results"

    @property
    def suspects(self) -> str:
        """The queue of jobs that came back once: their process may have died of them."""
        return f"{self.prefix}.suspects"

    @property
    def alone(self) -> str:
        """The queue of jobs that came back more than once, each to be run beside no other."""
        return f"{self.prefix}.alone"

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
        kept = {
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
            "x-delivery-limit": ENDLESS,
        }
        work = {**safe, **to_dead, "x-delivery-limit": RETURNS}
        return (
            Queue(self.dead, kept),
            Queue(self.results, kept, (self.results, "#")),
            Queue(self.jobs, work, (self.jobs, self.jobs)),
            Queue(self.suspects, work),
            Queue(self.alone, work),
            *(Queue(self._tier(s), {**safe, **to_jobs, "x-message-ttl": s * 1000}) for s in DELAYS),
        )


def wait_within(seconds: float) -> int:
    """The longest wait of a delay tier of at most `seconds`; the shortest for anything below it."""
    return DELAYS[max(0, bisect_right(DELAYS, seconds) - 1)]


async def declare(
    topology: Topology, open_channel: Callable[[], Awaitable[Channel]], *, passive: bool
) -> list[str]:
    """Declare all of it, or with `passive` only check that it exists.

    Returns what differs and does no harm. Raises TopologyError where the broker has
    something else by that name.
    """
    channel = await open_channel()
    name, differs = "", []
    try:
        for name, kind in topology.exchanges:
            await channel.exchange_declare(name, exchange_type=kind, durable=True, passive=passive)
        for queue in topology.queues:
            name = queue.name
            try:
                await _declare(channel, queue, passive=passive)
            except amqp.ChannelPreconditionFailed as error:
                differs.append(difference(name, str(error)))
                channel = await open_channel()  # the refusal closed it
                await _declare(channel, _as_it_is(queue, str(error)), passive=passive)
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
    return differs


async def _declare(channel: Channel, queue: Queue, *, passive: bool) -> None:
    await channel.queue_declare(
        queue.name, durable=True, arguments=queue.arguments, passive=passive
    )
    if queue.binding and not passive:
        exchange, key = queue.binding
        await channel.queue_bind(queue.name, exchange, key)


def _as_it_is(queue: Queue, text: str) -> Queue:
    """With the limit that the broker's 406 says it has."""
    match = _about_the_net(text)
    limit = _value(match["theirs"]) if match else ""
    arguments = {name: v for name, v in queue.arguments.items() if name != _NET}
    return replace(
        queue, arguments={**arguments, _NET: int(limit)} if limit.isdigit() else arguments
    )


def _about_the_net(text: str) -> re.Match[str] | None:
    """The 406, if only the broker's own count of returns differs, which ours comes before."""
    match = _ARGUMENT.search(text)
    return match if match is not None and match["arg"] == _NET else None


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
    return (
        f"{what} {name!r} exists with {match['arg']} = {theirs}, but scraperd asks for "
        f"{ours}. That can't be changed: choose another prefix, or {delete} and start again."
    )


def difference(name: str, text: str) -> str:
    """What the broker's 406 says, in words, if it does no harm. Raises TopologyError if it does."""
    match = _about_the_net(text)
    if match is None:
        raise TopologyError(_conflict(name, text))
    theirs, ours = _value(match["theirs"]), _value(match["ours"])
    return (
        f"queue {name!r} exists with x-delivery-limit = {theirs}, where scraperd would ask for "
        f"{ours}. It is used as it is; docs/operations.md says what that means for each queue."
    )


def _value(text: str) -> str:
    """A value as the broker's messages quote it; `nothing` where the argument is not set."""
    match = _VALUE.fullmatch(text)
    if match is None:
        return text
    return "nothing" if match["value"] is None else match["value"] or "''"
