"""The worst-case time of a page and its rules: whether the event loop may search it.

May touch: selectors and JMESPath trees as values, regular expressions. Pure.
Must never: underrate a page or a rule; what it overrates only runs in another process.
"""

from __future__ import annotations

import re
from functools import reduce
from itertools import islice
from math import prod
from typing import Any, Final, NamedTuple

import msgspec
import re2
from msgspec import Struct

from scraperd.extract.selectors import ESCAPE, tags_of

# Nanoseconds, measured with selectolax 1.0.2, with some room; docs/decisions/0018 has how.
_NODE: Final = 45.0  # for each element, for any selector
_TEST: Final = 30.0  # a test of one part of a selector
_LOOKUP: Final = 30.0  # of a name that no page has; lexbor does it again each time
_NAME: Final = 2.4  # and for each byte of it
_CLASS: Final = 3.2  # for each byte of a list of classes that is gone through
_VALUE: Final = 0.5  # for each byte of a value in which a text is looked for
_NEEDLE: Final = 0.9  # and for each pair of bytes of both
_PASSED: Final = 20.0  # for each element, where a compiled tree looks for tags itself
_TAG: Final = 3.0  # and for each tag that is looked for
_NAMED: Final = 12.0  # and for each attribute of such an element, if it must have one: memory
_LISTED: Final = 8.0  # for each attribute that is passed on the way to the one that is asked for
_STEP: Final = 4.0  # for each node that is passed on the way to another
_READ: Final = 260.0  # for each byte of a selector: lexbor reads it again at each call
_MATCH: Final = 400.0  # an element that is found, each time
_ELEMENT: Final = 200.0  # an element that is made
_OPEN: Final = 1.5  # for each pair of tags: the parser looks through the elements that are open
_ATTRIBUTE: Final = 2.8  # for each pair of an element's attributes: is a name new?
_CLONED: Final = 60.0  # an attribute of an element that is opened again
_CLONED_OF_MANY: Final = 300.0  # the same of one that has many: memory is what that takes
_COPIED: Final = 0.5  # and a byte of it
_ALIKE: Final = 1.0  # for each pair of attributes of two formatting elements: are they the same?
DECODED: Final = 1400.0  # a byte that is an error in an encoding other than UTF-8
_JSON_STEP: Final = 700.0  # a node of an expression, applied to a value

# All of these are for pages in lower case.
_TAGS: Final = rb"b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u"
_FORMATTING = re.compile(rb"<(?:%s)([\t\n\f\r />])" % _TAGS)
_RICH = re.compile(rb"<(?:%s)[\t\n\f\r /]" % _TAGS)
_ATTRIBUTES: Final = rb"""(?:[\t\n\f\r ]+[a-z-]+="[^"<>]*")*>[^<]*"""
_CLOSED = re.compile(  # with nothing inside but text, and such as hold only text
    rb"<(a|span|%s)%s(?:<(a|span|%s)%s</\2>[^<]*)*</\1>" % (_TAGS, _ATTRIBUTES, _TAGS, _ATTRIBUTES)
)
_ANCHOR = re.compile(rb"<a[\t\n\f\r /]")
_PLAIN: Final = 36  # three of each of twelve; there is one nobr at most
FEW: Final = (16, 64)  # attributes of a formatting element, or so; with more it is dense
SOME: Final = 300  # the same of any element
_ATTRIBUTE_BYTES: Final = 3.7  # of a name that is not there already, and what ends it; on average
_LATIN1 = re2.Options()
_LATIN1.encoding = re2.Options.Encoding.LATIN1
# White space, slashes and quotes part attributes. A `>` ends a tag, but in a quoted value.
_PARTS: Final = rb"""(?:[^>\s/"']*[\s/"']){%d}"""
_MANY_PARTS: Final = rb"<[a-z]" + _PARTS % SOME
_DENSE = re2.compile(_MANY_PARTS, _LATIN1)
_DENSE_FORMATTING = [re2.compile(rb"<(?:a|%s)[\s/]" % _TAGS + _PARTS % few, _LATIN1) for few in FEW]
_QUOTED_END: Final = rb"""=\s*(?:"[^">]*>|'[^'>]*>)"""
_SPANNING = re2.compile(_QUOTED_END, _LATIN1)
_UNENDED: Final = rb"<[a-z][^<>]*<"
_BROKEN = re2.compile(_UNENDED, _LATIN1)
_ODD = re2.compile(b"|".join((_QUOTED_END, _UNENDED, _MANY_PARTS)), _LATIN1)  # few pages are
_MANY: Final = 20  # tags that begin before one has ended; RE2 would go through each for all of them
_LONG = re2.compile(rb"""=\s*(?:"[^"]{256}|'[^']{256}|[^\s>"']{256})""", _LATIN1)
LONG: Final = 256  # bytes of a value
_CLASSES = (
    re.compile(  # the value, if the name is an attribute's; each place is looked at by itself
        rb"""class[\t\n\f\r ]*=[\t\n\f\r ]*(?=("[^"]{0,257}|'[^']{0,257}|[^\t\n\f\r >]{0,257}))"""
    )
)
_COMMENT = re.compile(rb"<(?:[!?]|/[^a-zA-Z])")
MOST_STEPS: Final = 16  # of a walk; with more it would take long to say how long a search takes
_MAKING: Final = frozenset({"to_string", "to_array", "join", "map", "merge"})

