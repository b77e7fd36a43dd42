"""The query of a URL -> what browsers send for it from a document in each encoding. Pure.

May touch: the decoders, whose tables are turned around here, as the Encoding Standard does.
Must never: raise for any text, or do anything for a document in UTF-8.
"""

from __future__ import annotations

import re
from functools import cache, partial
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

from scraperd.extract.encoding.decoders import BAD, TRAILS, rows, single

if TYPE_CHECKING:
    from collections.abc import Callable

_UTF8: Final = frozenset({"utf-8", "utf-16le", "utf-16be", "replacement"})
_ASCII: Final = 0x80  # characters, and bytes
# URL standard, "special-query percent-encode set"; without what is above ASCII.
_ESCAPED: Final = frozenset((*range(0x21), *b"\"#<>'", 0x7F))
_HALF = re.compile("[\ud800-\udfff]")

_MINUS: Final = 0x2212
_WIDE_MINUS: Final = 0xFF0D
_KATAKANA: Final = range(0xFF61, 0xFFA0)  # of half width
_ROMAN: Final = {"\xa5": "\\", "\u203e": "~"}  # where a state has these two for those of ASCII
_SOUND_MARKS: Final = {"\uff9e": "\u309b", "\uff9f": "\u309c"}
# Encoding Standard, "index Big5 pointer": of these the last sequence counts, not the first.
_BIG5_LAST: Final = frozenset((0x2550, 0x255E, 0x2561, 0x256A, 0x5341, 0x5345))
_NO_GB: Final = 0xE5E5  # its sequence is U+3000 to decoders
_GB_MOVED: Final = 0xE7C7
_GB_2005: Final = {  # section "gb18030 encoder": as they were before the edition of 2022
    code: bytes.fromhex(sequence)
    for start, codes in (("a6d9", range(0xE78D, 0xE794)), ("a6ec", (0xE794, 0xE795)))
    for at, code in enumerate(codes)
    for sequence in (f"{int(start, 16) + at:04x}",)
} | {
    0xE796: b"\xa6\xf3",
    0xE81E: b"\xfe\x59",
    0xE826: b"\xfe\x61",
    0xE82B: b"\xfe\x66",
    0xE82C: b"\xfe\x67",
    0xE832: b"\xfe\x6d",
    0xE843: b"\xfe\x7e",
    0xE854: b"\xfe\x90",
    0xE864: b"\xfe\xa0",
}


def query_encoder(name: str) -> Callable[[str], str] | None:
    """Return what writes a query for a document in the encoding `name`; None if that is UTF-8.

    `name` is in lower case. The text that is written is ASCII: bytes are percent-encoded (URL
    standard, "percent-encode after encoding", in the "output encoding"), and a character that the
    encoding lacks is its number, `%26%23NNNN%3B`.
    """
    if name in _UTF8:
        return None
    return _iso_2022_jp if name == "iso-2022-jp" else partial(_written, name)


def _written(name: str, query: str) -> str:
    return _HALF.sub(BAD, query).translate(_characters(name))


_BYTES: Final = [
    f"%{byte:02X}" if byte >= _ASCII or byte in _ESCAPED else chr(byte) for byte in range(256)
]


def _percent(sequence: bytes) -> str:
    return "".join([_BYTES[byte] for byte in sequence])


def _number(char: str) -> str:
    return f"%26%23{ord(char)}%3B"


class _Characters(dict[int, str]):
    """Each character's text in a query, by its number; what is not in it is missing, or `long`."""

    def __init__(self, *, long: bool = False) -> None:
        super().__init__()
        self._long = long

    def __missing__(self, code: int) -> str:
        """What has four bytes in gb18030 is not kept: that is nearly all of Unicode."""
        if not self._long or code == _NO_GB:
            return _number(chr(code))
        return _percent(b"\x81\x35\xf4\x37" if code == _GB_MOVED else chr(code).encode("gb18030"))


