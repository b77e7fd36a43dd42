"""Feeds and sitemaps as data: published examples, feedparser as another reader, and attacks.

May touch: tests/data/feeds; feedparser, to compare with (given bytes only: it opens what names).
Must never: take the code's own answer for the expected one.
"""

from __future__ import annotations

import calendar
import gzip
import io
import json
import tarfile
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import feedparser
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scraperd.extract.feeds.feeds import FeedError, feed, is_feed
from scraperd.extract.feeds.xml import plain
from scraperd.extract.values.dates import moment
from tests.rig.clocks.effort import scaled

DATA = Path(__file__).parents[2] / "data" / "feeds"
BASE = "http://example.com/test/"


def read(body: bytes | str, media: str = "", base: str = BASE, **bounds: int) -> dict[str, Any]:
    raw = body.encode() if isinstance(body, str) else body
    return feed(raw, media=media, base=base, **bounds)


def rss(inside: str) -> str:
    return f'<rss version="2.0"><channel><item>{inside}</item></channel></rss>'


def atom(inside: str) -> str:
    return f'<feed xmlns="http://www.w3.org/2005/Atom"><entry>{inside}</entry></feed>'


def entry(body: bytes | str, **more: Any) -> dict[str, Any]:
    (it,) = read(body, **more)["entries"]
    return it  # type: ignore[no-any-return]


def test_the_example_of_the_atom_standard_is_read() -> None:
    """RFC 4287's own example comes out with all that it says, and nothing else."""
    assert read((DATA / "atom.xml").read_bytes()) == {
        "type": "atom",
        "title": "dive into mark",
        "url": "http://example.org/",
        "description": "A <em>lot</em> of effort\n    went into making this effortless",
        "updated": "2005-07-31T12:29:29+00:00",
        "entries": [
            {
                "id": "tag:example.org,2003:3.2397",
                "url": "http://example.org/2005/04/02/atom",
                "title": "Atom draft-07 snapshot",
                "content": "<p><i>[Update: The Atom draft is finished.]</i></p>",
                "author": "Mark Pilgrim",
                "published": "2003-12-13T08:29:29-04:00",
                "updated": "2005-07-31T12:29:29+00:00",
                "enclosures": [
                    {
                        "url": "http://example.org/audio/ph34r_my_podcast.mp3",
                        "type": "audio/mpeg",
                        "length": 1337,
                    }
                ],
            }
        ],
    }


def test_the_sample_of_rss_2_is_read() -> None:
    """The RSS board's sample gives its channel, and an item without title and link its guid's."""
    found = read((DATA / "rss2.xml").read_bytes())
    first, second = found.pop("entries")
    assert found == {
        "type": "rss",
        "title": "Liftoff News",
        "url": "http://liftoff.msfc.nasa.gov/",
        "description": "Liftoff to Space Exploration.",
        "language": "en-us",
        "author": "editor@example.com",
        "updated": "2003-06-10T09:41:01+00:00",
    }
    assert first["title"] == "Star City"
    assert first["summary"].endswith(
        '<a href="http://howe.iki.rssi.ru/GCTC/gctc_e.htm">Star City</a>.'
    )
    assert second["url"] == second["id"] == "http://liftoff.msfc.nasa.gov/2003/05/30.html#item572"
    assert second["published"] == "2003-05-30T11:06:42+00:00"
    assert "title" not in second


def test_the_example_of_rss_1_is_read() -> None:
    """In RSS 1.0 the items stand beside the channel, and are named by rdf:about."""
    found = read((DATA / "rss1.xml").read_bytes())
    (item,) = found["entries"]
    assert (found["type"], found["title"], found["url"]) == (
        "rdf",
        "XML.com",
        "http://xml.com/pub",
    )
    assert item["id"] == item["url"] == "http://xml.com/pub/2000/08/09/xslt/xslt.html"
    assert item["title"] == "Processing Inclusions with XSLT"


