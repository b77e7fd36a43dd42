"""The settings that hold, as an operator may be shown them: without passwords. Pure.

May touch: the settings by their names.
Must never: show the userinfo or the query of a URL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import asdict, fields

from scraperd.base.text import printable, text_without_credentials
from scraperd.base.urls import without_credentials
from scraperd.config.names import SETTINGS, unit_of, value_of

if TYPE_CHECKING:
    from scraperd.config.settings import Config

MAX_SHOWN: Final = 1000  # characters of a value


def masked(config: Config) -> list[dict[str, str]]:
    """Return each setting: its name, its value, its unit, and whether that is the default."""
    default = type(config)()
    return [
        {
            "name": name,
            "value": _shown(value_of(config, name)),
            "unit": unit_of(name),
            "default": "yes" if value_of(config, name) == value_of(default, name) else "no",
        }
        for name in SETTINGS
    ]


def _shown(value: Any) -> str:
    """Return a value as a line, in which no URL has userinfo."""
    return printable(_plain(value), MAX_SHOWN)


def _plain(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return _url(value) if "://" in value else text_without_credentials(value)
        case dict():
            return "; ".join(f"{name}: {_plain(inner)}" for name, inner in value.items()) or "{}"
        case list() | tuple() | frozenset():
            return ", ".join(map(_plain, value)) or "[]"
        case Struct():
            return ", ".join(_pairs(value))
    return str(value)


def _url(value: str) -> str:
    """Return a URL without userinfo and query, where a service may want its key."""
    url, mark, _ = without_credentials(value).partition("?")
    return url + "?..." if mark else url


def _pairs(value: Struct) -> list[str]:
    found = asdict(value)
    return [f"{it.name} = {_plain(found[it.name])}" for it in fields(value) if found[it.name]]