_STRING: Final = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
_IDENT: Final = rf"(?:[\w-]|[^\x00-\x7f]|{ESCAPE})+"
_TOKENS = re.compile(
    rf"(?P<attribute>\[(?:{_STRING}|\\.|[^\]\"'\\])*\]?)"
    rf"|(?P<function>:{_IDENT}\()\s*|(?P<close>\s*\))|\s*(?P<combinator>[>+~,])\s*|(?P<space>\s+)"
    rf"|:(?P<pseudo>{_IDENT})|\.(?P<class>{_IDENT})|\#(?P<id>{_IDENT})|(?P<tag>{_IDENT})"
    rf"|(?P<other>{_STRING}|.)",
    re.DOTALL,
)
_KNOWN_TAGS: Final = frozenset(  # lexbor needs no look-up for these, after the first
    "* a abbr address area article aside audio b base body br button caption center cite code col"
    " dd del details div dl dt em fieldset figcaption figure font footer form frame h1 h2 h3 h4 h5"
    " h6 head header hr html i iframe img input ins kbd label legend li link main map meta nav ol"
    " optgroup option p picture pre q s samp script section select small source span strike strong"
    " style sub summary sup svg table tbody td template textarea tfoot th thead time title tr tt u"
    " ul var video".split()
)
_FLAT: Final = frozenset({"is", "where", "not", "matches", "any", "lang", "dir"})
_SIDEWAYS: Final = frozenset({"first-of-type", "last-of-type", "only-of-type"})
_UPWARDS: Final = frozenset({"disabled", "enabled", "read-only", "read-write"})
_NEAR: Final = frozenset({"first-child", "last-child", "only-child", "empty", "root"})


class Shape(NamedTuple):
    """What of a page decides how long rules take; each a bound.

    `depth` of the tree, `beside` nodes of one parent, `comments` of the page, `classes` bytes of
    a list of classes, `value` bytes of an attribute, `listed` attributes of an element.
    """

    elements: int
    depth: int
    beside: int
    comments: int
    classes: int
    value: int
    listed: float


class Walk(NamedTuple):
    """By which ways one comes from an element to where a test is made.

    `lists` of elements that the rule is applied in, combinators that go `up` and `sideways`,
    and `down` into a subtree: each time any way is tried.
    """

    lists: int = 0
    up: int = 0
    sideways: int = 0
    down: int = 0

    def ways(self, shape: Shape) -> float:
        """Return how many there are at most, of levels or nodes that each lie beyond the last."""
        ways = _chosen(shape.depth, self.lists) * _chosen(shape.depth, self.up)
        return ways * _chosen(shape.beside, self.sideways) * _chosen(shape.elements, self.down)


