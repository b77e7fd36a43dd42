"""`scraperd callbacks purge`: dead callbacks removed for good.

May touch: the queue of dead callbacks, the file of --save, the terminal, the exit code.
Must never: remove a callback without a yes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scraperd.cli.callbacks.selection import (
    chosen_of,
    counted,
    dead_callbacks,
    everything,
    missing_of,
    report,
    with_filters,
    would,
)
from scraperd.cli.console import EXIT_FAILED, epilog, fail
from scraperd.cli.dead.filters import dry_run_flag
from scraperd.cli.dead.purge import confirm, count
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.deadletters import desk

if TYPE_CHECKING:
    from scraperd.config.settings import Config


@click.command(
    "purge",
    epilog=epilog(
        "scraperd callbacks purge --older-than 30d --dry-run",
        "scraperd callbacks purge --reason gone --save gone.jsonl --yes",
    ),
)
@with_config
@everything
@with_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="Append each to FILE before it is removed."
)
@dry_run_flag
def command(
    path: Path | None, *, yes: bool, save: Path | None, dry_run: bool, **given: Any
) -> None:
    """Remove dead callbacks for good. Asks first, and says how many."""
    config = config_of(path)
    wanted = chosen_of(config, given)
    if dry_run:
        run_client(would(config, wanted, "remove"))
    if not yes:
        wanted = desk.Wanted(wanted.filters, _agreed(config, wanted), wanted.read)
    run_client(_purge(config, wanted, save))


def _agreed(config: Config, wanted: desk.Wanted) -> int:
    """Count the callbacks, and ask whether to remove them; ends the process if the answer is no."""
    tally = count(dead_callbacks(config), wanted, "callbacks")
    if not tally.matched:
        fail(f"no dead callback matches ({counted(tally)})", EXIT_FAILED)
    confirm(f"Remove {tally.matched} of {counted(tally)} for good?")
    return tally.matched


async def _purge(config: Config, wanted: desk.Wanted, save: Path | None) -> int:
    tally = desk.Tally()
    try:
        await desk.purge(dead_callbacks(config), wanted, tally, save)
    except desk.SaveError as error:
        fail(str(error), EXIT_FAILED)
    finally:
        report("removed", tally)
    return missing_of(tally)
