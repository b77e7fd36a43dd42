"""(document, rules) -> data. Pure and synchronous.

May touch: selectolax. The tree lives and dies inside one call of `extract`.
Must never: do I/O, read a clock, import asyncio, or keep a tree (it is 25 times its page).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET
from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from scraperd.contract import Link, Metadata, printable
from scraperd.page.metadata import links_of, metadata_of
from scraperd.page.tree import Base, document_base, text_of

MAX_DEPTH: Final = 16
MAX_RULES: Final = 500
MAX_SELECTOR: Final = 1000

_URL_ATTRIBUTES: Final = frozenset(
    "href src action formaction poster data cite background longdesc manifest ping".split()
)
_RULE_KEYS: Final = ("selector", "output", "type")


class RuleError(Exception):
    """A rule that can't be used: `path` names it (`extract.items.output.price.selector`)."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled rule. `output` is "text", "html", an attribute's name, or nested rules."""

    selector: str
    output: Literal["text", "html"] | Attribute | Rules
    many: bool


@dataclass(frozen=True, slots=True)
class Attribute:
    """An `@name` output. The value of one that `is_url` comes back absolute."""

    name: str
    is_url: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """Compiled rules by name; immutable, so that jobs with the same rules share them."""

    by_name: tuple[tuple[str, Rule], ...]


@dataclass(frozen=True, slots=True)
class Extract:
    """What `extract` found; a part that was not asked for is UNSET."""

    data: dict[str, Any] | msgspec.UnsetType = UNSET
    links: list[Link] | msgspec.UnsetType = UNSET
    metadata: Metadata | msgspec.UnsetType = UNSET


@lru_cache(maxsize=1024)
def compile_rules(raw: bytes) -> Rules:
    """Compile rules from their JSON; cached by their bytes. Raises RuleError."""
    try:
        tree = msgspec.json.decode(raw)
    except RecursionError:
        raise RuleError("extract", f"nested deeper than {MAX_DEPTH} rules") from None
    except msgspec.DecodeError as error:
        raise RuleError("extract", f"not JSON: {error}") from None
    budget = iter(range(MAX_RULES))
    return _compile_object(tree, "extract", 1, budget)


def extract(page: bytes, base: str, *, rules: Rules | None, links: bool, metadata: bool) -> Extract:
    """Parse `page` (UTF-8) once and take from it what was asked for.

    `base` is the URL the page came from; a `<base href>` in it is obeyed.
    """
    tree = LexborHTMLParser(page)
    to = Base(document_base(tree, base))
    return Extract(
        data=_apply(rules, tree, to) if rules is not None else UNSET,
        links=links_of(tree, to) if links else UNSET,
        metadata=metadata_of(tree, to) if metadata else UNSET,
    )


def _compile_object(tree: Any, path: str, depth: int, budget: Any) -> Rules:
    if not isinstance(tree, dict):
        raise RuleError(path, f"must be an object of rules, not {_json_type(tree)}")
    if depth > MAX_DEPTH:
        raise RuleError(path, f"nested deeper than {MAX_DEPTH} rules")
    named = []
    for name, spec in tree.items():
        if next(budget, None) is None:
            raise RuleError(path, f"more than {MAX_RULES} rules")
        named.append((name, _compile_rule(spec, f"{path}.{_shown(name)}", depth, budget)))
    return Rules(tuple(named))


def _compile_rule(spec: Any, path: str, depth: int, budget: Any) -> Rule:
    if isinstance(spec, str):
        return Rule(_selector(spec, path), "text", many=False)
    if not isinstance(spec, dict):
        raise RuleError(path, f"must be a selector or a rule object, not {_json_type(spec)}")
    for key in spec:
        if key not in _RULE_KEYS:
            reason = f"unknown; a rule has {', '.join(_RULE_KEYS)}"
            raise RuleError(f"{path}.{_shown(key)}", reason)
    kind = spec.get("type", "item")
    if kind not in ("item", "list"):
        raise RuleError(f"{path}.type", "must be item or list")
    return Rule(
        _selector(spec.get("selector"), f"{path}.selector"),
        _output(spec.get("output", "text"), f"{path}.output", depth, budget),
        many=kind == "list",
    )


def _output(
    spec: Any, path: str, depth: int, budget: Any
) -> Literal["text", "html"] | Attribute | Rules:
    match spec:
        case "text" | "html":
            return spec  # type: ignore[no-any-return]
        case str() if spec.startswith("@") and len(spec) > 1:
            name = spec[1:].lower()
            return Attribute(name, name in _URL_ATTRIBUTES)
        case dict():
            return _compile_object(spec, path, depth + 1, budget)
    raise RuleError(path, "must be text, html, @attribute or an object of rules")


def _selector(spec: Any, path: str) -> str:
    if spec is None:
        raise RuleError(path, "is required")
    if not isinstance(spec, str):
        raise RuleError(path, f"must be a string, not {_json_type(spec)}")
    if len(spec) > MAX_SELECTOR:
        raise RuleError(path, f"longer than {MAX_SELECTOR} characters")
    try:
        LexborHTMLParser(b"").css_first(spec)
    except (SelectolaxError, UnicodeError):
        raise RuleError(path, "not a CSS selector") from None
    return spec


def _shown(name: str) -> str:
    """A stranger's name as part of a path."""
    return printable(name, 60)


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _apply(rules: Rules, scope: LexborHTMLParser | LexborNode, base: Base) -> dict[str, Any]:
    return {name: _value(rule, scope, base) for name, rule in rules.by_name}


def _value(rule: Rule, scope: LexborHTMLParser | LexborNode, base: Base) -> Any:
    if rule.many:
        return [_take(rule, node, base) for node in scope.css(rule.selector)]
    node = scope.css_first(rule.selector)
    return _take(rule, node, base) if node is not None else None


def _take(rule: Rule, node: LexborNode, base: Base) -> Any:
    match rule.output:
        case Attribute(name, is_url):  # first: it would be compared with the texts
            value = node.attributes.get(name)
            return base.resolve(value) if is_url and value is not None else value
        case Rules() as nested:
            return _apply(nested, node, base)
        case "text":
            return text_of(node)
        case "html":
            return node.html
