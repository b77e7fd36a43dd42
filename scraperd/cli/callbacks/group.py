"""The command `scraperd callbacks`: which commands it has. Each one's file is imported when called.

May touch: the kinds of commands.
Must never: import a command, or what takes long.
"""

from __future__ import annotations

import click

from scraperd.cli.console import epilog
from scraperd.cli.shared.commands import Lazy


@click.group(
    "callbacks",
    epilog=epilog(
        "scraperd callbacks list", "scraperd callbacks replay --reason exhausted --dry-run"
    ),
)
def command() -> None:
    """Look at callbacks that no receiver took, send them again, remove them.

    A filter given more than once means any of its values; different filters must all fit.
    """


for _name, _line in {
    "list": "List dead callbacks. Removes nothing.",
    "replay": "Send dead callbacks again, from the first attempt.",
    "purge": "Remove dead callbacks for good.",
}.items():
    command.add_command(Lazy(_name, f"scraperd.cli.callbacks.{_name}", _line))
