"""Spans that no collector got: how many, why, and what the log says of it.

May touch: a clock and the log's events, as they are given.
Must never: write a line for each span or batch, or be called from another thread than the loop's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

Reason: TypeAlias = Literal["failed", "rejected", "overflow", "unsent"]

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
"""Why spans are lost: the collector did not take a batch; it took one and refused spans of it;
too many spans waited; the daemon ended."""
LINE_INTERVAL: Final = 60.0  # seconds between two lines about one reason
_ENDED: Final = "the daemon ended before the collector had taken them: look at the collector"


class Events(Protocol):
    """What writes an event of the log."""

    def __call__(self, event: str, **fields: Any) -> None:
        """Write `event` with its fields."""


@dataclass(slots=True)
class _Lost:
    """What is not told yet of the spans that were lost for one reason."""

    spans: int = 0
    error: str = ""
    next_line: float = -math.inf


class Losses:
    """Counts spans that were lost, and tells of each reason once a minute at most.

    `counts` has the spans by reason, since the start.
    """

    def __init__(self, endpoint: str, event: Events, clock: Callable[[], float]) -> None:
        self.counts: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._endpoint = endpoint
        self._event = event
        self._clock = clock
        self._untold = {reason: _Lost() for reason in REASONS}
        self._failing: tuple[float, int] | None = None  # since when, and what had failed before

    def lost(self, reason: Reason, spans: int, error: str) -> None:
        """Count so many spans; `error` says in words what happened and what to change."""
        now, untold = self._clock(), self._untold[reason]
        self.counts[reason] += spans
        untold.spans, untold.error = untold.spans + spans, error
        if now < untold.next_line:
            return
        if reason == "failed" and self._failing is None:
            self._failing = now, self.counts[reason] - spans
        self._tell(untold, now)

    def taken(self) -> None:
        """Note that the collector took a batch; tell it if the log said that it fails."""
        if self._failing is None:
            return
        since, before = self._failing
        self._failing, self._untold["failed"].spans = None, 0
        seconds, spans = round(self._clock() - since, 3), self.counts["failed"] - before
        self._event("spans_taken", endpoint=self._endpoint, seconds=seconds, spans=spans)

    def end(self, waiting: int) -> None:
        """Tell what is not told yet; `waiting` spans were not sent before the end."""
        if waiting:
            self.lost("unsent", waiting, _ENDED)
        for untold in self._untold.values():
            if untold.spans:
                self._tell(untold, self._clock())

    def _tell(self, untold: _Lost, now: float) -> None:
        self._event("spans_lost", spans=untold.spans, endpoint=self._endpoint, error=untold.error)
        untold.spans, untold.next_line = 0, now + LINE_INTERVAL
