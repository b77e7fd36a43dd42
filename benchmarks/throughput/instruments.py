"""What is known of a worker and its children: processor time, memory; and who looks at it.

May touch: /proc, to read; the port of a worker's metrics; a gateway, for its dashboard.
Must never: count a process twice, or lose one that has ended.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.request import urlopen

from benchmarks.kernel import memory, times
from tests.server.running import Gateway, following

if TYPE_CHECKING:
    from collections.abc import Iterator

_KIB: Final = 1024
_EACH: Final = 1.0  # seconds between two readings of the metrics
_PATIENCE: Final = 10.0  # seconds for an answer


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
        it.
        """
        found = [times(pid) for pid in self._all()]  # one that has ended counts in its parent
        user = sum(one.user + one.children_user for one in found)
        return Cpu(user, sum(one.system + one.children_system for one in found))

    def look(self) -> None:
        """Remember how much memory all of them have now, if it is more than before."""
        self._peak = max(self._peak, sum(map(_proportional, self._all())))

    def peak(self) -> float:
        """Return the peak of memory in MiB.

        Of one process, the kernel's own figure (VmHWM). Of several, the largest sum that `look`
        has met, in which a page that they share counts once (Pss).
        """
        pids = self._all()
        largest = max((memory(pid, "VmHWM:") for pid in pids), default=0.0)
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
        return memory(pid, "VmRSS:")
    except OSError:
        pass
    return 0.0


@contextmanager
def scraped(port: int) -> Iterator[list[OSError]]:
    """Read the metrics of a worker each second meanwhile; yield the list of what went wrong."""
    ended, faults = threading.Event(), list[OSError]()

    def read() -> None:
        while not ended.wait(_EACH):
            try:
                with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_PATIENCE) as answer:
                    answer.read()
            except OSError as fault:
                faults.append(fault)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield faults
    finally:
        ended.set()
        reader.join()


@contextmanager
def viewed(broker_url: str, prefix: str) -> Iterator[list[int]]:
    """Have a dashboard open meanwhile; yield the list of how many processes each look has seen."""
    seen = list[int]()
    with Gateway(broker_url, prefix) as gateway, following(gateway.listening(), "") as events:

        def read() -> None:
            with suppress(AssertionError):  # the gateway has ended
                while True:
                    seen.append((events.next()["fleet"] or {"answer": 0})["answer"])

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield seen
        finally:
            gateway.drain()
            reader.join()
