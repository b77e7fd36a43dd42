"""How the client library reads properties: untrusted ones must not end a connection, nor hold it.

May touch: the decoders that pamqp has registered by type.
Must never: raise on a property, or read a byte of it more often than once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pamqp import decode

if TYPE_CHECKING:
    from collections.abc import Callable

    Decoder: TypeAlias = "Callable[[Any], tuple[int, Any]]"

MAX_ENTRIES: Final = 200  # entries of a table; those behind them are not read
MAX_NESTED: Final = 500  # entries of tables and arrays inside of one table
MAX_DEPTH: Final = 50  # tables and arrays inside of each other
_FIXED: Final = 16  # bytes; no value without a length of its own is longer
_LENGTH: Final = 4  # bytes of a length
_SIZED: Final = (b"S", b"x")  # a text, and bytes: their length, then themselves
_UNREADABLE: Final = (ValueError, OverflowError, OSError, RecursionError)


class Cut(dict[str, Any]):
    """The first MAX_ENTRIES entries of a larger table: to read thousands takes milliseconds."""


class _Reader:
    """One table with all that is in it.

    pamqp copies the rest of the frame for each entry: seconds for 120 kB of small ones.
    """

    def __init__(self) -> None:
        self._left = MAX_NESTED
        self._depth = 0

    def table(self, view: memoryview) -> tuple[int, Any]:
        """Names and values; without names that are not UTF-8. Raises ValueError, IndexError."""
        found: dict[str, Any] = {}
        end, offset, read = _end(view), _LENGTH, 0
        while offset < end:
            if read == MAX_ENTRIES and not self._depth:
                return end, Cut(found)
            read += 1
            start = offset + 1
            offset = start + view[offset]
            name = bytes(view[start:offset])
            consumed, value = self._value(view[offset:end])
            offset += consumed
            with suppress(UnicodeDecodeError):
                found[name.decode()] = value
        return end, found

    def _array(self, view: memoryview) -> tuple[int, Any]:
        end, offset, found = _end(view), _LENGTH, []
        while offset < end:
            consumed, value = self._value(view[offset:end])
            offset += consumed
            found.append(value)
        return end, found

    def _value(self, view: memoryview) -> tuple[int, Any]:
        kind, rest = bytes(view[:1]), view[1:]
        if kind in (b"A", b"F"):
            end = _end(rest)
            return 1 + end, self._nested(kind, rest[:end])
        if self._depth:
            self._spend()
        size = _end(rest) if kind in _SIZED else _FIXED
        return decode.embedded_value(bytes(view[: 1 + size]))

    def _nested(self, kind: bytes, view: memoryview) -> Any:
        """Return the value of a header; None if it holds too much. The others are still read."""
        self._depth += 1
        try:
            self._spend()
            return (self._array if kind == b"A" else self.table)(view)[1]
        except _TooManyError:
            if self._depth > 1:
                raise
            return None
        finally:
            self._depth -= 1

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0 or self._depth > MAX_DEPTH:
            raise _TooManyError


class _TooManyError(ValueError):
    """There are more entries inside of a table than anybody needs."""


def _end(view: memoryview) -> int:
    """Where what begins with its length ends."""
    end = _LENGTH + int.from_bytes(view[:_LENGTH], "big")
    if end > len(view):
        raise ValueError("longer than what holds it")
    return end


def _table(value: bytes) -> tuple[int, Any]:
    return _Reader().table(memoryview(value))


def _tolerant(decoder: Decoder, size: Callable[[bytes], int]) -> Decoder:
    """`decoder`, but what it can't read is None, and is stepped over by its `size`."""

    def read(value: bytes) -> tuple[int, Any]:
        try:
            return decoder(value)
        except (*_UNREADABLE, IndexError):
            return size(value), None

    return read


def install() -> None:
    """Register our decoders with the library. Each connection does this first.

    The decoders belong to the process, so a second call changes nothing. The library lets one
    property that it cannot read (a correlation id that is not UTF-8, a timestamp beyond the year
    9999) end the connection. The job comes back and ends the connection again. It takes every job
    in flight along, until the delivery limit ends them all. Ours treat such a property as absent.
    """
    decode.METHODS["shortstr"] = _tolerant(decode.short_str, lambda value: 1 + value[0])
    decode.METHODS["table"] = _tolerant(
        _table, lambda value: _LENGTH + int.from_bytes(value[:_LENGTH], "big")
    )
    timestamp = _tolerant(decode.timestamp, lambda _: 8)
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = timestamp