def test_the_examples_of_the_sitemap_protocol_are_read() -> None:
    """The protocol's sitemap and index, and localized versions, come out as they are written."""
    assert read((DATA / "sitemap.xml").read_bytes()) == {
        "type": "sitemap",
        "entries": [
            {
                "url": "http://www.example.com/",
                "updated": "2005-01-01",
                "changefreq": "monthly",
                "priority": 0.8,
            },
            {
                "url": "http://www.example.com/catalog?item=12&desc=vacation_hawaii",
                "changefreq": "weekly",
            },
            {
                "url": "http://www.example.com/catalog?item=74&desc=vacation_newfoundland",
                "updated": "2004-12-23T18:00:15+00:00",
                "priority": 0.3,
            },
        ],
    }
    assert read((DATA / "sitemapindex.xml").read_bytes()) == {
        "type": "sitemapindex",
        "entries": [
            {
                "url": "http://www.example.com/sitemap1.xml.gz",
                "updated": "2004-10-01T18:23:17+00:00",
            },
            {"url": "http://www.example.com/sitemap2.xml.gz", "updated": "2005-01-01"},
        ],
    }
    assert entry((DATA / "alternates.xml").read_bytes())["alternates"] == [
        {"url": "https://www.example.de/deutsch/page.html", "language": "de"},
        {"url": "https://www.example.com/english/page.html", "language": "en"},
    ]


def test_images_and_news_of_a_sitemap_are_read() -> None:
    """Google's image and news extensions are read as far as their documents' examples go."""
    body = """<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"
      xmlns:image="http://www.google.com/schemas/sitemap-image/1.1"
      xmlns:news="http://www.google.com/schemas/sitemap-news/0.9"><url>
      <loc>http://example.org/sample1.html</loc>
      <image:image><image:loc>http://example.org/image.jpg</image:loc></image:image>
      <news:news><news:publication><news:name>The Example Times</news:name>
      <news:language>en</news:language></news:publication>
      <news:publication_date>2008-12-23</news:publication_date>
      <news:title>Companies A, B in Merger Talks</news:title></news:news></url></urlset>"""
    assert entry(body) == {
        "url": "http://example.org/sample1.html",
        "images": [{"url": "http://example.org/image.jpg"}],
        "news": {
            "title": "Companies A, B in Merger Talks",
            "published": "2008-12-23",
            "publication": "The Example Times",
            "language": "en",
        },
    }


def test_a_list_of_urls_is_a_sitemap_of_any_type_but_html_if_all_are() -> None:
    """The protocol's text file counts where each line is a URL, packed under any Content-Type."""
    text = b"\xef\xbb\xbfhttp://a.example/1\r\nhttps://a.example/2\n\n"
    entries = [{"url": "http://a.example/1"}, {"url": "https://a.example/2"}]
    assert read(text, "text/plain; charset=utf-8") == {"type": "sitemap", "entries": entries}
    assert is_feed(text, "text/plain")
    for body, media in ((text, "text/html"), (text + b"more", "text/plain"), (b"", "text/plain")):
        assert not is_feed(body, media)
        with pytest.raises(FeedError):
            read(body, media)


@pytest.mark.parametrize(
    "url",
    [
        "http://h.example:" + "0" * 4300 + "/",
        "http://user:secret@h.example/",
        "http://[]@/",
        "http://h.example/" + "x" * 8192,
    ],
)
def test_a_url_that_no_job_could_have_is_left_out(url: str) -> None:
    """Of feeds, of sitemaps, and of plain lists of URLs, where other entries stay."""
    assert "url" not in entry(rss(f"<link>{url}</link>"))
    assert "url" not in entry(atom(f'<link href="d" xml:base="{url}"/>'))
    sitemap = f"<urlset><url><loc>{url}</loc></url><url><loc>http://a/</loc></url></urlset>"
    assert read(sitemap.encode(), "text/xml")["entries"] == [{"url": "http://a/"}]
    lines = f"http://a/\n{url}\n"
    assert read(lines.encode(), "text/plain")["entries"] == [{"url": "http://a/"}]


