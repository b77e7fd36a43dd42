"""The last failures of each host. Pure.

May touch: the results of jobs; the clock that it is handed.
Must never: keep a URL, or a query string; grow without bound.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import UNSET

from scraperd.base.text import printable, text_without_queries
from scraperd.ops.fleet.answer import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.contract import Result

MAX_HOSTS: Final = 1000  # of which failures are kept; the one that failed longest ago goes
MAX_FAULTS: Final = 5  # of one host
MAX_WORDS: Final = 160  # characters of what was said
# A page, a rule or a job of a publisher can stand in the words of these: only the kind is told.
_QUOTING: Final = frozenset({"invalid_job", "extract", "decode", "internal"})


class _Kept(NamedTuple):
    at: float
    kind: str
    message: str
    status: int | None


class Faults:
    """Keeps failures by host. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hosts: OrderedDict[str, deque[_Kept]] = OrderedDict()

    def add(self, host: str, result: Result) -> None:
        """Note a result that has an error."""
        if result.error is UNSET:
            return
        kept = self._hosts.get(host)
        if kept is None:
            if len(self._hosts) >= MAX_HOSTS:
                self._hosts.popitem(last=False)
            kept = self._hosts[host] = deque(maxlen=MAX_FAULTS)
        self._hosts.move_to_end(host)
        status = None if result.http_status is UNSET else result.http_status
        kept.append(_Kept(self._clock(), result.error.kind, result.error.message[:2000], status))

    def of(self, host: str) -> list[Fault]:
        """Return what is kept of a host, the latest first."""
        now = self._clock()
        return [
            Fault(round(now - one.at, 1), one.kind, _words(one), one.status)
            for one in reversed(self._hosts.get(host, ()))
        ]


def _words(one: _Kept) -> str:
    """What was said, without paths, queries and userinfo of URLs."""
    if one.kind in _QUOTING:
        return ""
    return printable(text_without_queries(one.message, only_hosts=True), MAX_WORDS)
