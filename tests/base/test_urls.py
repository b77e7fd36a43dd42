"""Tests of URLs: sent as written, and redirects resolved as browsers do.

May touch: strings.
Must never: need a network.
"""

from __future__ import annotations

import pytest
from yarl import URL

from scraperd.base.text import text_without_credentials
from scraperd.base.urls import check_url, exact, join, origin_of, path_of, resolve

BASE = URL("http://site.example/dir/page?q=1")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/a/b.html?x=1&y=2",
        "/?u=http%3A%2F%2Fother.example%2F%3Fa%3Db",
        "/?a=b%2Cc%3Bd%40e%21f",
        "/?q=a+b%20c%2Bd",
        "/?a=1&&b&c=&=d",
        "/a%2Fb%3Ac%40d",
        "/%7Euser/%41",
        "/caf%C3%A9/%E9",
        "/100%/50%zz?%=%",
        "/a/;p=1/b,c'(d)*!$",
        "/?q=[1]&r='x'",
        "/?q[]=1",
        "/?q=a?b/c:d@e",
        "//double//slash/",
        "/.well-known/%7Euser/%41",
        "/.a/%2e%2",
        "/a/%2e.b/...",
        "/x?",
        "/?",
        "/x??",
        "/%7E?",
        "/%3F",
    ],
)
def test_path_and_query_are_sent_as_written(target: str) -> None:
    """Not a byte changes: an escaped delimiter is another URL than the delimiter (RFC 3986)."""
    assert exact(f"http://site.example{target}").raw_path_qs == target


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("/é?ü=ß", "/%C3%A9?%C3%BC=%C3%9F"),
        ("/é?a=%2F", "/%C3%A9?a=%2F"),
        ('/"<a>"?b=%2F"', "/%22%3Ca%3E%22?b=%2F%22"),
        ("/a/../b/./c?x=../y", "/b/c?x=../y"),
        ("/a/%2e%2e/b?x=%2F", "/b?x=%2F"),
        ("/foo/%2e./%2e%2e/.%2e/%2e.bar", "/%2e.bar"),
        ("/a//../%41/", "/a/%41/"),
        ("/a/./..//%7E", "//%7E"),
        ("/%41/%2E", "/%41/"),
        ("", "/"),
        ("?a=%2F", "/?a=%2F"),
        ("?", "/?"),
        ("/é/../?", "/?"),
        ("/a?#part", "/a?"),
        ("/a#part?", "/a"),
        ("/a#part", "/a"),
        ("/a?x=%2F#part%2F", "/a?x=%2F"),
    ],
)
def test_what_cannot_be_sent_is_encoded(written: str, sent: str) -> None:
    """Non-ASCII becomes UTF-8, dot segments are resolved, the fragment stays at home."""
    assert exact(f"http://site.example{written}").raw_path_qs == sent


def test_an_empty_query_is_not_part_of_the_path() -> None:
    """A path is the same with a `?` behind it, which its URL keeps through a redirect to itself."""
    url = exact("http://site.example/a%2Fb?#part")
    assert (path_of(url), str(url)) == ("/a%2Fb", "http://site.example/a%2Fb?")
    assert path_of(exact("http://site.example/a?b=?")) == "/a"
    assert str(resolve(url, "#again")) == str(url)
    assert str(resolve(url, "c?")) == "http://site.example/c?"


@pytest.mark.parametrize("tail", ["/x", "/x?", "/x?a=%2F"])
@pytest.mark.parametrize(
    ("authority", "origin"),
    [
        ("SITE.example", "http://site.example"),
        ("site.example:80", "http://site.example"),
        ("site.example:8080", "http://site.example:8080"),
        ("bücher.example", "http://xn--bcher-kva.example"),
        ("127.0.0.1:81", "http://127.0.0.1:81"),
        ("[::1]:81", "http://[::1]:81"),
    ],
)
def test_hosts_are_normal_either_way(authority: str, origin: str, tail: str) -> None:
    """Escapes in the path make no other origin of a URL: connections and cookies go by it."""
    assert origin_of(exact(f"HTTP://{authority}{tail}")) == origin_of(URL(origin))


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("http://other.example/x", "http://other.example/x"),
        ("HTTPS://OTHER.example/X", "https://other.example/X"),
        ("//other.example/x", "http://other.example/x"),
        ("/x", "http://site.example/x"),
        ("x", "http://site.example/dir/x"),
        ("./x", "http://site.example/dir/x"),
        ("../x", "http://site.example/x"),
        ("../../../x", "http://site.example/x"),
        ("?r=2", "http://site.example/dir/page?r=2"),
        ("#part", "http://site.example/dir/page?q=1"),
        ("x#part", "http://site.example/dir/x"),
        ("http:/x", "http://site.example/x"),
        ("/?u=http%3A%2F%2Fb", "http://site.example/?u=http%3A%2F%2Fb"),
        ("/a b", "http://site.example/a%20b"),
        ("/caf\N{LATIN SMALL LETTER E WITH ACUTE}", "http://site.example/caf%C3%A9"),
        ("/caf\udce9?x=\udcfc", "http://site.example/caf%E9?x=%FC"),  # raw Latin-1
        ("/a\\b", "http://site.example/a/b"),
        ("https:///x", "https://x/"),
        ("http://other.example:" + "0" * 4300 + "80/", "http://other.example/"),
        ("/web/2020/http://x.example//y", "http://site.example/web/2020/http://x.example//y"),
        ("/a/%2e%2e/b", "http://site.example/b"),
        ("http://0x7f.1/x", "http://127.0.0.1/x"),
        ("http://\N{FULLWIDTH DIGIT ONE}27.0.0.1/x", "http://127.0.0.1/x"),
        ("\\\\other.example\\x", "http://other.example/x"),
        ("http://user:secret@other.example/x", "http://other.example/x"),
        ("http://user@other.example/x", "http://other.example/x"),
        ("http://:secret@other.example/x?a=%2F", "http://other.example/x?a=%2F"),
    ],
)
def test_locations_are_resolved(location: str, target: str) -> None:
    """RFC 3986 section 5, as browsers do it; userinfo is dropped, odd bytes are encoded."""
    url = resolve(BASE, location)
    assert str(url) == target
    assert check_url(str(url)) is None


