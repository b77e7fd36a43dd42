"""Tests of the table that makes a failure of an error: each row, its order, and its words.

May touch: errors as aiohttp makes them.
Must never: open a connection; tests/fetch/test_client.py provokes the same errors by real sites.
"""

from __future__ import annotations

import errno
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from scraperd.base.inflate import Undecodable
from scraperd.config.tables import FetchSettings
from scraperd.contract import Failure
from scraperd.fetch.connector import Crowded
from scraperd.fetch.errors import EXPECTED, failure_of, failure_of_error
from scraperd.fetch.guard import Blocked
from scraperd.fetch.http1.reader import BrokenOff, Incomplete, Malformed
from scraperd.fetch.message import Request, Response
from scraperd.fetch.proxies import ProxyFailed
from scraperd.fetch.resolver import LookupFailed

TARGET = URL("https://a.test/")
KEY = ConnectionKey("a.test", 443, True, True, None, None, None)
NO_HEADERS = CIMultiDictProxy(CIMultiDict[str]())
ADDRESS = "10.1.2.3"
FULL = "an address of it has as many fetches as politeness.per_address_concurrency allows"
REFUSED = OSError(errno.ECONNREFUSED, f"Connect call failed ('{ADDRESS}', 443)")


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] x")
    error.reason = reason
    return error


def bad_certificate(code: int, words: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, words
    return error


def broken_body(cause: OSError | None) -> BrokenOff:
    error = BrokenOff()
    error.__cause__ = cause or Incomplete()
    return error


def translated(error: Exception, proxy: str = "") -> Failure:
    asked = Request("GET", TARGET, {}, None, 2.5, 1000, proxy=proxy, spent=1.0)
    return failure_of_error(error, asked, FetchSettings(max_headers=7, max_header_size=4096))


ROWS = {
    "a proxy's lasting failure": (
        ProxyFailed("it refuses", retryable=False),
        ("proxy", False, "proxy : it refuses"),
    ),
    "an unknown authority": (
        aiohttp.ClientConnectorCertificateError(KEY, bad_certificate(19, "self-signed")),
        ("tls", False, "certificate: unknown authority: self-signed (fetch.ca_file)"),
    ),
    "an expired certificate": (
        aiohttp.ClientConnectorCertificateError(KEY, bad_certificate(10, "has expired")),
        ("tls", False, "certificate: has expired (fetch.verify_tls)"),
    ),
    "a version of TLS": (
        aiohttp.ClientConnectorSSLError(KEY, tls_error("UNSUPPORTED_PROTOCOL")),
        ("tls", False, "handshake: the site does not speak TLS 1.2 (fetch.tls_minimum)"),
    ),
    "a handshake": (
        aiohttp.ClientConnectorSSLError(KEY, tls_error("BAD_RECORD")),
        ("tls", True, "handshake: bad record"),
    ),
    "an alert": (
        aiohttp.ClientConnectorSSLError(KEY, tls_error("TLSV1_ALERT_INTERNAL_ERROR")),
        ("tls", True, "handshake: the site sent the alert: internal error"),
    ),
    "an alert that lasts": (
        aiohttp.ClientConnectorSSLError(KEY, tls_error("TLSV1_ALERT_UNKNOWN_CA")),
        ("tls", False, "handshake: the site sent the alert: unknown ca"),
    ),
    "a handshake without a reason": (
        aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "[SSL] unknown error (_ssl.c:1006)")),
        ("tls", True, "handshake: unknown error"),
    ),
    "an alert after the handshake": (
        tls_error("TLSV1_ALERT_ACCESS_DENIED"),
        ("tls", False, "after the handshake: the site sent the alert: access denied"),
    ),
    "a body whose TLS breaks": (
        broken_body(tls_error("DECRYPTION_FAILED_OR_BAD_RECORD_MAC")),
        ("protocol", True, "the body broke off: TLS: decryption failed or bad record mac"),
    ),
    "an IPv6 address": (
        aiohttp.ClientConnectorError(KEY._replace(host="2001:db8::1"), REFUSED),
        ("connect", True, "[2001:db8::1]:443: connection refused"),
    ),
    "connecting took too long": (
        aiohttp.ConnectionTimeoutError("x"),
        ("timeout", True, "no connection within the connect timeout"),
    ),
    "all took too long": (TimeoutError(), ("timeout", True, "not finished within 3.5 s")),
    "a blocked address": (
        aiohttp.ClientConnectorError(KEY, Blocked("is not public")),
        ("blocked_address", False, "a.test: is not public"),
    ),
    "a blocked name": (
        aiohttp.ClientConnectorDNSError(KEY, Blocked("is not public")),
        ("blocked_address", False, "a.test: is not public"),
    ),
    "a name that does not exist": (
        aiohttp.ClientConnectorDNSError(KEY, LookupFailed("NXDOMAIN", retryable=False)),
        ("dns", False, "a.test: NXDOMAIN"),
    ),
    "a nameserver in trouble": (
        LookupFailed("SERVFAIL", retryable=True),
        ("dns", True, "a.test: SERVFAIL"),
    ),
    "a full address": (
        aiohttp.ClientConnectorError(KEY, Crowded()),
        (
            "connect",
            True,
            "a.test: " + FULL,
        ),
    ),
    "a lookup of the system's": (
        aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "unknown name")),
        ("dns", True, "no address for a.test"),
    ),
    "a refusal": (
        aiohttp.ClientConnectorError(KEY, REFUSED),
        ("connect", True, "a.test:443: connection refused"),
    ),
    "an errno without words of ours": (
        aiohttp.ClientConnectorError(KEY, OSError(errno.EPERM, ADDRESS)),
        ("connect", True, "a.test:443: EPERM"),
    ),
    "several addresses": (
        aiohttp.ClientConnectorError(KEY, OSError(f"Multiple exceptions: {ADDRESS}, {ADDRESS}")),
        ("connect", True, "a.test:443: no address answers"),
    ),
    "closed in the handshake": (
        aiohttp.ClientConnectorError(KEY, OSError("SSL")),
        ("connect", True, "a.test:443: closed during the TLS handshake"),
    ),
    "a content coding": (
        Undecodable("gzip: invalid"),
        ("decode", False, "content encoding gzip: invalid"),
    ),
    "a body": (broken_body(None), ("protocol", True, "the body broke off: the site closed it")),
    "a body that is reset": (
        broken_body(ConnectionResetError(errno.ECONNRESET, "127.0.0.1")),
        ("protocol", True, "the body broke off: connection reset"),
    ),
    "closed before an answer": (
        Incomplete(),
        ("connect", True, "connection lost: the site closed it"),
    ),
    "reset before an answer": (
        ConnectionResetError(errno.ECONNRESET, "reset by 127.0.0.1"),
        ("connect", True, "connection lost: connection reset"),
    ),
    "no HTTP": (
        Malformed("it has no status line"),
        ("protocol", False, "malformed response: it has no status line"),
    ),
    "no URL": (
        aiohttp.InvalidURL("http://["),
        ("protocol", False, "not a request: http://["),
    ),
    "a value": (ValueError("bad header"), ("protocol", False, "not a request: bad header")),
    "all that is left": (
        aiohttp.ClientConnectionError("Connector is closed."),
        ("connect", True, "connection lost: connector is closed."),
    ),
}


