"""Pages a second and CPU time a page: the daemon against the bare loop, in alternating rounds.

May touch: the stage's private servers, the processes it starts.
Must never: compare figures of different rounds, or count work that the other side did not do.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from benchmarks.stage import CHECKOUT, CONCURRENCY, Child, Stage

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

TITLE: Final = {"title": "title"}
LINKS: Final = {"links": {"selector": "a[href]", "output": "@href", "type": "list"}}
EQUAL: Final = {"extract": TITLE | LINKS}  # what the bare loop does
WARM: Final = 0.08  # of a round's pages are left out: connections are made, code is warmed up
ROUND_TIMEOUT: Final = 180.0


@dataclass(frozen=True, slots=True)
class Variant:
    """Something to measure: the bare loop, or the daemon of some tree with some settings."""

    name: str
    module: tuple[str, ...] = ()
    job: dict[str, Any] = field(default_factory=lambda: EQUAL)
    tree: Path = CHECKOUT
    settings: dict[str, Any] = field(default_factory=lambda: {"log__level": "warning"})

    def start(self, stage: Stage) -> AbstractContextManager[Child]:
        """The process that does the work."""
        if self.module:
            return stage.child(*self.module, concurrency=CONCURRENCY)
        return stage.daemon(self.tree, **self.settings)


BARE: Final = Variant("bare loop, links as written", ("benchmarks.bare",))
ABSOLUTE: Final = Variant("bare loop, links made absolute", ("benchmarks.bare", "--absolute"))
QUIET: Final = Variant("scraperd, log.level=warning")
LOGGING: Final = Variant("scraperd, a log line a job", settings={})
FEATURES: Final = (
    Variant("scraperd, fetch alone", job={"include": []}),
    Variant("scraperd, title", job={"extract": TITLE}),
    Variant("scraperd, title + metadata", job={"extract": TITLE, "include": ["metadata"]}),
    Variant("scraperd, title + links with text", job={"extract": TITLE, "include": ["links"]}),
    Variant("scraperd, title + headers", job={"extract": TITLE, "include": ["headers"]}),
    Variant("scraperd, body", job={"include": ["body"]}),
)


Sample: TypeAlias = tuple[float, int, float]  # when, results so far, CPU seconds so far


@dataclass(frozen=True, slots=True)
class Figures:
    """One round of one variant: pages a second, CPU seconds a page, MiB at the peak."""

    rate: float
    cpu: float
    rss: float


def main() -> None:
    """Read the command line, run the rounds, print them and the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", type=int, default=6000, help="pages a round and variant")
    parser.add_argument("--features", action="store_true", help="also what each feature costs")
    parser.add_argument("--only", default="", help="only variants whose name holds this")
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another checkout")
    options = parser.parse_args()
    variants = [BARE, QUIET, ABSOLUTE, LOGGING, *(FEATURES if options.features else ())]
    variants = [v for v in variants if v is BARE or options.only in v.name]
    variants += [Variant(f"scraperd of {tree}", tree=tree.resolve()) for tree in options.tree]
    rounds: list[dict[str, Figures]] = []
    with Stage() as stage:
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}", flush=True)
            rounds.append({v.name: measure(stage, v, options.pages) for v in variants})
    summary(rounds)


def measure(stage: Stage, variant: Variant, pages: int) -> Figures:
    """One round: the jobs are in the queue before the process starts, results stay in theirs."""
    stage.purge()
    urls = itertools.islice(itertools.cycle(stage.pages), pages)
    stage.publish({"url": page.url, **variant.job} for page in urls)
    with variant.start(stage) as child:
        (begin, first, cpu), (end, last, cpu_end) = _window(stage, child, pages)
        done = last - first
        figures = Figures(done / (end - begin), (cpu_end - cpu) / done, child.peak_rss())
    print(f"  {_row(figures)}  {variant.name}", flush=True)
    return figures


def _window(stage: Stage, child: Child, pages: int) -> tuple[Sample, Sample]:
    """The first sample after the warm-up and the last one in which there still was work."""
    deadline = time.monotonic() + ROUND_TIMEOUT
    first: Sample | None = None
    last: Sample | None = None
    while True:
        sample = (time.monotonic(), stage.depth(stage.results), child.cpu())
        done = sample[1]
        if first is None and done >= pages * WARM:
            first = sample
        if done >= pages - CONCURRENCY:
            break
        last = sample
        if time.monotonic() > deadline or child.popen.poll() is not None:
            raise RuntimeError(f"{done} of {pages} results:\n{child.log.read_text()[-2000:]}")
        time.sleep(0.05)
    assert first is not None
    assert last is not None
    return first, last


def summary(rounds: list[dict[str, Figures]]) -> None:
    """The medians, and the median of each round's ratio to the bare loop of the same round."""
    print(f"medians of {len(rounds)} rounds")
    for name in rounds[0]:
        mine = [figures[name] for figures in rounds]
        median = Figures(
            statistics.median(f.rate for f in mine),
            statistics.median(f.cpu for f in mine),
            statistics.median(f.rss for f in mine),
        )
        print(f"  {_row(median)}  {name}")
    for base in (BARE.name, ABSOLUTE.name):
        if base not in rounds[0]:
            continue
        print(f"medians of the ratio to the same round's {base}")
        for name in [n for n in rounds[0] if n not in (BARE.name, ABSOLUTE.name)]:
            rate = statistics.median(r[name].rate / r[base].rate for r in rounds)
            cpu = statistics.median(r[name].cpu / r[base].cpu for r in rounds)
            print(f"  {rate:5.0%} of its pages/s, {cpu:5.0%} of its CPU time a page  {name}")


def _row(figures: Figures) -> str:
    return (
        f"{figures.rate:6,.0f} pages/s {figures.cpu * 1e6:6,.0f} us of CPU a page "
        f"{figures.rss:5,.0f} MiB"
    )


if __name__ == "__main__":
    main()
