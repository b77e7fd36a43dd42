"""Names and arguments of every exchange, queue and binding: pure data, plus declare().

May touch: a channel, to declare on.
Must never: publish, consume, or declare a thing that is not in the data.
"""

from __future__ import annotations

import json
import re
import shlex
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from scraperd.broker.ports import Source
from scraperd.broker.rabbitmq.wire.errors import AccessRefused, NotFound, PreconditionFailed
from scraperd.broker.rabbitmq.wire.refusals import no_access

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.config.tables import BrokerSettings

# Seconds, each about 1.6 times the one before: a job that waits for a time in the future gets near
# it in few moves (docs/decisions/0010-fairness.md).
DELAYS: Final = (
    *(1, 2, 4, 6, 10, 15, 25, 40, 60),
    *(100, 150, 250, 400, 600, 1000, 1500, 2500, 3600),
)
# Seconds of the tiers of callbacks. A longer wait is made of several
# (docs/decisions/0059-callbacks.md).
CALLBACK_DELAYS: Final = (1, 5, 30, 300, 1800, 3600)
# A crash counts against every unacked delivery, so the count that ends a job is ours, kept in a
# header (docs/decisions/0016-quarantine.md). The broker's own is the net beneath: for a message
# that ends each process before it can be looked at, and where a limit does harm, none that is ever
# met (unset, RabbitMQ 4 drops a message at its 20th return; 3.10 does not take -1).
MAX_REDELIVERIES: Final = 100
ENDLESS: Final = 1_000_000_000
CLOSE_TIMEOUT: Final = 5.0  # seconds
_ARGUMENT = re.compile(  # a value is bare, or `the value '5' of type 'long'`, or none
    r"inequivalent arg '(?P<arg>[^']*)' for (?P<what>queue|exchange) '(?P<name>[^']*)' "
    r"in vhost '(?P<vhost>.*)': received (?P<ours>.*) but current is (?P<theirs>.*)"
)
_NET: Final = "x-delivery-limit"
_STRATEGY: Final = "x-dead-letter-strategy"
_TARGET: Final = "x-dead-letter-routing-key"
_LENGTH: Final = "x-max-length"
_LENGTH_BYTES: Final = "x-max-length-bytes"
_BOUNDS: Final = frozenset({_LENGTH, _LENGTH_BYTES})
_SINGLE: Final = "x-single-active-consumer"
_NOTHING: Final = "nothing"  # for an argument that is not set
_VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '[^']*')?|none")


class TopologyError(Exception):
    """The broker's queues are not what they must be; the message says what to do."""


class Queue(Struct, frozen=True):
    """A durable quorum queue and the one binding it may have, as (exchange, key).

    `earlier` are arguments that an earlier version gave it: it may have them still. `free` are
    arguments that may have any value: a policy can set what they stand for.
    """

    name: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    binding: tuple[str, str] | None = None
    earlier: dict[str, str] = msgspec.field(default_factory=dict)
    free: frozenset[str] = frozenset()

    def may_have(self, argument: str, value: str) -> bool:
        """Whether the queue can be used with this value of an argument, in the broker's words."""
        return argument == _NET or argument in self.free or self.earlier.get(argument) == value


class DeadLetters(Struct, frozen=True):
    """A queue of dead letters, and the queue that what was in a letter goes back to."""

    dead: str
    back: str


