"""`scraperd dead purge`: dead letters removed for good.

May touch: the dead queue, the file of --save, the terminal, the exit code.
Must never: remove a letter without a yes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scraperd.cli.console import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    epilog,
    fail,
    say,
)
from scraperd.cli.dead.filters import chosen_of, dry_run_flag, everything, ids, with_filters
from scraperd.cli.dead.queue import dead_queue, remove_undeliverable_letters
from scraperd.cli.dead.telling import counted, missing_of, report, tell_readers, would
from scraperd.cli.shared.client import complete_client, run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.deadletters import desk

if TYPE_CHECKING:
    from scraperd.config.settings import Config
    from scraperd.deadletters.desk import Opening


@click.command(
    "purge",
    epilog=epilog(
        "scraperd dead purge --older-than 30d --dry-run",
        "scraperd dead purge --reason invalid --save invalid.jsonl --yes",
    ),
)
@with_config
@ids
@everything
@with_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="Append each to FILE before it is removed."
)
@click.option(
    "--undeliverable",
    is_flag=True,
    help="Only letters that RabbitMQ cannot deliver, unread; excludes filters.",
)
@dry_run_flag
def command(
    path: Path | None,
    *,
    yes: bool,
    save: Path | None,
    undeliverable: bool,
    dry_run: bool,
    **given: Any,
) -> None:
    """Remove dead letters for good. Asks first, and says how many.

    Exits 1 if there is no letter of an ID.
    """
    if undeliverable:
        if any(given.values()) or save is not None or yes == dry_run:
            raise click.UsageError("--undeliverable goes with --yes or --dry-run, and no others")
        run_client(_undeliverable(config_of(path), dry_run=dry_run))
    config, wanted = config_of(path), chosen_of(given)
    if dry_run:
        run_client(would(config, wanted, "remove"))
    missing: set[str] = set()
    if not yes:
        agreed = _agreed(config, wanted)
        wanted, missing = desk.Wanted(wanted.filters, agreed.matched), agreed.missing
    run_client(_purge(config, wanted, save, missing))


async def _undeliverable(config: Config, *, dry_run: bool) -> int:
    """Remove what RabbitMQ cannot deliver, and say how much that was; the exit code."""
    found, broker = await remove_undeliverable_letters(config, dry_run=dry_run)
    if not found:
        say(f"no letter is undeliverable at {broker}")
    elif dry_run:
        say(f"would remove one letter or more at {broker}, unread")
    else:
        say(f"removed {found} dead letters at {broker}, unread")
    return 0


def _agreed(config: Config, wanted: desk.Wanted) -> desk.Tally:
    """Count the letters, and ask whether to remove them; ends the process if the answer is no."""
    tally = count(dead_queue(config), wanted, "letters")
    tell_readers(tally)
    if not tally.matched:
        say(f"no dead letter matches ({counted(tally)})")
        sys.exit(missing_of(tally))
    confirm(f"Remove {tally.matched} of {counted(tally)} for good?")
    return tally


def count(dead: Opening, wanted: desk.Wanted, what: str) -> desk.Tally:
    """Count what is to be removed, where a person can be asked about it; else end the process."""
    if sys.stdin is None or not sys.stdin.isatty():
        fail(f"nobody can be asked here: give --yes to remove dead {what}", EXIT_USAGE)
    found: list[desk.Tally] = []

    async def look() -> int:
        found.append(await desk.look(dead, wanted, lambda _: None))
        return 0

    if code := complete_client(look()):
        sys.exit(code)
    return found[0]


def confirm(question: str) -> None:
    """Ask; end the process without a yes."""
    try:
        agreed = click.confirm(question)
    except click.Abort:
        sys.exit(EXIT_INTERRUPTED)
    if not agreed:
        fail("nothing was removed", EXIT_FAILED)


async def _purge(config: Config, wanted: desk.Wanted, save: Path | None, missing: set[str]) -> int:
    """`missing` are ids that were found to have no letter before."""
    tally = desk.Tally()
    try:
        await desk.purge(dead_queue(config), wanted, tally, save)
    except desk.SaveError as error:
        fail(str(error), EXIT_FAILED)
    finally:
        report("removed", tally)
    tally.missing |= missing
    return missing_of(tally)
