"""Content codings (gzip, deflate, br, zstd) undone in steps of bounded size.

May touch: bytes. Pure.
Must never: undo more than it is asked for, or take a stream that ends early for a whole one.
"""

from __future__ import annotations

import sys
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol

import brotli  # type: ignore[import-untyped]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEP: Final = 64 * 1024  # bytes that one step undoes; brotli rounds it up by a half
MAX_MEMBERS: Final = 1000  # of a gzip or zstd stream; an empty one costs its sender 20 bytes
BROTLI_KEPT: Final = 1024 * 1024  # bytes of a stream that are kept to find its end
BROTLI_SLICE: Final = 4096  # bytes of it that are read one by one after a failure
_BEHIND: Final = f"bytes behind the end of a stream of more than {BROTLI_KEPT} bytes"
_WINDOW_LOG: Final = 23  # RFC 9659: no larger zstd window on the web than 8 MiB

_ERRORS: Final = (zlib.error, brotli.error, zstd.ZstdError, EOFError)


CONTENT: Final = "content encoding"


class Undecodable(Exception):  # noqa: N818 - said of the data, not of the program
    """The body is not what its Content-Encoding says, or what `what` says."""

    def __init__(self, text: str, what: str = CONTENT) -> None:
        super().__init__(text)
        self.what = what


class _Stream(Protocol):
    """One member, as Python's own zstd has it: at most `max_length` bytes come out of a call."""

    def decompress(self, data: bytes, max_length: int) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


class _Zlib:
    """zlib hands back the input it had no room for; keep it for the next step."""

    def __init__(self, window: int) -> None:
        self._stream = zlib.decompressobj(window)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data


class _Brotli:
    """Brotli has one member, and its decoder fails at bytes behind the end, as at broken ones.

    It loses what it had undone then, and does not tell where the end was. So the input is kept:
    after a failure a second decoder reads it again, the slice that failed byte by byte. Of a
    stream longer than BROTLI_KEPT no more is kept, and bytes behind its end are an error.
    """

    unused_data = b""

    def __init__(self) -> None:
        self._stream: Any = brotli.Decompressor()
        self._kept = bytearray()  # what the decoder was given
        self._read = self._out = 0  # bytes that it was given, and that came out of it
        self._waiting, self._at = b"", 0  # from `_at` on it was not given it yet
        self._last = 0  # where in the stream the last slice began
        self._more = False  # whether more comes out without more input
        self._again: Iterator[bytes] | None = None
        self.eof = False

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._waiting, self._at = self._waiting[self._at :] + data, 0
        pieces: list[bytes] = []
        size = 0
        while size < max_length and not self.eof:
            if not self._more and self._at >= len(self._waiting):
                break
            piece = self._step(max_length - size)
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    def _step(self, max_length: int) -> bytes:
        if self._again is not None:
            found = next(self._again, None)
            self._more = found is not None
            self.eof = not self._more
            return found or b""
        given = b""
        if not self._more:
            given = self._waiting[self._at : self._at + _slice_at(self._read)]
            self._at += len(given)
            self._last = self._read
            self._read += len(given)
            self._kept += given
            if self.is_long:
                self._kept.clear()
        try:
            piece: bytes = self._stream.process(given, output_buffer_limit=max_length)
        except brotli.error:
            if self.is_long:
                raise
            self._again, self._more = _read_again(bytes(self._kept), self._last, self._out), True
            return b""
        self._out += len(piece)
        self._more = len(piece) >= max_length or not self._stream.can_accept_more_data()
        self.eof = self._stream.is_finished()
        if self.eof and self.is_long and self._at < len(self._waiting):
            raise brotli.error(_BEHIND)
        return piece

    @property
    def is_long(self) -> bool:
        """Whether bytes behind the end are an error."""
        return self._read > BROTLI_KEPT


def _slice_at(read: int) -> int:
    """How many bytes brotli's decoder is given at once; none lie on both sides of BROTLI_KEPT."""
    return min(BROTLI_SLICE, BROTLI_KEPT - read) if read < BROTLI_KEPT else BROTLI_SLICE


