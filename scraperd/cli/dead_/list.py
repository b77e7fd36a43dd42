"""The commands `scraperd dead ...`: their options, and what they print.

May touch: the terminal, the exit code, `dead`.
Must never: print a stranger's text as it came, or remove anything that nobody agreed to.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scraperd.base.hosts import HostSet
from scraperd.base.jsonline import dumps
from scraperd.cli.console import (
    EPILOG,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    complete,
    config_of,
    fail,
    run_client,
    say,
    with_config,
)
from scraperd.cli.console import show as show_json
from scraperd.deadletters import desk
from scraperd.deadletters.letter import KINDS, REASONS, Filters, Letter, host_pattern

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.config.settings import Config

TOP: Final = 20  # rows of a summary
_ROW: Final = "{age:>4}  {reason:<14}  {kind:<18}  {host:<30}  {attempts:>3}  {id:<36}  {message}"
_SUM: Final = "{count:>8}  {reason:<14}  {kind:<18}  {host}"
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _ago(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """The time that `30s`, `5m`, `2h` or `7d` ago was."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no age; write 30s, 5m, 2h or 7d")
    try:
        return datetime.now(UTC) - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    except OverflowError:
        raise click.BadParameter(f"{value!r} ago there was no calendar") from None


def _hosts(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for text in value:
        try:
            found.append(host_pattern(text))
        except ValueError:
            raise click.BadParameter(
                f"{text!r} is no host; write www.example.com or *.example.com, without a scheme, "
                "port or path"
            ) from None
    return tuple(found)


def _with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which letters are meant."""
    options = (
        click.option("--reason", multiple=True, type=click.Choice(REASONS), help="Why it is dead."),
        click.option(
            "--kind",
            multiple=True,
            type=click.Choice(sorted(KINDS)),
            help="Kind of failure. What RabbitMQ put there has none; see --reason.",
        ),
        click.option(
            "--host",
            multiple=True,
            metavar="HOST",
            callback=_hosts,
            help="Exact, or *.domain; no scheme, no port.",
        ),
        click.option("--id", "idents", multiple=True, metavar="ID", help="The job's id."),
        click.option(
            "--older-than",
            "before",
            metavar="AGE",
            callback=_ago,
            help="Dead for longer: 30s, 5m, 2h, 7d.",
        ),
        click.option(
            "--newer-than", "after", metavar="AGE", callback=_ago, help="Dead for less than that."
        ),
        click.option(
            "--limit", type=click.IntRange(min=1), help="At most so many, whichever come first."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


_all = click.option("--all", "everything", is_flag=True, help="Every letter; excludes filters.")
_ids = click.argument("ids", nargs=-1, metavar="[ID]...")
_dry_run = click.option("--dry-run", is_flag=True, help="Only say how many it would be.")


def _wanted(given: dict[str, Any]) -> desk.Wanted:
    """The filters as they were given; an option given twice means either."""
    filters = Filters(
        reasons=frozenset(given["reason"]),
        kinds=frozenset(given["kind"]),
        hosts=HostSet(given["host"]),
        idents=frozenset((*given["idents"], *given.get("ids", ()))),
        before=given["before"],
        after=given["after"],
    )
    return desk.Wanted(filters, given["limit"])


def _chosen(given: dict[str, Any]) -> desk.Wanted:
    """As `_wanted`, but everything must be asked for by name."""
    wanted = _wanted(given)
    if bool(wanted.filters) == given["everything"]:
        raise click.UsageError(
            "--all and filters exclude each other"
            if given["everything"]
            else "say which letters: by an ID, a filter, or --all"
        )
    return wanted


@click.group("dead", epilog=EPILOG)
def group() -> None:
    """Look at dead letters, requeue them, remove them.

    A filter given more than once means any of its values; different filters must all fit. Letters
    come in the order in which they died, until someone has read a part of them: then what was read
    comes behind other letters that were read before. Choose by ID, filter or age, not by --limit,
    where it matters which.
    """


@group.command("list", epilog=EPILOG)
@with_config
@_with_filters
@click.option("--summary", is_flag=True, help="Only counts by reason, kind and host: the top 20.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, also on a terminal.")
def list_(path: Path | None, *, summary: bool, as_json: bool, **given: Any) -> None:
    """List dead letters: a table on a terminal, else JSON lines. Removes nothing."""
    config, wanted = config_of(path), _wanted(given)
    rows = as_json or not sys.stdout.isatty()
    run_client(_summary(config, wanted, rows) if summary else _list(config, wanted, rows))


async def _list(config: Config, wanted: desk.Wanted, as_json: bool) -> int:  # noqa: FBT001 - a flag
    now = datetime.now(UTC)
    if not as_json:
        say(_ROW.format(**{name: name.upper() for name in _NAMES} | {"attempts": "ATT"}))

    def show(letter: Letter) -> None:
        line = letter.line(now)
        if as_json:
            show_json(dumps(line))
        else:
            say(_row(line))

    tally = await desk.look(config, wanted, show)
    say(f"{tally.matched} of {tally.total} dead letters{_unseen(tally)}", err=True)
    _tell_readers(tally)
    return _missing(tally)


_NAMES: Final = ("age", "reason", "kind", "host", "attempts", "id", "message")


def _row(line: dict[str, Any]) -> str:
    """One line of the table; what is not known is a dash."""
    shown = {name: "-" if line[name] is None else line[name] for name in _NAMES}
    return _ROW.format(**shown | {"age": _age(line["age"])}).rstrip()


def _age(seconds: int | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in reversed(_UNITS.items()):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return "0s"


def _unseen(tally: desk.Tally) -> str:
    """What another reader has, or what lies beyond the limit."""
    return f"; {tally.unseen} {tally.rest}" if tally.unseen else ""


def _tell_readers(tally: desk.Tally) -> None:
    if tally.readers:
        say(
            f"scraperd: {tally.readers} more reading the dead queue; what they hold is not counted",
            err=True,
        )


def _missing(tally: desk.Tally) -> int:
    """Name the ids that no letter has; the exit code."""
    for ident in sorted(tally.missing):
        say(f"scraperd: no dead letter of a job with the id {ident!r}", err=True)
    return EXIT_FAILED if tally.missing else 0


async def _summary(config: Config, wanted: desk.Wanted, as_json: bool) -> int:  # noqa: FBT001
    counts: Counter[tuple[str, str | None, str | None]] = Counter()
    tally = await desk.look(config, wanted, lambda one: counts.update([_sort(one)]))
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
        f"{tally.matched} of {tally.total} dead letters in {len(counts)} groups{_unseen(tally)}",
        err=True,
    )
    _tell_readers(tally)
    return _missing(tally)


def _sort(letter: Letter) -> tuple[str, str | None, str | None]:
    return letter.reason, letter.kind, letter.host


@group.command(epilog=EPILOG)
@with_config
@_ids
@_all
@_with_filters
def show(path: Path | None, **given: Any) -> None:
    """Print dead letters whole, as JSON: body, properties and headers. Removes nothing.

    Exits 1 if there is no letter of an ID. Bodies and headers may hold credentials.
    """
    config = config_of(path)
    run_client(_show(config, _chosen(given)))


async def _show(config: Config, wanted: desk.Wanted) -> int:
    indent = 2 if sys.stdout.isatty() else None
    tally = await desk.look(
        config, wanted, lambda letter: show_json(desk.whole_json(letter, indent))
    )
    _tell_readers(tally)
    return _missing(tally)


@group.command(epilog=EPILOG)
@with_config
@_ids
@_all
@_with_filters
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many a second."
)
@_dry_run
def requeue(path: Path | None, *, rate: float | None, dry_run: bool, **given: Any) -> None:
    """Publish the jobs of dead letters again; each letter is removed when its job is safe.

    They begin at their first attempt. Stopped at any point it can be run again: at worst a job
    that was published is published twice. Exits 1 if there is no letter of an ID.
    """
    config, wanted = config_of(path), _chosen(given)
    if dry_run:
        run_client(_would(config, wanted, "requeue"))
    run_client(_requeue(config, wanted, rate))


async def _would(config: Config, wanted: desk.Wanted, what: str) -> int:
    tally = await desk.look(config, wanted, lambda _: None)
    say(f"would {what} {tally.matched} of {tally.total} dead letters{_unseen(tally)}")
    _tell_readers(tally)
    return _missing(tally)


async def _requeue(config: Config, wanted: desk.Wanted, rate: float | None) -> int:
    tally = desk.Tally()
    try:
        await desk.requeue(config, wanted, tally, rate)
    finally:
        _report("requeued", tally)
    return _missing(tally)


def _report(done: str, tally: desk.Tally) -> None:
    """How far it got; nothing if it did not come to count the letters."""
    if tally.total is not None:
        say(f"{done} {tally.done} of {tally.total} dead letters; {tally.left()}")
        _tell_readers(tally)


@group.command(epilog=EPILOG)
@with_config
@_ids
@_all
@_with_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="Append each to FILE before it is removed."
)
@_dry_run
def purge(path: Path | None, *, yes: bool, save: Path | None, dry_run: bool, **given: Any) -> None:
    """Remove dead letters for good. Asks first, and says how many.

    Exits 1 if there is no letter of an ID.
    """
    config, wanted = config_of(path), _chosen(given)
    if dry_run:
        run_client(_would(config, wanted, "remove"))
    missing: set[str] = set()
    if not yes:
        agreed = _agreed(config, wanted)
        wanted, missing = desk.Wanted(wanted.filters, agreed.matched), agreed.missing
    run_client(_purge(config, wanted, save, missing))


def _agreed(config: Config, wanted: desk.Wanted) -> desk.Tally:
    """The letters that someone agreed to remove, counted; ends the process if nobody did."""
    if not sys.stdin.isatty():
        fail("nobody can be asked here: give --yes to remove dead letters", EXIT_USAGE)
    found: list[desk.Tally] = []

    async def count() -> int:
        found.append(await desk.look(config, wanted, lambda _: None))
        return 0

    if code := complete(count()):
        sys.exit(code)
    tally = found[0]
    _tell_readers(tally)
    if not tally.matched:
        say(f"none of {tally.total} dead letters is meant")
        sys.exit(_missing(tally))
    try:
        agreed = click.confirm(f"Remove {tally.matched} of {tally.total} dead letters for good?")
    except click.Abort:
        sys.exit(EXIT_INTERRUPTED)
    if not agreed:
        fail("nothing was removed", EXIT_FAILED)
    return tally


async def _purge(config: Config, wanted: desk.Wanted, save: Path | None, missing: set[str]) -> int:
    """`missing` are ids that were found to have no letter before."""
    tally = desk.Tally()
    try:
        await desk.purge(config, wanted, tally, save)
    except desk.SaveError as error:
        fail(str(error), EXIT_FAILED)
    finally:
        _report("removed", tally)
    tally.missing |= missing
    return _missing(tally)
