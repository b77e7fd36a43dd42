"""`scraperd pause`: put jobs off until they are resumed.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: take a rule that cannot be meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scraperd.cli.console import epilog
from scraperd.cli.rules.setting import match_argument, set_rule, until_option
from scraperd.cli.shared.options import config_of, with_config

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "pause",
    epilog=epilog("scraperd pause 'host=*.example.com' --until 2h", "scraperd pause batch=monday"),
)
@with_config
@match_argument
@until_option("30 days if not given")
def command(path: Path | None, match: str, until: str | None) -> None:
    """Put all jobs off that match, without an attempt, until `scraperd resume`.

    What is being fetched is finished. Exits with 1 if a process does not have the rule within two
    seconds.
    """
    set_rule(config_of(path), "pause", match, until)
