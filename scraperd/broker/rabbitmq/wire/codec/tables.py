"""Field tables of AMQP: bytes become values, and back, each byte read once. Pure.

May touch: bytes and values.
Must never: raise an error that the function does not name, for any bytes.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from scraperd.broker.rabbitmq.wire.errors import UnsendableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_ENTRIES: Final = 200  # entries of a table; those behind them are not read
MAX_NESTED: Final = 500  # entries of tables and arrays inside of one table
MAX_DEPTH: Final = 50  # tables and arrays inside of each other
MAX_NAME_BYTES: Final = 128  # of a field's name (AMQP 0-9-1 section 4.2.5.5)
MAX_SHORT_BYTES: Final = 255  # of a short string
_LENGTH: Final = 4  # bytes of a length
_SECONDS: Final = 0xFFFFFFFF  # a larger timestamp is one of milliseconds
_MAX_EXPONENT: Final = 10  # of a decimal; its mantissa has 32 bits
_LONG: Final = struct.Struct(">I")
_TABLE, _ARRAY, _TEXT, _BYTES = b"FASx"
_UNREADABLE: Final = (ValueError, OverflowError, OSError)


class Cut(dict[str, Any]):
    """The first MAX_ENTRIES entries of a larger table: to read thousands takes milliseconds."""


class _TooManyError(ValueError):
    """There are more entries inside of a table than anybody needs."""


def moment(seconds: int) -> datetime | None:
    """Return the time of a timestamp; None beyond the year 9999."""
    try:
        return datetime.fromtimestamp(seconds if seconds <= _SECONDS else seconds / 1000, tz=UTC)
    except _UNREADABLE:
        return None


def _decimal(scale: int, mantissa: int) -> Decimal:
    return Decimal(mantissa) * (Decimal(10) ** -scale)


# The types of RabbitMQ's tables (its errata of AMQP 0-9-1, section 3), but those with a length.
_FIXED: Final[dict[int, tuple[struct.Struct, Callable[..., Any] | None]]] = {
    kind: (struct.Struct(form), convert)
    for kind, form, convert in (
        (ord("t"), ">B", bool),
        (ord("b"), ">b", None),
        (ord("B"), ">B", None),
        (ord("s"), ">h", None),
        (ord("u"), ">H", None),
        (ord("I"), ">i", None),
        (ord("i"), ">I", None),
        (ord("l"), ">q", None),
        (ord("L"), ">q", None),
        (ord("f"), ">f", None),
        (ord("d"), ">d", None),
        (ord("D"), ">Bi", _decimal),
        (ord("T"), ">Q", moment),
    )
}
_VOID: Final = (ord("V"), 0)


def read_table(data: bytes, at: int, end: int) -> tuple[dict[str, Any] | None, int]:
    """Return the table that begins at `at` with its length, and where it ends.

    It is None if it cannot be read, and without names that are not UTF-8. A nested table or array
    of too many entries, or too deep, is None alone. Raises ValueError if it is longer than `end`.
    """
    start = at + _LENGTH
    stop = _stop(data, at, end)
    try:
        return _Reader(data).table(start, stop), stop
    except (ValueError, IndexError, struct.error):
        return None, stop


def _stop(data: bytes, at: int, end: int) -> int:
    """Return where what begins with its length ends. Raises ValueError beyond `end`."""
    if at + _LENGTH > end:
        raise ValueError("there is no length")
    stop = at + _LENGTH + int(_LONG.unpack_from(data, at)[0])
    if stop > end:
        raise ValueError("longer than what holds it")
    return stop


class _Reader:
    """One table with all that is in it."""

    __slots__ = ("_data", "_depth", "_left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_NESTED
        self._depth = 0

    def table(self, at: int, end: int) -> dict[str, Any]:
        """Return names and values. Raises ValueError."""
        data = self._data
        found: dict[str, Any] = {}
        read = 0
        while at < end:
            if read == MAX_ENTRIES and not self._depth:
                return Cut(found)
            read += 1
            start = at + 1
            at = start + data[at]
            if at >= end:
                raise ValueError("a name without a value")
            name = data[start:at]
            value, at = self._value(at, end)
            try:
                found[name.decode()] = value
            except UnicodeDecodeError:
                continue
        return found

    def _array(self, at: int, end: int) -> list[Any]:
        found = []
        while at < end:
            value, at = self._value(at, end)
            found.append(value)
        return found

    def _value(self, at: int, end: int) -> tuple[Any, int]:
        data = self._data
        kind = data[at]
        at += 1
        if kind in (_TABLE, _ARRAY):
            stop = _stop(data, at, end)
            return self._nested(kind, at + _LENGTH, stop), stop
        if self._depth:
            self._spend()
        if kind in (_TEXT, _BYTES):
            stop = _stop(data, at, end)
            raw = data[at + _LENGTH : stop]
            return (bytearray(raw) if kind == _BYTES else _text(raw)), stop
        if kind in _VOID:
            return None, at
        if kind not in _FIXED:
            raise ValueError("unknown type")
        form, convert = _FIXED[kind]
        if at + form.size > end:
            raise ValueError("longer than what holds it")
        found = form.unpack_from(data, at)
        return (found[0] if convert is None else convert(*found)), at + form.size

    def _nested(self, kind: int, at: int, end: int) -> Any:
        """Return the value of a header; None if it holds too much. The others are still read."""
        self._depth += 1
        try:
            self._spend()
            return self.table(at, end) if kind == _TABLE else self._array(at, end)
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


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def short(text: str) -> bytes:
    """Return a short string. Raises UnsendableError."""
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise UnsendableError(str(error)) from None
    if len(raw) > MAX_SHORT_BYTES:
        raise UnsendableError(f"a short string has at most {MAX_SHORT_BYTES} bytes, not {len(raw)}")
    return len(raw).to_bytes(1, "big") + raw


def long(raw: bytes) -> bytes:
    """Return a long string."""
    return _LONG.pack(len(raw)) + raw


def write_table(table: Mapping[str, Any]) -> bytes:
    """Return a table with its length. Raises UnsendableError for what AMQP has no form for."""
    try:
        return _table(table)
    except UnsendableError:
        raise
    except (ValueError, OverflowError, ArithmeticError, struct.error, RecursionError) as error:
        raise UnsendableError(f"a header that AMQP cannot carry: {error}") from None


def _table(table: Mapping[str, Any]) -> bytes:
    parts = []
    for name, value in sorted(table.items()):
        raw = name.encode()
        if len(raw) > MAX_NAME_BYTES:
            raise UnsendableError(f"a name has at most {MAX_NAME_BYTES} bytes, not {len(raw)}")
        parts.append(len(raw).to_bytes(1, "big") + raw)
        parts.append(_encoded(value))
    return long(b"".join(parts))


def _encoded(value: Any) -> bytes:
    """Return a value with its type, as pamqp writes it."""
    kind = type(value)
    if kind is str:
        return b"S" + long(value.encode())
    if kind is int:
        return _integer(value)
    write = _WRITERS.get(kind)
    if write is None:
        raise UnsendableError(f"AMQP has no type for {kind.__name__}")
    return write(value)


def _seconds(value: datetime) -> bytes:
    aware = value if value.utcoffset() is not None else value.replace(tzinfo=UTC)
    return b"T" + struct.pack(">Q", int(aware.timestamp()))


_INTEGERS: Final = (  # the smallest type that holds a value is taken
    (-(2**7), 2**7, b"b", struct.Struct(">b")),
    (-(2**15), 2**15, b"s", struct.Struct(">h")),
    (0, 2**16, b"u", struct.Struct(">H")),
    (-(2**31), 2**31, b"I", struct.Struct(">i")),
    (0, 2**32, b"i", struct.Struct(">I")),
    (-(2**63), 2**63, b"l", struct.Struct(">q")),
)


def _integer(value: int) -> bytes:
    for least, past, kind, form in _INTEGERS:
        if least <= value < past:
            return kind + form.pack(value)
    raise UnsendableError("an integer has at most 64 bits")


def _scaled(value: Decimal) -> bytes:
    """Return a decimal with its type."""
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or exponent > _MAX_EXPONENT:
        raise UnsendableError(f"AMQP has no decimal {value}")
    scale = max(0, -exponent)
    return b"D" + struct.pack(">Bi", scale, int(value.scaleb(scale)))


_WRITERS: Final[dict[type, Callable[[Any], bytes]]] = {
    bool: lambda value: b"t\1" if value else b"t\0",
    type(None): lambda _: b"V",
    float: lambda value: b"f" + struct.pack(">f", value),
    datetime: _seconds,
    dict: lambda value: b"F" + _table(value),
    Cut: lambda value: b"F" + _table(value),
    list: lambda value: b"A" + long(b"".join([_encoded(item) for item in value])),
    bytearray: lambda value: b"x" + long(value),
    bytes: lambda value: b"S" + long(value),  # a text that is not UTF-8: it is written as it came
    Decimal: _scaled,
}
