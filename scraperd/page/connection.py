"""aiohttp's client connection, without three faults that a site can use (aiohttp 3.14).

May touch: internals of aiohttp; this is the one place that does.
Must never: change what a well-behaved site sees, or cost anything on a page that is in order.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

MAX_QUEUED: Final = 32  # responses that came at once; one is due, and perhaps some 1xx before it


class Connector(aiohttp.TCPConnector):
    """Makes connections of the kind below."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make = functools.partial(_Connection, loop=self._loop)
        self._factory = make  # type: ignore[assignment]


class _Connection(ResponseHandler):
    def is_connected(self) -> bool:
        """Whether it may be used again.

        A response nobody asked for, sent while the connection was idle, would
        be taken for the answer to the next job's request (RFC 9112 section 6.3).
        """
        return super().is_connected() and not self._buffer

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
