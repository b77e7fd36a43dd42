"""`scraperd dead list`: dead letters as a table or as JSON lines, or their counts.

May touch: the dead queue, to read; the terminal; the exit code.
Must never: remove a letter, or print an untrusted text as it came.
"""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from scraperd.base.jsonline import dumps
from scraperd.cli.console import epilog, say
from scraperd.cli.console import show as show_json
from scraperd.cli.dead.filters import UNITS, wanted_of, with_filters
from scraperd.cli.dead.queue import dead_queue
from scraperd.cli.dead.telling import counted, missing_of, tell_readers, unseen
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.deadletters import desk

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config
    from scraperd.deadletters.desk import Opening
    from scraperd.deadletters.letter import Readable

TOP: Final = 20  # rows of a summary
_ROW: Final = "{age:>4}  {reason:<14}  {kind:<18}  {host:<30}  {attempt:>7}  {id:<36}  {message}"
_SUM: Final = "{count:>8}  {reason:<14}  {kind:<18}  {host}"


@click.command(
    "list",
    epilog=epilog(
        "scraperd dead list --summary",
        "scraperd dead list --host '*.example.com' --newer-than 1d",
        "scraperd dead list --reason invalid --table > letters.txt",
    ),
)
@with_config
@with_filters
@click.option("--summary", is_flag=True, help="Only counts by reason, kind and host: the top 20.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, also on a terminal.")
@click.option("--table", is_flag=True, help="A table, also in a pipe; no line of it is cut.")
def command(path: Path | None, *, summary: bool, as_json: bool, table: bool, **given: Any) -> None:
    """List dead letters: a table on a terminal, else JSON lines. Removes nothing."""
    if as_json and table:
        raise click.UsageError("--json and --table exclude each other")
    config, wanted = config_of(path), wanted_of(given)
    rows = as_json or not (table or sys.stdout.isatty())
    run_client(_summary(config, wanted, rows) if summary else _list(config, wanted, rows))


async def _list(config: Config, wanted: desk.Wanted, as_json: bool) -> int:  # noqa: FBT001 - a flag
    tally = await listed(dead_queue(config), wanted, "" if as_json else _ROW, _NAMES)
    say(f"{tally.matched} of {counted(tally)}{unseen(tally)}", err=True)
    tell_readers(tally)
    return missing_of(tally)


async def listed(
    dead: Opening, wanted: desk.Wanted, form: str, names: tuple[str, ...]
) -> desk.Tally:
    """Print what is wanted: in rows of this form, with a head of `names`; without one as JSON."""
    now = datetime.now(UTC)
    if form:
        say(form.format(**{name: name.upper() for name in names}))

    def show(letter: Readable) -> None:
        line = letter.line(now)
        if form:
            say(_row(form, names, line))
        else:
            show_json(dumps(line))

    return await desk.look(dead, wanted, show)


_NAMES: Final = ("age", "reason", "kind", "host", "attempt", "id", "message")


def _row(form: str, names: tuple[str, ...], line: dict[str, Any]) -> str:
    """One line of a table; what is not known is a dash."""
    shown = {name: "-" if line[name] is None else line[name] for name in names}
    return form.format(**shown | {"age": age_of(line["age"])}).rstrip()


def age_of(seconds: int | None) -> str:
    """Return an age in its largest unit; a dash if it is not known."""
    if seconds is None:
        return "-"
    for unit, size in reversed(UNITS.items()):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return "0s"


async def _summary(config: Config, wanted: desk.Wanted, as_json: bool) -> int:  # noqa: FBT001
    counts: Counter[tuple[str, str | None, str | None]] = Counter()
    tally = await desk.look(dead_queue(config), wanted, lambda one: counts.update([_sort(one)]))
    if not as_json:
        say(_SUM.format(count="COUNT", reason="REASON", kind="KIND", host="HOST"))
    for (reason, kind, host), count in counts.most_common(TOP):
        line = {"count": count, "reason": reason, "kind": kind, "host": host}
        shown = {name: "-" if value is None else value for name, value in line.items()}
        if as_json:
            show_json(dumps(line))
        else:
            say(_SUM.format(**shown))
    say(
        f"{tally.matched} of {counted(tally)} in {len(counts)} groups{unseen(tally)}",
        err=True,
    )
    tell_readers(tally)
    return missing_of(tally)


def _sort(letter: Readable) -> tuple[str, str | None, str | None]:
    return letter.reason, letter.kind, letter.host
