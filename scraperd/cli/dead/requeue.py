"""`scraperd dead requeue`: the jobs of dead letters run again.

May touch: the dead queue, the terminal, the exit code.
Must never: remove a letter whose job is not safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scraperd.cli.console import epilog
from scraperd.cli.dead.filters import chosen_of, dry_run_flag, everything, ids, with_filters
from scraperd.cli.dead.queue import dead_queue
from scraperd.cli.dead.telling import missing_of, report, would
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import Number, config_of, with_config
from scraperd.deadletters import desk

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config


@click.command(
    "requeue",
    epilog=epilog(
        "scraperd dead requeue --kind dns --dry-run",
        "scraperd dead requeue --host '*.example.com' --rate 5",
    ),
)
@with_config
@ids
@everything
@with_filters
@click.option("--rate", type=Number(min=0, min_open=True), help="At most so many a second.")
@dry_run_flag
def command(path: Path | None, *, rate: float | None, dry_run: bool, **given: Any) -> None:
    """Publish the jobs of dead letters again; each letter is removed when its job is safe.

    They begin at their first attempt. Stopped at any point it can be run again: at worst a job
    that was published is published twice. Exits 1 if there is no letter of an ID.
    """
    config, wanted = config_of(path), chosen_of(given)
    if dry_run:
        run_client(would(config, wanted, "requeue"))
    run_client(_requeue(config, wanted, rate))


async def _requeue(config: Config, wanted: desk.Wanted, rate: float | None) -> int:
    tally = desk.Tally()
    try:
        await desk.requeue(dead_queue(config), wanted, tally, rate)
    finally:
        report("requeued", tally)
    return missing_of(tally)