def _chosen(n: int, k: int) -> float:
    """In how many ways k of n are chosen, at most; infinite if that is too many to be told."""
    return max(1.0, prod(n / at for at in range(1, k + 1)))


class Work(NamedTuple):
    """Nanoseconds of a test: `fixed`, and for each byte or piece of what `Shape` bounds."""

    fixed: float = 0.0
    comments: float = 0.0
    classes: float = 0.0
    value: float = 0.0
    listed: float = 0.0

    def at(self, shape: Shape) -> float:
        """Nanoseconds on such a page."""
        took = self.fixed + self.comments * shape.comments + self.classes * shape.classes
        return took + self.value * shape.value + self.listed * shape.listed

    def plus(self, other: Work) -> Work:
        """Both."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


class Cost(Struct, frozen=True):
    """The most that rules take: `work` for each element by each way, and `once` whatever it is.

    `found` is how often the rule that finds most can find each element; more than that is not
    found before all matches are counted. `values` counts for each value of a JSON document.
    """

    work: dict[Walk, Work] = msgspec.field(default_factory=dict)
    once: float = 0.0
    found: int = 0
    values: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        work = dict(self.work)
        for walk, more in other.work.items():
            work[walk] = work[walk].plus(more) if walk in work else more
        found = max(self.found, other.found)
        return Cost(work, self.once + other.once, found, self.values + other.values)

    @property
    def total(self) -> Work:
        """The work of all ways at once: what of a page it depends on is not 0 there."""
        return reduce(Work.plus, self.work.values(), Work())

    @property
    def by_comments(self) -> bool:
        """Whether nodes that are not elements are walked over."""
        return any(work.comments or walk.sideways for walk, work in self.work.items())

    def at(self, shape: Shape) -> float:
        """Nanoseconds on a page of such a shape."""
        took = sum(walk.ways(shape) * work.at(shape) for walk, work in self.work.items())
        return self.once + shape.elements * (took + _MATCH * self.found)


HEAVY: Final = Cost(once=1e15, values=1e15)  # never on the loop
LINKS_AND_METADATA: Final = 600.0  # ns for each element


def cost_of_selector(selector: str, lists: int, *, compiled: bool = False) -> Cost:
    """The most that `selector` takes in a page, in the form that lexbor is given.

    With `compiled` in a compiled tree, where lists of tags cost little.

    The matcher walks back from an element and tries every way: each descendant or sibling
    combinator, each `:has` and each count of siblings multiplies by what there is to walk over.
    So does each of the `lists` of elements that it is applied in, as those may lie in each other.
    """
    if compiled and (tags := tags_of(selector)) is not None:
        named = sum(attribute is not None for _, attribute in tags)
        each = Work(_PASSED + _TAG * len(tags), listed=_NAMED * named)
        return Cost({Walk(lists): each}, 1000, 1)
    size = len(selector.encode())
    work = _Reader(selector, Walk(lists)).read()
    if any(sum(walk) > MOST_STEPS for walk in work):
        return HEAVY
    return Cost(work, 8000 + _READ * size, 1 + selector.count(","))


class _Frame(NamedTuple):
    """Where a function of a selector stands: the walk to it, and that of the list around it."""

    walk: Walk
    base: Walk
    forward: bool  # inside of a `:has`


class _Reader:
    """Adds up the tests of a selector from right to left, as lexbor makes them."""

    def __init__(self, selector: str, walk: Walk) -> None:
        self._tokens = list(_TOKENS.finditer(selector))
        self._functions: dict[int, tuple[str, int]] = {}  # where it closes: its name, its steps
        self._frames: list[_Frame] = []
        self._walk = self._base = walk
        self._forward = False
        self._parts = 0
        self._sums: dict[Walk, list[float]] = {}
        self._add(Work(_NODE))

    def read(self) -> dict[Walk, Work]:
        """The work by each way."""
        self._pair()
        for token in reversed(self._tokens):
            kind = token.lastgroup or "other"
            if kind in ("space", "combinator"):
                self._combinator(token["combinator"] or " ")
                continue
            self._parts += 1
            match kind:
                case "close":
                    self._enter(*self._functions.get(token.start(), ("is", 0)))
                case "function":
                    if self._frames:
                        self._walk, self._base, self._forward = self._frames.pop()
                    self._add(Work(2 * _TEST))
                case "pseudo":
                    self._pseudo(token["pseudo"].lower())
                case _:
                    self._add(_test(kind, token[0]))
        return {walk: Work(*sums) for walk, sums in self._sums.items()}

    def _pair(self) -> None:
        """Find each function's end, and how many steps are taken inside of it."""
        opened: list[list[Any]] = []
        for token in self._tokens:
            kind = token.lastgroup
            if kind == "function":
                opened.append([token["function"][1:-1].lower(), 0])
            elif kind == "close" and opened:
                self._functions[token.start()] = tuple(opened.pop())
            elif opened and (kind == "space" or token["combinator"] == "~"):
                opened[-1][1] += 1

    def _add(self, work: Work, walk: Walk | None = None) -> None:
        sums = self._sums.setdefault(walk or self._walk, [0.0] * len(work))
        for at, one in enumerate(work):
            if one:
                sums[at] += one

    def _enter(self, name: str, steps: int) -> None:
        self._frames.append(_Frame(self._walk, self._base, self._forward))
        walk = self._walk
        self._forward = name == "has"
        if self._forward:
            walk = walk._replace(down=walk.down + 1 + steps)
        elif name not in _FLAT:
            walk = walk._replace(sideways=walk.sideways + 1)
        self._walk = self._base = walk
        self._add(Work(_STEP))

    def _combinator(self, which: str) -> None:
        walk = self._walk
        back = Work(_STEP + 2 * self._parts)  # lexbor goes back through the parts that it tested
        match which:
            case ",":
                self._walk, self._parts = self._base, 0
                self._add(Work(2 * _TEST))
                return
            case " " if not self._forward:
                self._walk = walk._replace(up=walk.up + 1)
            case "~" if not self._forward:
                self._walk = walk._replace(sideways=walk.sideways + 1)
            case "+":
                back = back._replace(comments=_STEP)
        self._add(back)

    def _pseudo(self, name: str) -> None:
        walk = self._walk
        self._add(Work(_TEST, listed=_LISTED))
        if name in _SIDEWAYS:
            self._add(Work(2 * _STEP), walk._replace(sideways=walk.sideways + 1))
        elif name in _UPWARDS:
            self._add(Work(_STEP), walk._replace(up=walk.up + 1))
        elif name in _NEAR:
            self._add(Work(comments=2 * _STEP))
        elif name == "blank":  # reads the whole text inside
            self._add(Work(1e12))


