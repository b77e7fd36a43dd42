"""Headers that tell a time or another place: each form of RFC 9110, and what sites make up.

May touch: the functions that read them.
Must never: read the clock: the time is passed in.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from scraperd.fetch.message import Response, http_date, location_of, retry_after, sent_at

NOW = datetime(1994, 11, 6, 8, 49, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),  # IMF-fixdate
        ("Sunday, 06-Nov-94 08:49:37 GMT", 37.0),  # obsolete: RFC 850
        ("Sun Nov  6 08:49:37 1994", 37.0),  # obsolete: asctime
        ("Sun, 06 Nov 1994 09:49:37 +0100", 37.0),
        ("Sun, 06 Nov 1994 08:48:00 GMT", 0.0),  # past
        ("Mon, 07 Nov 1994 08:49:00 GMT", 86400.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("1e9", None),
        ("soon", None),
        ("٣", None),
        ("²", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 +9999999999", None),
    ],
)
def test_the_forms_of_retry_after(value: str, seconds: float | None) -> None:
    """Seconds and the three forms of an HTTP date are read; anything else counts as absent."""
    assert retry_after(CIMultiDict({"retry-after": value}), NOW) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("9" * 30, 999_999_999.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("\u0661\u0662", None),
        ("\udce9", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2020 07:28:00 +99999999999999", None),
        ("Wed, 31 Feb 2020 07:28:00 GMT", None),
    ],
)
def test_seconds_of_any_form(value: str, seconds: float | None) -> None:
    """RFC 9110 section 10.2.3: seconds; what is neither seconds nor a date is no wish at all."""
    assert retry_after({"Retry-After": value}, NOW) == seconds


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 7.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 7.0),
        ("Sun Nov  6 08:49:37 1994", 7.0),
        ("Sun, 06 Nov 1994 09:49:37 +0100", 7.0),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
    ],
)
def test_each_form_of_a_date(date: str, seconds: float) -> None:
    """Each of the three forms of a date (section 5.6.7); one that is past means now."""
    now = datetime(1994, 11, 6, 8, 49, 30, tzinfo=UTC)
    assert retry_after({"Retry-After": date}, now) == seconds


def test_no_header_asks_for_nothing() -> None:
    """A response without the header does not ask to wait."""
    assert retry_after(CIMultiDict(), NOW) is None


def test_a_number_of_any_length_is_a_long_time() -> None:
    """Absurd seconds stay a finite, long wait; the policy caps it."""
    wait = retry_after(CIMultiDict({"Retry-After": "9" * 5000}), NOW)
    assert wait is not None
    assert timedelta(days=365).total_seconds() < wait < float("inf")


@given(
    value=st.text(max_size=40) | st.from_regex(r"\A\w{3}, \d{1,2} \w{3} \d{1,5} \d+:\d+:\d+ \S*\Z")
)
@settings(max_examples=200, deadline=None)
@example(value="\udcff")
@example(value="Mon, 01 Jan 0001 00:00:00 +2359")
@example(value="Fri, 31 Dec 9999 23:59:59 -2359")
def test_no_header_raises(value: str) -> None:
    """Whatever a site sends, the answer is none or a wait that is not negative."""
    wait = retry_after(CIMultiDict({"Retry-After": value}), NOW)
    assert wait is None or 0 <= wait < float("inf")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Date": "Sun, 06 Nov 1994 08:49:00 GMT"}, 37.0),
        ({"Date": "Sunday, 06-Nov-94 07:49:00 GMT"}, 3637.0),
        ({"Date": "Sun Nov  6 09:49:00 1994"}, 0.0),
        ({"Date": "Sun, 06 Nov 1994 08:48:00 GMT", "Age": "60"}, 37.0),  # from a cache
        ({"Date": "Sun, 06 Nov 1994 08:49:00 GMT", "Age": "-1"}, 37.0),
        ({"Date": "Fri, 31 Dec 9999 23:59:59 GMT", "Age": "9" * 30}, 0.0),
    ],
)
def test_a_date_is_taken_against_the_answers_own(headers: dict[str, str], seconds: float) -> None:
    """Both dates are by the site's clock, so ours may be wrong by years and nothing changes."""
    asked = CIMultiDict({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT", **headers})
    for wrong in (-3600, 0, 3600, 10**9):
        assert retry_after(asked, NOW + timedelta(seconds=wrong)) == seconds


@pytest.mark.parametrize("date", ["", "now", "Sun, 99 Nov 1994 08:49:00 GMT"])
def test_our_clock_stands_in_for_a_date_that_is_none(date: str) -> None:
    """A Date that can't be read counts as absent (RFC 9110 section 6.6.1), and its Age with it."""
    headers = {"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT", "Date": date, "Age": "600"}
    assert retry_after(CIMultiDict(headers), NOW) == 37.0


def test_seconds_need_no_date() -> None:
    """Where the site asks for seconds, no clock has a say."""
    headers = {"Retry-After": "120", "Date": "Sun, 06 Nov 1994 05:49:00 GMT", "Age": "60"}
    assert retry_after(CIMultiDict(headers), NOW) == 120.0


# --- the other headers


def answer(status: int, location: str | None) -> Response:
    headers = CIMultiDict({} if location is None else {"location": location})
    return Response(status, URL("http://a.test/"), CIMultiDictProxy(headers), b"")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_points_somewhere(status: int) -> None:
    """Each of the five statuses of RFC 9110 that have a Location to follow; as it was sent."""
    assert location_of(answer(status, "../x y")) == "../x y"


@pytest.mark.parametrize(
    ("status", "location"), [(302, None), (302, ""), (200, "/x"), (201, "/x"), (304, "/x")]
)
def test_no_redirect_points_nowhere(status: int, location: str | None) -> None:
    """Without a Location there is nothing to follow; other statuses mean another thing by it."""
    assert location_of(answer(status, location)) is None


def test_a_date_without_a_zone_is_in_utc() -> None:
    """The form of asctime names no zone, and is in UTC (RFC 9110 section 5.6.7)."""
    assert http_date("Sun Nov  6 08:49:00 1994") == NOW


def test_an_age_moves_the_date_of_an_answer() -> None:
    """A cache kept it for so many seconds since its Date; without a Date the Age says nothing."""
    date = "Sun, 06 Nov 1994 08:48:00 GMT"
    assert sent_at(CIMultiDict({"Date": date, "Age": "60"}), NOW - timedelta(days=1)) == NOW
    assert sent_at(CIMultiDict({"Age": "60"}), NOW) == NOW
