"""The settings that hold, as an operator may be shown them: without passwords. Pure.

May touch: the settings by their names.
Must never: show the userinfo or the query of a URL, or the path of one for callbacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import asdict, fields, replace

from scraperd.base.text import printable, text_without_credentials
from scraperd.base.urls import without_credentials
from scraperd.config.names import SETTINGS, unit_of, value_of

if TYPE_CHECKING:
    from scraperd.config.settings import Config

MAX_SHOWN: Final = 1000  # characters of a value
MAX_TOLD: Final = 300  # the same where a process tells it: all settings fit into an answer so


def masked(config: Config) -> list[dict[str, str]]:
    """Return each setting: its name, its value, its unit, and whether that is the default."""
    default = type(config)()
    return [
        {
            "name": name,
            "value": _shown(_value(config, name)),
            "unit": unit_of(name),
            "default": "yes" if value_of(config, name) == value_of(default, name) else "no",
        }
        for name in SETTINGS
    ]


def changed(config: Config) -> dict[str, str]:
    """Return the settings that have another value than the default, as `masked` shows them."""
    return {it["name"]: it["value"][:MAX_TOLD] for it in masked(config) if it["default"] == "no"}


def _value(config: Config, name: str) -> Any:
    """Return the value of a setting; of a URL for callbacks no path, which can be its secret."""
    if name != "callback_endpoints":
        return value_of(config, name)
    return {
        key: replace(it, url="/".join((*it.url.split("/")[:3], "...")))
        for key, it in config.callback_endpoints.items()
    }


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
