"""Asks once what the broker says of our queues, and tells what is wrong.

May touch: the management API, in a thread; a channel, to declare what exists already.
Must never: end the daemon over what it finds, or hold a job up.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from scraperd.broker.rabbitmq.inspection.findings import (
    bounds,
    differences,
    exchange_differs,
    policies,
)
from scraperd.broker.rabbitmq.inspection.management import Management, Unanswered
from scraperd.broker.rabbitmq.inspection.matching import applied, policies_of, unread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.broker.rabbitmq.generation import Events
    from scraperd.broker.rabbitmq.topology import Topology
    from scraperd.config.tables import BrokerSettings

SURVEY_TIMEOUT: Final = 30.0  # seconds
UNKNOWN: Final = "RabbitMQ's policies on these queues are unknown"
UNSET: Final = (
    f"{UNKNOWN}, as AMQP does not tell them; set broker.management_api to have them looked at"
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


async def survey(
    table: BrokerSettings, broker_url: str, topology: Topology, within: float = SURVEY_TIMEOUT
) -> Survey:
    """Ask the management API for policies, in `within` seconds in all. Never raises.

    `broker_url` has the login.
    """
    if not table.management_api:
        return Survey(unknown=UNSET_PASSIVE if table.passive_declare else UNSET)
    try:
        async with asyncio.timeout(within):
            return await _in_thread(lambda: _survey(table, broker_url, topology))
    except TimeoutError:
        why = f"no answer from {table.management_api} within {within:g} s (broker.management_api)"
        return Survey(unknown=f"{UNKNOWN}: {why}")


async def _in_thread(work: Callable[[], Survey]) -> Survey:
    """Do it in a thread that the end of the process does not wait for: an answer may never end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Survey] = loop.create_future()

    def tell(said: Survey) -> None:
        if not done.done():
            done.set_result(said)

    def run() -> None:
        said = work()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, said)

    Thread(target=run, name="survey", daemon=True).start()
    return await done


def _survey(table: BrokerSettings, broker_url: str, topology: Topology) -> Survey:
    found: dict[str, Any] = {}
    said = Survey()
    try:
        api = Management.of(table, broker_url)
        ours = policies_of(api.get("policies", api.vhost))
        theirs = policies_of(api.get("operator-policies", api.vhost))
        said.unread = unread(topology.jobs, (*ours, *theirs))
        for queue in topology.queues:
            answer: Any = {}
            if table.passive_declare or queue.name == topology.jobs:
                answer = api.get("queues", api.vhost, queue.name)
            if isinstance(answer, dict):
                kind = str(answer.get("type", "quorum"))
                found[queue.name] = answer | applied(queue.name, kind, ours, theirs)
        if table.passive_declare:
            said.differences = _compared(api, topology, found)
    except Exception as error:  # noqa: BLE001 - another program answers; it must end nothing here
        known = isinstance(error, Unanswered | OSError | ValueError)
        why = error if known else type(error).__name__
        said.unknown = f"{UNKNOWN}: {why}"
    said.policies, said.bounds = policies(topology, found), bounds(topology, found)
    return said


def _compared(api: Management, topology: Topology, found: dict[str, Any]) -> list[str]:
    """In what exchanges, queues and bindings that others made differ. Raises Unanswered."""
    said: list[str] = []
    for name, kind in topology.exchanges:
        said += exchange_differs(name, kind, api.get("exchanges", api.vhost, name))
    for queue in topology.queues:
        bound: Any = None
        if queue.binding is not None:
            bound = api.get("queues", api.vhost, queue.name, "bindings")
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
