"""An error of a fetch, aiohttp's or ours, becomes a failure of the contract: one table.

May touch: the error, the request that it ended, the settings.
Must never: raise, or put the address that was dialled into a message.
"""

from __future__ import annotations

import errno
import re
import ssl
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp
from msgspec import UNSET

from scraperd.base.inflate import Undecodable
from scraperd.base.text import printable
from scraperd.contract import Failure
from scraperd.fetch import tls_faults
from scraperd.fetch.connector import Crowded
from scraperd.fetch.guard import Blocked
from scraperd.fetch.http1.reader import BrokenOff, Incomplete, Malformed
from scraperd.fetch.message import retry_after
from scraperd.fetch.proxies import TIMEOUT, ProxyFailed
from scraperd.fetch.resolver import LookupFailed
from scraperd.fetch.tls import TooMuchHandshake

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.config.tables import FetchSettings
    from scraperd.contract import Kind
    from scraperd.fetch.message import Request, Response

EXPECTED: Final = (  # all that a fetch may raise without a mistake of ours
    aiohttp.ClientError,
    Malformed,
    Incomplete,
    BrokenOff,
    Undecodable,
    ProxyFailed,
    TimeoutError,
    OSError,
    ValueError,
)
# How aiohttp's parser and its dialler begin what they say: they have no type of error for it.
SEVERAL: Final = "Multiple exceptions"
_ERRNO: Final = {  # asyncio hides the system's word for it behind an address
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ECONNRESET: "connection reset",
    errno.ETIMEDOUT: "timed out",
}
_PYTHON_SSL = re.compile(r"^\[[^\]]*\] | \(_ssl\.c:[0-9]+\)$")  # what Python puts around the words
# What only a repr() has: objects, tuples, bytes, None, the names of errors.
_OBJECT = re.compile(
    r"<[\w.]+[ (<]|\b0x[0-9a-f]{4}|\b[bru]['\"]|\b[A-Z]\w*\(|\b\w+=['\"]"
    r"|\((?:['\"(]|[bru]['\"]|\d+, )|\bNone\b|\[Errno|[a-z](?:Error|Exception)\b"
)
_CAMELS = re.compile("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_WORDS: Final = frozenset("client os ssl value error exception connection".split())
_MOST_WORDS: Final = 10_000  # characters of an error's text that are looked at
_SELF_SIGNED: Final = 18  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
_UNKNOWN_AUTHORITY: Final = frozenset({19, 20, 21})  # X509_V_ERR: no chain to an authority of ours


def failure_of_error(error: Exception, request: Request, settings: FetchSettings) -> Failure:
    """Translate one of EXPECTED. The first row of the table that fits the error decides."""
    error = _innermost(error, request)
    row = next(row for row in _TABLE if isinstance(error, row.error))
    retryable = row.retryable if isinstance(row.retryable, bool) else row.retryable(error)
    return Failure(row.kind, row.message(error, request, settings), retryable=retryable)


def failure_of(response: Response, retry_codes: tuple[int, ...]) -> Failure | None:
    """Return the failure that a final status stands for; for 2xx that of its body, or None."""
    trouble = response.trouble
    if 200 <= response.status < 300:  # noqa: PLR2004 - RFC 9110 section 15.3
        return trouble
    wait = retry_after(response.headers)
    return Failure(
        "http_status",
        f"the site answered {response.status}" + (f"; {trouble.message}" if trouble else ""),
        retryable=response.status in retry_codes,
        retry_after=UNSET if wait is None else wait,
    )


def _innermost(error: Exception, request: Request) -> Exception:
    """Return the error of ours that aiohttp wraps, or that a proxy's connection stands for."""
    if isinstance(error, aiohttp.ConnectionTimeoutError) and request.proxy:
        return ProxyFailed(TIMEOUT, retryable=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return cause if isinstance(cause, Blocked | LookupFailed | Crowded) else error
    return error


class _Row(NamedTuple):
    """A kind of error, and the failure it becomes; `message` gets the request and settings too."""

    error: type[Exception]
    kind: Kind
    retryable: bool | Callable[[Any], bool]
    message: Callable[[Any, Request, FetchSettings], str]


def _proxy(error: ProxyFailed, request: Request, _: FetchSettings) -> str:
    return f"proxy {request.proxy}: {printable(str(error))}"


def _certificate(
    error: aiohttp.ClientConnectorCertificateError, _request: Request, _: FetchSettings
) -> str:
    """Say it in OpenSSL's own words: expired, self-signed, hostname mismatch; and the setting."""
    cause = error.certificate_error
    words = (getattr(cause, "verify_message", "") or _text(cause)).rstrip(".")
    code = getattr(cause, "verify_code", 0)
    prefix = "unknown authority: " if code in _UNKNOWN_AUTHORITY else ""
    setting = "ca_file" if prefix or code == _SELF_SIGNED else "verify_tls"
    return f"certificate: {prefix}{printable(words)} (fetch.{setting})"


def _handshake(error: aiohttp.ClientConnectorSSLError, _: Request, settings: FetchSettings) -> str:
    return f"handshake: {tls_faults.told(_tls_words(error.os_error), settings)}"


def _ended_tls(error: ssl.SSLError, _request: Request, settings: FetchSettings) -> str:
    return f"after the handshake: {tls_faults.told(_tls_words(error), settings)}"


def _tls_may_pass(error: OSError) -> bool:
    return not isinstance(error, TooMuchHandshake) and tls_faults.may_pass(_tls_words(error))


def _tls_words(error: OSError) -> str:
    """Return OpenSSL's words in lower case, without its codes."""
    words = (getattr(error, "reason", None) or "").replace("_", " ").lower()
    return words or _text(error)


def _no_connection(*_: object) -> str:
    return "no connection within the connect timeout"


def _not_finished(_error: TimeoutError, request: Request, _: FetchSettings) -> str:
    return f"not finished within {request.spent + request.timeout:.3g} s"


def _of_host(error: OSError, request: Request, _: FetchSettings) -> str:
    return f"{request.url.raw_host}: {printable(str(error))}"


def _not_connected(error: aiohttp.ClientConnectorError, _request: Request, _: FetchSettings) -> str:
    host = f"[{error.host}]" if ":" in error.host else error.host
    return f"{host}:{error.port}: {_reason(error.os_error)}"


def _reason(error: OSError) -> str:
    """Say the system's word, never the error's own text: it names the address that was dialled."""
    if error.errno is None:  # aiohttp's own, or several addresses that failed differently
        several = str(error).startswith(SEVERAL)
        return "no address answers" if several else "closed during the TLS handshake"
    return _ERRNO.get(error.errno) or errno.errorcode.get(error.errno, "no connection")


def _broken_off(error: BrokenOff, _request: Request, settings: FetchSettings) -> str:
    cause = error.__cause__
    return f"the body broke off: {_why(cause, settings) if cause else 'the site closed it'}"


def _lost(error: Exception, _request: Request, settings: FetchSettings) -> str:
    return f"connection lost: {_why(error, settings)}"


def _why(error: BaseException, settings: FetchSettings) -> str:
    """Say the system's word where it has one, never its own text; else the error's words."""
    if isinstance(error, ssl.SSLError):  # its number is the library's, and not the system's
        return f"TLS: {tls_faults.told(_tls_words(error), settings)}"
    has_number = isinstance(error, OSError) and error.errno is not None
    return _reason(error) if has_number else _text(error)  # type: ignore[arg-type]


def _text(error: BaseException) -> str:
    """Say the error's own words; those of its class if it has none, or shows an object."""
    words = " ".join(_PYTHON_SSL.sub("", _given(error)).split())
    if not words or _OBJECT.search(words):
        return _named(error)
    return printable(words[:1].lower() + words[1:] if words[1:2].islower() else words)


def _named(error: BaseException) -> str:
    """Say the words of the error's class: "connection reset" of a ConnectionResetError."""
    words = [word.lower() for word in _CAMELS.split(type(error).__name__)]
    if _NO_WORDS.issuperset(words):
        return "no reason is known"
    return " ".join(word for word in words if word not in ("client", "error", "exception"))


def _given(error: BaseException) -> str:
    """Return the text that an error was made with. An OSError's str() has its number too."""
    text: object = str(error)
    if isinstance(error, OSError):
        text = error.strerror or (error.args[0] if len(error.args) == 1 else "")
    return text[:_MOST_WORDS] if isinstance(text, str) else ""


_says: Final = attrgetter("retryable")  # the error itself knows

_TABLE: Final = (  # the most specific first; the last row fits all that is left
    _Row(ProxyFailed, "proxy", _says, _proxy),
    _Row(aiohttp.ClientConnectorCertificateError, "tls", False, _certificate),
    _Row(aiohttp.ClientConnectorSSLError, "tls", lambda e: _tls_may_pass(e.os_error), _handshake),
    _Row(aiohttp.ConnectionTimeoutError, "timeout", True, _no_connection),
    _Row(TimeoutError, "timeout", True, _not_finished),
    _Row(Blocked, "blocked_address", False, _of_host),
    _Row(LookupFailed, "dns", _says, _of_host),
    _Row(Crowded, "connect", True, _of_host),
    _Row(aiohttp.ClientConnectorDNSError, "dns", True, lambda e, *_: f"no address for {e.host}"),
    _Row(aiohttp.ClientConnectorError, "connect", True, _not_connected),
    _Row(Undecodable, "decode", False, lambda e, *_: f"{e.what} {_text(e)}"),
    _Row(BrokenOff, "protocol", True, _broken_off),
    _Row(Incomplete, "connect", True, _lost),
    _Row(Malformed, "protocol", False, lambda e, *_: f"malformed response: {_text(e)}"),
    _Row(ValueError, "protocol", False, lambda e, *_: f"not a request: {_text(e)}"),
    _Row(ssl.SSLError, "tls", _tls_may_pass, _ended_tls),
    _Row(Exception, "connect", True, _lost),
)
