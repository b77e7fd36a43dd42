"""How a command ends that can't go on: standard output is full, or an error that nobody expected.

May touch: the terminal, the exit code.
Must never: show a traceback unasked, or a password.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from scraperd.base.text import printable, text_without_credentials
from scraperd.cli.console import EXIT_FAILED, EXIT_INTERNAL, WIDEST, fail, say
from scraperd.cli.shared.lacks import EXIT_LACK, lack

if TYPE_CHECKING:
    from collections.abc import Iterator

# No socket says these. EBADF: it was closed before the start (`scraperd.__main__`).
_NO_OUTPUT: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
_ROOT: Final = Path(__file__).parents[3]  # the folder that scraperd is installed in
_PACKAGE: Final = str(_ROOT / "scraperd") + os.sep
_SHARED: Final = str(Path(__file__).parent) + os.sep  # every command's errors pass through here


def end_if_full(error: BaseException | None) -> None:
    """End the process if `error` says that standard output can't be written."""
    if isinstance(error, OSError) and error.filename is None and error.errno in _NO_OUTPUT:
        mute()
        fail(f"standard output can't be written: {error.strerror}", EXIT_FAILED)


def mute() -> None:
    """See to it that the interpreter's last flush does not meet a faulty output again."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - to the end


def end_unexpected(error: BaseException) -> NoReturn:
    """End the process with exit code 70 and a line that says what happened and where.

    With 71 if the machine lacks something, such as memory. Python's development mode
    (PYTHONDEVMODE=1) shows the traceback as well.
    """
    if (words := lack(error)) is not None and not sys.flags.dev_mode:
        fail(words, EXIT_LACK)
    with contextlib.suppress(Exception):  # standard error can be full or closed too
        if sys.flags.dev_mode:
            for line in "".join(traceback.format_exception(error)).splitlines():
                say(text_without_credentials(line), err=True)
        say(f"scraperd: internal error: {in_words(error)}", err=True)
        if not sys.flags.dev_mode:
            say("scraperd: PYTHONDEVMODE=1 shows the traceback; please report it", err=True)
    sys.exit(EXIT_INTERNAL)


def in_words(error: BaseException) -> str:
    """What an unexpected error is, what it says, and at which line of ours it was raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    said = text_without_credentials(str(error))
    ours = [
        f" ({Path(frame.filename).relative_to(_ROOT)}:{frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(_PACKAGE) and not frame.filename.startswith(_SHARED)
    ]
    return type(error).__name__ + (said and f": {said}") + (ours[-1] if ours else "")


@contextlib.contextmanager
def printable_faults() -> Iterator[None]:
    """Make fit for a terminal what click says of an argument: it quotes the argument."""
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message, WIDEST)  # type: ignore[misc]
        raise
