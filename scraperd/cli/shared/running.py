"""Runs a command's coroutine to its end, and turns how it ended into an exit code.

May touch: the event loop, the signals, the exit code.
Must never: know a command, or a broker.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import uvloop

from scraperd.base.fd_limits import are_left
from scraperd.cli.console import EXIT_CONFIG, EXIT_FAILED, EXIT_INTERRUPTED, fail, prints
from scraperd.cli.shared.ending import end_if_full, mute
from scraperd.cli.shared.lacks import EXIT_LACK, too_few_files
from scraperd.ops.stopping import STOPPING, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType

MIN_DESCRIPTORS: Final = 16  # for an event loop, a connection, names, and a helper process
MAX_PRINT: Final = 1.0  # seconds that a line may wait for its reader once a signal has come


def complete(
    main: Coroutine[Any, Any, int],
    *expected: type[Exception],
    configured: tuple[type[Exception], ...] = (),
) -> int:
    """Run a command and return its exit code; an expected failure ends it in one line.

    Failures that the configuration causes are `configured`.
    SIGTERM and Ctrl-C cancel it, so that it can say how far it got; a second one ends it at once.
    """
    if not are_left(MIN_DESCRIPTORS):
        main.close()
        fail(too_few_files(), EXIT_LACK)
    try:
        # Closed, so that it does not complain of not being awaited if there can be no event loop.
        with closing(main), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_endable(main))
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


async def _endable(main: Coroutine[Any, Any, int]) -> int:
    task = asyncio.current_task()
    assert task is not None
    with stopped_by(lambda _: task.cancel()) as stop:
        try:
            return await main
        except asyncio.CancelledError:
            if stop.first is not None:
                return 128 + stop.first
            raise


@contextmanager
def stopped_by(on_first: Callable[[signal.Signals], object]) -> Iterator[Stop]:
    """Within, the first SIGINT or SIGTERM calls `on_first` on the loop; a second ends the process.

    So does the first after MAX_PRINT if the process waits for a reader of its output all that
    time: no task can end then.
    """
    loop, stop, seen = asyncio.get_running_loop(), Stop(), [0]

    def on_signal(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number)
        match stop.take(name, time.monotonic()):
            case "first":
                seen[0] = prints()
                signal.setitimer(signal.ITIMER_REAL, MAX_PRINT, MAX_PRINT)
                loop.call_soon_threadsafe(on_first, name)
            case "second":
                os._exit(128 + number)

    def on_alarm(_number: int, _frame: FrameType | None) -> None:
        before, seen[0] = seen[0], prints()
        if seen[0] % 2 and seen[0] == before and stop.first is not None:
            os._exit(128 + stop.first)

    handlers = dict.fromkeys(STOPPING, on_signal) | {signal.SIGALRM: on_alarm}
    # Not the loop's handlers: those wait until a line is printed.
    were = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, was in were.items():
            signal.signal(number, was)
