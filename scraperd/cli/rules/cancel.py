"""`scraperd cancel`: end jobs, wherever they are.

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
    "cancel",
    epilog=epilog(
        "scraperd cancel batch=monday", "scraperd cancel 'host=*.example.com' --until 1h"
    ),
)
@with_config
@match_argument
@until_option("a day if not given")
def command(path: Path | None, match: str, until: str | None) -> None:
    """End all jobs that match: queued, delayed, waiting for their host, or in flight.

    Each has a result of the kind `cancelled`. Jobs that come later and match end too, until the
    rule ends. Exits with 1 if a process does not have the rule within two seconds.
    """
    set_rule(config_of(path), "cancel", match, until)