@pytest.mark.parametrize("media", ["", "text/plain", "application/x-gzip", "text/html", "a/b"])
def test_a_packed_list_of_urls_is_a_sitemap_under_any_type(media: str) -> None:
    """A urllist.txt.gz (sitemaps.org) is read, whatever the server calls it."""
    body = gzip.compress(b"http://a.example/1\nhttp://a.example/2\n")
    assert is_feed(body, media)
    assert [it["url"] for it in read(body, media)["entries"]] == [
        "http://a.example/1",
        "http://a.example/2",
    ]


@pytest.mark.parametrize(
    "before",
    [
        "<?xml version='1.0'?><!--" + "x" * 3000 + "-->",
        "\n" * 3000,
        "<!DOCTYPE rss [" + "<!ENTITY a 'b'>" * 300 + "]>",
        "<br />\n<b>Warning</b>: x() in <b>/a.php</b> line <b>3</b><br />\n<?xml version='1.0'?>",
        "Warning: x() expects <y> in /a.php on line 3\n",
    ],
)
def test_what_stands_before_the_root_does_not_hide_a_feed(before: str) -> None:
    """Comments, blank lines, a document type or a script's warning are passed over."""
    body = (before + rss("<title>A</title>")).encode()
    assert is_feed(body, "text/xml")
    assert entry(body)["title"] == "A"


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b'{"a": "<rss version=2>"}', "application/json"),
        (b'{"a": "<rss version=2>"}', ""),
        (b"how to write <rss > in a text", "text/plain"),
        (b"<p>how to write <rss > in a page", "text/html"),
        (b"<!--" + b"x" * 3000 + b"--><html><body><rss>", "text/html"),
    ],
)
def test_a_document_that_speaks_of_feeds_is_none(body: bytes, media: str) -> None:
    """The name of a feed's root inside of JSON, text or a page makes no feed of it."""
    assert not is_feed(body, media)


def test_entries_without_a_location_are_skipped_and_counted() -> None:
    """A sitemap says how many entries have no URL that a job could have, and only then."""
    urls = "<url><lastmod>2024-01-01</lastmod></url><url><loc>mailto:x</loc></url>"
    good = "<url><loc/><loc>http://a/</loc></url>"
    found = read(f"<urlset>{urls}{good}</urlset>".encode())
    assert found == {"type": "sitemap", "skipped": 2, "entries": [{"url": "http://a/"}]}
    assert "skipped" not in read(f"<urlset>{good}</urlset>".encode())


def test_a_relation_of_atom_may_be_an_iri() -> None:
    """RFC 4287 section 4.2.7.2: the IANA's IRI of a relation is that relation."""
    iri = "http://www.iana.org/assignments/relation/"
    links = f'<link rel="{iri}alternate" href="/d"/><link rel="{iri}enclosure" href="/e"/>'
    found = entry(atom(links))
    assert found["url"] == "http://example.com/d"
    assert found["enclosures"] == [{"url": "http://example.com/e"}]


def test_a_root_with_an_undeclared_prefix_and_ascii_that_is_utf_8_are_read() -> None:
    """What a person would read is read: rdf:RDF without its namespace, UTF-8 called ASCII."""
    assert read(b"<rdf:RDF><channel/><item><title>i</title></item></rdf:RDF>")["type"] == "rdf"
    body = "<?xml version='1.0' encoding='us-ascii'?>" + rss("<title>\u00e9</title>")
    assert entry(body.encode())["title"] == "\u00e9"


def _theirs(body: bytes) -> Any:
    headers = {"content-location": BASE}
    options = {"sanitize_html": False, "resolve_relative_uris": False}
    return feedparser.parse(io.BytesIO(body), response_headers=headers, **options)


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    when = datetime.fromisoformat(text)
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())


