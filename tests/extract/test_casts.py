"""Casts, against CLDR's formats, price-parser's and the RFCs' examples, and the stdlib's dates.

May touch: babel, tests/data/casts.
Must never: take the code's own answer for the expected one.
"""

# ruff: noqa: RUF001 (numbers are read in any script)

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from email.utils import format_datetime as rfc_5322
from pathlib import Path
from typing import Final

import pytest
from babel import Locale, dates, localedata, numbers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scraperd.extract.values.casts import CASTS, INTEGERS, LONGEST, cast, format_fault
from tests.rig.clocks.effort import scaled

DATA: Final = Path(__file__).parents[1] / "data" / "casts" / "price_parser.json"
AMBIGUOUS: Final = re.compile(r"\D*\d{1,3}\.\d{3}\D*")

FLOATS: Final = [
    ("Only 3 left of 10", 3.0),
    ("$1,299.00", 1299.0),
    ("EUR 1.234,50", 1234.5),
    ("1 234 567,89", 1234567.89),
    ("1\u00a0234\u00a0567,89", 1234567.89),
    ("1\u202f234,5", 1234.5),
    ("1\u2009234,5", 1234.5),
    ("1\u00a0234 567", 1234.0),  # one number groups by one kind of space
    ("1'234'567.89", 1234567.89),
    ("1\u2019234.50", 1234.5),
    ("₹12,34,567.89", 1234567.89),
    ("1.234.567", 1234567.0),
    ("1,234,567", 1234567.0),
    ("1,234", 1234.0),
    ("1.234", 1.234),
    ("1,5", 1.5),
    ("1234,567", 1234.567),  # no well-formed group: decimal
    ("0,500", 0.5),
    ("1 234,567", 1234.567),  # the space groups, so the comma does not
    ("+5", 5.0),
    ("-5", -5.0),
    ("\u22125", -5.0),
    ("\u20135 °C", -5.0),
    ("10-20", None),
    ("A-5", 5.0),
    ("\u200e-\u200e5", -5.0),
    ("--5", 5.0),
    ("Pack - 5", 5.0),
    ("-$5.00", -5.0),
    ("$-5.00", -5.0),
    ("-R$ 5,00", -5.0),
    ("(5.00)", None),
    (".5", 0.5),
    ("-.5", -0.5),
    ("No.5", 5.0),
    ("from...5", 5.0),
    ("5.", 5.0),
    ("1e5", 100000.0),
    ("1.5E-3 m", 0.0015),
    ("1e5x", None),
    ("45 %", 45.0),
    ("٣٫٥", 3.5),
    ("١٬٢٣٤٫٥", 1234.5),
    ("\uff11\uff0c\uff12\uff19\uff19\uff0e\uff15\uff10", 1299.5),
    ("1.899,-", 1899.0),
    ("1'234.\u2014", 1234.0),
    ("1, 2 and 3", 1.0),
    ("4.81 160", 4.81),
    ("12 3456", 12.0),
    ("5 000 1234", 5000.0),
    ("-0", 0.0),
    ("1e-999", 0.0),
    ("0" * 300 + "1", 1.0),
    ("", None),
    ("none", None),
    ("m²", None),
    ("1.2.3", None),
    ("12.05.2024", None),
    ("1,2,3", None),
    ("1,23,4", None),
    ("1234,567.8", None),
    ("1.234,567.8", None),
    ("1 234.567.890", None),
    ("1,234'567", None),
    ("1٫500٫5", None),
    ("5'10", None),
    ("$..75", None),
    ("1e999", None),
    ("1e99999", None),
    ("9" * 309, None),
    ("1e-99999", None),
    ("0." + "1" * LONGEST, None),
    ("0." + "1" * (LONGEST - 2), 0.1111111111111111),
    ("1e-0005", 0.00001),
    ("1e-00005", None),
    ("1,000" + ",000" * LONGEST, None),
]
INTS: Final = [
    ("Only 3 left of 10", 3),
    ("3.00", 3),
    ("3.50", None),
    ("3,000", 3000),
    ("3.000", 3000),
    ("0.000", 0),
    ("1.234.567", 1234567),
    ("1,234.567", None),
    ("1 234,00", 1234),
    ("-1,234", -1234),
    ("1e5", 100000),
    ("1e-5", None),
    ("18446744073709551615", 2**64 - 1),
    ("18446744073709551616", None),
    ("-9223372036854775808", -(2**63)),
    ("-9223372036854775809", None),
    ("9007199254740993", 2**53 + 1),  # no double is equal to it
    ("9007199254740993.5", None),
    ("1e300", None),
    ("1e-" + "9" * 30, None),
]
DECIMALS: Final = [
    ("1.234", ".", 1.234),
    ("1.234", ",", 1234.0),
    ("1,234", ".", 1234.0),
    ("1,234", ",", 1.234),
    ("1.234,50", ",", 1234.5),
    ("1.234,50", ".", None),
    ("1,234.50", ",", None),
    ("12,50", ".", None),
    ("12.50", ",", None),
    ("1,234,567", ",", None),
    (".5", ",", None),
    ("1 234,5", ".", None),
    ("3٫5", ".", 3.5),
]
BOOLS: Final = [("true yes on y t 1", True), ("false no off n f 0", False)]

