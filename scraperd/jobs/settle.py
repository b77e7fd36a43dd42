"""The one place that settles a delivery: publish what the verdict says, confirmed, then ack.

May touch: the outbox, the topology's names, the contract's encoding, the wall clock.
Must never: ack before the confirm, or settle twice.
"""

from __future__ import annotations

import ipaddress
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, structs

from scraperd.base.text import printable
from scraperd.base.urls import host_of
from scraperd.broker.marks import ATTEMPT, CRASHES, JOB_ID, PARKS, REPLY_TO, TRIES, TURN, WAITS
from scraperd.broker.rabbitmq.codec import Message
from scraperd.broker.rabbitmq.publisher import UNROUTABLE_REPLY
from scraperd.broker.rabbitmq.topology import wait_within
from scraperd.contract import Failure, Result, encode
from scraperd.jobs.undelivered import UNDELIVERED, reason
from scraperd.jobs.verdict import Aside, Dead, Done, Park, Retry, Verdict

if TYPE_CHECKING:
    from scraperd.broker.marks import Keys
    from scraperd.broker.rabbitmq.codec import Delivery
    from scraperd.broker.rabbitmq.limits import Limits
    from scraperd.broker.rabbitmq.publisher import Outbox
    from scraperd.broker.rabbitmq.topology import Topology

