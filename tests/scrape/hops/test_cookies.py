"""Tests of one job's cookies: its own by origin, those that redirects set by RFC 6265.

May touch: strings; the corpora in tests/data/conformance/.
Must never: need a network.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING

import msgspec
import pytest
from yarl import URL

from scraperd.base.urls import exact
from scraperd.contract import MAX_COOKIES, Cookie
from scraperd.scrape.cookies.jar import Cookies, given
from scraperd.scrape.cookies.set_cookie import MAX_ATTRIBUTE, MAX_PAIR
from tests.conformance.cookies import dates, parser, suffixes
from tests.rig.clocks.effort import scaled

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.urls import Corpus

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
        (f"s=1;Path=/{'x' * MAX_ATTRIBUTE}", "https://www.site.example/shop/", True),
        (f"s=1;Path=/{'x' * (MAX_ATTRIBUTE - 1)}", "https://www.site.example/shop/", False),
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
        ("s=\udce9; Path=/", "s=\udce9"),  # a byte of Latin-1, as headers hold odd bytes (PEP 383)
        ("s \t=\t a b\t; Path=/", "s=a b"),
        ("s=a\tb; Path=/", "s=a\tb"),
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
        "s=1; Path=/; Comment=a\x07b",  # RFC 6265bis section 5.6: anywhere in the line
        "s=\ud800; Path=/",  # stands for no byte
        f"s={'x' * MAX_PAIR}; Path=/",
    ],
)
def test_what_cannot_be_sent_back_is_ignored(line: str) -> None:
    """A broken Set-Cookie never breaks the next request."""
    assert after(line, "good=1; Path=/").header(SITE) == "good=1"


def test_a_cookie_as_long_as_browsers_keep() -> None:
    """Name and value have MAX_PAIR bytes together (RFC 6265bis 5.6); a longer one is ignored."""
    pair = f"s={'x' * (MAX_PAIR - 1)}"
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


def test_a_cookie_of_the_same_name_domain_and_path_replaces_the_jobs() -> None:
    """Section 5.3, step 11: in its place, and a deletion leaves nothing of it."""
    own = {"sid": "old", "lang": "en"}
    assert after("sid=new; Path=/", own=own).header(SITE) == "sid=new; lang=en"
    assert after("sid=new=er=; Path=/", own=own).header(SITE) == "sid=new=er=; lang=en"
    assert after("sid=x; Path=/; Max-Age=0", own=own).header(SITE) == "lang=en"


@pytest.mark.parametrize(
    ("line", "at", "sent"),
    [
        ("sid=x; Path=/", "https://login.site.example/", "sid=mine"),
        ("sid=x; Path=/; Max-Age=0", "https://login.site.example/", "sid=mine"),
        ("sid=x; Path=/; Domain=site.example", "https://login.site.example/", "sid=mine; sid=x"),
        ("sid=; Path=/; Domain=site.example; Max-Age=0", "https://login.site.example/", "sid=mine"),
        ("sid=x; Path=/shop", "https://www.site.example/shop/cart", "sid=x; sid=mine"),
        ("sid=x; Path=/shop; Max-Age=0", "https://www.site.example/shop/cart", "sid=mine"),
        ("SID=x; Path=/", "https://www.site.example/", "sid=mine; SID=x"),
        # over http nobody may hide what is the job's for https (RFC 6265bis section 5.7)
        ("sid=x; Path=/", "http://www.site.example/", "sid=mine"),
    ],
)
def test_another_cookie_of_the_same_name_takes_nothing_away(line: str, at: str, sent: str) -> None:
    """A login cookie survives another host, domain or path of the chain."""
    assert after(line, at=URL(at), own={"sid": "mine"}).header(SITE) == sent


def test_an_empty_query_does_not_hide_a_path() -> None:
    """A cookie of `/cart` goes to `/cart?`, and one that `/cart/x?` sets is of `/cart`."""
    cart = exact("https://www.site.example/cart?")
    assert after("s=1; Path=/cart", at=SITE).header(cart) == "s=1"
    assert after("s=1", at=exact("https://www.site.example/cart/x?")).header(cart) == "s=1"


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


@pytest.mark.parametrize(
    ("domain", "goes"),
    [
        ("b\u00fccher.example", "a=1"),
        ("B\u00dcCHER.example", "a=1"),
        ("xn--bcher-kva.example", "a=1"),
        ("b\u00fccher\u3002example", "a=1"),
        ("bucher.example", ""),
        ("b\u00fc cher.example", ""),
        ("\udcfcb.example", ""),
    ],
)
def test_a_domain_in_letters_is_compared_as_hosts_are(domain: str, goes: str) -> None:
    """RFC 6265 section 5.1.2: a Domain is turned into ASCII; what is no host sets no cookie."""
    at = URL("https://www.xn--bcher-kva.example/")
    assert after(f"a=1; Domain={domain}", at=at).header(at) == goes


def test_a_cookie_header_counts_as_the_jobs_cookies() -> None:
    """Given as a header they are told apart all the same, to be replaced and held back."""
    cookies = Cookies(SITE, given({}, "a=1;b=2;  c=x=y ; d"))
    assert cookies.header(SITE) == "a=1; b=2; c=x=y; d"
    cookies.learn(SITE, ["b=3; Path=/"], {}, NOW)
    assert cookies.header(SITE) == "a=1; b=3; c=x=y; d"
    cookies.learn(SITE, ["c=4; Path=/", "d=5; Path=/"], {}, NOW)
    assert cookies.header(SITE) == "a=1; b=3; c=4; d; d=5"
    assert cookies.header(URL("https://evil.example/")) == ""


def test_how_many_are_learnt() -> None:
    """The oldest go first, and one set anew is not older for it."""
    cookies = after(*[f"c{n}={n}; Path=/" for n in range(MAX_COOKIES + 2)])
    cookies.learn(SITE, ["c2=new; Path=/", "more=1; Path=/", "gone=1; Path=/; Max-Age=0"], {}, NOW)
    pairs = cookies.header(SITE).split("; ")
    assert len(pairs) == MAX_COOKIES
    assert (pairs[0], pairs[-1]) == ("c3=3", "more=1")


def test_how_large_they_are_together() -> None:
    """A chain of redirects can't make the next request, or this process, hold megabytes."""
    cookies = after(*[f"c{n}={'x' * 4000}; Path=/" for n in range(40)], own={"mine": "1"})
    pairs = cookies.header(SITE).split("; ")
    assert 15 <= len(pairs) <= 17
    assert (pairs[0], pairs[-1][:4]) == ("mine=1", "c39=")