class Topology(Struct, frozen=True):
    """Every name under one prefix.

    The jobs queue takes `max_length` messages and `max_length_bytes` bytes; 0 is no limit.
    `calls_back`: the queues of callbacks are among them; `tallies`: that of batches is.
    """

    prefix: str
    max_length: int = 0
    max_length_bytes: int = 0
    calls_back: bool = False
    tallies: bool = False

    @classmethod
    def of(cls, table: BrokerSettings, *, calls_back: bool = False, tallies: bool = False) -> Self:
        """Return the topology of the table `broker`."""
        most, most_bytes = table.jobs_max_length, table.jobs_max_length_bytes
        return cls(table.prefix, most, most_bytes, calls_back, tallies)

    @property
    def jobs(self) -> str:
        """The jobs exchange, its routing key, and the jobs queue: one name for all three."""
        return f"{self.prefix}.jobs"

    @property
    def results(self) -> str:
        """The results exchange (topic) and the results queue."""
        return f"{self.prefix}.results"

    @property
    def quarantine(self) -> str:
        """The queue of jobs that came back once: their process may have died of them."""
        return f"{self.prefix}.quarantine"

    @property
    def solo(self) -> str:
        """The queue of jobs that were redelivered more than once, each to be run alone."""
        return f"{self.prefix}.quarantine.solo"

    @property
    def undelivered(self) -> str:
        """The queue of jobs that RabbitMQ dead-letters: expired there, or given out too often."""
        return f"{self.prefix}.undelivered"

    @property
    def dead(self) -> str:
        """The queue of invalid, exhausted and poisonous jobs."""
        return f"{self.prefix}.dead"

    @property
    def callbacks(self) -> str:
        """The queue of callbacks that are to be sent."""
        return f"{self.prefix}.callbacks"

    @property
    def dead_callbacks(self) -> str:
        """The queue of callbacks that are not sent any more."""
        return f"{self.callbacks}.dead"

    @property
    def job_letters(self) -> DeadLetters:
        """Where dead jobs are, and where they go back to."""
        return DeadLetters(self.dead, self.jobs)

    @property
    def callback_letters(self) -> DeadLetters:
        """The same of dead callbacks."""
        return DeadLetters(self.dead_callbacks, self.callbacks)

    def callback_delay(self, seconds: float) -> str:
        """The longest tier of callbacks that waits at most `seconds`; the shortest if all do more.

        What comes back before its time goes to the next tier.
        """
        return self._callback_tier(
            CALLBACK_DELAYS[max(0, bisect_right(CALLBACK_DELAYS, seconds) - 1)]
        )

    def _callback_tier(self, seconds: int) -> str:
        return f"{self.callbacks}.delay.{seconds}"

    @property
    def callback_delays(self) -> tuple[str, ...]:
        """The delay queues of callbacks, from the shortest."""
        return tuple(self._callback_tier(seconds) for seconds in CALLBACK_DELAYS)

    @property
    def batches(self) -> str:
        """The queue of notes on the outcomes of jobs of batches, and of the tally's own records."""
        return f"{self.prefix}.batches"

    def delay(self, seconds: float) -> str:
        """The shortest tier that waits at least `seconds`; the longest for anything above it."""
        return self._tier(wait_at_least(seconds))

    @property
    def delays(self) -> tuple[str, ...]:
        """The delay queues, from the shortest."""
        return tuple(self._tier(seconds) for seconds in DELAYS)

    def _tier(self, seconds: int) -> str:
        return f"{self.prefix}.delay.{seconds}"

    def queue(self, source: Source) -> str:
        """The queue's name."""
        return {
            Source.JOBS: self.jobs,
            Source.QUARANTINE: self.quarantine,
            Source.SOLO: self.solo,
            Source.UNDELIVERED: self.undelivered,
            Source.DEAD: self.dead,
        }[source]

    @property
    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """Pairs of name and type."""
        return ((self.jobs, "direct"), (self.results, "topic"))

    @property
    def queues(self) -> tuple[Queue, ...]:
        """Every queue. What others feed is dead-lettered at most once, what only we feed at least.

        On RabbitMQ 3.10 a message whose x-death header is malformed ends all dead-lettering
        at-least-once of its node (docs/decisions/0017-dead-lettering.md). In the ladder there is
        never one: that header is taken off whatever is published there.
        """
        kept = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
        endless = {**kept, _NET: ENDLESS}
        to_jobs = {"x-dead-letter-exchange": self.jobs, _TARGET: self.jobs}
        ladder = {**kept, **to_jobs, _STRATEGY: "at-least-once"}
        fed = {**kept, "x-dead-letter-exchange": "", _NET: MAX_REDELIVERIES}
        work = {**fed, _TARGET: self.undelivered}
        earlier = {_TARGET: self.dead, _STRATEGY: "at-least-once"}
        asked = {_LENGTH: self.max_length, _LENGTH_BYTES: self.max_length_bytes}
        bounds = {name: most for name, most in asked.items() if most}
        entry = (self.jobs, self.jobs)
        return (
            Queue(self.dead, endless),
            Queue(self.undelivered, {**fed, _TARGET: self.dead}),
            Queue(self.results, endless, (self.results, "#")),
            Queue(self.jobs, {**work, **bounds}, entry, earlier=earlier, free=_BOUNDS),
            Queue(self.quarantine, work, earlier=earlier),
            Queue(self.solo, work, earlier=earlier),
            *(Queue(self._tier(s), {**ladder, "x-message-ttl": s * 1000}) for s in DELAYS),
            *(self._callback_queues(kept) if self.calls_back else ()),
            *((Queue(self.batches, {**endless, _SINGLE: True}),) if self.tallies else ()),
        )

    def _callback_queues(self, kept: dict[str, Any]) -> tuple[Queue, ...]:
        """The queues of callbacks, which only we feed; a tier hands back to the first."""
        endless = {**kept, _NET: ENDLESS}
        back = {"x-dead-letter-exchange": "", _TARGET: self.callbacks, _STRATEGY: "at-least-once"}
        return (
            Queue(self.callbacks, endless),
            Queue(self.dead_callbacks, endless),
            *(
                Queue(self._callback_tier(s), {**kept, **back, "x-message-ttl": s * 1000})
                for s in CALLBACK_DELAYS
            ),
        )


