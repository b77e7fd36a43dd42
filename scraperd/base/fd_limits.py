"""File descriptors: how to tell that none is left, and the wait for one.

May touch: this process's own limit of them, a socket to try with, the loop to wait on.
Must never: blame a site for what this machine lacks.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TypeVar

from scraperd.base.backoff import backoff, within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")
PATIENCE: Final = 3.0  # seconds that a fetch or a page waits here until one is free
PAUSE: Final = (0.05, 0.5)  # seconds between two trials: the first, doubling, and the longest
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class OutOfDescriptors(Exception):  # noqa: N818 - a state of this machine, and aiohttp would wrap OSError
    """No descriptor, or no memory for a socket, was left for PATIENCE seconds. str() says so."""

    def __init__(self) -> None:
        super().__init__("out of file descriptors (raise LimitNOFILE) or of memory for sockets")


def is_short(error: Exception) -> bool:
    """Whether `error` came of our own lack, by its errno or, as many hide it, by trying.

    OpenSSL does not find its authorities' files then, c-ares "reaches no nameserver", and a
    proxy's library just fails. See socket(2), accept(2).
    """
    if isinstance(error, OutOfDescriptors) or getattr(error, "errno", None) in _SHORT:
        return True
    return none_left()


def none_left() -> bool:
    """Whether not even one more socket can be made."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno in _SHORT
    return False


def are_left(count: int) -> bool:
    """Whether so many sockets can be made, at the same time."""
    with ExitStack() as stack:
        try:
            for _ in range(count):
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        except OSError:
            return False
    return True


def pauses(patience: float = PATIENCE) -> Iterator[float]:
    """Yield the pauses between trials to get a descriptor, until `patience` seconds are waited."""
    return within(patience, backoff(*PAUSE))


async def with_descriptor(
    attempt: Callable[[], Awaitable[T]],
    patience: float = PATIENCE,
    *,
    lacks: Callable[[Exception], bool] = is_short,
    make_room: Callable[[], None] = lambda: None,
) -> T:
    """Return what `attempt()` returns; try again while it fails as `lacks` says.

    Between two trials `make_room` is called, and there is a pause. Once `patience` seconds are
    waited it raises OutOfDescriptors, caused by the last error; any other error as it comes.
    """
    waits = pauses(patience)
    while True:
        try:
            return await attempt()
        except Exception as error:
            if not lacks(error):
                raise
            if (pause := next(waits, None)) is None:
                raise OutOfDescriptors from error
        make_room()
        await asyncio.sleep(pause)


def raise_limit() -> int:
    """Raise the soft limit to the hard one, and return it.

    systemd leaves the soft one at 1024 for the sake of select(2) (systemd.exec(5), "Process
    Properties"), which nothing here uses.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