@pytest.mark.parametrize(
    "words",
    [
        "None",
        "",
        "unable to perform operation on <TCPTransport closed=True reading=False 0x55d0c0ffee>",
        "Cannot write to <ssl.SSLSocket fd=7, family=2>",
        f"Cannot connect to {KEY}",
        "Expected HTTP/: b'SSH-2.0-x'",
    ],
)
def test_no_message_shows_an_object_of_a_library(words: str) -> None:
    """What repr() made is for developers: nobody is told it."""
    for error in (aiohttp.ClientConnectionError(words), ValueError(words), ConnectionError(words)):
        told = translated(error).message
        assert told.endswith(": no reason is known"), told


def test_words_that_only_look_like_code_are_told() -> None:
    """A header's name or a host in brackets is no object."""
    assert translated(ValueError("<p> in a(b) [::1]")).message.endswith(": <p> in a(b) [::1]")


def test_an_error_without_words() -> None:
    """Its class has some."""
    assert translated(ConnectionResetError()).message == "connection lost: connection reset"
    assert translated(BrokenPipeError()).message == "connection lost: broken pipe"


@pytest.mark.parametrize("name", ROWS)
def test_each_row(name: str) -> None:
    """An error is expected, becomes its kind, says if it may pass, and names no address."""
    error, (kind, retryable, message) = ROWS[name]
    assert isinstance(error, EXPECTED)
    found = translated(error)
    assert found == Failure(kind, message, retryable=retryable)  # type: ignore[arg-type]
    assert ADDRESS not in found.message


def test_a_slow_proxy_is_not_the_sites_fault() -> None:
    """The same timeout is `proxy` for a request through one, and `timeout` for a direct one."""
    error = aiohttp.ConnectionTimeoutError("x")
    found = translated(error, "exit")
    assert (found.kind, found.retryable) == ("proxy", True)
    assert found.message == "proxy exit: no connection through it within the connect timeout"


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (503, True), (304, False)])
def test_a_status_that_is_a_failure(status: int, *, retryable: bool) -> None:
    """The settings say which statuses are tried again; Retry-After travels in seconds."""
    headers = CIMultiDictProxy(CIMultiDict({"Retry-After": "7"}))
    found = failure_of(Response(status, TARGET, headers, b""), (503,))
    words = f"the site answered {status}"
    assert found == Failure("http_status", words, retryable=retryable, retry_after=7.0)


@pytest.mark.parametrize("status", [200, 204, 299])
def test_a_status_that_is_no_failure(status: int) -> None:
    """2xx is success (RFC 9110 section 15.3)."""
    assert failure_of(Response(status, TARGET, NO_HEADERS, b""), (503,)) is None
