"""What the lives of the daemon and of the gateway share: the signal that stops one, its exit code.

May touch: signals of the running loop; the process's exit code, as a value.
Must never: know what is run, or hold logic that a job or a request passes through.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from scraperd.ops.stopping import IGNORED, STOPPING, Stop

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from scraperd.ops.telemetry import Observer

EXIT_OK: Final = 0
EXIT_INTERNAL: Final = 70  # sysexits.h EX_SOFTWARE
EXIT_CONFIG: Final = 78  # sysexits.h EX_CONFIG: systemd must not restart us into it


async def exit_code_of(
    life: Coroutine[Any, Any, None], observer: Observer, *refused: type[Exception]
) -> int:
    """Live, and turn what ended it into an exit code.

    A group of `refused` alone means that the configuration is wrong; its first error is logged.
    """
    try:
        await life
    except BaseExceptionGroup as group:
        wrong, others = group.split(refused)
        if wrong is None or others is not None:
            observer.trouble("died", group)  # say so, exit, let systemd restart us
            return EXIT_INTERNAL
        observer.event("config", error=_first(wrong))
        return EXIT_CONFIG
    return EXIT_OK


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    """The first leaf of an exception group, in its own words."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


def ignore_signals() -> None:
    """Let no signal change how a process ends that has stopped already."""
    loop, numbers = asyncio.get_running_loop(), {*STOPPING, *IGNORED}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    for number in numbers:
        loop.remove_signal_handler(number)  # which leaves the default
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def first_stop(observer: Observer) -> asyncio.Future[str]:
    """Return a future for the name of the first SIGTERM or SIGINT.

    The second one ends the process where it stands. Nothing is lost by that: what is not acked,
    the broker delivers again.
    """
    loop = asyncio.get_running_loop()
    first: asyncio.Future[str] = loop.create_future()
    stop = Stop()

    def on_signal(number: signal.Signals) -> None:
        match stop.take(number, loop.time()):
            case "first" if not first.done():
                first.set_result(number.name)
            case "second":
                observer.event("second_signal", signal=number.name)
                os._exit(128 + number)

    for number in STOPPING:
        loop.add_signal_handler(number, on_signal, number)
    return first
