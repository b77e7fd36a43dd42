"""Which dead callbacks are meant, the queue that they are in, and how it went with them.

May touch: the options that were given, the configuration's values, the terminal.
Must never: mean everything unless it was asked for by name.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from scraperd.base.clocks import SYSTEM
from scraperd.base.hosts import HostSet
from scraperd.broker.rabbitmq.dead_queue import opened
from scraperd.broker.rabbitmq.generation import Settings
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.cli.console import EXIT_CONFIG, EXIT_FAILED, fail, say
from scraperd.cli.dead.filters import ago, hosts
from scraperd.config.load import ConfigError
from scraperd.deadletters import desk
from scraperd.deadletters.callback import REASONS, read_callback
from scraperd.deadletters.letter import Filters
from scraperd.jobs.signing import Keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.config.settings import Config
    from scraperd.deadletters.desk import Opening


def with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which callbacks are meant."""
    options = (
        click.option("--reason", multiple=True, type=click.Choice(REASONS), help="Why it is dead."),
        click.option(
            "--host",
            multiple=True,
            metavar="HOST",
            callback=hosts,
            help="Of the receiver: exact, or *.domain; no scheme, no port.",
        ),
        click.option("--id", "idents", multiple=True, metavar="ID", help="The id of its job."),
        click.option(
            "--older-than",
            "before",
            metavar="AGE",
            callback=ago,
            help="Dead for longer: 30s, 5m, 2h, 7d.",
        ),
        click.option(
            "--newer-than", "after", metavar="AGE", callback=ago, help="Dead for less than that."
        ),
        click.option(
            "--limit", type=click.IntRange(min=1), help="At most so many, whichever come first."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


everything = click.option(
    "--all", "everything", is_flag=True, help="Every dead callback; excludes filters."
)


def wanted_of(config: Config, given: dict[str, Any]) -> desk.Wanted:
    """Return the filters as they were given; an option given twice means either."""
    # Here and not above: `--help` has no use for the daemon's rooms, which take long to load.
    from scraperd.reload import secrets_of  # noqa: PLC0415

    filters = Filters(
        reasons=frozenset(given["reason"]),
        hosts=HostSet(given["host"]),
        idents=frozenset(given["idents"]),
        before=given["before"],
        after=given["after"],
    )
    try:
        keys = Keys(secrets_of(config), config.broker.prefix, SYSTEM.wall)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    urls = {name: endpoint.url for name, endpoint in config.callback_endpoints.items()}
    read = partial(read_callback, keys=keys, urls=urls, now=SYSTEM.wall())
    return desk.Wanted(filters, given["limit"], read)


def chosen_of(config: Config, given: dict[str, Any]) -> desk.Wanted:
    """As `wanted_of`, but everything must be asked for by name."""
    wanted = wanted_of(config, given)
    if bool(wanted.filters) == given["everything"]:
        raise click.UsageError(
            "--all and filters exclude each other"
            if given["everything"]
            else "say which callbacks: by a filter, or --all"
        )
    return wanted


def dead_callbacks(config: Config) -> Opening:
    """Return the queue of dead callbacks, on connections of its own once it is entered."""
    table = replace(config.broker, passive_declare=True)  # nothing is created for a look
    within = config.fetch.connect_timeout
    settings = Settings.of(table, config.broker_urls, "scraperd callbacks", within)
    return opened(settings, Topology(config.broker.prefix).callback_letters, SYSTEM)


def counted(tally: desk.Tally) -> str:
    """Return how many dead callbacks there are, and at which broker."""
    return f"{tally.total} dead callbacks at {tally.broker}"


def missing_of(tally: desk.Tally) -> int:
    """Name the ids of which no callback is dead; the exit code."""
    for ident in sorted(tally.missing):
        say(f"scraperd: no dead callback of a job with the id {ident!r}", err=True)
    return EXIT_FAILED if tally.missing else 0


async def would(config: Config, wanted: desk.Wanted, what: str) -> int:
    """Count the callbacks that `what` would be done to, and say how many; the exit code."""
    tally = await desk.look(dead_callbacks(config), wanted, lambda _: None)
    say(f"would {what} {tally.matched} of {counted(tally)}")
    return missing_of(tally)


def report(done: str, tally: desk.Tally) -> None:
    """Say how far it got; nothing if it did not come to count the callbacks."""
    if tally.total is not None:
        say(f"{done} {tally.done} of {counted(tally)}; {tally.left()}")