@pytest.mark.parametrize(
    ("at", "domain", "goes"),
    [
        ("https://www.site.co.uk/", "co.uk", ""),
        ("https://www.site.co.uk/", "site.co.uk", "s=1"),
        ("https://me.github.io/", "github.io", ""),
        ("https://www.city.kobe.jp/", "city.kobe.jp", "s=1"),
        ("https://city.kobe.jp/", "city.kobe.jp", "s=1"),
        ("https://a.b.kobe.jp/", "b.kobe.jp", ""),
        ("https://www.xn--85x722f.com.cn/", "com.cn", ""),
        ("https://www.xn--55qx5d.cn/", "xn--55qx5d.cn", ""),
        ("https://www.site.unlisted/", "unlisted", ""),
        ("https://www.site.unlisted/", "site.unlisted", "s=1"),
        ("https://github.io/", "github.io", "s=1"),  # section 5.3, step 5: for this host alone
    ],
)
def test_no_cookie_for_a_public_suffix(at: str, domain: str, goes: str) -> None:
    """Where everybody can have a name, nobody can set a cookie for all (publicsuffix.org)."""
    cookies = after(f"s=1; Path=/; Domain={domain}", at=URL(at))
    assert cookies.header(URL(at)) == goes
    narrow = at == "https://github.io/"
    assert cookies.header(URL(f"https://other.{domain}/")) == ("" if narrow else goes)


@pytest.mark.parametrize(
    ("line", "at", "kept"),
    [
        ("__Secure-s=1; Path=/; Secure", "https://www.site.example/", True),
        ("__Secure-s=1; Path=/", "https://www.site.example/", False),
        ("__secure-s=1; Path=/", "https://www.site.example/", False),
        ("__Host-s=1; Path=/; Secure", "https://www.site.example/", True),
        ("__Host-s=1; Path=/; Secure; Domain=www.site.example", "https://www.site.example/", False),
        ("__Host-s=1; Secure", "https://www.site.example/", False),
        ("__Host-s=1; Path=/shop; Secure", "https://www.site.example/", False),
        ("__HOST-s=1; Path=/", "https://www.site.example/", False),
        ("s=1; Path=/; Secure", "http://www.site.example/", False),
    ],
)
def test_who_may_set_a_secure_cookie(line: str, at: str, kept: bool) -> None:  # noqa: FBT001
    """RFC 6265bis sections 4.1.3 and 5.7: over https, and as the prefix of its name says."""
    assert bool(after(line, at=URL(at)).header(SITE)) == kept


