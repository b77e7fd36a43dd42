"""The listening side of the gateway: connections in bounds, bodies in pieces, answers in time.

May touch: aiohttp's server, and these internals of it (3.14): `_request_in_progress`,
`_waiter`, `_request_count` and `_force_close` of a connection; `_connections`, `_loop` and
`_kwargs` of the server.
Must never: let a slow client hold up another one, or answer an error without a problem body.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import LineTooLong
from msgspec import Struct

from scraperd.server.access.leave import LEAVE
from scraperd.server.problems import CONTENT_TYPE, Problem, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

MAX_LINE: Final = 8190  # bytes of a request's line, and of each header
MAX_HEADERS: Final = 64
PIECE_BYTES: Final = 64 * 1024  # of a body that are read ahead
LINGER: Final = 2.0  # seconds that a body is read and dropped, so that its client sees the answer
REFUSED_TTL: Final = 1.0  # seconds that a connection is kept which was one too many
STREAM_BYTES: Final = 64 * 1024  # of a stream that the kernel keeps for a client that rests
SPARE: Final = 8  # connections past http.max_connections, which are for probes
FULL: Final = "as many connections are open as may be (http.max_connections)"
UNREAD: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE})
_MANY: Final = "Too many headers"


class Gone(ConnectionError):  # noqa: N818 - it is what a client did
    """The client has gone while its body came, of which so many jobs were published before."""

    def __init__(self, jobs: int) -> None:
        super().__init__("the client has gone")
        self.jobs = jobs


class Answer(Struct, frozen=True):
    """What a request is answered with. `jobs` and `holder` are for the log."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    jobs: int = 0

    @classmethod
    def of(cls, problem: Problem, jobs: int = 0) -> Answer:
        """Return the answer that tells of a problem."""
        return cls(problem.status, problem.body, CONTENT_TYPE, problem.headers, jobs)


class Stream(Struct, frozen=True):
    """An answer that goes on: pieces as they come, until they end or the client has gone."""

    pieces: AsyncGenerator[bytes]
    content_type: str
    status: int = HTTPStatus.OK


def response_of(answer: Answer) -> web.Response:
    """Return the response that aiohttp sends."""
    headers = {**_headers(answer.content_type), **answer.headers}
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _headers(content_type: str) -> dict[str, str]:
    return {
        "Content-Type": content_type,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Server": "scraperd",
    }


def unreadable(error: BaseException | None) -> Problem:
    """Return the problem of bytes that aiohttp can't read as a request."""
    if isinstance(error, LineTooLong):
        many = f"a line of the request's head has more than {MAX_LINE} bytes"
        return Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, many)
    if _MANY in str(error):
        many = f"the request has more than {MAX_HEADERS} headers"
        return Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, many)
    return Problem(HTTPStatus.BAD_REQUEST, "this is not a request of HTTP/1.1 (RFC 9112)")


