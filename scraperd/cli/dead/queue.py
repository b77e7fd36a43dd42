"""The dead queue of a configuration, for the commands that look at it.

May touch: the configuration's values.
Must never: connect; the desk does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scraperd.deadletters import queue

if TYPE_CHECKING:
    from scraperd.config.settings import Config
    from scraperd.deadletters.desk import Opening


def dead_queue(config: Config) -> Opening:
    """Return the dead queue, on connections of its own once it is entered."""
    return queue.dead_queue(config.broker, config.broker_urls, config.fetch.connect_timeout)


async def remove_undeliverable_letters(config: Config, *, dry_run: bool) -> tuple[int, str]:
    """Remove the letters that the broker cannot deliver. Raises Lost.

    Returns how many they were, and the broker's URL without credentials.
    """
    return await queue.remove_undeliverable_letters(
        config.broker, config.broker_urls, config.fetch.connect_timeout, dry_run=dry_run
    )
