"""What a document is, by real responses: their headers as bytes on a wire, and their bodies.

May touch: a site of the test's own, that sends exact bytes.
Must never: take an expected value from scraperd; each is from Fetch or MIME Sniffing.
"""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from msgspec import UNSET

from scraperd.scrape.standalone import media_type
from tests.rig.sites.site import head, page

if TYPE_CHECKING:
    from scraperd.contract import Result
    from tests.rig.page import Scrape
    from tests.rig.sites.site import Site

HTML: Final = b"<!DOCTYPE html><title>T</title><h1>H</h1>"
XHTML: Final = (
    b"<?xml version='1.0'?>\n<html xmlns='http://www.w3.org/1999/xhtml'><h1>H</h1></html>"
)
RSS: Final = b"<?xml version='1.0'?><rss version='2.0'><channel><title>N</title></channel></rss>"
PNG: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
PDF: Final = b"%PDF-1.4\n% all of this is text\n"
FAR: Final = b"a" * 1445 + b"\x00"
H1: Final = {"h": "h1"}


def sent(types: list[str], body: bytes, *more: str) -> bytes:
    """A response with these Content-Type headers, one a line, and other headers."""
    lines = [*(f"Content-Type: {it}" for it in types), *more, f"Content-Length: {len(body)}"]
    return head(*lines) + body


async def got(site: Site, scrape: Scrape, answer: bytes, **asked: Any) -> Result:
    return await scrape(site.at("/", answer), **asked)


def why(result: Result) -> str:
    """Why a job failed: its document is of another kind."""
    assert result.error is not UNSET
    assert (result.status, result.error.kind) == ("failed", "extract")
    return result.error.message


@pytest.mark.parametrize(
    "types",
    [
        ["text/plain", "text/html"],
        ["text/html", ""],
        ["", "text/html"],
        ["text/html", "*/*"],
        ["text/html", "html"],
        ["text/plain, text/html"],
        ["text/html,"],
        ["text/html, */*"],
        ['text/plain;x=",", text/html;x=","'],
        ["TEXT/HTML ; a=b"],
        ["html"],
        ["text/html charset=utf-8"],
        ["text/html, charset=utf-8"],
        ["text/html: charset=utf-8"],
        ["*/*"],
        ["unknown/unknown"],
        ["Application/Unknown"],
        ["text/"],
        ["/html"],
        ["; charset=utf-8"],
        [""],
        [],
    ],
    ids="+".join,
)
@pytest.mark.parametrize("nosniff", [False, True])
async def test_a_page_is_html_by_its_last_valid_type_or_its_first_bytes(
    site: Site, scrape: Scrape, *, types: list[str], nosniff: bool
) -> None:
    """A page is searched under odd headers; only without a valid type nosniff makes it text."""
    more = ["X-Content-Type-Options: nosniff"] if nosniff else []
    result = await got(site, scrape, sent(types, HTML, *more), extract=H1, include=["body"])
    is_told = any("text/html" in it.lower() for it in types) and types not in (
        ["text/html charset=utf-8"],
        ["text/html: charset=utf-8"],
    )
    assert result.body == HTML.decode()
    assert result.content_type == (", ".join(filter(None, types)) or UNSET)
    if is_told or not nosniff:
        assert (result.status, result.data) == ("ok", {"h": "H"})
    else:
        message = "the response is text/plain by its first bytes, not HTML"
        assert why(result) == message


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (["text/html", "text/plain"], "text/plain, not HTML"),
        (["text/html, text/plain"], "text/plain, not HTML"),
        (["text/html", "application/xml; charset=utf-8"], "application/xml, not HTML"),
        (["text/plain; charset=UTF-8"], "text/plain, not HTML"),
        (["text/x-unknown"], "text/x-unknown, not HTML"),
    ],
    ids=str,
)
async def test_html_under_another_valid_type_is_not_a_page(
    site: Site, scrape: Scrape, types: list[str], message: str
) -> None:
    """A valid type is not overruled by bytes, and the last one counts; the body is text."""
    result = await got(site, scrape, sent(types, HTML), extract=H1, include=["body"])
    assert why(result) == f"the response is {message}"
    assert (result.body, result.body_encoding) == (HTML.decode(), UNSET)