# RFC 3339 section 5.8, RFC 5322 appendix A, RFC 9110 section 5.6.7, ISO 8601, and people.
DATES: Final = [
    ("1985-04-12T23:20:50.52Z", "1985-04-12T23:20:50.520000+00:00"),
    ("1996-12-19T16:39:57-08:00", "1996-12-19T16:39:57-08:00"),
    ("1990-12-31T23:59:60Z", None),
    ("1937-01-01T12:00:27.87+00:20", "1937-01-01T12:00:27.870000+00:20"),
    ("Fri, 21 Nov 1997 09:55:06 -0600", "1997-11-21T09:55:06-06:00"),
    ("Tue, 1 Jul 2003 10:52:37 +0200", "2003-07-01T10:52:37+02:00"),
    ("Thu,\r\n 13\r\n Feb\r\n 1969\r\n 23:32\r\n -0330 (Newfoundland Time)",
     "1969-02-13T23:32:00-03:30"),
    ("Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37+00:00"),
    ("Sunday, 06-Nov-94 08:49:37 GMT", "1994-11-06T08:49:37+00:00"),
    ("Sun Nov  6 08:49:37 1994", "1994-11-06T08:49:37"),
    ("20240512T100000Z", "2024-05-12T10:00:00+00:00"),
    ("20240512", "2024-05-12"),
    ("2024-W19-7", "2024-05-12"),
    ("2024W197T1000", "2024-05-12T10:00:00"),
    ("2024-133", "2024-05-12"),
    ("2023-366", None),
    ("2024-W53-1", None),
    ("2024-05-12 10:00:00,5 +02", "2024-05-12T10:00:00.500000+02:00"),
    ("2024-05-12t10:00z", "2024-05-12T10:00:00+00:00"),
    ("2024-05-12T10:00-00:00", "2024-05-12T10:00:00+00:00"),
    (" \n12 May 2024\t", "2024-05-12"),
    ("12th of May, 2024", "2024-05-12"),
    ("12-May-2024 10:00", "2024-05-12T10:00:00"),
    ("May 12, 2024", "2024-05-12"),
    ("Sept. 3, 2024", "2024-09-03"),
    ("Sunday, May 12th, 2024 10:30 pm", "2024-05-12T22:30:00"),
    ("May 12, 2024 at 12 a.m. EST", "2024-05-12T00:00:00-05:00"),
    ("12.05.2024", "2024-05-12"),
    ("2024/05/12", "2024-05-12"),
    ("Sun May 12 2024 10:00:00 GMT+0200 (Central European Summer Time)",
     "2024-05-12T10:00:00+02:00"),
    ("٢٠٢٤-٠٥-١٢", "2024-05-12"),
    *((text, None) for text in (
        "", "05/12/2024", "13/05/2024", "05-12-2024", "12 May 24", "12 May", "May 2024", "2024",
        "2024-05", "10:30", "Sunday", "today", "2024133", "1715508000", "Monday, May 12, 2024",
        "30 February 2024", "2023-02-29", "0000-01-01", "2024-05-12T24:00:00", "2024-05-12T10:60",
        "2024-05-12T10:00+24:00", "2024-05-12T10:00+01:60", "May 12, 2024 10", "May 12, 2024 13 pm",
        "May 12, 2024 10:00 BST", "Published: May 12, 2024 by X", "May 12, 2024 to May 14, 2024",
        f"12 May 2024 10:00 UTC ({'x' * 99})", "2" * 200,
    )),
]  # fmt: skip
FORMATS: Final = [
    ("05/12/2024", ("%m/%d/%Y",), "2024-05-12"),
    ("05/12/2024", ("%d/%m/%Y",), "2024-12-05"),
    ("13/05/2024", ("%m/%d/%Y", "%d/%m/%Y"), "2024-05-13"),
    ("12 May 2024", ("%m/%d/%Y",), None),  # instead of the built-in forms
    ("05x12x2024", ("%m.%d.%Y",), None),
    ("2024年5月12日", ("%Y年%m月%d日",), "2024-05-12"),
    ("12 May 69", ("%d %b %y",), "1969-05-12"),
    ("12 May 68", ("%d %B %y",), "2068-05-12"),
    ("1715508000", ("%s",), "2024-05-12T10:00:00+00:00"),
    ("-1", ("%s",), "1969-12-31T23:59:59+00:00"),
    ("9" * 12, ("%s",), None),
    ("100% 2024.133", ("100%% %Y.%j",), "2024-05-12"),
    ("Mon 12/05/2024", ("%a %d/%m/%Y",), None),  # it was a Sunday
    ("12/05/2024 10 PM", ("%d/%m/%Y %I %p",), "2024-05-12T22:00:00"),
    ("12/05/2024 22:30:05.25 CET", ("%d/%m/%Y %H:%M:%S.%f %Z",), None),
    ("12/05/2024 22:30:05.25 EST", ("%d/%m/%Y  %H:%M:%S.%f %Z",),
     "2024-05-12T22:30:05.250000-05:00"),
]  # fmt: skip
FAULTS: Final = [
    "", "%", "%Y-%m-%d %", "%Y-%m-%d %Q", "%Y-%m-%d \0%\0", "%c", "%x", "%d/%m", "%Y-%m", "%Y %d",
    "%Y %j %d", "%Y %y %m %d", "%Y-%m-%d %m", "%Y-%m-%d %I", "%Y-%m-%d %H %p", "%Y-%m-%d %M",
    "%Y-%m-%d %H %S", "%Y-%m-%d %H:%M %f", "%Y-%m-%d %z", "%s %Y", "%H:%M", "%d" * 10**5,
    "%Y%m%d" + "x" * 100,
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), FLOATS)
def test_floats(text: str, value: float | None) -> None:
    """The first number counts, read by the rule, and one that fits no reading is none at all."""
    assert repr(cast("float", text)) == repr(value)


