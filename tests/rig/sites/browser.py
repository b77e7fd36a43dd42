"""What Chromium makes of bytes and of queries in each encoding: asked once, written down for tests.

May touch: a headless Chromium out of .cache/, tests/data/encodings/.
Must never: be run by the tests, which read the answers; or ask for anything from the network.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tests.rig.debs import debs, libraries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DATA: Final = Path(__file__).resolve().parents[2] / "data" / "encodings"
SINGLE: Final = (
    "ibm866 iso-8859-2 iso-8859-3 iso-8859-4 iso-8859-5 iso-8859-6 iso-8859-7 iso-8859-8"
    " iso-8859-8-i iso-8859-10 iso-8859-13 iso-8859-14 iso-8859-15 iso-8859-16 koi8-r koi8-u"
    " macintosh windows-874 windows-1250 windows-1251 windows-1252 windows-1253 windows-1254"
    " windows-1255 windows-1256 windows-1257 windows-1258 x-mac-cyrillic x-user-defined"
).split()
MULTI: Final = (
    "big5 euc-jp euc-kr gb18030 gbk iso-2022-jp shift_jis utf-8 utf-16be utf-16le".split()
)
SAMPLES: Final = 200  # odd sequences of each multi-byte encoding

_ESCAPES: Final = (b"\x1b(B", b"\x1b(J", b"\x1b(I", b"\x1b$@", b"\x1b$B")
_EDGES: Final = bytes.fromhex(
    "00 0a 0e 0f 1b 21 22 24 28 2f 30 39 3a 3c 3e 40 41 42 49 4a 5c 5f 60 7e 7f 80 81 84 8e 8f 90"
    " 9f a0 a1 a2 bf c0 c1 c2 d7 d8 db dc df e0 ed ef f0 f4 f5 f7 f8 fc fd fe ff"
)
# Where Chromium 156 is not the standard. Big5: the four sequences of two characters come out as
# a control character and half a surrogate pair.
_BIG5_WRONG: Final = dict(
    zip(
        "\x93\udf04 \x93\udf0c \xb3\udf04 \xb3\udf0c".split(),
        "\xca\u0304 \xca\u030c \xea\u0304 \xea\u030c".split(),
        strict=True,
    )
)
# ISO-2022-JP: of the two bytes read again after a broken escape sequence the second is lost, so
# no sequence here has one (tests/extract/encoding/test_decoders.py tries them in another way).
_JP_WRONG: Final = re.compile(rb"\x1b(?:\((?![BIJ])|\$(?![@B]))")
_PAGE: Final = """<!doctype html><pre id=out></pre><script>
const hex = text => Array.from({length: text.length},
  (_, i) => text.charCodeAt(i).toString(16).padStart(4, "0")).join("");
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
out.textContent = ASKED.map(([label, text]) =>
  hex(new TextDecoder(label, {ignoreBOM: true}).decode(bytes(text)))).join("\\n");
