"""A delivery's body as a job that can be run: decoded, its URL parsed, its rules compiled.

May touch: the contract, the scraper's compiler of rules.
Must never: fetch a page, or raise for what a publisher sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import UNSET, Struct

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.base.inflate import Undecodable, unpacked
from scraperd.base.text import printable
from scraperd.base.urls import host_of
from scraperd.contract import Failure, Invalid, decode_job, refused
from scraperd.extract.rules import RuleError
from scraperd.jobs.callback.allowed import NONE
from scraperd.sandbox.extractor import Crowded, Unchecked
from scraperd.scrape.content import unavailable
from scraperd.scrape.request import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from msgspec import UnsetType

    from scraperd.broker.ports import Delivery
    from scraperd.contract import Job
    from scraperd.extract.rules import Rules
    from scraperd.jobs.callback.allowed import Allowed
    from scraperd.jobs.received import Received
    from scraperd.scrape.pipeline import Scraper

BATCHES_OFF: Final = "batches are not tallied here (batches.enabled is false)"


class Prepared(Struct, frozen=True):
    """A job with its rules, or with why they could not be had."""

    target: Target
    rules: Rules | Failure | OutOfDescriptors | Crowded | None = None

    @property
    def seen(self) -> Job:
        """The job itself."""
        return self.target.job

    @property
    def names(self) -> tuple[Any, str | UnsetType, str | None]:
        """What names the job: its own id, its URL, and the host of that."""
        job = self.target.job
        return job.id, job.url, self.target.url.raw_host

    @property
    def max_retries(self) -> int | UnsetType:
        """How often the job itself wants to be retried at most."""
        return self.target.job.max_retries


class Undecoded(Struct, frozen=True):
    """A body that is no job; `seen` is what could be read of it."""

    seen: Invalid

    @property
    def failure(self) -> Failure:
        """Why, as the result says it."""
        return Failure("invalid_job", self.seen.message, field=self.seen.field)

    @property
    def names(self) -> tuple[Any, str | UnsetType, str | None]:
        """What names it: an id, a URL, and the host of that, as far as they could be read."""
        return self.seen.id, self.seen.url, host_of(self.seen.url)

    @property
    def max_retries(self) -> int | UnsetType:
        """It is not retried."""
        return UNSET


Decoded: TypeAlias = Prepared | Undecoded


class Decoder:
    """Reads jobs of `max_size` bytes at most, which may choose from `proxies`. One for the process.

    `callbacks` says which callbacks they may ask for, and `batches` whether they may belong to a
    batch. `on_error` is told of an error of ours with the job's id, and says how it ends the job.
    """

    def __init__(
        self,
        max_size: int,
        proxies: Collection[str],
        scraper: Scraper,
        on_error: Callable[[Exception, str | None], Failure],
        callbacks: Allowed = NONE,
        *,
        batches: bool = False,
    ) -> None:
        self._scraper = scraper
        self._on_error = on_error
        self.callbacks = callbacks
        self.batches = batches
        self.configure(max_size, proxies)

    def configure(self, max_size: int, proxies: Collection[str]) -> None:
        """Take another largest size, and other proxies."""
        self._max_size = max_size
        self._proxies = proxies

    async def decode(self, received: Received, seconds: float) -> Decoded:
        """Return the job with its rules, or why it is none. Compiling may take `seconds`."""
        try:
            body = self.body_of(received.delivery)
        except Undecodable as error:
            return Undecoded(Invalid("", f"{error.what} {error}"))
        job = decode_job(body, self._max_size)
        if isinstance(job, Invalid):
            return Undecoded(job)
        if fault := self._fault(received.delivery, job):
            return Undecoded(refused(job, *fault))
        target = Target.of(job)
        if job.extract is UNSET:
            return Prepared(target)
        raw = bytes(job.extract)
        if (rules := self._scraper.known_rules(raw)) is not None:
            return Prepared(target, rules)
        return await self._compiled(received, target, raw, seconds)

    def body_of(self, delivery: Delivery) -> bytes:
        """Return a job's JSON: unpacked, if the publisher's content_encoding says so.

        Raises Undecodable, also for more than jobs.max_size bytes when unpacked, and for what the
        transport could not read. What is larger as it came is left alone. So is any other
        content_encoding, as some clients say `utf-8` there, and an object of JSON that is not
        packed after all.
        """
        if delivery.unreadable:
            raise Undecodable(delivery.unreadable, "the body")
        body, coding = delivery.body, delivery.own.content_encoding
        if coding is None or len(body) > self._max_size:
            return body
        try:
            return unpacked(body, coding, self._max_size, "content_encoding")
        except Undecodable:
            if body.startswith(b"{"):
                return body
            raise

    def _fault(self, delivery: Delivery, job: Job) -> tuple[str, str] | None:
        """What this process can't do for the job: the field, and why."""
        if delivery.overfull:
            return "", f"the message has more than {delivery.overfull} headers"
        if job.proxy and job.proxy not in self._proxies:
            return "proxy", f"no proxy is named {printable(job.proxy)} here"
        if fault := unavailable(job):
            return "include", fault
        if job.batch and not self.batches:
            return "batch", BATCHES_OFF
        if job.callback_url or job.callback or job.batch:
            return self.callbacks.fault(job)
        return None

    async def _compiled(
        self, received: Received, target: Target, raw: bytes, seconds: float
    ) -> Decoded:
        try:
            async with asyncio.timeout(seconds):
                return Prepared(target, await self._scraper.rules(raw))
        except RuleError as error:
            return Undecoded(refused(target.job, error.path, error.reason))
        except (OutOfDescriptors, Crowded) as lack:
            return Prepared(target, lack)
        except Unchecked as lack:
            return Prepared(target, lack.failure)
        except TimeoutError:
            over = f"extract took over {seconds:.3g} s to be compiled (jobs.timeout)"
            return Prepared(target, Failure("timeout", over, retryable=True))
        except Exception as error:  # noqa: BLE001 - an error of ours ends this job, by its name
            return Prepared(target, self._on_error(error, received.ident(target.job.id)))
