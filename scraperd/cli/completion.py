"""`scraperd completion`: prints what has a shell complete commands, options and choices.

May touch: click's own scripts, the terminal.
Must never: write a file.
"""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from scraperd.cli.console import EXIT_INTERNAL, epilog, fail, show

SHELLS: Final = ("bash", "zsh", "fish")


@click.command("completion", epilog=epilog("scraperd completion bash > completion.bash"))
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion of commands and options for a shell, to be read by that shell.

    For bash, for example: source <(scraperd completion bash)
    """
    from scraperd.cli.main import main  # noqa: PLC0415 - it imports this file

    found = get_completion_class(shell)
    if found is None:
        fail(f"click has no completion for {shell}", EXIT_INTERNAL)
    name = "_SCRAPERD_COMPLETE"  # what click looks at when `scraperd` begins
    script = found(main, {}, "scraperd", name).source_template % {
        "complete_func": "_scraperd_completion",
        "complete_var": name,
        "prog_name": "scraperd",
    }
    show(script.rstrip())
