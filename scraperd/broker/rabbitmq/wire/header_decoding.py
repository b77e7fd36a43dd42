"""How the commands' client library reads properties: bad ones must not end a connection.

May touch: the decoders that pamqp has registered by type.
Must never: raise on a property, or read a byte of it more often than once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pamqp import decode

from scraperd.broker.rabbitmq.wire.codec import tables

if TYPE_CHECKING:
    from collections.abc import Callable

    Decoder: TypeAlias = "Callable[[Any], tuple[int, Any]]"

_LENGTH: Final = 4  # bytes of a length
_UNREADABLE: Final = (ValueError, OverflowError, OSError, IndexError)


def _table(value: bytes) -> tuple[int, Any]:
    found, end = tables.read_table(value, 0, len(value))
    return end, found


def _tolerant(decoder: Decoder, size: Callable[[bytes], int]) -> Decoder:
    """`decoder`, but what it can't read is None, and is stepped over by its `size`."""

    def read(value: bytes) -> tuple[int, Any]:
        try:
            return decoder(value)
        except _UNREADABLE:
            return size(value), None

    return read


def install() -> None:
    """Register our decoders with the library. Each connection of a command does this first.

    The decoders belong to the process, so a second call changes nothing. The library lets one
    property that it cannot read (a correlation id that is not UTF-8, a timestamp beyond the year
    9999) end the connection, and copies the rest of the frame for each entry of a table: seconds
    for 120 kB of small ones. Ours treat such a property as absent.
    """
    decode.METHODS["shortstr"] = _tolerant(decode.short_str, lambda value: 1 + value[0])
    decode.METHODS["table"] = _tolerant(
        _table, lambda value: _LENGTH + int.from_bytes(value[:_LENGTH], "big")
    )
    timestamp = _tolerant(decode.timestamp, lambda _: 8)
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = timestamp
