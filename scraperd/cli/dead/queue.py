"""The dead queue of a configuration, for the commands that look at it.

May touch: the configuration's values.
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
    from scraperd.config.settings import Config
    from scraperd.deadletters.desk import Opening


def dead_queue(config: Config) -> Opening:
    """Return the dead queue, on connections of its own once it is entered."""
    return opened(_settings(config), Topology(config.broker.prefix).job_letters, SYSTEM)


async def remove_undeliverable_letters(config: Config, *, dry_run: bool) -> tuple[int, str]:
    """Remove the letters that the broker cannot deliver. Raises Lost.

    Returns how many they were, and the broker's URL without credentials.
    """
    topology = Topology(config.broker.prefix)
    return await remove_undeliverable(_settings(config), topology, SYSTEM, dry_run=dry_run)


def _settings(config: Config) -> Settings:
    table = replace(config.broker, passive_declare=True)  # nothing is created for a look
    urls, within = config.broker_urls, config.fetch.connect_timeout
    return Settings.of(table, urls, "scraperd dead", within)
