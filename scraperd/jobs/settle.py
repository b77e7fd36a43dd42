"""The one place that settles a delivery: publish what the verdict says, confirmed, then ack.

May touch: the ports of a broker, the contract's encoding, the wall clock it is given.
Must never: ack before the confirm, settle twice, or know which broker it is.
"""

from __future__ import annotations

import ipaddress
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from scraperd.broker.ports import (
    NOTHING,
    UNROUTABLE_REPLY,
    Batches,
    Callbacks,
    Delay,
    Into,
    Message,
    Reply,
    Results,
    Source,
)
from scraperd.contract import Failure
from scraperd.jobs.batch.note import Note, sealed
from scraperd.jobs.callback.note import new_note, payload, webhook_id
from scraperd.jobs.envelope import Envelope, Turn, obituary, told
from scraperd.jobs.verdict import Dead, Done, Requeue, Retry, Snooze, Verdict
from scraperd.scrape.tracing import TRACE

if TYPE_CHECKING:
    from datetime import datetime

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Destination, Limits, Publisher
    from scraperd.contract import Batch, Result
    from scraperd.jobs.outcome import Outcome
    from scraperd.jobs.received import Received
    from scraperd.jobs.signing import Keys

_MAX_KEY: Final = 255  # bytes of an AMQP short string


class Settler(Struct, frozen=True):
    """Carries a verdict out. A callback's body has `max_payload` bytes at most."""

    publisher: Publisher
    limits: Limits
    keys: Keys
    clocks: Clocks
    max_payload: int = 0

    async def settle(self, job: Received, outcome: Outcome | None, verdict: Verdict) -> bool:
        """Publish, confirmed, then ack. A job that only moves has no outcome.

        Raises Lost; or Refused if it could not be published for so long that the delivery must be
        let go (by a Requeue). Then nothing is acked. False if the publish was confirmed but the
        ack came too late: the job will be delivered again, and its result is a duplicate.
        """
        match verdict:
            case Done():
                assert outcome is not None
                await self._tell(job, outcome)
                if job.batch is not None:
                    await self._note(job, job.batch, outcome.result)
            case Retry(delay):
                assert outcome is not None
                assert outcome.result.error
                kind, worker = outcome.result.error.kind, outcome.result.worker or ""
                envelope = job.envelope.retried(kind, worker, self.clocks.now(), delay)
                envelope = replace(envelope, ident=job.name)
                await self._move(job, envelope, Delay(delay))
            case Snooze(host, delay):
                await self._snooze(job, host, delay)
            case Requeue(to):
                await self._move(job, _untouched(job), to, math.inf)
            case Dead(kind, tell):
                assert outcome is not None
                # First: if it raises, nothing is out.
                letter = _letter(job, outcome.result, kind, self.clocks.now())
                if tell:
                    await self._tell(job, outcome)
                if job.batch is not None:
                    await self._note(job, job.batch, outcome.result)
                await self._publish(job, Into(Source.DEAD), letter)
        return await job.delivery.ack()

    def carried_out(self, verdict: Verdict) -> Verdict:
        """Return the verdict with the wait that this transport has for it."""
        if isinstance(verdict, Retry):
            return Retry(self.publisher.wait_at_least(verdict.delay))
        return verdict

    def let_go(self) -> None:
        """Wait no more for a queue: see ports.Publisher."""
        self.publisher.let_go()

    async def _publish(
        self, job: Received, to: Destination, message: Message, until: float | None = None
    ) -> None:
        until = job.delivery.arrived + self.limits.release if until is None else until
        await self.publisher.publish(job.delivery.epoch, to, message, until)

    async def _tell(self, job: Received, outcome: Outcome) -> None:
        """Publish the result, and its callback if the job asks for one."""
        await self._result(job, outcome)
        if job.callback is None:
            return
        now, most = self.clocks.now(), min(self.max_payload, self.limits.max_message)
        ident = webhook_id(self.keys, job.name, job.envelope.run, job.delivery.body)
        note = new_note(job.callback, ident, job.name, now)
        message = note.message(payload(outcome, now, most), self.keys)
        await self._publish(job, Callbacks(), message)

    async def _result(self, job: Received, outcome: Outcome) -> None:
        key = routing_key(outcome.result, job.host if outcome.result.url else None)
        address = job.delivery.reply_to
        headers = {**job.foreign(), **told(outcome.result, job.envelope)}
        if job.stripped and job.reply_to:
            headers[UNROUTABLE_REPLY] = job.reply_to
        message = Message(outcome.body, headers, correlation_id=job.delivery.correlation_id)
        to = Reply(address, key) if address and not job.stripped else Results(key)
        if (trace := TRACE.get()) is None:
            await self._publish(job, to, message)
            return
        with trace.publish() as traced:
            message.headers.update({} if job.stripped else traced)
            await self._publish(job, to, message)

    async def _note(self, job: Received, batch: Batch, result: Result) -> None:
        """Tell the tally of the job's batch that it has its outcome.

        It is counted once by its id, or if nothing named it by its bytes.
        """
        named = job.delivery.body if job.anonymous else job.name.encode()
        kind = result.error.kind if result.error else result.status
        again = result.run is not UNSET and result.run > 1
        at, callback = self.clocks.wall(), job.batch_callback
        note = Note.of(batch, named, kind, at, callback, again=again)
        await self._publish(job, Batches(), sealed(note, self.keys))

    async def _snooze(self, job: Received, host: str, delay: float) -> None:
        """Rather back too early than too late: then it is snoozed again, for the rest."""
        wait = self.publisher.wait_within(delay)
        turn = Turn(host, self.clocks.wall() + delay, max(0.0, delay - wait))
        envelope = replace(job.envelope.snoozed(turn), ident=job.name, strikes=job.strikes)
        await self._move(job, envelope, Delay(wait))

    async def _move(
        self, job: Received, envelope: Envelope, to: Destination, until: float | None = None
    ) -> None:
        """Publish the job itself, its body untouched, to run again."""
        envelope = _stripped(job, envelope)
        headers = envelope.headers(self.keys, job.delivery.body)
        await self._publish(job, to, _message(job, headers), until)


