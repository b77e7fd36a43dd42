"""A search for pages and selectors that take longer than they are said to at worst.

May touch: a processor's time, as long as it is told.
Must never: be content with what a person thought of: it breeds what is dear.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from selectolax.lexbor import LexborHTMLParser, SelectolaxError

from scraperd.extract.compiled import engine
from scraperd.extract.cost import cost_of_selector, of_html, shape_of
from scraperd.extract.document import BOUNDED_PAGE, LIGHT_PAGE
from scraperd.extract.selectors import fault, mended
from scraperd.sandbox.extractor import ON_LOOP, ON_LOOP_RULES
from tests.rig.clocks.effort import scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST: Final = 1000  # characters: extract.max_selector_length
SAFETY: Final = 1.5  # another machine, or a cache that is cold
FLOOR: Final = 0.004  # seconds; less is no harm, whatever was foretold
LARGER: Final = BOUNDED_PAGE // LIGHT_PAGE  # times as long are pages of a compiled tree
POOL: Final = 24  # of the dearest, from which others are bred

_TAGS: Final = ["b", "p", "a", "div", "li", "span", "x", "font", "td", "zzz", "*"]
_NAMES: Final = ["class", "class", "href", "zzz", "lang"]
_OPERATORS: Final = ["=", "~=", "|=", "^=", "$=", "*="]
_STATES: Final = (
    "first-child last-child only-child first-of-type last-of-type only-of-type empty root disabled"
    " enabled checked read-only read-write link any-link optional required blank hover".split()
)
_COUNTS: Final = ["2", "odd", "2n+1", "-n+3", "n", "999"]


class Underrated(Exception):  # noqa: N818 - it says what was found
    """A page and a selector that took longer than foretold."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A page of `pieces` (each a text and how often), and a selector; how dear it was."""

    pieces: tuple[tuple[str, int], ...]
    selector: str

    @property
    def page(self) -> bytes:
        """The page, no longer than the event loop takes it for selectolax."""
        return "".join(text * count for text, count in self.pieces).encode()[:LIGHT_PAGE]

    def larger(self, times: int) -> bytes:
        """The page with more of each piece, no longer than the event loop takes any."""
        text = "".join(text * (count * times) for text, count in self.pieces)
        return text.encode()[:BOUNDED_PAGE]


def _numbered(count: int) -> str:
    return " ".join(f"{k:x}" for k in range(count))


# What was underrated once, by a hundred times or by two. From these it begins.
KNOWN: Final = [
    Pair(((f"<p class='{'z ' * 5_500}a'>", 1),), ".a" * 480),
    Pair(((f"<p class='{'z ' * 5_500}a'>", 1),), ",".join([".a"] * 300)),
    Pair(((f"<p class='{'z ' * 15}a'>", 700),), ".a b, " * 100 + ".a .a"),
    Pair(((f"<p zzz='{'a' * 30_000}'>", 1),), f"[zzz*='{'a' * 900}b' i]"),
    Pair(((f"<p zzz='{'a' * 300}'>", 90),), f"[zzz*='{'a' * 200}b' i]"),
    Pair((("<p>", 8_000),), ",".join(["[zzz]"] * 160)),
    Pair((("<b>", 1_000),), f"{'z' * 900} b"),
    Pair((("<p>", 1_500),), "p:not(:last-of-type)"),
    Pair((("<b>", 1_000),), "x b"),
    Pair((("<!>", 8_000),), ",".join(["x :root"] * 80)),
    Pair((("<p>", 4_000),), ",".join(["*"] * 100)),
    Pair(((f"<p><a {_numbered(1_500)}>", 1), ("<p>x", 1_000)), "h1"),
    Pair(((f"<p><b {_numbered(400)}>", 1), ("<p>x", 600)), "h1"),
    Pair(((f"<p><a {_numbered(60)}>", 1), ("<p>x", 3_000)), "a[href]"),
    Pair(((f"<p><a zzz='{'y' * 9_000}'>", 1), ("<p>x", 2_000)), "a[zzz*=b]"),
    Pair(((f"<p {_numbered(3_000)}>", 1),), "[b]"),
    Pair(((f"<p {_numbered(280)}>", 20),), ",".join(["[b]"] * 200)),
]


