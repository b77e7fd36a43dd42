"""The queues of dead jobs and dead callbacks, for who looks at them: commands, the dashboard.

May touch: the table `broker`.
Must never: connect; the desk does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from scraperd.base.clocks import SYSTEM
from scraperd.broker.rabbitmq.dead_queue import opened, remove_undeliverable
from scraperd.broker.rabbitmq.generation import Settings
from scraperd.broker.rabbitmq.topology import Topology

if TYPE_CHECKING:
    from scraperd.config.tables import BrokerSettings
    from scraperd.deadletters.desk import Opening


def dead_queue(table: BrokerSettings, urls: tuple[str, ...], within: float) -> Opening:
    """Return the dead queue, on connections of its own once it is entered.

    `urls` are the brokers, dialled `within` seconds each.
    """
    settings = _settings(table, urls, within, "scraperd dead")
    return opened(settings, Topology(table.prefix).job_letters, SYSTEM)


def dead_callbacks(table: BrokerSettings, urls: tuple[str, ...], within: float) -> Opening:
    """Return the queue of dead callbacks, as `dead_queue` does that of jobs."""
    settings = _settings(table, urls, within, "scraperd callbacks")
    return opened(settings, Topology(table.prefix).callback_letters, SYSTEM)


async def remove_undeliverable_letters(
    table: BrokerSettings, urls: tuple[str, ...], within: float, *, dry_run: bool
) -> tuple[int, str]:
    """Remove the letters that the broker cannot deliver. Raises Lost.

    Returns how many they were, and the broker's URL without credentials.
    """
    settings = _settings(table, urls, within, "scraperd dead")
    return await remove_undeliverable(settings, Topology(table.prefix), SYSTEM, dry_run=dry_run)


def _settings(table: BrokerSettings, urls: tuple[str, ...], within: float, name: str) -> Settings:
    passive = replace(table, passive_declare=True)  # nothing is created for a look
    return Settings.of(passive, urls, name, within)
