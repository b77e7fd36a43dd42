"""Tests of the rule language: what compiles, what is refused, and with which words.

May touch: nothing outside of memory.
Must never: take the words of a library that changes them with each release.
"""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scraperd.extract.apply import Allowance, extract
from scraperd.extract.compile import (
    MAX_CACHED_BYTES,
    MAX_FALLBACKS,
    MAX_SIZE,
    _Cache,
    compile_rules,
)
from scraperd.extract.rules import Bounds, RuleError, Rules

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_RULES, MAX_DEPTH, MAX_SELECTOR, MAX_SELECTORS = Bounds()
PAGE = b"<title>x</title><a href=1>a<p>b"


def found(rules: Rules) -> Any:
    """What rules find on the page; no bound is in the way."""
    ample = Allowance(matches=10**6, output=10**8)
    return extract(
        PAGE, "http://h/", rules=rules, links=False, metadata=False, allowance=ample
    ).data


def compiled(rules: Any) -> Rules:
    """Compile rules given as a value."""
    return compile_rules(json.dumps(rules).encode())


def test_rules_are_compiled_once() -> None:
    """Jobs with the same bytes of rules share one compiled set."""
    raw = b'{"a": "b"}'
    assert compile_rules(bytes(bytearray(raw))) is compile_rules(raw)


def test_a_key_of_a_rule_that_is_null_is_absent() -> None:
    """But `default`, where null is a value; and 1.0 is a whole number (JSON Schema)."""
    keys = ("jmespath", "output", "regex", "group", "cast", "decimal", "format", "header")
    nulls = {**dict.fromkeys(keys), "required": None, "later": None, "default": None}
    [(_, rule)] = compiled({"a": {"selector": "b", "type": "list", "limit": 2.0, **nulls}}).by_name
    [(_, plain)] = compiled(
        {"a": {"selector": "b", "type": "list", "limit": 2, "default": None}}
    ).by_name
    assert rule == plain


@pytest.mark.parametrize(
    ("rules", "path", "reason"),
    [
        ([], "extract", "must be an object of rules, not an array"),
        ("h1", "extract", "must be an object of rules, not a string"),
        (None, "extract", "must be an object of rules, not null"),
        (True, "extract", "must be an object of rules, not a boolean"),
        (1.5, "extract", "must be an object of rules, not a number"),
        ({"a": 5}, "extract.a", "must be a selector or a rule object, not a number"),
        ({"a": None}, "extract.a", "must be a selector or a rule object, not null"),
        ({"a": ["b"]}, "extract.a", "must be a selector or a rule object, not an array"),
        ({"a": ""}, "extract.a.selector", "is empty"),
        ({"a": "h1["}, "extract.a.selector", "not a CSS selector"),
        ({"a": "//h1"}, "extract.a.selector", "not a CSS selector"),
        ({"a": "h1,"}, "extract.a.selector", "not a CSS selector"),
        ({"a": "a::text"}, "extract.a.selector", "not a CSS selector"),
        ({"a": "a:contains('x')"}, "extract.a.selector", "not a CSS selector"),
        ({"a": "> b"}, "extract.a.selector", "not a CSS selector"),
        (
            {"a": "b" * (MAX_SELECTOR + 1)},
            "extract.a.selector",
            f"longer than {MAX_SELECTOR} characters",
        ),
        ({"a": {}}, "extract.a.selector", "is required"),
        ({"a": {"selector": 5}}, "extract.a.selector", "must be a string, not a number"),
        ({"a": {"selector": "["}}, "extract.a.selector", "not a CSS selector"),
        ({"a": {"selecter": "b"}}, "extract.a.selecter", "a rule has selector, jmespath, output, "),
        ({"a": {"selector": "b", "type": "all"}}, "extract.a.type", "must be item or list"),
        ({"a": {"selector": "b", "type": []}}, "extract.a.type", "must be item or list"),
        (
            {"a": {"selector": "b", "output": "@"}},
            "extract.a.output",
            "must be text, html, table, @attri",
        ),
        (
            {"a": {"selector": "b", "output": "href"}},
            "extract.a.output",
            "must be text, html, table, @att",
        ),
        ({"a": {"selector": "b", "output": ["c"]}}, "extract.a.output", "must be text, html"),
        (
            {"items": {"selector": ".p", "output": {"price": {"selector": "p..x"}}}},
            "extract.items.output.price.selector",
            "not a CSS selector",
        ),
        ({"a\r\nb": "["}, "extract.a\ufffd\ufffdb.selector", "not a CSS selector"),
        ({"x" * 1000: "["}, "extract." + "x" * 59 + "….selector", "not a CSS selector"),
        ({"a": {"selector": "b", "k\n" * 99: 1}}, "extract.a." + "k\ufffd" * 29 + "k…", "unknown"),
    ],
)
def test_a_bad_rule_is_named_by_its_path(rules: Any, path: str, reason: str) -> None:
    """What is wrong with rules is found before any fetch, and one line says where and what."""
    with pytest.raises(RuleError) as caught:
        compiled(rules)
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"a": "\\ud800"}', b"nan"])
def test_rules_that_are_no_json_are_refused(raw: bytes) -> None:
    """Even bytes that the contract would not let through end as a bad rule."""
    with pytest.raises(RuleError, match=r"^extract: not JSON: "):
        compile_rules(raw)


