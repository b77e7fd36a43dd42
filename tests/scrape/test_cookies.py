"""Tests of one job's cookies: its own by origin, those that redirects set by RFC 6265.

May touch: strings.
Must never: need a network.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from yarl import URL

from scraperd.contract import MAX_COOKIES
from scraperd.scrape.cookies import MAX_ATTRIBUTE, MAX_PAIR, Cookies, given
from tests.rig.clocks.effort import scaled

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SITE = URL("https://www.site.example/shop/cart")


def after(*lines: str, at: URL = SITE, own: dict[str, str] | None = None) -> Cookies:
    """A job's cookies after `at` has set these."""
    cookies = Cookies(SITE, given(own or {}, ""))
    cookies.learn(at, lines, {}, NOW)
    return cookies


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://www.site.example/", "a=1; b=2"),
        ("https://www.site.example/elsewhere", "a=1; b=2"),
        ("https://www.site.example:443/", "a=1; b=2"),
        ("https://www.site.example:8443/", ""),
        ("http://www.site.example/", ""),
        ("https://site.example/", ""),
        ("https://sub.www.site.example/", ""),
        ("https://evil.example/", ""),
    ],
)
def test_own_cookies_stay_in_the_first_origin(url: str, sent: str) -> None:
    """The dispatcher meant them for the site it named: same scheme, host and port."""
    assert Cookies(SITE, given({"a": "1", "b": "2"}, "")).header(URL(url)) == sent


@pytest.mark.parametrize(
    ("line", "url", "goes"),
    [
        # no Domain: this host only
        ("s=1; Path=/", "https://www.site.example/x", True),
        ("s=1; Path=/", "https://sub.www.site.example/x", False),
        ("s=1; Path=/", "https://site.example/x", False),
        # ports and schemes don't matter to cookies, unless Secure
        ("s=1; Path=/", "http://www.site.example:8080/x", True),
        ("s=1; Path=/; Secure", "http://www.site.example/x", False),
        ("s=1; Path=/; secure", "https://www.site.example/x", True),
        # a Domain of ours: it and all below
        ("s=1; Path=/; Domain=site.example", "https://site.example/", True),
        ("s=1; Path=/; Domain=.site.example", "https://other.site.example/", True),
        ("s=1; Path=/; Domain=SITE.example", "https://a.b.site.example/", True),
        ("s=1; Path=/; Domain=site.example", "https://mysite.example/", False),
        ("s=1; Path=/; Domain=", "https://sub.www.site.example/", False),
        # a Domain of others: refused
        ("s=1; Path=/; Domain=evil.example", "https://evil.example/", False),
        ("s=1; Path=/; Domain=evil.example", "https://www.site.example/", False),
        ("s=1; Path=/; Domain=sub.www.site.example", "https://sub.www.site.example/", False),
        ("s=1; Path=/; Domain=te.example", "https://te.example/", False),
        # paths
        ("s=1", "https://www.site.example/shop/", True),
        ("s=1", "https://www.site.example/shop", True),
        ("s=1", "https://www.site.example/shopping", False),
        ("s=1", "https://www.site.example/", False),
        ("s=1; Path=/a", "https://www.site.example/a/b", True),
        ("s=1; Path=/a/", "https://www.site.example/a", False),
        ("s=1; Path=/a/", "https://www.site.example/a/", True),
        ("s=1; Path=/aX", "https://www.site.example/a/b", False),
        ("s=1; Path=relative", "https://www.site.example/shop/x", True),
        ("s=1; Path=/x; Path=/", "https://www.site.example/y", True),
        # lifetimes
        ("s=1; Path=/; Max-Age=60", "https://www.site.example/", True),
        ("s=1; Path=/; Max-Age=0", "https://www.site.example/", False),
        ("s=1; Path=/; Max-Age=-1", "https://www.site.example/", False),
        (f"s=1;Path=/{'x' * (MAX_ATTRIBUTE - 5)}", "https://www.site.example/shop/", True),
        (f"s=1;Path=/{'x' * (MAX_ATTRIBUTE - 6)}", "https://www.site.example/shop/", False),
        ("s=1; Path=/; Max-Age=soon", "https://www.site.example/", True),
        ("s=1; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "https://www.site.example/", False),
        ("s=1; Path=/; Expires=Thu, 01-Jan-2099 00:00:00 GMT", "https://www.site.example/", True),
        ("s=1; Path=/; Expires=never", "https://www.site.example/", True),
        (
            "s=1; Path=/; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "https://www.site.example/",
            True,
        ),
    ],
)
def test_set_cookies_go_by_rfc_6265(line: str, url: str, goes: bool) -> None:  # noqa: FBT001
    """Domain, path, Secure and lifetime decide where a cookie that was set goes."""
    assert after(line).header(URL(url)) == ("s=1" if goes else "")


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("s=a=b==; Path=/", "s=a=b=="),
        ('s="quoted value"; Path=/', 's="quoted value"'),
        (r's="a\073b"; Path=/', r's="a\073b"'),
        ('s={"a":1,"b":[2]}; Path=/', 's={"a":1,"b":[2]}'),
        ("s=a%20b,c; Path=/", "s=a%20b,c"),
        ("s=; Path=/", "s="),
        ("  s=1  ;Path=/", "s=1"),
        ("s=\N{LATIN SMALL LETTER U WITH DIAERESIS}; Path=/", "s=ü"),
    ],
)
def test_a_value_goes_back_as_it_came(line: str, pair: str) -> None:
    """Section 5.4 quotes and unquotes nothing; sites compare byte by byte."""
    assert after(line).header(SITE) == pair


