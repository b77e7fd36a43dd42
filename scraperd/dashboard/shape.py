"""What the page is told of a fleet and of a result, in bounds. Pure.

May touch: values.
Must never: tell a body, a header or a cookie, or let the fleet's size set that of an event.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from msgspec import Raw, Struct

from scraperd.base.text import printable
from scraperd.base.urls import without_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scraperd.batches.progress import Progress
    from scraperd.ops.fleet.answer import Latency, Status
    from scraperd.ops.fleet.asked import Fleet

MAX_PROCESSES: Final = 100  # rows; those with the most pages a second
MAX_HOSTS: Final = 30  # rows; those with the most jobs that wait
MAX_TEXT: Final = 500  # characters of a URL or a message
MAX_DATA: Final = 2000  # characters of a result's data
MAX_STEPS: Final = 20  # attempts or redirects of a job
MAX_RESULT_BYTES: Final = 1024 * 1024  # of a result that is looked into
MAX_BATCHES: Final = 20  # open ones, and as many that have ended
MAX_SETTINGS: Final = 1000  # rows

Key: TypeAlias = tuple[str, str, int]


def key_of(it: Status) -> Key:
    """Return what tells a process from all others."""
    return it.name, it.host, it.pid


class Rates:
    """Pages and failures a second, by what processes counted since the last look."""

    def __init__(self) -> None:
        self._at = 0.0
        self._totals: dict[Key, dict[str, int]] = {}
        self.of: dict[Key, tuple[float, float]] = {}

    def note(self, statuses: list[Status], now: float) -> None:
        """Take what was answered at `now`, a time in seconds.

        A process that is new here has the rates of its own last minute.
        """
        seconds = max(now - self._at, 1e-3)
        found = {}
        for it in statuses:
            before, totals = self._totals.get(key_of(it)), it.totals
            if before is None:
                pair = _both(it.rates)
            else:
                rose = {name: max(0, count - before.get(name, 0)) for name, count in totals.items()}
                pages, failed = _both(rose)
                pair = pages / seconds, failed / seconds
            found[key_of(it)] = (round(pair[0], 2), round(pair[1], 2))
        self.of = found
        self._totals = {key_of(it): it.totals for it in statuses}
        self._at = now


def _both(counts: Mapping[str, float]) -> tuple[float, float]:
    """Return pages, and jobs that failed: with a result, or also into the dead queue."""
    return counts.get("done", 0.0), counts.get("failed", 0.0) + counts.get("dead", 0.0)


def point(fleet: Fleet, rates: Rates, at: float) -> list[float | None]:
    """Return what the charts get of a look at `at`, in seconds since 1970.

    Time, pages/s, failed/s, jobs in flight, fetches, fetches allowed, and the latency of jobs at
    worst of all processes: half of them, and 99 of 100.
    """
    pages, failed = zip(*rates.of.values(), strict=True) if rates.of else ((), ())
    p50, p99 = _worst([it.latency.get("job") for it in fleet.statuses])
    return [
        round(at, 1),
        round(sum(pages), 2),
        round(sum(failed), 2),
        sum(it.in_flight for it in fleet.statuses),
        sum(it.fetches for it in fleet.statuses),
        sum(it.fetches_limit for it in fleet.statuses),
        p50,
        p99,
    ]


def _worst(found: list[Latency | None]) -> tuple[float | None, float | None]:
    """Return the highest p50 and p99."""
    p50 = [it.p50 for it in found if it is not None and it.p50 is not None]
    p99 = [it.p99 for it in found if it is not None and it.p99 is not None]
    return max(p50, default=None), max(p99, default=None)


def fleet_shown(fleet: Fleet, rates: Rates) -> dict[str, Any]:
    """Return what the page shows of a fleet."""
    statuses = sorted(fleet.statuses, key=lambda it: -rates.of.get(key_of(it), (0.0, 0.0))[0])
    steps = dict.fromkeys(name for it in statuses for name in it.latency)
    kinds = Counter[str]()
    for it in statuses:
        kinds.update(it.kinds)
    return {
        "broker": fleet.broker,
        "silent": fleet.silent,
        "answer": len(statuses),
        "unacked": sum(it.unacked for it in statuses),
        "queues": fleet.queues,
        "processes": [_process(it, rates) for it in statuses[:MAX_PROCESSES]],
        "kinds": dict(kinds.most_common()),
        "steps": {name: _worst([it.latency.get(name) for it in statuses]) for name in steps},
        "hosts": _hosts(statuses),
        "hosts_waiting": sum(it.hosts_waiting for it in statuses),
    }


def _process(it: Status, rates: Rates) -> dict[str, Any]:
    pages, failed = rates.of.get(key_of(it), (0.0, 0.0))
    p50, p99 = _worst([it.latency.get("job")])
    return {
        **{name: getattr(it, name) for name in _PLAIN},
        "limits": {name: share for name, share in it.limits.items() if name != "nothing"},
        "pages": pages,
        "failed": failed,
        "p50": p50,
        "p99": p99,
    }


_PLAIN: Final = (
    *("name", "version", "up", "state", "why", "reload", "reload_failed", "in_flight"),
    *("fetches", "fetches_limit", "memory", "memory_limit"),
)


def _hosts(statuses: list[Status]) -> list[dict[str, Any]]:
    found = [(it, host) for it in statuses for host in it.hosts]
    found.sort(key=lambda pair: (-pair[1].waiting, -pair[1].until))
    return [
        {
            "host": host.host,
            "waiting": host.waiting,
            "active": host.active,
            "permits": host.permits,
            "until": host.until,
            "penalty": host.penalty,
            "why": host.why,
            "process": it.name,
        }
        for it, host in found[:MAX_HOSTS]
    ]


def batches_shown(found: list[Progress], now: float) -> list[dict[str, Any]]:
    """Return what the page shows of batches: the newest open ones, then the newest ended ones.

    `now` is in seconds since 1970. `age` is how long a batch lasts or lasted, and `news` how long
    ago its last outcome or its end was, in seconds.
    """
    kept = [
        *[it for it in found if not it.ended_at][:MAX_BATCHES],
        *[it for it in found if it.ended_at][:MAX_BATCHES],
    ]
    return [
        {
            "id": _text(it.id),
            "state": it.state,
            "counted": it.counted,
            "size": it.size,
            "kinds": {_text(kind): count for kind, count in [*it.kinds.items()][:MAX_STEPS]},
            "age": max(0, round((it.ended_at or now) - it.started_at)),
            "news": max(0, round(now - (it.ended_at or it.last_at))),
            "reason": _text(it.reason),
        }
        for it in kept
    ]


def settings_shown(fleet: Fleet) -> dict[str, Any]:
    """Return which process has which value, of the settings that are not as by default.

    A row has the processes of one value; without `processes` all have it, and without `value` it
    is the default. `silent` ones did not answer: an earlier version does not.
    """
    told = [(_text(it.name), it.settings) for it in fleet.statuses if it.settings is not None]
    told = told[:MAX_PROCESSES]
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(name for _, settings in told for name in settings):
        by_value: dict[str | None, list[str]] = {}
        for process, settings in told:
            by_value.setdefault(settings.get(name), []).append(process)
        rows += [
            {
                "name": _text(name),
                "value": None if value is None else _text(value),
                "processes": [] if len(by_value) == 1 else processes,
            }
            for value, processes in by_value.items()
        ]
    return {
        "answer": [process for process, _ in told],
        "silent": fleet.silent,
        "settings": rows[:MAX_SETTINGS],
    }


class _Error(Struct):
    kind: str = ""
    message: str = ""


class _Attempt(Struct):
    kind: str = ""
    at: str = ""
    worker: str = ""


class _Hop(Struct):
    status: int = 0
    url: str = ""


class _Metadata(Struct):
    title: str | None = None


class _Seen(Struct):
    """Of a result what is shown. Whoever may publish results wrote it."""

    id: str
    status: str
    run: int = 1
    url: str = ""
    final_url: str = ""
    http_status: int | None = None
    content_type: str = ""
    size: int | None = None
    error: _Error = msgspec.field(default_factory=_Error)
    attempt: int = 1
    attempts: list[_Attempt] = msgspec.field(default_factory=list)
    redirects: list[_Hop] = msgspec.field(default_factory=list)
    timings: dict[str, float] = msgspec.field(default_factory=dict)
    metadata: _Metadata | None = None
    data: Raw = Raw()
    worker: str = ""
    dead_letter: bool = False


_seen: Final = msgspec.json.Decoder(_Seen)


def result_shown(body: bytes) -> dict[str, Any] | None:
    """Return what the page shows of a result; None if it is too large, or not a result."""
    if len(body) > MAX_RESULT_BYTES:
        return None
    try:
        it = _seen.decode(body)
        data = bytes(it.data).decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    title = it.metadata.title or "" if it.metadata is not None else ""
    return {
        "id": _text(it.id),
        "run": it.run,
        "status": _text(it.status),
        "url": _url(it.url),
        "final_url": _url(it.final_url),
        "http_status": it.http_status,
        "content_type": _text(it.content_type),
        "size": it.size,
        "kind": _text(it.error.kind),
        "message": _text(it.error.message),
        "attempt": it.attempt,
        "attempts": [
            {"kind": _text(one.kind), "at": _text(one.at), "worker": _text(one.worker)}
            for one in it.attempts[-MAX_STEPS:]
        ],
        "redirects": [
            {"status": hop.status, "url": _url(hop.url)} for hop in it.redirects[:MAX_STEPS]
        ],
        "timings": {_text(name): value for name, value in list(it.timings.items())[:MAX_STEPS]},
        "title": _text(title),
        "data": printable(data, MAX_DATA),
        "worker": _text(it.worker),
        "dead_letter": it.dead_letter,
    }


def _text(text: str) -> str:
    return printable(text, MAX_TEXT)


def _url(url: str) -> str:
    return _text(without_credentials(url))
