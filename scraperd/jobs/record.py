"""What is told of a delivery that came to its end, and to whom. Pure.

May touch: the contract's values, the verdict.
Must never: know how it is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

from msgspec import Struct

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from msgspec import UnsetType

    from scraperd.contract import Result
    from scraperd.jobs.received import Received
    from scraperd.jobs.verdict import Verdict
    from scraperd.scrape.tracing import Trace


class Record(Struct, frozen=True):
    """One delivery that came to its end here. Times in seconds.

    A job that only moves has no result; `ident` is empty then if nothing named it. `queue_wait` is
    from its publisher's timestamp to its first delivery, `lateness` from a promised turn, or from
    when a retry was due, to its return; None where that is not known.
    """

    ident: str
    url: str | UnsetType
    host: str | None
    attempt: int
    result: Result | None
    verdict: Verdict
    settled: bool
    publish_time: float
    snoozes: int = 0
    strikes: int = 0
    queue_wait: float | None = None
    lateness: float | None = None

    @classmethod
    def of(
        cls,
        received: Received,
        result: Result | None,
        verdict: Verdict,
        *,
        settled: bool,
        publish_time: float,
    ) -> Self:
        """Say how the delivery ended: `settled` or not, after a publish of `publish_time`."""
        return cls(
            received.name,
            received.url,
            received.host,
            received.envelope.attempt,
            result,
            verdict,
            settled,
            publish_time,
            received.envelope.snoozes,
            received.strikes,
            received.queue_wait,
            received.lateness,
        )


class Observer(Protocol):
    """Who is told. No call raises, and none changes what becomes of a job."""

    def event(self, event: str, **fields: Any) -> None:
        """Something happened to the process."""

    def record(self, record: Record) -> None:
        """One delivery came to its end."""

    def solo(self, received: Received) -> None:
        """A job begins to run alone."""

    def unverified(self) -> None:
        """A job came with headers of ours that have no valid signature."""

    def trouble(self, event: str, error: BaseException, **fields: Any) -> None:
        """An error of ours, with its traceback."""


class Tracer(Protocol):
    """What decides which jobs are traced."""

    def job(self, received: Received) -> AbstractContextManager[Trace | None]:
        """Return the span of a job, to be entered; entered, it gives None if it is not traced.

        Trace headers that are malformed are removed from the delivery, so they do not travel on.
        """