@pytest.mark.parametrize(("text", "value"), INTS)
def test_ints(text: str, value: int | None) -> None:
    """An int is whole, exact and within 64 bits, and any well-formed separator groups it."""
    found = cast("int", text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("text", "decimal", "value"), DECIMALS)
def test_a_named_decimal_separator_settles_it(text: str, decimal: str, value: float | None) -> None:
    """With `decimal` nothing is ambiguous, and a text that contradicts it is none."""
    assert cast("float", text, decimal=decimal) == value


@pytest.mark.parametrize(("words", "value"), BOOLS)
def test_bools(words: str, value: bool) -> None:  # noqa: FBT001
    """The six words for each truth value, in any case, and nothing with more in it."""
    for word in words.split():
        assert cast("bool", f" {word.title()}\n") is value
        assert cast("bool", word.upper()) is value
        assert cast("bool", f"{word} {word}") is None
    assert cast("bool", "") is None


@pytest.mark.parametrize(("text", "value"), DATES)
def test_dates(text: str, value: str | None) -> None:
    """The standards' own examples, what people write, and what can't be read in one way only."""
    assert cast("date", text) == value


NO_WHOLE_NUMBER: Final = (
    "(35)",
    "($35.00)",
    "€ (1.234,50)",
    "(5.00) €",
    "35-",
    "1,234.50-",
    "$1.2M",
    "2.3k",
    "2K+ reviews",
    "1,5 Mio.",
    "1,5 M€",
    "5 Mrd",
    "3 lakh",
    "₹1.5 Lakh",
    "₹3 Cr",
    "5 million",
    "12 тыс.",
    "3万円",
    "5만",
    "12½",
    "12 ½",
    "3 1/2",
    "3/4",
    "1\u20442",
    "½",
    "12h30",
    "1m80",
    "20€10",
    "2x4",
    "10×20",
    "0x10",
    "1_000",
    "1,,000",
    "5..6",
    "1´29",
    "1:30",
    "5-10",
    "$5 - $7",
    "5 – 7",
    "2024-05-12",
    "10⁻³",
    "5²",
    "10^3",
    "5 × 10³",
    "1\u200b000",
    "1\u00ad000",
    "6′2″",
    "1.234.56",
    "v1.2.3",
    "XIV",
)