@pytest.mark.parametrize(
    ("rule", "key", "reason"),
    [
        ({"jmespath": 5}, "jmespath", "must be a string, not a number"),
        ({"jmespath": ""}, "jmespath", "is empty"),
        ({"jmespath": "a["}, "jmespath", "not a JMESPath expression: "),
        ({"jmespath": "`{`"}, "jmespath", "a literal in backticks must be JSON"),
        ({"jmespath": "none(a)"}, "jmespath", "there is no function none"),
        ({"jmespath": "a[*].b[?none(@)]"}, "jmespath", "there is no function none"),
        ({"jmespath": "length(a, b)"}, "jmespath", "length takes 1 arguments, not 2"),
        ({"jmespath": "sort_by(a)"}, "jmespath", "sort_by takes 2 arguments, not 1"),
        ({"jmespath": "a[::0]"}, "jmespath", "a slice's step must not be 0"),
        ({"jmespath": "!" * 999 + "a"}, "jmespath", "nested too deeply"),
        ({"jmespath": "a", "output": "text"}, "output", "of a jmespath rule, must be an object"),
        (
            {"jmespath": "a", "output": {"b": {"selector": "c"}}},
            "output.b.selector",
            "there are no",
        ),
        ({"jmespath": "a", "output": {"b": {}}}, "output.b.jmespath", "is required inside of JSON"),
        ({"selector": []}, "selector", f"must be 1 to {MAX_FALLBACKS} of them"),
        ({"selector": ["a"] * 21}, "selector", f"must be 1 to {MAX_FALLBACKS} of them"),
        ({"selector": ["a", 5]}, "selector[1]", "must be a string, not a number"),
        ({"selector": ["a", "b["]}, "selector[1]", "not a CSS selector"),
        ({"selector": "//h1"}, "selector", "not a CSS selector: //h1 (XPath is not read)"),
        ({"selector": "h1::text"}, "selector", "h1::text (no ::text or ::attr(); see output)"),
        ({"selector": "a:contains('b')"}, "selector", "(jQuery's :contains is not in the standard"),
        ({"selector": "a[b=http://x]"}, "selector", "(an attribute's value needs quotes, unless"),
        ({"selector": "a[b=1]"}, "selector", "(an attribute's value needs quotes, unless"),
        ({"selector": "> b"}, "selector", "not a CSS selector: > b"),
        ({"selector": ':lexbor-contains("q")'}, "selector", "there is no :lexbor-contains()"),
        ({"selector": ":is(:lexbor-contains()-,t:i"}, "selector", "there is no :lexbor-contains()"),
        ({"selector": r":l\65xbor-contains(q)"}, "selector", "there is no :lx"),
        ({"selector": "x b/*'*/ b b/*'*/"}, "selector", "comments are not read"),
        ({"selector": ':is("\n, x b b b, "\n)'}, "selector", "a quote is not closed"),
        ({"jmespath": "&a"}, "jmespath", "an & is for the second argument of sort_by"),
        ({"jmespath": "[&a]"}, "jmespath", "an & is for the second argument of sort_by"),
        ({"jmespath": "to_string(&a)"}, "jmespath", "an & is for the second argument"),
        ({"jmespath": "map(&(&a), @)"}, "jmespath", "an & is for the second argument"),
        ({"selector": "a", "regex": "("}, "regex", "not an RE2 pattern: missing ): ("),
        ({"selector": "a", "regex": "(?=a)"}, "regex", "not an RE2 pattern: invalid perl operator"),
        ({"selector": "a", "regex": "a{1001}"}, "regex", "invalid repetition size"),
        ({"selector": "a", "regex": r"\p{L}{900}"}, "regex", "pattern too large"),
        ({"selector": "a", "regex": "a" * 1001}, "regex", "longer than 1000 characters"),
        ({"selector": "a", "regex": ["a"]}, "regex", "must be a string, not an array"),
        ({"selector": "a", "group": 1}, "group", "is for a regex"),
        ({"selector": "a", "regex": "(b)", "group": 2}, "group", "the regex has 1 groups"),
        ({"selector": "a", "regex": "(b)", "group": -1}, "group", "the regex has 1 groups"),
        ({"selector": "a", "regex": "(b)", "group": "c"}, "group", "no group of this name"),
        ({"selector": "a", "regex": "(b)", "group": True}, "group", "must be a number or a name"),
        ({"selector": "a", "cast": "money"}, "cast", "must be int or float or bool or date or url"),
        ({"selector": "a", "cast": "int", "decimal": ";"}, "decimal", "must be . or ,"),
        (
            {"selector": "a", "cast": "date", "decimal": "."},
            "decimal",
            "is for the cast int or float",
        ),
        ({"selector": "a", "format": "%Y"}, "format", "is for the cast date"),
        ({"selector": "a", "cast": "int", "format": "%Y"}, "format", "is for the cast date"),
        ({"selector": "a", "cast": "date", "format": "%Q"}, "format", ""),
        ({"selector": "a", "cast": "date", "format": []}, "format", "must be 1 to 10 of them"),
        ({"selector": "a", "limit": 1}, "limit", "is for lists"),
        ({"selector": "a", "type": "list", "limit": 0}, "limit", "must be a whole number from 1"),
        (
            {"selector": "a", "type": "list", "limit": True},
            "limit",
            "must be a whole number from 1",
        ),
        ({"selector": "a", "type": "list", "limit": 1.5}, "limit", "must be a whole number from 1"),
        ({"selector": "a", "header": True}, "header", "is for tables"),
        ({"selector": "a", "output": "table", "header": 1}, "header", "must be true or false"),
        (
            {"selector": "a", "output": "table", "cast": "int"},
            "cast",
            "is for texts and attributes",
        ),
        ({"selector": "a", "output": {}, "regex": "a"}, "regex", "is for texts and attributes"),
        ({"selector": "a", "required": "yes"}, "required", "must be true or false, not a string"),
        ({"selector": "a", "required": True, "default": 1}, "default", "never counts where"),
    ],
)
def test_a_key_that_is_wrong_or_does_nothing_is_named(
    rule: dict[str, Any], key: str, reason: str
) -> None:
    """Each key of a rule is checked when the job is decoded, alone and beside the others."""
    with pytest.raises(RuleError) as caught:
        compiled({"a": rule})
    assert caught.value.path == f"extract.a.{key}"
    assert reason in caught.value.reason
    assert caught.value.reason.isprintable()


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("h1", {"selector": "h1"}),
        ("a@href", {"selector": "a", "output": "@href"}),
        ("a[rel=next] @data-x", {"selector": "a[rel=next] ", "output": "@data-x"}),
        ("a[href='x@y']", {"selector": "a[href='x@y']"}),
        ("a[href='x@y']@href", {"selector": "a[href='x@y']", "output": "@href"}),
    ],
)
def test_a_string_is_short_for_a_rule(short: str, long: dict[str, Any]) -> None:
    """A selector, and an attribute behind an at sign, mean what the long form says."""
    assert compiled({"x": short}).by_name == compiled({"x": long}).by_name


