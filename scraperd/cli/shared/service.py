"""What the commands that run until a signal share: how they begin, and how they die.

May touch: signals, standard error, the log, the exit code.
Must never: know what is run.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from scraperd.cli.console import EXIT_INTERNAL, fail
from scraperd.cli.shared.ending import in_words
from scraperd.cli.shared.lacks import EXIT_LACK, lack
from scraperd.ops.log import configure
from scraperd.ops.outlets import unwaited
from scraperd.ops.stopping import IGNORED
from scraperd.ops.telemetry import Observer

if TYPE_CHECKING:
    from scraperd.config.settings import Config


def begin() -> None:
    """Ignore signals that would end the process, and let nothing wait for standard error."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    if sys.stderr is not None:  # Python's word for one that was closed before the start
        sys.stderr = unwaited(sys.stderr)  # libraries write to it on the event loop


def die(error: Exception, config: Config) -> NoReturn:
    """End over an error that was not expected: nobody can run it again to see the traceback."""
    if (words := lack(error)) is not None:
        fail(words, EXIT_LACK)
    configure(config.log)  # the error may have come before the service did
    Observer().trouble("died", error)
    fail(f"internal error: {in_words(error)}; its traceback is in the log", EXIT_INTERNAL)