WHOLE_NUMBERS: Final = [
    ("1´299.00", 1299.0),
    ("1`299", None),
    ("5 (10)", 5.0),
    ("Reviews (35)", 35.0),
    ("5 m²", 5.0),
    ("12 GB", 12.0),
    ("5 kg", 5.0),
    ("5 pcs", 5.0),
    ("5 m", 5.0),
    ("100 Kč", 100.0),
    ("45 kr", 45.0),
    ("1.299,-", 1299.0),
    ("12,–", 12.0),
    ("EUR 1.299,--", 1299.0),
    ("10%", 10.0),
    ("1st", 1.0),
    ("4.5/5", 4.5),
    ("5,95 €/kg", 5.95),
    ("№5", 5.0),
    ("#1", 1.0),
    ("１２３", 123.0),
    ("5 bis 7", 5.0),
    ("5-star", 5.0),
    ("5+", 5.0),
    ("5...", 5.0),
    ("5 minutes", 5.0),
    ("5 milk", 5.0),
    ("5 Kings", 5.0),
]


@pytest.mark.parametrize("text", NO_WHOLE_NUMBER)
def test_a_part_of_a_number_is_not_the_number(text: str) -> None:
    """A number that is multiplied, negated, glued or a part of a range or fraction is no value."""
    assert cast("float", text) is None
    assert cast("int", text) is None


@pytest.mark.parametrize(("text", "value"), WHOLE_NUMBERS)
def test_units_and_words_leave_a_number_whole(text: str, value: float | None) -> None:
    """What a person reads as a plain number with a unit or a word is that number."""
    assert cast("float", text) == value


@pytest.mark.parametrize(("text", "formats", "value"), FORMATS)
def test_formats(text: str, formats: tuple[str, ...], value: str | None) -> None:
    """The first format that fits the whole text reads it, in English whatever the locale."""
    assert [format_fault(fmt) for fmt in formats] == [None] * len(formats)
    assert cast("date", text, formats=formats) == value


@pytest.mark.parametrize("fmt", FAULTS)
def test_faults(fmt: str) -> None:
    """A format that is unknown, too long or says no whole date is refused, and reads nothing."""
    fault = format_fault(fmt)
    assert fault
    assert len(fault) <= 200
    assert fault.isprintable()
    assert cast("date", "2024-05-12", formats=(fmt,)) is None


# price-parser's examples that are read differently, and why.
NO_CURRENCIES: Final = (
    "Free!", "40% OFF", "3 Ausgaben", "Buy Now - 2", "Цена: уточняйте", "50 - $2.00", "July, 2004",
    "25-09", "16.00 ft", "Free Shipping", "CND", "KShs", "chf", "so'm", "тг", 'ש"ח', "ש'ח",
    "د.ع", "د.ل", "ر.ي", "ش.ص",
)  # fmt: skip  # the first number counts, "Free" is no number, and no words are looked at
SPACED: Final = (
    "$119. 95", "35€ 99", "1.837, 32 €", "36. 24", "559. 99", "$ 8. 94", "118, 99", "130, 38",
)  # fmt: skip  # a point or comma before a space is the sentence's
RANGES: Final = ("£6.95 - £9.95", "Our Price 344.99 - 444.99", "Estimate Price: $45,000 - $70,000")
SCALED: Final = ("1 K",)  # the kina of Papua, or a thousand
MALFORMED: Final = ("$..75", "$.75,333", "$.750.30")  # none, rather than one of the readings


