"""Rules as values: what is typed becomes a rule, and a set of rules becomes another. Pure.

May touch: texts, times that are handed in.
Must never: take a rule that could not be meant, or let a set grow past its bounds.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from scraperd.base.hosts import host_pattern
from scraperd.base.text import printable
from scraperd.contract import is_batch_id, is_ident

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Do: TypeAlias = Literal["cancel", "pause", "limit"]
What: TypeAlias = Literal["id", "batch", "host", "meta"]

DOS: Final[tuple[Do, ...]] = get_args(Do)
SUBJECTS: Final[tuple[What, ...]] = get_args(What)
MAX_RULES: Final = 1000
MAX_SET_BYTES: Final = 256 * 1024  # of a set, as JSON
MAX_VALUE: Final = 255  # characters of a value of `meta`, and of the name of its field
MAX_BY: Final = 100  # characters of who set a rule
DAY: Final = 86_400.0  # seconds
MAX_SPAN: Final = 30 * DAY  # seconds that a rule may be in force
# Where none is said.
SPANS: Final[dict[Do, float]] = {"cancel": DAY, "pause": MAX_SPAN, "limit": MAX_SPAN}
MAX_CONCURRENCY: Final = 10_000  # fetches of one host at once
MAX_DELAY: Final = 3600.0  # seconds between two fetches of one host
UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN: Final = re.compile(r"([0-9]{1,6})([smhd])")


class RuleError(ValueError):
    """A rule cannot be set; the message says why, and what to write instead."""


class Rule(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to do with which jobs, who said so, from when, until when.

    `name` is the field of `meta`. Times are in seconds since 1970. A rule of a later version may
    do what this version does not know: it is kept, and means nothing here.
    """

    id: str
    do: str
    what: str
    value: str
    name: str = ""
    by: str
    at: float
    until: float
    concurrency: int | None = None
    delay: float | None = None

    @property
    def says(self) -> str:
        """What it sets, as it is typed; empty for a rule that sets nothing."""
        values = {"concurrency": self.concurrency, "delay": self.delay}
        return " ".join(f"{name}={it:g}" for name, it in values.items() if it is not None)

    @property
    def match(self) -> str:
        """Which jobs it is about, as it is typed."""
        return f"{self.what}.{self.name}={self.value}" if self.name else f"{self.what}={self.value}"

    @property
    def target(self) -> tuple[str, str, str, str]:
        """What makes two rules the same rule, of which the later one counts."""
        return self.do, self.what, self.name, self.value


class RuleSet(Struct, frozen=True):
    """All rules of a fleet. Of two sets that with the higher version counts."""

    version: int = 0
    rules: tuple[Rule, ...] = ()

    def at(self, now: float) -> tuple[Rule, ...]:
        """Return the rules that have not ended."""
        return tuple(rule for rule in self.rules if rule.until > now)


Edit: TypeAlias = "Callable[[RuleSet], tuple[Rule, ...]]"


def matched(text: str, do: Do = "cancel") -> tuple[What, str, str]:
    """Return what `id=…`, `batch=…`, `host=…` or `meta.NAME=…` is about. Raises RuleError.

    The second is the field of `meta`, else empty; the third the value in its one spelling.
    """
    left, equals, value = text.partition("=")
    what, dot, name = left.partition(".")
    if not equals or what not in SUBJECTS or bool(dot) != (what == "meta"):
        raise RuleError(
            f"{printable(text)!r} is not one of id=ID, batch=ID, host=HOST, meta.NAME=VALUE"
        )
    match what:
        case "host":
            return "host", "", _host(value)
        case _ if do == "limit":
            raise RuleError("a limit is for a host: host=www.example.com or host=*.example.com")
        case "id" if is_ident(value):
            return "id", "", value
        case "batch" if is_batch_id(value):
            return "batch", "", value
        case "meta" if 0 < len(name) <= MAX_VALUE and 0 < len(value) <= MAX_VALUE:
            return "meta", name, value
    raise RuleError(f"{printable(value)!r} cannot be the {left} of a job")


