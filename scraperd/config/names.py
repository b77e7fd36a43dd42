"""The settings by their names, like `fetch.proxy`: what each is, and which is nearest to a name.

May touch: the types of the settings. Pure.
Must never: know where a value comes from.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from msgspec import Struct

from scraperd.config.settings import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_LIKENESS: Final = 0.6  # of two names, from 0 to 1: difflib's own default


def value_of(config: Config, name: str) -> Any:
    """Return the value of the setting `name`."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def unit_of(name: str) -> str:
    """Return the unit of a setting, or the values that it may have, in words."""
    return str(meta_of(name)["extra"]["unit"])


def meta_of(name: str) -> dict[str, Any]:
    """Return the description of a setting or a table; `extra` has its unit, and if reloads hold."""
    found: dict[str, Any] = {"description": "", "extra": {"unit": ""}}
    hint = _TOP[name] if name in _TOP else SETTINGS[name]
    for meta in getattr(hint, "__metadata__", ()):  # nested annotations are merged by typing
        if meta.description:
            found = {"description": meta.description, "extra": meta.extra}
    return found


def nearest(name: str) -> list[str]:
    """Return the settings that somebody may have meant by an unknown `name`, in any table.

    In its own table those that end like it; or those of this name in other tables; or else the
    one whose name is most like it.
    """
    wanted = name.lower().replace("-", "_")
    table, _, leaf = wanted.rpartition(".")
    own = [full for full in SETTINGS if table and full.startswith(f"{table}.")]
    longer = [full for full in own if leaf and full.endswith(f"_{leaf}")]
    if found := longer or [full for full in SETTINGS if full.rpartition(".")[2] == leaf]:
        return found
    best = max(SETTINGS, key=lambda full: (_likeness(wanted, leaf, full), full in own))
    return [best] if _likeness(wanted, leaf, best) >= MIN_LIKENESS else []


def nearest_table(name: str) -> str | None:
    """Return the table whose name is most like `name`, if any is."""
    return next(iter(difflib.get_close_matches(name.lower(), ALL_TABLES, 1, MIN_LIKENESS)), None)


def _likeness(wanted: str, leaf: str, full: str) -> float:
    """How like two names are: whole, without the table, or as one word (`log_level`)."""
    pairs = ((wanted, full), (leaf, full.rpartition(".")[2]), (wanted, full.replace(".", "_")))
    return max(difflib.SequenceMatcher(None, one, other).ratio() for one, other in pairs)


def _settings() -> Iterator[tuple[str, Any]]:
    for name, hint in _TOP.items():
        if name not in TABLES:
            yield name, hint
            continue
        for inner, own in get_type_hints(TABLES[name], include_extras=True).items():
            yield f"{name}.{inner}", own


_TOP: Final[dict[str, Any]] = get_type_hints(Config, include_extras=True)
# The tables of one room each: their settings are set one by one.
TABLES: Final[dict[str, type[Struct]]] = {
    name: type(getattr(Config(), name))
    for name in _TOP
    if isinstance(getattr(Config(), name), Struct)
}
# Those whose keys are the user's own, patterns or names: each is one value.
ALL_TABLES: Final = [*TABLES, "hosts", "proxies", "callback_endpoints"]
SETTINGS: Final[dict[str, Any]] = dict(_settings())
