"""Which metrics and labels a PromQL expression names, and with which values. Pure.

May touch: the text of an expression.
Must never: judge whether the expression is valid; promtool and Prometheus do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(
    r'\s*(?P<text>"(?:[^"\\]|\\.)*")|\s*(?P<range>\[[^\]]*\])|\s*(?P<name>[A-Za-z_:][\w:]*)'
    r"|\s*(?P<number>[\d.]+\w*)|\s*(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},])"
)
_GROUPING: Final = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS: Final = {"and", "or", "unless", "bool", "offset"}


@dataclass(slots=True)
class Named:
    """What an expression names."""

    metrics: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(dict))
    """Metrics, each with the labels in its braces and the values that these ask for."""
    grouped: set[str] = field(default_factory=set)
    """Labels by which the expression groups or joins."""


def named(expression: str) -> Named:
    """Return what the expression names. Raises ValueError for a character that is unknown here."""
    found, tokens = Named(), _tokens(expression)
    while tokens:
        kind, token = tokens.pop(0)
        following = tokens[0][1] if tokens else ""
        if kind != "name" or token in _WORDS:
            continue
        if token in _GROUPING:
            found.grouped |= {it for what, it in _until(tokens, ")") if what == "name"}
        elif following == "{":
            _match(found.metrics[token], _until(tokens, "}"))
        elif following != "(" and not (following in _GROUPING and _is_aggregation(token)):
            found.metrics[token].update({})
    return found


def _is_aggregation(token: str) -> bool:
    return token in {"sum", "max", "min", "avg", "count", "topk"}


def _tokens(expression: str) -> list[tuple[str, str]]:
    found, at = [], 0
    expression = expression.rstrip()
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"{expression[at:]!r} in {expression!r} is not known to this reader")
        found.append((str(match.lastgroup), match[match.lastgroup or 0]))
        at = match.end()
    return found


def _until(tokens: list[tuple[str, str]], end: str) -> list[tuple[str, str]]:
    """Take the tokens up to `end` off the list."""
    length = [token for _, token in tokens].index(end)
    taken = tokens[:length]
    del tokens[: length + 1]
    return taken


def _match(labels: dict[str, set[str]], tokens: list[tuple[str, str]]) -> None:
    """Add what stands in the braces: values of `=` and `!=`, alternatives of `=~`."""
    for (kind, label), (_, sign), (_, text) in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if kind == "name":
            value = text[1:-1]
            several = value.split("|") if sign in {"=~", "!~"} else [value]
            labels.setdefault(label, set()).update(it for it in several if "$" not in it)
