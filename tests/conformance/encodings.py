"""The encoding corpus of html5lib-tests: pages, and the encoding that a browser finds.

May touch: tests/data/conformance/encoding/, the finder of encodings.
Must never: leave a case out without a reason that is counted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scraperd.extract.encoding import sniff
from tests.conformance.urls import Corpus

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).parents[1] / "data" / "conformance" / "encoding"
FILES: Final = ("tests1.dat", "tests2.dat", "test-yahoo-jp.dat")
_CASE: Final = re.compile(rb"#data\n(.*?)\n#encoding\n([^\n]+)(?=\n|\Z)", re.DOTALL)
# What makes a page windows-1252 where the page declares nothing: a byte that is not UTF-8.
UNDECLARED: Final = b"\n\xe9"
SCRIPT: Final = "a script of the page writes the declaration, and no script is run"


def corpora() -> list[Corpus]:
    """Run all of them."""
    return [pages()]


def _cases() -> Iterator[tuple[str, bytes, str]]:
    for name in FILES:
        text = (FOLDER / name).read_bytes()
        found = _CASE.findall(text)
        assert len(found) == text.count(b"#data\n"), name
        for at, (page, encoding) in enumerate(found):
            yield f"{name}, case {at}", page, encoding.decode().lower()


def pages() -> Corpus:
    """Each page of the corpus, without a header: its encoding."""
    corpus = Corpus("html5lib-tests encoding, pages")
    for what, page, name in _cases():
        if b"document.write(" in page:
            corpus.explained[SCRIPT] += 1
        else:
            corpus.judge(what, sniff.sniff(page + UNDECLARED, "text/html"), name)
    return corpus