class Dice:
    """Pages and selectors by chance; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._one_of = self.random.choice

    def pair(self) -> Pair:
        """One by chance alone."""
        return Pair(tuple(self.piece() for _ in range(self.random.randint(1, 3))), self.selector())

    def child(self, pair: Pair) -> Pair:
        """One that differs a little."""
        pieces, selector = list(pair.pieces), pair.selector
        kind = self.random.randint(0, 6)
        at = self.random.randrange(len(pieces))
        if kind == 0:
            pieces[at] = self.piece()
        elif kind == 1:
            text, count = pieces[at]
            pieces[at] = text, max(1, int(count * self._one_of([0.3, 0.6, 1.5, 3])))
        elif kind == 2:
            pieces.insert(at, self.piece())
        elif kind == 3:
            selector = self.selector()
        elif kind == 4:
            selector = self.repeated(selector)
        elif kind == 5:
            selector += self._one_of([" ", " > ", " ~ ", " + ", ", ", ""]) + self.compound(1)
        else:
            selector = self.compound(1) + self._one_of([" ", " > ", " ~ "]) + selector
        return Pair(tuple(pieces[:5]), selector if len(selector) <= MOST else pair.selector)

    def piece(self) -> tuple[str, int]:
        """A part of a page, and how often it comes: it fills the page, or a part of it."""
        room = int(LIGHT_PAGE * self._one_of([0.001, 0.02, 0.2, 0.45, 0.9]))
        tag = self._one_of(_TAGS[:-1])
        if self.random.random() < 0.4:
            return f"<{tag}{self.attributes(room)}>", 1
        few = self.attributes(self._one_of([0, 10, 40, 400])).replace("'", self._one_of("'\""))
        text = self._one_of(
            [
                f"<{tag}>",
                f"<{tag}{few}>",
                f"<{tag}{few}></{tag}>",
                f"<{tag} disabled>x",
                f"<p>x<{tag}>",
                f'<{tag} class="a b">x<i id="a">y</i></{tag}>',
                f'<b class="a{self._one_of(["", "<", ">", "</b>"])}">x',
                *("<p>x", "<p>x", "<!---->", "<!>", "x", "</p>", "<br>", " ", "</b>"),
            ]
        )
        return text, max(1, room // len(text))

    def attributes(self, room: int) -> str:
        """Of one element, so many bytes: a long list, a long word, many, or a few."""
        if not room:
            return ""
        name = self._one_of(_NAMES)
        words = self._one_of(["a ", "z ", "ab "])
        return self._one_of(
            [
                f" {name}='{words * (room // len(words))}{self._one_of(['', 'a'])}'",
                f" {name}='{'a' * room}'",
                " " + " ".join(f"{k:x}" for k in range(room // 5)),
                f" {name}={self._one_of(['a', 'b', 'a-b'])}",
            ]
        )

    def selector(self) -> str:
        """One of at most `MOST` characters."""
        text = self.compound(2)
        for _ in range(self._one_of([0, 0, 0, 1, 1, 2, 3])):
            text += self._one_of([" ", " > ", " + ", " ~ ", ",", " "]) + self.compound(1)
        if self.random.random() < 0.5:
            text = self.repeated(text)
        return text if len(text) <= MOST else self.compound(0)

    def repeated(self, text: str) -> str:
        """It again and again, as long as it may be."""
        joint = self._one_of(["", "", ",", " ", " > "])
        if text[:1].isalpha() or text[:1] == "*":
            joint = joint or ","
        times = max(1, min(MOST // (len(text) + len(joint)), self._one_of([2, 10, 500, 500])))
        return joint.join([text] * times)

    def compound(self, depth: int) -> str:
        """A tag, and what else is asked of the element."""
        tag = self._one_of([*_TAGS, "", "", self._one_of("qy") * self._one_of([1, 900])])
        count = self._one_of([0, 1, 1, 2]) if tag else self._one_of([1, 2])
        return tag + "".join(self._simple(depth) for _ in range(count))

    def _simple(self, depth: int) -> str:
        simple = [
            "." + self._one_of(["a", "z", "ab", "c"]),
            "#" + self._one_of(["a", "b"]),
            self._attribute(),
            ":" + self._one_of(_STATES),
        ]
        return self._one_of(simple + (self._functions(depth - 1) if depth else []))

    def _functions(self, depth: int) -> list[str]:
        which = self._one_of(["child", "last-child", "of-type", "last-of-type"])
        some = self.random.random() < 0.4 and which.endswith("child")
        of = f" of {self.compound(0)}" if some else ""
        has = self._one_of(["", "> ", "+ ", "~ "]) + self.compound(depth)
        inner = self.compound(depth) + self._one_of(["", " b", ",x", " ~ x"])
        return [
            f":nth-{which}({self._one_of(_COUNTS)}{of})",
            f":has({has}{self._one_of(['', ' b', ' x'])})",
            f":{self._one_of(['not', 'is', 'where'])}({inner})",
        ]

    def _attribute(self) -> str:
        name = self._one_of([*_NAMES, "1e", "0"])
        name = name if not name[0].isdigit() else "q" * 900
        if self.random.random() < 0.3:
            return f"[{name}]"
        value = self._one_of(["a", "b", "z z"]) * self._one_of([1, 30, 300]) + self._one_of("ab")
        return f"[{name}{self._one_of(_OPERATORS)}'{value}'{self._one_of(['', ' i', ' s'])}]"


def cpu(work: Callable[[], object], enough: float) -> float:
    """Seconds of this thread's processor; the best of three, if the first is over `enough`."""
    best = 1e9
    for _ in range(3):
        began = time.thread_time()
        work()
        best = min(best, time.thread_time() - began)
        if best <= enough:
            break
    return best


