"""One URL, one hop, once: a request goes out, a bounded body or a Failure comes back.

May touch: the network, through one shared aiohttp session.
Must never: follow a redirect, retry, keep cookies, log, or raise for what a site does.
"""

from __future__ import annotations

import email.utils
import errno
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import aiohttp
from msgspec import UNSET

from scraperd.contract import Failure, printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from multidict import CIMultiDictProxy
    from yarl import URL

    from scraperd.config import Config

ACCEPT: Final = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
REDIRECT_BODY: Final = 64 * 1024  # bytes read of a redirect's body, to keep its connection
_ERRNO: Final = {  # asyncio hides the system's word for it behind an address
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ECONNRESET: "connection reset",
    errno.EMFILE: "this process is out of file descriptors (raise LimitNOFILE)",
}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Request:
    """One hop. `timeout` in seconds for all of it, `max_body` in bytes after decompression."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes | None
    timeout: float
    max_body: int


@dataclass(frozen=True, slots=True)
class Response:
    """What came back: any status, with the whole body. `set_cookies` are raw header values."""

    status: int
    url: URL
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def location(self) -> str | None:
        """Where a redirect points; None if this is none (RFC 9110 section 15.4)."""
        return self.headers.get("Location") if self.status in _REDIRECTS else None


class Fetcher:
    """The shared session. An async context manager; `fetch` may run any number of times at once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        config = self._config
        connector = aiohttp.TCPConnector(
            limit=0,  # the worker bounds concurrency; a second bound would queue in the dark
            ttl_dns_cache=60,
            ssl=ssl.create_default_context() if config.verify_tls else False,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # cookies belong to one job, never to the process
            headers={
                "User-Agent": config.agent,
                "Accept": ACCEPT,
                "Accept-Encoding": "gzip, deflate, br, zstd",
            },
            trust_env=False,
            auto_decompress=True,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def fetch(self, request: Request) -> Response | Failure:
        """Send `request` and read the answer. What goes wrong comes back as a Failure."""
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(
            total=request.timeout,
            connect=min(self._config.connect_timeout, request.timeout),
        )
        try:
            async with self._session.request(
                request.method,
                request.url,
                headers=request.headers,
                data=request.body,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                return await _read(response, request.max_body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return _failure(error, request.timeout)


async def _read(response: aiohttp.ClientResponse, limit: int) -> Response | Failure:
    """Stream the body, counting decompressed bytes; past `limit` the connection is dropped."""
    redirect = response.status in _REDIRECTS and "Location" in response.headers
    limit = min(limit, REDIRECT_BODY) if redirect else limit
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            response.close()
            if not redirect:
                return Failure("too_large", f"the body is larger than {limit} bytes")
            break
        chunks.append(chunk)
    return Response(
        response.status,
        response.url,
        response.headers,
        chunks[0] if len(chunks) == 1 else b"".join(chunks),
    )


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds the site asks to wait (RFC 9110 section 10.2.3: seconds or a date), or None."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        then = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - (now or datetime.now(UTC))).total_seconds())


def _failure(error: Exception, timeout: float) -> Failure:  # noqa: C901, PLR0911 - a table
    """Translate the library's error into the contract's kind. Most specific first."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return Failure("tls", f"certificate: {printable(_certificate(error))}")
        case aiohttp.ClientConnectorSSLError():
            return Failure("tls", f"handshake: {_text(error.os_error)}", retryable=True)
        case aiohttp.ClientConnectorDNSError():
            return Failure("dns", f"no address for {error.host}", retryable=True)
        case aiohttp.ConnectionTimeoutError():
            return Failure("timeout", "no connection within the connect timeout", retryable=True)
        case TimeoutError():
            return Failure("timeout", f"not finished within {timeout:g} s", retryable=True)
        case aiohttp.ClientConnectorError():
            reason = _reason(error.os_error)
            return Failure("connect", f"{error.host}:{error.port}: {reason}", retryable=True)
        case aiohttp.ClientPayloadError() if _is_encoding(error):
            return Failure("decode", f"content encoding: {_text(error)}")
        case aiohttp.ClientPayloadError():
            return Failure("protocol", f"the body broke off: {_text(error)}", retryable=True)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return Failure("connect", f"connection lost: {_text(error)}", retryable=True)
        case aiohttp.ClientResponseError():
            return Failure("protocol", f"not HTTP: {printable(error.message)}")
        case aiohttp.InvalidURL() | ValueError():
            return Failure("protocol", f"not a request: {_text(error)}")
    return Failure("connect", f"connection lost: {_text(error)}", retryable=True)


def _is_encoding(error: aiohttp.ClientPayloadError) -> bool:
    return isinstance(error, aiohttp.http_exceptions.ContentEncodingError) or isinstance(
        error.__cause__, aiohttp.http_exceptions.ContentEncodingError
    )


def _certificate(error: aiohttp.ClientConnectorCertificateError) -> str:
    """OpenSSL's own words: expired, self-signed, hostname mismatch."""
    cause = error.certificate_error
    return getattr(cause, "verify_message", "") or str(cause)


def _reason(error: OSError) -> str:
    return _ERRNO.get(error.errno or 0) or error.strerror or "connection failed"


def _text(error: BaseException) -> str:
    return printable(str(error) or type(error).__name__)


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
