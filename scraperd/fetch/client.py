"""One URL, one hop, once: a request goes out, a bounded body or a Failure comes back.

May touch: the network, through aiohttp sessions (one, and one a proxy); the clocks.
Must never: follow a redirect, keep cookies, log, or raise for what a site does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from msgspec import UNSET
from yarl import URL

from scraperd.base.fd_limits import Exhausted
from scraperd.base.inflate import Inflater, Undecodable, inflater
from scraperd.base.text import printable
from scraperd.contract import Failure
from scraperd.fetch.connector import (
    LAST,
    REACH,
    Bound,
    Connector,
    Crowded,
    HttpProxyConnector,
    SocksConnector,
)
from scraperd.fetch.guard import Blocked, Guard
from scraperd.fetch.message import Response, location_of, retry_after
from scraperd.fetch.proxies import TIMEOUT, UNAUTHORISED, ProxyFailed, Socks
from scraperd.fetch.resolver import LookupFailed, Resolver
from scraperd.fetch.tls import Context

if TYPE_CHECKING:
    from types import TracebackType

    from scraperd.config.settings import Config
    from scraperd.fetch.message import Request

ACCEPT: Final = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
READ_BUFFER: Final = 16 * 1024  # bytes a connection reads ahead, outside of the memory budget
REDIRECT_BODY: Final = 64 * 1024  # bytes read of a redirect's body, to keep its connection
REDIRECT_WAIT: Final = 0.5  # seconds for the same
_ERRNO: Final = {  # asyncio hides the system's word for it behind an address
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ECONNRESET: "connection reset",
    errno.ETIMEDOUT: "timed out",
}
_NO_TYPE: Final = ("Content-Type",)
_PROXY_AUTHENTICATION: Final = 407
_NO_VERSION: Final = frozenset({"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"})
_STRANGER: Final = frozenset({19, 20, 21})  # X509_V_ERR: no chain to an authority of ours
_AUTHORIZATION: Final = "authorization"
_WHOLE_CONNECTION = re.compile(r"\s*(?:Negotiate|Nego2|NTLM|Kerberos)\b", re.IGNORECASE)


class Fetcher:
    """The shared sessions. An async context manager; `fetch` may run any number of times at once.

    `guard` knows where no connection may lead.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.guard = Guard(config)
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._http_proxies: set[str] = set()

    async def __aenter__(self) -> Self:
        config = self._config
        bound = Bound(config.max_connections or 2 * config.concurrency)
        self._resolver = Resolver(config, self.guard)
        tls = Context.of(config)
        direct: dict[str, Any] = {
            "resolver": self._resolver,
            "socket_factory": self.guard.socket,
            "ssl": tls,
        }
        self._sessions[""] = self._session(Connector(bound, **direct))
        for name, text in config.proxies.items():
            url = URL(text)
            if url.scheme == "http":
                self._http_proxies.add(name)
                # the operator named it: neither the guard nor the nameservers for strangers' names
                own = HttpProxyConnector(bound, resolver=aiohttp.ThreadedResolver(), ssl=tls)
                self._sessions[name] = self._session(own, proxy=url)
            else:
                socks = Socks(url, config.connect_timeout)
                self._sessions[name] = self._session(
                    SocksConnector(socks, self.guard, bound, resolver=self._resolver, ssl=tls)
                )
        return self

    def _session(self, connector: Connector, **options: Any) -> aiohttp.ClientSession:
        config = self._config
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # cookies belong to one job, never to the process
            headers={
                "User-Agent": config.agent,
                "Accept": ACCEPT,
                "Accept-Encoding": "gzip, deflate, br, zstd",
            },
            trust_env=False,
            auto_decompress=False,  # aiohttp passes a stream that ends early off as a whole one
            read_bufsize=READ_BUFFER,
            max_headers=config.max_headers,
            max_field_size=config.max_header_size,
            max_line_size=config.max_header_size,
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
        """The address that `request` will be sent to first; empty if that is not known.

        So it is through a proxy, without a limit by address, and where a name takes
        longer to look up than a job may wait here. What is wrong with a name, its
        fetch will say.
        """
        url, config = request.url, self._config
        if request.proxy or not config.per_address_concurrency or self.guard.refuses(url):
            return ""
        host = url.raw_host or ""
        if ":" in host or host.rpartition(".")[2].isdigit():
            return host  # the guard has seen that it is an address
        try:
            async with asyncio.timeout(config.park_after):
                return (await self._resolver.resolve(host))[0]["host"]
        except (Blocked, LookupFailed, Exhausted, TimeoutError):
            return ""

    async def fetch(self, request: Request) -> Response | Failure:
        """Send `request` and read the answer. What goes wrong comes back as a Failure.

        Raises Exhausted if it is for lack of descriptors, which no site can help.

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
        except _ERRORS as error:
            return _failure(error, request, self._config)

    async def _look_up(self, request: Request) -> None:
        """Ask whether the target's name leads only where we may go; the proxy asks for itself.

        Raises as the connector would.
        """
        host = request.url.raw_host or ""
        try:
            ipaddress.ip_address(host)  # the guard has seen it
        except ValueError:
            limit = min(self._config.connect_timeout, request.timeout)
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
            timeout=aiohttp.ClientTimeout(total=left, connect=self._config.connect_timeout),
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
        """The body. Leaving with some of it unread closes the connection."""
        coding = None
        if "Content-Encoding" in answer.headers:
            coding = inflater(",".join(answer.headers.getall("Content-Encoding")))
        if not request.truncate:
            beyond = _declared(answer, coding, request, self._config.transfer_maxsize)
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
        """The body, undone as it comes, up to the limit it is beyond, if any."""
        pieces: list[bytes] = []
        claim, limit, transfer = request.claim, request.max_body, self._config.transfer_maxsize
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
        """Whether a proxy reads and writes the messages, so that some answers are its own."""
        return request.proxy in self._http_proxies and request.url.scheme == "http"


def _is_last(request: Request) -> bool:
    """Whether no other job may have the connection after this request.

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
    """Which limit the Content-Length is beyond."""
    length = 0 if answer.content.is_eof() else answer.content_length or 0
    if coding is None and length > request.max_body:
        return _too_large(request.max_body)
    return _too_much_sent(transfer) if length > transfer else None


