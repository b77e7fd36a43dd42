"""The command `scraperd`, and `python -m scraperd`: what must be right before all else is imported.

May touch: the standard streams, the signal of Ctrl-C, the exit code, the cli.
Must never: be imported by another module, or import what takes long before Ctrl-C is quiet.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

EXIT_INTERRUPTED = 130


def _end(*_: Any) -> None:
    """End the process on Ctrl-C at once. Commands that have something to say of it replace this."""
    os._exit(EXIT_INTERRUPTED)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the parent ignores it
    signal.signal(signal.SIGINT, _end)


def main() -> None:
    """Run a command. A machine that lacks something, such as memory, ends it with 71 in a line."""
    _occupy_standard_streams()
    try:
        from scraperd.cli.main import main as command  # noqa: PLC0415 - it can fail
    except Exception as error:
        from scraperd.cli.shared.lacks import EXIT_LACK, lack  # noqa: PLC0415 - it can fail too

        if (words := lack(error)) is None:
            raise
        os.write(2, f"scraperd: {words}\n".encode(errors="replace"))
        sys.exit(EXIT_LACK)
    try:
        command()
    finally:  # the exit code is decided; the interpreter's end takes some milliseconds
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _occupy_standard_streams() -> None:
    """Open the numbers 0 to 2 where they are closed, or a socket would get one of them.

    What a library writes to standard output would then go to the broker or to a site. As in
    gnulib's stdopen, a closed standard output is opened for reading: to print fails in words.
    """
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest number that is free, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115 - to the end
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8")  # noqa: SIM115 - to the end


if __name__ == "__main__":
    main()
