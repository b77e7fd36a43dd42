"""The options that say which dead letters are meant, and what they mean together.

May touch: the options that were given.
Must never: mean everything unless it was asked for by name.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from scraperd.base.hosts import HostSet, host_pattern
from scraperd.deadletters import desk
from scraperd.deadletters.letter import KINDS, REASONS, Filters

if TYPE_CHECKING:
    from collections.abc import Callable

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def ago(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """Return the time that `30s`, `5m`, `2h` or `7d` ago was."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no age; write 30s, 5m, 2h or 7d")
    try:
        return datetime.now(UTC) - timedelta(seconds=int(match[1]) * UNITS[match[2]])
    except OverflowError:
        raise click.BadParameter(f"{value!r} ago there was no calendar") from None


def hosts(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Return hosts and patterns of hosts as HostSet takes them."""
    found = []
    for text in value:
        try:
            found.append(host_pattern(text))
        except ValueError:
            raise click.BadParameter(
                f"{text!r} is not a host; write www.example.com or *.example.com, without a "
                "scheme, port or path"
            ) from None
    return tuple(found)


def filters(
    reasons: tuple[str, ...], host: str, ident: str, *more: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what gives a command the options that say which dead messages are meant.

    `host` and `ident` are the help of these options; `more` are options behind the first.
    """
    options = (
        click.option("--reason", multiple=True, type=click.Choice(reasons), help="Why it is dead."),
        *more,
        click.option("--host", multiple=True, metavar="HOST", callback=hosts, help=host),
        click.option("--id", "idents", multiple=True, metavar="ID", help=ident),
        click.option(
            "--older-than",
            "before",
            metavar="AGE",
            callback=ago,
            help="Dead for longer: 30s, 5m, 2h, 7d.",
        ),
        click.option(
            "--newer-than", "after", metavar="AGE", callback=ago, help="Dead for less than that."
        ),
        click.option(
            "--limit", type=click.IntRange(min=1), help="At most so many, whichever come first."
        ),
    )

    def give(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return give


with_filters = filters(
    REASONS,
    "Exact, or *.domain; no scheme, no port.",
    "The job's id.",
    click.option(
        "--kind",
        multiple=True,
        type=click.Choice(sorted(KINDS)),
        help="Kind of failure. What RabbitMQ put there has none; see --reason.",
    ),
)
everything = click.option(
    "--all", "everything", is_flag=True, help="Every letter; excludes filters."
)
ids = click.argument("ids", nargs=-1, metavar="[ID]...")
dry_run_flag = click.option("--dry-run", is_flag=True, help="Only say how many it would be.")


def wanted_of(given: dict[str, Any]) -> desk.Wanted:
    """The filters as they were given; an option given twice means either."""
    meant = Filters(
        reasons=frozenset(given["reason"]),
        kinds=frozenset(given["kind"]),
        hosts=HostSet(given["host"]),
        idents=frozenset((*given["idents"], *given.get("ids", ()))),
        before=given["before"],
        after=given["after"],
    )
    return desk.Wanted(meant, given["limit"])


def chosen_of(given: dict[str, Any]) -> desk.Wanted:
    """As `wanted_of`, but everything must be asked for by name."""
    return named(wanted_of(given), given, "letters: by an ID, a filter, or --all")


def named(wanted: desk.Wanted, given: dict[str, Any], how: str) -> desk.Wanted:
    """Return what is wanted, if everything was asked for by name; `how` says the other ways."""
    if bool(wanted.filters) == given["everything"]:
        raise click.UsageError(
            "--all and filters exclude each other" if given["everything"] else f"say which {how}"
        )
    return wanted
