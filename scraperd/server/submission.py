"""Jobs out of a request's body: one job, or a job a line. Each is checked as a daemon checks it.

May touch: the contract, the sandbox that compiles rules, the door to the broker.
Must never: hold more of a body than one line, or let one bad line end the others.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.base.text import printable
from scraperd.contract import Invalid, decode_job, encode
from scraperd.extract.rules import RuleError
from scraperd.jobs.decode import BATCHES_OFF
from scraperd.sandbox.extractor import Crowded, Unchecked
from scraperd.scrape.content import unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Collection

    from scraperd.contract import Job
    from scraperd.jobs.callback.allowed import Allowed
    from scraperd.sandbox.extractor import Extractor

MAX_REASON: Final = 300  # characters


class Accepted(Struct, frozen=True):
    """A job that can be published: its id, and the JSON that goes to the queue."""

    id: str
    body: bytes


class Rejected(Struct, frozen=True):
    """What is not a job: the field, empty if all of it is meant, and the reason."""

    field: str
    reason: str

    @property
    def message(self) -> str:
        """Where, then what."""
        return f"{self.field}: {self.reason}" if self.field else self.reason

    @property
    def members(self) -> dict[str, Any]:
        """Its members in an answer."""
        about = {"field": self.field} if self.field else {}
        return {**about, "reason": printable(self.reason, MAX_REASON)}


class Checker:
    """Reads jobs of at most `max_size` bytes; they may choose from `proxies` and `callbacks`.

    `batches` says whether they may belong to a batch.
    """

    def __init__(
        self,
        max_size: int,
        proxies: Collection[str],
        callbacks: Allowed,
        extractor: Extractor,
        *,
        batches: bool = False,
    ) -> None:
        self.max_size = max_size
        self._proxies = proxies
        self._callbacks = callbacks
        self._extractor = extractor
        self._batches = batches

    async def check(self, raw: bytes, ident: str = "") -> Accepted | Rejected:
        """Return the job that a message of these bytes would be, or why it would not be valid.

        A job without an id gets `ident`, or a random id. Rules that no helper process can compile
        now are left to the daemon.
        """
        job = decode_job(raw, self.max_size)
        if isinstance(job, Invalid):
            return Rejected(job.field, job.reason)
        fault = self._fault(job) or await self._rule_fault(job)
        if fault is not None:
            return fault
        named = job if job.id is not UNSET else replace(job, id=ident or uuid.uuid4().hex)
        return Accepted(str(named.id), encode(named))

    def _fault(self, job: Job) -> Rejected | None:
        if job.proxy and job.proxy not in self._proxies:
            return Rejected("proxy", f"no proxy is named {printable(job.proxy)} here")
        if fault := unavailable(job):
            return Rejected("include", fault)
        if job.batch and not self._batches:
            return Rejected("batch", BATCHES_OFF)
        refused = self._callbacks.fault(job)
        return None if refused is None else Rejected(*refused)

    async def _rule_fault(self, job: Job) -> Rejected | None:
        if job.extract is UNSET:
            return None
        try:
            await self._extractor.rules(bytes(job.extract))
        except RuleError as error:
            return Rejected(error.path, error.reason)
        except (Crowded, OutOfDescriptors, Unchecked):
            pass
        return None


class Overlong:
    """Stands for a line that is longer than a job may be; none of it was kept."""


async def lines(pieces: AsyncIterable[bytes], limit: int) -> AsyncGenerator[bytes | Overlong]:
    """Yield the lines of a body without their ends: by line feeds, the last perhaps without.

    Of a line with more than `limit` bytes no more than that is held.
    """
    kept, over = bytearray(), False
    async for piece in pieces:
        *whole, rest = piece.split(b"\n")
        for part in whole:
            over = over or len(kept) + len(part) > limit + 1  # a carriage return is no part of it
            yield Overlong() if over else bytes(kept + part).rstrip(b"\r")
            kept.clear()
            over = False
        over = over or len(kept) + len(rest) > limit + 1
        if over:
            kept.clear()
        else:
            kept += rest
    if kept or over:
        yield Overlong() if over else bytes(kept).rstrip(b"\r")