def _too_large(limit: int) -> Failure:
    return Failure("too_large", f"the body is larger than {limit} bytes")


def _too_much_sent(limit: int) -> Failure:
    return Failure("too_large", f"the body is larger than {limit} bytes as sent (transfer_maxsize)")


async def _pass_over(content: aiohttp.StreamReader) -> None:
    """Read what there is of a redirect's body, so that its connection can be kept.

    Whatever is wrong with it is no matter: nobody will see it.
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


_ERRORS: Final = (
    aiohttp.ClientError,
    Undecodable,
    ProxyFailed,
    TimeoutError,
    OSError,
    ValueError,
)


def _failure(  # noqa: C901, PLR0911, PLR0912 - a table
    error: Exception, request: Request, config: Config
) -> Failure:
    """Translate the library's error into the contract's kind. Most specific first."""
    match error:
        case ProxyFailed():
            return _of_proxy(request, str(error), retryable=error.retryable)
        case aiohttp.ConnectionTimeoutError() if request.proxy:
            return _of_proxy(request, TIMEOUT, retryable=True)
        case aiohttp.ClientConnectorCertificateError():
            return Failure("tls", f"certificate: {printable(_certificate(error))}")
        case aiohttp.ClientConnectorSSLError():
            return _handshake(error.os_error, config)
        case aiohttp.ConnectionTimeoutError():
            return Failure("timeout", "no connection within the connect timeout", retryable=True)
        case TimeoutError():
            message = f"not finished within {request.spent + request.timeout:.3g} s"
            return Failure("timeout", message, retryable=True)
        case Blocked() | LookupFailed():
            return _unresolved(error, request)
        case aiohttp.ClientConnectorError(os_error=(Blocked() | LookupFailed()) as cause):
            return _unresolved(cause, request)
        case aiohttp.ClientConnectorError(os_error=Crowded() as cause):
            return Failure("connect", f"{error.host}: {cause}", retryable=True)
        case aiohttp.ClientConnectorDNSError():
            return Failure("dns", f"no address for {error.host}", retryable=True)
        case aiohttp.ClientConnectorError():
            reason = _reason(error.os_error)
            return Failure("connect", f"{error.host}:{error.port}: {reason}", retryable=True)
        case Undecodable():
            return Failure("decode", f"content encoding {_text(error)}")
        case aiohttp.ClientPayloadError():
            return Failure("protocol", f"the body broke off: {_cause(error)}", retryable=True)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return Failure("connect", f"connection lost: {_text(error)}", retryable=True)
        case aiohttp.ClientResponseError():
            return Failure("protocol", f"malformed response: {_malformed(error, config)}")
        case aiohttp.InvalidURL() | ValueError():
            return Failure("protocol", f"not a request: {_text(error)}")
    return Failure("connect", f"connection lost: {_text(error)}", retryable=True)


def _of_proxy(request: Request, reason: str, *, retryable: bool) -> Failure:
    return Failure("proxy", f"proxy {request.proxy}: {reason}", retryable=retryable)


def _unresolved(error: Blocked | LookupFailed, request: Request) -> Failure:
    message = f"{request.url.raw_host}: {printable(str(error))}"
    if isinstance(error, Blocked):
        return Failure("blocked_address", message)
    return Failure("dns", message, retryable=error.retryable)


def _handshake(error: OSError, config: Config) -> Failure:
    if getattr(error, "reason", None) in _NO_VERSION:
        minimum = config.tls_minimum
        return Failure("tls", f"handshake: the site does not speak TLS {minimum} (tls_minimum)")
    return Failure("tls", f"handshake: {_text(error)}", retryable=True)


def _certificate(error: aiohttp.ClientConnectorCertificateError) -> str:
    """OpenSSL's own words: expired, self-signed, hostname mismatch."""
    cause = error.certificate_error
    words = getattr(cause, "verify_message", "") or str(cause)
    unknown = getattr(cause, "verify_code", 0) in _STRANGER
    return f"unknown authority: {words}" if unknown else words


