"""A text as a typed value: a number, a truth value or a date, or None if it holds none.

May touch: a text. Pure.
Must never: raise for what a text holds, guess by a locale or clock, or take more than linear time.
"""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal
from typing import Final, Literal

from scraperd.extract.values.dates import date_of, format_fault

__all__ = ["CASTS", "cast", "format_fault"]

CASTS: Final[tuple[str, ...]] = ("int", "float", "bool", "date")
LONGEST: Final = 400  # characters of a number; the largest double has 309 digits
INTEGERS: Final = range(-(2**63), 2**64)  # what JSON readers take as 64 bits, signed or not

_BOOLS: Final = dict.fromkeys("true yes on y t 1".split(), True) | dict.fromkeys(
    "false no off n f 0".split(), False
)

# Dashes that are written for a minus, fullwidth and small forms, apostrophes, other commas.
_CANONICAL: Final = (
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\ufe62\uff0b", "+")
    | dict.fromkeys("\u00b4\u2018\u2019\u02b9\u02bc\u2032\uff07", "'")
    | {"\uff0e": ".", "\uff0c": ",", "\u060c": ",", "\u2e41": "\u066c"}
)
_DIRECTION: Final = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # around signs
_DIGIT: Final = re.compile(r"\d")
# What stands before the first digit: a sign, a currency ("-R$ 5", "-EUR 5"), a separator (".5").
_BEFORE: Final = re.compile(
    r"(?:(?<![^\W_])(?<![+-])(?P<sign>[+-])"
    r"(?:(?:[^\W\d_]{0,3}¤|[A-Z]{3}|kr|zł|Kč|Ft|lei|TL|Rs)\.?[ \xa0\u202f]?)?)?"
    r"(?P<point>(?<![^\W_])(?<![.,\u066b])[.,\u066b]{1,2})?$"
)
_NUMBER: Final = re.compile(
    r"(?P<digits>(?:[1-9]\d{0,2}([ \xa0\u2007\u2009\u202f])\d{3}(?!\d)(?:\2\d{3}(?!\d))*|\d+)"
    r"(?:[.,'\u066b\u066c]\d+)*)"
    r"(?:(?P<no_cents>[.,])(?=[-\u2014])|(?P<power>e[+-]?\d+(?!\w|[.,]\d)))?",
    re.ASCII | re.IGNORECASE,
)
_GROUPED: Final = re.compile(r"[1-9]\d{0,2}(?: \d{3})+|[1-9]\d?(?: \d\d)+ \d{3}", re.ASCII)
_WINDOW: Final = 32  # characters before and behind a number that tell how it is read

# What stands behind a number and makes it a part of something else. Spaces: also no-break ones.
_SCALES: Final = (
    "hundred|thousands?|grand|dozen|millions?|billions?|trillions?|bn|mn|mln|mld|mlrd|mrd|mds?|mio"
    "|mia|mill|mille|mil|milj|millionen|milliarden?|milliards?|milliers|millones|milh[õo]es"
    "|milh[ãa]o|mill[óo]n|milioni|miljoenen?|tsd|tausend|tys|tis|lakhs?|lacs?|crores?|cr|тыс|тысяч|млн"
    "|млрд|тис|χιλ|εκατ|bin|milyon|milyar|juta|jt|ribu|rb|tr|triệu|nghìn|ngàn|tỷ|lần|हज़ार|लाख|करोड़"
    "|ألف|مليون|مليار|พัน|หมื่น|แสน|ล้าน"
)
_SCALED: Final = re.compile(
    rf"[ \xa0\u2009\u202f-]?¤?[ \xa0\u202f]?(?:(?i:{_SCALES})(?!\w)"
    r"|[十百千万萬億亿兆만억천조])"
    r"|¤?(?:[kKmMbBtT]|MM)(?!\w)|[ \xa0\u2009\u202f]¤?[kKMB](?![\w/])"
)
# Glued to another number: 1,,000 12h30 20€10 5-10 3/4 16:30 0x10 1_000, and 10³ 12½ 10^3.
_GLUED: Final = re.compile(
    r"[.,'`_:+~\u301c·∙⋅•\u00d7*%^\u00ad\u200b-\u200d\u2060\ufeff]{1,3}¤?\d|¤\d"
    r"|[^\W\d_]{1,3}\.?\d"
    r"|[ \xa0\u2009\u202f]?[-—~\u301c][ \xa0\u2009\u202f]?[-+]?(?:¤|[A-Z]{3})?[ \xa0\u202f]?\d"
    r"|[ \xa0\u202f]?[x\u00d7·⋅*][ \xa0\u202f]?10[\^⁰¹²³⁴-⁹⁺⁻]"
)
_FRACTION: Final = re.compile(r"[ \xa0\u2009\u202f]?\d+[/\u2044\u2215]\d|[/\u2044\u2215]\d")
# With a bracket behind the number: (35) may be -35.
_BRACKETED: Final = re.compile(r"\s*[+-]?¤?\s*\(\s*¤?\s*")
_CLOSED: Final = re.compile(r"\s*¤?\s*\)")
_MINUS_BEHIND: Final = re.compile(r"-\s*¤?\s*")  # as accounts write -35


