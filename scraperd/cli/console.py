"""What all commands share: the configuration's option, what is printed, how an error ends.

May touch: the configuration, the event loop, the terminal, the exit code.
Must never: know a command, show a traceback for what a user can cause, or print a text as it came.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
import uvloop

from scraperd.base.jsonline import foreign, line
from scraperd.base.text import printable
from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.config.load import ConfigError, load
from scraperd.daemon import EXIT_CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from scraperd.config.settings import Config

EXIT_FAILED: Final = 1  # it ran, and the answer is no: a failed page, an unreachable broker
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143

EPILOG: Final = """Exit codes: 0 done; 1 it ran and the answer is no (failed page, no broker);
2 wrong usage or input; 70 internal error; 78 wrong configuration; 128+N ended by signal N."""

_WIDEST: Final = 2_000  # characters of a line of text

_NO_OUTPUT: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # no socket says these


def say(text: str, *, err: bool = False) -> None:
    """Print one line of text for a person. What could steer the terminal is replaced."""
    shown = printable(text, _WIDEST)
    out = sys.stderr if err else sys.stdout
    click.echo(shown.encode(out.encoding, "backslashreplace").decode(out.encoding), err=err)


def show(text: str) -> None:
    """Print JSON that `jsonline` made: what could steer the terminal is escaped in it."""
    click.echo(text.encode())


def show_message(raw: bytes, source: str) -> None:
    """Print a message of a queue as one line of JSON, also if it is not JSON."""
    text = line(raw)
    if text is None:
        say(f"scraperd: a message in {source} is not JSON; it is printed as `body`", err=True)
    show(foreign(raw) if text is None else text)


def fail(message: str, code: int) -> NoReturn:
    """End with one clear line on standard error for each fault."""
    for fault in message.split("\n"):
        say(f"scraperd: {fault}", err=True)
    sys.exit(code)


def config_of(path: Path | None) -> Config:
    """The configuration, or the end with each of its faults."""
    try:
        return load(path)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)


def complete(main: Coroutine[Any, Any, int]) -> int:
    """Run a client command and return its exit code; an expected failure ends it in one line.

    SIGTERM and Ctrl-C cancel it, so that it can say how far it got.
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_terminable(main))
    except (Lost, TopologyError) as error:
        _end_if_full(error.__cause__)  # printed while connected, and taken for the broker's
        fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        _mute()
        return EXIT_FAILED
    except OSError as error:
        _end_if_full(error)
        raise


async def _terminable(main: Coroutine[Any, Any, int]) -> int:
    task, told = asyncio.current_task(), False

    def terminate() -> None:
        nonlocal told
        told = True
        if task is not None:
            task.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await main
    except asyncio.CancelledError:
        if told:
            return EXIT_TERMINATED
        raise
    finally:  # a closed loop would swallow the signal, say while a question is asked
        loop.remove_signal_handler(signal.SIGTERM)


def _end_if_full(error: BaseException | None) -> None:
    """End the process if `error` says that standard output can't be written."""
    if isinstance(error, OSError) and error.filename is None and error.errno in _NO_OUTPUT:
        _mute()
        fail(f"standard output can't be written: {error.strerror}", EXIT_FAILED)


def _mute() -> None:
    """See to it that the interpreter's last flush does not meet a faulty output again."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - to the end


class Commands(click.Group):
    """The command that holds all others: what `complete` sees to, for all that is printed."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments as click does."""
        with _printable_faults():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command as click does."""
        with _printable_faults():
            return super().invoke(ctx)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as click does, but end in one line if standard output can't be written."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            _end_if_full(error)
            raise


@contextmanager
def _printable_faults() -> Iterator[None]:
    """What click says of an argument quotes it."""
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message, _WIDEST)  # type: ignore[misc]
        raise


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
