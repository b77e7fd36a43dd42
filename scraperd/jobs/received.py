"""A delivery as the jobs understand it: with its envelope, its strikes, and what names its job.

May touch: a delivery, the keys of the fleet, the discounts of this process.
Must never: look into a body, or raise for what a publisher sent.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, UnsetType

from scraperd.broker.ports import Source
from scraperd.contract import is_ident
from scraperd.jobs.envelope import Envelope, foreign
from scraperd.jobs.quarantine import quarantine_for, strikes

if TYPE_CHECKING:
    from scraperd.broker.ports import Delivery
    from scraperd.contract import Batch
    from scraperd.jobs.decode import Prepared
    from scraperd.jobs.quarantine import Discounts
    from scraperd.jobs.signing import Keys

_FRESH: Final = 2 * 3600.0  # seconds: the longest delay queue, and as long in the jobs queue


@dataclass(eq=False, slots=True)
class Received:
    """One delivery, read. `stripped` jobs pass nothing of the publisher's on but the body.

    Whatever of a stranger's properties ended the connection each time before must not do so when
    the job gets its outcome.
    """

    delivery: Delivery
    envelope: Envelope
    discounted: int = 0
    strikes: int = 0
    stripped: bool = False
    fresh: bool = False  # its envelope is not old
    name: str = ""  # the job's id, once it is known
    url: str | UnsetType = UNSET  # the same,
    host: str | None = None  # and its host
    prepared: Prepared | None = None  # the job itself, once it may be run
    batch: Batch | None = None  # what its outcome is noted for
    batch_callback: str | None = None  # where the message at the batch's end is to be posted
    callback: str | None = None  # where the result is to be posted too
    anonymous: bool = False  # nothing that a dispatcher would know its result by
    queue_wait: float | None = None  # seconds from the publisher's timestamp to the first delivery
    lateness: float | None = None  # seconds from its turn, or when it was due, to its return

    @classmethod
    def of(
        cls,
        delivery: Delivery,
        keys: Keys,
        discounts: Discounts,
        delivery_limit: int,
        *,
        now: float,
    ) -> Received:
        """Read `delivery`. At `delivery_limit` strikes the job is not run any more.

        `now` is in seconds since 1970, as the signature of an envelope is.
        """
        envelope = Envelope.of(delivery.headers, delivery.body, keys)
        job = cls(delivery, envelope)
        job.fresh = -_FRESH < now - (envelope.signed_at or 0) < _FRESH
        source, count = delivery.source, delivery.redeliveries
        job.discounted = discounts.of(job.fingerprint, source, count) if count else 0
        job.strikes = strikes(source, envelope.strikes, count, job.discounted)
        returned = count if job.given_up else job.strikes
        job.stripped = max(returned, job.strikes) >= delivery_limit
        job._time(now)
        return job

    def _time(self, now: float) -> None:
        """Note how long the job waited, as far as clocks of other machines can tell.

        Of its first delivery only: the next ones come when a process has lost it.
        """
        if self.delivery.source is not Source.JOBS or self.delivery.redeliveries:
            return
        at, envelope = self.delivery.own.timestamp, self.envelope
        due = envelope.due if envelope.turn is None else envelope.turn.at
        if due is not None:
            self.lateness = max(0.0, now - due)
        elif at is not None and envelope.signed_at is None and at <= now:
            self.queue_wait = now - at

    @property
    def given_up(self) -> bool:
        """True if the broker itself gave the job up: it is not run any more."""
        return self.delivery.source is Source.UNDELIVERED

    @property
    def undelivered(self) -> str:
        """Why the broker gave the job up, by its last word or by what was noted; else empty."""
        if not self.given_up:
            return ""
        if self.delivery.given_up is not None:
            return self.delivery.given_up.reason
        return self.envelope.undelivered or "unknown"

    @property
    def rejected(self) -> bool:
        """True if a consumer rejected the job, which only we do, and unread: it is run again."""
        return self.given_up and self.undelivered == "rejected"

    @property
    def quarantine(self) -> Source | None:
        """The queue that the job must be moved to before it is looked at, if any."""
        if self.stripped:
            return None
        return quarantine_for(self.delivery.source, self.strikes, witnessed=self._witnessed)

    @property
    def _witnessed(self) -> bool:
        """True if the broker itself, or an envelope that is not old, says that it was redelivered.

        An old one may be a copy that someone kept, and what it leads to is paid by all others.
        """
        return self.delivery.redeliveries > 0 or self.fresh

    @property
    def fingerprint(self) -> int:
        """The same for each delivery of one message in this process, from one queue."""
        it = self.delivery
        return hash((it.body, it.message_id, it.correlation_id, it.source))

    def ident(self, own: Any = None) -> str | None:
        """The job's id: its `own`, else the envelope's, the message id, or the correlation id."""
        return ident_of(self.delivery, self.envelope, own)

    def named(self, own: Any, url: str | UnsetType, host: str | None) -> bool:
        """Keep what names the job, for all that is told of it; it gets a name if it has none.

        `own` is the id that its body says. False if nothing named it.
        """
        known = self.ident(own)
        self.name = known or uuid.uuid4().hex
        self.url, self.host = url, host
        self.anonymous = known is None and self.delivery.reply_to is None
        return known is not None

    @property
    def over(self) -> bool:
        """True if the job is not to be run any more: at its delivery limit, or given up."""
        return self.stripped or self.given_up

    @property
    def reply_to(self) -> str | None:
        """The address that the result is wanted at, also where only the envelope has it."""
        return self.delivery.reply_to or self.envelope.reply_to

    def foreign(self) -> dict[str, Any]:
        """The publisher's own headers, which travel on with the job and its result."""
        return {} if self.stripped else foreign(self.delivery.headers)


def ident_of(delivery: Delivery, envelope: Envelope, own: Any = None) -> str | None:
    """The one rule for a job's id. `own` is what its body says; None if nothing names the job."""
    names: tuple[Any, ...] = (envelope.ident, delivery.message_id, delivery.correlation_id)
    if envelope.ident == "":  # moved before, and nobody knew: its message id is ours
        names = ()
    for ident in (own, *names):
        if isinstance(ident, str) and is_ident(ident):
            return ident
    return None
