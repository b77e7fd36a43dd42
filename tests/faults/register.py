"""The register of rows: a fault each, by name, with its number and what may be said of it.

May touch: the modules that hold the rows, which it imports.
Must never: hold a row itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.faults import rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene

ROWS: dict[str, Row] = {}


@dataclass(frozen=True, slots=True)
class Row:
    """A fault. `nodes` is how many brokers it has for itself, 0 if it shares one with others; with
    `off` it starts them itself, with `cluster` they are one.

    `says` are the events of trouble that the daemon must log in it, `may` those that it may.
    """

    number: int
    name: str
    play: Callable[[Scene], None]
    nodes: int
    off: bool
    cluster: bool
    says: tuple[str, ...]
    may: tuple[str, ...]

    @property
    def what(self) -> str:
        return (self.play.__doc__ or "").strip().split("\n")[0]


def row(
    number: int,
    name: str,
    *,
    nodes: int = 0,
    off: bool = False,
    cluster: bool = False,
    says: str = "",
    may: str = "",
) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Register a function as a row."""

    def register(play: Callable[[Scene], None]) -> Callable[[Scene], None]:
        assert name not in ROWS, f"two rows are named {name}"
        said, allowed = tuple(says.split()), tuple(may.split())
        ROWS[name] = Row(number, name, play, nodes, off, cluster, said, allowed)
        return play

    return register


def every_row() -> dict[str, Row]:
    """All rows, by their numbers."""
    for module in pkgutil.walk_packages(rows.__path__, f"{rows.__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(ROWS.items(), key=lambda item: item[1].number))
