"""One URL, one hop, once: a request goes out; a bounded body or a Failure comes back.

May touch: the network, through connectors (one direct, one for each proxy); the loop's clock.
Must never: follow a redirect, keep cookies, log, or raise for what a site does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from yarl import URL

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.base.tasks import forget_frames
from scraperd.base.text import printable
from scraperd.contract import Failure
from scraperd.fetch.connector import (
    REACH,
    Bound,
    Connector,
    HttpProxyConnector,
    SocksConnector,
)
from scraperd.fetch.errors import EXPECTED, failure_of_error
from scraperd.fetch.guard import Blocked, Guard, guarded
from scraperd.fetch.http1.codings import coding_of
from scraperd.fetch.http1.exchange import Exchange, head_of
from scraperd.fetch.http1.reader import BrokenOff, HeadLimits, Incomplete, Malformed
from scraperd.fetch.http1.reading_time import ReadingTime
from scraperd.fetch.message import STEPS, Response, location_of
from scraperd.fetch.protocol import Connection, Target
from scraperd.fetch.proxies import UNAUTHORISED, ProxyFailed, Socks
from scraperd.fetch.resolver import LookupFailed, Resolver
from scraperd.fetch.tls import Context

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from scraperd.config.tables import FetchSettings
    from scraperd.fetch.http1.codings import Coding
    from scraperd.fetch.http1.reader import Head
    from scraperd.fetch.message import Request

ACCEPT: Final = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
REDIRECT_BODY: Final = 64 * 1024  # bytes read of a redirect's body, to keep its connection
REDIRECT_WAIT: Final = 0.5  # seconds for the same
TOLD_WITHIN: Final = 1.0  # seconds to look a name up whose port is refused anyway
_PROXY_AUTHENTICATION: Final = 407
_REQUEST_TIMEOUT: Final = 408
_AUTHORIZATION: Final = "authorization"
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # RFC 9110 9.2.2
_PROXY_AUTHORIZATION: Final = "Proxy-Authorization"
_WHOLE_CONNECTION = re.compile(r"\s*(?:Negotiate|Nego2|NTLM|Kerberos)\b", re.IGNORECASE)


class Fetcher:
    """The connections that all jobs share. Use it as an async context manager.

    `fetch` may run any number of times at once. `guard` refuses addresses (SSRF). `connections`
    to sites are open at most. `located` waits for a name for `lookup_wait` seconds; None if no
    address has a limit, so that nobody needs to know it. `reading_time` bounds how long the
    answers that come in one moment hold the loop.
    """

    def __init__(
        self,
        settings: FetchSettings,
        proxies: Mapping[str, str],
        *,
        connections: int,
        lookup_wait: float | None,
        reading_time: ReadingTime | None = None,
    ) -> None:
        self._settings = settings
        self._proxies = proxies
        self._lookup_wait = lookup_wait
        self._bound = Bound(connections, reading_time or ReadingTime())
        self.guard = Guard(settings)
        self._connectors: dict[str, Connector] = {}
        self._retired: list[Connector] = []  # of proxies that are named no more, but in use
        self._limits = HeadLimits(settings.max_headers, settings.max_header_size)
        self._defaults = _defaults(settings)

    @property
    def connectors(self) -> Mapping[str, Connector]:
        """The connectors by the names of their proxies; that of the empty name has no proxy."""
        return self._connectors

    async def __aenter__(self) -> Self:
        self._resolver = Resolver(self._settings, self.guard)
        self._tls = Context.of(self._settings)
        direct: dict[str, Any] = {
            "resolver": self._resolver,
            "socket_factory": self.guard.socket,
            "ssl": self._tls,
        }
        self._connectors[""] = Connector(self._bound, **direct)
        for name, text in self._proxies.items():
            self._add_proxy(name, URL(text))
        return self

    def _add_proxy(self, name: str, url: URL) -> None:
        if url.scheme == "http":
            # the operator named it: neither the guard nor the nameservers for untrusted names
            self._connectors[name] = HttpProxyConnector(
                url, self._bound, resolver=aiohttp.ThreadedResolver(), ssl=self._tls
            )
        else:
            socks = Socks(url, self._settings.connect_timeout)
            self._connectors[name] = SocksConnector(
                socks, self.guard, self._bound, resolver=self._resolver, ssl=self._tls
            )

    def configure(
        self,
        settings: FetchSettings,
        proxies: Mapping[str, str],
        *,
        connections: int,
        lookup_wait: float | None,
    ) -> None:
        """Take other settings, as when it was made; TLS, nameservers and sizes of heads stay.

        Requests that are on their way end as they began. No later one uses a connection that the
        guard had judged by other settings.
        """
        before, self._settings, self._lookup_wait = self._settings, settings, lookup_wait
        self._defaults = _defaults(settings)
        self._bound.limit = connections
        self._resolver.configure(settings)
        if guarded(before) != guarded(settings):
            self.guard.configure(settings)
            for connector in self._connectors.values():
                connector.keep_none()
        old, self._proxies = self._proxies, proxies
        slower = before.connect_timeout != settings.connect_timeout
        for name, text in old.items():
            if proxies.get(name) != text or (slower and self._connectors[name].proxy is None):
                self._retired.append(self._connectors.pop(name))
        self._retire()
        for name, text in proxies.items():
            if name not in self._connectors:
                self._add_proxy(name, URL(text))

    def _retire(self) -> None:
        """Forget connectors that were replaced, once no request has a connection of theirs."""
        for connector in [*self._retired]:
            connector.keep_none()
            if not connector.busy:
                self._bound.leave(connector)
                self._retired.remove(connector)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connector in (*self._connectors.values(), *self._retired):
            await connector.close()
        await self._resolver.close()

    async def located(self, request: Request) -> str:
        """Return the address that `request` will be sent to first; empty if it is not known.

        It is not known through a proxy, without a limit by address, and if the lookup
        of the name takes longer than `lookup_wait`. A name that has no address is not an
        error here: the fetch reports it.
        """
        STEPS.set(request.steps)
        url, wait = request.url, self._lookup_wait
        if request.proxy or wait is None or self.guard.refuses(url):
            return ""
        host = url.raw_host or ""
        if ":" in host or host.rpartition(".")[2].isdigit():
            return host  # the guard has seen that it is an address
        try:
            async with asyncio.timeout(wait):
                return (await self._resolver.resolve(host))[0]["host"]
        except (Blocked, LookupFailed, OutOfDescriptors, TimeoutError):
            return ""

    async def fetch(self, request: Request) -> Response | Failure:
        """Send `request` and read the answer. All that goes wrong comes back as a Failure.

        What goes wrong in the body is the `trouble` of the Response: its head is known.

        Raises OutOfDescriptors if this process has no file descriptor left: no site is to blame.

        A kept connection may have been closed meanwhile: if it ends before a byte of an
        answer came, or with a 408, the request is sent again on another one. So is an idempotent
        one whose connection had something else in it than an answer.
        """
        refused = self.guard.refuses(request.url)
        if refused is not None:
            return Failure("blocked_address", refused + await self._address_fault(request))
        connector = self._connectors.get(request.proxy)
        if connector is None:
            return Failure("proxy", f"no proxy is named {printable(request.proxy)}")
        request.begin()
        STEPS.set(request.steps)
        try:
            async with asyncio.timeout(request.timeout):
                if connector.proxy is not None:
                    await self._look_up(request)
                return await self._send(connector, request)
        except EXPECTED as error:
            failure = failure_of_error(error, request, self._settings)
            forget_frames(error)
            return (
                failure if request.head is None else _without_body(request, request.head, failure)
            )

    async def _address_fault(self, request: Request) -> str:
        """What is wrong with the addresses of a name whose port is refused, to be told as well.

        Otherwise who allows the port meets the address next.
        """
        if not self.guard.refuses_port_only(request.url):
            return ""
        try:
            async with asyncio.timeout(min(TOLD_WITHIN, request.timeout)):
                await self._resolver.resolve(request.url.raw_host or "")
        except Blocked as error:
            return f"; {error}"
        except (LookupFailed, OutOfDescriptors, TimeoutError):
            pass
        return ""

    async def _look_up(self, request: Request) -> None:
        """Check that all addresses of the target's name are allowed; the proxy looks it up again.

        Raises Blocked, LookupFailed or OutOfDescriptors, as the connector would.
        """
        host = request.url.raw_host or ""
        try:
            ipaddress.ip_address(host)  # the guard has seen it
        except ValueError:
            limit = min(self._settings.connect_timeout, request.timeout)
            try:
                async with asyncio.timeout(limit):
                    await self._resolver.check(host)
            except TimeoutError:
                raise LookupFailed("no nameserver answered in time", retryable=True) from None

    async def _send(self, connector: Connector, request: Request) -> Response:
        """Send it on a kept connection or a new one. What a kept one spoils is sent again."""
        REACH.set(request.reach)
        target = Target(request.url, connector.proxy)
        connect = self._settings.connect_timeout
        limits = aiohttp.ClientTimeout(total=request.timeout, connect=connect)
        last = _is_last(request)
        forwarded = connector.proxy is not None and request.url.scheme == "http"
        head = self._head(request, target, last=last, forwarded=forwarded)  # it may raise
        answer, spoilt = None, False
        while answer is None:
            try:
                lent = await connector.lend(target, limits, fresh=spoilt)
            except TimeoutError:
                raise aiohttp.ConnectionTimeoutError from None
            asked = self._ask(lent, request, head, last=last, forwarded=forwarded)
            answer, spoilt = await asked, True
        return answer

    async def _ask(
        self,
        lent: aiohttp.connector.Connection,
        request: Request,
        head: bytes,
        *,
        last: bool,
        forwarded: bool,
    ) -> Response | None:
        """Return the answer; None if the connection was kept, and ended or had junk in it.

        A 408 is about the connection: it was idle too long, and its end crossed the request
        (RFC 9110 section 15.5.9). Chromium sends any request again too.
        """
        connection = lent.protocol
        assert isinstance(connection, Connection)
        kept = connection.uses > 0
        exchange = Exchange(connection, request, head, self._limits)
        reader = exchange.reader
        try:
            async with exchange:
                answered = await exchange.head()
                if kept and answered.status == _REQUEST_TIMEOUT:
                    return None
                return await self._answer(exchange, answered, request, forwarded=forwarded)
        except (Incomplete, OSError) as error:
            if reader.head is not None:
                raise BrokenOff from error
            if not kept or reader.begun:
                raise
        except Malformed:
            if not kept or reader.head is not None or request.method not in _IDEMPOTENT:
                raise
        finally:
            connection.account(request.steps)
            if connection.finish() and not last:
                lent.release()
            else:
                lent.close()
        return None

    def _head(self, request: Request, target: Target, *, last: bool, forwarded: bool) -> bytes:
        extra = {}
        if forwarded and (given := target.proxy_headers.get(_PROXY_AUTHORIZATION)):
            extra[_PROXY_AUTHORIZATION] = given
        return head_of(request, {**self._defaults, **extra}, last=last, absolute=forwarded)

    async def _answer(
        self, exchange: Exchange, head: Head, request: Request, *, forwarded: bool
    ) -> Response:
        """Return the response. The request is told its head at once: whatever its body does.

        `forwarded`: a proxy reads the messages, so that it gives some answers itself.
        """
        if head.status == _PROXY_AUTHENTICATION and forwarded:
            raise ProxyFailed(UNAUTHORISED, retryable=False)
        request.head = head
        if location_of(head) is not None and not request.final:
            await _pass_over(exchange)
            return Response(head.status, request.url, head.headers, b"")
        return await self._read(exchange, head, request)

    async def _read(self, exchange: Exchange, head: Head, request: Request) -> Response:
        """Read the body. Returning before its end closes the connection.

        A coding that ends early in a message that is whole is the site's own mistake: browsers
        show what came before, and so it is kept, and `cut` says so.
        """
        coding = coding_of(head, self._settings.transfer_maxsize)
        if not request.truncate:
            beyond = _declared(head, coding, request, self._settings.transfer_maxsize)
            if beyond is not None:
                return _without_body(request, head, beyond)
        pieces, beyond = await self._collect(exchange, coding, request)
        if beyond is not None and not request.truncate:
            return _without_body(request, head, beyond)
        cut = None
        if beyond is None and coding is not None and not coding.ended:
            message = f"{coding.what} {coding.coding}: it ends early"
            cut = Failure("decode", message, retryable=True)
            if head.until_close or not pieces:
                return _without_body(request, head, cut)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return Response(head.status, request.url, head.headers, body, cut=cut)

    async def _collect(
        self, exchange: Exchange, coding: Coding | None, request: Request
    ) -> tuple[list[bytes], Failure | None]:
        """Decode the body as it comes. Return it, and a failure if it was cut at a limit."""
        pieces: list[bytes] = []
        claim, limit, transfer = request.claim, request.max_body, self._settings.transfer_maxsize
        beyond = _too_large
        if coding is None and transfer < limit:
            limit, beyond = transfer, _too_much_sent
        size = sent = 0
        async for data in exchange.body():
            sent += len(data)
            excess = 0 if coding is None else max(0, sent - transfer)
            kept = data[: len(data) - excess] if excess else data
            for piece in (kept,) if coding is None else coding.feed(kept):
                if not piece:  # codings one over another can work for long, and give nothing
                    await asyncio.sleep(0)
                    continue
                size += len(piece)
                if size > limit:
                    pieces.append(piece[: limit - size])
                    return pieces, beyond(limit)
                if claim is not None and not claim.try_grow(len(piece)):
                    await claim.grow(len(piece))
                pieces.append(piece)
            if excess or (coding is not None and coding.overfull):
                return pieces, _too_much_sent(transfer) if excess else _too_much_between(transfer)
        return pieces, None


def _defaults(settings: FetchSettings) -> dict[str, str]:
    """The headers of a request that names none of its own."""
    return {
        "User-Agent": settings.agent,
        "Accept": ACCEPT,
        "Accept-Encoding": "gzip, deflate, br, zstd",
    }


def _without_body(request: Request, head: Head, trouble: Failure) -> Response:
    return Response(head.status, request.url, head.headers, b"", trouble)


def _is_last(request: Request) -> bool:
    """Return whether no other job may use the connection after this request.

    A server that leaves a body unread takes it for the next request. One that answers HEAD with a
    body answers the next request with it (RFC 9112 section 9.3). With Negotiate and NTLM all that
    follows on a connection is a request of the same user (RFC 4559 section 6).
    """
    if request.body is not None or request.method == "HEAD":
        return True
    given = [v for k, v in request.headers.items() if k.lower().replace("_", "-") == _AUTHORIZATION]
    return any(_WHOLE_CONNECTION.match(value) for value in given)


def _declared(head: Head, coding: Coding | None, request: Request, transfer: int) -> Failure | None:
    """Fail if the Content-Length is already beyond a limit."""
    length = 0 if request.method == "HEAD" else head.length or 0
    if coding is None and length > request.max_body:
        return _too_large(request.max_body)
    return _too_much_sent(transfer) if length > transfer else None


def _too_large(limit: int) -> Failure:
    return Failure("too_large", f"the body is larger than {limit} bytes")


def _too_much_sent(limit: int) -> Failure:
    return Failure(
        "too_large", f"the body is larger than {limit} bytes as sent (fetch.transfer_maxsize)"
    )


def _too_much_between(limit: int) -> Failure:
    what = f"one coding of the body holds more than {limit} bytes of another"
    return Failure("too_large", f"{what} (fetch.transfer_maxsize)")


async def _pass_over(exchange: Exchange) -> None:
    """Read what there is of a redirect's body, so that its connection can be kept.

    An error in it is ignored: that body is not used.
    """
    if exchange.reader.ended:
        return
    size = 0
    with contextlib.suppress(TimeoutError, Incomplete, Malformed, OSError):
        async with asyncio.timeout(REDIRECT_WAIT):
            async for data in exchange.body():
                size += len(data)
                if size > REDIRECT_BODY:
                    return