@pytest.mark.parametrize(
    ("types", "charset"),
    [
        (["text/html;charset=gbk", "text/html"], "gbk"),
        (["text/html;charset=gbk, text/html"], "gbk"),
        (["text/html;charset=gbk", "text/html;charset=koi8-r"], "koi8-r"),
        (["text/html;charset=gbk", "text/plain", "text/html"], "windows-1252"),
        (["text/html;charset=gbk", "error", "text/html"], "gbk"),
        (["text/plain;charset=gbk", "text/html"], "windows-1252"),
        (["text/html;charset=gbk", 'text/html;x=",text/plain'], "gbk"),
        (['text/html;charset="gbk"x'], "gbk"),
        ([r'text/html;charset="\g\b\k"'], "gbk"),
        (['text/html;charset="gbk'], "gbk"),
        (["text/html;charset= gbk"], "gbk"),
        (["text/html;charset =gbk"], "windows-1252"),
        (["text/html;charset='gbk'"], "windows-1252"),
        (["text/html;charset=;charset=gbk"], "gbk"),
        (["text/html;charset=no;charset=gbk"], "windows-1252"),
        (["text/html;charset=\xc5\x82;charset=gbk"], "windows-1252"),
        (["text/html;x=\xff;charset=gbk"], "gbk"),
        (["text/html charset=gbk"], "windows-1252"),
        (["unknown/unknown;charset=gbk"], "gbk"),
    ],
    ids=lambda it: "+".join(it) if isinstance(it, list) else it,
)
async def test_a_charset_is_that_of_the_extracted_type(
    site: Site, scrape: Scrape, types: list[str], charset: str
) -> None:
    """An earlier equal type hands its charset on; windows-1252 is what no header leads to."""
    body = b"<!DOCTYPE html><h1>\xe9</h1>"
    result = await got(site, scrape, sent(types, body), extract=H1)
    assert result.charset == charset


@pytest.mark.parametrize(
    ("types", "more", "body", "told"),
    [
        ([], [], PNG, "image/png by its first bytes"),
        (["html"], [], PNG, "image/png by its first bytes"),
        ([], [], PDF, "application/pdf by its first bytes"),
        ([], ["X-Content-Type-Options: nosniff"], PNG, "image/png by its first bytes"),
        ([], [], gzip.compress(b"x", mtime=0), "application/x-gzip by its first bytes"),
        ([], [], b"PK\x03\x04\x00", "application/zip by its first bytes"),
        ([], [], b"GIF89a all text", "image/gif by its first bytes"),
        ([], [], b"a\x00b", "application/octet-stream by its first bytes"),
        (["text/plain"], [], PNG, "application/octet-stream by its first bytes"),
        (["text/plain; charset=ISO-8859-1"], [], b"a\x00", "application/octet-stream by"),
        (["text/plain; charset=iso-8859-1"], [], b"a\x00", "application/octet-stream by"),
        (["text/plain; charset=UTF-8"], [], b"a\x00", "application/octet-stream by"),
        (["text/html", "text/plain"], [], b"a\x00", "application/octet-stream by"),
        (["image/png"], [], HTML, "image/png"),
        (["application/octet-stream"], [], HTML, "application/octet-stream"),
        (["application/pdf"], [], HTML, "application/pdf"),
    ],
    ids=str,
)
async def test_data_that_is_no_text_comes_in_base64(
    site: Site, scrape: Scrape, *, types: list[str], more: list[str], body: bytes, told: str
) -> None:
    """By its signature, or by a byte that no text holds, or by a valid type of its own."""
    result = await got(site, scrape, sent(types, body, *more), extract=H1, include=["body"])
    assert f"the response is {told}" in why(result)
    assert isinstance(result.body, str)
    assert base64.b64decode(result.body) == body
    assert (result.body_encoding, result.charset) == ("base64", UNSET)


