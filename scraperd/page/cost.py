"""How long rules can take on a page at worst, without trying: whether the event loop may run them.

May touch: selectors and JMESPath trees as values. Pure.
Must never: underrate a rule; what it overrates only runs in another process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from math import factorial
from typing import Any, Final

from scraperd.page.selectors import plain

# Nanoseconds, measured with selectolax 1.0.2 on a core of 2.5 GHz; docs/decisions/0015 has how.
_NODE: Final = 40.0  # for each element, whatever the selector
_TEST: Final = 3.0  # and for each character of it
_STEP: Final = 6.0  # a step to an ancestor, to an elder sibling, or into a subtree
_ELEMENT: Final = 200.0  # an element that is made
_OPEN: Final = 1.5  # for each pair of tags: the parser looks through the elements that are open
_ATTRIBUTE: Final = 1.5 / 36  # for each pair of bytes: is an attribute's name new?
_JSON_STEP: Final = 700.0  # a node of an expression, applied to a value

_BRACKETS = re.compile(r"\[[^\]]*\]")
_AROUND = re.compile(r"\s*([>+~,(|])\s*|\s+(?=\))|\s+\Z|\A\s+")
_SPACE = re.compile(r"\s+")
_FUNCTION = re.compile(r":([\w-]+)\(")
_FORMATTING = re.compile(
    rb"<(?:b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)([\t\n\f\r />])", re.IGNORECASE
)
_PLAIN: Final = 36  # three of each of twelve; there is one nobr at most
_MAKING: Final = frozenset({"to_string", "to_array", "join", "map", "merge"})
_CHEAP: Final = frozenset({"is", "not", "where", "matches", "any", "lang", "dir"})


@dataclass(frozen=True, slots=True)
class Cost:
    """The most that rules take, in ns: `terms[k]` for each element times depth to the power k."""

    terms: tuple[float, ...] = ()

    def __add__(self, other: Cost) -> Cost:
        pairs = zip_longest(self.terms, other.terms, fillvalue=0.0)
        return Cost(tuple(a + b for a, b in pairs))

    def at(self, elements: int, depth: int) -> float:
        """Nanoseconds on so many elements, nested so deep or beside each other."""
        total = 0.0
        for term in reversed(self.terms):
            total = total * depth + term
        return total * elements


HEAVY: Final = Cost((1e12,))  # never on the loop


def cost_of_selector(selector: str, overlap: int) -> Cost:
    """The most that `selector` takes in a page.

    The matcher walks back from an element and tries every way: each descendant or
    sibling combinator and each `:has` multiplies by the elements there are. So does each
    of the `overlap` lists of elements that it is applied in, as those may lie in each other.
    """
    flat = _BRACKETS.sub("", plain(selector))
    flat = _AROUND.sub(r"\1", flat)
    degree = overlap + len(_SPACE.findall(flat)) + flat.count("~")
    linear = _NODE + _TEST * len(selector)
    for name in _FUNCTION.findall(flat.lower()):
        if name not in _CHEAP:
            degree += 1
    step = _STEP * (1 + len(selector) / 100) / factorial(min(degree, 20))
    return Cost((linear, *(0.0,) * (degree - 1), step) if degree else (linear,))


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
    return Cost((_JSON_STEP * nodes * min(repeated, 10**9),))


LINKS_AND_METADATA: Final = Cost((600.0,))


def of_html(page: bytes, rules: Cost) -> float:
    """Nanoseconds that a page and its rules take at worst.

    A parser opens the formatting elements that were not closed anew in each paragraph, all
    that have attributes and three of each that have none (HTML standard, "reconstruct the
    active formatting elements"): 26 kB can make five million elements.
    """
    tags = page.count(b"<") + 3
    formatting = _FORMATTING.findall(page)
    plain = formatting.count(b">")
    reopened = len(formatting) - plain + min(plain, _PLAIN)
    elements = tags * (1 + reopened)
    parsing = _ELEMENT * elements + _OPEN * tags * tags + _ATTRIBUTE * len(page) * len(page)
    return parsing + rules.at(elements, tags + reopened)


def of_json(document: bytes, rules: Cost) -> float:
    """Nanoseconds that a JSON document and its rules take at worst."""
    values = 2 + sum(map(document.count, (b",", b"[", b"{", b":")))
    return 20.0 * len(document) + rules.at(values, values)
