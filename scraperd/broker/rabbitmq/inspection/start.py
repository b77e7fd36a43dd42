"""Looks at one broker as the start of a daemon would: what is there, and what is not allowed.

May touch: a connection of its own, by probes.
Must never: create or change anything at the broker.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from scraperd.broker.ports import Source
from scraperd.broker.rabbitmq.inquiry.names import exchange_of, no_exchange, question_queue
from scraperd.broker.rabbitmq.inspection.probes import Asker
from scraperd.broker.rabbitmq.modes import CONSUMES
from scraperd.broker.rabbitmq.protocols.addresses import TOPIC_EXCHANGE
from scraperd.broker.rabbitmq.topology import TopologyError, conflict, settle_on
from scraperd.broker.rabbitmq.wire.errors import (
    AccessRefused,
    ChannelClosed,
    NotFound,
    PreconditionFailed,
)
from scraperd.broker.rabbitmq.wire.refusals import CREATE, no_access, no_answers, no_publish

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.topology import Queue, Topology
    from scraperd.broker.rabbitmq.wire.connection import Connection

MAX_NAMED: Final = 3  # names of one lack that are told; the others are counted
_DEFAULT: Final = "amq.default"  # how RabbitMQ names the default exchange in permissions


@dataclass(slots=True)
class Found:
    """What a broker has. `counts` are ready messages and consumers; None of a missing queue.

    A daemon ends at its start over each of the `faults`, or could not work with it. With
    `unanswered` the daemon works, and does not answer `scraperd status`. With `untold` it works,
    and no topic gets a result.
    """

    counts: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unanswered: str = ""
    untold: str = ""
    blocked: str = ""


async def survey(
    connection: Connection,
    topology: Topology,
    within: float,
    *,
    passive: bool,
    answers: bool,
    topics: bool,
) -> Found:
    """Look at all exchanges, queues and permissions; each answer has `within` seconds.

    With `answers` also at what answering `scraperd status` takes, and with `topics` at what results
    to topics take. Raises Lost.
    """
    look = _Look(Asker(connection, within), topology, passive=passive)
    for name, kind in topology.exchanges:
        await look.exchange(name, kind)
    for queue in topology.queues:
        await look.queue(queue)
    if answers:
        await look.answers()
    if topics:
        await look.topics()
    await look.permissions()
    look.found.blocked = connection.blocked
    return look.found


@dataclass(slots=True)
class _Lacks:
    """Permissions that the user lacks, each with its names; `refusal` is the first one."""

    names: dict[str, list[str]] = field(default_factory=dict)
    refusal: AccessRefused | None = None

    def note(self, permission: str, name: str, refusal: AccessRefused | None) -> None:
        """Keep how the broker refused a permission on `name`, if it did."""
        if refusal is not None:
            self.refusal = self.refusal or refusal
            self.names.setdefault(permission, []).append(name)

    @property
    def words(self) -> str:
        """All of them in one line."""
        return "; ".join(f"{what} on {_listed(names)}" for what, names in self.names.items())


class _Look:
    """One look at a broker."""

    def __init__(self, asker: Asker, topology: Topology, *, passive: bool) -> None:
        self._asker = asker
        self._topology = topology
        self._passive = passive
        self.found = Found()

    async def exchange(self, name: str, kind: str) -> None:
        """Find out whether an exchange is missing, or of another type."""
        try:
            await self._asker.ask(
                lambda channel: channel.declare_exchange(name, kind, passive=True)
            )
        except NotFound:
            if self._passive:
                self._fault(f"exchange {name!r} does not exist. {CREATE}")
            return
        except ChannelClosed as error:
            self._fault(f"exchange {name!r} cannot be used: {error}")
            return
        if not self._passive:
            await self._compare_exchange(name, kind)

    async def _compare_exchange(self, name: str, kind: str) -> None:
        """Declare one that exists: the broker compares, and changes nothing."""
        try:
            await self._asker.ask(
                lambda channel: channel.declare_exchange(name, kind, passive=False)
            )
        except PreconditionFailed as error:
            self._fault(conflict(name, str(error)))
        except AccessRefused:
            pass  # a lack of a permission, which is asked for by itself
        except ChannelClosed as error:
            self._fault(f"exchange {name!r} cannot be used: {error}")

    async def queue(self, queue: Queue) -> None:
        """Count a queue, and compare one that exists with what the daemon would declare."""
        counts = self.found.counts
        counts[queue.name] = None
        try:
            counts[queue.name] = await self._asker.ask(
                lambda channel: channel.declare_queue(queue.name, passive=True)
            )
        except NotFound:
            if self._passive:
                self._fault(f"queue {queue.name!r} does not exist. {CREATE}")
            return
        except ChannelClosed as error:
            self._fault(f"queue {queue.name!r} cannot be used: {error}")
            return
        if not self._passive:
            await self._compare_queue(queue)

    async def _compare_queue(self, queue: Queue) -> None:
        async def attempt(wanted: Queue) -> None:
            await self._asker.ask(
                lambda channel: channel.declare_queue(wanted.name, wanted.arguments, passive=False)
            )

        try:
            if words := await settle_on(queue, attempt):
                self.found.differs.append(words)
        except TopologyError as error:
            self._fault(str(error))
        except AccessRefused:
            pass  # as above
        except ChannelClosed as error:
            self._fault(f"queue {queue.name!r} cannot be used: {error}")

    async def permissions(self) -> None:
        """Ask for each permission that docs/operations/queues.md lists for the daemon.

        Publishing comes last: under an alarm the broker reads nothing behind a publish.
        """
        topology, asker, lacks = self._topology, self._asker, _Lacks()
        if not self._passive:
            for name, kind in topology.exchanges:
                lacks.note("configure", name, await asker.configure_exchange(name, kind))
            for queue in topology.queues:
                lacks.note("configure", queue.name, await asker.configure_queue(queue.name))
                if queue.binding:
                    refusal = await asker.bind(queue.name, queue.binding[0])
                    lacks.note("write and read (to bind)", queue.name, refusal)
        for name in self._read:
            lacks.note("read", name, await asker.read_queue(name))
        for name in self._written:
            lacks.note("write", name or _DEFAULT, await asker.write_exchange(name))
        if lacks.refusal is not None:
            prefix, passive = topology.prefix, self._passive
            self._fault(no_access(lacks.refusal, lacks.words, prefix, passive=passive))

    async def answers(self) -> None:
        """Ask for what a daemon's queue of questions takes (inquiry/answering.py)."""
        prefix, passive, asker, lacks = self._topology.prefix, self._passive, self._asker, _Lacks()
        exchange, queue = exchange_of(prefix), question_queue(prefix, secrets.token_hex(8))
        shown = question_queue(prefix, "RANDOM")
        if not passive:
            refusal = await asker.configure_exchange(exchange, "fanout")
            lacks.note("configure", exchange, refusal)
        lacks.note("configure", shown, await asker.configure_queue(queue))
        lacks.note("write and read (to bind)", shown, await asker.bind(queue, exchange))
        lacks.note("read", shown, await asker.read_queue(queue))
        if lacks.refusal is not None:
            said = no_answers(lacks.refusal, lacks.words, prefix, passive=passive)
            self.found.unanswered = said
        elif passive and not await self._exists(exchange):
            self.found.unanswered = no_exchange(prefix)

    async def topics(self) -> None:
        """Ask for what results to topics take: such a pattern is in broker.allow_reply_to."""
        refusal = await self._asker.write_exchange(TOPIC_EXCHANGE)
        if refusal is not None:
            prefix, passive = self._topology.prefix, self._passive
            _, words = no_publish(refusal, TOPIC_EXCHANGE, "", prefix, passive=passive)
            self.found.untold = f"no topic gets a result (broker.allow_reply_to): {words}"

    async def _exists(self, exchange: str) -> bool:
        try:
            await self._asker.ask(
                lambda channel: channel.declare_exchange(exchange, "fanout", passive=True)
            )
        except NotFound:
            return False
        except ChannelClosed:
            pass  # the daemon does not look at its type
        return True

    @property
    def _read(self) -> list[str]:
        """The queues that the daemon consumes, and those it declares with dead-lettering.

        RabbitMQ wants the right to read those that it dead-letters.
        """
        sources = {Source.JOBS, *(source for found in CONSUMES.values() for source in found)}
        names = {self._topology.queue(source) for source in sources}
        if not self._passive:
            names.update(
                queue.name
                for queue in self._topology.queues
                if "x-dead-letter-exchange" in queue.arguments
            )
        return sorted(names)

    @property
    def _written(self) -> list[str]:
        """The exchanges that the daemon publishes to, or that its queues dead-letter to."""
        names = ["", self._topology.results]
        return names if self._passive else [*names, self._topology.jobs]

    def _fault(self, words: str) -> None:
        self.found.faults.append(words)


def _listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:MAX_NAMED])
    more = len(names) - MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
