"""What `scraperd top` draws, and what its keys change.

May touch: values.
Must never: ask, or draw more lines than the terminal has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from scraperd.cli.fleet import words

if TYPE_CHECKING:
    from scraperd.ops.fleet.answer import Status
    from scraperd.ops.fleet.asked import Fleet

SORTS: Final = ("pages/s", "in flight", "failed/s", "p99", "name")
MAX_FILTER: Final = 60  # characters
MAX_REMARKS: Final = 3
_END: Final = {"\r", "\n"}
_ESCAPE: Final = "\x1b"
_RUBOUT: Final = {"\x7f", "\b"}
_QUIT: Final = {"q", "Q", "\x03", "\x04"}


@dataclass(slots=True)
class View:
    """What the keys have chosen. `typing` while a filter is typed."""

    sort: int = 0
    filter: str = ""
    paused: bool = False
    typing: bool = False
    over: bool = False

    def press(self, key: str) -> None:
        """Take a key."""
        if self.typing and key not in {"\x03", "\x04"}:
            self._type(key)
        elif key in _QUIT:
            self.over = True
        elif key == "s":
            self.sort = (self.sort + 1) % len(SORTS)
        elif key == "p":
            self.paused = not self.paused
        elif key == "/":
            self.typing, self.filter = True, ""
        elif key == _ESCAPE:
            self.filter = ""

    def _type(self, key: str) -> None:
        if key in _END:
            self.typing = False
        elif key == _ESCAPE:
            self.typing, self.filter = False, ""
        elif key in _RUBOUT:
            self.filter = self.filter[:-1]
        elif key.isprintable() and len(self.filter) < MAX_FILTER:
            self.filter += key

    def lines(self, fleet: Fleet | None, fault: str, height: int) -> list[str]:
        """What is drawn of a fleet, in `height` lines at most."""
        head = [self._keys()]
        if fault:
            head.append(fault)
        if fleet is None:
            return [*head, "" if fault else "asking ..."]
        statuses = self._chosen(fleet.statuses)
        rate = sum(it.rates.get("done", 0.0) for it in fleet.statuses)
        head.append(
            f"{len(fleet.statuses)} processes answer, {fleet.silent} silent; {rate:.1f} pages/s; "
            f"failures: {words.kinds(statuses)}"
        )
        head.append(_queues(fleet))
        head += list(words.remarks(fleet))[:MAX_REMARKS]
        hosts = [line for line in words.hosts(statuses, height) if self._fits(line)]
        room = height - len(head) - 2
        rows = words.processes(statuses) if statuses else []
        most = max(room // 2, room - len(hosts) - 1)
        shown = [*head, "", *rows[: max(2, most)]]
        return [*shown, "", *hosts][:height] if hosts else shown[:height]

    def _keys(self) -> str:
        if self.typing:
            return f"filter: {self.filter}_   (Enter keeps it, Esc ends it)"
        state = "PAUSED  " if self.paused else ""
        chosen = f"  filter: {self.filter}" if self.filter else ""
        return f"scraperd top  {state}s sort: {SORTS[self.sort]}  / filter  p pause  q quit{chosen}"

    def _fits(self, line: str) -> bool:
        return line.startswith("HOST ") or self.filter.lower() in line.lower()

    def _chosen(self, statuses: list[Status]) -> list[Status]:
        """The processes that the filter leaves, in order. It looks at names and waiting hosts."""
        text = self.filter.lower()
        found = [
            it
            for it in statuses
            if text in f"{it.name} {it.state}".lower() or any(text in h.host for h in it.hosts)
        ]
        return sorted(found, key=self._order)

    def _order(self, it: Status) -> tuple[float, str]:
        job = it.latency.get("job")
        by = {
            "pages/s": it.rates.get("done", 0.0),
            "in flight": float(it.in_flight),
            "failed/s": it.rates.get("failed", 0.0),
            "p99": (job.p99 or 0.0) if job else 0.0,
            "name": 0.0,
        }
        return -by[SORTS[self.sort]], it.name


def _queues(fleet: Fleet) -> str:
    """The queues in one line; those that are empty or missing are left out, but jobs."""
    said = [
        f"{name} {count[0]}"
        for name, count in fleet.queues.items()
        if count is not None and (count[0] or name == "jobs")
    ]
    unacked = sum(it.unacked for it in fleet.statuses)
    return f"ready: {', '.join(sorted(said)) or 'no queues'}; unacked {unacked}"