def wait_within(seconds: float) -> int:
    """The longest wait of a delay tier of at most `seconds`; the shortest for anything below it."""
    return DELAYS[max(0, bisect_right(DELAYS, seconds) - 1)]


def wait_at_least(seconds: float) -> int:
    """The wait of the shortest delay tier of at least `seconds`; the longest for any above it."""
    return DELAYS[min(bisect_left(DELAYS, seconds), len(DELAYS) - 1)]


async def declare(
    topology: Topology, open_channel: Callable[[], Awaitable[Channel]], *, passive: bool
) -> list[str]:
    """Declare all of it, or with `passive` only check that it exists.

    Returns what differs and does no harm. Raises TopologyError where the broker has
    something else by that name.
    """
    channel = await open_channel()
    name, differs = "", []

    async def attempt(queue: Queue) -> None:
        nonlocal channel
        try:
            await _declare(channel, queue, passive=passive)
        except PreconditionFailed:
            channel = await open_channel()  # the refusal closed it
            raise

    try:
        for name, kind in topology.exchanges:
            await channel.declare_exchange(name, kind, passive=passive)
        for queue in topology.queues:
            name = queue.name
            if words := await settle_on(queue, attempt):
                differs.append(words)
    except PreconditionFailed as error:
        raise TopologyError(conflict(name, str(error))) from error
    except NotFound as error:
        raise TopologyError(
            f"{name!r} does not exist on the broker. Create it as docs/operations/queues.md lists, "
            "or set broker.passive_declare = false and let scraperd create it."
        ) from error
    except AccessRefused as error:
        words = no_access(
            error, f"a permission to declare or bind {name!r}", topology.prefix, passive=passive
        )
        raise TopologyError(
            f"{words} Or create all queues yourself (docs/operations/queues.md) and set "
            "broker.passive_declare = true."
        ) from error
    await channel.close(CLOSE_TIMEOUT)
    return differs


async def _declare(channel: Channel, queue: Queue, *, passive: bool) -> None:
    await channel.declare_queue(queue.name, queue.arguments, passive=passive)
    if queue.binding and not passive:
        exchange, key = queue.binding
        await channel.bind_queue(queue.name, exchange, key)


