"""The content of a message that was published by AMQP 1.0, without the framing around it. Pure.

May touch: bytes.
Must never: raise anything but UnreadableError, or open a value that holds others.

RabbitMQ hands out the sections of such a message with their framing, if they are anything but one
section of data, and says so by the property `type`. RabbitMQ 4 joins several sections of data;
RabbitMQ 3 hands them out with the last one first (measured with 3.10.8 and 4.0.5). The sections are
those of OASIS AMQP 1.0, part 3, section 3.2; the encodings those of part 1, section 1.6.
"""

from __future__ import annotations

from typing import Final

TYPE: Final = "amqp-1.0"  # the property `type` of a message whose body is made of sections
_DESCRIBED: Final = 0x00  # in front of each section; JSON cannot begin with it
_DATA, _SEQUENCE, _VALUE, _FOOTER = 0x75, 0x76, 0x77, 0x78
_BINARY: Final = (0xA0, 0xB0)
_STRING: Final = (0xA1, 0xB1)
_SYMBOL: Final = (0xA3, 0xB3)
_MAP: Final = (0xC1, 0xD1)
_ULONGS: Final = {0x53: 1, 0x80: 8}  # bytes of a number
_SYMBOLS: Final = {
    b"amqp:data:binary": _DATA,
    b"amqp:amqp-sequence:list": _SEQUENCE,
    b"amqp:amqp-value:*": _VALUE,
    b"amqp:footer:map": _FOOTER,
}
_WORDS: Final = {
    **dict.fromkeys(_SYMBOL, "a symbol"),
    **dict.fromkeys(_MAP, "a map"),
    **dict.fromkeys((0x45, 0xC0, 0xD0), "a list"),
    **dict.fromkeys((0xE0, 0xF0), "an array"),
    0x40: "null",
}
_REMEDY: Final = "send the job as JSON, in one string or in one section of binary data"


class UnreadableError(ValueError):
    """The body is not a text or data; the message says what it is, and what to send instead.

    It goes on after "the body".
    """


def content_of(body: bytes) -> bytes:
    """Return the string or the data that the one section of `body` holds.

    A body that does not begin with a section is returned as it is: anybody can set the property
    `type`. Raises UnreadableError.
    """
    if not body or body[0] != _DESCRIBED:
        return body
    section, at = _section(body, 0)
    content, at = _content(body, at, section)
    if at < len(body):
        section, at = _section(body, at)
        if section != _FOOTER:
            raise _broken("it has several sections, and RabbitMQ 3 does not keep their order")
        _, at = _sized(body, at, _MAP)
        if at < len(body):
            raise _broken("there are bytes behind the footer")
    return content


def _section(body: bytes, at: int) -> tuple[int, int]:
    """Return which section begins at `at`, and where its content begins."""
    kind = body[at + 1] if at + 1 < len(body) and body[at] == _DESCRIBED else None
    code: int | None = None
    if kind in _SYMBOL:
        name, at = _sized(body, at + 1, _SYMBOL)
        code = _SYMBOLS.get(name)
    elif kind in _ULONGS:
        stop = at + 2 + _ULONGS[kind]
        code, at = int.from_bytes(body[at + 2 : stop], "big"), stop
    if code is None or code not in _SYMBOLS.values() or at > len(body):
        raise _broken("it has something that is not a section of a body")
    return code, at


def _content(body: bytes, at: int, section: int) -> tuple[bytes, int]:
    """Return the bytes of a section whose content begins at `at`, and where it ends."""
    if section == _SEQUENCE:
        raise _other("a sequence")
    if section == _FOOTER:
        raise _broken("it has a footer only")
    kind = body[at] if at < len(body) else None
    if section == _VALUE and kind is not None and kind not in _BINARY + _STRING:
        raise _other(_WORDS.get(kind, "a value that is not a string"))
    return _sized(body, at, _BINARY if section == _DATA else _BINARY + _STRING)


def _sized(body: bytes, at: int, kinds: tuple[int, ...]) -> tuple[bytes, int]:
    """Return the bytes of a value of one of these types at `at`, and where it ends."""
    kind = body[at] if at < len(body) else None
    if kind is not None and kind not in kinds:
        raise _broken("a section has content of the wrong type")
    width = 1 if kind is not None and kind & 0xF0 in (0xA0, 0xC0) else 4  # bytes of the size
    start = at + 1 + width
    stop = start + int.from_bytes(body[at + 1 : start], "big")
    if stop > len(body):
        raise _broken("it ends too early")
    return body[start:stop], stop


def _other(what: str) -> UnreadableError:
    return UnreadableError(f"is {what} of AMQP 1.0: {_REMEDY}")


def _broken(why: str) -> UnreadableError:
    return UnreadableError(f"is not a body of AMQP 1.0, because {why}: {_REMEDY}")