class Connection(web.RequestHandler):
    """A connection. aiohttp asks it for the answer to what is not HTTP.

    A `spare` one is past the number that may be, and for probes only.
    """

    __slots__ = ("spare",)

    def __init__(self, manager: Listener, *, spare: bool, **options: Any) -> None:
        super().__init__(manager, **options)
        self.spare = spare

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's words
    ) -> web.StreamResponse:
        """Return the answer, after which the connection ends."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; no other can be sent")
        server = self._manager
        if status != HTTPStatus.BAD_REQUEST or not isinstance(server, Listener):
            problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a mistake in scraperd")
        else:
            problem = unreadable(exc)
            server.on_unreadable(problem.status)
        response = response_of(Answer.of(problem))
        response.force_close()
        return response

    @property
    def idle(self) -> bool:
        """Whether no request is worked on: a head is waited for, or a body is read and dropped."""
        return not self._request_in_progress

    @property
    def answered(self) -> bool:
        """Whether it has its answer, and the rest of its body is read and dropped."""
        return self.idle and self._waiter is None and self._request_count > 0

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._force_close


def is_spare(request: web.BaseRequest) -> bool:
    """Return whether a request came by a connection that is for probes only."""
    return isinstance(request.protocol, Connection) and request.protocol.spare


class Refusal(asyncio.Protocol):
    """A connection that is one too many: it is answered 503 without a look at its request."""

    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer, and leave the client some time to read that."""
        transport = cast("asyncio.Transport", transport)  # uvloop's has another base
        body = unavailable(FULL, 1).body
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
            b"Server: scraperd\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
            % (CONTENT_TYPE.encode(), len(body), body)
        )
        if transport.can_write_eof():
            transport.write_eof()
        self._end = asyncio.get_running_loop().call_later(REFUSED_TTL, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        """The client has gone, or its time is over."""
        if self._end is not None:
            self._end.cancel()


class Listener(web.Server):
    """Makes a connection of each client: at most `most` of them, and SPARE for probes.

    One more takes the place of a connection on which no request is worked on: first of one that
    has its answer and still sends, then of the oldest. So clients that send nothing hold up nobody.
    If a request is worked on by each, the new one is a spare one. Those are worked on for a moment
    only, so there is always one to take the place of: who holds all connections stops no probe.
    `on_unreadable` is told the status of what was not HTTP.
    """

    def __init__(
        self,
        handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        most: int,
        head_timeout: float,
        on_unreadable: Callable[[int], None],
    ) -> None:
        silent = logging.getLogger("scraperd.server")  # aiohttp's words quote what was sent
        silent.disabled = True
        super().__init__(
            handle,
            logger=silent,
            access_log=None,
            keepalive_timeout=head_timeout,  # also counts from the start of a connection
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER,
            read_bufsize=PIECE_BYTES,
            auto_decompress=False,
        )
        self._most = most
        self.on_unreadable = on_unreadable

    def configure(self, *, most: int, head_timeout: float) -> None:
        """Take other bounds for the connections that come from now on."""
        self._most = most
        self._kwargs["keepalive_timeout"] = head_timeout

    def __call__(self) -> Any:
        """Return what speaks with a new client."""
        if len(self._connections) < self._most or self._make_room(self._most, spare=False):
            return Connection(self, spare=False, loop=self._loop, **self._kwargs)
        if self._make_room(SPARE, spare=True):
            return Connection(self, spare=True, loop=self._loop, **self._kwargs)
        return Refusal()

    def close_idle(self) -> None:
        """End each connection on which no request has begun."""
        for it in list(self._connections):
            if isinstance(it, Connection) and it.idle:
                it.force_close()

    def _make_room(self, most: int, *, spare: bool) -> bool:
        """End an idle connection of this kind, if need be. Return whether there is room now."""
        ours = (it for it in self._connections if isinstance(it, Connection))
        alive = [it for it in ours if it.spare is spare and not it.ending]
        if len(alive) < most:
            return True
        idle = [it for it in alive if it.idle]
        if not idle:
            return False
        # Of equals the oldest, as they are in order: a new one is about to send its request.
        min(idle, key=lambda it: not it.answered).force_close()
        return True


async def pieces(
    request: web.BaseRequest, most: int, limit: str, seconds: float
) -> AsyncGenerator[bytes]:
    """Yield the body in pieces.

    Raises Problem for more than `most` bytes (the setting `limit`), or if the client takes more
    than `seconds` for all of it: what we do between two pieces does not count.
    """
    length = request.content_length
    if length is not None and length > most:
        raise _too_large(most, limit)
    expects = request.headers.get("Expect", "").lower() == "100-continue"
    if expects and request.version >= HttpVersion11:  # RFC 9110 section 10.1.1
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # as aiohttp's own handler: no answer has begun
    loop, size = asyncio.get_running_loop(), 0
    while not request.content.at_eof():
        began = loop.time()
        piece = await _piece(request, seconds)
        seconds -= loop.time() - began
        if (size := size + len(piece)) > most:
            raise _too_large(most, limit)
        yield piece


async def _piece(request: web.BaseRequest, seconds: float) -> bytes:
    try:
        async with request[LEAVE].waiting(), asyncio.timeout(seconds):
            return await request.content.readany()
    except TimeoutError:
        raise Problem(
            HTTPStatus.REQUEST_TIMEOUT,
            "the body did not come within the time for it (http.request_timeout)",
        ) from None
    except web.RequestPayloadError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "the body's framing is broken (RFC 9112)") from error


def _too_large(most: int, limit: str) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {most} bytes ({limit})"
    )


def _unbuffered(request: web.BaseRequest) -> asyncio.Transport:
    """Return the transport, on which `drain` waits for all. Raises ConnectionError."""
    if (transport := request.transport) is None:
        raise ConnectionResetError("the client has gone")
    transport.set_write_buffer_limits(0)
    return transport


async def send(
    request: web.BaseRequest, answer: Answer, seconds: float, *, last: bool
) -> web.Response:
    """Send the answer. A client that does not read all of it within `seconds` is cut off.

    With `last` the connection ends after it. Raises ConnectionError if the client has gone.
    """
    response = response_of(answer)
    if last or answer.status in UNREAD:
        response.force_close()
    transport = _unbuffered(request)
    try:
        async with asyncio.timeout(seconds):
            await response.prepare(request)
            await response.write_eof()
            await request.writer.drain()
    except TimeoutError:
        transport.abort()
        raise ConnectionResetError("the client did not read the answer in time") from None
    return response


async def send_on(request: web.BaseRequest, answer: Stream, seconds: float) -> web.StreamResponse:
    """Send the pieces as they come. A client that does not read one within `seconds` is cut off.

    They end early if the leave of the request ends. The connection ends after them. Raises
    ConnectionError if the client has gone.
    """
    response = web.StreamResponse(status=answer.status, headers=_headers(answer.content_type))
    response.force_close()
    async with aclosing(answer.pieces) as pieces:
        transport = _unbuffered(request)
        # Else the kernel keeps some MB, and minutes pass before a client is found not to read.
        kernel = transport.get_extra_info("socket")
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_BYTES)
        try:
            async with asyncio.timeout(seconds):
                await response.prepare(request)
            if request.method != "HEAD":
                async for piece in _while_allowed(request, pieces):
                    async with asyncio.timeout(seconds):
                        await response.write(piece)
                        await request.writer.drain()
            async with asyncio.timeout(seconds):
                await response.write_eof()
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError("the client did not read the answer in time") from None
    return response


async def _while_allowed(
    request: web.BaseRequest, pieces: AsyncGenerator[bytes]
) -> AsyncGenerator[bytes]:
    """Yield the pieces until they end, or the leave of the request ends."""
    with suppress(Problem):
        while True:
            async with request[LEAVE].waiting():
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield piece
