"""sd_notify and the watchdog interval: what systemd is told.

May touch: the datagram socket it is given.
Must never: fail the process because the socket has no reader.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notifier:
    """Speaks the sd_notify(3) protocol; silent where there is no socket to speak to."""

    address: str = ""
    watchdog_usec: int = 0

    def send(self, **state: str | int) -> None:
        """Send READY=1, STATUS=..., WATCHDOG=1 and the like in one datagram."""
        if not self.address:
            return
        text = "\n".join(f"{name}={_line(value)}" for name, value in state.items())
        # "@" stands for the abstract namespace's leading NUL (sd_notify(3)).
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to,
        ):
            to.setblocking(False)
            to.sendto(text.encode(errors="replace"), address)

    def reloading(self) -> None:
        """Say that a reload begins; READY=1 ends it."""
        self.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between two keep-alives: half of what systemd allows, as its manual advises."""
        return self.watchdog_usec / 2_000_000 if self.watchdog_usec > 0 else None


def _line(value: str | int) -> str:
    return str(value).replace("\n", " ")
