"""One URL, one hop, once: a request goes out; a bounded body or a Failure comes back.

May touch: the network, through aiohttp sessions (one direct, one for each proxy); the loop's clock.
Must never: follow a redirect, keep cookies, log, or raise for what a site does.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from yarl import URL

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.base.inflate import Inflater, inflater
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
from scraperd.fetch.guard import Blocked, Guard
from scraperd.fetch.message import Response, location_of
from scraperd.fetch.protocol import LAST
from scraperd.fetch.proxies import UNAUTHORISED, ProxyFailed, Socks
from scraperd.fetch.reading_time import ReadingTime
from scraperd.fetch.resolver import LookupFailed, Resolver
from scraperd.fetch.tls import Context

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from scraperd.config.tables import FetchSettings
    from scraperd.fetch.message import Request

ACCEPT: Final = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
READ_BUFFER: Final = 16 * 1024  # bytes a connection reads ahead, outside of the memory budget
REDIRECT_BODY: Final = 64 * 1024  # bytes read of a redirect's body, to keep its connection
REDIRECT_WAIT: Final = 0.5  # seconds for the same
_NO_TYPE: Final = ("Content-Type",)
_PROXY_AUTHENTICATION: Final = 407
_AUTHORIZATION: Final = "authorization"
_WHOLE_CONNECTION = re.compile(r"\s*(?:Negotiate|Nego2|NTLM|Kerberos)\b", re.IGNORECASE)


class Fetcher:
    """The sessions that all jobs share. Use it as an async context manager.

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
        self._connections = connections
        self._lookup_wait = lookup_wait
        self._reading_time = reading_time or ReadingTime()
        self.guard = Guard(settings)
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._http_proxies: set[str] = set()

    async def __aenter__(self) -> Self:
        bound = Bound(self._connections, self._reading_time)
        self._resolver = Resolver(self._settings, self.guard)
        tls = Context.of(self._settings)
        direct: dict[str, Any] = {
            "resolver": self._resolver,
            "socket_factory": self.guard.socket,
            "ssl": tls,
        }
        self._sessions[""] = self._session(Connector(bound, **direct))
        for name, text in self._proxies.items():
            url = URL(text)
            if url.scheme == "http":
                self._http_proxies.add(name)
                # the operator named it: neither the guard nor the nameservers for untrusted names
                own = HttpProxyConnector(bound, resolver=aiohttp.ThreadedResolver(), ssl=tls)
                self._sessions[name] = self._session(own, proxy=url)
            else:
                socks = Socks(url, self._settings.connect_timeout)
                self._sessions[name] = self._session(
                    SocksConnector(socks, self.guard, bound, resolver=self._resolver, ssl=tls)
                )
        return self

    def _session(self, connector: Connector, **options: Any) -> aiohttp.ClientSession:
        settings = self._settings
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # cookies belong to one job, never to the process
            headers={
                "User-Agent": settings.agent,
                "Accept": ACCEPT,
                "Accept-Encoding": "gzip, deflate, br, zstd",
            },
            trust_env=False,
            auto_decompress=False,  # aiohttp passes a stream that ends early off as a whole one
            read_bufsize=READ_BUFFER,
            max_headers=settings.max_headers,
            max_field_size=settings.max_header_size,
            max_line_size=settings.max_header_size,
            **options,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in self._sessions.values():
            await session.close()
        await self._resolver.close()

    async def located(self, request: Request) -> str:
        """Return the address that `request` will be sent to first; empty if it is not known.

        It is not known through a proxy, without a limit by address, and if the lookup
        of the name takes longer than `lookup_wait`. A name that has no address is not an
        error here: the fetch reports it.
        """
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

        Raises OutOfDescriptors if this process has no file descriptor left: no site is to blame.

        aiohttp itself sends an idempotent request a second time if its connection
        was closed before any answer: a kept one may have been closed meanwhile.
        """
        refused = self.guard.refuses(request.url)
        if refused is not None:
            return Failure("blocked_address", refused)
        session = self._sessions.get(request.proxy)
        if session is None:
            return Failure("proxy", f"no proxy is named {printable(request.proxy)}")
        deadline = asyncio.get_running_loop().time() + request.timeout
        try:
            if request.proxy in self._http_proxies:
                await self._look_up(request)
            return await self._send(session, request, deadline)
        except EXPECTED as error:
            return failure_of_error(error, request, self._settings)

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

    async def _send(
        self, session: aiohttp.ClientSession, request: Request, deadline: float
    ) -> Response | Failure:
        left = request.timeout
        if request.proxy:
            left = max(0.001, deadline - asyncio.get_running_loop().time())
        REACH.set(request.reach)
        LAST.set(last := _is_last(request))
        async with session.request(
            request.method,
            request.url,
            headers={**request.headers, "Connection": "close"} if last else request.headers,
            data=None if request.body is None else io.BytesIO(request.body),
            # aiohttp would give a POST without a body a Content-Type all the same
            skip_auto_headers=None if request.method == "GET" else _NO_TYPE,
            timeout=aiohttp.ClientTimeout(total=left, connect=self._settings.connect_timeout),
            allow_redirects=False,
        ) as answer:
            if answer.status == _PROXY_AUTHENTICATION and self._is_forwarded(request):
                raise ProxyFailed(UNAUTHORISED, retryable=False)
            if location_of(answer) is not None:
                await _pass_over(answer.content)
                body: bytes | Failure = b""
            else:
                body = await self._read(answer, request, deadline)
        if isinstance(body, Failure):
            return body
        return Response(answer.status, request.url, answer.headers, body)

    async def _read(
        self, answer: aiohttp.ClientResponse, request: Request, deadline: float
    ) -> bytes | Failure:
        """Read the body. Returning before its end closes the connection."""
        coding = None
        if "Content-Encoding" in answer.headers:
            coding = inflater(",".join(answer.headers.getall("Content-Encoding")))
        if not request.truncate:
            beyond = _declared(answer, coding, request, self._settings.transfer_maxsize)
            if beyond is not None:
                return beyond
        pieces, beyond = await self._collect(answer.content, coding, request, deadline)
        if beyond is not None:
            return b"".join(pieces) if request.truncate else beyond
        if coding is not None and not coding.ended:
            message = f"content encoding {coding.coding}: it ends early"
            return Failure("decode", message, retryable=True)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _collect(
        self,
        content: aiohttp.StreamReader,
        coding: Inflater | None,
        request: Request,
        deadline: float,
    ) -> tuple[list[bytes], Failure | None]:
        """Decode the body as it comes. Return it, and a failure if it was cut at a limit."""
        pieces: list[bytes] = []
        claim, limit, transfer = request.claim, request.max_body, self._settings.transfer_maxsize
        beyond = _too_large
        if coding is None and transfer < limit:
            limit, beyond = transfer, _too_much_sent
        size = sent = 0
        async for data in content.iter_any():
            sent += len(data)
            excess = 0 if coding is None else max(0, sent - transfer)
            kept = data[: len(data) - excess] if excess else data
            for piece in (kept,) if coding is None else coding.feed(kept):
                size += len(piece)
                if size > limit:
                    pieces.append(piece[: limit - size])
                    return pieces, beyond(limit)
                if claim is not None and not claim.try_grow(len(piece)):
                    async with asyncio.timeout_at(deadline):
                        await claim.grow(len(piece))
                pieces.append(piece)
            if excess:
                return pieces, _too_much_sent(transfer)
        return pieces, None

    def _is_forwarded(self, request: Request) -> bool:
        """Return whether a proxy reads the messages, so that it gives some answers itself."""
        return request.proxy in self._http_proxies and request.url.scheme == "http"


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


def _declared(
    answer: aiohttp.ClientResponse, coding: Inflater | None, request: Request, transfer: int
) -> Failure | None:
    """Fail if the Content-Length is already beyond a limit."""
    length = 0 if answer.content.is_eof() else answer.content_length or 0
    if coding is None and length > request.max_body:
        return _too_large(request.max_body)
    return _too_much_sent(transfer) if length > transfer else None


def _too_large(limit: int) -> Failure:
    return Failure("too_large", f"the body is larger than {limit} bytes")


def _too_much_sent(limit: int) -> Failure:
    return Failure(
        "too_large", f"the body is larger than {limit} bytes as sent (fetch.transfer_maxsize)"
    )


async def _pass_over(content: aiohttp.StreamReader) -> None:
    """Read what there is of a redirect's body, so that its connection can be kept.

    An error in it is ignored: that body is not used.
    """
    if content.is_eof():
        return
    size = 0
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(REDIRECT_WAIT):
            async for data in content.iter_any():
                size += len(data)
                if size > REDIRECT_BODY:
                    return
