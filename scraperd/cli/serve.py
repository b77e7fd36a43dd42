"""`scraperd serve`: the gateway, which takes jobs over HTTP.

May touch: the gateway, its log, systemd's variables, the exit code.
Must never: hold logic of its own.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import click

from scraperd import serve
from scraperd.cli.console import EXIT_CONFIG, EXIT_INTERNAL, epilog, fail
from scraperd.cli.shared.ending import in_words
from scraperd.cli.shared.lacks import EXIT_LACK, lack
from scraperd.cli.shared.options import config_of, with_config
from scraperd.config.load import ConfigError, notify_socket
from scraperd.ops.log import configure
from scraperd.ops.outlets import unwaited
from scraperd.ops.stopping import IGNORED
from scraperd.ops.systemd import Notifier
from scraperd.ops.telemetry import Observer

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "serve",
    epilog=epilog("scraperd serve", "SCRAPERD_LOG__LEVEL=debug scraperd serve"),
)
@with_config
def command(path: Path | None) -> None:
    """Take jobs over HTTP and publish them, until SIGTERM or SIGINT (docs/http.md)."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    if sys.stderr is not None:  # Python's word for one that was closed before the start
        sys.stderr = unwaited(sys.stderr)  # libraries write to it on the event loop
    config = config_of(path)
    try:
        sys.exit(serve.run(config, Notifier(*notify_socket())))
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    except Exception as error:  # noqa: BLE001 - nobody can run it again to see the traceback
        if (words := lack(error)) is not None:
            fail(words, EXIT_LACK)
        configure(config.log)  # the error may have come before the gateway did
        Observer().trouble("died", error)
        fail(f"internal error: {in_words(error)}; its traceback is in the log", EXIT_INTERNAL)