@pytest.mark.parametrize(
    "line",
    [
        "",
        ";",
        "no pair",
        "=nameless",
        "s=a\x00b; Path=/",
        "s=a\rb; Path=/",
        "s=\udce9; Path=/",  # raw Latin-1, which our header can't carry
        f"s={'x' * MAX_PAIR}; Path=/",
    ],
)
def test_what_cannot_be_sent_back_is_ignored(line: str) -> None:
    """A broken Set-Cookie never breaks the next request."""
    assert after(line, "good=1; Path=/").header(SITE) == "good=1"


def test_a_cookie_as_long_as_browsers_keep() -> None:
    """Name and value together have MAX_PAIR characters; with one more it is ignored."""
    pair = f"s={'x' * (MAX_PAIR - 2)}"
    assert after(f"{pair}; Path=/", f"{pair}x; Path=/").header(SITE) == pair


def test_a_page_at_the_top_sets_for_the_whole_site() -> None:
    """Section 5.1.4: the default path of /cart is /."""
    cookies = after("s=1", at=URL("https://www.site.example/cart"))
    assert cookies.header(URL("https://www.site.example/other")) == "s=1"


def test_a_refused_cookie_does_not_end_the_list() -> None:
    """What comes behind it is kept."""
    assert after("s=1; Domain=evil.example", "t=1; Path=/").header(SITE) == "t=1"


def test_a_cookie_set_anew_replaces_the_old_one() -> None:
    """The same name, domain and path is the same cookie; deleted means gone."""
    cookies = after("s=1; Path=/", "t=1; Path=/", "s=2; Path=/")
    assert cookies.header(SITE) == "s=2; t=1"
    cookies.learn(SITE, ["s=; Path=/; Max-Age=0"], {}, NOW)
    assert cookies.header(SITE) == "t=1"


def test_the_site_knows_better_than_the_job() -> None:
    """A cookie of the job's that a redirect sets or deletes is not sent twice, nor any more."""
    own = {"sid": "old", "lang": "en"}
    assert after("sid=new; Path=/", own=own).header(SITE) == "lang=en; sid=new"
    assert after("sid=x; Max-Age=0", own=own).header(SITE) == "lang=en"
    assert after("sid=new=er=; Path=/", own=own).header(SITE) == "lang=en; sid=new=er="


def test_another_site_cannot_touch_the_jobs_cookies() -> None:
    """A refused cookie leaves the job's own of that name where it is."""
    cookies = Cookies(SITE, given({"sid": "mine"}, ""))
    cookies.learn(URL("https://evil.example/"), ["sid=x; Domain=www.site.example; Path=/"], {}, NOW)
    assert cookies.header(SITE) == "sid=mine"
    assert cookies.header(URL("https://evil.example/")) == ""


