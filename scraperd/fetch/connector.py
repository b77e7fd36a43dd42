"""aiohttp's client connections: faults mended (aiohttp 3.14), bounded in number, proxied.

May touch: internals of aiohttp; this is the one place that does.
Must never: change what a well-behaved site sees, or cost much on a page that is in order.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from scraperd.base.fd_limits import PATIENCE, Exhausted, is_short, pauses
from scraperd.fetch.proxies import UNAUTHORISED, UNREACHABLE, ProxyFailed, Socks

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.fetch.guard import Guard

# Whether the fetch of this task may connect to an address now; aiohttp passes nothing else down.
REACH: ContextVar[Callable[[str], bool] | None] = ContextVar("reach", default=None)
# Whether this task's request is the last of its connection.
LAST: ContextVar[bool] = ContextVar("last", default=False)
MAX_QUEUED: Final = 32  # responses that came at once; one is due, and perhaps some 1xx before it
HEAD: Final = 4  # times max_header_size: what may come in a row that is no body
RECEIVE_BUFFER: Final = 128 * 1024  # bytes; the kernel alone would let each grow to megabytes
_UNAUTHORISED: Final = (407, 401)  # tinyproxy says 401 to a wrong password


class Crowded(OSError):  # noqa: N818 - an outcome, not an error of ours
    """As many fetches run from this address as may. Its text never names the address."""

    def __init__(self) -> None:
        super().__init__("an address of it has as many fetches as per_address_concurrency allows")


class Bound:
    """How many connections all connectors together keep open. Idle ones give way, oldest first.

    A fetch never waits here: what is not idle belongs to other fetches, whose
    number is the worker's to bound.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connectors: list[Connector] = []
        self.idle: dict[ResponseHandler, tuple[Connector, Any]] = {}

    def join(self, connector: Connector) -> None:
        """Count this one's connections too."""
        self._connectors.append(connector)

    @property
    def open(self) -> int:
        """How many there are: idle, in use, or being made."""
        return len(self.idle) + sum(one.busy for one in self._connectors)

    async def make_room(self) -> None:
        """Close what is idle for the sake of a new connection, which counts already."""
        closed = False
        while self.idle and self.open > self._limit:
            self._close_one()
            closed = True
        if closed:
            await asyncio.sleep(0)  # the loop closes the sockets only now

    def give_way(self) -> None:
        """Close one that is idle, if any, though there are no more than may be."""
        if self.idle:
            self._close_one()

    def _close_one(self) -> None:
        connection = next(iter(self.idle))
        connector, key = self.idle.pop(connection)
        connector.forget(key, connection)
        connection.abort()


class Connector(aiohttp.TCPConnector):
    """Makes connections of the kind below, no more than `bound` says."""

    def __init__(self, bound: Bound, **options: Any) -> None:
        new = options.pop("socket_factory", _new)
        options["socket_factory"] = lambda info: _frugal(_reached(new, info))
        super().__init__(limit=0, use_dns_cache=False, **options)
        make = functools.partial(_Connection, loop=self._loop, idle=bound.idle)
        self._factory = make  # type: ignore[assignment]
        self._bound = bound
        bound.join(self)

    @property
    def busy(self) -> int:
        """How many connections are in use or being made."""
        return len(self._acquired)

    def forget(self, key: Any, connection: ResponseHandler) -> None:
        """Take an idle connection out of the pool, and those that were closed before it."""
        waiting = self._conns.get(key)
        while waiting and waiting.popleft()[0] is not connection:
            pass
        if not waiting:
            self._conns.pop(key, None)

    async def _get(self, *args: Any) -> Any:
        """A kept connection, unless its address, which is not always the name's, is full."""
        while (taken := await super()._get(*args)) is not None:
            protocol = taken.protocol
            assert isinstance(protocol, _Connection)
            self._bound.idle.pop(protocol, None)
            if _reaches(protocol.peer):
                return taken
            taken.close()
        return None

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if protocol.transport is not None and not self._closed:
            self._bound.idle[protocol] = self, key

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:  # noqa: ASYNC109 - the signature is aiohttp's
        """Wait for a descriptor if there is none: other fetches end. Raises Exhausted too."""
        await self._bound.make_room()
        # A timeout that fires first would be the site's fault.
        patience = min(PATIENCE, *(t / 2 for t in (timeout.connect, timeout.total) if t))
        waits = pauses(patience)
        while True:
            try:
                return await super()._create_connection(req, traces, timeout)
            except (OSError, ProxyFailed, Exhausted) as error:
                if not is_short(error):
                    raise
            pause = next(waits, None)
            if pause is None:
                raise Exhausted
            self._bound.give_way()
            await asyncio.sleep(pause)


def _reaches(address: str) -> bool:
    reach = REACH.get()
    return reach is None or reach(address)


def _reached(new: Callable[[Any], socket.socket], info: Any) -> socket.socket:
    made = new(info)
    if not _reaches(info[4][0]):
        made.close()
        raise Crowded
    return made


def _new(info: Any) -> socket.socket:
    family, kind, protocol, *_ = info
    return socket.socket(family, kind, protocol)