@pytest.mark.parametrize(
    ("types", "more", "body", "text"),
    [
        (["text/plain"], ["X-Content-Type-Options: nosniff"], b"a\x00b", "a\x00b"),
        (["text/plain; charset=utf-8"], [], b"a\x00b", "a\x00b"),
        (["text/plain;charset=UTF-8"], [], b"a\x00b", "a\x00b"),
        (["Text/plain"], [], b"a\x00b", "a\x00b"),
        (["text/csv"], [], b"a\x00b", "a\x00b"),
        pytest.param(["text/plain"], [], FAR, FAR.decode(), id="behind 1,445 bytes"),
        (["text/plain"], [], b"\xef\xbb\xbfa\x00b", "a\x00b"),
        (["text/plain"], [], b"\xfe\xff\x00a\x00b", "ab"),
        ([], [], b"\xff\xfea\x00b\x00", "ab"),
        ([], [], b"\xef\xbb\xbf" + HTML, HTML.decode()),
        ([], [], b"<section><h1>H</h1></section>", "<section><h1>H</h1></section>"),
        ([], [], b"<!DOCTYPE html", "<!DOCTYPE html"),
        ([], ["X-Content-Type-Options: nosniff, x"], PDF, PDF.decode()),
        ([], [], b"a\x1b$Bb", "a\x1b$Bb"),
    ],
    ids=str,
)
async def test_text_comes_as_text(
    site: Site, scrape: Scrape, *, types: list[str], more: list[str], body: bytes, text: str
) -> None:
    """A text is not looked into but for Apache's four headers, and not behind 1,445 bytes."""
    result = await got(site, scrape, sent(types, body, *more), extract=H1, include=["body"])
    assert "the response is text/" in why(result)
    assert result.body_encoding is UNSET
    assert result.body == text


@pytest.mark.parametrize("types", [[], ["text"], ["unknown/unknown"]], ids=str)
async def test_json_xhtml_and_feeds_are_known_without_a_type(
    site: Site, scrape: Scrape, types: list[str]
) -> None:
    """These the standard does not name; they are what scraperd reads besides HTML."""
    both = {"h": "h1", "t": {"jmespath": "title"}}
    for nosniff in ([], ["X-Content-Type-Options: nosniff"]):
        answer = sent(types, b'\n{"title": "N"}', *nosniff)
        assert (await got(site, scrape, answer, extract=both)).data == {"h": None, "t": "N"}
        result = await got(site, scrape, sent(types, RSS, *nosniff), include=["feed"])
        assert result.feed is not UNSET
        assert result.feed["title"] == "N"
    assert (await got(site, scrape, sent(types, XHTML), extract=H1)).data == {"h": "H"}
    xml = await got(site, scrape, sent(types, b"<?xml version='1.0'?><a/>"), extract=H1)
    assert why(xml) == "the response is text/xml by its first bytes, not HTML"


@pytest.mark.parametrize(
    ("answer", "method"),
    [
        (head("Content-Length: 100"), "HEAD"),
        (head("Content-Length: 100", "Content-Type: html"), "HEAD"),
        (head(status="204 No Content"), "GET"),
        (head("Content-Type: html", "X-Content-Type-Options: nosniff", status="204 No"), "GET"),
        (page(b"", content_type=None), "GET"),
    ],
    ids=["HEAD", "HEAD with an invalid type", "204", "204 with an invalid type", "empty"],
)
async def test_where_no_byte_came_no_type_is_made_up(
    site: Site, scrape: Scrape, answer: bytes, method: str
) -> None:
    """A response without a body and a valid type has no type and no encoding."""
    result = await got(site, scrape, answer, method=method)
    assert (result.status, result.body, result.charset) == ("ok", "", UNSET)
    result = await got(site, scrape, answer, method=method, extract=H1)
    assert why(result) == "the response is of no type, not HTML"


@pytest.mark.parametrize("types", [["text/html;charset=gbk", "text/html"]])
async def test_a_head_has_the_type_of_its_headers(
    site: Site, scrape: Scrape, types: list[str]
) -> None:
    """The headers of a HEAD say what they say of a GET."""
    result = await got(site, scrape, sent(types, b""), method="HEAD")
    assert (result.content_type, result.charset) == (", ".join(types), "gbk")


@pytest.mark.parametrize(
    ("name", "media"),
    [("a.html", "text/html"), ("a.html.gz", ""), ("sitemap.xml.gz", ""), ("a.none", ""), ("a", "")],
)
def test_the_name_of_a_packed_file_says_nothing(name: str, media: str) -> None:
    """Its bytes are gzip's, and not of the type that the name had before."""
    assert media_type(Path(name)) == media