def test_price_parsers_examples() -> None:
    """Of 1,100 texts from shops, those read differently are listed, each for its reason."""
    examples = json.loads(DATA.read_text(encoding="utf-8"))["examples"]
    assert len(examples) > 1100
    differ = 0
    for text, decimal, amount in examples:
        wanted = None if amount is None else float(amount)
        if (found := cast("float", text, decimal=decimal)) == wanted:
            continue
        differ += 1
        if text.startswith(MALFORMED + RANGES) or text in SCALED:
            assert found is None
        elif not text.startswith(NO_CURRENCIES + SPACED):  # a point and three digits
            assert AMBIGUOUS.fullmatch(text), text
            assert cast("float", text, decimal=",") == wanted
    assert differ <= 50


NUMBERS: Final = [
    Decimal(text)
    for text in "0 -5 0.5 0.125 12.5 999 1000 1234.5 -1234.567 123456 1234567.89 100000000".split()
]
IN_PAIRS: Final = ("tok",)  # groups of two digits only


def _formatted() -> list[tuple[str, str, Decimal, str]]:
    """Locale, decimal separator, number and its text, for each locale and its usual digits."""
    found = []
    for name in localedata.locale_identifiers():
        locale = Locale.parse(name)
        if name.partition("_")[0] in IN_PAIRS:
            continue
        for system in {"latn", locale.default_numbering_system}:
            mark = numbers.get_decimal_symbol(locale, numbering_system=system)
            for number in NUMBERS:
                text = numbers.format_decimal(number, locale=locale, numbering_system=system)
                found.append((name, mark, number, text))
    return found


def test_every_locales_numbers() -> None:
    """CLDR's format of a number in every locale is read back; only the named ambiguity is not."""
    formatted = _formatted()
    assert len({name for name, *_ in formatted}) > 1000
    for name, mark, number, text in formatted:
        decimal = mark if mark in (".", ",") else None
        found = cast("float", text, decimal=decimal)
        # a decimal "،" beside groups by "," can't be told from them
        assert found == float(number) or (mark == "،" and found is None), (name, text)
        whole = int(number) if number == int(number) else None
        if decimal or mark == "٫":
            assert cast("int", text, decimal=decimal) == whole, (name, text)
        unsettled = cast("float", text)
        assert unsettled in (float(number), None) or AMBIGUOUS.fullmatch(text), (name, text)


AT: Final = datetime(2024, 9, 3, 22, 30, 5, tzinfo=UTC)
POINTED_CLOCK: Final = ("en_DK", "en_FI", "en_ID")  # 22.30.05
OTHER_DATE: Final = ("en_MV", "en_ZW")  # 03-09-2024, 03 Sept,2024


def test_every_english_locales_dates() -> None:
    """CLDR's English dates are read back, and the short ones are right or none."""
    names = [
        name
        for name in localedata.locale_identifiers()
        if name.partition("_")[0] == "en" and name not in ("en_Dsrt", "en_Dsrt_US", "en_Shaw")
        and not name.startswith("en_Shaw_")
    ]  # fmt: skip
    assert len(names) > 100
    for name in names:
        for form in ("full", "long", "medium", "short"):
            day = dates.format_date(AT, form, locale=name)
            unread = form == "short" or (form == "medium" and name in OTHER_DATE)
            assert cast("date", day) in ("2024-09-03", None if unread else "2024-09-03"), day
        long = dates.format_datetime(AT, "long", locale=name)
        expected = None if name in POINTED_CLOCK else "2024-09-03T22:30:05+00:00"
        assert cast("date", long) == expected, long
        medium = dates.format_datetime(AT, "medium", locale=name)
        expected = None if name in POINTED_CLOCK + OTHER_DATE else "2024-09-03T22:30:05"
        assert cast("date", medium) == expected, medium