def _test(kind: str, text: str) -> Work:
    """One test of an element."""
    size = len(text.encode())
    if kind == "class":
        return Work(_TEST + size, classes=_CLASS)
    if kind == "tag" and text.lower() not in _KNOWN_TAGS:
        return Work(_TEST + _LOOKUP + _NAME * size)
    if kind != "attribute":
        return Work(_TEST + size)
    value = 0.0
    if "*=" in text:
        value = _VALUE + _NEEDLE * size
    elif "~=" in text:
        value = _CLASS
    return Work(_TEST + _LOOKUP + (1 + _NAME) * size, value=value, listed=_LISTED)


def cost_of_expression(tree: dict[str, Any]) -> Cost:
    """The most that a JMESPath expression takes; each multi-select can repeat a value.

    Some functions make values that are not in the document, of any size.
    """
    nodes, repeated, ahead = 0, 1, [tree]
    while ahead:
        node = ahead.pop()
        nodes += 1
        if node["type"].startswith("multi_select"):
            repeated *= max(1, len(node["children"]))
        elif node["type"] == "function_expression" and node["value"] in _MAKING:
            return HEAVY
        ahead += [child for child in node["children"] if isinstance(child, dict)]
    return Cost(values=_JSON_STEP * nodes * min(repeated, 10**9))


