"""The connectors of a Fetcher: bounded in number, and through proxies.

May touch: sockets, as they are made; public names of aiohttp and the hooks of protocol.py.
Must never: know how aiohttp works inside, or let a fetch wait for another one's connection.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiohttp

from scraperd.base.fd_limits import PATIENCE, OutOfDescriptors, is_short, with_descriptor
from scraperd.fetch.protocol import HookedConnector
from scraperd.fetch.proxies import UNAUTHORISED, UNREACHABLE, ProxyFailed, Socks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import AddrInfoType
    from yarl import URL

    from scraperd.fetch.guard import Guard
    from scraperd.fetch.http1.reading_time import ReadingTime
    from scraperd.fetch.protocol import Connection, Idle

_Made = TypeVar("_Made")  # a connection, or one with its transport

# Whether the fetch of this task may connect to an address now; aiohttp passes nothing else down.
REACH: ContextVar[Callable[[str], bool] | None] = ContextVar("reach", default=None)
RECEIVE_BUFFER: Final = 128 * 1024  # bytes; the kernel alone would let each grow to megabytes
_UNAUTHORISED: Final = (407, 401)  # tinyproxy says 401 to a wrong password


class Crowded(OSError):  # noqa: N818 - an outcome, not an error of ours
    """As many fetches run from this address as may. Its text never names the address."""

    def __init__(self) -> None:
        super().__init__(
            "an address of it has as many fetches as politeness.per_address_concurrency allows"
        )


class Bound:
    """How many connections all connectors together keep open. Idle ones give way, oldest first.

    A fetch never waits here: the connections that are not idle belong to other
    fetches, and the worker bounds the number of those.
    """

    def __init__(self, limit: int, reading_time: ReadingTime) -> None:
        self.limit = limit
        self.reading_time = reading_time
        self._connectors: list[Connector] = []
        self.idle: Idle = {}

    def join(self, connector: Connector) -> None:
        """Count this one's connections too."""
        self._connectors.append(connector)

    def leave(self, connector: Connector) -> None:
        """Count them no more: it is closed."""
        self._connectors.remove(connector)

    @property
    def open(self) -> int:
        """How many there are: idle, in use, or being made."""
        return len(self.idle) + sum(one.busy for one in self._connectors)

    async def make_room(self) -> None:
        """Close idle connections for the sake of a new one, which counts already."""
        closed = False
        while self.idle and self.open > self.limit:
            self._close_one()
            closed = True
        if closed:
            await asyncio.sleep(0)  # the loop closes the sockets only now

    def give_way(self) -> None:
        """Close one idle connection, if there is any, though the limit allows all."""
        if self.idle:
            self._close_one()

    def _close_one(self) -> None:
        connection = next(iter(self.idle))
        connector, key = self.idle.pop(connection)
        connector.forget(key, connection)
        connection.abort()


class Connector(HookedConnector):
    """Makes connections to sites; together with other connectors no more than `bound` says.

    `proxy` is the HTTP proxy that they go through; None without one, and with a SOCKS proxy.
    """

    proxy: URL | None = None

    def __init__(self, bound: Bound, **options: Any) -> None:
        new = options.pop("socket_factory", _new)
        options["socket_factory"] = lambda info: _frugal(_reached(new, info))
        super().__init__(bound.idle, bound.reading_time, **options)
        self._bound = bound
        self._stale: weakref.WeakSet[Connection] = weakref.WeakSet()
        bound.join(self)

    def keep_none(self) -> None:
        """Let no request have a connection that is open now: other settings hold for new ones.

        Those in use serve their requests to the end.
        """
        self.drop_idle()
        self._stale.update(self.in_use)

    def may_reuse(self, connection: Connection) -> bool:
        """Say no if its address is full; it is not always the name's first address."""
        return connection not in self._stale and _reaches(connection.peer)

    async def connecting(
        self, connect: Callable[[], Awaitable[_Made]], limits: aiohttp.ClientTimeout
    ) -> _Made:
        """Wait for a descriptor if none is left: other fetches end. Raises OutOfDescriptors too."""
        await self._bound.make_room()
        # A timeout that fires first would be the site's fault.
        patience = min(PATIENCE, *(t / 2 for t in (limits.connect, limits.total) if t))
        return await with_descriptor(
            connect,
            patience,
            lacks=lambda error: (
                isinstance(error, OSError | ProxyFailed | OutOfDescriptors) and is_short(error)
            ),
            make_room=self._bound.give_way,
        )


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
    """Its requests go through an HTTP proxy; what fails there is a ProxyFailed."""

    def __init__(self, proxy: URL, bound: Bound, **options: Any) -> None:
        super().__init__(bound, **options)
        self.proxy = proxy

    async def through_proxy(self, connect: Callable[[], Awaitable[_Made]]) -> _Made:
        """Connect, and tell the proxy's failures from those of TLS with the site."""
        try:
            return await connect()
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

    def before_tunnel_tls(self, transport: asyncio.BaseTransport) -> None:
        """Refuse a connection that is closing: uvloop would raise an unexpected error."""
        if transport.is_closing():
            raise ProxyFailed("it sent too much after its answer to CONNECT", retryable=True)


class SocksConnector(Connector):
    """Its connections go through a SOCKS5 proxy, which is told an address that was checked."""

    def __init__(self, socks: Socks, guard: Guard, bound: Bound, **options: Any) -> None:
        super().__init__(bound, **options)
        self._socks = socks
        self._guard = guard

    async def dial(self, targets: list[AddrInfoType]) -> socket.socket:
        """Try each target in turn: aiohttp's own way is to try one address of each family only."""
        while True:
            target = targets.pop(0)
            try:
                self._guard.socket(target).close()  # only for its judgement
                return _frugal(await self._socks.dial(*target[4][:2]))
            except OSError:
                if not targets:
                    raise
