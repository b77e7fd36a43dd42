"""`scraperd dead show`: dead letters whole, as JSON.

May touch: the dead queue, to read; the terminal; the exit code.
Must never: remove a letter.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from scraperd.cli.console import epilog
from scraperd.cli.console import show as show_json
from scraperd.cli.dead.filters import chosen_of, everything, ids, with_filters
from scraperd.cli.dead.queue import dead_queue
from scraperd.cli.dead.telling import missing_of, tell_readers
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.deadletters import desk

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config


@click.command(
    "show",
    epilog=epilog(
        "scraperd dead show --reason invalid --limit 1", "scraperd dead show --all > letters.jsonl"
    ),
)
@with_config
@ids
@everything
@with_filters
def command(path: Path | None, **given: Any) -> None:
    """Print dead letters whole, as JSON: body, properties and headers. Removes nothing.

    Exits 1 if there is no letter of an ID. Bodies and headers may hold credentials.
    """
    config = config_of(path)
    run_client(_show(config, chosen_of(given)))


async def _show(config: Config, wanted: desk.Wanted) -> int:
    indent = 2 if sys.stdout.isatty() else None
    tally = await desk.look(
        dead_queue(config), wanted, lambda letter: show_json(desk.whole_json(letter, indent))
    )
    tell_readers(tally)
    return missing_of(tally)
