"""Runs a command's coroutine to its end, and turns how it ended into an exit code.

May touch: the event loop, the signals, the exit code.
Must never: know a command, or a broker.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

import uvloop

from scraperd.cli.console import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    fail,
)
from scraperd.cli.shared.ending import end_if_full, mute

if TYPE_CHECKING:
    from collections.abc import Coroutine


def complete(
    main: Coroutine[Any, Any, int],
    *expected: type[Exception],
    configured: tuple[type[Exception], ...] = (),
) -> int:
    """Run a command and return its exit code; an expected failure ends it in one line.

    Failures that the configuration causes are `configured`.
    SIGTERM and Ctrl-C cancel it, so that it can say how far it got.
    """
    try:
        # Closed, so that it does not complain of not being awaited if there can be no event loop.
        with closing(main), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_terminable(main))
    except configured as error:
        fail(str(error), EXIT_CONFIG)
    except expected as error:
        end_if_full(error.__cause__)  # printed while connected, and taken for the broker's
        fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        mute()
        return EXIT_FAILED
    except OSError as error:
        end_if_full(error)
        raise


def run(main: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a command as all there is to do."""
    sys.exit(complete(main))


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