async def settle_on(queue: Queue, attempt: Callable[[Queue], Awaitable[None]]) -> str:
    """Declare a queue by `attempt`; as the broker has it already, where that does no harm.

    Returns in what it differs, in words. Raises TopologyError if it could not be used.
    """
    found: dict[str, str] = {}
    while True:
        try:
            await attempt(as_it_is(queue, found))
        except PreconditionFailed as error:
            argument, theirs = _harmless(queue, str(error))
            if argument in found:  # else it would be asked again without end
                raise TopologyError(conflict(queue.name, str(error))) from error
            found[argument] = theirs
        else:
            return difference(queue, found) if found else ""


def as_it_is(queue: Queue, found: dict[str, str]) -> Queue:
    """With the values that the broker's 406s say it has; `nothing` is an argument less."""
    arguments = {name: v for name, v in queue.arguments.items() if name not in found}
    theirs = {name: v for name, v in found.items() if v != _NOTHING}
    numbers = {name: int(v) for name, v in theirs.items() if v.isascii() and v.isdigit()}
    return replace(queue, arguments=arguments | theirs | numbers)


def inequivalent(text: str) -> tuple[str, str] | None:
    """Argument and value that a queue has, by the broker's 406; None if it is about none."""
    match = _ARGUMENT.search(text)
    return None if match is None else (match["arg"], _value(match["theirs"]))


def _harmless(queue: Queue, text: str) -> tuple[str, str]:
    """Argument and value that a 406 is about, if the queue can be used with it.

    Raises TopologyError otherwise. The broker's count of returns may differ: ours comes before it.
    """
    told = inequivalent(text)
    if told is not None and queue.may_have(*told):
        return told
    raise TopologyError(conflict(queue.name, text))


def conflict(name: str, text: str) -> str:
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
        f"{ours}. That can't be changed: choose another broker.prefix, or {delete} and start again."
    )


_MEANS_BOUND: Final = "The length limit of a queue that exists cannot be changed by settings. "
_MEANS_NET: Final = "docs/operations/queues.md says what that means for each queue."
_MEANS_EARLIER: Final = (
    "An earlier version made it so. A job that expires in it by its own expiration has no result, "
    "and on RabbitMQ 3 one message in it can stop all retries. Replace it: let it run empty, stop "
    "every scraperd, delete it, start again (docs/operations/queues.md)."
)


def difference(queue: Queue, found: dict[str, str]) -> str:
    """In what a queue differs that is used all the same, in words: `found` is what it has."""
    has = " and ".join(f"{name} = {value}" for name, value in found.items())
    ours = " and ".join(str(queue.arguments.get(name, _NOTHING)) for name in found)
    said = f"queue {queue.name!r} exists with {has}, where scraperd would ask for {ours}."
    bounds = found.keys() & queue.free
    means = [_MEANS_BOUND + _remedy(queue)] if bounds else []
    if found.keys() - bounds - {_NET}:
        means.append(_MEANS_EARLIER)
    elif found.keys() - bounds:
        means.append(_MEANS_NET)
    return " ".join((said, "It is used as it is.", *means))


def _remedy(queue: Queue) -> str:
    """The command by which a queue that exists gets the bounds that are asked for; or none."""
    wanted = {name[2:]: queue.arguments[name] for name in sorted(_BOUNDS & queue.arguments.keys())}
    if not wanted:
        return "To take a limit away, replace the queue (docs/operations/queues.md)."
    name = queue.name
    command = ["rabbitmqctl", "set_policy", f"{name}-limit", f"^{re.escape(name)}$"]
    command += [json.dumps(wanted), "--apply-to", "queues"]
    return (
        "A policy sets a limit at any time; if the queue has one of its own, the smaller one "
        f"counts: {shlex.join(command)} (with -p VHOST, if it is not /)."
    )


def _value(text: str) -> str:
    """A value as the broker's messages quote it; `nothing` where the argument is not set."""
    match = _VALUE.fullmatch(text)
    if match is None:
        return text
    return _NOTHING if match["value"] is None else match["value"] or "''"