def _compare(mine: dict[str, Any], theirs: Any, agree: Counter[tuple[str, bool]]) -> None:
    agree["entries", len(mine["entries"]) == len(theirs.entries)] += 1
    agree["feed url", mine.get("url") == (theirs.feed.get("link") or None)] += 1
    for my, their in zip(mine["entries"], theirs.entries, strict=False):
        title = plain(their.get("title") or "")
        agree["title", plain(my.get("title", "")) == title] += 1
        agree["id", my.get("id") == (their.get("id") or None)] += 1
        agree["url", my.get("url") == (their.get("link") or None)] += 1
        for key in ("published", "updated"):
            parsed = dict.get(their, f"{key}_parsed")
            agree[key, _seconds(my.get(key)) == (calendar.timegm(parsed) if parsed else None)] += 1
        files = [it.get("href") for it in their.get("enclosures", [])]
        agree["enclosures", [it["url"] for it in my.get("enclosures", [])] == files] += 1


def test_feedparser_reads_its_own_test_documents_the_same_way() -> None:
    """Of feedparser's documents 96 % and more agree in each field; the rest differ by decision."""
    agree: Counter[tuple[str, bool]] = Counter()
    refused = 0
    with tarfile.open(DATA / "feedparser.tar.xz") as archive:
        for member in archive:
            if "formed/" not in member.name or not (file := archive.extractfile(member)):
                continue
            body = file.read()
            try:
                mine = read(body)
            except FeedError:
                refused += 1
                continue
            _compare(mine, _theirs(body), agree)
    assert agree["entries", True] > 850
    assert refused <= 15  # empty channels, one of CDF
    for name in {name for name, _ in agree}:
        share = agree[name, True] / (agree[name, True] + agree[name, False])
        assert share > 0.96, (name, share)


@pytest.mark.parametrize(
    ("body", "media"),
    [
        ('<?xml version="1.0" encoding="koi8-r"?>' + rss("<title>Я</title>"), "text/xml"),
        (rss("<title>Я</title>"), "application/rss+xml; charset=koi8-r"),
        ('<?xml version="1.0" encoding="latin1"?>' + rss("<title>Я</title>"), "a/b;charset=koi8-r"),
    ],
)
def test_the_encoding_is_the_headers_or_else_the_declarations(body: str, media: str) -> None:
    """RFC 7303: the charset parameter goes before the XML declaration, and either counts."""
    assert entry(body.encode("koi8-r"), media=media)["title"] == "Я"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-8"])
def test_a_byte_order_mark_or_the_pattern_of_utf_16_counts_first(encoding: str) -> None:
    """A document in any UTF of 8 or 16 bits is read, whatever the header says of those marked."""
    body = ('<?xml version="1.0"?>' + rss("<title>Яя</title>")).encode(encoding)
    assert entry(body)["title"] == "Яя"
    assert is_feed(body, "")


def test_ill_formed_xml_is_mended() -> None:
    """Bare ampersands, HTML's references, forbidden characters, open tags: text is not lost."""
    body = rss("<title>AT&T &eacute;t&eacute; a&b;c &amp;\x0b &#65;</title><link>http://a/?b&c=d")
    found = entry("\n <?xml version='1.0'?>" + body)
    assert found == {"title": "AT&T été a&b;c & A", "url": "http://a/?b&c=d"}
    assert entry(rss("<title>a\xa0\xe9</title>").encode("latin-1"))["title"] == "a é"


def test_what_may_be_html_in_a_title_is_taken_as_html() -> None:
    """RSS leaves open what a title is; Atom says so, and its word is followed."""
    assert entry(rss("<title>&lt;b&gt;A&lt;/b&gt; &amp;amp; B 1 &lt; 2</title>"))["title"] == (
        "A & B 1 < 2"
    )
    assert entry(atom("<title>&lt;b&gt;A &amp;amp;</title>"))["title"] == "<b>A &amp;"
    assert entry(atom('<title type="html">&lt;b&gt;A &amp;amp;</title>'))["title"] == "A &"