def _frugal(sock: socket.socket) -> socket.socket:
    """Let what waits unread in the kernel be little: no budget of ours counts it.

    With hundreds of large bodies waiting, TCP's own memory ran out, and all stalled.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock


class HttpProxyConnector(Connector):
    """Its session's requests go through an HTTP proxy. What that fails in is a ProxyFailed."""

    async def _create_proxy_connection(self, *args: Any) -> Any:
        try:
            return await super()._create_proxy_connection(*args)
        except aiohttp.ClientHttpProxyError as error:
            if error.status in _UNAUTHORISED:
                raise ProxyFailed(UNAUTHORISED, retryable=False) from None
            raise ProxyFailed(f"it answered {error.status} to CONNECT", retryable=True) from None
        except (aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError):
            raise ProxyFailed(UNREACHABLE, retryable=True) from None
        except aiohttp.ClientConnectorError:
            raise  # TLS with the site, in the tunnel
        except aiohttp.ClientResponseError:
            raise ProxyFailed("its answer to CONNECT is malformed", retryable=True) from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise ProxyFailed("it closed the connection", retryable=True) from None

    async def _start_tls_connection(self, underlying_transport: Any, *args: Any, **kw: Any) -> Any:
        if underlying_transport.is_closing():  # uvloop would raise what no caller expects
            raise ProxyFailed("it sent too much after its answer to CONNECT", retryable=True)
        return await super()._start_tls_connection(underlying_transport, *args, **kw)


class SocksConnector(Connector):
    """Its connections go through a SOCKS5 proxy, which is told an address that was checked."""

    def __init__(self, socks: Socks, guard: Guard, bound: Bound, **options: Any) -> None:
        super().__init__(bound, **options)
        self._socks = socks
        self._guard = guard

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[Any],
        req: Any,
        timeout: Any,  # noqa: ASYNC109 - the signature is aiohttp's
        client_error: Any = aiohttp.ClientConnectorError,
        **kwargs: Any,
    ) -> Any:
        while True:  # aiohttp's own way round is to try one address of each family only
            target = addr_infos.pop(0)
            try:
                self._guard.socket(target).close()  # only for its judgement
                sock = _frugal(await self._socks.dial(*target[4][:2]))
                break
            except OSError as error:
                if not addr_infos:
                    raise client_error(req.connection_key, error) from error
        return await self._wrap_existing_connection(
            *args, req=req, timeout=timeout, client_error=client_error, sock=sock, **kwargs
        )


class _Connection(ResponseHandler):
    def __init__(self, loop: asyncio.AbstractEventLoop, idle: dict[Any, Any]) -> None:
        super().__init__(loop)
        self._idle = idle
        self._limit = self._room = 0
        self.peer = ""  # the address at its other end, a proxy's perhaps

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note whose it is."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if name else ""

    def set_response_params(self, *, max_field_size: int = 8190, **others: Any) -> None:
        """A request begins. What comes before its body has as much room as any before it."""
        self._limit = self._room = HEAD * max_field_size
        if LAST.get():
            self.force_close()
        super().set_response_params(max_field_size=max_field_size, **others)

    def data_received(self, data: bytes) -> None:
        """Take what comes, and bound what no budget counts: heads, 1xx, chunk extensions, trailers.

        `max_headers` and `max_header_size` bound each header; the sum of those is
        megabytes. A body's own bytes are the fetch's to count: each makes the
        room whole again. What comes on an idle connection answers nothing
        (RFC 9112 section 6.3), and ends it.
        """
        if data and self in self._idle:  # without, it is only told to go on
            self.abort()
        elif self._parser is None:
            super().data_received(data)  # a few bytes, kept until the request begins
        elif len(data) <= self._room:
            self._feed(data)
        elif self._feed(data[: self._room]):
            super().data_received(data[self._room :])
        elif self.transport is not None and not self.transport.is_closing():
            self.transport.abort()
            words = f"more than {self._limit} bytes of headers ({HEAD} times max_header_size)"
            self.set_exception(HttpProcessingError(code=0, message=words))

    def _feed(self, data: bytes) -> bool:
        """Parse it. Whether the body began with it, or went on."""
        before = self._payload
        size = 0 if before is None else before.total_bytes
        super().data_received(data)
        body = self._payload
        if body is None or (body.total_bytes == size if body is before else body.is_eof()):
            self._room -= len(data)
            return False
        self._room = self._limit
        return True

    def is_connected(self) -> bool:
        """Whether it may be used again.

        A response nobody asked for, sent while the connection was idle, would
        be taken for the answer to the next job's request (RFC 9112 section 6.3).
        """
        return super().is_connected() and not self._buffer

    def connection_lost(self, exc: BaseException | None) -> None:
        """An idle connection that the site closed is open no longer."""
        self._idle.pop(self, None)
        super().connection_lost(exc)

    def close(self) -> None:
        """Close at once. Gently would wait for a site to read an upload or to end TLS in order."""
        self.abort()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Tell the body's reader too: of a broken chunk it would learn at its timeout only."""
        body = self._payload
        if isinstance(exc, HttpProcessingError) and body is not None and not body.is_eof():
            body.set_exception(aiohttp.ClientPayloadError(exc.message), exc)
        super().set_exception(exc, *cause)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a response. A flood of 1xx is parsed faster than any timer can fire: end it here."""
        super().feed_data(data, size)
        if len(self._buffer) > MAX_QUEUED and self.transport is not None:
            self.transport.abort()
            self.set_exception(HttpProcessingError(code=0, message="too many responses at once"))
