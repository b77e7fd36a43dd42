"""Asks once what the broker says of our queues, and tells what is wrong.

May touch: the management API, in a thread; a channel, to declare what exists already.
Must never: end the daemon over what it finds, or hold a job up.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from scraperd.broker.rabbitmq.survey.findings import (
    bounds,
    differences,
    exchange_differs,
    policies,
)
from scraperd.broker.rabbitmq.survey.management import Management, Unanswered
from scraperd.broker.rabbitmq.survey.matching import applied, policies_of, unread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.broker.rabbitmq.generation import Events
    from scraperd.broker.rabbitmq.topology import Topology
    from scraperd.config.tables import BrokerSettings

UNSET: Final = (
    "RabbitMQ's policies on these queues are unknown, as AMQP does not tell them; set "
    "broker.management_api to have them looked at"
)
UNSET_PASSIVE: Final = (
    "RabbitMQ's policies on these queues, and their bindings, are unknown, as AMQP does not tell "
    "them; their types and arguments were compared if this user may declare queues. Set "
    "broker.management_api to have all of it looked at"
)


@dataclass(slots=True)
class Survey:
    """What was found: policies that do harm, differences of queues, and the jobs queue's limit.

    `unread` are policies whose patterns only RabbitMQ can read. `unknown` says why something could
    not be asked.
    """

    policies: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    bounds: str = ""
    unknown: str = ""


async def survey(table: BrokerSettings, broker_url: str, topology: Topology) -> Survey:
    """Ask the management API for each of our queues that exists. Never raises.

    `broker_url` has the login.
    """
    if not table.management_api:
        return Survey(unknown=UNSET_PASSIVE if table.passive_declare else UNSET)
    found: dict[str, Any] = {}
    said = Survey()
    try:
        api = await asyncio.to_thread(Management.of, table, broker_url)
        ours = policies_of(await asyncio.to_thread(api.get, "policies", api.vhost))
        theirs = policies_of(await asyncio.to_thread(api.get, "operator-policies", api.vhost))
        said.unread = unread(topology.jobs, (*ours, *theirs))
        for queue in topology.queues:
            answer: Any = {}
            if table.passive_declare or queue.name == topology.jobs:
                answer = await asyncio.to_thread(api.get, "queues", api.vhost, queue.name)
            if isinstance(answer, dict):
                kind = str(answer.get("type", "quorum"))
                found[queue.name] = answer | applied(queue.name, kind, ours, theirs)
        if table.passive_declare:
            said.differences = await _compared(api, topology, found)
    except (Unanswered, OSError, ValueError) as error:
        said.unknown = f"RabbitMQ's policies on these queues are unknown: {error}"
    said.policies, said.bounds = policies(topology, found), bounds(topology, found)
    return said


async def _compared(api: Management, topology: Topology, found: dict[str, Any]) -> list[str]:
    """In what exchanges, queues and bindings that others made differ. Raises Unanswered."""
    said: list[str] = []
    for name, kind in topology.exchanges:
        answer = await asyncio.to_thread(api.get, "exchanges", api.vhost, name)
        said += exchange_differs(name, kind, answer)
    for queue in topology.queues:
        bound: Any = None
        if queue.binding is not None:
            bound = await asyncio.to_thread(api.get, "queues", api.vhost, queue.name, "bindings")
        if queue.name in found:
            said += differences(topology, queue, found[queue.name], bound)
    return said


class Surveyor:
    """Surveys once, when jobs are consumed. `run` is a service of the daemon."""

    def __init__(
        self,
        table: BrokerSettings,
        broker_url: str,
        topology: Topology,
        consuming: Callable[[], Awaitable[Any]],
        events: Events,
    ) -> None:
        self._table = table
        self._broker_url = broker_url
        self._topology = topology
        self._consuming = consuming
        self._events = events

    async def run(self) -> None:
        """Wait until jobs are consumed, ask, tell; then end."""
        await self._consuming()
        said = await survey(self._table, self._broker_url, self._topology)
        for words in (*said.policies, *said.unread):
            self._events("queue_policy", error=words)
        for words in said.differences:
            self._events("queue_differs", error=words)
        if said.unknown:
            self._events("queues_unchecked", reason=said.unknown)
        else:
            self._events("queues_checked")