def test_content_is_html_whichever_way_it_is_written() -> None:
    """Text is escaped, escaped HTML is as it was, XHTML is written as HTML; other data is not."""
    assert entry(atom("<content>1 &lt; 2</content>"))["content"] == "1 &lt; 2"
    assert entry(atom('<content type="html">&lt;p&gt;A</content>'))["content"] == "<p>A"
    inside = '<x:div>a &lt; <x:b xml:lang="de" id="i">B</x:b><x:br/>c</x:div>'
    body = atom(f'<content type="xhtml" xmlns:x="http://www.w3.org/1999/xhtml">{inside}</content>')
    assert entry(body)["content"] == 'a &lt; <b id="i">B</b><br>c'
    for kind in ('type="image/png"', 'src="http://a/"', 'type="text/html" mode="base64"'):
        assert "content" not in entry(atom(f"<content {kind}>QQ==</content>"))


def test_urls_are_absolute_by_xml_base_and_lead_to_the_web() -> None:
    """W3C XML Base is followed through all ancestors; what isn't http(s) is absent."""
    body = atom('<link xml:base="c/" href="d"/>').replace("<entry>", '<entry xml:base="/b/">')
    assert entry(body)["url"] == "http://example.com/b/c/d"
    for reference in ("javascript:alert(1)", "file:///etc/passwd", "http://[", "x:y"):
        assert "url" not in entry(rss(f"<link>{reference}</link>"))
        assert "enclosures" not in entry(rss(f'<enclosure url="{reference}"/>'))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sat, 07 Sep 2002 00:00:01 GMT", "2002-09-07T00:00:01+00:00"),
        ("07 Sep 02 09:42 EST", "2002-09-07T09:42:00-05:00"),
        ("Thu, 01 Jan 2004 19:48:21", "2004-01-01T19:48:21"),  # no zone was written
        ("1997-07-16T19:20:30", "1997-07-16T19:20:30"),
        ("Thu, 01 Jan 2004 19:48:21 +02:00", "2004-01-01T19:48:21+02:00"),
        ("Thu, 01 Jan 2004 19:48:21 GMT+2", "2004-01-01T19:48:21+02:00"),
        ("Thu, 01 Jan 2004 19:48:21 +2", "2004-01-01T19:48:21+02:00"),
        ("Thu, 01 Jan 2004 19:48:21 UTC-0330", "2004-01-01T19:48:21-03:30"),
        ("Thu, 01 Jan 2004 19:48:21 UT", "2004-01-01T19:48:21+00:00"),
        ("Thu, 01 Jan 2004 19:48:21 -0000", "2004-01-01T19:48:21+00:00"),
        ("Thu, 01 Jan 2004 19:48:21 PDT", "2004-01-01T19:48:21-07:00"),
        ("Thu, 01 Jan 2004 19:48:21 EST5EDT", None),
        ("Thu, 01 Jan 2004 19:48:21 A", None),
        ("Thu, 01 Jan 2004 19:48:21 +200", None),
        ("Fri, 01 Jan 2004 19:48:21 GMT", "2004-01-01T19:48:21+00:00"),
        ("jeu., 01 Jan 2004 19:48:21 GMT", "2004-01-01T19:48:21+00:00"),
        ("2004-01-01 19:48:21 +0200", "2004-01-01T19:48:21+02:00"),
        ("Thu, 01 Jan 2004 19:48:21 CEST", None),
        ("1997-07-16T19:20:30.45+01:00", "1997-07-16T19:20:30+01:00"),
        ("1997-07-16T19:20Z", "1997-07-16T19:20:00+00:00"),
        ("1997-07-16", "1997-07-16"),
        ("1997-02-30", None),
        ("1997-07-16T24:00:00Z", None),
        ("1997-07-16T19:20:30+99:00", None),
        ("Thu, 01 Jan 2004 19:48:21 +9999", None),
        ("yesterday", None),
        ("1 " * 10_000, None),
    ],
)
def test_dates_are_read_in_both_formats_or_absent(text: str, expected: str | None) -> None:
    """RFC 822's and W3C's dates (the examples are theirs) come out as ISO 8601 with their zone."""
    assert moment(text) == expected


