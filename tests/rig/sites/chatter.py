"""A TLS server that sends any number of KeyUpdates, which Python's own can't.

May touch: OpenSSL itself, through ctypes; the streams of a site on loopback.
Must never: be used where anything is to be kept secret.
"""

from __future__ import annotations

import _ssl
import ctypes
from ctypes import c_char_p, c_int, c_long, c_void_p
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

_PEM: Final = 1  # SSL_FILETYPE_PEM
_openssl = ctypes.CDLL(_ssl.__file__)  # and so what it is linked to


def _of(name: str, result: type, *arguments: type) -> ctypes._CFuncPtr:  # type: ignore[name-defined]
    function = getattr(_openssl, name)
    function.restype, function.argtypes = result, arguments
    return function


_method = _of("TLS_server_method", c_void_p)
_context = _of("SSL_CTX_new", c_void_p, c_void_p)
_chain = _of("SSL_CTX_use_certificate_chain_file", c_int, c_void_p, c_char_p)
_key = _of("SSL_CTX_use_PrivateKey_file", c_int, c_void_p, c_char_p, c_int)
_new = _of("SSL_new", c_void_p, c_void_p)
_memory = _of("BIO_s_mem", c_void_p)
_bio = _of("BIO_new", c_void_p, c_void_p)
_use = _of("SSL_set_bio", None, c_void_p, c_void_p, c_void_p)  # type: ignore[arg-type]
_accept = _of("SSL_set_accept_state", None, c_void_p)  # type: ignore[arg-type]
_go_on = _of("SSL_do_handshake", c_int, c_void_p)
_update = _of("SSL_key_update", c_int, c_void_p, c_int)
_send = _of("SSL_write", c_int, c_void_p, c_char_p, c_int)
_put = _of("BIO_write", c_int, c_void_p, c_char_p, c_int)
_get = _of("BIO_read", c_int, c_void_p, c_void_p, c_int)
_pending = _of("BIO_ctrl_pending", c_long, c_void_p)


class Chatter:
    """One connection's server. Its objects are small, and left to the process's end."""

    def __init__(self, certificate: Path) -> None:
        context = _context(_method())
        path = str(certificate).encode()
        assert _chain(context, path) == 1
        assert _key(context, path, _PEM) == 1
        self._session = _new(context)
        self._in, self._out = _bio(_memory()), _bio(_memory())
        _use(self._session, self._in, self._out)
        _accept(self._session)

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do the handshake."""
        done = False
        while not done:
            data = await reader.read(65536)
            if not data:
                raise ConnectionResetError
            _put(self._in, data, len(data))
            done = _go_on(self._session) == 1
            writer.write(self.said())

    def update(self, times: int) -> None:
        """Change the key, and ask for the same."""
        for _ in range(times):
            assert _update(self._session, 1) == 1
            assert _go_on(self._session) == 1

    def write(self, data: bytes) -> None:
        assert _send(self._session, data, len(data)) == len(data)

    def said(self) -> bytes:
        """What is to be sent, once."""
        buffer = ctypes.create_string_buffer(max(1, _pending(self._out)))
        size = _get(self._out, buffer, len(buffer))
        return buffer.raw[: max(0, size)]
