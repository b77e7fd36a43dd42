"""`scraperd callbacks list`: dead callbacks as a table or as JSON lines.

May touch: the queue of dead callbacks, to read; the terminal; the exit code.
Must never: remove a callback, or print an untrusted text as it came.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from scraperd.base.jsonline import dumps
from scraperd.cli.callbacks.selection import (
    counted,
    dead_callbacks,
    missing_of,
    wanted_of,
    with_filters,
)
from scraperd.cli.console import epilog, say
from scraperd.cli.console import show as show_json
from scraperd.cli.dead.list import age_of
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.deadletters import desk

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config
    from scraperd.deadletters.letter import Readable

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
    now = datetime.now(UTC)
    if not as_json:
        say(_ROW.format(**{name: name.upper() for name in _NAMES}))

    def show(letter: Readable) -> None:
        line = letter.line(now)
        if as_json:
            show_json(dumps(line))
            return
        shown = {name: "-" if line[name] is None else line[name] for name in _NAMES}
        say(_ROW.format(**shown | {"age": age_of(line["age"])}).rstrip())

    tally = await desk.look(dead_callbacks(config), wanted, show)
    say(f"{tally.matched} of {counted(tally)}", err=True)
    return missing_of(tally)
