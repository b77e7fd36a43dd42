"""What the kernel says of one process: processor time and memory; and how it sends by TCP.

May touch: /proc, to read.
Must never: raise for a process that has ended.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024


def congestion_control() -> str:
    """The algorithm of new TCP connections; `bbr` stops each for 200 ms, once in ten seconds."""
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


class Times(NamedTuple):
    """Processor time in seconds: a process's own, and of its children that it has waited for."""

    user: float = 0.0
    system: float = 0.0
    children_user: float = 0.0
    children_system: float = 0.0


def times(pid: int) -> Times:
    """Return the processor time so far: proc(5), fields 14 to 17 of stat."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return Times(*(int(field) / _TICKS for field in fields[11:15]))
    return Times()


def memory(pid: int, field: str) -> float:
    """Return a figure of /proc/PID/status, such as `VmHWM:`, in MiB; 0 if the process has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / _KIB
    return 0.0
