"""The corpora of MIME types: headers, and what documents are by their first bytes.

May touch: tests/data/conformance/mime/, the functions that read a response's type.
Must never: leave a case out without a reason that is counted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from scraperd.extract.media.computed import BINARY, computed
from scraperd.extract.media.header import MimeType, extracted, parse, read_type
from scraperd.fetch.message import Response
from scraperd.scrape.content import media_of, sniffing_of
from tests.conformance.urls import Corpus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scraperd.extract.media.computed import Sniffing

FOLDER: Final = Path(__file__).parents[1] / "data" / "conformance" / "mime"
TYPES: Final = (None, "", "bogus", "*/*", "unknown/unknown", "application/unknown")
PLAYED: Final = ("video/mp4", "video/webm", "audio/mpeg")
NO_PLAYER: Final = "MP4, WebM or MP3 without ID3: application/octet-stream here, also binary"
AS_SENT: Final = "an image, audio or video type that was sent is kept; none is supported here"
_TOKEN: Final = frozenset(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


def corpora() -> list[Corpus]:
    """Run all of them."""
    return [types(), headers(), unknown(), scriptable(), computed_types()]


def _cases(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


def _written(mime: MimeType | None) -> str | None:
    """A MIME type as text (MIME Sniffing standard, "serialize a MIME type")."""
    if mime is None:
        return None
    text = mime.essence
    for name, value in mime.parameters.items():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        text += f";{name}={value}" if value and set(value) <= _TOKEN else f';{name}="{escaped}"'
    return text


def types() -> Corpus:
    """Each value as one MIME type, and the encoding that it names."""
    corpus = Corpus("mime-types.json and generated-mime-types.json, one type")
    for case in _cases("mime-types.json"):
        text = case["input"]
        corpus.judge(repr(text), _written(parse(text)), case["output"])
        if "encoding" in case:
            corpus.judge(f"encoding of {text!r}", read_type(text).encoding, _name(case["encoding"]))
    for text, output in _cases("generated-mime-types.json"):
        expected = output and output.replace("; ", ";")  # as the standard wrote it until 2018
        corpus.judge(repr(text), _written(parse(text)), expected)
    return corpus


def headers() -> Corpus:
    """Each list of Content-Type headers: the type, and the encoding."""
    corpus = Corpus("content-types.json and script-content-types.json, headers")
    for case in _cases("content-types.json"):
        media = media_of(_response(case["input"]))
        corpus.judge(repr(media), _written(extracted(media)), case["mimeType"])
        corpus.judge(f"encoding of {media!r}", read_type(media).encoding, _name(case["encoding"]))
    for case in _cases("script-content-types.json"):
        said = read_type(media_of(_response(case["input"])))
        corpus.judge(repr(case["input"]), said.essence == "text/javascript", case["executes"])
        corpus.judge(f"encoding of {case['input']!r}", said.encoding, _name(case["encoding"]))
    return corpus


def _name(encoding: str | None) -> str | None:
    return None if encoding is None else encoding.lower()


def unknown() -> Corpus:
    """Each body without a type: what a document it is."""
    corpus = Corpus("unknown-mime-types.json, bodies")
    for what, theirs, body in _cases("unknown-mime-types.json"):
        _judge(corpus, what, _computed(_response([]), body), theirs)
    return corpus


def scriptable() -> Corpus:
    """Each body under each unknown type, with nosniff and without."""
    corpus = Corpus("scriptable-mime-types.json, bodies under unknown types")
    for body, usual, nosniff in _cases("scriptable-mime-types.json"):
        for sent in TYPES:
            named = [] if sent is None else [sent]
            what = f"{bytes.fromhex(body)!r} as {sent}"
            corpus.judge(what, _computed(_response(named), body), usual)
            ours = _computed(_response(named, nosniff=True), body)
            corpus.judge(f"{what}, nosniff", ours, nosniff)
    return corpus


def computed_types() -> Corpus:
    """Each body with its header, or with a type that a file's name gives."""
    corpus = Corpus("whatwg-mimetype sniff.js, bodies")
    for case in _cases("sniff.json"):
        named = [case[key] for key in ("contentTypeHeader", "providedType") if key in case]
        answer = _response(named, nosniff="noSniff" in case)
        ours = _computed(answer, case["bytes"], by_name="providedType" in case)
        if "not" in case:
            corpus.judge(case["name"], ours != case["not"], theirs=True)
        else:
            _judge(
                corpus, case["name"], ours, case["expected"], read_type(media_of(answer)).essence
            )
    return corpus


def _judge(corpus: Corpus, what: str, ours: str, theirs: str, sent: str = "") -> None:
    """Count a case; the kinds of data that we never tell apart are a reason."""
    if ours != theirs and not sent and ours == BINARY and theirs in PLAYED:
        corpus.explained[NO_PLAYER] += 1
    elif ours == sent != theirs and sent.startswith(("image/", "audio/", "video/")):
        corpus.explained[AS_SENT] += 1
    else:
        corpus.judge(what, ours, theirs)


def _response(types: Iterable[str], *, nosniff: bool = False) -> Response:
    lines = [("Content-Type", value) for value in types]
    lines += [("X-Content-Type-Options", "nosniff")] if nosniff else []
    return Response(200, URL("http://h/"), CIMultiDictProxy(CIMultiDict(lines)), b"")


def _computed(answer: Response, body: str, *, by_name: bool = False) -> str:
    """What the body is; the type of a file's name is not one of Apache's."""
    media = media_of(answer)
    sniffing: Sniffing = "" if by_name else sniffing_of(answer, media)
    return computed(read_type(media).essence, bytes.fromhex(body), sniffing)
