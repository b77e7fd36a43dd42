"""Tests of what selectors match, against another engine of the Selectors standard.

May touch: nothing outside of memory.
Must never: use a selector that the other engine is known to read differently, without saying so.
"""

from __future__ import annotations

import json
import random
from typing import Final

import bs4
import pytest
import soupsieve
from selectolax.lexbor import LexborHTMLParser

from scraperd.extract.compile import compile_rules
from scraperd.extract.rules import RuleError
from scraperd.extract.selectors import mended
from tests.oracles.underrated import Dice as Breeder

TAGS: Final = ["div", "section", "span", "main"]
ATTRIBUTES: Final = [
    *("[title]", "[title=ab]", "[title='ab' i]", "[title^=a]", "[title$=b]", "[title*='-']"),
    *("[title~=a]", "[title|=a]", "[title^='']", "[title~='']", "[title='']", "[class]"),
]
PLACES: Final = [
    *(":first-child", ":last-child", ":only-child", ":first-of-type", ":last-of-type"),
    *(":only-of-type", ":root"),
]
COUNTS: Final = ["odd", "even", "2", "n+2", "2n+1", "-n+2", "3n", "1", "0", "-1", "n", "-2n+5"]


class Dice:
    """Random trees and selectors; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._one_of = self._random.choice

    def tree(self, depth: int) -> str:
        tag, attributes = self._one_of(TAGS), ""
        if self._random.random() < 0.4:
            attributes += f' class="{" ".join(self._random.sample("xyz", 2))}"'
        if self._random.random() < 0.3:
            attributes += f' title="{self._one_of(["ab", "AB", "a-b", "a b", "", "ba"])}"'
        inner = "t" if not depth else ""
        for _ in range(self._random.randint(0, 3) if depth else 0):
            inner += self.tree(depth - 1) if self._random.random() < 0.7 else "t<!--c-->"
        return f"<{tag}{attributes}>{inner}</{tag}>"

    def selector(self, depth: int) -> str:
        text = self._compound(depth)
        for _ in range(self._one_of([0, 0, 1, 1, 2])):
            text += self._one_of([" ", " > ", " + ", " ~ "]) + self._compound(depth)
        return text

    def _compound(self, depth: int) -> str:
        tag = self._one_of([*TAGS, "*", ""])
        return tag + "".join(
            self._simple(depth) for _ in range(self._one_of([0, 1, 2]) if tag else 1)
        )

    def _simple(self, depth: int) -> str:
        kind = self._random.randint(0, 5 if depth else 3)
        if kind == 0:
            return "." + self._one_of("xyz")
        if kind == 1:
            return self._one_of(ATTRIBUTES)
        if kind == 2:
            return self._one_of(PLACES)
        if kind == 3:
            which = self._one_of(["child", "last-child", "of-type", "last-of-type"])
            of = f" of {self.selector(0)}, .x" if depth and which.endswith("child") else ""
            return f":nth-{which}({self._one_of(COUNTS)}{of})"
        if kind == 4:
            combinators = ["", "> ", "+ ", "~ "]
            return f":has({self._one_of(combinators)}{self.selector(depth - 1)}, i)"
        name = self._one_of(["not", "is", "where"])
        return f":{name}({self.selector(depth - 1)}, {self.selector(depth - 1)})"


@pytest.mark.parametrize("seed", range(4))
def test_selectors_match_what_another_engine_matches(seed: int) -> None:
    """Thousands of random selectors on random trees: the same elements, in document order."""
    dice, compared = Dice(seed), 0
    for _ in range(60):
        page = f"<body>{dice.tree(3)}{dice.tree(3)}"
        tree = LexborHTMLParser(page)
        for number, node in enumerate(tree.css("*")):
            node.attrs["n"] = str(number)  # type: ignore[index]
        soup = bs4.BeautifulSoup(tree.html or "", "html5lib")
        for _ in range(20):
            selector = dice.selector(2)
            compile_rules(b'{"a": "%s"}' % selector.encode())
            ours = [node.attributes["n"] for node in tree.css(mended(selector))]
            try:
                theirs = [element["n"] for element in soup.select(selector)]
            except soupsieve.SelectorSyntaxError:  # it is stricter, with :has inside of :has
                continue
            assert list(dict.fromkeys(ours)) == theirs, f"{selector} on {tree.html}"
            compared += bool(theirs)
    assert compared > 200


@pytest.mark.parametrize(
    ("selector", "form"),
    [
        ("a b", "a b"),
        (":is(a) b", "*:is(a) b"),
        ("a :not(b) c", "a *:not(b) c"),
        ("a:not(b) c", "a:not(b) c"),
        ("a,:is(b)", "a,*:is(b)"),
        ("a:has(:is(b))", "a:has(*:is(b))"),
        ("a:has(>:is(b))", "a:has(>*:is(b))"),
        (":nth-child(2 of a, b) c", "*:nth-child(2 of :is( a, b)) c"),
        ("li:nth-last-child(2n+1 of .x.y)", "li:nth-last-child(2n+1 of :is( .x.y))"),
        ("li:nth-child(2n+1)", "li:nth-child(2n+1)"),
        ("[a=' :is(']", "[a=' :is(']"),
        (r"a\ :hover", r"a\ :hover"),
        (r"\:is", r"\:is"),
        (")", ")"),
        (r"\41 :link", r"\41 :link"),
        (r"\41  :link", r"\41  *:any-link"),
        ("a:link", "a:any-link"),
        ("[x=':link']", "[x=':link']"),
        (":is(a", "*:is(a"),
    ],
)
def test_only_what_lexbor_reads_wrong_is_written_anew(selector: str, form: str) -> None:
    """A pseudo-class that begins a compound, and the list that nth-child counts of."""
    assert mended(selector) == form


JUNK: Final = [
    *("\0", "(", ")", "[", "]", "\\", "\\0 ", "\\41 ", "/*", "*/", "'", '"', "|", "||", "*|", "@"),
    *("{", "}", ";", "\n", "\f", "\r", "\x80", "é", "<!--", "-->", "::", "::before", ":is(", "!"),
    *("$", "^", "=", "~", "+", ">", ",", "#", ".", "-", "--", ":lang(", ":nth-child(2 of ", " "),
    *("\v", "\\\n", "&"),
]


def test_what_is_checked_is_what_is_run() -> None:
    """Of 5,000 broken selectors, each that compiles can be applied to a page and to a node."""
    dice, chance = Breeder(5), random.Random(3)
    tree = LexborHTMLParser("<body class=a><p class=a>x</p><b title=z><i></i></b><svg><a />")
    node, taken = tree.body, 0
    assert node is not None
    for _ in range(5_000):
        text = dice.compound(2)[:100]
        for _ in range(chance.randint(0, 3)):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice(JUNK) + text[at + chance.randint(0, 1) :]
        try:
            rule = compile_rules(json.dumps({"a": {"selector": text}}).encode()).by_name[0][1]
        except RuleError:
            continue
        taken += 1
        for scope in (tree, node):
            scope.css_first(rule.selectors[0])
            scope.css(rule.selectors[0])
    assert taken > 500


@pytest.mark.parametrize("selector", [r"\0 :is(:root", ":is(a", "a[b", "a)", "a\0b"])
def test_what_only_a_parser_would_close_is_refused(selector: str) -> None:
    """What is added to a selector that is open would stand inside of what is open."""
    with pytest.raises(RuleError, match="not a CSS selector"):
        compile_rules(json.dumps({"a": {"selector": selector}}).encode())
