"""Bytes -> text in each encoding of the WHATWG Encoding Standard, as a browser reads them.

May touch: Python's codecs, and what is written here of where they differ. Pure.
Must never: raise for any bytes, or let a malformed sequence swallow an ASCII byte that counts.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

BAD: Final = "\ufffd"

_PYTHON: Final = {  # single-byte encodings that Python knows by another name
    "ibm866": "cp866",
    "iso-8859-8-i": "iso-8859-8",
    "macintosh": "mac-roman",
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac-cyrillic",
}
_SINGLE: Final = {  # where Python's tables differ (KOI8-RU; the newer table of windows-1255)
    "koi8-u": {0xAE: "\u045e", 0xBE: "\u040e"},
    "windows-1255": {0xCA: "\u05ba"},
}
_CHUNK: Final = 1 << 16  # bytes cut into tokens at once: a token takes 50 bytes of memory
_REACH: Final = 4  # bytes: the longest sequence
_PAIR: Final = 2  # bytes
TRAILS: Final = range(0x40, 0xFF)  # second bytes, of sequences of two
_ASCII: Final = 0x7F


def decode(body: bytes, name: str) -> str:
    """Decode whole; each error of the standard's decoder becomes one U+FFFD.

    `name` is an encoding's name in lower case. A byte order mark is a character like any other.
    """
    if name.startswith("utf-"):
        return body.decode(name, "replace")
    if (family := _FAMILIES.get(name)) is not None:
        return _multi_byte(body, family)
    if name == "iso-2022-jp":
        return _iso_2022_jp(body)
    if name == "replacement":
        return BAD if body else ""
    return codecs.charmap_decode(body, "strict", _table(name))[0]


@cache
def _table(name: str) -> str:
    """The 256 characters of a single-byte encoding; U+FFFD where it has none (section 9)."""
    if name == "x-user-defined":
        return "".join(chr(byte if byte <= _ASCII else 0xF700 + byte) for byte in range(256))
    table = list(bytes(range(256)).decode(_PYTHON.get(name, name), "replace"))
    if name.startswith("windows-"):  # a control character where Microsoft left a hole
        table[0x80:0xA0] = [
            chr(0x80 + at) if char == BAD else char for at, char in enumerate(table[0x80:0xA0])
        ]
    for byte, char in _SINGLE.get(name, {}).items():
        table[byte] = char
    return "".join(table)


def single(name: str) -> list[str]:
    """The 256 characters of a single-byte encoding; U+FFFD where it has none."""
    return list(_table(name))


def rows(name: str) -> Iterator[tuple[int, list[str]]]:
    """Each lead byte, and what it means with each trail byte from 40 on: not one character is none.

    Of `big5`, `euc-kr`, `gb18030` and `shift_jis`, at once: as Python's codec has them.
    """
    family = _FAMILIES[name]
    assert family.codec is not None
    row = b"\n".join(bytes((0, trail)) for trail in TRAILS)
    for lead in range(0x81, 0xFF):
        texts = row.replace(b"\0", bytes((lead,))).decode(family.codec, "replace").split("\n")
        for (_, trail), text in family.other.get(lead, ()):
            texts[trail - TRAILS[0]] = text
        yield lead, texts


class _Memo(dict[bytes, str]):
    """Tokens and their text, worked out when first met; lives for one call."""

    def __init__(self, read: Callable[[bytes], str]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, token: bytes) -> str:
        if len(token) > _PAIR and token[0] <= _ASCII:
            return token.decode("ascii")
        try:
            text = self._read(token)
        except UnicodeDecodeError:  # an ASCII byte is read again: it is not part of the sequence
            text = BAD + (chr(token[-1]) if len(token) > 1 and token[-1] <= _ASCII else "")
        if len(token) <= _REACH:
            self[token] = text
        return text


@dataclass(frozen=True, slots=True)
class _Family:
    """A multi-byte encoding: how its bytes are cut into tokens, and what a token means.

    Each token stands alone: a run of ASCII, a sequence, or a byte that can't start one. `read`
    raises UnicodeDecodeError for a malformed one. `codec` is Python's, where it is near enough:
    it may be wrong only for text that has one of the `doubtful` characters, and of the sequences of
    two bytes with a lead byte, for the `other` ones.
    """

    token: re.Pattern[bytes]
    read: Callable[[bytes], str]
    codec: str | None = None
    doubtful: re.Pattern[str] | None = None
    other: Mapping[int, list[tuple[bytes, str]]] = field(default_factory=dict)


def _family(sequence: bytes, codec: str, other: Mapping[bytes, str]) -> _Family:
    """An encoding that is `codec` but for the `other` tokens."""

    def read(token: bytes) -> str:
        text = other.get(token)
        return token.decode(codec) if text is None else text

    odd = "".join(token.decode(codec, "ignore") for token in other)
    doubtful = re.compile(f"[{odd}]") if odd else None
    return _Family(_tokens(sequence), read, codec, doubtful, _by_lead(other))


def _by_lead(other: Mapping[bytes, str]) -> dict[int, list[tuple[bytes, str]]]:
    found: dict[int, list[tuple[bytes, str]]] = {}
    for token, text in other.items():
        if len(token) == _PAIR:
            found.setdefault(token[0], []).append((token, text))
    return found


def _tokens(sequence: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"[\x00-\x7f]{1,256}|" + sequence + rb"|[\x80-\xff]", re.DOTALL)


def _pairs(rows: str) -> dict[bytes, str]:
    """Rows of `8e69:7bb8,...`: a sequence, and the characters from it on, trail by trail."""
    return {
        bytes.fromhex(start[:2]) + bytes((bytes.fromhex(start)[1] + at,)): chr(int(code, 16))
        for start, _, codes in (row.partition(":") for row in rows.split())
        for at, code in enumerate(codes.split(","))
    }


# Index Big5, where Python's big5hkscs has nothing (HKSCS-2008) or what Microsoft had not.
_BIG5: Final = _pairs(
    """
    877a:3875,21d53,2369e,26021,3eec
    87a1:258de,3af5,7afc,9f97,24161,2890d,231ea,20a8a,2325e,430a,8484,9f96,942f,4930
    87af:8613,5896,974a,9218,79d0,7a32,6660,6a29,889d,744c,7bc5,6782,7a2c,524f
    87bd:9046,34e6,73c4,25db9,74c6,9fc7,57b3,492f,544c,4131,2368e,5818,7a72,27b65
    87cb:8b8f,46ae,26e88,4181,25d99,7bae,224bc,9fc8,224c1,224c9,224cc,9fc9,8504,235bb
    87d9:40b4,9fca,44e1,2adff,62c1,706e,9fcb 8e69:7bb8 8e6f:7c06 8e7e:7cce 8eab:7dd2 8eb4:7e1d
    8ecd:8005 8ed0:8028 8f57:83c1 8f69:84a8 8f6e:840f 8fcb:89a6,89a9 8ffe:8d77 906d:90fd 907a:92b9
    90dc:975c 90f1:97ff 91bf:9f16 9244:8503 92af:5159,515b,515d,515e 92c8:936e 92d1:7479 9447:6d67
    94ca:799b 95d9:9097 9644:975d 96ed:701e 96fc:5b28 9b76:7201 9b78:77d7 9b7b:7e87 9bc6:99d6
    9bde:91d4 9bec:60de 9bf6:6fb6 9c42:8f36 9c53:4fbb 9c62:71df 9c68:9104 9c6b:9df0 9c77:83cf
    9cbc:5c10,79e3 9cd0:5a67 9d57:8f0b 9d5a:7b51 9dc4:62d0 9ea9:6062 9eef:75f9 9efd:6c4a 9f60:9b2e
    9f66:9f17 9fcb:50ed 9fd8:5f0c a063:880f a077:62ce a0d5:7468 a0df:7162 a0e4:7250 a145:2027
    a14e:fe51 a1c2:af a1e3:ff5e a1f2:2295,2299 a241:2215,fe68 a244:ffe5 a246:ffe0,ffe1
    a3c0:2400,2401,2402,2403,2404,2405,2406,2407,2408,2409,240a,240b,240c,240d
    a3ce:240e,240f,2410,2411,2412,2413,2414,2415,2416,2417,2418,2419,241a,241b
    a3dc:241c,241d,241e,241f,2421,20ac c6cf:5ef4 c6d3:65e0 c6d5:7676 c6d7:96b6 c6de:3003,4edd
    fa5f:5029 fa66:507d fabd:5305 fac5:5344 fad5:537f fb48:5605 fbb8:5a77 fbf3:5e75 fbf9:5ed0
    fc4f:5f58 fc6c:60a4 fcb9:6490 fce2:6674 fcf1:675e fdb7:6c9c,6e1d fdbb:6e2f fdf1:716e fe52:732a
    fe6f:745c feaa:74e9 fedd:7809
    """
)
# Index gb18030: the edition of 2022, U+3000 for A3A0 and the euro sign of Windows.
_FOUR: Final = 4  # bytes
_GB_VOID: Final = frozenset((*range(0x85, 0x90), *range(0xE4, 0xFF)))  # leads of four, all empty
_GB: Final = {
    **_pairs(
        "a3a0:3000 a6d9:fe10,fe12,fe11,fe13,fe14,fe15,fe16 a6ec:fe17,fe18 a6f3:fe19 a8bc:1e3f"
        " fe59:9fb4 fe61:9fb5 fe66:9fb6,9fb7 fe6d:9fb8 fe7e:9fb9 fe90:9fba fea0:9fbb"
    ),
    b"\x80": "\u20ac",
}


def _gb18030(token: bytes) -> str:
    if token[0] <= _ASCII or not b"0" <= token[1:2] <= b"9":
        return _GB.get(token) or token.decode("gb18030")
    if len(token) < _FOUR or token[0] in _GB_VOID:
        return BAD * -(-len(token) // _FOUR)
    return _or_bad(token, "gb18030").replace("\u1e3f", "\ue7c7")  # which A8BC has now


def _euc_jp(token: bytes) -> str:
    """JIS X 0208 as Windows has it, and 0212, which Python has but for one character."""
    if token == b"\x8f\xa2\xb7":
        return "\uff5e"
    if len(token) == _PAIR and min(token) >= 0xA1:  # noqa: PLR2004 -- G1 of ISO 2022
        return _jis0208(bytes(byte & 0x7F for byte in token))
    return token.decode("euc_jp")


def _jis0208(token: bytes) -> str:
    """Two bytes of ISO-2022-JP, read as the Shift_JIS sequence of the same row and cell."""
    if len(token) != _PAIR or not all(0x21 <= byte <= 0x7E for byte in token):  # noqa: PLR2004
        return BAD
    lead, trail = divmod((token[0] - 0x21) * 94 + token[1] - 0x21, 188)
    lead += 0x81 if lead < 0x1F else 0xC1  # noqa: PLR2004 -- section 13.3.2
    trail += 0x40 if trail < 0x3F else 0x41  # noqa: PLR2004
    return _or_bad(bytes((lead, trail)), "cp932")


def _or_bad(sequence: bytes, codec: str) -> str:
    try:
        return sequence.decode(codec)
    except UnicodeDecodeError:
        return BAD


_GB18030: Final = _Family(
    _tokens(  # runs of four bytes, where all or none have a character; or what there is at the end
        rb"(?:[\x81-\x83\x90-\xe2][0-9][\x81-\xfe][0-9]){1,64}"
        rb"|(?:[\x85-\x8f\xe4-\xfe][0-9][\x81-\xfe][0-9]){1,64}"
        rb"|[\x84\xe3][0-9][\x81-\xfe][0-9]"
        rb"|[\x81-\xfe][0-9][\x81-\xfe]?\Z|[\x81-\xfe][^0-9]"
    ),
    _gb18030,
    "gb18030",
    re.compile(f"[\u1e3f{''.join(token.decode('gb18030', 'ignore') for token in _GB)}]"),
    _by_lead(_GB),
)
_FAMILIES: Final = {
    "big5": _family(rb"[\x81-\xfe][\x00-\xff]", "big5hkscs", _BIG5),
    "euc-jp": _Family(
        _tokens(rb"\x8f[\xa1-\xfe](?:[\x00-\xff]|\Z)|[\x8e\x8f\xa1-\xfe][\x00-\xff]"), _euc_jp
    ),
    "euc-kr": _family(rb"[\x81-\xfe][\x00-\xff]", "cp949", {}),
    "gb18030": _GB18030,
    "gbk": _GB18030,
    "shift_jis": _family(
        rb"[\x81-\x9f\xe0-\xfc][\x00-\xff]",
        "cp932",
        dict.fromkeys((b"\xa0", b"\xfd", b"\xfe", b"\xff"), BAD),
    ),
}


def _multi_byte(body: bytes, family: _Family) -> str:
    """By Python's codec if that has no objection and no doubtful character, else by tokens."""
    if family.codec is not None:
        text = _or_none(body, family.codec)
        if text is not None and not (family.doubtful and family.doubtful.search(text)):
            return text
    return _by_tokens(body, family)


