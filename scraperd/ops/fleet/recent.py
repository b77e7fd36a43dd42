"""The last minute, by samples: rates, quantiles, the processor's share. Pure.

May touch: numbers.
Must never: take longer than its samples are many.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from scraperd.ops.fleet.answer import Flow, Latency

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERVAL: Final = 2.0  # seconds between two samples
MAX_SAMPLES: Final = 31  # a minute


class Sample(Struct, frozen=True, kw_only=True):
    """Counts at a time, which only rise. `cpu` is the loop's time on the processor."""

    at: float
    cpu: float
    counts: dict[str, int]
    kinds: dict[str, int] = {}
    histograms: dict[str, Sequence[int]] = {}  # each cumulative


class Recent:
    """Keeps the samples of the last minute."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)

    def add(self, sample: Sample) -> None:
        """Keep a sample; the oldest goes."""
        self._samples.append(sample)

    def seconds(self, now: Sample) -> float:
        """How many seconds the samples cover until now."""
        return max(now.at - self._first(now).at, 1e-3)

    def rates(self, now: Sample) -> dict[str, float]:
        """How much each count rose in a second."""
        first, seconds = self._first(now), self.seconds(now)
        return {
            name: round((count - first.counts.get(name, 0)) / seconds, 2)
            for name, count in now.counts.items()
        }

    def flow(self, now: Sample, messages: str, size: str) -> Flow:
        """How many messages a second, the most of two samples, and their mean size."""
        first, seconds = self._first(now), self.seconds(now)
        number = now.counts[messages] - first.counts[messages]
        total = now.counts[size] - first.counts[size]
        rates = [
            (b.counts[messages] - a.counts[messages]) / max(b.at - a.at, 1e-3)
            for a, b in zip(self._samples, list(self._samples)[1:], strict=False)
        ]
        mean = round(total / number) if number else 0
        rate = number / seconds
        return Flow(round(rate, 2), round(max((rate, *rates)), 2), mean)

    def kinds(self, now: Sample, most: int) -> dict[str, int]:
        """The kinds of failure of the last minute, those with the most first."""
        found = Counter(now.kinds)
        found.subtract(self._first(now).kinds)
        return {kind: count for kind, count in found.most_common(most) if count > 0}

    def load(self, now: Sample) -> float:
        """The loop's share of a processor."""
        return round((now.cpu - self._first(now).cpu) / self.seconds(now), 3)

    def latency(self, now: Sample, name: str, bounds: Sequence[float]) -> Latency:
        """The median and the 99th of 100, of a histogram's values in the last minute."""
        before = self._first(now).histograms.get(name)
        counts = list(now.histograms[name])
        if before is not None:
            counts = [b - a for a, b in zip(before, counts, strict=True)]
        return Latency(quantile(bounds, counts, 0.5), quantile(bounds, counts, 0.99))

    def _first(self, now: Sample) -> Sample:
        return self._samples[0] if self._samples else now


def quantile(bounds: Sequence[float], cumulative: Sequence[int], share: float) -> float | None:
    """The value that `share` of all values do not exceed, between two bounds by a straight line.

    None without values. For a value above all bounds, the highest bound.
    """
    if not cumulative[-1]:
        return None
    rank, low, before = share * cumulative[-1], 0.0, 0
    for bound, count in zip(bounds, cumulative, strict=False):
        if count >= rank:
            return round(low + (bound - low) * (rank - before) / max(count - before, 1), 5)
        low, before = bound, count
    return bounds[-1]