MOMENTS: Final = st.datetimes(
    min_value=datetime(1000, 1, 1),  # noqa: DTZ001
    timezones=st.none()
    | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


@given(moment=MOMENTS)
@settings(max_examples=200, deadline=None)
def test_what_the_standard_library_writes(moment: datetime) -> None:
    """Dates written by datetime and email.utils, and by strftime in C's locale, are read back."""
    assert cast("date", moment.isoformat()) == moment.isoformat()
    year, week, weekday = moment.isocalendar()
    clock = moment.timetz().isoformat()
    text = f"{year}-W{week:02}-{weekday} {clock}"
    assert cast("date", text) == (moment.isoformat() if year < 10000 else None)
    assert cast("date", moment.strftime("%Y-%jT") + clock) == moment.isoformat()
    whole = moment.replace(microsecond=0)
    assert cast("date", moment.ctime()) == whole.replace(tzinfo=None).isoformat()
    if moment.tzinfo:
        assert cast("date", rfc_5322(whole)) == whole.isoformat()
        for fmt in ("%A %d %B %Y %I:%M:%S.%f %p %z", "%j.%Y %H%M%S%f%z", "%d%b%Y:%H:%M:%S.%f %z"):
            assert cast("date", moment.strftime(fmt), formats=(fmt,)) == moment.isoformat()


NUMERIC: Final = "0123456789.,'+-eE$€ \u00a0\u2009٫٬٣\u200e"
TEXTS: Final = st.text(max_size=60) | st.text(NUMERIC, max_size=30)


@given(
    text=TEXTS | st.from_regex(r"\A[\w,.]* ?\d{1,4}[-/. ]\w{1,4}[-/. ]\d{1,4}[T ]?\d*:?\d*.?\d*\Z"),
    decimal=st.sampled_from([None, ".", ","]),
    formats=st.lists(
        st.text("%YymbdjHIpMSfzZs-/ ", max_size=20) | st.text(max_size=9), max_size=3
    ).map(tuple),
)
@settings(max_examples=500, deadline=None)
@example(text="\udcff1", decimal=None, formats=("\udcff",))
@example(text="0001-01-01T00:00+23:59", decimal=None, formats=())
@example(text="9999-W53-7", decimal=None, formats=())
@example(text="9999-12-31T23:59:59.9999999-23:59", decimal=None, formats=())
def test_nothing_raises_and_all_fits_json(
    text: str, decimal: str | None, formats: tuple[str, ...]
) -> None:
    """Whatever the text: none or a value of the kind that JSON can carry, and is read as itself."""
    for kind in CASTS:
        value = cast(kind, text, decimal=decimal, formats=formats)
        assert value == cast(kind, text, decimal=decimal, formats=formats)
        if value is None:
            continue
        assert json.loads(json.dumps(value, allow_nan=False)) == value
        again = cast(kind, str(value), decimal="." if kind == "float" else None)
        assert (again, type(again)) == (value, type(value))
        assert kind != "int" or value in INTEGERS
    for fmt in formats:
        fault = format_fault(fmt)
        assert fault is None or len(fault) <= 200


@pytest.mark.parametrize(
    "piece",
    [" ", "\n", *"1 1,000 1. 1\u202f000 . - $ a 1e \u200e 1\u200e ٣ ,000 12:30 (".split(" ")],
)
def test_time_is_linear(piece: str) -> None:
    """Five million characters of any kind take a fraction of a second, as each kind of value."""
    text = piece * (5_000_000 // len(piece))
    for kind in CASTS:
        start = time.process_time()
        cast(kind, text)
        cast(kind, f"x{text}1", formats=("%d%m%Y %H%M%S%f",))
        assert time.process_time() - start < scaled(2)  # quadratic: hours


def test_a_format_made_to_backtrack_is_quick() -> None:
    """The worst format for a text of digits that nearly fits takes milliseconds."""
    fmt = "%m%d%H%M%S%f%Y x"
    assert format_fault(fmt) is None
    start = time.process_time()
    for digits in range(10, 30):
        cast("date", "1" * digits + " y", formats=(fmt,) * 10)
    assert time.process_time() - start < scaled(0.5)


def test_the_zone_and_locale_of_the_machine_do_not_matter() -> None:
    """The same dates come out of a process in another time zone and locale."""
    texts = [text for text, _ in DATES]
    code = (
        "import json, locale, sys; from scraperd.extract.values.casts import cast\n"
        "texts = json.load(sys.stdin)\n"
        "json.dump([cast('date', t) for t in texts] + [cast('date', '0', formats=('%s',))],"
        " sys.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=60,
        env=os.environ | {"TZ": "Pacific/Kiritimati", "LC_ALL": "C"},
    )  # fmt: skip
    expected = [value for _, value in DATES]
    assert json.loads(done.stdout) == [*expected, "1970-01-01T00:00:00+00:00"]
