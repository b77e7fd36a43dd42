"""The table: medians of the rounds, and each round's ratio of scraperd to the others.

May touch: the figures of one run.
Must never: put figures of two runs into one table.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.throughput.bench import Figures

Round: TypeAlias = "dict[str, Figures]"  # by the contender's name; without those that failed

HEAD: Final = (
    f"{'':14}{'pages/s':>9}{'us a page':>11}{'user':>7}{'system':>8}{'MiB':>7}{'p99 ms':>9}"
)
_NONE: Final = "-"
_RATIOS: Final[tuple[tuple[str, Callable[[Figures], float | None]], ...]] = (
    ("pages/s", lambda figures: figures.rate),
    ("CPU a page", lambda figures: figures.cpu.total),
    ("memory", lambda figures: figures.peak),
    ("p99", lambda figures: figures.latency),
)


def row(name: str, rounds: list[Figures]) -> str:
    """Return a line of the table: medians, and what went wrong in any of the rounds."""

    def median(value: Callable[[Figures], float]) -> float:
        return statistics.median(value(figures) for figures in rounds)

    late = [figures.latency for figures in rounds if figures.latency is not None]
    latency = f"{statistics.median(late) * 1e3:9,.0f}" if late else f"{_NONE:>9}"
    wrong = {
        "results failed": sum(figures.failed for figures in rounds),
        "of the checked results are not as the page": sum(f.different for f in rounds),
        "jobs missing": sum(figures.missing for figures in rounds),
    }
    remarks = "".join(f"  {count} {what}" for what, count in wrong.items() if count)
    return (
        f"{name:14}{median(lambda f: f.rate):9,.0f}{median(lambda f: f.cpu.total * 1e6):11,.0f}"
        f"{median(lambda f: f.cpu.user * 1e6):7,.0f}{median(lambda f: f.cpu.system * 1e6):8,.0f}"
        f"{median(lambda f: f.peak):7,.0f}{latency}{remarks}"
    )


def table(rounds: list[Round], names: list[str], absent: dict[str, str]) -> str:
    """Return the medians of all rounds, with a line for those that did not run."""
    lines = [f"medians of {len(rounds)} rounds", HEAD]
    for name in names:
        if mine := [figures[name] for figures in rounds if name in figures]:
            short = "" if len(mine) == len(rounds) else f"  in {len(mine)} rounds only"
            lines.append(row(name, mine) + short)
    lines += [f"{name:14}{why.splitlines()[0]}" for name, why in absent.items()]
    return "\n".join(lines)


def ratios(rounds: list[Round], names: list[str]) -> str:
    """Return the ratios of the first contender to each of the others: median, and by round."""
    lines = [f"{names[0]} divided by another of the same round: median (each round)"]
    for other in names[1:]:
        both = [(r[names[0]], r[other]) for r in rounds if names[0] in r and other in r]
        for what, value in _RATIOS:
            found = [_divided(value(mine), value(its)) for mine, its in both]
            known = [ratio for ratio in found if ratio is not None]
            if known:
                each = " ".join(f"{ratio:.2f}" for ratio in known)
                lines.append(f"  {other:14}{what:11}{statistics.median(known):6.2f}  ({each})")
    return "\n".join(lines)


def _divided(mine: float | None, its: float | None) -> float | None:
    return mine / its if mine and its else None
