"""aiohttp's connections and connector, with faults mended; the only file on aiohttp's internals.

May touch: private attributes and undocumented classes of aiohttp 3.14, each by a contract test.
Must never: change what a well-behaved site sees, or decide about limits, proxies or addresses.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from aiohttp import AddrInfoType

    from scraperd.fetch.reading_time import ReadingTime

    # Each idle connection with its connector and the key it is kept under; the oldest comes first.
    Idle: TypeAlias = dict["Connection", tuple["HookedConnector", Any]]

_Made = TypeVar("_Made")  # a connection, or one with its transport

# Whether this task's request is the last of its connection; aiohttp passes nothing else down.
LAST: ContextVar[bool] = ContextVar("last", default=False)
MAX_QUEUED: Final = 32  # responses that came at once; one is due, and perhaps some 1xx before it
HEAD: Final = 4  # times max_header_size: what may come in a row that is not body


class HookedConnector(aiohttp.TCPConnector):
    """aiohttp's connector, whose private methods call public hooks that a subclass overrides.

    It keeps its idle connections in `idle`, and its connections parse by `reading_time`; connectors
    can share both. It has no limit of its own and no cache of names.
    """

    def __init__(self, idle: Idle, reading_time: ReadingTime, **options: Any) -> None:
        super().__init__(limit=0, use_dns_cache=False, **options)
        loop = asyncio.get_running_loop()
        make = functools.partial(Connection, loop=loop, idle=idle, reading_time=reading_time)
        self._factory = make  # type: ignore[assignment]
        self._idle = idle

    # --- the hooks

    def may_reuse(self, connection: Connection) -> bool:
        """Say if a request may have this kept connection; otherwise it is closed."""
        del connection
        return True

    async def connecting(
        self, connect: Callable[[], Awaitable[_Made]], limits: aiohttp.ClientTimeout
    ) -> _Made:
        """Call `connect`, which makes a new connection; it may be called again if it fails."""
        del limits
        return await connect()

    async def through_proxy(self, connect: Callable[[], Awaitable[_Made]]) -> _Made:
        """Call `connect`, which makes a connection through the session's HTTP proxy."""
        return await connect()

    def before_tunnel_tls(self, transport: asyncio.BaseTransport) -> None:
        """Look at the connection to the proxy once its tunnel is open, before TLS begins in it."""

    async def dial(self, targets: list[AddrInfoType]) -> socket.socket | None:
        """Connect to one of `targets`, and remove those that were tried. Raises OSError.

        None means that aiohttp shall dial.
        """
        del targets
        return None

    # --- what subclasses ask

    @property
    def busy(self) -> int:
        """How many connections are in use or being made."""
        return len(self._acquired)

    def forget(self, key: Any, connection: Connection) -> None:
        """Take an idle connection out of the pool, and those that were closed before it."""
        waiting = self._conns.get(key)
        while waiting and waiting.popleft()[0] is not connection:
            pass
        if not waiting:
            self._conns.pop(key, None)

    # --- aiohttp's private methods

    async def _get(self, *args: Any) -> Any:
        while (taken := await super()._get(*args)) is not None:
            connection = taken.protocol
            assert isinstance(connection, Connection)
            self._idle.pop(connection, None)
            if self.may_reuse(connection):
                return taken
            taken.close()
        return None

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if protocol.transport is not None and not self.closed:
            assert isinstance(protocol, Connection)
            self._idle[protocol] = self, key

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:  # noqa: ASYNC109 - the signature is aiohttp's
        connect = functools.partial(super()._create_connection, req, traces, timeout)
        return await self.connecting(connect, timeout)

    async def _create_proxy_connection(self, *args: Any) -> Any:
        return await self.through_proxy(functools.partial(super()._create_proxy_connection, *args))

    async def _start_tls_connection(self, underlying_transport: Any, *args: Any, **kw: Any) -> Any:
        self.before_tunnel_tls(underlying_transport)
        return await super()._start_tls_connection(underlying_transport, *args, **kw)

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[AddrInfoType],
        req: Any,
        client_error: Any = aiohttp.ClientConnectorError,
        **kwargs: Any,
    ) -> Any:
        try:
            sock = await self.dial(addr_infos)
        except OSError as error:
            raise client_error(req.connection_key, error) from error
        kwargs |= {"req": req, "client_error": client_error}
        if sock is None:
            return await super()._wrap_create_connection(*args, addr_infos=addr_infos, **kwargs)
        return await self._wrap_existing_connection(*args, sock=sock, **kwargs)


