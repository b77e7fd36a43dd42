"""Rules as they are typed, as sets that are changed, and as messages that are believed or not.

May touch: the pure parts of the room, and the keys of a fleet.
Must never: need a broker.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from scraperd.control.desk import QUESTION, change, forget, newest, rule_of, rules_of
from scraperd.control.matching import About, Matcher
from scraperd.control.rules import (
    DAY,
    MAX_RULES,
    MAX_SPAN,
    Rule,
    RuleError,
    RuleSet,
    limits_of,
    matched,
    until_of,
    with_rule,
    without,
)
from scraperd.control.stored import SEAL, read, written
from scraperd.jobs.signing import Keys
from scraperd.ops.fleet.answer import read_question

NOW = 1_800_000_000.0
KEYS = Keys([b"k" * 32], "p", time.time)
OTHERS = Keys([b"o" * 32], "p", time.time)


def a_rule(match: str = "id=a", *, do: Any = "cancel", until: float = NOW + DAY) -> Rule:
    return rule_of(do, matched(match), "me", NOW, until)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id=a=b", ("id", "", "a=b")),
        ("batch=monday", ("batch", "", "monday")),
        ("host=*.EXÁMPLE.com", ("host", "", "*.xn--exmple-qta.com")),
        ("host=[::1]", ("host", "", "::1")),
        ("host=*", ("host", "", "*")),
        ("meta.customer.id= x", ("meta", "customer.id", " x")),
    ],
)
def test_what_is_typed_has_one_spelling(text: str, match: tuple[str, str, str]) -> None:
    """Each way to name jobs."""
    assert matched(text) == match


@pytest.mark.parametrize(
    "text",
    [
        *("", "id", "id=", "x=1", "id.x=1", "meta=1", "meta.=1", "meta.a=", "batch=a b", "batch="),
        *("host=", "host=http://a/", "host=a:80", "host=a.*", "host=*.*.b", f"id={'x' * 256}"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    """Wrong words, empty values, hosts with more than a host."""
    with pytest.raises(RuleError):
        matched(text)


def test_limits_are_numbers_within_bounds() -> None:
    """One or both; not none, not another name, not beyond."""
    assert limits_of(["concurrency=2", "delay=1.5"]) == {"concurrency": 2, "delay": 1.5}
    assert limits_of(["delay=0"]) == {"delay": 0.0}
    for word in (
        "concurrency=0",
        "concurrency=1.5",
        "delay=-1",
        "delay=nan",
        "rate=1",
        "delay",
        "",
    ):
        with pytest.raises(RuleError):
            limits_of([word])
    with pytest.raises(RuleError):
        limits_of([])
    with pytest.raises(RuleError, match="for a host"):
        matched("id=a", "limit")
    rule = rule_of("limit", matched("host=a.b"), "", NOW, NOW + 1, limits=limits_of(["delay=1.5"]))
    assert (rule.says, rule.concurrency) == ("delay=1.5", None)


def test_when_a_rule_ends() -> None:
    """By a span or a date with its zone, in the future, and after 30 days at most."""
    assert until_of(None, "cancel", NOW) == NOW + DAY
    assert until_of(None, "pause", NOW) == NOW + MAX_SPAN
    assert until_of("90m", "pause", NOW) == NOW + 5400
    assert until_of("2027-01-15T10:00:00+01:00", "cancel", NOW) == NOW + 3600
    for text in ("0s", "31d", "2027-01-15T08:00:00", "2027-01-15T08:00:00Z", "soon", "9999999d"):
        with pytest.raises(RuleError):
            until_of(text, "cancel", NOW)


def test_a_set_holds_one_rule_of_a_kind_and_is_bounded() -> None:
    """A rule about the same jobs takes the place of the one before; ended ones go."""
    first = RuleSet(1, (a_rule(), a_rule("id=b", until=NOW - 1), a_rule(do="pause")))
    again = a_rule()
    assert with_rule(again, NOW)(first) == (first.rules[2], again)
    assert with_rule(again, NOW, same=9)(first) is first.rules
    full = RuleSet(1, tuple(a_rule(f"id={n}") for n in range(MAX_RULES)))
    with pytest.raises(RuleError, match="1000 is the limit"):
        with_rule(a_rule("id=x"), NOW)(full)
    assert len(with_rule(a_rule("id=0"), NOW)(full)) == MAX_RULES
    large = RuleSet(1, tuple(a_rule(f"id={n:0>255}") for n in range(900)))
    with pytest.raises(RuleError, match="bytes, more than 262144"):
        with_rule(a_rule("id=x"), NOW)(large)
    with pytest.raises(RuleError, match="no rule in force"):
        without(lambda rule: rule.id == "x", NOW, "x")(first)


def test_each_way_to_find_the_rule_of_a_job() -> None:
    """By id, batch, the most specific host, and fields of `meta` of each simple type."""
    texts = ["id=a", "batch=b", "host=*.x.example", "host=y.x.example", "meta.n=7", "meta.f=true"]
    rules = {text: a_rule(text) for text in texts}
    find = Matcher(rules.values())

    def found(ident: str = "-", batch: str = "", host: str = "h.example", meta: Any = None) -> Any:
        raw = msgspec.UNSET if meta is None else msgspec.Raw(msgspec.json.encode(meta))
        rule = find.of(About(ident, batch, host, raw))
        return None if rule is None else rule.match

    assert found("a") == "id=a"
    assert found(batch="b") == "batch=b"
    assert found(host="z.x.example") == "host=*.x.example"
    assert found(host="y.x.example") == "host=y.x.example"
    assert found(host="x.example") is None
    assert found(meta={"n": 7, "f": False}) == "meta.n=7"
    assert found(meta={"n": "7"}) == "meta.n=7"
    assert found(meta={"f": True}) == "meta.f=true"
    assert found(meta={"n": [7], "f": None}) is None
    assert found(meta=[7]) is None


def test_only_what_the_fleet_sealed_is_read() -> None:
    """Not a changed body, another key's, or what no version wrote; a later version's do is kept."""
    given = RuleSet(3, (a_rule(), a_rule(do="explode")))
    message = written(given, KEYS)
    assert read(message.body, message.headers, KEYS) == given
    assert read(message.body + b" ", message.headers, KEYS) is None
    assert read(message.body, message.headers, OTHERS) is None
    for headers in ({}, {SEAL: 1}, {SEAL: "é"}):
        assert read(message.body, headers, KEYS) is None
    assert newest([(b"{", {}), (message.body, message.headers)], KEYS) == given
    assert read_question(QUESTION) is not None


class Shelf:
    """A book in memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[bytes, Any]] = []

    async def records(self) -> list[tuple[bytes, Any]]:
        return self.kept

    async def write(self, message: Any) -> None:
        self.kept.append((message.body, message.headers))


async def test_a_change_is_made_from_the_newest_set() -> None:
    """The version rises, also if a clock goes back; sets of another key are not written over."""
    book = Shelf()
    one = await change(book, KEYS, with_rule(a_rule("id=1"), NOW), NOW)
    two = await change(book, KEYS, with_rule(a_rule("id=2"), NOW), NOW - 99)
    assert two.version == one.version + 1 == int(NOW * 1000) + 1
    book.kept.insert(0, book.kept.pop())  # the order does not count
    assert await rules_of(book, KEYS) == two
    with pytest.raises(RuleError, match="not sealed by a key of this configuration"):
        await change(book, OTHERS, with_rule(a_rule("id=3"), NOW), NOW)
    assert len(book.kept) == 2
    again = await forget(book, OTHERS, NOW + 1)
    assert (again.rules, again.version > two.version) == ((), True)
    assert await rules_of(book, OTHERS) == again
