"""The command `scraperd dead`: which commands it has. Each one's file is imported when called.

May touch: the kinds of commands.
Must never: import a command, or what takes long.
"""

from __future__ import annotations

import click

from scraperd.cli.console import epilog
from scraperd.cli.shared.commands import Lazy


@click.group(
    "dead",
    epilog=epilog("scraperd dead list --summary", "scraperd dead requeue --kind dns --dry-run"),
)
def command() -> None:
    """Look at dead letters, requeue them, remove them.

    A filter given more than once means any of its values; different filters must all fit. Letters
    come in the order in which they died, until someone has read a part of them: then what was read
    comes behind other letters that were read before. Choose by ID, filter or age, not by --limit,
    where it matters which.
    """


for _name, _line in {
    "list": "List dead letters. Removes nothing.",
    "show": "Print dead letters whole, as JSON. Removes nothing.",
    "requeue": "Publish the jobs of dead letters again.",
    "purge": "Remove dead letters for good.",
}.items():
    command.add_command(Lazy(_name, f"scraperd.cli.dead.{_name}", _line))
