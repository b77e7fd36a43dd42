"""`scraperd callbacks list`: dead callbacks as a table or as JSON lines.

May touch: the queue of dead callbacks, to read; the terminal; the exit code.
Must never: remove a callback, or print an untrusted text as it came.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from scraperd.cli.callbacks.selection import (
    counted,
    dead_callbacks,
    missing_of,
    wanted_of,
    with_filters,
)
from scraperd.cli.console import epilog, say
from scraperd.cli.dead.list import listed
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config
    from scraperd.deadletters import desk

_NAMES: Final = ("age", "reason", "host", "attempt", "id", "message")
_ROW: Final = "{age:>4}  {reason:<9}  {host:<30}  {attempt:>7}  {id:<36}  {message}"


@click.command(
    "list",
    epilog=epilog(
        "scraperd callbacks list --host billing.example",
        "scraperd callbacks list --reason exhausted --newer-than 1d --json",
    ),
)
@with_config
@with_filters
@click.option("--json", "as_json", is_flag=True, help="JSON lines, also on a terminal.")
@click.option("--table", is_flag=True, help="A table, also in a pipe.")
def command(path: Path | None, *, as_json: bool, table: bool, **given: Any) -> None:
    """List dead callbacks: a table on a terminal, else JSON lines. Removes nothing."""
    if as_json and table:
        raise click.UsageError("--json and --table exclude each other")
    config = config_of(path)
    rows = as_json or not (table or sys.stdout.isatty())
    run_client(_list(config, wanted_of(config, given), as_json=rows))


async def _list(config: Config, wanted: desk.Wanted, *, as_json: bool) -> int:
    tally = await listed(dead_callbacks(config), wanted, "" if as_json else _ROW, _NAMES)
    say(f"{tally.matched} of {counted(tally)}", err=True)
    return missing_of(tally)
