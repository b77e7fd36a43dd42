"""Decode, scrape, decide, settle, record: what becomes of each delivery.

May touch: scrape, the ports of a broker, contract, verdict; the clocks it is given.
Must never: settle anywhere but in Settler, or let one job's failure reach another.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import UNSET

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.base.inflate import Undecodable
from scraperd.base.tasks import reraise_own_cancel
from scraperd.base.urls import host_of
from scraperd.broker.ports import Delay, Into, Lost, Refused, Source
from scraperd.contract import Failure, Job, Peeked
from scraperd.jobs import unrun
from scraperd.jobs.callback.allowed import NONE
from scraperd.jobs.decode import Decoder, Undecoded
from scraperd.jobs.envelope import Envelope
from scraperd.jobs.flights import Flights
from scraperd.jobs.outcome import Outcome
from scraperd.jobs.quarantine import Discounts
from scraperd.jobs.received import Received
from scraperd.jobs.record import Observer, Record, Tracer
from scraperd.jobs.verdict import Dead, Ended, Misplaced, Policy, Unrun, Verdict, decide
from scraperd.politeness.admission import NotYet, Reservation
from scraperd.sandbox.extractor import Crowded
from scraperd.scrape.request import tightest
from scraperd.scrape.result import Failed, Label, Scraped, result_of
from scraperd.scrape.tracing import TRACE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from datetime import datetime

    from msgspec import UnsetType

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Delivery, Destination, Epoch
    from scraperd.config.tables import JobsSettings
    from scraperd.contract import Batch, Invalid, Timings
    from scraperd.control.force import RulesInForce
    from scraperd.fetch.memory import Claim
    from scraperd.jobs.callback.allowed import Allowed
    from scraperd.jobs.decode import Decoded, Prepared
    from scraperd.jobs.settle import Settler
    from scraperd.scrape.pipeline import Scraper

FURTHEST: Final = 10 * 86400.0  # seconds; who claims a turn beyond that did not get it from us
REFUSED_FOR: Final = 60.0  # seconds a job waits whose outcome no queue takes
NEWER_FOR: Final = 30.0  # seconds a job waits again for a process that knows all of its fields
CROWDED_FOR: Final = (15.0, 60.0)  # seconds a large job waits for which there is no room
SETTLE_GRACE: Final = 5.0  # seconds a result that is being published gets past the drain deadline

Work: TypeAlias = "Callable[[Received], Awaitable[None]]"


class Worker:
    """Runs every delivery it is given; the scraper bounds how many are fetched at once.

    `proxies` are the names that a job may choose from.
    """

    def __init__(
        self,
        settings: JobsSettings,
        proxies: Collection[str],
        scraper: Scraper,
        settler: Settler,
        observer: Observer,
        *,
        name: str,
        clocks: Clocks,
        tracer: Tracer | None = None,
        callbacks: Allowed = NONE,
        batches: bool = False,
    ) -> None:
        self._settings = settings
        self._scraper = scraper
        self._settler = settler
        self._observer = observer
        self._name = name
        self._clocks = clocks
        self._work = self.handle if tracer is None else partial(self._traced, tracer)
        self._decoder = Decoder(
            settings.max_size, proxies, scraper, self._error, callbacks, batches=batches
        )
        self._flights = Flights()
        self._discounts = Discounts()
        self._proven = False  # an outcome was published since the broker last ended it over one
        self._group: asyncio.TaskGroup | None = None
        self._stop = asyncio.Event()
        self.draining = False  # no further delivery is started
        self._left = math.inf  # deliveries that may still be started
        self._on_last: Callable[[], object] = lambda: None
        self.rules: RulesInForce | None = None
        """The rules in force; None while it is known that there is none."""

    def configure(self, settings: JobsSettings, proxies: Collection[str]) -> None:
        """Take other settings, as when it was made. They hold for jobs that are here, too."""
        self._settings = settings
        self._decoder.configure(settings.max_size, proxies)

    async def run(self) -> None:
        """Own the jobs' tasks until `drain` has ended. A service of the daemon."""
        async with asyncio.TaskGroup() as self._group:
            await self._stop.wait()

    def accept(self, delivery: Delivery) -> None:
        """Take a delivery over; called by the consumer, returns at once."""
        received, work = self._received(delivery)
        if received.envelope.unverified:
            self._observer.unverified()
        if delivery.epoch.lost.done():
            self._discount(received)  # on its way when the epoch ended: it will come again
            return
        if self.draining:
            self._flights.unbegun.append(received)
            return
        self._start(received, work)
        self._left -= 1
        if self._left == 0:
            self.draining = True
            self._on_last()

    def stop_after(self, count: int, on_last: Callable[[], object]) -> None:
        """Start so many more deliveries; then call `on_last`, and start no other."""
        self._left, self._on_last = count, on_last

    def _received(self, delivery: Delivery) -> tuple[Received, Work]:
        """The delivery, read, and what to do with it. An error of ours ends this job only."""
        limit, now = self._settings.delivery_limit, self._clocks.wall()
        try:
            received = Received.of(delivery, self._settler.keys, self._discounts, limit, now=now)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - raised again where a job's errors are told
            return Received(delivery, Envelope(), stripped=True), _raising(error)
        return received, self._work

    def _start(self, received: Received, work: Work, *, settling: bool = False) -> None:
        assert self._group is not None, "deliveries come before the worker runs"
        task = self._group.create_task(
            self._total(received, work), name=f"job {received.delivery.tag}"
        )
        self._flights.start(received, task, "settling" if settling else "waiting")

    async def handle(self, received: Received) -> None:
        """A delivery becomes a Job, a Result, a Verdict; that is published, and only then acked."""
        if received.rejected and received.strikes + 1 < self._settings.delivery_limit:
            received.strikes += 1  # a process took it for a message that cannot be delivered
            await self._move(received, Into(Source.QUARANTINE))
            return
        if received.over:
            await self._settle(received, *await self._unrun(received))
            return
        if (elsewhere := self._elsewhere(received)) is not None:
            await self._move(received, elsewhere)
            return
        job = await self._decoder.decode(received, self._time_for(received))
        received.named(*job.names)
        if job.seen.batch:
            self._join(received, job.seen.batch)
        if job.seen.callback_url or job.seen.callback:
            received.callback = self._decoder.callbacks.target(job.seen)
        if received.delivery.source is Source.SOLO:
            self._observer.solo(received)
        with closing(self._scraper.claim()) as claim:
            ended, outcome = await self._outcome(received, job, claim)
            verdict = self._decide(received, ended, job.max_retries)
            await self._settle(received, outcome, verdict)

    def _join(self, received: Received, batch: Batch) -> None:
        """Have the outcome of a job noted for its batch, if batches are tallied."""
        if self._decoder.batches:
            received.batch = batch
            received.batch_callback = self._decoder.callbacks.target(batch)

    async def _traced(self, tracer: Tracer, received: Received) -> None:
        """Handle a delivery in a span, if it is one that is traced."""
        with tracer.job(received) as trace:
            TRACE.set(trace)  # the task's own: it has no other job
            await self.handle(received)

    def _elsewhere(self, received: Received) -> Destination | None:
        """Where the job must be moved to before it is looked at, if anywhere.

        A large one waits until there are fewer of its kind here. One that is over jobs.max_size
        can't become a job: it is settled at once.
        """
        if (place := received.quarantine) is not None:
            return Into(place)
        oversized = len(received.delivery.body) > self._settings.max_size
        if received.delivery.crowded and not oversized:
            return Delay(self._clocks.between(*CROWDED_FOR))
        return None

    async def _unrun(self, received: Received) -> tuple[Outcome, Verdict]:
        """The end of a job that is not run. This process does not read its body.

        It may be what ended its processes. A helper looks for what names the job; if that ends
        the helper too, the job ends without.
        """
        seen = Peeked()
        if len(received.delivery.body) <= self._settings.max_size:
            with suppress(Undecodable):
                seen = await self._scraper.peek(self._decoder.body_of(received.delivery))
        if given_up := received.given_up:
            told = received.delivery.given_up
            failure = unrun.given_up(received.undelivered, told.times if told else None)
        else:
            failure = unrun.at_its_limit(received.strikes)
        known = received.named(seen.id, seen.url, host_of(seen.url))
        if seen.batch:
            self._join(received, seen.batch)
        received.callback = self._decoder.callbacks.target(seen)
        wanted = received.delivery.reply_to or received.callback
        tell = bool(known or seen.url or wanted or not given_up)
        verdict = self._decide(received, Unrun(failure, tell))
        return self._result(received, Failed(failure), seen, dead=True), verdict

    async def _outcome(
        self, received: Received, job: Decoded, claim: Claim
    ) -> tuple[Ended, Outcome | None]:
        """Scrape, unless there is a reason not to. An error of ours becomes `internal`."""
        if isinstance(job, Undecoded):
            if self._may_be_newer(received, job):
                return NotYet(job.names[2] or "-", NEWER_FOR), None
            return job.failure, self._result(received, Failed(job.failure), job.seen, dead=True)
        seen, started = job.target.job, self._clocks.monotonic()
        try:
            ended = await self._scraped(received, job, claim)
            if isinstance(ended, NotYet):
                claim.resize(0)
                return _until_expiry(ended, seen, self._clocks.now()), None
            failure = ended.failure if isinstance(ended, Failed) else None
            dead = failure is not None and self._dies(received, failure, seen)
            outcome = self._result(received, ended, seen, started, dead=dead)
            if dead and not self._dies(received, outcome.result.error or None, seen):
                outcome = self._result(received, ended, seen, started)  # it was too large, and ends
        except Exception as error:  # noqa: BLE001 - any error of ours must end this job only
            failed = Failed(self._error(error, received.name))
            outcome = self._result(received, failed, seen, started, dead=True)
        claim.resize(len(outcome.body))
        return outcome.result.error or None, outcome

    def _may_be_newer(self, received: Received, job: Undecoded) -> bool:
        """Whether it is left to a process of a later version, which may know the field."""
        waited = received.envelope.snoozes * NEWER_FOR
        return job.seen.newer and waited < self._settings.unknown_field_wait

    async def _scraped(
        self, received: Received, job: Prepared, claim: Claim
    ) -> Scraped | Failed | NotYet:
        max_retries, now = self._settings.max_retries, self._clocks.now()
        why = unrun.reason_not_to(job.target.job, received.envelope, max_retries, now)
        if why is not None:
            return Failed(why)
        received.prepared = job
        if (in_force := self.rules) is not None:
            held = await in_force.held(job.target.job, received.name, job.target.host)
            if held is not None:
                return held
        match job.rules:
            case Failure() as failure:
                return Failed(failure)
            case OutOfDescriptors() | Crowded() as lack:
                return self._scraper.snooze(job.target.host, lack)
            case rules:
                return await self._scraper.scrape(
                    job.target,
                    rules,
                    claim,
                    reservation=self._reservation(received),
                    within=self._time_for(received),
                    on_fetch=self._flights[received].fetching,
                )

    def _reservation(self, received: Received) -> Reservation | None:
        """The turn that the job was promised, if it comes back for one."""
        if (turn := received.envelope.turn) is None:
            return None
        seconds = min(turn.at - self._clocks.wall(), turn.left, FURTHEST)
        return Reservation(turn.host, seconds)

    def _time_for(self, received: Received) -> float:
        """Seconds that are left to the job of jobs.timeout, and of what the broker waits."""
        held = self._clocks.monotonic() - received.delivery.arrived
        return max(0.0, min(self._settings.timeout, self._settler.limits.job) - held)

    def _result(
        self,
        received: Received,
        ended: Scraped | Failed,
        seen: Job | Invalid | Peeked,
        started: float | None = None,
        *,
        dead: bool = False,
    ) -> Outcome:
        """The result of a job of which `seen` is known; it began at `started`, if it was run."""
        noted = received.envelope
        limited: dict[str, float] | UnsetType = UNSET
        if isinstance(seen, Job):
            limited = self._scraper.limited(seen, max_retries=self._settings.max_retries)
        label = Label(
            received.name,
            noted.attempt,
            self._name,
            seen.url,
            seen.meta,
            run=noted.run,
            earlier=noted.earlier,
            limited=limited,
            dead=dead,
            batch=seen.batch.bare if seen.batch else UNSET,
        )
        timings: Timings | UnsetType = UNSET
        if started is not None:
            timings = ended.facts.timings(self._clocks.monotonic() - started)
        return Outcome.of(result_of(label, ended, timings), self._settler.limits.max_message)

    def _dies(self, received: Received, failure: Failure | None, job: Job) -> bool:
        """Whether the job goes to the dead queue, so that its result can say so."""
        return isinstance(self._decide(received, failure, job.max_retries), Dead)

    def _decide(
        self, received: Received, ended: Ended, max_retries: int | UnsetType = UNSET
    ) -> Verdict:
        settings = self._settings
        policy = Policy(
            max_retries=tightest(settings.max_retries, max_retries),
            backoff=settings.retry_backoff,
            backoff_max=settings.retry_backoff_max,
            retry_after_max=settings.retry_after_max,
        )
        attempt, roll = received.envelope.attempt, self._clocks.roll()
        return decide(ended, attempt, policy, roll, anonymous=received.anonymous)

    async def _settle(self, received: Received, outcome: Outcome | None, verdict: Verdict) -> None:
        """Publish what the verdict says, then ack, and record it."""
        flight = self._flights[received]
        flight.phase = "settling"
        verdict = self._settler.carried_out(verdict)
        started = self._clocks.monotonic()
        try:
            try:
                settled = await self._settler.settle(received, outcome, verdict)
            except Refused:  # longer, and the broker would take every delivery away
                own = Into(received.delivery.source)  # a job that was given up is not to be run
                elsewhere = Misplaced(own if received.given_up else Delay(REFUSED_FOR))
                verdict, outcome = self._decide(received, elsewhere), None
                settled = await self._settler.settle(received, None, verdict)
        except Lost:
            settled = False
        flight.settled = True
        self._proven = self._proven or (settled and outcome is not None)
        record = Record.of(
            received,
            outcome.result if outcome else None,
            verdict,
            settled=settled,
            publish_time=self._clocks.monotonic() - started,
        )
        self._observer.record(record)

    async def _move(self, received: Received, to: Destination) -> None:
        """To another queue, as it came."""
        received.name = received.name or received.ident() or ""
        await self._settle(received, None, self._decide(received, Misplaced(to)))

    async def _back(self, received: Received) -> None:
        await self._move(received, Into(received.delivery.source))

    async def _total(self, received: Received, work: Work) -> None:
        """Do `work` on a delivery. Whatever it raises ends this job, never the process.

        First with the id that was found, then with nothing of the publisher's but the body. If not
        even that can be published the generation ends, so that the broker counts this delivery.
        """
        flight, stripped = self._flights[received], received.stripped
        cause = await _raised(work(received))
        for ident, less in ((received.name, stripped), ("", True)):
            received.stripped = less
            if cause is None:
                return
            self._observer.trouble("internal_error", cause, id=ident or None)
            if flight.settled:
                return
            if not received.delivery.settled:  # else the ack itself failed
                cause = await _raised(self._bury(received, ident, cause))
        if cause is not None:
            self._flights.drop(received)  # or it would be excused
            received.delivery.epoch.end(f"a job could not be settled: {type(cause).__name__}")

    async def _bury(self, received: Received, ident: str, cause: BaseException) -> None:
        """Settle a job that raised `cause`, an error of ours, which is told without its details."""
        failure = self._internal(cause)
        received.name = ident
        if not ident:
            received.named(UNSET, received.url, received.host)
        outcome = self._result(received, Failed(failure), Peeked(), dead=True)
        await self._settle(received, outcome, self._decide(received, failure))

    def _error(self, error: Exception, ident: str | None) -> Failure:
        """An error of ours that one job meets: logged, and what it ends the job as."""
        self._observer.trouble("internal_error", error, id=ident)
        return self._internal(error)

    def _internal(self, cause: BaseException) -> Failure:
        """An error of ours, told without its details: those are in the log."""
        return Failure("internal", f"{type(cause).__name__} in {self._name}; see its log")

    def enforce(self) -> None:
        """Apply the rules in force to what is here: jobs are ended, or put off.

        What a job waits for, or fetches, is stopped as at the end of a drain. A job whose outcome
        is being published, or which is not decoded yet, is left to what comes next.
        """
        if (rules := self.rules) is None:
            return
        for flight in self._flights.unsettled():
            received, job = flight.received, flight.received.prepared
            if job is None or flight.task.done() or received.delivery.epoch.lost.done():
                continue
            begun = flight.phase == "scraping"
            held = rules.look(job.target.job, received.name, job.target.host, begun=begun)
            if held is not None:
                flight.task.cancel()
                self._flights.drop(received)
                self._start(received, partial(self._held, job, held), settling=True)

    async def _held(self, job: Prepared, held: Failed | NotYet, received: Received) -> None:
        """Settle a job that a rule has stopped."""
        if isinstance(held, NotYet):
            put_off = _until_expiry(held, job.seen, self._clocks.now())
            await self._settle(received, None, self._decide(received, put_off))
            return
        outcome = self._result(received, held, job.seen)
        verdict = self._decide(received, outcome.result.error or None, job.max_retries)
        await self._settle(received, outcome, verdict)

    def abandon(self, epoch: Epoch) -> None:
        """The epoch has ended: its jobs will be delivered again, so stop working on them.

        This process lives, so none of them has ended it, and their return is not held
        against them; but for those that were being published when the broker closed the
        connection over something that was sent. Not so if no outcome at all was published since
        the last such end: then the broker may refuse them all (docs/decisions/0043-blame.md).
        """
        suspicious = epoch.blames_a_publish and self._proven
        if epoch.blames_a_publish:
            self._proven = False
        for flight in self._flights.of(epoch):
            settling = flight.phase == "settling"
            if not settling or not suspicious:
                self._discount(flight.received)
            if not settling:
                flight.task.cancel()

    def _discount(self, received: Received) -> None:
        """The next redelivery of this job is not its fault."""
        self._discounts.add(received.fingerprint, received.discounted)

    def close(self) -> None:
        """Start nothing more: what has not begun is for another worker."""
        self.draining = True
        self._flights.interrupt("waiting")

    async def drain(self, within: float) -> int:
        """Finish what is in flight within `within` seconds; returns how many jobs were left.

        Nothing may be consumed any more. What has not begun, and what is left, goes back into its
        queue by a publish: unacked, the broker would count it as a crash. So does what no queue
        takes. A publish gets a little longer: cut there, it would be a duplicate.
        """
        self.close()
        self._give_back()
        left = 0
        if tasks := self._flights.tasks:
            await asyncio.wait(tasks, timeout=within)
            left = self._flights.interrupt("scraping")  # nothing has waited since `close`
            self._give_back()
            self._settler.let_go()  # what no queue takes now goes back into a delay
            if tasks := self._flights.tasks:
                await asyncio.wait(tasks, timeout=SETTLE_GRACE)
                left += self._flights.interrupt("settling")
        self._stop.set()
        return left

    def _give_back(self) -> None:
        """As it came, and with nothing held against it."""
        for received in self._flights.take_unbegun():
            if not received.delivery.epoch.lost.done():
                self._start(received, self._back, settling=True)

    @property
    def waiting(self) -> int:
        """Deliveries of them that have asked nothing of a site yet."""
        return self._flights.count("waiting")

    @property
    def settling(self) -> int:
        """Deliveries of them whose outcome is being published."""
        return self._flights.count("settling")

    @property
    def in_flight(self) -> int:
        """Deliveries taken over and not yet settled."""
        return len(self._flights)


def _until_expiry(not_yet: NotYet, job: Job, now: datetime) -> NotYet:
    """A job that expires before its turn comes back then, to say so."""
    if job.expires_at is UNSET:
        return not_yet
    left = (job.expires_at - now).total_seconds()
    return NotYet(not_yet.host, max(0.0, min(not_yet.seconds, left)))


def _raising(error: BaseException) -> Work:
    async def work(_received: Received) -> None:
        raise error

    return work


async def _raised(work: Awaitable[None]) -> BaseException | None:
    """What `work` raised. A cancelled job, and a process that ends, are no errors.

    A library may raise CancelledError though nobody cancelled the job. That ends this job too: else
    it would hold its place unsettled as long as the process lives.
    """
    try:
        await work
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - one job's error must reach no other
        reraise_own_cancel(error)
        return error
    return None
