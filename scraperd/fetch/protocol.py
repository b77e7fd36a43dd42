"""Our connections in aiohttp's connector; the only file on aiohttp's internals.

May touch: private attributes and undocumented classes of aiohttp 3.14, each by a contract test.
Must never: change what a well-behaved site sees, or decide about limits, proxies or addresses.
"""

from __future__ import annotations

import asyncio
import functools
import select
import time
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict

from scraperd.fetch.http1.reader import MAX_INTERIM, Incomplete, Malformed, Reader
from scraperd.fetch.message import STEPS

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator

    from aiohttp import AddrInfoType
    from aiohttp.connector import Connection as Lent
    from yarl import URL

    from scraperd.fetch.http1.reading_time import ReadingTime
    from scraperd.fetch.message import Steps

    # Each idle connection with its connector and the key it is kept under; the oldest comes first.
    Idle: TypeAlias = dict["Connection", tuple["HookedConnector", Any]]

_Made = TypeVar("_Made")  # a connection, or one with its transport

# Whether this task wants no kept connection; aiohttp passes nothing else down.
_FRESH: ContextVar[bool] = ContextVar("fresh", default=False)
READ_BUFFER: Final = 16 * 1024  # bytes of a body that are read ahead, outside of the memory budget


class Target:
    """Where a request goes, as far as a connector has to know: what it uses of a ClientRequest."""

    method = "GET"
    ssl = True  # as the connector itself has it
    proxy_auth = server_hostname = None

    def __init__(self, url: URL, proxy: URL | None = None) -> None:
        assert url.raw_host is not None
        assert url.port is not None
        self.url = url.origin()
        self.host, self.port = url.raw_host, url.port
        self.proxy_headers: dict[str, str] = {}
        if proxy is not None and proxy.user is not None:
            told = aiohttp.encode_basic_auth(proxy.user, proxy.password or "")
            self.proxy_headers["Proxy-Authorization"] = told
            proxy = proxy.with_user(None)
        self.proxy = proxy
        self.connection_key = ConnectionKey(
            self.host, self.port, self.is_ssl(), True, proxy, None, None
        )

    @functools.cached_property  # for proxies; other requests do not need it
    def headers(self) -> CIMultiDict[str]:
        """Return what a tunnel to the site is asked for with."""
        return CIMultiDict({"Host": self.url.host_port_subcomponent or ""})

    @functools.cached_property
    def request_info(self) -> aiohttp.RequestInfo:
        """Return what aiohttp's errors of a tunnel show."""
        return aiohttp.RequestInfo(self.url, "GET", self.headers, self.url)  # type: ignore[arg-type]

    def is_ssl(self) -> bool:
        """Return whether the site speaks TLS."""
        return self.url.scheme == "https"


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

    # --- what others ask

    async def lend(
        self, target: Target, limits: aiohttp.ClientTimeout, *, fresh: bool = False
    ) -> Lent:
        """Return a connection to `target`; a new one if `fresh`. Release it, or close it."""
        token = _FRESH.set(fresh)
        try:
            return await self.connect(target, [], limits)  # type: ignore[arg-type]
        finally:
            _FRESH.reset(token)

    @property
    def busy(self) -> int:
        """How many connections are in use or being made."""
        return len(self._acquired)

    @property
    def in_use(self) -> Iterator[Connection]:
        """The connections that requests have now."""
        return (one for one in self._acquired if isinstance(one, Connection))

    def drop_idle(self) -> None:
        """Close the connections that no request has."""
        own = [(one, key) for one, (whose, key) in self._idle.items() if whose is self]
        for connection, key in own:
            del self._idle[connection]
            self.forget(key, connection)
            connection.abort()

    def forget(self, key: Any, connection: Connection) -> None:
        """Take an idle connection out of the pool, and those that were closed before it."""
        waiting = self._conns.get(key)
        while waiting and waiting.popleft()[0] is not connection:
            pass
        if not waiting:
            self._conns.pop(key, None)

    # --- aiohttp's private methods

    async def _get(self, *args: Any) -> Any:
        if _FRESH.get():
            return None
        while (taken := await super()._get(*args)) is not None:
            connection = taken.protocol
            assert isinstance(connection, Connection)
            self._idle.pop(connection, None)
            if connection.is_quiet() and self.may_reuse(connection):
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
        steps, began = STEPS.get(), time.monotonic()
        try:
            return await super()._start_tls_connection(underlying_transport, *args, **kw)
        finally:
            if steps is not None:
                steps.tls_began = began
                steps.dialled(began, time.monotonic())

    async def _wrap_create_connection(self, *args: Any, **kwargs: Any) -> Any:
        steps, began = STEPS.get(), time.monotonic()
        try:
            return await self._dialled(*args, **kwargs)
        finally:
            if steps is not None:
                steps.dialled(began, time.monotonic())

    async def _dialled(
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

    `ask` sends a request, and `more` waits for what the reader of its response gets. Only an
    HTTP proxy's answer to CONNECT is read by aiohttp itself.

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
        self._reader: Reader | None = None
        self._news: asyncio.Future[None] | None = None
        self._fault: BaseException | None = None
        self._wants_body = False  # whoever waits; if not, the head will do
        self._full = False  # READ_BUFFER bytes of it are there
        self._waits = False  # for its turn to parse what is held
        self._lost: tuple[BaseException | None, bool] | None = None  # by what; whether it was TLS
        self._asked = self._first = 0.0  # when the request went out, and its answer began
        self.uses = 0  # requests
        self.peer = ""  # the IP address at its other end, perhaps a proxy's

    @property
    def held(self) -> int:
        """How many pieces of data wait to be parsed; one that is parsed in part counts, too."""
        return len(self._held)

    # --- a request and its response

    def ask(self, reader: Reader, request: bytes) -> None:
        """Send `request`; `reader` reads what comes. Raises ConnectionError if it is closed."""
        if self.transport is None:
            raise ConnectionResetError("it was closed")
        self.uses += 1
        self._reader, self._fault, self._wants_body = reader, None, False
        self._asked, self._first = time.monotonic(), 0.0
        if self._held:  # it came before the request; browsers take it
            self._wait()
        self.transport.write(request)

    async def send(self, data: bytes) -> None:
        """Send more of the request, as fast as it is taken. Raises ConnectionError."""
        if self.transport is None:
            raise ConnectionResetError("it was closed")
        self.transport.write(data)
        await self._drain_helper()

    async def more(self, *, body: bool = True) -> None:
        """Wait for the head, and if a `body` is wanted for the next of it, or for its end.

        A byte of it will do: a few packed ones can stand for a large body. Raises what ended
        the connection before: Malformed, Incomplete or OSError. A fault of the body is raised
        only to who wants the body.
        """
        self._wants_body = body
        if not self._is_news():
            if self._full:
                self._full = False
                self._resume_transport_reading()
            self._news = self._loop.create_future()
            try:
                await self._news
            finally:
                self._news = None
        reader = self._reader
        assert reader is not None
        if self._fault is not None and (body or reader.head is None):
            raise self._fault

    def account(self, steps: Steps) -> None:
        """Add to `steps` how long the answer took to begin, and to come so far."""
        if self._first:
            steps.answered(self._asked, self._first, time.monotonic())

    def finish(self) -> bool:
        """End the request. Return whether another may follow it on this connection."""
        reader, self._reader = self._reader, None
        resume, self._full = self._full, False
        if reader is None or not (reader.ended and reader.keep) or self._held:
            return False
        if resume:
            self._resume_transport_reading()
        return self._fault is None and super().is_connected()

    def _is_news(self) -> bool:
        reader = self._reader
        assert reader is not None
        if self._fault is not None or reader.ended:
            return True
        return reader.head is not None and (reader.size > 0 or not self._wants_body)

    def _read(self, reader: Reader, data: bytes) -> None:
        """Give it `data`; none means that it is to go on with what it has."""
        if not self._first:
            self._first = time.monotonic()
        try:
            if data:
                reader.feed(data)
            else:
                reader.go_on()
        except Malformed as fault:
            self._end(fault)
            return
        if self._is_news():
            self._wake()
        if reader.ended:
            if not reader.keep:  # nothing more is wanted of it
                self._pause_transport_reading()
            return
        self._full = self._full or reader.size >= READ_BUFFER  # until `more` reads on
        if reader.behind:
            self._held.appendleft(b"")
        if self._full or self._held:
            self._pause_transport_reading()

    def _end(self, fault: BaseException) -> None:
        """Whoever waits gets `fault`, and nothing more is read."""
        self._held.clear()
        self._fault = self._fault or fault
        if self.transport is not None:
            self.transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # --- what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the peer's address."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if name else ""

    def data_received(self, data: bytes) -> None:
        """Parse what comes, now or in a later turn."""
        if self._held:
            self._held.append(data)
        elif self._reading_time.over:
            self._held.append(data)
            self._pause_transport_reading()
            self._wait()
        else:
            self._reading_time.spend(functools.partial(self._parse, data))
            if self._held:
                self._wait()

    def _wait(self) -> None:
        """Wait for a turn, once: each place in the queue is a share of the time."""
        if not self._waits:
            self._waits = True
            self._reading_time.wait(self)

    def go_on(self) -> None:
        """Parse a piece of what is held, unless whoever reads the body is behind."""
        self._waits = False
        if self._held and not self._full and (self._reader or self._parser):
            self._parse(self._held.popleft())
            if self._held:
                self._wait()
            else:
                self._see_end()
                self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        if self._held:
            self._wait()
        elif not (self._full or self._reading_paused or self._buffer_paused):
            super()._resume_transport_reading()

    def _parse(self, data: bytes) -> None:
        """Give it to whoever reads; what comes before the request waits for it.

        What comes on an idle connection answers no request (RFC 9112 section 6.3), and ends it.
        """
        if self in self._idle:
            self.abort()
        elif self._fault is not None:
            return
        elif self._reader is not None:
            self._read(self._reader, data)
        elif self._parser is not None:
            super().data_received(data)
        else:
            self._held.appendleft(data)
            self._pause_transport_reading()

    def _lose(self, cause: BaseException | None) -> None:
        """Note that nothing more comes. The response ends behind what is held."""
        while self._held and self._parser is not None and self._reader is None:
            self._parse(self._held.popleft())  # aiohttp's own parser ends with the connection
        if self._lost is None:
            self._lost = cause, self._is_tls()
        self._see_end()

    def _see_end(self) -> None:
        """End the response if nothing more comes, and all that came is read."""
        reader = self._reader
        if self._lost is None or self._held or reader is None:
            return
        cause, trusted = self._lost
        if not reader.ended and self._fault is None:
            self._fault = cause
            try:
                if cause is None:
                    reader.feed_eof(trusted=trusted)
            except (Malformed, Incomplete) as fault:
                self._fault = fault
        self._wake()

    def feed_data(self, *args: Any, **kwargs: Any) -> None:
        """Queue a proxy's answer to CONNECT; end a flood of 1xx before it."""
        super().feed_data(*args, **kwargs)
        if len(self) > MAX_INTERIM and self.transport is not None:
            self.transport.abort()
            self.set_exception(HttpProcessingError(code=0, message="too many responses at once"))

    def is_connected(self) -> bool:
        """Return whether another request may use it."""
        return super().is_connected() and len(self) == 0 and not self._held

    def is_quiet(self) -> bool:
        """Return whether nothing waits unread in the kernel: an unasked answer, or the end.

        The loop may be behind with it; a request that is sent now would get it for its answer.
        """
        handle = self.transport and self.transport.get_extra_info("socket")
        if not handle:
            return True
        unread = select.poll()
        unread.register(handle.fileno(), select.POLLIN)
        return not unread.poll(0)

    def eof_received(self) -> None:
        """End the response: what of the request is still being sent does not hold its end up."""
        self._lose(None)
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the response with the connection, and stop counting it as idle."""
        self._idle.pop(self, None)
        self._lose(exc)
        super().connection_lost(exc)

    def _is_tls(self) -> bool:
        return self.transport is not None and bool(self.transport.get_extra_info("sslcontext"))

    def abort(self) -> None:
        """Close at once; what is held is nobody's any more, and no response ends so."""
        self._held.clear()
        self._lost = self._lost or (ConnectionAbortedError("it was closed"), False)
        super().abort()

    def close(self) -> None:
        """Close at once. In order, a site could make us wait: for an upload, or the end of TLS."""
        self.abort()
