"""What a daemon holds (descriptors, tasks, memory), and what it tells systemd.

May touch: /proc, to read; a datagram socket in the abstract namespace.
Must never: disturb the process it looks at.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.launcher import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Told:
    """One datagram of sd_notify(3), and when it came by the monotonic clock."""

    at: float
    fields: dict[str, str]

    @property
    def status(self) -> str:
        return self.fields.get("STATUS", "")


@dataclass(frozen=True, slots=True)
class Probe:
    """What a process holds. Memory in MB; connections to the site are not counted."""

    fds: int
    tasks: int
    channels: int
    memory: int


class Ear:
    """Systemd's end of NOTIFY_SOCKET: hears one daemon until it is closed."""

    def __init__(self) -> None:
        name = f"scraperd-fault-{secrets.token_hex(8)}"
        self.address = f"@{name}"
        self.told: list[Told] = []
        self._news = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}")
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while datagram := self._socket.recv(65536):
            lines = (line.partition("=") for line in datagram.decode().splitlines())
            told = Told(time.monotonic(), {name: value for name, _, value in lines})
            with self._news:
                self.told.append(told)
                self._news.notify_all()

    def wait(
        self, wanted: Callable[[Told], bool], timeout: float, *, start: int = 0
    ) -> Told | None:
        """The first datagram from number `start` on that satisfies `wanted`; None if none came."""
        with self._news:
            found = lambda: next(filter(wanted, self.told[start:]), None)  # noqa: E731
            return self._news.wait_for(found, timeout)

    def close(self) -> None:
        """Stop listening; an empty datagram says so to the thread."""
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to,
        ):
            to.sendto(b"", "\0" + self.address[1:])
        self._thread.join(5)
        self._socket.close()


def probe(pid: int, told: Told, site_port: int, channels: int) -> Probe:
    """What the process holds now, with the tasks it told of, and channels as its broker counts."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed while we looked
            links.append(str(link.readlink()))
    idle = _sockets_to(pid, site_port)
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    memory = int(match[1]) // 1024 if match else 0
    fds = sum(link not in idle for link in links)
    return Probe(fds, int(told.fields[TASKS]), channels, memory)


def _sockets_to(pid: int, port: int) -> set[str]:
    """The names in /proc of TCP sockets connected to a port: kept for the next page (proc(5))."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{port:04X}")}
