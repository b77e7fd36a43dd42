"""The properties of a message, as a content header has them: bytes in, values out, and back. Pure.

May touch: bytes and values.
Must never: raise on a property that was received; one that cannot be read is absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from scraperd.broker.rabbitmq.wire.codec.tables import read_table, short, write_table

_FLAGS: Final = 2  # bytes of the property flags
_MORE: Final = 1  # the flag that says that further flags follow: AMQP 0-9-1 has none


@dataclass(slots=True)
class Properties:
    """The properties of AMQP 0-9-1 (class basic), in the order of their flags.

    `timestamp` is in seconds since 1970.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    message_type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


_NAMES: Final = tuple(Properties.__dataclass_fields__)
_SIZES: Final = {"delivery_mode": 1, "priority": 1, "timestamp": 8}  # bytes of the numbers
_FIELDS: Final = tuple(
    (1 << 15 - place, name, _SIZES.get(name, 0), name == "headers")
    for place, name in enumerate(_NAMES)
)
_values: Final = attrgetter(*_NAMES)


def read_properties(data: bytes, at: int, end: int) -> Properties:
    """Return the properties whose flags are at `at`.

    A value that cannot be read is absent. If its end cannot be told, the values behind it are
    absent too.
    """
    found = Properties()
    flags = int.from_bytes(data[at : at + _FLAGS], "big")
    if flags & _MORE:
        return found
    at += _FLAGS
    for name, size, is_table in _present(flags):
        if is_table:
            try:
                found.headers, at = read_table(data, at, end)
            except ValueError:
                return found
            continue
        stop = at + size if size else at + 1 + (data[at] if at < end else 0)
        if at >= end or stop > end:
            return found
        raw, at = data[at:stop], stop
        try:
            setattr(found, name, int.from_bytes(raw, "big") if size else raw[1:].decode())
        except UnicodeDecodeError:
            continue
    return found


@lru_cache(256)  # of the 16,384 combinations; publishers choose them
def _present(flags: int) -> tuple[tuple[str, int, bool], ...]:
    """Return name, size and kind of the properties that are present."""
    return tuple(field[1:] for field in _FIELDS if flags & field[0])


def write_properties(properties: Properties) -> bytes:
    """Return flags and values. Raises UnsendableError."""
    flags, parts = 0, []
    for (flag, _, size, is_table), value in zip(_FIELDS, _values(properties), strict=True):
        if value is None or (is_table and not value):
            continue
        flags |= flag
        if is_table:
            parts.append(write_table(value))
        elif size:
            parts.append(value.to_bytes(size, "big"))
        else:
            parts.append(short(value))
    return flags.to_bytes(_FLAGS, "big") + b"".join(parts)
