"""The URL corpora of web-platform-tests: references, URLs of jobs, and hosts.

May touch: tests/data/conformance/url/, the functions that read URLs.
Must never: leave a case out without a reason that is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from scraperd.base.urls import check_url, exact, host_as_dialled, host_of
from scraperd.extract.compiled import engine
from scraperd.extract.nodes import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).parents[1] / "data" / "conformance" / "url"
WEB: Final = ("http://", "https://")
NO_JOB: Final = (
    "leads to an http(s) URL that no job may have: user and password, port 0, a long host"
)
NEWER: Final = (
    "Chromium takes it: a label that begins with xn-- and is not Punycode of a valid one, or a"
    " character that was an error in 2023"
)
NOT_A_NAME: Final = "a host that browsers take and the DNS cannot have"


@dataclass(slots=True)
class Corpus:
    """What came of the cases of one corpus."""

    name: str
    agree: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    differ: list[str] = field(default_factory=list)

    def judge(self, what: str, ours: object, theirs: object, why: str = "") -> None:
        """Count a case; `why` says why ours may be None where theirs is not."""
        if ours == theirs:
            self.agree += 1
        elif ours is None and why:
            self.explained[why] += 1
        else:
            self.differ.append(f"{what}: {ours!r}, and the standard says {theirs!r}")

    def no_url(self, text: str, host: str | None) -> None:
        """Count a case that is taken, and that the standard of 2023 refused."""
        if any(label.startswith("xn--") for label in (host or "").split(".")):
            self.explained[NEWER] += 1
        else:
            self.differ.append(f"{text!r}: taken, and the standard says it is no URL")


def corpora() -> list[Corpus]:
    """Run all of them."""
    return [references(), jobs(), hosts(), idna()]


def _cases(name: str) -> Iterator[dict[str, Any]]:
    for case in json.loads((FOLDER / name).read_text()):
        if isinstance(case, dict):
            yield case


def references() -> Corpus:
    """Each reference of a page of the web, in both trees: where it leads."""
    corpus = Corpus("urltestdata.json, references of web pages")
    for case in _cases("urltestdata.json"):
        base, text = case["base"], case["input"]
        if base is None or not base.startswith(WEB):
            continue
        href = None if case.get("failure") else case["href"]
        why = NO_JOB if href and href.startswith(WEB) and check_url(href) else ""
        here = Base(base)
        corpus.judge(f"{text!r} from {base}", here.resolve(text), href, why)
        if engine.AVAILABLE and "\0" not in text and "\r" not in text:  # HTML changes these
            page = f"<a href='{_escaped(text)}'>".encode("utf-8", "surrogatepass")
            [(_, url, _)] = engine.links_in(engine.parse(page, bounded=True), here)
            corpus.judge(f"{text!r} from {base}, compiled", url, href, why)
    return corpus


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("'", "&#39;")


def jobs() -> Corpus:
    """Each absolute URL that a job may have: its host, its port, and that browsers take it."""
    corpus = Corpus("urltestdata.json, URLs of jobs")
    for case in _cases("urltestdata.json"):
        text = case["input"]
        if check_url(text) is not None:
            continue
        if case.get("failure"):
            corpus.no_url(text, host_of(text))
            continue
        url = exact(text)
        corpus.judge(f"host of {text!r}", host_of(text), case["hostname"].strip("[]"))
        corpus.judge(f"dialled host of {text!r}", url.raw_host, case["hostname"].strip("[]"))
        port = "" if url.is_default_port() else str(url.port)
        corpus.judge(f"port of {text!r}", port, case["port"])
    return corpus


def hosts() -> Corpus:
    """Each domain of toascii.json, as the host of a URL."""
    corpus = Corpus("toascii.json, hosts")
    for case in _cases("toascii.json"):
        text, name = case["input"], case["output"]
        if name is None and (host := host_as_dialled(text)) is not None:
            corpus.no_url(text, host)
        else:
            corpus.judge(repr(text), host_as_dialled(text), name, NOT_A_NAME)
    return corpus


def idna() -> Corpus:
    """Each domain of IdnaTestV2.json of 2023, with what Chromium has made of each since then."""
    corpus = Corpus("IdnaTestV2.json, hosts")
    for text, name, chromium in json.loads((FOLDER / "IdnaTestV2.json").read_text()):
        host = host_as_dialled(quote(text, safe=""))  # as web-platform-tests do
        if name is None and host is not None and host == chromium:
            corpus.explained[NEWER] += 1
        else:
            corpus.judge(repr(text), host, name, NOT_A_NAME if name == chromium else "")
    return corpus
