"""How a command ends that can't go on: standard output is full, an argument is wrong.

May touch: the terminal, the exit code.
Must never: show a traceback for what a user can cause.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Final

import click

from scraperd.base.text import printable
from scraperd.cli.console import EXIT_FAILED, WIDEST, fail

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_OUTPUT: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # no socket says these


def end_if_full(error: BaseException | None) -> None:
    """End the process if `error` says that standard output can't be written."""
    if isinstance(error, OSError) and error.filename is None and error.errno in _NO_OUTPUT:
        mute()
        fail(f"standard output can't be written: {error.strerror}", EXIT_FAILED)


def mute() -> None:
    """See to it that the interpreter's last flush does not meet a faulty output again."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - to the end


@contextlib.contextmanager
def printable_faults() -> Iterator[None]:
    """Make fit for a terminal what click says of an argument: it quotes the argument."""
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message, WIDEST)  # type: ignore[misc]
        raise
