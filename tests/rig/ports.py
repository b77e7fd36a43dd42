"""Free TCP ports on loopback for the rig's servers.

May touch: sockets on 127.0.0.1, bound for an instant; names in the abstract namespace.
Must never: hand out a port that an outgoing connection could be given by the kernel.
"""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"

# Below the kernel's ephemeral range (32768 and up): while a killed broker is down, no client
# that retries can be given the broker's own port as its source port and connect to itself.
_FIRST, _LAST = 20_000, 32_000
_given: list[int] = []  # descriptors, held as long as this process lives: each stands for a port


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port nobody listens on, and which no other test process was given either."""
    chooser = random.SystemRandom()
    for _ in range(1000):
        port = chooser.randint(_FIRST, _LAST)
        if is_free(port) and _claim(port):
            return port
    raise RuntimeError(f"no free port between {_FIRST} and {_LAST} on {HOST}")


def _claim(port: int) -> bool:
    """Whether it is ours: whoever binds the name first has the port."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0scraperd-port-{port}")
    except OSError:
        claim.close()
        return False
    _given.append(claim.detach())
    return True


def answers(port: int) -> bool:
    """Whether somebody accepts connections on this port now."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
