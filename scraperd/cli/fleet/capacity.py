"""The capacity sheet: what a team asks before it sizes a broker, from what the daemons see.

May touch: values.
Must never: print, or tell a guess for a measurement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scraperd.cli.fleet.words import size, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scraperd.ops.fleet.answer import Capacity, Status
    from scraperd.ops.fleet.asked import Fleet

PERSISTENCE = "all messages are persistent, in durable quorum queues"
ACKNOWLEDGEMENT = "manual acks, after the outcome is confirmed; publisher confirms, mandatory"


def values(fleet: Fleet) -> dict[str, Any]:
    """The sheet as JSON has it. Sizes in bytes, rates in each second."""
    sheets = [it.capacity for it in fleet.statuses if it.capacity is not None]
    return {
        "broker": fleet.broker,
        "silent": fleet.silent,
        "consumed": _flow(sheets, "consumed"),
        "published": _flow(sheets, "published"),
        "consumers": sum(it.consumers for it in sheets),
        "connections": sum(it.connections for it in sheets),
        "publishing_connections": len(sheets),
        "prefetch": sum(it.prefetch for it in sheets),
        "largest_message": max((it.largest_message for it in sheets), default=0),
        "persistence": PERSISTENCE,
        "acknowledgement": ACKNOWLEDGEMENT,
        "processes": [
            {
                "name": it.name,
                "fetches": it.fetches,
                "fetches_limit": it.fetches_limit,
                "memory": it.memory,
                "memory_limit": it.memory_limit,
                **msgspec.to_builtins(it.capacity),
            }
            for it in fleet.statuses
            if it.capacity is not None
        ],
    }


def _flow(sheets: list[Capacity], name: str) -> dict[str, float]:
    flows = [getattr(it, name) for it in sheets]
    rate = sum(flow.rate for flow in flows)
    total = sum(flow.rate * flow.mean_bytes for flow in flows)
    return {
        "rate": round(rate, 2),
        "peak": round(sum(flow.peak for flow in flows), 2),
        "mean_bytes": round(total / rate) if rate else 0,
    }


def lines(fleet: Fleet) -> Iterator[str]:
    """The sheet as a person reads it."""
    sheet = values(fleet)
    count = len(sheet["processes"])
    yield f"{fleet.broker}: {count} processes answer, {fleet.silent} silent; of the last minute"
    rows = []
    for name, what in (("consumed", "messages consumed"), ("published", "messages published")):
        flow = sheet[name]
        mean, peak = size(flow["mean_bytes"]), flow["peak"]
        rows.append([what, f"{flow['rate']:.1f}/s, at most {peak:.1f}/s, {mean} on average"])
    rows += [
        ["concurrent consumers", f"{sheet['consumers']}, prefetch {sheet['prefetch']} in all"],
        ["concurrent publishers", f"{sheet['publishing_connections']} connections that publish"],
        ["connections", f"{sheet['connections']} (each process: consume, publish, answer)"],
        ["largest message", f"{size(sheet['largest_message'])} (jobs.max_result_size)"],
        ["persistence", PERSISTENCE],
        ["acknowledgement", ACKNOWLEDGEMENT],
    ]
    yield from table(rows)
    if count:
        yield ""
        head = ["PROCESS", "PAGES/S", "CPU", "POSSIBLE", "FETCHES", "MEMORY"]
        found = [_headroom(it, it.capacity) for it in fleet.statuses if it.capacity]
        yield from table([head, *found], frozenset({1, 2, 3, 4, 5}))
        yield "POSSIBLE: pages/s if the event loop had all of its processor, by the pages of now"


def _headroom(status: Status, sheet: Capacity) -> list[str]:
    possible = sheet.pages_possible
    return [
        status.name,
        f"{sheet.pages_rate:.1f}",
        f"{sheet.cpu_share:.0%}",
        "too idle to tell" if possible is None else f"{possible:.0f}",
        f"{status.fetches}/{status.fetches_limit}",
        f"{size(status.memory)}/{size(status.memory_limit)}",
    ]
