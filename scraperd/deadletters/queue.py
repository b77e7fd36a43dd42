"""The dead queue of a configuration, for who looks at it: commands, the dashboard.

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
    letters = Topology(table.prefix).job_letters
    return opened(_settings(table, urls, within), letters, SYSTEM)


async def remove_undeliverable_letters(
    table: BrokerSettings, urls: tuple[str, ...], within: float, *, dry_run: bool
) -> tuple[int, str]:
    """Remove the letters that the broker cannot deliver. Raises Lost.

    Returns how many they were, and the broker's URL without credentials.
    """
    settings = _settings(table, urls, within)
    return await remove_undeliverable(settings, Topology(table.prefix), SYSTEM, dry_run=dry_run)


def _settings(table: BrokerSettings, urls: tuple[str, ...], within: float) -> Settings:
    passive = replace(table, passive_declare=True)  # nothing is created for a look
    return Settings.of(passive, urls, "scraperd dead", within)
