"""`scraperd callbacks purge`: dead callbacks removed for good.

May touch: the queue of dead callbacks, the file of --save, the terminal, the exit code.
Must never: remove a callback that nobody agreed to remove.
"""

from __future__ import annotations

import sys
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
from scraperd.cli.console import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, epilog, fail
from scraperd.cli.dead.filters import dry_run_flag
from scraperd.cli.shared.client import complete_client, run_client
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
    """How many callbacks someone agreed to remove; ends the process if nobody did."""
    if sys.stdin is None or not sys.stdin.isatty():
        fail("nobody can be asked here: give --yes to remove dead callbacks", EXIT_USAGE)
    found: list[desk.Tally] = []

    async def count() -> int:
        found.append(await desk.look(dead_callbacks(config), wanted, lambda _: None))
        return 0

    if code := complete_client(count()):
        sys.exit(code)
    [tally] = found
    if not tally.matched:
        fail(f"no dead callback matches ({counted(tally)})", EXIT_FAILED)
    try:
        agreed = click.confirm(f"Remove {tally.matched} of {counted(tally)} for good?")
    except click.Abort:
        sys.exit(EXIT_INTERRUPTED)
    if not agreed:
        fail("nothing was removed", EXIT_FAILED)
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
