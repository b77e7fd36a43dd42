"""The reader of one HTTP/1.1 response: bytes in, head and pieces of body out. Sans-I/O, and pure.

May touch: nothing but the bytes it is given.
Must never: do I/O, read behind the end of its response, or hold more than its limits allow.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy

from scraperd.contract import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

HEADS: Final = 4  # times max_header_size: what may come in a row that is no byte of a body
SMALL: Final = 4096  # bytes that may be looked through again with each that comes
STEPS: Final = 2_000  # a chunk takes three; together some milliseconds
LONGEST_KNOWN: Final = 64  # characters of a header name that is remembered
MAX_INTERIM: Final = 32  # 1xx responses before the final one
_LINE_ENDS: Final = re.compile(rb"[\r\n]+")
_BLANK: Final = re.compile(rb"\n\r?\n")  # RFC 9112 section 2.2: a bare LF ends a line too
_STATUS: Final = re.compile(
    r"HTTP/([0-3])(?:\.([0-9]))?[ \t]+([0-9]{3})(?:[ \t].*)?", re.IGNORECASE
)
_BEGIN: Final = re.compile(_STATUS.pattern.encode(), re.IGNORECASE)
_NO_STATUS: Final = "it has no status line"
_CHUNK: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?", re.DOTALL)
_SIZE_BEGINS: Final = re.compile(rb"[ \t]*(?:[0-9A-Fa-f]|$)")
_NO_SIZE: Final = "a chunk size that is no number"
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_NO_BODY: Final = frozenset({204, 304})
_SWITCHING: Final = 101
_FINAL: Final = 200


class Malformed(Exception):  # noqa: N818 - what the site did, not what we did
    """What came is no HTTP, or more than a limit allows. Its text tells which."""


class Incomplete(Exception):  # noqa: N818
    """The connection ended before the response did."""

    def __init__(self) -> None:
        super().__init__("the site closed it")


class BrokenOff(Exception):  # noqa: N818
    """The connection ended in the body; the cause tells how."""


class HeadLimits(Struct, frozen=True):
    """How many headers there may be, and how many bytes each and the status line may have."""

    headers: int
    size: int


class Head(Struct, frozen=True):
    """What comes before the body. `codings` are those of Transfer-Encoding except `chunked`.

    `until_close` says that only the end of the connection ends the body, so that nobody can tell
    whether all of it came.
    """

    status: int
    headers: CIMultiDictProxy[str]
    codings: tuple[str, ...] = ()
    length: int | None = None  # of the body, in bytes as sent, where the head tells it
    until_close: bool = False


class Reader:
    """Reads one response to one request (RFC 9112). `for_head` if that was a HEAD request.

    It takes what browsers take: bare LFs, odd header lines, equal Content-Lengths. Whatever is
    doubtful about where the response ends makes `keep` False: the connection is not for another
    request then. Header lines that have no valid name are left out.

    `head` is None until it is there. `size` is how many bytes of the body wait to be taken.
    `begun` says whether anything came. `behind` says that what came is not all read: `go_on`.
    """

    def __init__(self, limits: HeadLimits, *, for_head: bool = False) -> None:
        self.head: Head | None = None
        self.size = 0
        self.ended = self.begun = self.behind = False
        self.keep = True
        self._limits = limits
        self._for_head = for_head
        self._room = HEADS * limits.size
        self._interim = 0
        self._pieces: list[bytes] = []
        self._data = b""  # from `_at` on it is not read yet
        self._rest = bytearray()  # what follows it, of a long line that has not ended
        self._spare = 0  # how long that may become before anything must be looked at
        self._at = 0
        self._searched = 0  # up to there, no end of a line or of a head was found
        self._left = 0  # bytes of the body, or of the chunk
        self._step: Callable[[Reader], bool] = Reader._read_head  # unbound: a bound one is a cycle

    def feed(self, data: bytes) -> None:
        """Read `data`, which is not empty. Raises Malformed."""
        self.begun = True
        if len(data) <= self._spare and b"\n" not in data:
            self._rest += data
            self._spare -= len(data)
            return
        self._data = b"".join((self._data, self._rest, data)) if self._data else data
        self._rest.clear()
        self.go_on()

    def go_on(self) -> None:
        """Read on, STEPS steps at most: a body of tiny chunks takes many. Raises Malformed."""
        steps, size = STEPS, len(self._data)
        self._spare, self.behind = 0, False
        while steps and not self.ended and self._at < size and self._step(self):
            steps -= 1
        self.behind = not steps and not self.ended and self._at < size
        if self.ended and self._at < size:  # nobody asked for it
            self._at, self.keep = size, False
        self._data, self._searched = self._data[self._at :], max(0, self._searched - self._at)
        self._at = 0

    def take(self) -> bytes:
        """Take what is there of the body: as sent, but without the chunked coding."""
        pieces, self._pieces, self.size = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def feed_eof(self, *, trusted: bool) -> None:
        """End with the connection. Raises Incomplete or Malformed.

        A head that ends so is taken as it is if it may: on a connection without TLS, where
        `trusted` is False, anybody could have cut it anyway. Chromium does the same.
        """
        self.keep = False
        self._data += self._rest
        self._rest.clear()
        while self.behind:
            self.go_on()
        if self.head is None and not trusted and (rest := self._data.strip(b"\r\n")):
            self._data = b""
            self._take_head(rest)
        if self._step is Reader._read_to_eof and self.head is not None:
            self.ended = True
        if not self.ended:
            raise Incomplete

    # --- the states: each reads what it can, and returns False if it needs more than there is

    def _read_head(self) -> bool:
        if ends := _LINE_ENDS.match(self._data, self._at):  # RFC 9112 section 2.2, of requests
            self._skip(ends.end() - self._at)  # sites do it too
            return True
        found = _BLANK.search(self._data, max(self._at, self._searched - 2))
        if found is None:
            self._searched = len(self._data)
            self._check_pending()
            return False
        raw = self._data[self._at : found.start()]
        self._skip(found.end() - self._at)
        self._take_head(raw)
        return True

    def _read_length(self) -> bool:
        self._take_body()
        self.ended = not self._left
        return True

    def _read_to_eof(self) -> bool:
        self._left = len(self._data)
        self._take_body()
        return True

    def _read_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            if not _SIZE_BEGINS.match(self._data, self._at):
                raise Malformed(_NO_SIZE)
            return False
        size = _CHUNK.fullmatch(line)
        if size is None:
            raise Malformed(_NO_SIZE)
        self._left = int(size[1], 16)
        self._step = Reader._read_chunk if self._left else Reader._read_trailer
        return True

    def _read_chunk(self) -> bool:
        self._take_body()
        if not self._left:
            self._step = Reader._read_chunk_end
        return True

    def _read_chunk_end(self) -> bool:
        end = self._data[self._at : self._at + 2]
        if end == b"\r":
            return False
        if end[:1] != b"\n" and end != b"\r\n":
            raise Malformed("a chunk is longer than its size")
        self._at += 1 if end[:1] == b"\n" else 2
        self._step = Reader._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        self.ended = not line
        return True

    # --- what they share

    def _line(self) -> bytes | None:
        """Take a line without its end; None if its end has not come."""
        end = self._data.find(b"\n", max(self._at, self._searched))
        if end < 0:
            self._searched = len(self._data)
            self._put_off(self._searched - self._at, self._room)
            if self._searched - self._at > self._room:
                self._skip(self._searched - self._at)
            return None
        line = self._data[self._at : end]
        self._skip(end + 1 - self._at)
        return line.removesuffix(b"\r")

    def _take_body(self) -> None:
        """Take what is there of the `_left` bytes."""
        piece = self._data[self._at : self._at + self._left]
        self._at += len(piece)
        self._left -= len(piece)
        self._room = HEADS * self._limits.size
        self._pieces.append(piece)
        self.size += len(piece)

    def _skip(self, size: int) -> None:
        """Go on behind bytes that are no body's, and count them."""
        self._at += size
        self._room -= size
        if self._room < 0:
            whole = HEADS * self._limits.size
            raise Malformed(
                f"more than {whole} bytes of headers ({HEADS} times fetch.max_header_size)"
            )

    def _check_pending(self) -> None:
        """Bound a head whose end has not come, and refuse what does not begin as one."""
        pending = self._data[self._at :]
        first, end, _ = pending.partition(b"\n")
        if not (
            _BEGIN.fullmatch(first.rstrip(b"\r")) if end else b"HTTP/".startswith(first[:5].upper())
        ):
            raise Malformed(_NO_STATUS)
        line = pending[pending.rfind(b"\n") + 1 :]
        if len(line.removesuffix(b"\r")) > self._limits.size:
            raise Malformed(self._too_long())
        if pending.count(b"\n") > self._limits.headers + 1:
            raise Malformed(self._too_many())
        if len(pending) > self._room:
            self._skip(len(pending))
        self._put_off(len(pending), min(self._room, len(pending) + self._limits.size - len(line)))

    def _put_off(self, size: int, most: int) -> None:
        """Let a line that is long already grow without a look at it, until there are `most` bytes.

        Or each byte that comes would cost as much as all before it together.
        """
        self._spare = max(0, most - size) if size >= SMALL else 0

    def _too_long(self) -> str:
        limit = f"fetch.max_header_size ({self._limits.size})"
        return f"a header or the status line is longer than {limit}"

    def _too_many(self) -> str:
        return f"more headers than fetch.max_headers ({self._limits.headers})"

    def _take_head(self, raw: bytes) -> None:
        if b"\0" in raw:
            raise Malformed("a header has a NUL byte")
        text = raw.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
        first, *lines = text.removesuffix("\r").split("\n")
        status = _STATUS.fullmatch(first.rstrip("\r"))
        if status is None:
            raise Malformed(_NO_STATUS)
        if len(lines) > self._limits.headers:
            raise Malformed(self._too_many())
        limit = self._limits.size
        if len(raw) > limit and _longest_line(raw) > limit:
            raise Malformed(self._too_long())
        number = int(status[3])
        if number < _FINAL:
            self._take_interim(number)
            return
        headers = CIMultiDict(_fields(lines))
        version = int(status[1]), int(status[2] or 0)
        self._frame(number, CIMultiDictProxy(headers), version)

    def _take_interim(self, number: int) -> None:
        self._interim += 1
        if number == _SWITCHING:
            raise Malformed("it switches to another protocol, which nobody asked for")
        if self._interim > MAX_INTERIM:
            raise Malformed("too many responses at once")

    def _frame(self, status: int, headers: CIMultiDictProxy[str], version: tuple[int, int]) -> None:
        """Say where the body ends (RFC 9112 section 6.3), and whether the connection is kept."""
        tokens = _tokens(headers, "Connection")
        self.keep = "close" not in tokens if version >= (1, 1) else "keep-alive" in tokens
        codings = [one for one in _tokens(headers, "Transfer-Encoding") if one != "identity"]
        length = _length(headers.getall("Content-Length", ()))
        until_close = False
        if self._for_head or status in _NO_BODY:
            self.keep = self.keep and not codings and not length
            self.ended = True
        elif codings:
            # RFC 9112 section 6.1: with a length beside it, the connection is not to be trusted
            self.keep = self.keep and length is None and version >= (1, 1)
            self._step, length = Reader._read_chunk_size, None
            if codings.count("chunked") > 1:  # RFC 9112 section 6.1
                raise Malformed("its Transfer-Encoding has chunked twice")
            if codings[-1] != "chunked":
                if "chunked" in codings:
                    raise Malformed("its Transfer-Encoding has chunked before another coding")
                self._step, self.keep, until_close = Reader._read_to_eof, False, True
        elif length is None:
            self._step, self.keep, until_close = Reader._read_to_eof, False, True
        else:
            self._left, self._step, self.ended = length, Reader._read_length, not length
        left = tuple(one for one in codings if one != "chunked")
        self.head = Head(status, headers, left, length, until_close)


