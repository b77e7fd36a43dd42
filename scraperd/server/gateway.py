"""The gateway: who may ask for what, and one line of the log for each request.

May touch: requests and answers of aiohttp's server, the rooms' own parts, clocks.
Must never: log a token, a body, a query or a handle, or answer an error without a problem body.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias

from aiohttp import HttpVersion10, HttpVersion11
from msgspec import Struct

from scraperd.base.text import printable
from scraperd.server.access.hosts import is_loopback, is_own_host
from scraperd.server.access.leave import LEAVE, Leave
from scraperd.server.batches.progress import BATCHES, batch_of
from scraperd.server.listener import FULL, Answer, Gone, Stream, is_spare, send, send_on
from scraperd.server.posting import RESULTS, result_of, seconds_up, wait_of
from scraperd.server.problems import Problem, unavailable
from scraperd.server.rules.cancelling import JOBS
from scraperd.server.tokens import ANYBODY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web

    from scraperd.base.clocks import Clocks
    from scraperd.config.tables import HttpSettings
    from scraperd.server.batches.asking import Batches
    from scraperd.server.door import Door
    from scraperd.server.held import Held
    from scraperd.server.metrics import Counts, Metrics
    from scraperd.server.posting import Poster
    from scraperd.server.rules.cancelling import Cancelling
    from scraperd.server.tokens import Holder, Role, Tokens

GONE: Final = 499  # for the log: the client has gone before its answer
VERSIONS: Final = (HttpVersion10, HttpVersion11)
TUNNEL: Final = "CONNECT"  # what its client sends next is not meant for us
MAX_SHOWN: Final = 200  # characters of a path in the log
PROBES: Final = "/health/"
METRICS: Final = "/metrics"
NAMING: Final = (RESULTS, BATCHES, JOBS)  # begin paths that go on with a name

Handler: TypeAlias = "Callable[[web.BaseRequest, Holder], Awaitable[Answer | Stream]]"


class Route(Struct, frozen=True):
    """Who may use a path by this method, and what answers. Without a role, it is for anybody."""

    method: str
    role: Role | None
    handler: Handler

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of requests that it answers."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)


def _names(path: str, start: str) -> bool:
    """Whether a path goes on with one name behind `start`; a slash in it is sent as %2F."""
    rest = path.removeprefix(start)
    return rest not in {path, ""} and "/" not in rest


class Parts(Struct, frozen=True):
    """What the gateway is made of."""

    settings: HttpSettings
    tokens: Tokens | None
    door: Door
    held: Held
    poster: Poster
    openapi: bytes
    counts: Counts
    batches: Batches | None
    cancelling: Cancelling


class Gateway:
    """Answers requests: by its own routes, and by `routes` of other rooms.

    `event` and `trouble` write to the log.
    """

    def __init__(
        self,
        parts: Parts,
        routes: Mapping[str, Route],
        *,
        event: Callable[..., None],
        trouble: Callable[[str, BaseException], None],
        clocks: Clocks,
    ) -> None:
        self._event = event
        self.trouble = trouble
        self._clocks = clocks
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.metrics: Metrics | None = None
        """Set once it is known who counts the connections."""
        self._leaves: set[Leave] = set()
        self.configure(parts, routes)

    def configure(self, parts: Parts, routes: Mapping[str, Route]) -> None:
        """Take other parts. Requests of tokens that are no more, or may do less now, end."""
        self._parts = parts
        self._routes: dict[str, Route] = {
            **routes,
            "/v1/jobs": Route("POST", "submit", self._post),
            RESULTS: Route("GET", "read", self._result),
            BATCHES: Route("GET", "read", self._batch),
            METRICS: Route("GET", "read", self._metrics),
            "/v1/openapi.json": Route("GET", None, self._openapi),
            "/health/live": Route("GET", None, self._live),
            "/health/ready": Route("GET", None, self._ready),
        }
        cancel = Route("DELETE", "submit", parts.cancelling.answer)
        self._deletes = {JOBS: cancel, BATCHES: cancel}
        for leave in [*self._leaves]:
            if leave.token and not (parts.tokens and parts.tokens.still(*leave.token)):
                leave.end()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, and log it. Raises ConnectionError if its client has gone."""
        began = self._clocks.monotonic()
        asked, leave = _Asked(), Leave()
        request[LEAVE] = leave
        self._leaves.add(leave)
        self._parts.counts.in_flight += 1
        self._idle.clear()
        try:
            answer = await self._answered(request, asked)
            asked.status = answer.status
            seconds = self._parts.settings.request_timeout
            if isinstance(answer, Stream):
                asked.streams = True
                return await send_on(request, answer, seconds)
            asked.jobs = answer.jobs
            last = self._stopping or leave.over or is_spare(request) or request.method == TUNNEL
            return await send(request, answer, seconds, last=last)
        except ConnectionError as error:
            if not asked.streams:
                asked.status = GONE
            if isinstance(error, Gone):
                asked.jobs = error.jobs
            raise
        finally:
            self._leaves.discard(leave)
            self._parts.counts.in_flight -= 1
            if not self._parts.counts.in_flight:
                self._idle.set()
            self._log(request, asked, self._clocks.monotonic() - began)

    async def _answered(self, request: web.BaseRequest, asked: _Asked) -> Answer | Stream:
        try:
            return await self._routed(request, asked)
        except Problem as problem:
            return Answer.of(problem, problem.jobs)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - one request ends by it, and no other
            self.trouble("gateway_error", error)
            return Answer.of(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a mistake in scraperd"))

    async def _routed(self, request: web.BaseRequest, asked: _Asked) -> Answer | Stream:
        """Look who asks for what. Raises Problem."""
        if request.version not in VERSIONS:
            raise Problem(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "send HTTP/1.1, or HTTP/1.0")
        self._check_host(request)
        path = request.rel_url.raw_path
        if is_spare(request) and path != METRICS and not path.startswith(PROBES):
            raise unavailable(FULL, 1)
        head = next((it for it in NAMING if _names(path, it)), path)
        routes = self._routes.get(head), self._deletes.get(head)
        found = {name: route for route in routes if route is not None for name in route.methods}
        if not found or path in NAMING:
            raise Problem(HTTPStatus.NOT_FOUND, "nothing is at this path; see /v1/openapi.json")
        if (route := found.get(request.method)) is None:
            raise Problem(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"this path is for {' and '.join(found)}",
                headers={"Allow": ", ".join(found)},
            )
        holder = ANYBODY if route.role is None else self._holder(request, route.role, asked)
        return await route.handler(request, holder)

    def _check_host(self, request: web.BaseRequest) -> None:
        """Without tokens, take only requests that mean this machine.

        Else a page in a browser here could have its own name resolve to this address (DNS
        rebinding). A target in the absolute form has a host too. Raises Problem.
        """
        if self._parts.tokens is not None:
            return
        named = request.headers.get("Host", "")
        if not is_own_host(named) or not (request.host == named or is_loopback(request.host)):
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "without tokens (http.tokens_file) the Host header, and the host of an absolute "
                "target, must be localhost or a loopback address",
            )

    def _holder(self, request: web.BaseRequest, role: Role, asked: _Asked) -> Holder:
        """Return who asks. Raises Problem for an unknown token, or for too many requests."""
        tokens = self._parts.tokens
        if tokens is None:
            if not ANYBODY.may(role):
                raise Problem(
                    HTTPStatus.FORBIDDEN,
                    f"this needs a token with the role {role}; set http.tokens_file",
                )
            return ANYBODY
        given = request.headers.getall("Authorization", [])
        holder = tokens.holder(given[0]) if len(given) == 1 else None
        if holder is None:
            error = ', error="invalid_token"' if given else ""
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "the header Authorization: Bearer TOKEN is missing, or the token is not known",
                headers={"WWW-Authenticate": f'Bearer realm="scraperd"{error}'},
            )
        asked.holder = holder.name
        if (seconds := tokens.wait(holder)) > 0:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"this token is for {holder.rate:g} requests a second",
                headers={"Retry-After": seconds_up(seconds)},
            )
        if not holder.may(role):
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"this token has the role {holder.role}, and this needs {role}",
                headers={"WWW-Authenticate": 'Bearer realm="scraperd", error="insufficient_scope"'},
            )
        request[LEAVE].token = holder, role
        return holder

    async def _post(self, request: web.BaseRequest, holder: Holder) -> Answer:
        return await self._parts.poster.post(request, holder.name)

    async def _result(self, request: web.BaseRequest, _: Holder) -> Answer:
        wait = wait_of(request, self._parts.settings.max_wait)
        handle = request.rel_url.raw_path.removeprefix(RESULTS)
        return await result_of(self._parts.held, handle, wait, request[LEAVE])

    async def _batch(self, request: web.BaseRequest, _: Holder) -> Answer:
        return await batch_of(self._parts.batches, request)

    async def _openapi(self, _: web.BaseRequest, __: Holder) -> Answer:
        return Answer(HTTPStatus.OK, self._parts.openapi)

    async def _metrics(self, request: web.BaseRequest, _: Holder) -> Answer:
        assert self.metrics is not None
        body, content_type = self.metrics.told(request.headers.get("Accept", ""))
        return Answer(HTTPStatus.OK, body, content_type)

    async def _live(self, _: web.BaseRequest, __: Holder) -> Answer:
        return Answer(HTTPStatus.OK, b"ok\n", "text/plain; charset=utf-8")

    async def _ready(self, _: web.BaseRequest, __: Holder) -> Answer:
        if not self._parts.door.ready:
            raise unavailable("the broker is away, so jobs can't be published now", 5)
        return Answer(HTTPStatus.OK, b"ready\n", "text/plain; charset=utf-8")

    def _log(self, request: web.BaseRequest, asked: _Asked, seconds: float) -> None:
        path, counts = request.rel_url.raw_path, self._parts.counts
        counts.requests[int(asked.status)] += 1
        counts.jobs += asked.jobs
        if path.startswith(PROBES) and asked.status == HTTPStatus.OK:
            return
        self._event(
            "request",
            method=request.method,
            path=f"{RESULTS}HANDLE" if path.startswith(RESULTS) else printable(path, MAX_SHOWN),
            http_status=int(asked.status),
            seconds=round(seconds, 6),
            holder=asked.holder,
            jobs=asked.jobs,
        )

    def unreadable(self, status: int) -> None:
        """Count and log what was not a request of HTTP."""
        self._parts.counts.requests[status] += 1
        self._event(
            "request", method="", path="", http_status=status, seconds=0.0, holder="", jobs=0
        )

    async def drain(self, seconds: float) -> bool:
        """Wait until all requests are answered; False if that takes longer than `seconds`.

        From now on each connection ends with its answer.
        """
        self._stopping = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


@dataclass(slots=True)
class _Asked:
    """What the log says of a request."""

    holder: str = ""
    status: int = int(HTTPStatus.INTERNAL_SERVER_ERROR)
    jobs: int = 0
    streams: bool = False