def cast(
    kind: Literal["int", "float", "bool", "date"],
    text: str,
    *,
    decimal: Literal[".", ","] | None = None,
    formats: tuple[str, ...] = (),
) -> int | float | bool | str | None:
    """The value that `text` holds, fit for JSON; None if it holds none of that kind.

    `int`, `float`: the first number in the text, with any text around it, also in digits of
    other scripts and with an exponent. A sign counts if it touches the number or its currency
    (a sign, a code of three capitals, a common word like kr), and no letter, digit or sign is in
    front of it. Digits are grouped by commas, points,
    apostrophes or spaces, in threes or the Indian way. Of point and comma the last of two kinds
    is the decimal separator, a repeated one groups, and a single one is decimal, unless it has
    exactly three digits behind it and could group: then a comma groups; a point groups for `int`
    and is decimal for `float`. `decimal` settles it: the other one groups, always.
    A number whose separators fit no such reading is None and not its first part ("1.2.3",
    "12,50" where the decimal is a point), as are a float that is not finite, and an int that is
    not whole or not in `INTEGERS`. A space that groups nothing ends the number.
    A number that is only a part of what is written is None too: with a word or letter behind it
    that multiplies ("2.3k", "5 Mio."), a fraction or a power ("12½", "3/4", "10³"), another number
    glued to it ("12h30", "1,,000", "20€10"), a range with a dash ("5-10"), and what accounts write
    for a negative number ("(35)" alone, "35-").

    `bool`: the whole text is true, yes, on, y, t or 1, or false, no, off, n, f or 0, in any case.

    `date`: see `dates.date_of`; `formats` are ones for which `format_fault` is None.
    """
    match kind:
        case "bool":
            return _BOOLS.get(text.strip().lower())
        case "date":
            return date_of(text, formats)
    number = _first_number(text, decimal, points_group=kind == "int")
    if number is None or not math.isfinite(value := float(number)):
        return None
    return _whole(number) if kind == "int" else value + 0.0  # -0.0 becomes 0.0


def _whole(number: str) -> int | None:
    exact = Decimal(number)
    whole = int(exact)
    return whole if whole == exact and whole in INTEGERS else None


def _first_number(text: str, decimal: str | None, *, points_group: bool) -> str | None:
    """The first number in the text as Python writes one, of at most `LONGEST` characters."""
    first = _DIGIT.search(text)
    if first is None:
        return None
    at = first.start()
    before = _BEFORE.search(_canonical(_DIRECTION.sub("", text[max(0, at - _WINDOW) : at])))
    point = before["point"] if before else None
    if point and len(point) > 1:
        return None
    rest = _canonical(text[at : at + LONGEST + _WINDOW])
    found = _NUMBER.match(f"0{point}{rest}" if point else rest)
    if found is None or found.end() > LONGEST:
        return None
    power = found["power"] or ""
    if len(power) > len("e+1234"):
        return None
    mark = found["no_cents"]
    digits = found["digits"] + (f"{mark}00" if mark else "")
    behind = found.string[found.end() : found.end() + _WINDOW]
    if _is_a_part(digits, text[max(0, at - _WINDOW) : at], behind, no_cents=mark is not None):
        return None
    plain = _plain(digits, decimal, points_group=points_group)
    sign = before["sign"] if before else None
    return None if plain is None else (sign or "") + plain + power


def _is_a_part(digits: str, before: str, behind: str, *, no_cents: bool) -> bool:
    """Whether what stands around a number changes its value: see `cast`."""
    if not behind:
        return False
    if behind[0] == ")" or behind[0] in " \xa0¤":
        bracket = _BRACKETED.fullmatch(_canonical(before))
        if bracket and _CLOSED.match(behind):
            return True
    if unicodedata.category(behind.lstrip(" \xa0\u2009\u202f")[:1] or "x") == "No":
        return True
    if behind[0] == "\u207b" or _GLUED.match(behind) or _SCALED.match(behind):
        return True
    if not no_cents and _MINUS_BEHIND.fullmatch(behind):
        return True
    return digits.isdecimal() and _FRACTION.match(behind) is not None


def _plain(number: str, decimal: str | None, *, points_group: bool) -> str | None:
    """ASCII digits with separators, read by the rule of `cast`: without groups, with a point."""
    groups = re.findall(r"\d+", number)
    marks = re.findall(r"\D", number)
    fraction = "0"
    if marks and _is_decimal(marks, groups, decimal, points_group=points_group):
        marks.pop()
        fraction = groups.pop()
    if marks and (marks[0] in ("\u066b", decimal) or len(set(marks)) > 1 or not _grouped(groups)):
        return None
    return f"{''.join(groups)}.{fraction}"


def _is_decimal(
    marks: list[str], groups: list[str], decimal: str | None, *, points_group: bool
) -> bool:
    """Whether the last separator is the decimal one."""
    last = marks[-1]
    if last not in ".,":
        return last == "\u066b"
    if decimal:
        return last == decimal
    if len(marks) > 1:
        return marks.count(last) == 1
    return not _grouped(groups) or (last == "." and not points_group)


def _grouped(groups: list[str]) -> bool:
    return _GROUPED.fullmatch(" ".join(groups)) is not None


def _canonical(text: str) -> str:
    """The same number in ASCII digits, one sign and separator for all of a kind, `¤` for money."""
    return text if text.isascii() and "$" not in text else "".join(map(_character, text))


def _character(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if unicodedata.category(character) == "Sc":
        return "¤"
    return _CANONICAL.get(character, character)
