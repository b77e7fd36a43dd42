"""`scraperd serve`: the gateway, which takes jobs over HTTP.

May touch: the gateway, its log, systemd's variables, the exit code.
Must never: hold logic of its own.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from scraperd import serve
from scraperd.cli.console import EXIT_CONFIG, epilog, fail
from scraperd.cli.shared.options import config_of, with_config
from scraperd.cli.shared.service import begin, die
from scraperd.config.load import ConfigError, load, notify_socket
from scraperd.ops.systemd import Notifier

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "serve",
    epilog=epilog("scraperd serve", "SCRAPERD_LOG__LEVEL=debug scraperd serve"),
)
@with_config
def command(path: Path | None) -> None:
    """Take jobs over HTTP and publish them, until SIGTERM or SIGINT (docs/http.md)."""
    begin()
    config = config_of(path)
    try:
        sys.exit(serve.run(config, Notifier(*notify_socket()), partial(load, path)))
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    except Exception as error:  # noqa: BLE001 - its traceback is in the log
        die(error, config)
