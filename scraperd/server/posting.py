"""POST /v1/jobs: what a request says of its jobs, and how these are published.

May touch: the body of the request in pieces, the checker, the door to the broker.
Must never: name a job as accepted before the broker has confirmed it.
"""

from __future__ import annotations

import asyncio
import math
import re
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from scraperd.server.access.leave import LEAVE
from scraperd.server.idempotency import HEADER, Kept, Outcome, key_of
from scraperd.server.listener import Answer, Gone, pieces
from scraperd.server.problems import NotSent, Problem, unavailable
from scraperd.server.submission import Overlong, Rejected, lines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp import web

    from scraperd.config.tables import HttpSettings
    from scraperd.server.access.leave import Leave
    from scraperd.server.door import Door
    from scraperd.server.held import Held
    from scraperd.server.idempotency import Keys
    from scraperd.server.submission import Accepted, Checker

JSON: Final = "application/json"
LINES: Final = frozenset({"application/x-ndjson", "application/jsonl"})
AGAIN: Final = 5  # seconds after which a client may ask again for a place among the results
RESULTS: Final = "/v1/results/"
_NUMBER: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,2})?")


class Wanted(Struct, frozen=True):
    """What the head of a request says: one job or many, how long to wait, the idempotency key."""

    many: bool
    wait: float | None
    key: str | None


def wait_of(request: web.BaseRequest, most: float) -> float | None:
    """Return the seconds of `?wait`; None without. Raises Problem, also for another parameter."""
    found = request.query
    if unknown := [name for name in found if name != "wait"]:
        raise Problem(HTTPStatus.BAD_REQUEST, f"unknown query parameter {unknown[0]!r}; only wait")
    if not found:
        return None
    text = found["wait"]
    if len(found.getall("wait")) > 1 or not _NUMBER.fullmatch(text) or not 0 < float(text) <= most:
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            f"wait is one number of seconds, above 0 and at most {most:g} (http.max_wait)",
        )
    return float(text)


def wanted_of(request: web.BaseRequest, settings: HttpSettings) -> Wanted:
    """Read the head of a request. Raises Problem."""
    media, _, parameters = request.headers.get("Content-Type", "").partition(";")
    media, charset = media.strip().lower(), parameters.strip().lower().replace('"', "")
    known = media == JSON or media in LINES
    if not known or charset not in ("", "charset=utf-8"):
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the Content-Type is {JSON} for one job, or application/x-ndjson (or "
            "application/jsonl) for a job a line, in UTF-8",
            headers={"Accept-Post": ", ".join((JSON, *sorted(LINES)))},
        )
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "a compressed body is not read",
            headers={"Accept-Encoding": "identity"},
        )
    wait = wait_of(request, settings.max_wait)
    if wait is not None and media in LINES:
        raise Problem(HTTPStatus.BAD_REQUEST, f"wait goes with one job ({JSON})")
    return Wanted(media in LINES, wait, key_of(request.headers.getall(HEADER, [])))


@dataclass(slots=True)
class Report:
    """What became of the lines of a request."""

    accepted: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    unconfirmed: list[dict[str, Any]] = field(default_factory=list)
    problem: Problem | None = None

    @property
    def members(self) -> dict[str, Any]:
        """Its members in an answer, in the order of the lines."""
        more = {"unconfirmed": self.unconfirmed} if self.unconfirmed else {}
        lists = {"accepted": self.accepted, "rejected": self.rejected, **more}
        return {name: sorted(them, key=lambda it: it["line"]) for name, them in lists.items()}


