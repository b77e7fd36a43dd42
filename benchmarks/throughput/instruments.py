"""What the kernel knows of a worker and all its children: processor time and memory.

May touch: /proc, to read.
Must never: count a process twice, or lose one that has ended.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processor time in seconds, of a worker and of all that it has started."""

    user: float
    system: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user - other.user, self.system - other.system)

    @property
    def total(self) -> float:
        """Both, in seconds."""
        return self.user + self.system


class Workers:
    """Processes with their children, by the ids of those that were started."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._peak = 0.0  # MiB

    def cpu(self) -> Cpu:
        """Return the processor time so far.

        The kernel adds that of a child that has ended to its parent when the parent waits for
        it: proc(5), fields 14 to 17 of stat.
        """
        user = system = 0
        for pid in self._all():
            with suppress(OSError):  # it has ended meanwhile, and counts in its parent
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                user += int(fields[11]) + int(fields[13])
                system += int(fields[12]) + int(fields[14])
        return Cpu(user / _TICKS, system / _TICKS)

    def look(self) -> None:
        """Remember how much memory all of them have now, if it is more than before."""
        self._peak = max(self._peak, sum(map(_proportional, self._all())))

    def peak(self) -> float:
        """Return the peak of memory in MiB.

        Of one process, the kernel's own figure (VmHWM). Of several, the largest sum that `look`
        has met, in which a page that they share counts once (Pss).
        """
        pids = self._all()
        largest = max((_status(pid, "VmHWM:") for pid in pids), default=0.0)
        return largest if len(pids) == 1 else max(self._peak, largest)

    def _all(self) -> list[int]:
        """Every process that is alive, parents first."""
        found = list(self._pids)
        for pid in found:  # grows meanwhile
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    with suppress(OSError):
                        found += map(int, (task / "children").read_text().split())
        return found


def _proportional(pid: int) -> float:
    """Memory of a process in MiB; a page that others map as well counts in part."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / _KIB
    except PermissionError:  # not ours to look into, unless we are root
        return _status(pid, "VmRSS:")
    except OSError:
        pass
    return 0.0


def _status(pid: int, field: str) -> float:
    """A figure of /proc/PID/status in MiB; 0 if the process has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / _KIB
    return 0.0