def limits_of(words: Iterable[str]) -> dict[str, Any]:
    """Return what `concurrency=2` and `delay=1.5` say. Raises RuleError."""
    found: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if name == "concurrency" and value in range(1, MAX_CONCURRENCY + 1):
            found[name] = int(value)
        elif name == "delay" and 0 <= value <= MAX_DELAY:
            found[name] = value
        else:
            raise RuleError(
                f"{printable(word)!r} is not concurrency=N (1 to {MAX_CONCURRENCY}) or "
                f"delay=SECONDS (0 to {MAX_DELAY:g})"
            )
    if not found:
        raise RuleError("say what to limit: concurrency=N, delay=SECONDS, or both")
    return found


def _host(text: str) -> str:
    try:
        return host_pattern(text)
    except ValueError:
        raise RuleError(
            f"{printable(text)!r} is not a host; write host=www.example.com, host=*.example.com or "
            "host=*, without a scheme, port or path"
        ) from None


def until_of(text: str | None, do: Do, now: float) -> float:
    """Return when a rule ends that is typed as `30m` or as a date; by default after SPANS.

    Raises RuleError for the past, and past MAX_SPAN.
    """
    if text is None:
        return now + SPANS[do]
    if match := _SPAN.fullmatch(text):
        until = now + int(match[1]) * UNITS[match[2]]
    else:
        until = _date(text)
    if not now < until <= now + MAX_SPAN:
        raise RuleError(
            f"--until {printable(text)}: a rule ends in the future, and after 30 days at most"
        )
    return until


def _date(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.timestamp()
    except (ValueError, OverflowError):
        pass
    raise RuleError(
        f"--until {printable(text)}: write 30s, 15m, 2h or 7d, or a date with its zone such as "
        "2030-01-31T12:00:00Z"
    )


def shown(at: float) -> str:
    """Return a time as people read it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def with_rule(rule: Rule, now: float, most: int = MAX_RULES, same: float = 0.0) -> Edit:
    """Return what adds a rule, in place of one about the same; ended ones go. Raises RuleError.

    One that ends no more than `same` seconds earlier is left as it is.
    """

    def edit(current: RuleSet) -> tuple[Rule, ...]:
        for it in current.rules:
            if it.target == rule.target and 0 <= rule.until - it.until < same:
                return current.rules
        kept = tuple(it for it in current.at(now) if it.target != rule.target)
        if len(kept) >= most:
            raise RuleError(
                f"{len(kept)} rules are in force, and {most} is the limit here; remove some "
                "(scraperd rules --remove ID), or use one rule for a batch, a host or a field of "
                "meta"
            )
        rules = (*kept, rule)
        if (size := len(msgspec.json.encode(rules))) > MAX_SET_BYTES:
            raise RuleError(
                f"all rules together would have {size} bytes, more than {MAX_SET_BYTES}; remove "
                "some (scraperd rules --remove ID)"
            )
        return rules

    return edit


def without(meant: Callable[[Rule], bool], now: float, what: str) -> Edit:
    """Return what removes the rules that are meant, which `what` names. Raises RuleError."""

    def edit(current: RuleSet) -> tuple[Rule, ...]:
        rules = current.at(now)
        kept = tuple(rule for rule in rules if not meant(rule))
        if len(kept) == len(rules):
            raise RuleError(f"no rule in force is {printable(what)}; see scraperd rules")
        return kept

    return edit


def next_version(current: RuleSet, now: float) -> int:
    """Return the version of the set after this one: milliseconds since 1970, and always higher.

    So a set is later than all before it also where those can't be read any more.
    """
    return max(current.version + 1, int(now * 1000))


def renewed(current: RuleSet, rules: tuple[Rule, ...], now: float) -> RuleSet:
    """Return the set that takes the place of `current`."""
    return replace(current, version=next_version(current, now), rules=rules)