def test_gzip_is_undone_within_the_bound() -> None:
    """One member or more, cut short, or a bomb: each ends as it should."""
    body = (DATA / "sitemap.xml").read_bytes()
    whole = read(body)
    half = len(body) // 2
    assert read(gzip.compress(body), "application/gzip") == whole
    assert read(gzip.compress(body[:half]) + gzip.compress(body[half:])) == whole
    assert is_feed(gzip.compress(body), "application/octet-stream")
    assert not is_feed(gzip.compress(b"<html>"), "application/gzip")
    for bad, reason in (
        (gzip.compress(body)[:-9], "ends early"),
        (gzip.compress(body)[:20], "ends early"),
        (b"\x1f\x8b" + body, "gzip"),
        (gzip.compress(bytes(60_000_000), 1), "larger than 52428800 bytes"),
    ):
        with pytest.raises(FeedError, match=reason):
            read(bad)
    assert read(body, max_size=len(body)) == whole
    with pytest.raises(FeedError, match=f"larger than {len(body) - 1} bytes"):
        read(body, max_size=len(body) - 1)


def test_entries_past_the_bound_are_an_error() -> None:
    """The bound is named, in every format, and what is just within it is read."""
    for name in ("rss2.xml", "rss1.xml", "atom.xml", "sitemap.xml", "sitemapindex.xml"):
        body = (DATA / name).read_bytes()
        count = len(read(body)["entries"])
        assert len(read(body, max_entries=count)["entries"]) == count
        with pytest.raises(FeedError, match=f"more than {count - 1} entries"):
            read(body, max_entries=count - 1)
    with pytest.raises(FeedError, match="more than 1 entries"):
        read("http://a/\nhttp://b/", "text/plain", max_entries=1)


@pytest.mark.parametrize(
    ("body", "media", "expected"),
    [
        (b"<!-- a --><!DOCTYPE rss [ <!-- --> ]> <rss>", "text/html", True),
        (b"<rdf:RDF xmlns:rdf='x'>", "text/plain", True),
        (b"<html><body>", "application/rss+xml", False),
        (b"<?xml version='1.0'?><svg/>", "application/xml", False),
        (b"<!--" + b"x" * 5000 + b"--><rss/>", "application/atom+xml", True),
        (b"<!--" + b"x" * 5000 + b"--><rss/>", "text/xml", True),
        (b"<!--" + b"x" * 70_000 + b"--><rss/>", "text/xml", False),
        (b"{}", "application/json", False),
        (b"\x1f\x8b", "", False),
    ],
)
def test_a_feed_is_told_by_its_root_element(body: bytes, media: str, *, expected: bool) -> None:
    """The Content-Type only decides where the first 64 kB don't."""
    assert is_feed(body, media) is expected


def test_no_entity_is_expanded_and_no_file_read(tmp_path: Path) -> None:
    """What a document type declares, inside or outside, does not reach the result."""
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    declarations = f'<!ENTITY a "LAUGH"><!ENTITY f SYSTEM "{secret.as_uri()}">'
    external = f'<!DOCTYPE rss [<!ENTITY % p SYSTEM "{secret.as_uri()}"> %p; {declarations}]>'
    hidden = f'<!DOCTYPE rss [<!ENTITY q "]>" > {declarations}]>'  # evades the cut
    for prolog in (f"<!DOCTYPE rss [{declarations}]>", external, hidden):
        try:
            text = json.dumps(read(prolog + rss('<title a="&a;">x&a;&f;</title><link>&f;</link>')))
        except FeedError:
            continue
        assert "SECRET" not in text
        assert "LAUGH" not in text


def test_what_is_nested_too_deep_is_an_error_and_not_half_a_feed() -> None:
    """A document past libxml2's bounds is refused, well-formed or not."""
    for end in ("</p>" * 300, ""):
        with pytest.raises(FeedError, match="past a bound of the XML parser: Excessive depth"):
            read(atom("<content>" + "<p>" * 300 + end + "</content>"))


def test_of_atoms_links_the_page_counts() -> None:
    """Of several alternates the HTML one is the URL, and other relations never are."""
    links = '<link rel="self" href="/s"/><link type="application/json" href="/j"/><link href="/h"/>'
    assert entry(atom(links))["url"] == "http://example.com/h"