</script>"""


_LINKS: Final = """<!doctype html><meta charset=CHARSET><pre id=out></pre><script>
const link = document.createElement("a");
out.textContent = document.characterSet + "\\n" + ASKED.map(query => {
  link.href = "http://h/?" + query;
  return link.search.slice(1);
}).join("\\n");
</script>"""


def numbers() -> Iterator[tuple[str, list[str]]]:
    """Queries of one character and an `x`, in blocks, each with its name."""
    for first in (*range(0, 0x10000, 0x1000), 0x1F000, 0x20000, 0x2F000, 0x10F000):
        codes = range(first, first + 0x1000)
        unfit = {*range(0xD800, 0xE000), *b"\t\n\r#"}  # no characters, or not in a query
        yield f"{first:x}", [f"{chr(code)}x" for code in codes if code not in unfit]


def _mixed() -> list[str]:
    """Queries that change between all kinds of characters; always the same ones."""
    dice = random.Random("queries")
    pool = (
        "ax~\\'\"<&%+= \x0e\x0f\x1b\x7f\x80\xa0\xa5\xe9\u0401\u05d0\u0e01\u2020\u203e\u20ac"
        "\u2212\u2225\u2550\u3000\u3042\u4e00\u5341\u9fb4\uac00\ue5e5\ue7c7\ue81e\uff0d\uff5e"
        "\uff71\uff9e\uff9f\ufffd\U0001f600\U00020547"
    )
    return ["".join(dice.choices(pool, k=dice.randrange(2, 12))) + "x" for _ in range(60)]


QUERIES: Final = _mixed()


def blocks(encoding: str) -> Iterator[tuple[str, bytes]]:
    """Long texts, each with its name, that hold every sequence of the encoding between them.

    A line feed parts the sequences: no decoder may swallow it.
    """
    if encoding == "iso-2022-jp":
        for escape in (b"", *_ESCAPES):
            pairs = itertools.product((x for x in range(256) if x != 0x1B), repeat=2)
            text = b"\n".join(escape + bytes(pair) + b"\x1b(B." for pair in pairs)
            yield f"after {escape.hex() or 'nothing'}", text
        return
    if encoding.startswith("utf-16"):
        units = (0, 0x41, 0xD7FF, 0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0xE000, 0xFFFD, 0xFFFF)
        order: Literal["big", "little"] = "big" if encoding == "utf-16be" else "little"
        for first in units:
            text = b"".join(
                unit.to_bytes(2, order)
                for rest in itertools.product(units, repeat=2)
                for unit in (first, *rest, 10)
            )
            yield f"{first:04x}", text
        return
    for lead in range(256):
        yield f"{lead:02x}", b"".join(bytes((lead, trail, 10)) for trail in range(256))
    yield from _longer(encoding)


def _longer(encoding: str) -> Iterator[tuple[str, bytes]]:
    """The sequences of three and four bytes."""
    if encoding == "euc-jp":
        for lead in range(256):
            yield f"8f{lead:02x}", b"".join(bytes((0x8F, lead, x, 10)) for x in range(256))
    if encoding in ("gbk", "gb18030"):
        for lead in range(0x81, 0xFF):
            rest = itertools.product(range(0x30, 0x3A), range(0x81, 0xFF), range(0x30, 0x3A))
            yield f"{lead:02x}****", b"".join(bytes((lead, *three)) for three in rest)
    if encoding == "utf-8":
        for lead in (0xC2, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5):
            tails = itertools.product(_EDGES, repeat=3)
            yield f"{lead:02x}***", b"".join(bytes((lead, *three, 10)) for three in tails)


def odd_sequences(encoding: str) -> list[bytes]:
    """Short sequences, whole and cut short, mostly malformed; always the same ones."""
    dice = random.Random(encoding)
    pieces: list[bytes] = [bytes((edge,)) for edge in _EDGES]
    if encoding == "iso-2022-jp":
        pieces = [*_ESCAPES * 6, *pieces, b"\x1b", b"\x1b$", b"\x1b(", b"$B", b"(B"]
    if encoding.startswith("gb"):
        pieces += [b"\x81\x30", b"\x81\x30\x81", b"\x84\x31\xa4\x37", b"\x81\x35\xf4\x37"] * 4
    if encoding.startswith("utf-16"):
        pieces += [b"\0", b"\xd8", b"\xdc", b"a"] * 12
    found = [b"".join(dice.choices(pieces, k=dice.randrange(1, 9))) for _ in range(SAMPLES)]
    return [text for text in found if encoding != "iso-2022-jp" or not _JP_WRONG.search(text)]


def digest(text: str) -> str:
    """A text's fingerprint, short enough to keep for every lead byte."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def ask(asked: Iterable[tuple[str, bytes]]) -> list[str]:
    """What Chromium's TextDecoder makes of pairs of label and bytes."""
    rows = [(label, base64.b64encode(body).decode()) for label, body in asked]
    found = _answers(_PAGE.replace("ASKED", json.dumps(rows)), len(rows))
    texts = [bytes.fromhex(text).decode("utf-16-be", "surrogatepass") for text in found]
    wrong = re.compile("|".join(_BIG5_WRONG))
    return [
        wrong.sub(lambda match: _BIG5_WRONG[match[0]], text) if label == "big5" else text
        for (label, _), text in zip(rows, texts, strict=True)
    ]


