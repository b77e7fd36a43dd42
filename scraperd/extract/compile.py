"""Compiles the rule language: a job's `extract`, from its bytes to rules, or why they are refused.

May touch: selectolax, re2 and jmespath to check and compile with. Pure, but for its cache.
Must never: see a page, or let a rule through that can't be applied.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import jmespath
import msgspec
import re2
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from msgspec import UNSET
from selectolax.lexbor import LexborHTMLParser, SelectolaxError

from scraperd.base.cache import Cache
from scraperd.base.text import printable
from scraperd.extract.cost import HEAVY, Cost, cost_of_expression, cost_of_selector
from scraperd.extract.rules import (
    RAISED,
    Attribute,
    Bounds,
    Output,
    Refine,
    Rule,
    RuleError,
    Rules,
    Table,
)
from scraperd.extract.selectors import fault, mended
from scraperd.extract.values.casts import CASTS, format_fault

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

MAX_SIZE: Final = 256 * 1024  # bytes of a job's rules, white space included
MAX_FORMATS: Final = 10
MAX_DISTINCT_FORMATS: Final = 50
MAX_FALLBACKS: Final = 20
MAX_CACHED_BYTES: Final = 32 * 1024 * 1024  # bytes, by `_Compiler.weight`
_REGEX_MEMORY: Final = 640 * 1024  # bytes, 28 ms; a pattern that needs more is refused
MAX_CLASSES: Final = 50  # of Unicode in a regex: each is 0.2 ms, even if the whole is refused
MAX_REGEXES: Final = 200_000  # instructions of all that a job has; 0.1 s and 6 MB
MAX_EXPRESSIONS: Final = 10_000  # characters; 0.1 s at worst
_INSTRUCTION: Final = 30  # bytes; both ways, and what a search caches
_REGEX: Final = 8 * 1024  # bytes

_KEYS: Final = (
    "selector jmespath output type limit header regex group cast decimal format default required"
).split()
_UNQUOTED = re.compile(r"""=\s*(?:[0-9]|[^"'\]]*[:/.?&@])""")
# What no name has in a page (HTML standard, "Attribute name state"), and a pattern's star.
_NO_ATTRIBUTE = re.compile(r"""[\s/>=<"',\0]|\*$""")
_BY: Final = frozenset({"sort_by", "max_by", "min_by", "map"})
_FUNCTIONS: Final = Functions().FUNCTION_TABLE
_URL_ATTRIBUTES: Final = frozenset(
    "href src action formaction poster data cite background longdesc manifest ping".split()
)


class _Cache:
    """The rules used last, by their bytes: a bounded number of bytes of them."""

    def __init__(self, limit: int) -> None:
        self.kept: Cache[tuple[bytes, Bounds], Rules] = Cache(max_size=limit)
        self.compiled = 0

    def known(self, raw: bytes, bounds: Bounds) -> Rules | None:
        """The compiled rules, if they are still here."""
        return self.kept.get((raw, bounds))

    def compiling(self, raw: bytes, bounds: Bounds) -> Generator[None, None, Rules]:
        """Compile them in steps of some milliseconds, and keep them. Raises RuleError."""
        compiler = _Compiler(bounds)
        rules = yield from compiler.compile(raw)
        self.compiled += 1
        if self.known(raw, bounds) is None:  # another job can have been faster
            self.kept.put((raw, bounds), rules, size=compiler.weight)
        return rules

    def get(self, raw: bytes, bounds: Bounds) -> Rules:
        """The compiled rules, at once; raises RuleError."""
        if (known := self.known(raw, bounds)) is not None:
            return known
        steps = self.compiling(raw, bounds)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                rules: Rules = end.value
                return rules


CACHE: Final = _Cache(MAX_CACHED_BYTES)


def compile_rules(raw: bytes, bounds: Bounds = Bounds()) -> Rules:  # noqa: B008 - a frozen value
    """Compile rules from their JSON; cached by their bytes. Raises RuleError."""
    return CACHE.get(raw, bounds)


class _Compiler:
    """Compiles the rules of one job."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._paths: list[str] = []
        self._cost = Cost()
        self._compiled_cost = Cost()
        self._selected = 0  # characters of selectors
        self._expressions = 0  # characters
        self._regexes = 0  # instructions
        self._formats_seen: set[str] = set()
        self.weight = 0  # about how many bytes the rules take, as tests hold against the process

    def compile(self, raw: bytes) -> Generator[None, None, Rules]:
        """The rules in `raw`, in steps; raises RuleError."""
        if len(raw) > MAX_SIZE:
            raise RuleError("extract", f"larger than {MAX_SIZE} bytes")
        try:
            tree = msgspec.json.decode(raw)
        except RecursionError:
            raise RuleError("extract", self._too_deep()) from None
        except msgspec.DecodeError as error:
            raise RuleError("extract", f"not JSON: {error}") from None
        rules = yield from self._object(tree, "extract", 1, scope="page", overlap=0)
        self.weight = 3 * len(raw) + 2000 * len(self._paths) + 400 * self._expressions
        self.weight += _INSTRUCTION * self._regexes + _REGEX * raw.count(b'"regex"')
        reads = frozenset(_reads(rules))
        costs = self._cost, self._compiled_cost
        return Rules(rules.by_name, rules.names, reads, tuple(self._paths), *costs)

    def _add(self, cost: Cost, compiled: Cost | None = None) -> None:
        """Count what a part of the rules costs, and what it costs where a page is compiled."""
        self._cost += cost
        self._compiled_cost += compiled or cost

    def _too_deep(self) -> str:
        return f"nested deeper than {self._bounds.depth} rules (extract.max_depth)"

    def _object(
        self, tree: Any, path: str, depth: int, *, scope: _Scope, overlap: int
    ) -> Generator[None, None, Rules]:
        if not isinstance(tree, dict):
            raise RuleError(path, f"must be an object of rules, not {_json_type(tree)}")
        if depth > self._bounds.depth:
            raise RuleError(path, self._too_deep())
        named = []
        for name, spec in tree.items():
            here = f"{path}.{printable(name, 60)}"
            if len(self._paths) >= self._bounds.rules:
                most = self._bounds.rules
                raise RuleError(path, f"more than {most} rules (extract.max_rules)")
            self._paths.append(here)
            if isinstance(spec, str):
                spec = _shorthand(spec, scope)  # noqa: PLW2901
            rule = yield from self._rule(spec, here, depth, scope=scope, overlap=overlap)
            named.append((name, rule))
            yield
        return Rules(tuple(named), sum(len(name) for name, _ in named))

    def _rule(
        self, spec: Any, path: str, depth: int, *, scope: _Scope, overlap: int
    ) -> Generator[None, None, Rule]:
        if not isinstance(spec, dict):
            raise RuleError(path, f"must be a selector or a rule object, not {_json_type(spec)}")
        spec = _given(spec)
        _check_keys(spec, path, scope)
        many = _one_of(spec, "type", ("item", "list"), path, "item") == "list"
        selectors = yield from self._selectors(spec.get("selector"), path, overlap)
        expression = self._expression(spec.get("jmespath"), path)
        inner: _Scope = "json" if expression is not None else "element"
        deeper = overlap + (many and inner == "element")
        output = yield from self._output(spec, path, depth, scope=inner, overlap=deeper)
        _check_pairs(spec, path, output, many=many)
        if expression is not None and (selectors or scope == "element"):
            self._add(HEAVY)  # JSON inside of a page: of any size, as often as it matches
        if output == "text" and spec.get("cast") in ("int", "float") and "regex" not in spec:
            self._add(
                cost_of_selector(RAISED, deeper), cost_of_selector(RAISED, deeper, compiled=True)
            )
        return Rule(
            path,
            selectors,
            expression,
            output,
            many,
            _positive(spec.get("limit"), f"{path}.limit"),
            self._refine(spec, path),
            spec.get("default", UNSET),
            len(msgspec.json.encode(spec.get("default"))),
            _flag(spec, "required", path),
        )

    def _output(
        self, spec: dict[str, Any], path: str, depth: int, *, scope: _Scope, overlap: int
    ) -> Generator[None, None, Output]:
        output = spec.get("output", "json" if scope == "json" else "text")
        path = f"{path}.output"
        if isinstance(output, dict):
            rules = yield from self._object(output, path, depth + 1, scope=scope, overlap=overlap)
            return rules
        if scope == "json":
            if "output" in spec:
                raise RuleError(path, "of a jmespath rule, must be an object of rules")
            return "json"
        match output:
            case "text" | "html":
                return output  # type: ignore[no-any-return]
            case "table":
                return Table(_flag(spec, "header", path.removesuffix(".output")))
            case str() if output.startswith("@") and len(output) > 1:
                name = output[1:]
                if _NO_ATTRIBUTE.search(name):
                    shown = printable(output, 60)
                    raise RuleError(path, f"{shown} does not name an attribute; one is like @href")
                name = name.lower() if name.isascii() else name  # as HTML compares names
                return Attribute(name, name in _URL_ATTRIBUTES)
        raise RuleError(path, "must be text, html, table, @attribute or an object of rules")

    def _selectors(
        self, spec: Any, path: str, overlap: int
    ) -> Generator[None, None, tuple[str, ...]]:
        if spec is None:
            return ()
        path = f"{path}.selector"
        chosen = []
        for at, selector in enumerate(_strings(spec, path, MAX_FALLBACKS)):
            here = f"{path}[{at}]" if isinstance(spec, list) else path
            self._check_length(selector, here)
            self._selected += len(selector)
            if self._selected > (most := self._bounds.selectors):
                over = f"all selectors together exceed {most} characters"
                reason = f"{over} (extract.max_selectors_length)"
                raise RuleError(here, reason)
            if wrong := fault(selector):
                raise RuleError(here, f"{_not_a_selector(selector)}: {printable(wrong)}")
            form = mended(selector)
            if not all(map(_is_selector, {selector, form})):
                raise RuleError(here, _not_a_selector(selector))
            self._add(
                cost_of_selector(form, overlap), cost_of_selector(form, overlap, compiled=True)
            )
            chosen.append(form)
            yield
        return tuple(chosen)

    def _expression(self, spec: Any, path: str) -> Any:
        if spec is None:
            return None
        path = f"{path}.jmespath"
        _string(spec, path)
        self._check_length(spec, path)
        self._expressions += len(spec)
        if self._expressions > MAX_EXPRESSIONS:
            raise RuleError(path, f"all expressions together exceed {MAX_EXPRESSIONS} characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", PendingDeprecationWarning)
                compiled = jmespath.compile(spec)
        except RecursionError:
            raise RuleError(path, "nested too deeply") from None
        except PendingDeprecationWarning:  # `{` would mean the string "{"
            raise RuleError(path, "a literal in backticks must be JSON") from None
        except (JMESPathError, ValueError) as error:
            raise RuleError(path, f"not a JMESPath expression: {_first_line(error)}") from None
        tree: Any = compiled.parsed
        if reason := _call_fault(tree):
            raise RuleError(path, reason)
        self._add(cost_of_expression(tree))
        return compiled

    def _check_length(self, text: str, path: str) -> None:
        if len(text) > self._bounds.selector:
            most = self._bounds.selector
            raise RuleError(path, f"longer than {most} characters (extract.max_selector_length)")

    def _refine(self, spec: dict[str, Any], path: str) -> Refine | None:
        cast = _one_of(spec, "cast", (*CASTS, "url"), path, None)
        decimal = _one_of(spec, "decimal", (".", ","), path, None)
        formats = self._formats(spec.get("format"), f"{path}.format")
        regex = self._regex(spec.get("regex"), f"{path}.regex")
        if regex is None and cast is None:
            return None
        group = _group(_whole(spec.get("group")), regex, f"{path}.group")
        program = 0 if regex is None else regex.programsize
        return Refine(regex, group, cast, decimal, formats, program)

    def _formats(self, spec: Any, path: str) -> tuple[str, ...]:
        if spec is None:
            return ()
        chosen = _strings(spec, path, MAX_FORMATS)
        for form in chosen:
            if reason := format_fault(form):
                raise RuleError(path, reason)
        self._formats_seen.update(chosen)
        if len(self._formats_seen) > MAX_DISTINCT_FORMATS:
            raise RuleError(path, f"more than {MAX_DISTINCT_FORMATS} formats in all rules")
        return chosen

    def _regex(self, spec: Any, path: str) -> Any:
        if spec is None:
            return None
        _string(spec, path)
        self._check_length(spec, path)
        if spec.lower().count("\\p") > MAX_CLASSES:
            raise RuleError(path, f"more than {MAX_CLASSES} classes of Unicode (\\p)")
        options = re2.Options()
        options.max_mem = _REGEX_MEMORY
        options.log_errors = False
        try:
            regex = re2.compile(spec, options)
        except re2.error as error:
            why = error.args[0] if error.args else ""
            why = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
            raise RuleError(path, f"not an RE2 pattern: {printable(why)}") from None
        self._regexes += regex.programsize
        if self._regexes > MAX_REGEXES:
            raise RuleError(path, f"all regexes together exceed {MAX_REGEXES} instructions of RE2")
        return regex


_Scope: TypeAlias = Literal["page", "element", "json"]


def _shorthand(text: str, scope: _Scope) -> dict[str, Any]:
    """The rule that a string is short for: `a.next`, `a.next@href`, `@href`, or an expression."""
    if scope == "json":
        return {"jmespath": text}
    selector, at, attribute = text.rpartition("@")
    if not at or not attribute or not attribute.replace("-", "a").replace("_", "a").isalnum():
        return {"selector": text}
    rule = {"output": f"@{attribute}"}
    return {"selector": selector} | rule if selector.strip() else rule


def _check_keys(spec: dict[str, Any], path: str, scope: _Scope) -> None:
    for key in spec:
        if key not in _KEYS:
            reason = f"unknown; a rule has {', '.join(_KEYS)}"
            raise RuleError(f"{path}.{printable(key, 60)}", reason)
    if scope == "json":
        if "selector" in spec:
            raise RuleError(f"{path}.selector", "there are no elements inside of JSON")
        if "jmespath" not in spec:
            raise RuleError(f"{path}.jmespath", "is required inside of JSON")
    elif scope == "page" and not ("selector" in spec or "jmespath" in spec):
        raise RuleError(f"{path}.selector", "is required (or jmespath, for JSON)")


def _check_pairs(spec: dict[str, Any], path: str, output: object, *, many: bool) -> None:
    """Refuse a key that would do nothing together with the others."""
    casts = {"decimal": ("int", "float"), "format": ("date",)}
    if "limit" in spec and not many:
        raise RuleError(f"{path}.limit", "is for lists")
    if "header" in spec and not isinstance(output, Table):
        raise RuleError(f"{path}.header", "is for tables")
    if "group" in spec and "regex" not in spec:
        raise RuleError(f"{path}.group", "is for a regex")
    for key, kinds in casts.items():
        if key in spec and spec.get("cast") not in kinds:
            raise RuleError(f"{path}.{key}", f"is for the cast {' or '.join(kinds)}")
    if isinstance(output, Rules | Table):
        for key in ("regex", "cast"):
            if key in spec:
                raise RuleError(f"{path}.{key}", "is for texts and attributes")
    if spec.get("required") and "default" in spec:
        raise RuleError(f"{path}.default", "never counts where a value is required")


def _is_selector(text: str) -> bool:
    """Whether lexbor takes it: tried as pages are searched, as some faults only show on a node."""
    body = LexborHTMLParser(b"<p>").body
    assert body is not None
    try:
        body.css(text)
    except (SelectolaxError, UnicodeError):
        return False
    return True


def _reads(rules: Rules) -> Iterator[Literal["html", "json"]]:
    for _, rule in rules.by_name:
        yield "html" if rule.selectors or rule.expression is None else "json"


def _not_a_selector(text: str) -> str:
    """Say what is wrong, for a user who knows the selectors of another tool."""
    shown = f"not a CSS selector: {printable(text, 80)}"
    if text.lstrip().startswith(("/", "./", "(/")):
        return f"{shown} (XPath is not read)"
    if "::" in text:
        return f"{shown} (no ::text or ::attr(); see output)"
    if ":contains(" in text:
        return f"{shown} (jQuery's :contains is not in the standard; use a list and regex)"
    if _UNQUOTED.search(text):
        return f"{shown} (an attribute's value needs quotes, unless it is a name)"
    return shown


def _group(spec: Any, regex: Any, path: str) -> int | str:
    if regex is None:
        return 0
    if spec is None:
        return 1 if regex.groups else 0
    if isinstance(spec, str):
        if spec not in regex.groupindex:
            raise RuleError(path, "the regex has no group of this name")
        return spec
    if isinstance(spec, bool) or not isinstance(spec, int):
        raise RuleError(path, f"must be a number or a name, not {_json_type(spec)}")
    if not 0 <= spec <= regex.groups:
        raise RuleError(path, f"the regex has {regex.groups} groups")
    return spec


def _first_line(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0].rstrip(":"))


def _call_fault(tree: dict[str, Any]) -> str | None:
    """What the library would say only when it comes to a function: unknown, or wrongly called."""
    ahead = [tree]
    if tree["type"] == "expref":
        return "an & is for the second argument of sort_by and the like"
    while ahead:
        node = ahead.pop()
        children = [child for child in node["children"] if isinstance(child, dict)]
        ahead += children
        by = node["type"] == "function_expression" and node["value"] in _BY
        if not by and any(child["type"] == "expref" for child in children):
            return "an & is for the second argument of sort_by and the like"
        if node["type"] == "slice" and node["children"][2] == 0:
            return "a slice's step must not be 0"
        if node["type"] != "function_expression":
            continue
        name, given = node["value"], len(node["children"])
        if name not in _FUNCTIONS:
            return f"there is no function {printable(name, 60)}"
        signature = _FUNCTIONS[name]["signature"]
        more = bool(signature) and signature[-1].get("variadic", False)
        if given < len(signature) or (given > len(signature) and not more):
            return f"{name} takes {len(signature)} arguments, not {given}"
    return None


def _strings(spec: Any, path: str, most: int) -> tuple[str, ...]:
    if not isinstance(spec, list):
        return (_string(spec, path),)
    if not 0 < len(spec) <= most:
        raise RuleError(path, f"must be 1 to {most} of them")
    return tuple(_string(one, f"{path}[{at}]") for at, one in enumerate(spec))


def _string(spec: Any, path: str) -> str:
    if not isinstance(spec, str):
        raise RuleError(path, f"must be a string, not {_json_type(spec)}")
    if not spec.strip():
        raise RuleError(path, "is empty")
    return spec


def _one_of(
    spec: dict[str, Any], key: str, allowed: tuple[str, ...], path: str, default: Any
) -> Any:
    value = spec.get(key, default)
    if key in spec and (not isinstance(value, str) or value not in allowed):
        raise RuleError(f"{path}.{key}", f"must be {' or '.join(allowed)}")
    return value


def _given(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a rule without the keys that are null, which means absent; a default may be null."""
    if None not in spec.values():
        return spec
    return {key: value for key, value in spec.items() if value is not None or key == "default"}


def _positive(spec: Any, path: str) -> int | None:
    if spec is None:
        return None
    number = _whole(spec)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise RuleError(path, "must be a whole number from 1")
    return number


def _whole(spec: Any) -> Any:
    """`1.0` as the integer that it is to JSON Schema (2020-12, section 6.1.1)."""
    return int(spec) if isinstance(spec, float) and spec.is_integer() else spec


def _flag(spec: dict[str, Any], key: str, path: str) -> bool:
    value = spec.get(key, False)
    if not isinstance(value, bool):
        raise RuleError(f"{path}.{key}", f"must be true or false, not {_json_type(value)}")
    return value


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