def test_a_long_base_cannot_make_much_out_of_little() -> None:
    """100 kB of references to a base of 8,000 characters would be 80 MB: there is a bound."""
    files = "".join(f'<enclosure url="{number}"/>' for number in range(10_000))
    body = rss(files).replace("<rss", f'<rss xml:base="http://a/{"x" * 8000}/"')
    with pytest.raises(FeedError, match="URLs take more"):
        read(body)


M = 1_000_000


def each(pattern: str, times: int) -> str:
    return "".join(pattern.replace("#", str(number)) for number in range(times))


HOSTILE = {
    "nested": "<rss>" + "<a>" * (M // 3),
    "nested in content": atom("<content>" + "<p>" * (M // 3)),
    "namespaces": "<rss" + each(" xmlns:n#='u#'", M // 20) + "><channel/></rss>",
    "attributes": "<rss" + each(" a#=''", M // 10) + "><channel/></rss>",
    "categories": rss(each("<category>#</category>", M // 27)),
    "empty items": "<rss><channel>" + "<item/>" * (M // 7) + "</channel></rss>",
    "ampersands": rss("&" * M),
    "open tags": rss('<a b="' * (M // 6)),
    "open sections": rss("&" + "<![CDATA[" * (M // 9)),
    "titles": rss(f"<title>{'&lt;a ' * (M // 6)}</title>"),
    "digits": rss(f"<title>&amp;#{'1' * M};</title>"),
    "white space": "\n" * M + rss(""),
    "document types": "<!DOCTYPE a [" + "]  " * (M // 3),
    "laughs": '<!DOCTYPE r [<!ENTITY q "]>"><!ENTITY a "'
    + "x" * (M // 2)
    + '">]><rss a="'
    + "&a;" * (M // 6)
    + '"/>',
    "foreign attributes": atom(
        '<content type="xhtml"><p' + each(" n#:a=''", M // 60) + "/></content>"
    ).replace("<feed", "<feed" + each(" xmlns:n#='u#'", M // 60)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents_cost_linear_time(name: str) -> None:
    """1 MB of each ends within a second of CPU time (0.3 s measured at most, on a slow machine)."""
    start = time.process_time()
    with suppress(FeedError):
        json.dumps(read(HOSTILE[name]))
    assert time.process_time() - start < scaled(1)


def _outcome(body: bytes, media: str) -> tuple[dict[str, Any], str]:
    try:
        return read(body, media), ""
    except FeedError as error:
        return {}, error.reason


PIECES = st.sampled_from(
    """<rss> <channel> <item> <title> <link> <guid> <description> </item> </title> <feed> <entry>
    <content> <urlset> <url> <loc> <rdf:RDF> http://a/ &amp; &nbsp; &#1; &#xD800; <![CDATA[ ]]> <!--
    --> <!DOCTYPE <?xml type='xhtml' xml:base='http://[' <x:y> 2003-12-13 \x00 \xff \n <pubDate>
    <enclosure url='http://a/'/> <p> </p>""".split()
).map(lambda text: text.encode("latin-1"))


@settings(max_examples=500, deadline=None)
@given(
    st.binary() | st.lists(PIECES | st.binary(max_size=8)).map(b" ".join),
    st.sampled_from(["", "text/plain", "application/rss+xml; charset=utf-16", "\udcff;charset=x"]),
)
@example(b"<:", "")
@example(b"<feed><entry><content><:a :b='' a:b:c=''><x:y:z/>", "")
@example(b"\x1f\x8b\x08\0\0\0\0\0\0\0", "")
@example(b"<rss><channel><title>&#xD800;&amp;#xD800;\xed\xa0\x80", "")
def test_any_bytes_are_a_feed_or_a_feed_error(body: bytes, media: str) -> None:
    """Whatever the body, the answer is JSON or a FeedError, and the same the second time."""
    is_feed(body, media)
    found, reason = _outcome(body, media)
    assert _outcome(body, media) == (found, reason)
    assert reason.isprintable()
    assert bool(reason) != bool(found)
    assert found.get("type") in {None, "rss", "rdf", "atom", "sitemap", "sitemapindex"}
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
