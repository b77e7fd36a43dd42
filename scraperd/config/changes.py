"""What differs between two configurations, and what of it a running process can take. Pure.

May touch: the settings by their names.
Must never: say a URL or another value that may hold a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec.structs import replace

from scraperd.base.text import printable
from scraperd.config.names import SETTINGS, TABLES, meta_of, value_of

if TYPE_CHECKING:
    from scraperd.config.settings import Config

MAX_SHOWN: Final = 80  # characters of a value
MAX_KEYS: Final = 5  # keys of a table that are named
_SECRET: Final = frozenset({"broker_url"})  # its text may hold a password


class Change(NamedTuple):
    """A setting that has another value. `reload`: a running process can take it."""

    name: str
    old: Any
    new: Any
    reload: bool

    def __str__(self) -> str:
        if self.name in _SECRET:
            return f"{self.name}: another value"
        if isinstance(self.new, dict):
            return f"{self.name}: other entries for {_keys(self.old, self.new)}"
        return f"{self.name}: {_shown(self.old)} -> {_shown(self.new)}"


def changes(old: Config, new: Config) -> list[Change]:
    """Return the settings that differ, in the order of the file."""
    found = [(name, value_of(old, name), value_of(new, name)) for name in SETTINGS]
    return [Change(*it, reload=is_reloadable(it[0])) for it in found if it[1] != it[2]]


def is_reloadable(name: str) -> bool:
    """Return whether a running process can take another value of this setting."""
    return bool(meta_of(name)["extra"]["reload"])


def merged(old: Config, new: Config) -> Config:
    """Return what holds after a reload: of `new` what can be reloaded, the rest of `old`."""
    fixed = [it for it in changes(old, new) if not it.reload]
    config = replace(new, **{it.name: it.old for it in fixed if "." not in it.name})
    for table in TABLES:
        kept = {
            it.name.partition(".")[2]: it.old for it in fixed if it.name.startswith(f"{table}.")
        }
        config = replace(config, **{table: replace(value_of(config, table), **kept)})
    return config


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        value = ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        value = str(value).lower()
    return printable(str(value) or '""', MAX_SHOWN)


def _keys(old: dict[str, Any], new: dict[str, Any]) -> str:
    return in_short([key for key in (old | new) if old.get(key) != new.get(key)])


def in_short(names: list[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = len(names) - MAX_KEYS
    named = ", ".join(printable(name, MAX_SHOWN) for name in names[:MAX_KEYS])
    return f"{named} and {more} more" if more > 0 else named
