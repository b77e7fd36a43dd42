"""The application properties of AMQP 1.0, as RabbitMQ 3 leaves them in one header. Pure.

May touch: bytes.
Must never: raise, or open a value that holds others.

RabbitMQ 4 makes headers of them itself. RabbitMQ 3 puts the section as it was sent into HEADER
(measured with 3.10.8 and 4.0.5). The encodings are those of OASIS AMQP 1.0, part 1, section 1.6.
"""

from __future__ import annotations

from typing import Any, Final

HEADER: Final = "x-amqp-1.0-app-properties"
MAX_PROPERTIES: Final = 100  # as many headers as a job may have, and one more
_SECTION: Final = b"\0\x53\x74"  # part 3, section 3.2.5
_MAPS: Final = {0xC1: 1, 0xD1: 4}  # bytes of the size, and of the count
_WIDTHS: Final = {4: 0, 5: 1, 6: 2, 7: 4, 8: 8, 9: 16}  # bytes, by the first half of the type
_SIZES: Final = {0xA: 1, 0xB: 4, 0xC: 1, 0xD: 4, 0xE: 1, 0xF: 4}  # bytes of the size, likewise
_UNSIGNED: Final = (0x43, 0x44, 0x50, 0x52, 0x53, 0x60, 0x70, 0x80)
_SIGNED: Final = (0x51, 0x54, 0x55, 0x61, 0x71, 0x81)
_BOOLEANS: Final = {0x41: True, 0x42: False}
_BOOLEAN: Final = 0x56
_STRINGS: Final = (0xA1, 0xB1)


def properties_in(header: Any) -> dict[str, Any]:
    """Return the texts, whole numbers and booleans by their names; others are left out.

    At most MAX_PROPERTIES + 1 properties are read. Empty if it is not such a section.
    """
    if not isinstance(header, bytes) or not header.startswith(_SECTION):
        return {}  # a text is no section: the type of each name is not UTF-8
    try:
        return _read(header, len(_SECTION))
    except (IndexError, KeyError, UnicodeDecodeError):  # it ends early, or has an unknown type
        return {}


def _read(raw: bytes, at: int) -> dict[str, Any]:
    at += 1 + 2 * _MAPS[raw[at]]  # where it ends is known already
    found: dict[str, Any] = {}
    for _ in range(MAX_PROPERTIES + 1):
        if at == len(raw):
            break
        name, at = _value(raw, at)
        value, at = _value(raw, at)
        if not isinstance(name, str):
            return {}
        if value is not None:
            found[name] = value
    return found


def _value(raw: bytes, at: int) -> tuple[str | int | None, int]:
    """Return the value at `at`, None if it is of another type, and where it ends.

    Raises IndexError, KeyError or UnicodeDecodeError.
    """
    kind = raw[at]
    start = at + 1
    if (width := _WIDTHS.get(kind >> 4)) is None:
        size = _SIZES[kind >> 4]
        width, start = int.from_bytes(raw[start : start + size], "big"), start + size
    stop = start + width
    if stop > len(raw):
        raise IndexError(stop)
    content = raw[start:stop]
    if kind in _STRINGS:
        return content.decode(), stop
    if kind in _UNSIGNED or kind in _SIGNED:
        return int.from_bytes(content, "big", signed=kind in _SIGNED), stop
    if kind == _BOOLEAN:
        return content != b"\0", stop
    return _BOOLEANS.get(kind), stop
