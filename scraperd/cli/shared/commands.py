"""The kinds of commands: the one that holds all others, and one whose file is imported when called.

May touch: click, the exit code.
Must never: import a command before it is called.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from scraperd.cli.console import EXIT_INTERRUPTED
from scraperd.cli.shared.ending import end_if_full, end_unexpected, printable_faults


class Commands(click.Group):
    """The command that holds all others: it ends each of them as README promises."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments as click does."""
        with printable_faults():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command as click does, but for two endings that click calls `Aborted!`."""
        with printable_faults():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                sys.exit(EXIT_INTERRUPTED)
            except EOFError as error:
                end_unexpected(error)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as click does. What nobody expected ends the process in words and with 70."""
        try:
            return super().main(*args, **kwargs)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - a CancelledError of a library is no Exception
            end_if_full(error)
            end_unexpected(error)


class Lazy(click.Command):
    """A command as its group lists it: a name and a line. The rest is imported when it is called.

    `module` holds the command itself, as `command`.
    """

    def __init__(self, name: str, module: str, line: str) -> None:
        super().__init__(name, short_help=line)
        self.module = module

    def loaded(self) -> click.Command:
        """The command itself; its file is imported here."""
        command: click.Command = importlib.import_module(self.module).command
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments as the command itself does; it is what the context then runs."""
        return self.loaded().make_context(*args, **kwargs)
