"""`scraperd callbacks replay`: dead callbacks are sent again.

May touch: the queue of dead callbacks, the terminal, the exit code.
Must never: remove a callback whose message is not safe, or send a forged one that nobody chose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from scraperd.cli.callbacks.selection import (
    chosen_of,
    dead_callbacks,
    everything,
    missing_of,
    report,
    with_filters,
    would,
)
from scraperd.cli.console import epilog
from scraperd.cli.dead.filters import dry_run_flag
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import Number, config_of, with_config
from scraperd.deadletters import desk
from scraperd.deadletters.callback import believed

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config


@click.command(
    "replay",
    epilog=epilog(
        "scraperd callbacks replay --reason exhausted --dry-run",
        "scraperd callbacks replay --host billing.example --rate 5",
    ),
)
@with_config
@everything
@with_filters
@click.option("--rate", type=Number(min=0, min_open=True), help="At most so many a second.")
@dry_run_flag
def command(path: Path | None, *, rate: float | None, dry_run: bool, **given: Any) -> None:
    """Send dead callbacks again, from their first attempt; each is removed when it is queued.

    Forged callbacks are left, unless they are chosen by --reason forged. Stopped at any point it
    can be run again: at worst a callback is sent twice, with the same webhook-id.
    """
    config = config_of(path)
    wanted = chosen_of(config, given)
    wanted = replace(wanted, filters=believed(wanted.filters))
    if dry_run:
        run_client(would(config, wanted, "replay"))
    run_client(_replay(config, wanted, rate))


async def _replay(config: Config, wanted: desk.Wanted, rate: float | None) -> int:
    tally = desk.Tally()
    try:
        await desk.requeue(dead_callbacks(config), wanted, tally, rate)
    finally:
        report("replayed", tally)
    return missing_of(tally)