def test_longer_paths_come_first() -> None:
    """Section 5.4: then the older first."""
    cookies = after("a=1; Path=/", "b=2; Path=/shop", "c=3; Path=/")
    assert cookies.header(SITE) == "b=2; a=1; c=3"


@pytest.mark.parametrize(("host", "part"), [("127.0.0.1", "0.0.1"), ("[::1]", "1")])
def test_an_address_has_no_domains(host: str, part: str) -> None:
    """Section 5.1.3: only the whole address matches, and ports make no difference."""
    url = URL(f"http://{host}:8001/")
    cookies = after("a=1; Path=/", f"b=2; Path=/; Domain={url.raw_host}", at=url)
    cookies.learn(url, [f"c=3; Path=/; Domain={part}"], {}, NOW)
    assert cookies.header(URL(f"http://{host}:8002/")) == "a=1; b=2"


def test_a_cookie_header_counts_as_the_jobs_cookies() -> None:
    """Given as a header they are told apart all the same, to be replaced and held back."""
    cookies = Cookies(SITE, given({}, "a=1;b=2;  c=x=y ; d"))
    assert cookies.header(SITE) == "a=1; b=2; c=x=y; d"
    cookies.learn(SITE, ["b=3; Path=/"], {}, NOW)
    assert cookies.header(SITE) == "a=1; c=x=y; d; b=3"
    cookies.learn(SITE, ["c=4; Path=/"], {}, NOW)
    assert cookies.header(SITE) == "a=1; d; b=3; c=4"
    assert cookies.header(URL("https://evil.example/")) == ""


def test_how_many_are_learnt() -> None:
    """The oldest go first, and one set anew is not older for it."""
    cookies = after(*[f"c{n}={n}; Path=/" for n in range(MAX_COOKIES + 2)])
    cookies.learn(SITE, ["c2=new; Path=/", "more=1; Path=/", "gone=1; Path=/; Max-Age=0"], {}, NOW)
    pairs = cookies.header(SITE).split("; ")
    assert len(pairs) == MAX_COOKIES
    assert (pairs[0], pairs[-1]) == ("c3=3", "more=1")


def test_many_cookies_take_little_time() -> None:
    """Each line that is set costs the same, however many cookies the job has."""
    lines = [f"s{n}=1; Path=/" for n in range(200)]

    def taken(count: int) -> float:
        cookies = Cookies(SITE, given({f"c{n}": "" for n in range(count)}, ""))
        started = time.process_time()
        cookies.learn(SITE, lines, {}, NOW)
        return time.process_time() - started

    assert taken(50_000) < 20 * taken(300) + scaled(0.05)


@pytest.mark.parametrize("ahead", [-3600, 0, 3600])
def test_expires_is_taken_against_the_date_of_its_answer(ahead: int) -> None:
    """Whatever our clock says, a cookie for five minutes is set, and one in the past deleted."""
    date = NOW.timestamp() + ahead  # of a site with a right clock, where ours is wrong
    cookies = Cookies(SITE, [])
    lines = [
        f"{name}=1; Path=/; Expires={formatdate(date + seconds, usegmt=True)}"
        for name, seconds in (("kept", 300), ("over", -300))
    ]
    cookies.learn(SITE, ["over=0; Path=/"], {}, NOW)
    cookies.learn(SITE, lines, {"Date": formatdate(date, usegmt=True)}, NOW)
    assert cookies.header(SITE) == "kept=1"


@pytest.mark.parametrize("seconds", [-1, 0, 1])
def test_expires_is_taken_against_our_time_where_the_answer_has_no_date(seconds: int) -> None:
    """That which is handed in, and not the machine's: at its very moment a cookie is over."""
    now = datetime(2199, 1, 1, tzinfo=UTC)
    expires = formatdate(now.timestamp() + seconds, usegmt=True)
    cookies = Cookies(SITE, [])
    cookies.learn(SITE, [f"s=1; Path=/; Expires={expires}"], {}, now)
    assert cookies.header(SITE) == ("s=1" if seconds > 0 else "")