@pytest.mark.parametrize(
    ("path", "asked", "goes"),
    [
        ("/a//", "/a/b", False),
        ("/a//", "/a//b", True),
        ("/a", "/a", True),
        ("/a", "/ab", False),
        ("/", "/", True),
    ],
)
def test_a_path_matches_as_it_is_written(path: str, asked: str, goes: bool) -> None:  # noqa: FBT001
    """Section 5.1.4: byte by byte."""
    url = URL("https://www.site.example").with_path(asked, encoded=True)
    assert bool(after(f"s=1; Path={path}").header(url)) == goes


def test_the_last_valid_attribute_counts() -> None:
    """Section 5.2: an invalid one is passed over, and takes nothing from the one before it."""
    line = "s=1; Path=/; Max-Age=60; Max-Age=soon; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Expires=x"
    assert after(line).header(SITE) == "s=1"
    assert after("s=1; Path=/; Max-Age=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT").header(SITE) == ""


def test_what_was_set_is_told_as_a_job_can_give_it() -> None:
    """All that RFC 6265 stores of each; the job's own without a domain are the job's to know."""
    cookies = after(
        'a="1"; Domain=site.example; Path=/shop; Max-Age=60; HttpOnly; Secure',
        "b=2; Expires=Fri, 07-Aug-2026 08:04:19 GMT",
        "c=3; Path=/; Max-Age=0",
        f"d=4; Max-Age={'9' * 50}",
        "e=\udce9",
        own={"own": "1"},
    )
    assert msgspec.to_builtins(cookies.told()) == [
        {
            "name": "a",
            "value": '"1"',
            "domain": "site.example",
            "path": "/shop",
            "expires": "2026-01-01T00:01:00Z",
            "secure": True,
            "http_only": True,
            "host_only": False,
        },
        {
            "name": "b",
            "value": "2",
            "domain": "www.site.example",
            "path": "/shop",
            "expires": "2026-08-07T08:04:19Z",
            "secure": False,
            "http_only": False,
            "host_only": True,
        },
        {
            "name": "d",
            "value": "4",
            "domain": "www.site.example",
            "path": "/shop",
            "expires": "9999-12-31T23:59:59Z",
            "secure": False,
            "http_only": False,
            "host_only": True,
        },
    ]


def test_a_session_is_carried_on() -> None:
    """What an earlier job was told goes where it went then, and is told again."""
    lines = (
        "a=1; Domain=site.example; Path=/",
        "b=2; Path=/shop; Secure",
        "c=3; Path=/; Max-Age=9",
    )
    told = after(*lines).told()
    later = datetime(2026, 1, 1, 1, tzinfo=UTC)
    cookies = Cookies(SITE, given(told, ""), later)
    assert cookies.header(SITE) == "b=2; a=1"
    assert cookies.header(URL("http://other.site.example/shop")) == "a=1"
    assert cookies.told() == told[:2]
    cookies.learn(SITE, ["a=; Domain=site.example; Path=/; Max-Age=0"], {}, later)
    assert cookies.told() == told[1:2]


@pytest.mark.parametrize(
    ("cookie", "url", "sent"),
    [
        (Cookie("s", "1"), "https://www.site.example/", "s=1"),
        (Cookie("s", "1"), "https://www.site.example:8443/", ""),
        (Cookie("s", "1", path="/shop"), "https://www.site.example/", ""),
        (Cookie("s", "1", ".Site.Example"), "http://a.site.example/", "s=1"),
        (Cookie("s", "1", "site.example", host_only=True), "http://a.site.example/", ""),
        (Cookie("s", "1", "co.uk"), "http://site.co.uk/", ""),
        (Cookie("s", "1", "bücher.example"), "http://xn--bcher-kva.example/", "s=1"),
        (Cookie("s", "1", "[::1]"), "http://[::1]/", "s=1"),
        (Cookie("s", "1", "::1"), "http://[::1]/", "s=1"),
    ],
)
def test_a_cookie_that_a_job_lists(cookie: Cookie, url: str, sent: str) -> None:
    """With a domain it goes as if a site had set it; without, to the first origin."""
    assert Cookies(SITE, given([cookie], ""), NOW).header(URL(url)) == sent


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


@pytest.mark.parametrize(
    ("corpus", "fewest"), [(parser, 219), (dates, 70), (suffixes, 70)], ids=lambda it: str(it)[:20]
)
def test_cookies_are_as_the_corpora_say(corpus: Callable[[], Corpus], fewest: int) -> None:
    """Each case of http-state and of publicsuffix.org agrees, but for those switched off there."""
    found = corpus()
    assert found.differ == []
    assert found.agree >= fewest