@pytest.mark.parametrize(
    "location",
    [
        "ftp://other.example/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:text/html,x",
        "mailto:a@b.example",
        "about:blank",
        "http://other.example:99999/",
        "http://[::1/",
        "http://a b.example/",
        "http://256.256.256.256/",
        "http://a%2fb.example/",
        "http://other.example:0/",
        "http://[]@/",
        "http://[::1]x@/",
        "http://" + "\ufdfa" * 2000 + "/",
        "/" + "x" * 8192,
        "/" + "\u00e9" * 2000,  # 12,000 characters once it is encoded
    ],
)
def test_locations_that_lead_nowhere(location: str) -> None:
    """What no job could have as its URL is a ValueError that says why, in a line."""
    with pytest.raises(ValueError, match=r".") as caught:
        resolve(BASE, location)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("can't reach amqp://user:hunter2@h/vhost", "can't reach amqp://h/vhost"),
        ("'http://u:a/b?c#d@h/' and //u:p@h", "'http://h/' and //h"),
        ("a@b // c@d", "a@b // c@d"),
        ("", ""),
    ],
)
def test_a_text_that_quotes_urls_is_shown_without_credentials(text: str, shown: str) -> None:
    """Whatever a password holds but white space, no text that quotes its URL shows it."""
    assert text_without_credentials(text) == shown


@pytest.mark.parametrize(
    ("reference", "leads"),
    [
        ("?\xe9", "http://site.example/dir/page?<\xe9>"),
        ("/\xe9?\xe9?\xe9#\xe9?\xe9", "http://site.example/%C3%A9?<\xe9?\xe9>#%C3%A9?%C3%A9"),
        (" ?\xe9\t\n \xe9\r ", "http://site.example/dir/page?<\xe9 \xe9>"),
        ("http:\\\\other\\?\xe9", "http://other/?<\xe9>"),
        ("//user?@h/\xe9", "http://user/?<@h/\xe9>"),
        ("ftp://h/?\xe9", "ftp://h/?<\xe9>"),
        ("file:///?\xe9", "file:///?<\xe9>"),
        ("ws://h/?\xe9", "ws://h/?%C3%A9"),
        ("data:,?\xe9", "data:,?%C3%A9"),
        ("\xe9?a", "http://site.example/dir/%C3%A9?<a>"),
        ("\xe9?", "http://site.example/dir/%C3%A9?"),
        ("\xe9#?\xe9", "http://site.example/dir/%C3%A9#?%C3%A9"),
        ("?\ud800", "http://site.example/dir/page?<\N{REPLACEMENT CHARACTER}>"),
        ("http://[\xe9?\xe9", None),
        ("?a=b", "http://site.example/dir/page?a=b"),
    ],
)
def test_only_the_query_of_a_special_url_is_encoded(reference: str, leads: str | None) -> None:
    """URL standard, "query state": an encoding is for queries, of http, https, ftp and file."""

    def encode(query: str) -> str:
        return f"(({query.encode('unicode-escape').hex()}))"

    if leads and "<" in leads:
        before, _, rest = leads.partition("<")
        query, _, after = rest.partition(">")
        leads = before + encode(query) + after
    assert join(str(BASE), reference, encode) == leads


def test_half_of_a_surrogate_pair_is_a_replacement_character() -> None:
    """As browsers read an attribute that a script has set (URL standard: scalar values)."""
    assert join("http://h/", "/\ud800?\udfff") == "http://h/%EF%BF%BD?%EF%BF%BD"