class Poster(Struct, frozen=True):
    """Takes the requests with jobs. One for the process."""

    settings: HttpSettings
    checker: Checker
    door: Door
    held: Held
    keys: Keys

    async def post(self, request: web.BaseRequest, holder: str) -> Answer:
        """Publish the jobs of a request. Raises Problem; OSError if the client has gone."""
        wanted = wanted_of(request, self.settings)
        if wanted.key is None:
            outcome = await self._submit(request, wanted, holder, "", sha256())
            return await self._answer(outcome, wanted, request[LEAVE])
        with self.keys.claimed((holder, wanted.key)) as kept:
            outcome = await self._once(request, wanted, (holder, wanted.key), kept)
        return await self._answer(outcome, wanted, request[LEAVE])

    async def _once(
        self, request: web.BaseRequest, wanted: Wanted, key: tuple[str, str], kept: Kept | None
    ) -> Outcome:
        """Return the outcome of the request, or of the earlier one with its key."""
        digest = sha256(f"{wanted.many} {wanted.wait is None}\n".encode())
        if kept is None:
            outcome = await self._submit(request, wanted, key[0], "\n".join(key), digest)
            self.keys.keep(key, Kept(digest.digest(), outcome))
            return outcome
        async with aclosing(self._body(request, wanted, digest)) as body:
            async for _ in body:
                pass
        if kept.digest != digest.digest():
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"this {HEADER} was used for another request; a new request needs a new key",
            )
        return replace(kept.outcome, jobs=0)

    async def _body(
        self, request: web.BaseRequest, wanted: Wanted, digest: Any
    ) -> AsyncGenerator[bytes]:
        """Yield the body in pieces, within its bounds, and count each into the digest."""
        it, one = self.settings, (self.checker.max_size, "jobs.max_size")
        most, limit = (it.max_body, "http.max_body") if wanted.many else one
        async with aclosing(pieces(request, most, limit, it.request_timeout)) as body:
            async for piece in body:
                digest.update(piece)
                yield piece

    async def _submit(
        self, request: web.BaseRequest, wanted: Wanted, holder: str, seed: str, digest: Any
    ) -> Outcome:
        body = self._body(request, wanted, digest)
        try:
            if wanted.many:
                return await self._many(body, seed, request[LEAVE])
            raw = b"".join([piece async for piece in body])
        finally:
            await body.aclose()
        return await self._one(raw, seed, None if wanted.wait is None else holder)

    async def _one(self, raw: bytes, seed: str, waits: str | None) -> Outcome:
        """Publish one job; `waits` is whose token waits for the result. Raises Problem."""
        checked = await self.checker.check(raw, _ident(seed, 1, raw))
        if isinstance(checked, Rejected):
            raise Problem(HTTPStatus.BAD_REQUEST, checked.message, **checked.members)
        await self.door.enter()
        handle = ""
        try:
            handle = "" if waits is None else self._expected(checked, waits)
            await self.door.publish(checked.body, handle or checked.id, replied=bool(handle))
        except BaseException:
            self.held.drop(handle)
            raise
        finally:
            self.door.leave()
        return Outcome(
            HTTPStatus.ACCEPTED, msgspec.json.encode({"id": checked.id}), 1, handle or None
        )

    def _expected(self, job: Accepted, holder: str) -> str:
        if (handle := self.held.expect(job.id, holder)) is None:
            most = "as many results are waited for as may be, in all or with this token"
            raise unavailable(f"{most} (http.max_results)", AGAIN)
        return handle

    async def _answer(self, outcome: Outcome, wanted: Wanted, leave: Leave) -> Answer:
        if outcome.handle is None or wanted.wait is None:
            return Answer(outcome.status, outcome.body, jobs=outcome.jobs)
        try:
            return await result_of(self.held, outcome.handle, wanted.wait, leave, outcome)
        except Problem as problem:  # the leave has ended; the job is published all the same
            told = [{"line": 1, **msgspec.json.decode(outcome.body)}] * outcome.jobs
            raise problem.with_members({"accepted": told}) from None

    async def _many(self, body: AsyncGenerator[bytes], seed: str, leave: Leave) -> Outcome:
        """Publish the job of each line, several at a time. Raises Problem, or Gone."""
        report, tasks = Report(), set[asyncio.Task[None]]()
        left: ConnectionError | None = None
        try:
            await self._lines(body, seed, report, tasks, leave)
        except Problem as broken:
            report.problem = broken
        except ConnectionError as error:
            left = error
        finally:
            if tasks:
                await asyncio.wait(tasks)
        members, jobs = report.members, len(report.accepted)
        if left is not None:
            raise Gone(jobs) from left
        if (problem := report.problem) is not None:
            raise problem.with_members(members)
        if not jobs:
            none = "no line is a job that can be published"
            raise Problem(HTTPStatus.BAD_REQUEST, none, **members)
        return Outcome(HTTPStatus.ACCEPTED, msgspec.json.encode(members), jobs)

    async def _lines(
        self,
        body: AsyncGenerator[bytes],
        seed: str,
        report: Report,
        tasks: set[asyncio.Task[None]],
        leave: Leave,
    ) -> None:
        """Check each line and begin to publish it. Raises Problem."""
        async with aclosing(lines(body, self.checker.max_size)) as found:
            number = 0
            async for line in found:
                number += 1
                if report.problem is not None:
                    return
                leave.check()
                if number > (most := self.settings.max_jobs):
                    raise Problem(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                        f"the body has more than {most} lines (http.max_jobs)",
                    )
                if isinstance(line, Overlong) or line.strip():
                    await self._line(line, number, seed, report, tasks)

    async def _line(
        self,
        line: bytes | Overlong,
        number: int,
        seed: str,
        report: Report,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        checked = await self._checked(line, seed, number)
        if isinstance(checked, Rejected):
            report.rejected.append({"line": number, **checked.members})
            await asyncio.sleep(0)  # a body of bad lines waits for nothing else: others have a turn
            return
        await self.door.enter()
        task = asyncio.create_task(self._publish(checked, number, report))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _checked(self, line: bytes | Overlong, seed: str, number: int) -> Accepted | Rejected:
        if isinstance(line, Overlong):
            limit = self.checker.max_size
            return Rejected("", f"the job has more than {limit} bytes (jobs.max_size)")
        return await self.checker.check(line, _ident(seed, number, line))

    async def _publish(self, job: Accepted, number: int, report: Report) -> None:
        """Publish the job of a line, for which a slot is taken; note what became of it."""
        told = {"line": number, "id": job.id}
        try:
            await self.door.publish(job.body, job.id)
        except Problem as problem:
            report.problem = problem
            if not isinstance(problem, NotSent):
                report.unconfirmed.append(told)
        else:
            report.accepted.append(told)
        finally:
            self.door.leave()


def _ident(seed: str, line: int, raw: bytes) -> str:
    """Return the id of a job that has none: with a key always the same one, else empty.

    So a job that is sent again after its key is forgotten has the id of the first time.
    """
    return sha256(f"{seed}\n{line}\n".encode() + raw).hexdigest()[:32] if seed else ""


async def result_of(
    held: Held, handle: str, wait: float | None, leave: Leave, outcome: Outcome | None = None
) -> Answer:
    """Return the answer about a result: 200 with it, or 202 if it may still come.

    `outcome` is that of the request which submitted the job. Without, what is not held is 404:
    raises Problem. So it does if the leave of the request ends meanwhile.
    """
    jobs = outcome.jobs if outcome else 0
    entry = held.get(handle)
    if entry is not None and entry.pending and wait is not None:
        async with leave.waiting():
            await held.wait(entry, wait)
    if entry is not None and entry.body is not None:
        held.note_read(handle)
        return Answer(HTTPStatus.OK, entry.body, jobs=jobs)
    if entry is not None and entry.pending:
        where = RESULTS + handle
        body = msgspec.json.encode({"id": entry.ident, "result": where})
        return Answer(
            HTTPStatus.ACCEPTED, body, headers={"Location": where, "Retry-After": "1"}, jobs=jobs
        )
    if outcome is not None:
        return Answer(HTTPStatus.ACCEPTED, outcome.body, jobs=jobs)
    raise Problem(
        HTTPStatus.NOT_FOUND,
        "no result is kept here: the time for it is over (http.result_hold), the gateway was "
        "restarted or lost the broker, or it was never expected",
    )


def seconds_up(seconds: float) -> str:
    """Return the value of a Retry-After header: whole seconds, at least 1."""
    return str(max(1, math.ceil(seconds)))
