"""What all commands share: the configuration's option, the exit codes, how an error ends.

May touch: the configuration, the event loop, the terminal, the exit code.
Must never: know a command, or show a traceback for what a user can cause.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
import uvloop

from scraperd.broker.generation import BrokerLost
from scraperd.broker.topology import TopologyError
from scraperd.config import Config, ConfigError, load
from scraperd.daemon import EXIT_CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

EXIT_FAILED: Final = 1  # it ran, and the answer is no: a failed page, an unreachable broker
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

EPILOG: Final = """Exit codes: 0 done; 1 it ran and the answer is no (failed page, no broker);
2 wrong usage or input; 70 internal error; 78 wrong configuration; 128+N ended by signal N."""


def fail(message: str, code: int) -> NoReturn:
    """End with one clear line on standard error for each fault."""
    for line in message.splitlines():
        click.echo(f"scraperd: {line}", err=True)
    sys.exit(code)


def config_of(path: Path | None) -> Config:
    """The configuration, or the end with each of its faults."""
    try:
        return load(path)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)


def complete(main: Coroutine[Any, Any, int]) -> int:
    """Run a client command and return its exit code; an expected failure ends it in one line."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    except (BrokerLost, TopologyError) as error:
        fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter's last flush must not meet that again.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - to the end
        return EXIT_FAILED


def run_client(main: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a client command as all there is to do."""
    sys.exit(complete(main))


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option that names its configuration file."""
    return click.option(
        "--config",
        "-c",
        "path",
        type=click.Path(path_type=Path, readable=False),  # `load` says what is wrong, with 78
        envvar="SCRAPERD_CONFIG",
        help="TOML file; without one, the defaults and SCRAPERD_... variables.",
    )(command)
