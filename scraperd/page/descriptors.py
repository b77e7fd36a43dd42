"""File descriptors: how many a configuration needs, and what it is to have none left.

May touch: this process's own limit of them, a socket to try with.
Must never: blame a site for what this machine lacks.
"""

from __future__ import annotations

import errno
import resource
import socket
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

if TYPE_CHECKING:
    from scraperd.config import Config

OTHERS: Final = 64  # the broker's two, the loop's, c-ares's, standard streams, files being read
HELPER: Final = 4  # a helper process has two pipes, of which both ends are here while it starts
PATIENCE: Final = 3.0  # seconds that a fetch or a page waits here until one is free
PAUSE: Final = (0.05, 0.5)  # seconds between two trials: the first, doubling, and the longest
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Exhausted(Exception):  # noqa: N818 - a state of this machine, and aiohttp would wrap OSError
    """No descriptor, or no memory for a socket, was left for PATIENCE seconds. str() says so."""

    def __init__(self) -> None:
        super().__init__("out of file descriptors (raise LimitNOFILE) or of memory for sockets")


def is_short(error: Exception) -> bool:
    """Whether `error` came of our own lack, by its errno or, as many hide it, by trying.

    OpenSSL does not find its authorities' files then, c-ares "reaches no nameserver", and a
    proxy's library just fails. See socket(2), accept(2).
    """
    if isinstance(error, Exhausted) or getattr(error, "errno", None) in _SHORT:
        return True
    return none_left()


def none_left() -> bool:
    """Whether not even one more socket can be made."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno in _SHORT
    return False


def needed(config: Config) -> int:
    """How many descriptors `config` takes at most, but for sites with dozens of dead addresses.

    A fetch that dials a site of both families has two for a while (RFC 8305).
    """
    return _connections(config) + config.concurrency + _rest(config)


def fit(config: Config, limit: int) -> Config:
    """`config` with `max_connections`, then `concurrency` lowered until `limit` suffices."""
    if needed(config) <= limit:
        return config
    room = max(2, limit - _rest(config))
    concurrency = min(config.concurrency, room // 2)
    return replace(config, concurrency=concurrency, max_connections=room - concurrency)


def raise_limit() -> int:
    """Raise the soft limit to the hard one, and return it.

    systemd leaves the soft one at 1024 for the sake of select(2) (systemd.exec(5), "Process
    Properties"), which nothing here uses.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _connections(config: Config) -> int:
    """What is in use is never closed for the sake of `max_connections`."""
    return max(config.max_connections or 2 * config.concurrency, config.concurrency)


def _rest(config: Config) -> int:
    return OTHERS + HELPER * config.extract_processes
