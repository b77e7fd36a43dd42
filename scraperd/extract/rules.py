"""The rule language as values: what a job's `extract` becomes. Pure.

May touch: nothing; `compile` makes these values, `apply` carries them out.
Must never: see a page, or hold a rule that can't be applied.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from scraperd.extract.cost import Cost

Output: TypeAlias = "Literal['text', 'html', 'json'] | Attribute | Table | Rules"
Cast: TypeAlias = Literal["int", "float", "bool", "date", "url"]

RAISED: Final = "sup, sub"  # what is looked for in the element of a number without a regex


class RuleError(Exception):
    """A rule that can't be used: `path` names it (`extract.items.output.price.selector`)."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Bounds(NamedTuple):
    """How many rules, how deep, and how long a selector, an expression or a regex may be."""

    rules: int = 500
    depth: int = 16
    selector: int = 1000
    selectors: int = 50_000  # characters of all selectors together


class Attribute(Struct, frozen=True):
    """An `@name` output. The value of one that `is_url` comes back absolute."""

    name: str
    is_url: bool


class Table(Struct, frozen=True):
    """A `table` output: rows of texts, or with `header` objects by the header row."""

    header: bool


class Refine(Struct, frozen=True):
    """What is made of a text: a part of it by a regular expression, then a typed value."""

    regex: Any = None
    group: int | str = 0
    cast: Cast | None = None
    decimal: Literal[".", ","] | None = None
    formats: tuple[str, ...] = ()
    program: int = 0  # instructions of the regex: each character can meet each of them


class Rule(Struct, frozen=True):
    """One compiled rule; `path` names it.

    Without `selectors` it is about the scope itself. With an `expression`, what is
    selected is read as JSON and searched; then `output` is "json" or nested rules.
    """

    path: str
    selectors: tuple[str, ...]
    expression: Any
    output: Output
    many: bool
    limit: int | None
    refine: Refine | None
    default: Any
    default_size: int  # characters of its JSON
    required: bool


class Rules(Struct, frozen=True):
    """Compiled rules by name; immutable, so that jobs with the same rules share them.

    `reads` tells which kinds of document the outermost rules are for; `paths` are those of
    all rules. `cost` is the most that one page can take, `compiled_cost` the same where the page
    is a compiled tree.
    """

    by_name: tuple[tuple[str, Rule], ...]
    names: int = 0  # characters of all names
    reads: frozenset[Literal["html", "json"]] = frozenset()
    paths: tuple[str, ...] = ()
    cost: Cost = Cost()
    compiled_cost: Cost = Cost()


ELSEWHERE: Final = Rules(())
"""Stands for valid rules that only helpers compile, because that takes long."""