def _or_none(body: bytes, codec: str) -> str | None:
    try:
        return body.decode(codec)
    except UnicodeDecodeError:
        return None


def _by_tokens(body: bytes, family: _Family) -> str:
    text, known = StringIO(newline=""), _Memo(family.read)
    for tokens in _cut(body, family.token):
        text.write("".join(map(known.__getitem__, tokens)))
    return text.getvalue()


def _cut(body: bytes, token: re.Pattern[bytes]) -> Iterator[list[bytes]]:
    """All tokens, some thousands at once; what a chunk's end may have cut goes to the next."""
    at = 0
    while at < len(body):
        stop = min(at + _CHUNK, len(body))
        tokens = token.findall(body, at, stop)
        if stop < len(body):
            stop -= sum(map(len, tokens[-_REACH:]))
            del tokens[-_REACH:]
        yield tokens
        at = stop


_ESCAPES: Final = re.compile(rb"(?:\x1b(?:\([BIJ]|\$[@B]))++")
_JIS_PAIR: Final = re.compile(rb"[\x21-\x7e][^\x1b]|[\x00-\xff]", re.DOTALL)
_JIS_ASCII: Final = "".join(
    BAD if byte in (0x0E, 0x0F, 0x1B) or byte > _ASCII else chr(byte) for byte in range(256)
)
_JIS_ROMAN: Final = _JIS_ASCII.replace("\\", "\xa5").replace("~", "\u203e")
_JIS_KATAKANA: Final = BAD * 0x21 + "".join(map(chr, range(0xFF61, 0xFFA0))) + BAD * 0xA0
_JIS_STATES: Final[dict[bytes, Callable[[bytes], str]]] = {
    b"(B": lambda part: codecs.charmap_decode(part, "strict", _JIS_ASCII)[0],
    b"(J": lambda part: codecs.charmap_decode(part, "strict", _JIS_ROMAN)[0],
    b"(I": lambda part: codecs.charmap_decode(part, "strict", _JIS_KATAKANA)[0],
}
_ESCAPE: Final = 3  # bytes


def _iso_2022_jp(body: bytes) -> str:
    """Parts between escape sequences; of several in a row each but one is an error.

    An escape character that starts none is an error; what follows it is text (section 13.2.1).
    """
    text, known, at = StringIO(newline=""), cache(_jis0208), 0

    def double(part: bytes) -> str:
        if len(part) <= _CHUNK:
            return "".join(map(known, _JIS_PAIR.findall(part)))
        return "".join("".join(map(known, tokens)) for tokens in _cut(part, _JIS_PAIR))

    states = {**_JIS_STATES, b"$@": double, b"$B": double}
    read = states[b"(B"]

    for escapes in _ESCAPES.finditer(body):
        start, end = escapes.span()
        if at < start:
            text.write(read(body[at:start]))
        if end - start > _ESCAPE:
            text.write(BAD * ((end - start) // _ESCAPE - 1))
        read = states[body[end - 2 : end]]
        at = end
    text.write(read(body[at:]))
    return text.getvalue()
