"""What is measured: a table of named workloads.

May touch: nothing; it is a table.
Must never: differ between contenders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.throughput import site

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stage import PageFile

TITLE_AND_LINKS: Final[dict[str, Any]] = {
    "title": "title",
    "links": {"selector": "a[href]", "output": "@href", "type": "list"},
}


@dataclass(frozen=True, slots=True)
class Workload:
    """Which pages, how many of them a round and contender, and what is asked of each.

    `queued` are the jobs in the queue at the start, if they are more than the `pages` that are
    measured. `concurrency` is the prefetch as well. `body` asks for the page itself.
    """

    name: str
    what: str
    site: Callable[[site.Ground], list[PageFile]] = site.corpus
    pages: int = 10_000
    concurrency: int = 100
    queued: int = 0
    processes: int = 1
    body: bool = False


WORKLOADS: Final = (
    Workload("corpus", "title and links of real pages"),
    Workload("tiny", "title and links of pages of 300 bytes", site.tiny, pages=20_000),
    Workload(
        "slow",
        "5,000 in flight at a site that answers after 1 s",
        site.slow,
        pages=40_000,
        concurrency=5_000,
    ),
    Workload("bodies", "title, links and the page itself", pages=5_000, body=True),
    Workload("mixed", "one page of 200 has 10 MB", site.mixed, pages=4_000),
    Workload("growth-10000", "10,000 jobs queued", pages=9_000, queued=10_000),
    Workload("growth-100000", "100,000 jobs queued", pages=9_000, queued=100_000),
    Workload("growth-500000", "500,000 jobs queued", pages=9_000, queued=500_000),
    Workload("tls", "real pages at 50 sites that speak TLS", site.tls),
    Workload("two", "two processes of each worker", processes=2),
)


def named(name: str) -> list[Workload]:
    """Return the workload of this name, else those whose names begin with it."""
    exact = [one for one in WORKLOADS if one.name == name]
    found = exact or [one for one in WORKLOADS if one.name.startswith(name)]
    if not found:
        raise SystemExit(f"no workload {name!r}; LIST=1 lists them")
    return found
