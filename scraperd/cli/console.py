"""What all commands share: the exit codes, what is printed, how an expected error ends.

May touch: the terminal, the exit code.
Must never: know a command, print a text as it came, or import what takes long.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final, NoReturn

import click

from scraperd.base.text import printable

EXIT_FAILED: Final = 1  # it ran, and the answer is no: a failed page, an unreachable broker
EXIT_USAGE: Final = 2
EXIT_INTERNAL: Final = os.EX_SOFTWARE  # 70, of sysexits.h
EXIT_CONFIG: Final = os.EX_CONFIG  # 78, of sysexits.h: systemd must not restart us into it
EXIT_INTERRUPTED: Final = 130

_EXIT_CODES: Final = """Exit codes: 0 done; 1 it ran and the answer is no (failed page, no broker);
2 wrong usage or input; 70 internal error; 71 no memory, file descriptor or process left;
78 wrong configuration; 128+N ended by signal N."""

WIDEST: Final = 2_000  # characters of a line of text


_prints = 0


def epilog(*examples: str) -> str:
    """Return what stands below a command's options: examples to type, and the exit codes.

    A test runs each example as it stands.
    """
    lines = "\n".join(f"  {example}" for example in examples)
    return f"\b\nExamples:\n{lines}\n\n{_EXIT_CODES}"


def prints() -> int:
    """Return twice the number of lines printed so far, plus one while a line is being printed."""
    return _prints


def _echo(text: str | bytes, *, err: bool = False) -> None:
    global _prints  # noqa: PLW0603 - a signal's handler looks at it
    _prints += 1
    try:
        click.echo(text, err=err)
    finally:
        _prints += 1


def say(text: str, *, err: bool = False) -> None:
    """Print one line of text for a person. What could steer the terminal is replaced."""
    out = sys.stderr if err else sys.stdout
    if out is None:  # it was closed before the start
        return
    shown = printable(text, WIDEST)
    _echo(shown.encode(out.encoding, "backslashreplace").decode(out.encoding), err=err)


def show(text: str) -> None:
    """Print JSON that `jsonline` made: what could steer the terminal is escaped in it."""
    _echo(text.encode())


def fail(message: str, code: int) -> NoReturn:
    """End with one clear line on standard error for each fault."""
    with contextlib.suppress(OSError):  # a full disk behind it must not change the exit code
        for fault in message.split("\n"):
            say(f"scraperd: {fault}", err=True)
    if code == os.EX_OSERR:  # out of memory, even the way to the end can fail, with a traceback
        end_at_once(code)
    sys.exit(code)


def end_at_once(code: int) -> NoReturn:
    """End without a further step of the interpreter; what was printed is written out."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