@cache  # 10 ms for the largest, and 5 MB
def _characters(name: str) -> _Characters:
    """Of an encoding without states."""
    found = _Characters(long=name == "gb18030")
    if name in ("gbk", "gb18030"):
        found.update(_of_pairs("gb18030"))
        found.update((code, _percent(sequence)) for code, sequence in _GB_2005.items())
        if name == "gbk":
            found[0x20AC] = "%80"  # the euro sign
    elif name == "big5":
        found.update(_of_pairs(name, range(0xA1, 0xFF)))
        last = _of_pairs(name, range(0xA1, 0xFF), last=True)
        found.update((code, last[code]) for code in _BIG5_LAST)
    elif name == "euc-kr":
        found.update(_of_pairs(name))
    elif name in ("shift_jis", "euc-jp"):
        found.update(_japanese(name))
    else:
        table = single(name)
        found.update((ord(table[byte]), _BYTES[byte]) for byte in range(0xFF, 0x7F, -1))
    found.pop(ord(BAD), None)
    found.update(enumerate(_BYTES[:_ASCII]))
    return found


def _of_pairs(name: str, leads: range = range(0xFF), *, last: bool = False) -> dict[int, str]:
    """Characters that two bytes mean: the first two where several do, or the `last` ones."""
    found: dict[int, str] = {}
    tails = [_BYTES[trail] for trail in TRAILS]
    order = 1 if last else -1
    for lead, texts in [*rows(name)][::order]:
        if lead in leads:
            head, row = _BYTES[lead], zip(texts[::order], tails[::order], strict=True)
            found.update([(ord(char), head + tail) for char, tail in row if len(char) == 1])
    return found


def _japanese(name: str) -> dict[int, str]:
    if name == "shift_jis":
        # "index Shift_JIS pointer": not NEC's copy of IBM's rows, nor what users define.
        found = _of_pairs(name, range(0xFA, 0xFF)) | _of_pairs(name, range(0xED))
        found[0x80] = "%80"
    else:
        found = {
            code: _percent(bytes((lead | _ASCII, trail | _ASCII)))
            for code, (lead, trail) in _jis0208().items()
        }
    kana = "%8E" if name == "euc-jp" else ""
    found |= {code: f"{kana}%{code - 0xFF61 + 0xA1:02X}" for code in _KATAKANA}
    found |= {ord(char): byte for char, byte in _ROMAN.items()}
    return found | {_MINUS: found[_WIDE_MINUS]}


def _jis0208() -> dict[int, bytes]:
    """The two bytes of ISO-2022-JP: the 94 rows of 94 that Shift_JIS has as 47 of 188."""
    found: dict[int, bytes] = {}
    for lead, texts in rows("shift_jis"):
        if lead < 0xF0:  # noqa: PLR2004 - from there on, what users define, and IBM's rows
            above = 2 * (lead - (0x81 if lead < 0xA0 else 0xC1)) + 0x21  # noqa: PLR2004
            for trail, char in zip(TRAILS, texts, strict=True):
                row, cell = divmod(trail - (0x40 if trail < 0x7F else 0x41), 94)  # noqa: PLR2004
                if len(char) == 1 and char != BAD:
                    found.setdefault(ord(char), bytes((above + row, cell + 0x21)))
    return found


@cache
def _jis_pairs() -> dict[str, bytes]:
    """The same by characters, with those that stand for another one."""
    found = {chr(code): pair for code, pair in _jis0208().items()}
    for kana in map(chr, _KATAKANA):  # "index ISO-2022-JP katakana"; sound marks do not combine
        found[kana] = found[_SOUND_MARKS.get(kana) or normalize("NFKC", kana)]
    return found | {chr(_MINUS): found[chr(_WIDE_MINUS)]}


def _iso_2022_jp(query: str) -> str:
    """Section "ISO-2022-JP encoder", with the state it ends in at each error and at the end."""
    state, written = b"(B", []

    def switch(to: bytes) -> None:
        nonlocal state
        if state != to:
            written.append(_percent(b"\x1b" + to))
            state = to

    double = _jis_pairs()
    for char in _HALF.sub(BAD, query):
        if char in double:
            switch(b"$B")
            written.append(_percent(double[char]))
        elif char in _ROMAN:
            switch(b"(J")
            written.append(_ROMAN[char])
        else:
            if state == b"$B" or char in "\\~":
                switch(b"(B")
            written.append(_alone(char))
    switch(b"(B")
    return "".join(written)


def _alone(char: str) -> str:
    """A character that takes no state of its own: ASCII, or one that is missing."""
    if char in "\x0e\x0f\x1b":  # they would switch the state
        return _number(BAD)
    return _BYTES[ord(char)] if char.isascii() else _number(char)
