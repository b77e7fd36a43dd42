"""Tests that no failure shows an object of a library: each error that a fetch can meet is tried.

May touch: the classes of errors of aiohttp, ssl, asyncio, c-ares' and the proxies' libraries.
Must never: list those classes by hand, so that a new version's new ones are tried too.
"""

from __future__ import annotations

import errno
import inspect
import itertools
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

import aiodns
import aiohttp
import pycares
import pytest
import python_socks
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from scraperd.base.inflate import Undecodable
from scraperd.config.tables import FetchSettings
from scraperd.fetch.errors import EXPECTED, failure_of_error
from scraperd.fetch.http1.reader import BrokenOff, Incomplete, Malformed
from scraperd.fetch.message import Request
from scraperd.fetch.proxies import ProxyFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST: Final = 300  # characters of a message: 200 of an error's own words, and ours around them
ADDRESS: Final = "10.1.2.3"
KEY: Final = ConnectionKey("a.test", 443, True, True, None, None, None)
INFO: Final = aiohttp.RequestInfo(
    URL("https://a.test/"), "GET", CIMultiDictProxy(CIMultiDict()), URL("https://a.test/")
)
LIBRARIES: Final = {m.__name__ for m in (aiodns, aiohttp, pycares, python_socks, socket, ssl)}
LIBRARIES_OF_PYTHON: Final = {"asyncio", "builtins", "uvloop"}
# What libraries put into their errors: nothing, None, objects, tuples, pages of text.
WORDS: Final = (
    None,
    "",
    "None",
    "it broke\r\nhere",
    f"Connect call failed ('{ADDRESS}', 443)",
    f"Multiple exceptions: [Errno 111] Connect call failed ('{ADDRESS}', 443)",
    "unable to perform operation on <TCPTransport closed=True reading=False 0x7f31>; closed",
    "<asyncio.sslproto._SSLProtocolTransport object at 0x7f760615e460> is not supported",
    "Connection<ConnectionKey(host='a.test', port=443, is_ssl=True)>",
    "ClientRequest('GET', URL('https://a.test/'))",
    "bad bytes b'\\x00\\xff'",
    "[SSL: NO_SUCH_REASON] no such reason (_ssl.c:1006)",
    "EOF occurred in violation of protocol (_ssl.c:1006)",
    "\x1b[31mred\u202e",
    "x" * 10_000,
    object(),
    b"\x00\xff",
    KEY,
    OSError(errno.ECONNREFUSED, f"Connect call failed ('{ADDRESS}', 443)"),
    ("a", 1),
)
SHOWN: Final = re.compile(
    r"\bat 0x|0x[0-9a-f]{4}|<[^>]*>|\bNone\b|\bConnection|\b[bru]['\"]"
    r"|\w(?:Error|Exception|Key|Transport|Request|Protocol)\b|_ssl\.c|\(\(|\[Errno"
)


def classes() -> list[type[Exception]]:
    """Every class that a fetch may raise, of the libraries that a fetch uses."""
    found: dict[type[Exception], None] = {}
    waiting: list[type[Exception]] = [Exception]
    while waiting:
        for one in waiting.pop().__subclasses__():
            if one not in found:
                waiting.append(one)
                room = one.__module__.partition(".")[0]
                if issubclass(one, EXPECTED) and room in LIBRARIES | LIBRARIES_OF_PYTHON:
                    found[one] = None
    return sorted(found, key=lambda one: (one.__module__, one.__qualname__))


def made(kind: type[Exception]) -> Iterator[Exception]:
    """Errors of the class, with all sorts of arguments that it takes."""
    for words in WORDS:
        cause = words if isinstance(words, OSError) else OSError(errno.EPERM, words)
        for arguments in (
            (words,),
            (1, words),
            (errno.ECONNRESET, words),
            (KEY, cause),
            (KEY, OSError(words)),
            (KEY, ssl.SSLError(1, words)),
            (KEY, ssl.SSLError(words)),
            (KEY, ssl.SSLCertVerificationError(1, words)),
            (INFO, ()),
            ("/path", KEY, cause),
            ("utf-8", b"\xff", 0, 1, str(words) or "x"),
            ("utf-8", "\xff", 0, 1, str(words) or "x"),
            ("\xff", 0, 1, str(words) or "x"),
            (),
        ):
            if issubclass(kind, OSError) and arguments[:1] == (INFO,):
                continue  # it would be taken for a number
            try:
                error = kind(*arguments)
                str(error)
            except (TypeError, ValueError, AttributeError):
                continue  # aiohttp's own classes need what they are made for
            yield error


def wrapped(error: Exception) -> Iterator[Exception]:
    """The error as it is, and where our own errors and aiohttp's have it inside."""
    yield error
    broken = BrokenOff()
    broken.__cause__ = error
    yield broken
    if isinstance(error, OSError):
        yield aiohttp.ClientConnectorError(KEY, error)
        yield aiohttp.ClientConnectorDNSError(KEY, error)
    if isinstance(error, ssl.SSLError):
        yield aiohttp.ClientConnectorSSLError(KEY, error)
    if isinstance(error, ssl.SSLCertVerificationError):
        yield aiohttp.ClientConnectorCertificateError(KEY, error)


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_no_error_shows_an_object(kind: type[Exception]) -> None:
    """One printable line of words comes out, whatever the library put into its error."""
    tried = 0
    for error, proxy in itertools.product(made(kind), ("", "office")):
        for one in wrapped(error):
            request = Request("GET", URL("https://a.test/"), {}, None, 2.5, 1000, proxy=proxy)
            found = failure_of_error(one, request, FetchSettings()).message
            assert found.isprintable(), (one, found)
            assert len(found) <= LONGEST, (one, found)
            assert found.strip(": ") == found, (one, found)
            assert not SHOWN.search(found), (repr(one)[:300], found)
            assert ADDRESS not in found, (one, found)
            tried += 1
    assert tried >= 10


@pytest.mark.parametrize("kind", [Malformed, Undecodable, Incomplete, ProxyFailed])
def test_our_own_errors_are_bounded(kind: type[Exception]) -> None:
    """What a site puts into ours is cut, too."""
    words = "x\r\n\x1b" * 1000
    if kind is Incomplete:
        error: Any = kind()
    else:
        error = kind(words, **({"retryable": True} if kind is ProxyFailed else {}))
    request = Request("GET", URL("https://a.test/"), {}, None, 2.5, 1000, proxy="office")
    found = failure_of_error(error, request, FetchSettings()).message
    assert found.isprintable()
    assert len(found) <= LONGEST


def test_which_classes_are_tried() -> None:
    """The walk finds what matters; without this, it could find nothing."""
    found = set(classes())
    assert {aiohttp.ServerDisconnectedError, ssl.SSLEOFError, socket.gaierror} <= found
    assert {python_socks.ProxyConnectionError, ConnectionResetError, BrokenPipeError} <= found
    assert all(inspect.isclass(one) for one in found)
    assert len(found) > 30
