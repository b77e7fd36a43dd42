"""The cookie corpora of the IETF's http-state group, and the tests of the public suffix list.

May touch: tests/data/conformance/cookies/, the functions that read and send cookies.
Must never: leave a case out without a reason that is counted.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from yarl import URL

from scraperd.base.urls import host_as_dialled, resolve
from scraperd.scrape.cookies.dates import cookie_date
from scraperd.scrape.cookies.jar import Cookies
from scraperd.scrape.cookies.suffixes import is_public_suffix
from tests.conformance.urls import Corpus

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).parents[1] / "data" / "conformance" / "cookies"
SITE: Final = URL("http://home.example.org:8888/")  # of the group's own tests
NOW: Final = datetime(2011, 4, 1, tzinfo=UTC)  # RFC 6265 is of this month
DISABLED: Final = "the corpus itself has switched the case off: NUL, CR, and %6F in a path"
_COMMENT: Final = re.compile(r"^\s*//.*$", re.MULTILINE)
_RULE: Final = re.compile(r"^checkPublicSuffix\('(.+)', (?:'(.+)'|null)\);$", re.MULTILINE)


def corpora() -> list[Corpus]:
    """Run all of them."""
    return [parser(), dates(), suffixes()]


def parser() -> Corpus:
    """Each set of lines: what the next request sends of them."""
    corpus = Corpus("http-state parser.json, cookies of a redirect")
    for case in json.loads((FOLDER / "parser.json").read_text()):
        name = case["test"].lower()
        cookies = Cookies(SITE, ())
        cookies.learn(SITE.with_path("/cookie-parser"), case["received"], {}, NOW)
        to = case.get("sent-to", "/cookie-parser-result")
        sent = cookies.header(resolve(SITE, to))
        wanted = "; ".join(f"{each['name']}={each['value']}" for each in case["sent"])
        if sent != wanted and name.startswith("disabled"):
            corpus.explained[DISABLED] += 1
        else:
            corpus.judge(f"{name} {case['received']}", sent, wanted)
    return corpus


def dates() -> Corpus:
    """Each date of a cookie, as section 5.1.1 reads it."""
    corpus = Corpus("http-state dates, Expires")
    for case in _dates():
        when = cookie_date(case["test"])
        ours = None if when is None else format_datetime(when, usegmt=True)
        corpus.judge(repr(case["test"]), ours, case["expected"])
    return corpus


def _dates() -> Iterator[dict[str, Any]]:
    for name in ("examples.json", "bsd-examples.json"):
        yield from json.loads(_COMMENT.sub("", (FOLDER / name).read_text()))


def suffixes() -> Corpus:
    """Each domain: the one that is registered under the public suffix, as our answers show it."""
    corpus = Corpus("publicsuffix.org test_psl.txt, Domain")
    for domain, registered in _RULE.findall((FOLDER / "test_psl.txt").read_text()):
        if domain.startswith("."):  # a cookie's domain has lost its dot before
            continue
        host = host_as_dialled(domain) or ""
        wanted = host_as_dialled(registered) if registered else None
        corpus.judge(domain, _registered(host), wanted)
    return corpus


def _registered(host: str) -> str | None:
    """One label more than the longest public suffix of `host`; None if it is itself one."""
    labels = host.split(".")
    start = next(n for n in range(len(labels)) if is_public_suffix(".".join(labels[n:])))
    return ".".join(labels[start - 1 :]) if start else None
