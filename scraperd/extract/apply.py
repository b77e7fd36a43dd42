"""(document, rules) -> data. Pure and synchronous.

May touch: trees, the compiled rules. A tree lives and dies inside one call.
Must never: do I/O, read a clock, import asyncio, or keep a tree (it is 25 times its page).
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from jmespath.exceptions import JMESPathError
from msgspec import UNSET, Struct

from scraperd.extract.compiled import engine
from scraperd.extract.cost import Cost, cost_of_selector, shape_of
from scraperd.extract.metadata import links_of, metadata_of
from scraperd.extract.nodes import WEB, Base, document_base, text_of
from scraperd.extract.rules import RAISED, Attribute, Refine, Rule, Rules, Table
from scraperd.extract.tables import TooManyCells, table_rows
from scraperd.extract.values.casts import INTEGERS, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from scraperd.contract import Link, Metadata
    from scraperd.extract.compiled.engine import Node, Tree

_NODE: Final = "node"
_JSON: Final = "json"
_MISSING: Final = object()  # there is no value; None is one, of JSON
_JSON_ERRORS: Final = (
    JMESPathError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_REGEX_STEP: Final = 1600  # characters times instructions of RE2; and attributes: some microseconds
_ATTRIBUTES_STEP: Final = 32
_LONG_BASE: Final = 500  # characters; 2,000 links from one of 8,000 take 1 s
_LONG_BASE_STEPS: Final = 10  # for each character beyond it
_MEASURED: Final = 3_000  # elements; where more of them lie is not looked at: 0.5 us each
_MATCHES_STEP: Final = 4  # matches in a compiled tree whose value is a text or an attribute
_LISTED_STEP: Final = 512  # attributes that are passed there on the way to the one that is taken
_NO_COST: Final = Cost()
_LINKS_COST: Final = cost_of_selector(engine.LINKS, 0)
_COMPILED_LINKS_COST: Final = cost_of_selector(engine.LINKS, 0, compiled=True)


class Missing(Exception):  # noqa: N818 - it says what the page lacks
    """A rule that is `required` found no value; `match` is the match it was looked for in."""

    def __init__(self, path: str, match: str = "") -> None:
        super().__init__(f"{path}: required, and not in {match or 'the page'}")
        self.path = path
        self.match = match


class Overrun(Exception):  # noqa: N818 - a bound, and who passed it
    """More was found than may be; `bound` names the setting, `path` what passed it."""

    def __init__(self, path: str, what: str, bound: str, most: int) -> None:
        super().__init__(f"{path}: more than {most} {what} ({bound})")
        self.bound = bound


class Foreseen(Overrun):
    """Rules can take longer than they may: `seconds` in the worst case."""

    def __init__(self, seconds: float) -> None:
        super().__init__("extract", f"seconds ({seconds:.3g} at worst)", "on the loop", 0)
        self.seconds = seconds


def never() -> bool:
    """There is time."""
    return False


@dataclass(slots=True)
class Allowance:
    """The bounds of what may be found, and of the work for it.

    `matches` are elements that rules match, `output` characters that are taken from them. `work`
    are all other steps of some microseconds of Python (None: without a bound), `searching` the
    seconds that all rules may take on a page in the worst case. With `bounded` a page is parsed
    into the compiled tree, under its bounds. `overdue` says that time is up. `hits` are the matches
    by the rule's path.
    """

    matches: int
    output: int
    work: int | None = None
    searching: float | None = None
    bounded: bool = False
    overdue: Callable[[], bool] = never
    matched: int = 0
    taken: int = 0
    worked: int = 0
    hits: Counter[str] = field(default_factory=Counter)

    def match(self, n: int, path: str, *, hits: bool = True, steps: int | None = None) -> None:
        """Count `n` matches of the rule at `path` (`hits`), or of cells; raises Overrun.

        Each is a step of work, or all together are `steps`.
        """
        if hits:
            self.hits[path] += n
        self.matched += n
        if self.matched > self.matches:
            raise Overrun(path, "matches", "extract.max_matches", self.matches)
        self.spend(n if steps is None else steps, path)

    def take(self, n: int, path: str) -> None:
        """Count `n` characters; raises Overrun."""
        self.taken += n
        if self.taken > self.output:
            raise Overrun(path, "bytes", "extract.max_output_size", self.output)

    def spend(self, n: int, path: str) -> None:
        """Count `n` pieces of work; raises Overrun."""
        self.worked += n
        if self.work is not None and self.worked > self.work:
            raise Overrun(path, "steps", "on the loop", self.work)

    def search(self, path: str) -> None:
        """A selector is about to be applied, which nothing can interrupt; raises Overrun."""
        if self.overdue():
            raise Overrun(path, "milliseconds", "on the loop", 0)


class Extract(Struct, frozen=True):
    """What was found; a part that was not asked for is UNSET."""

    data: dict[str, Any] | msgspec.UnsetType = UNSET
    links: list[Link] | msgspec.UnsetType = UNSET
    metadata: Metadata | msgspec.UnsetType = UNSET


def extract(
    page: bytes,
    base: str,
    *,
    rules: Rules | None,
    links: bool,
    metadata: bool,
    allowance: Allowance,
    encoding: str = "utf-8",
) -> Extract:
    """Parse `page` (UTF-8) once and take from it what was asked for.

    `base` is the URL the page came from; a `<base href>` in it is obeyed. `encoding` is what the
    page came in, and what queries of its references are written in. Raises Missing, Overrun and
    MemoryError.
    """
    try:
        tree = engine.parse(page, bounded=allowance.bounded)
    except engine.Beyond as beyond:
        raise Overrun("page", str(beyond), "on the loop", 0) from None
    if allowance.searching is not None:
        cost = _cost_of(rules, links=links, compiled=engine.is_compiled(tree))
        _foresee(tree, page, cost, allowance.searching)
    to = _starting(document_base(tree, page, base, encoding), allowance, encoding)
    run = _Run(to, allowance, tree.listed if engine.is_compiled(tree) else 0)
    return Extract(
        data=run.apply(rules, tree, _NODE) if rules is not None else UNSET,
        links=_links(tree, to, allowance) if links else UNSET,
        metadata=metadata_of(tree, to, partial(allowance.spend, path="metadata"), url=base)
        if metadata
        else UNSET,
    )


def _cost_of(rules: Rules | None, *, links: bool, compiled: bool) -> Cost:
    cost = _NO_COST
    if rules is not None:
        cost = rules.compiled_cost if compiled else rules.cost
    return cost + (_COMPILED_LINKS_COST if compiled else _LINKS_COST) if links else cost


def _foresee(tree: Tree, page: bytes, cost: Cost, seconds: float) -> None:
    """Raise Foreseen if rules can take longer than `searching` seconds on this page.

    A compiled tree knows its shape. Of another, first the number of its elements is looked at;
    only if that is too much, how they lie.
    """
    if engine.is_compiled(tree):
        shape = engine.shape_of(tree)
    else:
        nodes = tree.css("*")
        shape = shape_of(page, len(nodes), cost)
        if cost.at(shape) > seconds * 1e9 and len(nodes) <= _MEASURED:
            depth, beside = _extent(nodes)
            beside = 2 * beside + shape.comments
            shape = shape._replace(depth=depth, beside=beside)
    if (took := cost.at(shape)) > seconds * 1e9:
        raise Foreseen(took / 1e9)


def _extent(nodes: Sequence[Node]) -> tuple[int, int]:
    """Return how deep elements lie, and how many are siblings; they are in document order."""
    depths: dict[int, int] = {}
    beside: Counter[int] = Counter()
    for node in nodes:
        parent = node.parent
        above = parent.mem_id if parent is not None else 0
        depths[node.mem_id] = depths.get(above, 0) + 1
        beside[above] += 1
    return max(depths.values(), default=1), max(beside.values(), default=1)


def _links(tree: Tree, base: Base, allowance: Allowance) -> list[Link]:
    step = partial(allowance.spend, 1, "links")
    return links_of(tree, base, partial(allowance.take, path="links"), step)


def extract_json(document: Any, base: str, rules: Rules, allowance: Allowance) -> dict[str, Any]:
    """Take from a decoded JSON document what the rules say. Raises Missing and Overrun."""
    return _Run(_starting(base, allowance), allowance).apply(rules, document, _JSON)


def _starting(url: str, allowance: Allowance, encoding: str = "utf-8") -> Base:
    """Where references start from. From a long URL each takes long: not on the loop."""
    allowance.spend(_LONG_BASE_STEPS * max(0, len(url) - _LONG_BASE), "base URL")
    return Base(url, encoding)


_TWO_DIGITS: Final = re.compile(r"\d\d")
_GLUED_TO_RAISED: Final = re.compile(r"\d(?:<[^<>]*>)*<su[pb](?:\s[^<>]*)?>(?:<[^<>]*>)*\d")
_RAISED_STEP: Final = 1000  # characters of markup that are written and searched in microseconds


class _Run:
    """The rules of one job on one document; `listed` attributes an element of it has at most.

    That is known of a compiled tree, else 0.
    """

    def __init__(self, base: Base, allowance: Allowance, listed: int = 0) -> None:
        self._base = base
        self._allowance = allowance
        self._listed = listed

    def apply(self, rules: Rules, scope: Any, kind: str) -> dict[str, Any]:
        """The values of `rules` inside of `scope`: a node, or with `_JSON` a JSON value."""
        if rules.by_name:
            self._allowance.take(rules.names, rules.by_name[0][1].path)
        return {name: self._value(rule, scope, kind) for name, rule in rules.by_name}

    def _value(self, rule: Rule, scope: Any, kind: str) -> Any:
        self._allowance.spend(1, rule.path)
        found = self._found(rule, scope, kind)
        quick = self._listed and rule.refine is None and not isinstance(rule.output, Rules | Table)
        steps = len(found) // _MATCHES_STEP if quick else None
        self._allowance.match(len(found), rule.path, steps=steps)
        if rule.many:
            values = self._list(rule, found)
            if values or not (rule.required or rule.default is not UNSET):
                return values
        else:
            value = self._take(rule, found[0]) if found else _MISSING
            if value is not _MISSING:
                return value
        if rule.required:
            raise Missing(rule.path)
        if rule.default is UNSET:
            return None
        self._allowance.take(rule.default_size, rule.path)
        return rule.default

    def _list(self, rule: Rule, found: list[Any]) -> list[Any]:
        if rule.refine is None and rule.output == "text":
            return self._texts(rule, found)
        if rule.refine is None and self._listed and isinstance(rule.output, Attribute):
            return self._attributes(rule, rule.output, found)
        values = []
        for number, one in enumerate(found, 1):
            try:
                value = self._take(rule, one)
            except Missing as missing:
                match = missing.match or f"match {number} of {rule.path}"
                raise Missing(missing.path, match) from None
            if value is not _MISSING:
                values.append(value)
        return values

    def _texts(self, rule: Rule, nodes: list[Node]) -> list[str]:
        step, values = self._step(rule), []
        for node in nodes:
            text = text_of(node, step)
            self._allowance.take(len(text), rule.path)
            values.append(text)
        return values

    def _attributes(self, rule: Rule, output: Attribute, nodes: list[Any]) -> list[str]:
        """The values of an attribute of a compiled tree's elements, with one call for all."""
        self._allowance.spend(len(nodes) * self._listed // _LISTED_STEP, rule.path)
        if output.is_url:
            found = engine.urls_of(nodes, output.name, self._base)
        else:
            found = engine.values_of(nodes, output.name)
        values = [value for value in found if value is not None]
        self._allowance.take(sum(map(len, values)), rule.path)
        return values

    def _found(self, rule: Rule, scope: Any, kind: str) -> list[Any]:
        """What the rule is about: nodes, or values if it has an expression; at most `limit`."""
        if kind == _JSON:
            found = self._search(rule, scope) if rule.expression and not rule.selectors else []
        else:
            found = self._nodes(rule, scope)
            if rule.expression is not None:
                found = [value for node in found for value in self._inside(rule, node)]
        return found[: rule.limit] if rule.many else found[:1]

    def _nodes(self, rule: Rule, scope: Tree | Node) -> list[Node]:
        if not rule.selectors:
            # A whole page is not an element; only an outermost rule for JSON has no element.
            return [scope] if engine.is_node(scope) else []
        for selector in rule.selectors:
            self._allowance.search(rule.path)
            if not rule.many:
                node = scope.css_first(selector)
                if node is None:
                    continue
                if not _same(node, scope):
                    return [node]
            found: list[Node] = [*scope.css(selector)]
            if "," in selector:
                found = _once(found)
            if found and _same(found[0], scope):
                del found[0]
            if found:
                return found
        return []

    def _inside(self, rule: Rule, node: Node) -> list[Any]:
        """What the expression finds in the JSON that is the node's text."""
        text = node.text()  # as it stands: white space counts inside of JSON's strings
        self._allowance.take(len(text), rule.path)
        try:
            return self._search(rule, msgspec.json.decode(text))
        except (msgspec.DecodeError, RecursionError):
            return []

    def _search(self, rule: Rule, value: Any) -> list[Any]:
        try:
            found = rule.expression.search(value)
        except _JSON_ERRORS:
            return []  # a function was given what it is not for: as if it found nothing
        self._allowance.take(_size(found, self._allowance.output), rule.path)
        several = found if rule.many and isinstance(found, list) else [found]
        return [one for one in several if one is not None]  # null is not a value

    def _take(self, rule: Rule, found: Any) -> Any:
        output = rule.output
        if isinstance(output, Rules):
            return self.apply(output, found, _NODE if rule.expression is None else _JSON)
        if isinstance(output, Table):
            return self._table(rule, found, header=output.header)
        if output == "json":
            return found if rule.refine is None else self._refine_json(rule, rule.refine, found)
        text = self._text(rule, output, found)
        self._allowance.take(len(text or ""), rule.path)
        if rule.refine is not None:
            if _is_flag(rule.refine, output, text) or self._is_raised(rule, found, text):
                return True if rule.refine.cast == "bool" else _MISSING
            return self._refine(rule, rule.refine, text)
        return _MISSING if text is None else text

    def _is_raised(self, rule: Rule, node: Node, text: str | None) -> bool:
        """Whether digits in a `sup` or `sub` are glued to others: `119<sup>99</sup>` is not 11999.

        A regex says itself which digits are meant.
        """
        refine = rule.refine
        if refine is None or refine.regex is not None or refine.cast not in {"int", "float"}:
            return False
        if rule.output != "text" or text is None or _TWO_DIGITS.search(text) is None:
            return False
        self._allowance.search(rule.path)
        if node.css_first(RAISED) is None:
            return False
        markup = node.html or ""
        self._allowance.spend(len(markup) // _RAISED_STEP, rule.path)
        return _GLUED_TO_RAISED.search(markup) is not None

    def _read(self, rule: Rule, node: Node) -> str:
        return text_of(node, self._step(rule))

    def _step(self, rule: Rule) -> Callable[[], object]:
        return partial(self._allowance.spend, 1, rule.path)

    def _text(self, rule: Rule, output: Any, node: Node) -> str | None:
        if output == "text":
            return self._read(rule, node)
        if output == "html":
            return node.html
        attributes = node.attrs  # as lexbor finds them, which takes longer the more there are
        self._allowance.spend(len(attributes) // _ATTRIBUTES_STEP, rule.path)
        found: Any = attributes.get(output.name, _MISSING)
        if found is _MISSING:
            return None
        value = found or ""  # None: it has no value
        return self._base.resolve(value) if output.is_url else value

    def _table(self, rule: Rule, node: Node, *, header: bool) -> Any:
        allowance = self._allowance
        try:
            allowance.search(rule.path)
            left = allowance.matches - allowance.matched
            rows = table_rows(node, header=header, limit=left, spend=self._step(rule))
        except TooManyCells:
            most = allowance.matches
            raise Overrun(rule.path, "matches", "extract.max_matches", most) from None
        for row in rows:
            allowance.match(len(row), rule.path, hits=False)
            cells: Iterable[str] = row if isinstance(row, list) else [*row, *row.values()]
            allowance.take(sum(map(len, cells)), rule.path)
        return rows or _MISSING

    def _refine_json(self, rule: Rule, refine: Refine, value: Any) -> Any:
        """The same for a JSON value: a number is what it is, and no text with separators."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(value, float) and not math.isfinite(value):
            return _MISSING  # functions make such numbers, JSON has none
        if number and refine.regex is None and refine.cast in {"int", "float"}:
            if refine.cast == "float":
                return float(value) if abs(value) <= sys.float_info.max else _MISSING
            whole = value == int(value) and int(value) in INTEGERS
            return int(value) if whole else _MISSING
        return self._refine(rule, refine, _text_of_json(value))

    def _refine(self, rule: Rule, refine: Refine, text: str | None) -> Any:
        """The typed value in `text`, or `_MISSING`."""
        if text is not None and refine.regex is not None:
            self._allowance.spend(len(text) * refine.program // _REGEX_STEP, rule.path)
            match = refine.regex.search(text)
            text = match[refine.group] if match else None
        if text is None:
            return _MISSING
        if refine.cast is None:
            return text
        if refine.cast == "url":
            url = self._base.resolve(text) if text.strip() else None
            self._allowance.take(len(url or ""), rule.path)
            return url if url and url.startswith(WEB) else _MISSING
        value = cast(refine.cast, text, decimal=refine.decimal, formats=refine.formats)
        return _MISSING if value is None else value


def _same(node: Node, scope: Tree | Node) -> bool:
    """Whether it is the scope itself, which lexbor finds too; rules look inside of it."""
    return engine.is_node(scope) and node.mem_id == scope.mem_id


def _is_flag(refine: Refine, output: Any, text: str | None) -> bool:
    """HTML standard, "Boolean attributes": that it is there counts, empty or as its own name."""
    boolean = refine.cast == "bool" and isinstance(output, Attribute)
    return boolean and text is not None and text.lower() in {"", output.name}


def _once(nodes: Sequence[Node]) -> list[Node]:
    """Without repetitions: a list of selectors finds an element once for each that matches."""
    return list({node.mem_id: node for node in nodes}.values())


def _size(value: Any, most: int) -> int:
    """About how many bytes of JSON; not looked at beyond `most`.

    An expression can name one value a million times over: written out, it would not end.
    """
    size, ahead = 0, [value]
    while ahead and size <= most:
        one = ahead.pop()
        size += 1
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, list):
            ahead += one
        elif isinstance(one, dict):
            size += sum(map(len, one))
            ahead += one.values()
    return size


def _text_of_json(value: Any) -> str | None:
    """A JSON scalar as the text a regex or a cast works on."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return None
    try:
        return msgspec.json.encode(value).decode()
    except ValueError:  # an integer of thousands of digits
        return None