LARGE: Final = 16 * 1024  # bytes of a result whose parts are not kept beside its JSON
_MAX_KEY: Final = 255  # bytes of an AMQP short string


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result and its JSON: what is decided on, logged and published is one and the same."""

    result: Result
    body: bytes = b""

    @classmethod
    def of(cls, result: Result, limit: int) -> Outcome:
        """Encode `result`; one of more than `limit` bytes becomes a failed one that says so."""
        body = encode(result)
        if len(body) > limit:
            result = too_large(result, len(body), limit)
            body = encode(result)
        if len(body) > LARGE:
            result = _light(result)
        return cls(result, body)


@dataclass(frozen=True, slots=True)
class Settler:
    """Carries a verdict out."""

    outbox: Outbox
    topology: Topology
    limits: Limits
    keys: Keys

    async def settle(self, delivery: Delivery, outcome: Outcome, verdict: Verdict) -> bool:
        """Publish, confirmed and mandatory, then ack.

        Raises BrokerLost, or Refused if it could not be published for so long that
        the delivery must be let go (by an Aside); then nothing is acked. False if the
        publish was confirmed but the ack came too late: the job will be delivered
        again, and its result is a duplicate.
        """
        result = outcome.result
        match verdict:
            case Done():
                await self._result(delivery, outcome)
            case Retry(delay):
                await self._move(delivery, self._retry(delivery, result, delay))
            case Park(host, delay):
                await self._move(delivery, self._park(delivery, result, host, delay))
            case Aside(queue):
                message = self._aside(delivery, result, queue)
                await self.outbox.send(delivery.generation, message, math.inf)
            case Dead(kind, tell):
                letter = self._dead(delivery, result, kind)  # first: if it raises, nothing is out
                if tell:
                    await self._result(delivery, outcome)
                await self._move(delivery, letter)
        return await delivery.ack()

    async def _move(self, delivery: Delivery, message: Message) -> None:
        await self.outbox.send(delivery.generation, message, self._until(delivery))

    def _until(self, delivery: Delivery) -> float:
        return delivery.arrived + self.limits.release

    async def _result(self, delivery: Delivery, outcome: Outcome) -> None:
        message = Message(
            self.topology.results,
            routing_key(outcome.result),
            outcome.body,
            headers={**delivery.passed_on(), **_parks(delivery), **_marks(outcome.result)},
            correlation_id=delivery.correlation_id,
        )
        until = self._until(delivery)
        if delivery.bare and delivery.asked_by:
            message.headers[UNROUTABLE_REPLY] = delivery.asked_by
        if delivery.reply_to and not delivery.bare:
            await self.outbox.reply(delivery.generation, message, delivery.reply_to, until)
        else:
            await self.outbox.send(delivery.generation, message, until)

    def _retry(self, delivery: Delivery, result: Result, delay: float) -> Message:
        marks = {ATTEMPT: result.attempt + 1, JOB_ID: result.id, **_parks(delivery)}
        lived = _lived(delivery, tries=1)
        return self._job(delivery, self.topology.delay(delay), marks, lived)

    def _park(self, delivery: Delivery, result: Result, host: str, delay: float) -> Message:
        """Rather back too early than too late: then it is parked again, for the rest."""
        tier = wait_within(delay)
        marks = {
            ATTEMPT: result.attempt,
            JOB_ID: result.id,
            **_crashes(delivery),
            PARKS: delivery.parks + 1,
            TURN: f"{time.time() + delay:.3f} {host} {max(0.0, delay - tier):.3f}",
        }
        return self._job(delivery, self.topology.delay(tier), marks, _lived(delivery, waits=1))

    def _aside(self, delivery: Delivery, result: Result, queue: str) -> Message:
        """As it came, with what was known of it: nothing has become of it yet.

        An empty id travels too: else the next message id, which is ours, would be taken for one.
        """
        marks = {
            ATTEMPT: result.attempt,
            JOB_ID: result.id,
            **_crashes(delivery),
            **_parks(delivery),
            **self._undelivered(delivery),
        }
        if TURN in delivery.headers and delivery.turn:
            marks[TURN] = delivery.headers[TURN]
        return self._job(delivery, queue, marks, _lived(delivery))

    def _dead(self, delivery: Delivery, result: Result, kind: str) -> Message:
        failure = result.error or Failure("internal", "no reason given")
        marks = {
            **_marks(result),
            **_crashes(delivery),
            **self._undelivered(delivery),
            "x-scraperd-dead-reason": kind,
            "x-scraperd-dead-message": printable(failure.message, 500),
            "x-scraperd-dead-at": datetime.now(UTC).isoformat(timespec="seconds"),
            "x-scraperd-worker": result.worker or "",
        }
        if failure.field is not UNSET:
            marks["x-scraperd-dead-field"] = printable(failure.field)
        return self._job(delivery, self.topology.dead, marks)

    def _undelivered(self, delivery: Delivery) -> dict[str, Any]:
        """Why RabbitMQ gave the job up, if it did: its own header does not travel on."""
        given_up = delivery.queue == self.topology.undelivered
        return {UNDELIVERED: reason(delivery.headers)} if given_up else {}

    def _job(
        self,
        delivery: Delivery,
        queue: str,
        marks: dict[str, Any],
        lived: dict[str, Any] | None = None,
    ) -> Message:
        """The job itself, body untouched, on its way to one of our queues.

        Signed, if it is to run again; a dead letter's marks are good for nothing but to be read.
        """
        if delivery.bare and delivery.asked_by:  # as a property it may have been the end of others
            marks = {**marks, REPLY_TO: delivery.asked_by}
        if queue != self.topology.dead:
            marks = {**self.keys.sign(delivery.body, marks), **(lived or {})}
        return Message(
            "",
            queue,
            delivery.body,
            headers={**delivery.passed_on(), **marks},
            correlation_id=delivery.correlation_id,
            reply_to=None if delivery.bare else delivery.reply_to,
            priority=delivery.priority,
            content_type=delivery.content_type,
        )


def _parks(delivery: Delivery) -> dict[str, Any]:
    return {PARKS: delivery.parks} if delivery.parks else {}


def _crashes(delivery: Delivery) -> dict[str, Any]:
    return {CRASHES: delivery.crashes} if delivery.crashes else {}


def _lived(delivery: Delivery, tries: int = 0, waits: int = 0) -> dict[str, Any]:
    """How often it went to a delay queue in all, for processes that don't believe each other."""
    counts = {TRIES: delivery.tries + tries, WAITS: delivery.waits + waits}
    return {name: count for name, count in counts.items() if count}


def _marks(result: Result) -> dict[str, Any]:
    """What a consumer can read without opening the body."""
    return {JOB_ID: result.id, ATTEMPT: result.attempt, "x-scraperd-status": result.status}


def routing_key(result: Result) -> str:
    """`ok.200.com.example.www`, `failed.dns.com.example.www`: bind `failed.#`, or one domain."""
    what = str(result.http_status) if not result.error else result.error.kind
    words = [result.status, what]
    if host := host_of(result.url):
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


def too_large(result: Result, size: int, limit: int) -> Result:
    """The failed result that stands for one the broker would not take."""
    return structs.replace(
        _light(result),
        status="failed",
        error=Failure("too_large", f"the result has {size} bytes, more than {limit}"),
        meta=result.meta if result.meta is UNSET or len(bytes(result.meta)) < limit // 2 else UNSET,
    )


def _light(result: Result) -> Result:
    """`result` without what can be large."""
    return structs.replace(
        result,
        body=UNSET,
        body_encoding=UNSET,
        data=UNSET,
        links=UNSET,
        metadata=UNSET,
        headers=UNSET,
    )