def of_html(page: bytes, each: float = 0.0, enough: float = 0.0) -> float:
    """Return the nanoseconds that parsing a page takes in the worst case.

    That includes `each` for every element. In each paragraph a parser opens the formatting elements
    again that were not closed: all that have attributes, with all their attributes, and three of
    each that have none (HTML standard, "reconstruct the active formatting elements"). So 26 kB can
    make five million elements, or four thousand of three thousand attributes each. Which of them
    are closed is looked at only if that decides whether the sum is over `enough`.
    """
    page = page.lower()
    tags = page.count(b"<") + 3
    formatting = _FORMATTING.findall(page)
    plain = formatting.count(b">")
    rich = len(formatting) - plain
    anchors = _ANCHOR.search(page) is not None  # of which one at a time can be open
    attributes = len(page) / _ATTRIBUTE_BYTES
    few, some = _most_attributes(page, formatting=bool(rich or anchors))
    cloned = _CLONED if few <= FEW[-1] else _CLONED_OF_MANY

    def with_open(n: int) -> float:
        again = n * (cloned * tags * few + _ALIKE * rich * few * few)
        again += bool(n) * _COPIED * tags * len(page)
        return again + (_ELEMENT + each) * tags * (1 + n + min(plain, _PLAIN))

    took = _OPEN * tags * tags + _ATTRIBUTE * attributes * some
    if took + (most := with_open(rich + anchors)) <= enough or not rich:
        return took + most
    return took + with_open(_unclosed(page) + anchors)


def _most_attributes(page: bytes, *, formatting: bool) -> tuple[float, float]:
    """How many attributes a formatting element can have, and any other."""
    most = len(page) / _ATTRIBUTE_BYTES
    if not _ODD.search(page):
        most = min(most, SOME)
    elif _SPANNING.search(page) or len(list(islice(_BROKEN.finditer(page), _MANY))) == _MANY:
        return most, most
    elif most > SOME and not _DENSE.search(page):
        most = SOME
    if formatting:
        for few, dense in zip(FEW, _DENSE_FORMATTING, strict=True):
            if not dense.search(page):
                return min(few, most), most
    return most, most


def _unclosed(page: bytes) -> int:
    """How many formatting elements with attributes are not closed at once, after text alone.

    Those can't be opened again. A tag that is not written in the plainest way counts as unclosed.
    """
    return len(_RICH.findall(_CLOSED.sub(b"\x01", page)))


def shape_of(page: bytes, elements: int, cost: Cost) -> Shape:
    """Return the shape of a page (UTF-8) that was parsed into `elements` elements.

    What `cost` does not depend on is not looked at. Where they lie is not known: each may lie in
    the one before, or beside it.
    """
    total, size = cost.total, len(page)
    page = page.lower()
    classes, value, listed = size, size, size / 2
    if total.classes and (longest := max(map(len, _CLASSES.findall(page)), default=0)) <= LONG:
        classes = longest
    if total.value and not _LONG.search(page):
        value = LONG
    if total.listed:
        listed = _most_attributes(page, formatting=False)[1]
    comments = len(_COMMENT.findall(page)) if cost.by_comments else 0
    return Shape(elements, elements, 2 * elements + comments, comments, classes, value, listed)


def of_json(document: bytes, rules: Cost) -> float:
    """Return the nanoseconds that a JSON document and its rules take in the worst case."""
    values = 2 + sum(map(document.count, (b",", b"[", b"{", b":")))
    return 20.0 * len(document) + rules.values * values