def _read_again(data: bytes, last: int, skip: int) -> Iterator[bytes]:
    """Undo what a decoder failed at, from byte `last` on one by one, up to the stream's end.

    The first `skip` bytes that come out are left out. Raises brotli.error if the stream is broken.
    """
    stream = brotli.Decompressor()
    starts = [*range(0, last, BROTLI_SLICE), *range(last, len(data)), len(data)]
    for start, end in pairwise(starts):
        given = data[start:end]
        more = True
        while more:
            piece = stream.process(given, output_buffer_limit=STEP // 2)
            if len(piece) > skip:
                yield piece[skip:]
            skip = max(0, skip - len(piece))
            if stream.is_finished():
                return
            given = b""
            more = len(piece) >= STEP // 2 or not stream.can_accept_more_data()
    raise brotli.error("decoder failed")


def _deflate(data: bytes) -> _Stream:
    """By the RFC it is zlib's format; some servers send the bare stream, and browsers take both."""
    is_zlib = data[0] & 0x0F == 8  # noqa: PLR2004 - RFC 1950 section 2.2
    return _Zlib(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _zstd(_: bytes) -> _Stream:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})


_ZSTD_FRAMES: Final = (  # RFC 8878 sections 3.1.1 and 3.1.2: one of data, and 16 to be skipped
    b"\x28\xb5\x2f\xfd",
    *(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60)),
)
# By name: how a member is opened, given its first bytes, and how a further one may start.
_CODINGS: Final[dict[str, tuple[Callable[[bytes], _Stream], tuple[bytes, ...]]]] = {
    "gzip": (lambda _: _Zlib(16 + zlib.MAX_WBITS), (b"\x1f\x8b",)),
    "deflate": (_deflate, ()),
    "br": (lambda _: _Brotli(), ()),
    "zstd": (_zstd, _ZSTD_FRAMES),
}


CODINGS: Final = tuple(_CODINGS)


class Inflater:
    """Undoes one of CODINGS. `feed` it the bytes as they come; at the end look at `ended`.

    `what` says in errors what named the coding.
    """

    overfull = False  # as it hands nothing to another coding

    def __init__(self, coding: str, what: str = CONTENT) -> None:
        self.coding = coding
        self.what = what
        self._open, self._marks = _CODINGS[coding]
        self._stream: _Stream | None = None
        self._members = 0
        self._rest = b""  # what follows a member, while it is too short to tell

    @property
    def ended(self) -> bool:
        """Whether the stream is whole; one of no bytes at all is."""
        return self._stream is None or self._stream.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that `data` stands for. Stop asking, and no more is undone."""
        more = False
        while data or more:
            stream = self._stream
            if stream is None or stream.eof:
                data = self._next_member(data)
                if not data or (stream := self._stream) is None:
                    return
            try:
                piece = stream.decompress(data, STEP)
            except _ERRORS as error:
                raise Undecodable(f"{self.coding}: {error}", self.what) from None
            if piece:
                yield piece
            more = len(piece) >= STEP and not stream.eof
            data = stream.unused_data if stream.eof else b""

    def _next_member(self, data: bytes) -> bytes:
        """Open the first member or a further one; of anything else after the end, ignore it all."""
        if self._stream is not None:
            if isinstance(self._stream, _Brotli) and self._stream.is_long:
                raise Undecodable(f"{self.coding}: {_BEHIND}", self.what)
            data = self._rest + data
            waits = any(len(data) < len(mark) and mark.startswith(data) for mark in self._marks)
            self._rest = data if waits else b""
            if waits:
                return b""
            if not data.startswith(self._marks):
                self._marks = ()
                return b""
        self._members += 1
        if self._members > MAX_MEMBERS:
            many = f"{self.coding}: more than {MAX_MEMBERS} members"
            raise Undecodable(many, self.what)
        self._stream = self._open(data)
        return data


def unpacked(data: bytes, coding: str, most: int, what: str) -> bytes:
    """Return `data` unpacked, or as it is if `coding` is none of CODINGS.

    `what` says in errors what named the coding. Raises Undecodable for data that is broken, or
    ends early, or stands for more than `most` bytes.
    """
    name = coding.strip().lower().removeprefix("x-")
    if name not in CODINGS:
        return data
    stream, pieces, size = Inflater(name, what), [], 0
    for piece in stream.feed(data):
        pieces.append(piece)
        if (size := size + len(piece)) > most:
            raise Undecodable(f"{name}: more than {most} bytes when unpacked", what)
    if not stream.ended:
        raise Undecodable(f"{name}: it ends early", what)
    return b"".join(pieces)