def test_only_inside_of_an_element_a_rule_needs_no_selector() -> None:
    """`@href` alone is an attribute of the element that the outer rule matched."""
    assert compiled({"a": {"selector": "a", "output": {"u": "@href", "t": {"output": "text"}}}})
    with pytest.raises(RuleError, match=r"^extract\.u\.selector: is required"):
        compiled({"u": "@href"})


def test_what_documents_rules_are_for() -> None:
    """The outermost rules say whether they read HTML, JSON, or either."""
    assert compiled({"a": "b"}).reads == {"html"}
    assert compiled({"a": {"jmespath": "b"}}).reads == {"json"}
    assert compiled({"a": "b", "c": {"jmespath": "b"}}).reads == {"html", "json"}
    assert compiled({"a": {"selector": "script", "jmespath": "b"}}).reads == {"html"}
    assert compiled({}).reads == frozenset()


def test_ten_thousand_jobs_with_the_same_rules_compile_once() -> None:
    """The cache is asked by the bytes: not one rule is compiled a second time."""
    cache = _Cache(MAX_CACHED_BYTES)
    raw = json.dumps({"a": {"selector": "b", "regex": "(c)", "cast": "int"}}).encode()
    rules = {id(cache.get(bytes(bytearray(raw)), Bounds())) for _ in range(10_000)}
    assert (len(rules), cache.compiled) == (1, 1)
    cache.get(raw, Bounds(depth=3))
    assert cache.compiled == 2  # other bounds could have refused it


KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "selectors": lambda n: {"a": f"a.x{n}", "b": "p"},
    "regexes": lambda n: {"a": {"selector": "a", "regex": f"([0-9]+) {n}"}},
    "large regexes": lambda n: {"a": {"selector": "a", "regex": r"\pL" * 30 + str(n)}},
    "expressions": lambda n: {f"r{k}": {"jmespath": f"a{n}" + "[]" * 100} for k in range(10)},
    "long names": lambda n: {f"{n}" * 5000: "a"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_of_rules_is_bounded(kind: str) -> None:
    """It keeps to its bytes, as the process sees them, and drops what was not used for longest."""
    limit = 8 * 1024 * 1024
    cache, number = _Cache(limit), 0
    before = resident()
    while len(cache.kept) > number or not number:  # until one is dropped
        cache.get(json.dumps(KINDS[kind](number)).encode(), Bounds())
        cache.get(b'{"kept": "b"}', Bounds())
        number += 1
    assert len(cache.kept) <= number
    assert cache.compiled == number + 1  # the one in use was never dropped
    assert cache.kept.size <= limit
    assert resident() - before < 1.5 * limit


def resident() -> int:
    """Bytes of memory that this process holds: what C++ takes counts as well."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    ("rule", "many", "words"),
    [
        (
            {"selector": "a", "regex": r"\pL" * 30},
            6,
            "all regexes together exceed 200000 instructi",
        ),
        ({"jmespath": "a" + "[]" * 400}, 13, "all expressions together exceed 10000 characters"),
    ],
)
def test_what_costs_to_compile_is_bounded_in_all(
    rule: dict[str, Any], many: int, words: str
) -> None:
    """Each may be large, but not all of them."""
    rules = [
        rule | {"regex": rule["regex"] + str(n)} if "regex" in rule else rule for n in range(many)
    ]
    compiled({str(n): one for n, one in enumerate(rules[:-1])})
    with pytest.raises(RuleError, match=words):
        compiled({str(n): one for n, one in enumerate(rules)})


def test_formats_are_bounded_in_all() -> None:
    """Each of them is a pattern that has to be compiled."""
    rules = {
        str(n): {
            "selector": "a",
            "cast": "date",
            "format": [f"{n} {k} %Y %m %d" for k in range(10)],
        }
        for n in range(6)
    }
    with pytest.raises(RuleError, match="more than 50 formats in all rules"):
        compiled(rules)
    del rules["5"]
    compiled(rules)


def test_rules_that_take_too_many_bytes_are_refused() -> None:
    """White space counts as well: what is cached must be bounded."""
    good = b'{"a": "b"' + b" " * (MAX_SIZE - 10) + b"}"
    assert compile_rules(good).paths == ("extract.a",)
    with pytest.raises(RuleError, match=f"^extract: larger than {MAX_SIZE} bytes"):
        compile_rules(good + b" ")


def test_the_bounds_can_be_set() -> None:
    """Fewer, flatter and shorter rules can be asked for; the setting is named."""
    for rules, bounds, words in (
        ({"a": "b", "c": "d"}, Bounds(rules=1), "more than 1 rules (extract.max_rules)"),
        ({"a": {"selector": "b", "output": {"c": "d"}}}, Bounds(depth=1), "(extract.max_depth)"),
        (
            {"a": "bcd"},
            Bounds(selector=2),
            "longer than 2 characters (extract.max_selector_length)",
        ),
        ({"a": {"jmespath": "bcd"}}, Bounds(selector=2), "longer than 2 characters"),
    ):
        with pytest.raises(RuleError) as caught:
            compile_rules(json.dumps(rules).encode(), bounds)
        assert words in str(caught.value)


def nested(depth: int) -> Any:
    """Rules that are `depth` objects deep."""
    rules: Any = {"a": "b"}
    for _ in range(depth - 1):
        rules = {"a": {"selector": "b", "output": rules}}
    return rules


def test_the_bounds_of_rules() -> None:
    """Depth, number and length are each good up to the documented bound, and not beyond it."""
    compiled(nested(MAX_DEPTH))
    compiled({str(n): "a" for n in range(MAX_RULES)})
    compiled({"a": "b" * MAX_SELECTOR})
    for rules, reason in (
        (nested(MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH} rules"),
        ({str(n): "a" for n in range(MAX_RULES + 1)}, f"more than {MAX_RULES} rules"),
    ):
        with pytest.raises(RuleError, match=reason):
            compiled(rules)
    with pytest.raises(RuleError, match=f"nested deeper than {MAX_DEPTH} rules"):
        compile_rules(b'{"a":' * 40_000)
    with pytest.raises(RuleError, match="must be a selector or a rule object"):
        compile_rules(b'{"a":%s1%s}' % (b"[" * 500, b"]" * 500))


KEYS = (
    "selector jmespath output type limit header regex group cast decimal format default required"
).split()
WORDS = st.sampled_from(
    [
        *("a", "*", ".x", "a[href]", "p > b", "div a", ":not(a)", "p:has(b)", "a@href", "@href"),
        *("text", "html", "table", "@class", "@\xe9", "item", "list", "int", "date", "url", "bool"),
        *(
            ".",
            ",",
            "(a)",
            "(?P<n>b)",
            "(",
            "a{1001}",
            "n",
            "%Y",
            "%Q",
            "%",
            "a.b",
            "[*].a",
            "a[",
            "",
        ),
        *("length(@)", "length()", "none(@)", "&a", "a[::0]", "`{`", "@", "x.y@z"),
    ]
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["a", *KEYS]), inner, max_size=5)
        | st.fixed_dictionaries({"a": st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)})
    ),
)


@given(rules=JSONS)
@settings(max_examples=200, deadline=None)
def test_any_json_is_rules_or_a_rule_error(rules: Any) -> None:
    """No JSON value makes the compiler of rules raise anything but its one error."""
    try:
        compile_rules(msgspec.json.encode(rules))
    except RuleError as error:
        message = str(error)
    else:
        message = "extract: good"
        assert isinstance(rules, dict)
    assert message.startswith("extract")
    assert message.isprintable()


CSS = st.lists(
    st.sampled_from(
        [
            *("a", "*", ".x", "#y", "[h]", "[a=b]", "[a='b' i]", "[a~=", ":has(", ":not(", ":is("),
            *(":where(", "(", ")", ":nth-child(", "2n+1", " of ", ":empty", "::before", ">", "+"),
            *(
                "~",
                ",",
                "|",
                "||",
                "\\",
                "\\0",
                "\0",
                "\x80",
                "é",
                "/*",
                "*/",
                "@",
                "-",
                "99999999999",
            ),
            *(
                ":lang(",
                ":hover",
                "{",
                "}",
                ";",
                "<!--",
                "\n",
                "svg|a",
                "*|*",
                ":scope",
                "'",
                '"',
                " ",
            ),
        ]
    ),
    min_size=1,
    max_size=12,
).map("".join) | st.text(max_size=20)


@given(selector=CSS)
@settings(max_examples=300, deadline=None)
@example(selector="\ud800")
def test_any_text_is_a_selector_or_a_rule_error(selector: str) -> None:
    """A selector that compiles can be run, and one that can't be run does not compile."""
    raw = json.dumps({"x": {"selector": selector, "type": "list"}}).encode()
    try:
        rules = compile_rules(raw)
    except RuleError as error:
        path = error.path
    else:
        path = "extract.x.selector"
        data = found(rules)
        assert isinstance(data, dict)
        assert isinstance(data["x"], list)
    assert path in ("extract.x.selector", "extract")