def _untouched(job: Received) -> Envelope:
    """For a job that is moved as it came, with what was known of it: nothing has become of it yet.

    An empty id travels too: else the next message id, which is ours, would be taken for one.
    A retried job has come back: it is not due again.
    """
    return replace(
        job.envelope,
        ident=job.name,
        strikes=job.strikes,
        due=None,
        undelivered=job.undelivered or None,
    )


def _letter(job: Received, result: Result, kind: str, now: datetime) -> Message:
    """The dead letter: the whole job, and why it ended."""
    failure = result.error or Failure("internal", "no reason given")
    undelivered = job.undelivered or None
    envelope = replace(job.envelope, strikes=job.strikes, undelivered=undelivered, reply_to=None)
    return _message(job, obituary(result, kind, failure, _stripped(job, envelope), now))


def _message(job: Received, headers: dict[str, Any]) -> Message:
    it = job.delivery
    return Message(
        it.body,
        {**job.foreign(), **headers},
        correlation_id=it.correlation_id,
        reply_to=None if job.stripped else it.reply_to,
        priority=it.priority,
        content_type=it.content_type,
        own=NOTHING if job.stripped else it.own,
    )


def _stripped(job: Received, envelope: Envelope) -> Envelope:
    """A stripped job keeps its reply address as a header of ours: as a property it may do harm."""
    return replace(envelope, reply_to=job.reply_to if job.stripped else None)


def routing_key(result: Result, host: str | None) -> str:
    """`ok.200.com.example.www`, `failed.dns.com.example.www`: bind `failed.#`, or one domain.

    `host` is what the job's URL names.
    """
    what = str(result.http_status) if not result.error else result.error.kind
    words = [result.status, what]
    if host:
        words += _reversed(host)
    return ".".join(words).encode()[:_MAX_KEY].decode(errors="ignore")


@lru_cache(maxsize=4096)
def _reversed(host: str) -> list[str]:
    """Labels from the top down; an address is one word."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return [label for label in reversed(host.split(".")) if label]
    return [host.replace(".", "-")]
