"""Decode, scrape, decide, settle, record. Owns the jobs in flight.

May touch: scrape, the ports of a broker, contract, verdict; the clocks it is given.
Must never: settle anywhere but in Settler, or let one job's failure reach another.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import UNSET

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.base.tasks import reraise_own_cancel
from scraperd.base.text import printable
from scraperd.broker.ports import Delay, Into, Lost, Refused, Source
from scraperd.contract import Failure, Invalid, Job, Peeked, Result, decode_job, refused
from scraperd.extract.rules import RuleError, Rules
from scraperd.jobs import undelivered
from scraperd.jobs.envelope import Envelope
from scraperd.jobs.quarantine import Discounts
from scraperd.jobs.received import Received
from scraperd.jobs.record import Observer, Record
from scraperd.jobs.settle import Outcome
from scraperd.jobs.verdict import Ended, Misplaced, Policy, Unrun, Verdict, decide
from scraperd.politeness.admission import NotYet
from scraperd.sandbox.extractor import Crowded, Unchecked
from scraperd.scrape.content import unavailable
from scraperd.scrape.pipeline import Page, Scraper, result_of, tightest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Delivery, Destination, Epoch
    from scraperd.config.settings import Config
    from scraperd.jobs.settle import Settler

MAX_SNOOZES: Final = 1000  # a job that was snoozed this often goes in circles
SPARE_TRIES: Final = 100  # forgotten ones, beyond twice max_retries, that end a job
FURTHEST: Final = 10 * 86400.0  # seconds; who claims a turn beyond that did not get it from us
REFUSED_FOR: Final = 60.0  # seconds a job waits whose outcome no queue takes
CROWDED_FOR: Final = (15.0, 60.0)  # seconds a large job waits for which there is no room
SETTLE_GRACE: Final = 5.0  # seconds a result that is being published gets past the drain deadline


Prepared: TypeAlias = "Rules | Failure | OutOfDescriptors | Crowded | None"
Decoded: TypeAlias = "tuple[Job, Prepared] | Invalid"
Work: TypeAlias = "Callable[[Received], Awaitable[None]]"


@dataclass(slots=True)
class Flight:
    """One delivery being worked on, and how far it is."""

    task: asyncio.Task[None]
    page: Page | None = None
    settling: bool = False
    settled: bool = False  # acked, or too late for that: nothing more may be published of it

    @property
    def phase(self) -> str:
        """`waiting` until its first fetch, then `scraping`, then `settling`."""
        if self.settling:
            return "settling"
        return "scraping" if self.page is not None and self.page.begun else "waiting"


class Worker:
    """Runs every delivery it is given; the scraper bounds how many are fetched at once."""

    def __init__(
        self,
        config: Config,
        scraper: Scraper,
        settler: Settler,
        observer: Observer,
        name: str,
        *,
        clocks: Clocks,
    ) -> None:
        self._config = config
        self._scraper = scraper
        self._settler = settler
        self._observer = observer
        self._name = name
        self._clocks = clocks
        self._flights: dict[Received, Flight] = {}
        self._discounts = Discounts()
        self._unbegun: list[Received] = []  # taken over, and to be given back
        self._group: asyncio.TaskGroup | None = None
        self._stop = asyncio.Event()
        self.draining = False  # no further delivery is started

    async def run(self) -> None:
        """Own the jobs' tasks until `drain` has ended. A service of the daemon."""
        async with asyncio.TaskGroup() as self._group:
            await self._stop.wait()

    def accept(self, delivery: Delivery) -> None:
        """Take a delivery over; called by the consumer, returns at once."""
        received, work = self._received(delivery)
        if received.envelope.disbelieved:
            self._observer.disbelieved()
        if delivery.epoch.lost.done():
            self._discount(received)  # on its way when the epoch ended: it will come again
            return
        if self.draining:
            self._unbegun.append(received)
        else:
            self._start(received, work)

    def _received(self, delivery: Delivery) -> tuple[Received, Work]:
        """The delivery, read, and what to do with it. An error of ours ends this job only."""
        limit = self._config.delivery_limit
        try:
            received = Received.of(
                delivery, self._settler.keys, self._discounts, limit, now=self._clocks.wall()
            )
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - raised again where a job's errors are told
            return Received(delivery, Envelope(), stripped=True), _raising(error)
        return received, self.handle

    def _start(self, received: Received, work: Work, *, settling: bool = False) -> None:
        assert self._group is not None, "deliveries come before the worker runs"
        task = self._group.create_task(
            self._total(received, work), name=f"job {received.delivery.tag}"
        )
        flight = self._flights[received] = Flight(task, settling=settling)
        task.add_done_callback(lambda _: self._landed(received, flight))

    def _landed(self, received: Received, flight: Flight) -> None:
        if self._flights.get(received) is flight:
            del self._flights[received]

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
            self._flights.pop(received, None)  # or it would be excused
            received.delivery.epoch.end(f"a job could not be settled: {type(cause).__name__}")

    async def _bury(self, received: Received, ident: str, cause: BaseException) -> None:
        """Settle a job that raised `cause`, an error of ours, which is told without its details."""
        failure = self._internal(cause)
        received.name = ident or _known(received, None) or uuid.uuid4().hex
        result = self._failed(received, failure)
        await self._settle(received, failure, self._encoded(result))

    def _internal(self, cause: BaseException) -> Failure:
        """An error of ours, told without its details: those are in the log."""
        return Failure("internal", f"{type(cause).__name__} in {self._name}; see its log")

    async def handle(self, received: Received) -> None:
        """A delivery becomes a Job, a Result, a Verdict; that is published, and only then acked."""
        if self._over(received):
            await self._settle(received, *await self._unrun(received))
            return
        if (place := received.quarantine) is not None:
            await self._move(received, Into(place))
            return
        if self._is_crowded_out(received):
            await self._move(received, Delay(self._clocks.between(*CROWDED_FOR)))
            return
        job = await self._decode(received)
        received.name = _known(received, job) or uuid.uuid4().hex
        received.url = job.url if isinstance(job, Invalid) else job[0].url
        page = self._flights[received].page = self._page(received, job)
        try:
            if received.delivery.source is Source.SOLO:
                self._observer.solo(received.name, received.url, received.strikes)
            ended, outcome = await self._outcome(received, job, page)
            await self._settle(received, ended, outcome, job)
        finally:
            if page is not None:
                page.close()

    async def _back(self, received: Received) -> None:
        await self._move(received, Into(received.delivery.source))

    async def _move(self, received: Received, to: Destination) -> None:
        received.name = received.name or _known(received, None) or ""
        await self._settle(received, Misplaced(to), None)

    async def _settle(
        self, received: Received, ended: Ended, outcome: Outcome | None, job: Decoded | None = None
    ) -> None:
        flight = self._flights[received]
        flight.settling = True
        started = self._clocks.monotonic()
        verdict = self._verdict(received, ended, job)
        try:
            try:
                settled = await self._settler.settle(received, outcome, verdict)
            except Refused:  # longer, and the broker would take every delivery away
                own = Into(received.delivery.source)  # a job that was given up is not to be run
                elsewhere = Misplaced(own if received.given_up else Delay(REFUSED_FOR))
                verdict, outcome = self._verdict(received, elsewhere, job), None
                settled = await self._settler.settle(received, None, verdict)
        except Lost:
            settled = False
        flight.settled = True
        self._observer.record(
            Record(
                received.name,
                received.url,
                received.envelope.attempt,
                outcome.result if outcome else None,
                verdict,
                settled,
                self._clocks.monotonic() - started,
                received.envelope.snoozes,
                received.strikes,
            )
        )

    def abandon(self, epoch: Epoch) -> None:
        """The epoch has ended: its jobs will be delivered again, so stop working on them.

        This process lives, so none of them has ended it, and their return is not held
        against them; but for those that were being published when the broker closed the
        connection over something that was sent.
        """
        suspicious = epoch.blames_a_publish
        for received, flight in list(self._flights.items()):
            if received.delivery.epoch is not epoch:
                continue
            if flight.phase != "settling" or not suspicious:
                self._discount(received)
            if flight.phase != "settling":
                flight.task.cancel()

    def _discount(self, received: Received) -> None:
        """The next redelivery of this job is not its fault."""
        self._discounts.add(received.fingerprint, received.discounted)

    def _is_crowded_out(self, received: Received) -> bool:
        """True for a large job that must wait until there are fewer of its kind here.

        One that is over max_job_size can't become a job: it is settled at once.
        """
        oversized = len(received.delivery.body) > self._config.max_job_size
        return received.delivery.crowded and not received.stripped and not oversized

    def _over(self, received: Received) -> bool:
        """Whether the job is not to be run any more: at its delivery limit, or given up."""
        return received.stripped or received.given_up

    async def _unrun(self, received: Received) -> tuple[Ended, Outcome]:
        """The end of a job that is not run. This process does not read its body.

        It may be what ended its processes. A helper looks for what names the job; if that ends
        the helper too, the job ends without.
        """
        seen = Peeked()
        if len(received.delivery.body) <= self._config.max_job_size:
            seen = await self._scraper.peek(received.delivery.body)
        if given_up := received.given_up:
            told = received.delivery.given_up
            failure = undelivered.failure(received.undelivered, told.times if told else None)
        else:
            times = received.strikes
            why = f"delivered {times} times before, and no outcome each time"
            failure = Failure("internal", why)
        known = seen.id or _known(received, None)
        received.name, received.url = known or uuid.uuid4().hex, seen.url
        tell = bool(known or seen.url or received.delivery.reply_to or not given_up)
        return Unrun(failure, tell), self._encoded(self._failed(received, failure, seen))

    def _encoded(self, result: Result) -> Outcome:
        return Outcome.of(result, self._settler.limits.max_message)

    def _failed(
        self, received: Received, failure: Failure, seen: Peeked | Invalid | None = None
    ) -> Result:
        """A failed result of what is known without a page; `seen` is what was read of the job."""
        return Result(
            id=received.name,
            url=seen.url if seen else UNSET,
            status="failed",
            error=failure,
            attempt=received.envelope.attempt,
            worker=self._name,
            meta=seen.meta if seen else UNSET,
        )

    def close(self) -> None:
        """Start nothing more: what has not begun is for another worker."""
        self.draining = True
        self._interrupt("waiting")

    async def drain(self, within: float) -> int:
        """Finish what is in flight within `within` seconds; returns how many jobs were left.

        Nothing may be consumed any more. What has not begun, and what is left, goes back into its
        queue by a publish: unacked, the broker would count it as a crash. A publish gets a little
        longer: cut there, it would be a duplicate.
        """
        self.close()
        self._give_back()
        left = 0
        if self._flights:
            await asyncio.wait(self._tasks(), timeout=within)
            left = self._interrupt("waiting", "scraping")
            self._give_back()
            if self._flights:
                await asyncio.wait(self._tasks(), timeout=SETTLE_GRACE)
                left += self._interrupt("settling")
        self._stop.set()
        return left

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [flight.task for flight in self._flights.values()]

    def _interrupt(self, *phases: str) -> int:
        """End the work on these; returns how many there are."""
        chosen = [
            (received, flight)
            for received, flight in self._flights.items()
            if flight.phase in phases and not flight.task.done()
        ]
        for received, flight in chosen:
            flight.task.cancel()
            if flight.phase != "settling":  # its task is not waited for any more
                self._unbegun.append(received)
                del self._flights[received]
        return len(chosen)

    def _give_back(self) -> None:
        """As it came, and with nothing held against it."""
        for received in self._unbegun:
            if not received.delivery.epoch.lost.done():
                self._start(received, self._back, settling=True)
        self._unbegun = []

    @property
    def in_flight(self) -> int:
        """Deliveries taken over and not yet settled."""
        return len(self._flights) + len(self._unbegun)

    async def _decode(self, received: Received) -> Decoded:
        """The job with its rules compiled, or why it is none."""
        job = decode_job(received.delivery.body, self._config.max_job_size)
        if isinstance(job, Invalid):
            return job
        if received.delivery.overfull:
            return refused(
                job, "", f"the message has more than {received.delivery.overfull} headers"
            )
        if job.proxy and job.proxy not in self._config.proxies:
            return refused(job, "proxy", f"no proxy is named {printable(job.proxy)} here")
        if fault := unavailable(job):
            return refused(job, "include", fault)
        if job.extract is UNSET:
            return job, None
        return await self._compiled(received, job, bytes(job.extract))

    async def _compiled(self, received: Received, job: Job, raw: bytes) -> Decoded:
        """The job with its rules, or with why they could not be had."""
        seconds = self._time_for(received)
        try:
            async with asyncio.timeout(seconds):
                return job, await self._scraper.rules(raw)
        except RuleError as error:
            return refused(job, error.path, error.reason)
        except (OutOfDescriptors, Crowded) as lack:
            return job, lack
        except Unchecked as lack:
            return job, lack.failure
        except TimeoutError:
            over = f"extract took over {seconds:.3g} s to be compiled (job_timeout)"
            return job, Failure("timeout", over, retryable=True)
        except Exception as error:  # noqa: BLE001 - an error of ours ends this job, by its name
            self._observer.trouble("internal_error", error, id=_known(received, (job, None)))
            return job, self._internal(error)

    def _page(self, received: Received, job: Decoded) -> Page | None:
        """What the job begins with, and the turn it was promised if it comes back for one."""
        if isinstance(job, Invalid):
            return None
        if (turn := received.envelope.turn) is None:
            return self._scraper.page(job[0])
        seconds = min(turn.at - self._clocks.wall(), turn.left, FURTHEST)
        return self._scraper.page(job[0], NotYet(turn.host, seconds))

    def _verdict(self, received: Received, ended: Ended, job: Decoded | None) -> Verdict:
        return decide(
            ended,
            received.envelope.attempt,
            self._policy(job),
            self._clocks.roll(),
            anonymous=_known(received, job) is None and received.delivery.reply_to is None,
        )

    async def _outcome(
        self, received: Received, job: Decoded, page: Page | None
    ) -> tuple[Ended, Outcome | None]:
        """Scrape, unless there is a reason not to. An error of ours becomes `internal`."""
        started = self._clocks.monotonic()
        if isinstance(job, Invalid) or page is None:
            assert isinstance(job, Invalid)
            failure = Failure("invalid_job", job.message, field=job.field)
            return failure, self._encoded(self._failed(received, failure, job))
        try:
            page.failure = self._reason_not_to(received, job[0])
            if page.failure is None:
                await self._begin(page, job[1], self._time_for(received))
            if page.later is not None:
                page.became(0)
                return NotYet(
                    page.later.host, _until(page.job, page.later.seconds, self._clocks.now())
                ), None
            outcome = self._encoded(
                self._result(received, page, self._clocks.monotonic() - started)
            )
        except Exception as error:  # noqa: BLE001 - any error of ours must end this job only
            self._observer.trouble("internal_error", error, id=received.name)
            bare = Page(page.job, failure=self._internal(error))
            outcome = self._encoded(
                self._result(received, bare, self._clocks.monotonic() - started)
            )
        page.became(len(outcome.body))
        return outcome.result.error or None, outcome

    async def _begin(self, page: Page, found: Prepared, seconds: float) -> None:
        match found:
            case Failure():
                page.failure = found
            case OutOfDescriptors() | Crowded():
                self._scraper.put_off(page, found)
            case _:
                await self._scrape(page, found, seconds)

    def _result(self, received: Received, page: Page, total: float) -> Result:
        ident, attempt = received.name, received.envelope.attempt
        return result_of(page, ident=ident, attempt=attempt, worker=self._name, total=total)

    def _time_for(self, received: Received) -> float:
        """Seconds that are left to the job of job_timeout, and of what the broker waits."""
        held = self._clocks.monotonic() - received.delivery.arrived
        return max(0.0, min(self._config.job_timeout, self._settler.limits.job) - held)

    async def _scrape(self, page: Page, rules: Rules | None, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._scraper.scrape(page, rules)
        except TimeoutError:
            over = f"the job took over {seconds:.3g} s"
            page.failure = Failure("timeout", over, retryable=True)

    def _reason_not_to(self, received: Received, job: Job) -> Failure | None:
        """Expired, or goes in circles."""
        if job.expires_at is not UNSET and job.expires_at <= self._clocks.now():
            return Failure("expired", f"expires_at was {job.expires_at.isoformat()}")
        if (snoozes := received.envelope.snoozes) >= MAX_SNOOZES:
            waited = f"it was put off {snoozes} times, for its host's turn or for a helper"
            return Failure("timeout", waited)
        return self._forgotten(received.envelope)

    def _forgotten(self, envelope: Envelope) -> Failure | None:
        """Its envelope is not believed again and again: else it would have come to an end by it.

        So it is where processes don't believe each other's. A change of the key costs a job no more
        than what it had by then: room for two of them.
        """
        tries, waits = envelope.tries - envelope.attempt, envelope.waits - envelope.snoozes
        if tries <= 2 * self._config.max_retries + SPARE_TRIES and waits <= 2 * MAX_SNOOZES:
            return None
        return Failure(
            "internal",
            f"it was tried {envelope.tries} times and waited {envelope.waits} times, and its marks "
            "were not believed; give all processes the same marks_key_file",
        )

    def _policy(self, job: Decoded | None) -> Policy:
        config = self._config
        own = UNSET if job is None or isinstance(job, Invalid) else job[0].max_retries
        return Policy(
            max_retries=tightest(config.max_retries, own),
            backoff=config.retry_backoff,
            backoff_max=config.retry_backoff_max,
            retry_after_max=config.retry_after_max,
        )


def _until(job: Job, seconds: float, now: datetime) -> float:
    """A job that expires before its turn comes back then, to say so."""
    if job.expires_at is UNSET:
        return seconds
    return max(0.0, min(seconds, (job.expires_at - now).total_seconds()))


def _known(received: Received, job: Decoded | None) -> str | None:
    """The job's id, if anything names it."""
    own: Any = UNSET
    if job is not None:
        own = job.id if isinstance(job, Invalid) else job[0].id
    return received.ident(own)


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