class Connection(ResponseHandler):
    """One connection to a site or a proxy; `idle` holds those that wait for a request.

    What comes when the time of a turn is spent is held, and parsed in a later turn. It is not
    read any further until then. A connection that holds data takes no other request.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, idle: Idle, reading_time: ReadingTime
    ) -> None:
        super().__init__(loop)
        self._idle = idle
        self._reading_time = reading_time
        self._held: deque[bytes] = deque()
        self._head_limit = self._head_room = 0  # bytes; 0 before the first request
        self.peer = ""  # the IP address at its other end, perhaps a proxy's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the peer's address."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if name else ""

    def set_response_params(self, *, max_field_size: int = 8190, **others: Any) -> None:
        """Begin a request. The head of its response has the full room again."""
        self._head_limit = self._head_room = HEAD * max_field_size
        if LAST.get():
            self.force_close()
        super().set_response_params(max_field_size=max_field_size, **others)

    def data_received(self, data: bytes) -> None:
        """Parse what comes, now or in a later turn.

        Empty `data` is not the site's: with it the parser is told to go on, by whoever reads the
        body. What it holds itself comes before what is held here.
        """
        if not data:
            super().data_received(data)
        elif self._held:
            self._held.append(data)
        elif self._reading_time.over:
            self._held.append(data)
            self._pause_transport_reading()
            self._reading_time.wait(self)
        else:
            self._reading_time.spend(functools.partial(self._parse, data))

    def go_on(self) -> None:
        """Parse a piece of what is held, unless the reader of the body is behind."""
        if self._held and not self._reading_paused:
            self._parse(self._held.popleft())
            if self._held:
                self._reading_time.wait(self)
            else:
                self._resume_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's
        """Go on where the reader of the body was behind."""
        super().resume_reading(resume_parser)
        if self._held:
            self._reading_time.wait(self)

    def _resume_transport_reading(self) -> None:
        if not (self._held or self._reading_paused or self._buffer_paused):
            super()._resume_transport_reading()

    def _flush(self) -> None:
        """Parse all that is held: nothing more will come."""
        while self._held:
            self._parse(self._held.popleft())

    def _parse(self, data: bytes) -> None:
        """Parse it, and bound the bytes that no budget counts.

        Those are heads, 1xx responses, chunk extensions and trailers. `max_headers` and
        `max_header_size` bound each header; together they still allow megabytes. A body's
        own bytes are counted by the fetch, so each of them restores the room. What comes
        on an idle connection answers no request (RFC 9112 section 6.3), and ends the
        connection.
        """
        if self in self._idle:
            self.abort()
        elif not self._head_limit:  # no request has begun: aiohttp keeps a few bytes for it
            super().data_received(data)
        elif len(data) <= self._head_room:
            self._feed(data)
        elif self._feed(data[: self._head_room]):
            super().data_received(data[self._head_room :])
        elif self.transport is not None and not self.transport.is_closing():
            self.transport.abort()
            limit = f"{self._head_limit} bytes of headers ({HEAD} times fetch.max_header_size)"
            self.set_exception(HttpProcessingError(code=0, message=f"more than {limit}"))

    def _feed(self, data: bytes) -> bool:
        """Parse `data`. Return whether a part of it was body.

        The parser does not say so. The body of a response is a stream that counts the bytes
        it was given: they were body if the count grew, or if a new stream that has not
        ended took the place of the old one.
        """
        before = self._payload
        size = 0 if before is None else before.total_bytes
        super().data_received(data)
        body = self._payload
        if body is None or (body.total_bytes == size if body is before else body.is_eof()):
            self._head_room -= len(data)
            return False
        self._head_room = self._head_limit
        return True

    def is_connected(self) -> bool:
        """Return whether another request may use it.

        A response that came while the connection was idle answers no request; the
        next job would take it for its own (RFC 9112 section 6.3).
        """
        return super().is_connected() and len(self) == 0 and not self._held

    def eof_received(self) -> None:
        """Parse what is held before the end is known."""
        self._flush()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop counting an idle connection that the site closed."""
        self._flush()
        self._idle.pop(self, None)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close at once; what is held is nobody's any more."""
        self._held.clear()
        super().abort()

    def close(self) -> None:
        """Close at once. In order, a site could make us wait: for an upload, or the end of TLS."""
        self.abort()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Tell the body's reader too: of a broken chunk it would learn at its timeout only."""
        self._held.clear()  # it comes behind the fault
        body = self._payload
        if isinstance(exc, HttpProcessingError) and body is not None and not body.is_eof():
            body.set_exception(aiohttp.ClientPayloadError(exc.message), exc)
        super().set_exception(exc, *cause)

    def feed_data(self, *args: Any, **kwargs: Any) -> None:
        """Queue a response. End a flood of 1xx here: it is parsed faster than any timer fires."""
        super().feed_data(*args, **kwargs)
        if len(self) > MAX_QUEUED and self.transport is not None:
            self.transport.abort()
            self.set_exception(HttpProcessingError(code=0, message="too many responses at once"))