def _longest_line(raw: bytes) -> int:
    return max(len(line.removesuffix(b"\r")) for line in raw.split(b"\n"))


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    """The header lines that have a name, and their values; folded ones are unfolded."""
    fields: list[tuple[str, str]] = []
    dropped = True  # whether the line before was left out
    for line in lines:
        if line[:1] in (" ", "\t"):  # RFC 9112 section 5.2
            if not dropped:
                name, value = fields[-1]
                fields[-1] = name, f"{value} {_value(line)}".strip()
            continue
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        dropped = not colon or not _is_token(name)
        if not dropped:
            fields.append((name, _value(value)))
    return fields


def _value(text: str) -> str:
    return text.replace("\r", " ").strip(" \t") if "\r" in text else text.strip(" \t")


def _is_token(name: str) -> bool:
    return _is_known(name) if len(name) <= LONGEST_KNOWN else TOKEN.fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _is_known(name: str) -> bool:
    return TOKEN.fullmatch(name) is not None


def _tokens(headers: CIMultiDictProxy[str], name: str) -> list[str]:
    """The members of a list header, in lower case, without parameters."""
    values = headers.getall(name, ())
    return [
        token
        for value in values
        for part in value.split(",")
        if (token := part.partition(";")[0].strip(" \t").lower())
    ]


def _length(values: tuple[str, ...] | list[str]) -> int | None:
    """The one length that is named, however often. Raises Malformed."""
    if not values:
        return None
    named = {part.strip(" \t") for value in values for part in value.split(",")}
    if len(named) > 1:
        raise Malformed("it has several Content-Lengths")
    (text,) = named
    if not _LENGTH.fullmatch(text):
        raise Malformed("its Content-Length is not a number")
    return int(text)
