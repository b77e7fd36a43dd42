"""The fleet in words: the lines that `status`, `host` and `top` print..

May touch: values.
Must never: print, or cut what a reader needs to act.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scraperd.ops.fleet.answer import Status
    from scraperd.ops.fleet.asked import Fleet
    from scraperd.politeness.view import HostView

MAX_HOSTS: Final = 10  # rows
MAX_KINDS: Final = 5
SHOWN: Final = 0.05  # of the time; what limits for less is left out
_QUEUES: Final = (
    "jobs",
    "quarantine",
    "quarantine.solo",
    "undelivered",
    "delay",
    "dead",
    "results",
)


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Lines with columns as wide as their longest cell; those of `right` end flush."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def span(seconds: float) -> str:
    """A time in one or two units, such as `3m 20s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms" if seconds else "0s"
    whole = round(seconds)
    for size, unit, less, lower in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // less
            return f"{whole // size}{unit}" + (f" {rest}{lower}" if rest else "")
    return f"{seconds:.1f}s" if seconds < 10 else f"{whole}s"  # noqa: PLR2004 - two digits


def size(count: float) -> str:
    """A number of bytes with a unit, such as `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:  # noqa: PLR2004 - a unit
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def processes(statuses: Iterable[Status]) -> list[str]:
    """A line for each process, below a head."""
    head = [
        "PROCESS",
        "STATE",
        "UP",
        "PAGES/S",
        "FAILED/S",
        "IN FLIGHT",
        "P50",
        "P99",
        "LIMITED BY",
    ]
    rows = [head]
    for it in statuses:
        job = it.latency.get("job")
        rows.append(
            [
                f"{it.name} ({it.version})",
                it.state,
                span(it.up),
                f"{it.rates.get('done', 0.0):.1f}",
                f"{it.rates.get('failed', 0.0):.1f}",
                f"{it.in_flight}",
                _time(job.p50 if job else None),
                _time(job.p99 if job else None),
                limits(it),
            ]
        )
    return table(rows, frozenset({3, 4, 5, 6, 7}))


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else span(seconds)


def limits(status: Status) -> str:
    """What holds a process back, with the share of the last minute."""
    shares = [
        f"{limit} {share:.0%}"
        for limit, share in status.limits.items()
        if limit != "nothing" and share >= SHOWN
    ]
    return ", ".join(shares) or "nothing"


def remarks(fleet: Fleet) -> Iterator[str]:
    """What an operator has to know of single processes."""
    if fleet.silent:
        consumers = fleet.queues.get("jobs") or (0, 0)
        yield (
            f"SILENT: {fleet.silent} - the broker counts {consumers[1]} consumers of the jobs "
            "queue, more than processes answered: frozen, of an older version, or without the "
            "permission to answer"
        )
    for it in fleet.statuses:
        if it.why and it.state != "draining":
            yield f"{it.name}: {it.why}"
        if it.reload_failed:
            yield f"{it.name}: RELOAD FAILED: {it.reload}"
        elif it.reload:
            yield f"{it.name}: {it.reload}"
    if rules := max((it.rules.in_force for it in fleet.statuses if it.rules), default=0):
        yield f"rules in force: {rules} (`scraperd rules` lists them)"
    versions = Counter(it.version for it in fleet.statuses)
    if len(versions) > 1:
        yield "versions: " + ", ".join(f"{name} ({n})" for name, n in sorted(versions.items()))


def queues(fleet: Fleet) -> list[str]:
    """A line for each queue. Only the daemons know what is unacked, and all theirs is of jobs."""
    unacked = sum(it.unacked for it in fleet.statuses)
    rows = [["QUEUE", "READY", "UNACKED", "CONSUMERS"]]
    for name in _QUEUES:
        count = fleet.queues.get(name)
        held = str(unacked) if name == "jobs" else "-"
        if count is None:
            rows.append([name, "missing", "-", "-"])
        else:
            rows.append([name, f"{count[0]}", held, "-" if name == "delay" else f"{count[1]}"])
    return table(rows, frozenset({1, 2, 3}))


def kinds(statuses: Iterable[Status]) -> str:
    """The kinds of failure of the last minute, of all processes together."""
    found = Counter[str]()
    for it in statuses:
        found.update(it.kinds)
    return ", ".join(f"{kind} {n}" for kind, n in found.most_common(MAX_KINDS)) or "none"


def latencies(statuses: Iterable[Status]) -> list[str]:
    """The steps of a job, at worst of all processes."""
    worst: dict[str, tuple[float, float]] = {}
    for it in statuses:
        for name, one in it.latency.items():
            p50, p99 = worst.get(name, (0.0, 0.0))
            worst[name] = max(p50, one.p50 or 0.0), max(p99, one.p99 or 0.0)
    return [f"{name} {span(p50)} / {span(p99)}" for name, (p50, p99) in worst.items()]


def hosts(statuses: Iterable[Status], most: int = MAX_HOSTS) -> list[str]:
    """A line for each host that jobs wait for, in each process."""
    found = [(it, host) for it in statuses for host in it.hosts]
    if not found:
        return []
    found.sort(key=lambda pair: (-pair[1].waiting, -pair[1].until))
    rows = [["HOST", "WAITING", "RUNNING", "NEXT START", "WHY", "PROCESS"]]
    rows += [_host_row(it, host) for it, host in found[:most]]
    return table(rows, frozenset({1, 2, 3}))


def _host_row(status: Status, host: HostView) -> list[str]:
    return [
        host.host,
        f"{host.waiting}",
        f"{host.active}/{host.permits}",
        f"in {span(host.until)}" if host.until else "now",
        host.why,
        status.name,
    ]


def about(status: Status) -> Iterator[str]:
    """What one process knows of a host."""
    known = status.about
    yield f"{status.name} ({status.state})"
    if known is None:
        return
    if known.queue is None:
        yield "  queue: nothing is remembered: no job of this host was here lately"
    else:
        yield from _about_queue(known.queue)
    yield f"  robots.txt: {known.robots}"
    for fault in known.faults:
        code = f" {fault.http_status}" if fault.http_status else ""
        said = f": {fault.message}" if fault.message else ""
        yield f"  failed {span(fault.ago)} ago: {fault.kind}{code}{said}"
    if not known.faults:
        yield "  failures: none is remembered"


def _about_queue(it: HostView) -> Iterator[str]:
    start = f"in {span(it.until)}" if it.until else "now"
    yield f"  next start: {start}; it waits for {it.why}"
    yield f"  permits: {it.active} in use of {it.permits} (per_host_concurrency {it.permits_limit})"
    if it.address_limit is not None:
        yield f"  address: {it.address_active} fetches of {it.address_limit}"
    yield (
        f"  delay: {it.delay:g} s, by {it.delay_by} (configuration {it.config_delay:g} s, "
        f"robots.txt {it.crawl_delay:g} s, autothrottle {it.throttle_delay:g} s)"
    )
    penalty = f"{span(it.penalty)} more, as the host asked" if it.penalty else "none"
    routes = f"; {it.routes_paused} other ports or proxies pause" if it.routes_paused else ""
    yield f"  penalty: {penalty}{routes}"
    priority = f", {it.waiting_priority} of them first" if it.waiting_priority else ""
    yield f"  queue: {it.waiting} jobs wait here{priority}"
    if it.latency is not None:
        yield f"  answers take {span(it.latency)}"