def ask_queries(encoding: str, asked: list[str]) -> list[str]:
    """What Chromium sends of each query for a link of a page in the encoding."""
    page = _LINKS.replace("CHARSET", encoding).replace("ASKED", json.dumps(asked))
    name, *found = _answers(page, len(asked) + 1)
    if name.lower() != encoding:
        raise RuntimeError(f"{encoding} is {name} to Chromium")
    return found


def _answers(page: str, lines: int) -> list[str]:
    """The lines that a page writes of itself."""
    root = debs("chromium-headless-shell")
    browser = root / "usr/lib/chromium/chromium-headless-shell"
    pulse = next(root.glob("usr/lib/*/pulseaudio"), root)  # a private folder of libpulse's
    path = f"{libraries(root)}:{pulse}"
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "page.html"
        file.write_text(page, encoding="utf-8")
        done = subprocess.run(
            [browser, "--no-sandbox", "--virtual-time-budget=600000", "--dump-dom", file.as_uri()],
            env={"LD_LIBRARY_PATH": path, "HOME": scratch, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            timeout=300,
            check=True,
        )
    text = done.stdout.decode().partition('id="out">')[2].partition("</pre>")[0]
    found = html.unescape(text).split("\n")
    if len(found) != lines:
        raise RuntimeError(f"{lines} asked, {len(found)} answered: {done.stderr[-500:]!r}")
    return found


@functools.cache
def golden() -> dict[str, dict[str, str]]:
    """By encoding: of a single-byte one its 256 characters, of another its blocks' fingerprints."""
    read = json.loads((DATA / "chromium.json").read_text(encoding="utf-8"))
    assert isinstance(read, dict)
    return read


@functools.cache
def queries() -> dict[str, dict[str, Any]]:
    """By encoding: the fingerprints of `numbers`, and what becomes of each of QUERIES."""
    read = json.loads((DATA / "queries.json").read_text(encoding="utf-8"))
    assert isinstance(read, dict)
    return read


def write_queries() -> None:
    """Ask Chromium for the queries and write them down."""
    names, asked = zip(*numbers(), strict=True)
    found: dict[str, dict[str, Any]] = {}
    for name in (*SINGLE, *MULTI):
        if name == "x-user-defined" or name.startswith("utf-"):  # a page can't declare the first
            continue
        answers = ask_queries(name, [query for block in asked for query in block] + QUERIES)
        each = iter(answers)
        digests = {
            key: digest("\n".join(next(each) for _ in block))
            for key, block in zip(names, asked, strict=True)
        }
        found[name] = {"blocks": digests, "samples": [*each]}
        print(name, len(answers), file=sys.stderr)
    text = json.dumps(found, indent=0, ensure_ascii=True)
    (DATA / "queries.json").write_text(text + "\n", encoding="utf-8")


def samples() -> list[tuple[str, bytes, str]]:
    """Encoding, bytes and text of each odd sequence."""
    lines = (DATA / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [(name, bytes.fromhex(data), text) for name, data, text in map(json.loads, lines)]


def main() -> int:
    """Ask Chromium for everything and write it down."""
    DATA.mkdir(parents=True, exist_ok=True)
    every = bytes(range(256))
    tables: dict[str, dict[str, str]] = {
        name: {"": text} for name, text in zip(SINGLE, ask((n, every) for n in SINGLE), strict=True)
    }
    for name in MULTI:
        names, bodies = zip(*blocks(name), strict=True)
        texts = ask((name, body) for body in bodies)
        tables[name] = {key: digest(text) for key, text in zip(names, texts, strict=True)}
        print(name, len(texts), file=sys.stderr)
    (DATA / "chromium.json").write_text(json.dumps(tables, indent=0) + "\n", encoding="utf-8")
    asked = [(name, body) for name in MULTI for body in odd_sequences(name)]
    lines = [
        json.dumps([name, body.hex(" "), text])
        for (name, body), text in zip(asked, ask(asked), strict=True)
    ]
    (DATA / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_queries()
    return 0


if __name__ == "__main__":
    sys.exit(main())
