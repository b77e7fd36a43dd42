"""`scraperd run`: the daemon.

May touch: the daemon, its log, systemd's variables, the exit code.
Must never: hold logic of its own.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from scraperd import daemon
from scraperd.cli.console import EXIT_CONFIG, epilog, fail
from scraperd.cli.shared.lacks import (
    EXIT_LACK,
    MIN_MEMORY_BYTES,
    memory_is_left,
    too_little_memory,
)
from scraperd.cli.shared.options import Number, config_of, with_config
from scraperd.cli.shared.service import begin, die
from scraperd.config.load import ConfigError, load, notify_socket
from scraperd.ending import Until
from scraperd.ops.systemd import Notifier

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "run",
    epilog=epilog(
        "scraperd run",
        "SCRAPERD_CONCURRENCY=500 SCRAPERD_LOG__LEVEL=debug scraperd run",
        "scraperd run --until-idle 2 --max-jobs 1000",
    ),
)
@with_config
@click.option(
    "--until-idle",
    type=Number(min=0.1, max=86_400),
    metavar="SECONDS",
    help="End with 0 once no job is here and none was ready for so long.",
)
@click.option(
    "--max-jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Begin so many jobs, finish them, and end with 0.",
)
def command(path: Path | None, *, until_idle: float | None, max_jobs: int | None) -> None:
    """Run the daemon until SIGTERM or SIGINT; a second signal ends it at once."""
    begin()
    config = config_of(path)
    if not memory_is_left(MIN_MEMORY_BYTES):
        fail(too_little_memory(), EXIT_LACK)
    try:
        notifier, until = Notifier(*notify_socket()), Until(until_idle, max_jobs)
        sys.exit(daemon.run(config, notifier, partial(load, path), until))
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    except daemon.Lacking as error:
        fail(str(error), EXIT_LACK)
    except Exception as error:  # noqa: BLE001 - its traceback is in the log
        die(error, config)
