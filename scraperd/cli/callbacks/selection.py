"""Which dead callbacks are meant, the queue that they are in, and how it went with them.

May touch: the options that were given, the configuration's values, the terminal.
Must never: mean everything unless it was asked for by name.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from scraperd.base.clocks import SYSTEM
from scraperd.base.hosts import HostSet
from scraperd.cli.console import say
from scraperd.cli.dead import telling
from scraperd.cli.dead.filters import filters, named
from scraperd.cli.shared.options import keys_of
from scraperd.deadletters import desk, queue
from scraperd.deadletters.callback import REASONS, read_callback
from scraperd.deadletters.letter import Filters

if TYPE_CHECKING:
    from scraperd.config.settings import Config
    from scraperd.deadletters.desk import Opening


with_filters = filters(
    REASONS,
    "Of the receiver: exact, or *.domain; no scheme, no port.",
    "The id of its job.",
)
everything = click.option(
    "--all", "everything", is_flag=True, help="Every dead callback; excludes filters."
)


def wanted_of(config: Config, given: dict[str, Any]) -> desk.Wanted:
    """Return the filters as they were given; an option given twice means either."""
    meant = Filters(
        reasons=frozenset(given["reason"]),
        hosts=HostSet(given["host"]),
        idents=frozenset(given["idents"]),
        before=given["before"],
        after=given["after"],
    )
    urls = {name: endpoint.url for name, endpoint in config.callback_endpoints.items()}
    read = partial(read_callback, keys=keys_of(config), urls=urls, now=SYSTEM.wall())
    return desk.Wanted(meant, given["limit"], read)


def chosen_of(config: Config, given: dict[str, Any]) -> desk.Wanted:
    """As `wanted_of`, but everything must be asked for by name."""
    return named(wanted_of(config, given), given, "callbacks: by a filter, or --all")


def dead_callbacks(config: Config) -> Opening:
    """Return the queue of dead callbacks, on connections of its own once it is entered."""
    return queue.dead_callbacks(config.broker, config.broker_urls, config.fetch.connect_timeout)


counted = partial(telling.counted, what="callback")
missing_of = partial(telling.missing_of, what="callback")


async def would(config: Config, wanted: desk.Wanted, what: str) -> int:
    """Count the callbacks that `what` would be done to, and say how many; the exit code."""
    tally = await desk.look(dead_callbacks(config), wanted, lambda _: None)
    say(f"would {what} {tally.matched} of {counted(tally)}")
    return missing_of(tally)


def report(done: str, tally: desk.Tally) -> None:
    """Say how far it got; nothing if it did not come to count the callbacks."""
    if tally.total is not None:
        say(f"{done} {tally.done} of {counted(tally)}; {tally.left()}")
