"""What came of a job's page, and the one place where a Result is made of that. Pure.

May touch: the contract's values.
Must never: read a clock, or look into a body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from scraperd.base.urls import MAX_URL
from scraperd.contract import VERSION, Attempt, Failure, Redirect, Result, Timings

if TYPE_CHECKING:
    from yarl import URL

    from scraperd.contract import Batch
    from scraperd.fetch.message import Steps

_STEPS: Final = ("dns", "connect", "tls", "first_byte", "transfer")


class Facts(Struct, frozen=True):
    """What is known of a page, however far its job has come. Times in seconds.

    `steps` go on while a hop is fetched; all else is as it was.

    `content` are fields of the Result that were taken from the response; `hits` says how
    often each rule matched, by its path.
    """

    redirects: tuple[Redirect, ...] = ()
    fetched_at: str = ""
    fetch_time: float = 0.0
    extract_time: float = 0.0
    steps: Steps | None = None
    http_status: int | UnsetType = UNSET
    final_url: str | UnsetType = UNSET
    content: dict[str, Any] = {}  # msgspec copies an empty default
    hits: dict[str, int] = {}

    def timings(self, total: float) -> Timings:
        """Return the times of a job that was here for `total` seconds."""
        wait = max(0.0, total - self.fetch_time - self.extract_time)
        return Timings(
            total=round(total, 6),
            wait=round(wait, 6),
            fetch=round(self.fetch_time, 6),
            extract=round(self.extract_time, 6),
            **({} if self.steps is None else _seconds(self.steps)),
        )


def _seconds(steps: Steps) -> dict[str, float]:
    """The steps that happened."""
    return {name: round(took, 6) for name in _STEPS if (took := getattr(steps, name))}


class Scraped(Struct, frozen=True):
    """The page was fetched, and what was asked for was taken from it."""

    facts: Facts


class Failed(Struct, frozen=True):
    """The job failed; `facts` are what was known of its page by then."""

    failure: Failure
    facts: Facts = msgspec.field(default_factory=Facts)


class Label(Struct, frozen=True):
    """Whose result it is, as far as anything names the job, and who made it.

    `earlier` are the attempts before this one. `limited` is what counted in place of limits of the
    job's own. `dead` says that the job goes to the dead queue.
    """

    ident: str
    attempt: int
    worker: str
    url: str | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET
    run: int = 1
    earlier: tuple[Attempt, ...] = ()
    limited: dict[str, float] | UnsetType = UNSET
    dead: bool = False
    batch: Batch | UnsetType = UNSET


def result_of(
    label: Label, ended: Scraped | Failed, timings: Timings | UnsetType = UNSET
) -> Result:
    """Return the Result of a job that has ended so."""
    facts = ended.facts
    failure = ended.failure if isinstance(ended, Failed) else UNSET
    return Result(
        id=label.ident,
        run=label.run,
        url=label.url,
        status="failed" if failure else "ok",
        error=failure,
        final_url=facts.final_url,
        http_status=facts.http_status,
        redirects=list(facts.redirects) or UNSET,
        attempt=label.attempt,
        attempts=list(label.earlier) or UNSET,
        dead_letter=label.dead or UNSET,
        limited=label.limited,
        timings=timings,
        fetched_at=facts.fetched_at or UNSET,
        worker=label.worker,
        contract_version=VERSION,
        batch=label.batch,
        meta=label.meta,
        **facts.content,
    )


def final_url(url: URL) -> str | UnsetType:
    """Return where a response came from, unless that is longer than a job's URL may be."""
    text = str(url)
    return text if len(text) <= MAX_URL else UNSET
