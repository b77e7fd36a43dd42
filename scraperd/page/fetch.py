"""One URL, one hop, once: a request goes out, a bounded body or a Failure comes back.

May touch: the network, through one shared aiohttp session; the wall clock, for `Retry-After`.
Must never: follow a redirect, keep cookies, log, or raise for what a site does.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import errno
import io
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import aiohttp
from msgspec import UNSET

from scraperd.contract import Failure, printable
from scraperd.page.connection import Connector
from scraperd.page.inflate import Undecodable, inflater

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from multidict import CIMultiDictProxy
    from yarl import URL

    from scraperd.config import Config

ACCEPT: Final = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
MAX_FIELD: Final = 64 * 1024  # bytes of one header; real sites outgrow aiohttp's 8 KiB
REDIRECT_BODY: Final = 64 * 1024  # bytes read of a redirect's body, to keep its connection
REDIRECT_WAIT: Final = 0.5  # seconds for the same
_ERRNO: Final = {  # asyncio hides the system's word for it behind an address
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ECONNRESET: "connection reset",
    errno.EMFILE: "this process is out of file descriptors (raise LimitNOFILE)",
}
_NO_TYPE: Final = ("Content-Type",)
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(slots=True)
class Request:
    """One hop. `timeout` in seconds for all of it, `max_body` in bytes after decompression."""

    method: str
    url: URL
    headers: dict[str, str]
    body: bytes | None
    timeout: float
    max_body: int


@dataclass(frozen=True, slots=True)
class Response:
    """What came back: any status, with the whole body. A redirect's body is not kept."""

    status: int
    url: URL
    headers: CIMultiDictProxy[str]
    body: bytes


def location_of(answer: Response | aiohttp.ClientResponse) -> str | None:
    """Where a redirect points; None if this is none (RFC 9110 section 15.4)."""
    return (answer.headers.get("Location") or None) if answer.status in _REDIRECTS else None


class Fetcher:
    """The shared session. An async context manager; `fetch` may run any number of times at once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        config = self._config
        connector = Connector(
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
            auto_decompress=False,  # aiohttp passes a stream that ends early off as a whole one
            max_field_size=MAX_FIELD,
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
        """Send `request` and read the answer. What goes wrong comes back as a Failure.

        aiohttp itself sends an idempotent request a second time if its connection
        was closed before any answer: a kept one may have been closed meanwhile.
        """
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=request.timeout, connect=self._config.connect_timeout)
        try:
            async with self._session.request(
                request.method,
                request.url,
                headers=request.headers,
                data=None if request.body is None else io.BytesIO(request.body),
                # aiohttp would give a POST without a body a Content-Type all the same
                skip_auto_headers=None if request.method == "GET" else _NO_TYPE,
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                if location_of(answer) is not None:
                    await _pass_over(answer.content)
                    body: bytes | Failure = b""
                else:
                    body = await _read(answer, request.max_body)
        except (aiohttp.ClientError, Undecodable, TimeoutError, OSError, ValueError) as error:
            return _failure(error, request.timeout)
        if isinstance(body, Failure):
            return body
        return Response(answer.status, request.url, answer.headers, body)


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes | Failure:
    """The body, undone as it comes. Past `limit` nothing more is read or undone.

    Leaving with the body unread closes the connection.
    """
    coding = None
    if "Content-Encoding" in answer.headers:
        coding = inflater(",".join(answer.headers.getall("Content-Encoding")))
    elif not answer.content.is_eof() and (answer.content_length or 0) > limit:
        return _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    async for data in answer.content.iter_any():
        for piece in (data,) if coding is None else coding.feed(data):
            size += len(piece)
            if size > limit:
                return _too_large(limit)
            pieces.append(piece)
    if coding is not None and not coding.ended:
        return Failure("decode", f"content encoding {coding.coding}: it ends early", retryable=True)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> Failure:
    return Failure("too_large", f"the body is larger than {limit} bytes")


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


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds the site asks to wait (RFC 9110 section 10.2.3: seconds or a date), or None."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    then = http_date(value)
    return None if then is None else max(0.0, (then - (now or datetime.now(UTC))).total_seconds())


def http_date(text: str) -> datetime | None:
    """A date in any of the forms of RFC 9110 section 5.6.7, or None."""
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


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
            return Failure("timeout", f"not finished within {timeout:.3g} s", retryable=True)
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
            return Failure("protocol", f"malformed response: {_one_line(error.message)}")
        case aiohttp.InvalidURL() | ValueError():
            return Failure("protocol", f"not a request: {_text(error)}")
    return Failure("connect", f"connection lost: {_text(error)}", retryable=True)


def _certificate(error: aiohttp.ClientConnectorCertificateError) -> str:
    """OpenSSL's own words: expired, self-signed, hostname mismatch."""
    cause = error.certificate_error
    return getattr(cause, "verify_message", "") or str(cause)


def _reason(error: OSError) -> str:
    return _ERRNO.get(error.errno or 0) or error.strerror or "closed during the TLS handshake"


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
