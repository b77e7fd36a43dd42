"""What is asked of a site's TLS, and how much of this process's time a site may have by it.

May touch: the authorities' certificates, on disk.
Must never: accept a certificate that the settings do not.
"""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, Any, Final, Self

from scraperd.fetch.message import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.config.tables import FetchSettings

# For TLS 1.2 what Python itself offers, but DHE, which browsers speak no longer: a site chooses its
# prime, and one of 10,000 bits held the loop for 1.6 s a handshake. Curves are the library's own.
_CIPHERS: Final = (
    "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:!DHE:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
)
_PROTOCOL: Final = "http/1.1"  # its name by RFC 7301: without one, a site may close, or choose h2
# Of old servers: what Chromium still offers beside that. It has SHA-1 in a MAC, not in a signature.
_OLD_CIPHERS: Final = (
    "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:RSA+AESGCM:RSA+AES:!DHE:!PSK:!SRP:!aNULL:!eNULL"
    ":!aDSS:!AESCCM"
)
_LEGACY_SERVER_CONNECT: Final = 0x4  # SSL_OP_LEGACY_SERVER_CONNECT; Python names it from 3.12 on
MAX_CHATTER_BYTES: Final = 24 * 1024  # of a connection that carry no data, after its handshake
MAX_HANDSHAKE_BYTES: Final = 48 * 1024  # chains of real sites have under 10 kB. 99 kB took 0.15 s
STEP_BYTES: Final = 8 * 1024  # bytes of it that the library is given at once
_AROUND: Final = 32  # bytes around the data of one record in TLS 1.3: its head, type and tag
_AROUND_OLD: Final = 96  # the same in TLS 1.2, with CBC


class TooMuchChatter(ssl.SSLError):
    """What came after the handshake was too little data, and too much else."""

    most = MAX_CHATTER_BYTES
    what = "TLS that carry no data"

    def __init__(self) -> None:
        super().__init__(f"more than {self.most} bytes of {self.what}")


class TooMuchHandshake(TooMuchChatter):
    """The handshake was too long: so is the next one."""

    most = MAX_HANDSHAKE_BYTES
    what = "handshake"


class _Session(ssl.SSLObject):
    """One connection's TLS. Ends it when too much of what comes carries no data.

    A KeyUpdate (RFC 8446 section 4.6.3) is 27 bytes that cost us 60 us, tickets cost too, and the
    library takes any number of them within one call. So it is given little at a time.
    """

    _outer: ssl.MemoryBIO  # where the event loop puts what came
    _inner: ssl.MemoryBIO  # where the library takes it from
    _chatter = 0
    _taken = 0  # since the last data; a record may come in many parts

    def feed(self, outer: ssl.MemoryBIO, inner: ssl.MemoryBIO) -> None:
        """Say where its bytes come from, before it is used."""
        self._outer, self._inner = outer, inner

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises SSLWantReadError for more bytes, SSLError."""
        self._fed(super().do_handshake)
        self._taken = 0

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - Python's signature
        """Decrypt what came. Raises SSLWantReadError for more bytes, SSLError."""
        data: Any
        inner = self._inner
        before = inner.pending
        while True:
            try:
                data = super().read(len) if buffer is None else super().read(len, buffer)
                break
            except ssl.SSLWantReadError:
                if not self._refill(TooMuchChatter):
                    raise
        got = data if isinstance(data, int) else data.__len__()
        around = self._taken + before - inner.pending - got
        self._taken = 0
        if around > _AROUND:
            self._count(around - super().pending())
        return data

    def _count(self, around: int) -> None:
        usual = _AROUND if self.version() == "TLSv1.3" else _AROUND_OLD
        self._chatter += max(0, around - usual)

    def unwrap(self) -> None:
        """Say goodbye. Raises SSLWantReadError for more bytes, SSLError."""
        self._fed(super().unwrap)

    def pending(self) -> int:
        """Bytes that a read may give without any that is still to come."""
        return super().pending() + self._inner.pending

    def _fed(self, call: Callable[[], Any]) -> None:
        while True:
            try:
                call()
            except ssl.SSLWantReadError:
                if not self._refill(TooMuchHandshake):
                    raise
            else:
                return

    def _refill(self, limit: type[TooMuchChatter]) -> bool:
        if self._chatter + self._taken > limit.most:
            raise limit
        piece = self._outer.read(STEP_BYTES)
        if piece:
            self._inner.write(piece)
            self._taken += len(piece)
            return True
        if self._outer.eof and not self._inner.eof:
            self._inner.write_eof()
            return True
        return False


class Context(ssl.SSLContext):
    """What all connections to sites share."""

    sslobject_class = _Session

    @classmethod
    def of(cls, settings: FetchSettings) -> Self:
        """By the settings; `ca_file` as curl has it, the same on every Python. Raises OSError."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        if settings.ca_file:
            context.load_verify_locations(cafile=settings.ca_file)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        context.minimum_version = (
            ssl.TLSVersion.TLSv1_3 if settings.tls_minimum == "1.3" else ssl.TLSVersion.TLSv1_2
        )
        context.set_ciphers(_OLD_CIPHERS if settings.tls_legacy_servers else _CIPHERS)
        context.set_alpn_protocols([_PROTOCOL])
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.options &= ~_LEGACY_SERVER_CONNECT  # the system's openssl.cnf may have set it
        if settings.tls_legacy_servers:
            context.options |= _LEGACY_SERVER_CONNECT
        context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
        if not settings.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def wrap_bio(self, incoming: ssl.MemoryBIO, *args: Any, **options: Any) -> ssl.SSLObject:
        """A connection's TLS, fed from `incoming` bit by bit."""
        if (steps := STEPS.get()) is not None:
            steps.tls_began = time.monotonic()
        inner = ssl.MemoryBIO()
        session = super().wrap_bio(inner, *args, **options)
        assert isinstance(session, _Session)
        session.feed(incoming, inner)
        return session