def tried(pair: Pair) -> float:
    """How dear the pair is beside what was foretold; raises Underrated. 0 for what is refused."""
    page = pair.page
    if (foretold := of_html(page, enough=ON_LOOP * 1e9) / 1e9) > ON_LOOP:
        return 0.0
    took = cpu(lambda: LexborHTMLParser(page), max(FLOOR, foretold))
    _judge(pair, "parsing", took, foretold)
    parsing = took / max(foretold, 0.001)
    selector = mended(pair.selector)
    if fault(pair.selector) or not _is_selector(selector):
        return parsing
    tree = LexborHTMLParser(page)
    cost = cost_of_selector(selector, 0)
    foretold = cost.at(shape_of(page, len(tree.css("*")), cost)) / 1e9
    if foretold > ON_LOOP_RULES:
        return max(parsing, 0.1 * ON_LOOP_RULES / foretold)
    took = max(
        cpu(lambda: tree.css(selector), max(FLOOR, foretold)),
        cpu(lambda: tree.css_first(selector), max(FLOOR, foretold)),
    )
    _judge(pair, "searching", took, foretold)
    return max(parsing, took / max(foretold, 0.001))


def tried_compiled(pair: Pair, times: int) -> float:
    """The same with a compiled tree, which knows its shape, of a page so many times as large.

    Parsing may take no longer than its bound of seconds, whatever the page.
    """
    page, selector = pair.larger(times), mended(pair.selector)
    bound = engine.BOUNDS.seconds
    took = cpu(lambda: _parsed(page), bound)
    _judge(pair, f"parsing {times} times as much", took, bound)
    if (tree := _parsed(page)) is None or fault(pair.selector) or not _is_selector(selector):
        return took / bound
    cost = cost_of_selector(selector, 0, compiled=True)
    foretold = cost.at(engine.shape_of(tree)) / 1e9
    if foretold > ON_LOOP_RULES:
        return max(took / bound, 0.1 * ON_LOOP_RULES / foretold)
    took = max(
        cpu(lambda: tree.css(selector), max(FLOOR, foretold)),
        cpu(lambda: tree.css_first(selector), max(FLOOR, foretold)),
    )
    _judge(pair, f"searching {times} times as much", took, foretold)
    return took / max(foretold, 0.001)


def _parsed(page: bytes) -> Any:
    try:
        return engine.parse(page, bounded=True)
    except engine.Beyond:
        return None


def _judge(pair: Pair, what: str, took: float, foretold: float) -> None:
    bound = max(FLOOR, SAFETY * foretold)
    if took > bound and took > scaled(bound):
        pieces = [(f"{text[:60]} of {len(text)}", n) for text, n in pair.pieces]
        raise Underrated(
            f"{what} took {took * 1e3:.1f} ms, not {foretold * 1e3:.1f}: "
            f"{pieces} {pair.selector[:200]!r} of {len(pair.selector)}"
        )


def _is_selector(text: str) -> bool:
    try:
        LexborHTMLParser(b"").css_first(text)
    except (SelectolaxError, UnicodeError):
        return False
    return True


def search(seed: int, seconds: float, *, compiled: bool = False) -> Iterator[tuple[float, Pair]]:
    """Breed from the dearest for so many seconds of CPU; yields each that is dearer than all."""
    dice, end = Dice(seed), time.thread_time() + seconds
    pool: list[tuple[float, Pair]] = []
    best, known = 0.0, list(KNOWN)
    while time.thread_time() < end or known:
        if known:
            pair = known.pop()
        elif len(pool) < POOL or dice.random.random() < 0.5:
            pair = dice.pair()
        else:
            pair = dice.child(dice.random.choice(pool)[1])
        times = dice.random.choice([1, 4, LARGER])
        dear = tried_compiled(pair, times) if compiled else tried(pair)
        if dear > best:
            best = dear
            yield dear, pair
        pool.append((dear, pair))
        pool.sort(key=lambda one: -one[0])
        del pool[POOL:]


def main() -> Any:
    """Search as long as asked; exit 1 if a pair was underrated."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="go on after one is found")
    parser.add_argument("--compiled", action="store_true", help="with the compiled tree")
    options = parser.parse_args()
    found, seed, end = 0, options.seed, time.thread_time() + options.seconds
    while (left := end - time.thread_time()) > 0:
        try:
            for dear, pair in search(seed, min(left, 10), compiled=options.compiled):
                last = f"{dear:.2f} {pair.selector[:60]}"
            print(f"seed {seed}: the dearest {last}", flush=True)
        except Underrated as one:
            print(f"seed {seed}: {one}", flush=True)
            found += 1
            if not options.all:
                return 1
        seed += 1
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
