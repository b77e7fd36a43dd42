"""`scraperd limit`: fetch from a host more slowly, or with fewer connections.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: take a limit that is not one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scraperd.cli.console import epilog
from scraperd.cli.rules.setting import set_rule, until_option
from scraperd.cli.shared.options import config_of, with_config

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "limit",
    epilog=epilog("scraperd limit 'host=*.example.com' concurrency=2 delay=1.5 --until 2h"),
)
@with_config
@click.argument("match", metavar="host=HOST")
@click.argument("limits", metavar="[concurrency=N] [delay=SECONDS]", nargs=-1, required=True)
@until_option("30 days if not given")
def command(path: Path | None, match: str, limits: tuple[str, ...], until: str | None) -> None:
    """Set how a host is fetched from, over the configuration, in each process.

    A Crawl-delay of its robots.txt holds too. Exits with 1 if a process does not have the
    rule within two seconds.
    """
    set_rule(config_of(path), "limit", match, until, limits)