def _malformed(error: aiohttp.ClientResponseError, config: Config) -> str:
    """Which limit it was, or the parser's own words."""
    if error.message.startswith("Got more than "):
        return (
            f"a header or the status line is longer than max_header_size ({config.max_header_size})"
        )
    if error.message.startswith("Too many headers"):
        return f"more headers than max_headers ({config.max_headers})"
    return _one_line(error.message)


def _reason(error: OSError) -> str:
    """The system's word. Never the error's own text: it names the address that was dialled."""
    if error.errno is None:  # aiohttp's own, or several addresses that failed differently
        several = str(error).startswith("Multiple exceptions")
        return "no address answers" if several else "closed during the TLS handshake"
    return _ERRNO.get(error.errno) or errno.errorcode.get(error.errno, "no connection")


def _cause(error: BaseException) -> str:
    """The reason, without aiohttp's wrapping: `<ContentLengthError: 400, message='...'>`."""
    return _one_line(getattr(error.__cause__, "message", "")) or _text(error)


def _text(error: BaseException) -> str:
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    """The parser draws an arrow under the fault, on a line of its own."""
    return printable(" ".join(text.removesuffix("^").split()))


def failure_of(response: Response, retry_codes: tuple[int, ...]) -> Failure | None:
    """The Failure a final status stands for; None for 2xx."""
    if 200 <= response.status < 300:  # noqa: PLR2004 - RFC 9110 section 15.3
        return None
    wait = retry_after(response.headers)
    return Failure(
        "http_status",
        f"the site answered {response.status}",
        retryable=response.status in retry_codes,
        retry_after=UNSET if wait is None else wait,
    )
