"""The text of config.example.toml, made from the types.

May touch: the settings' types and defaults. Pure.
Must never: say of a setting what its type does not.
"""

from __future__ import annotations

from typing import Any, Final

from scraperd.config.names import SETTINGS, TABLES, meta_of, value_of
from scraperd.config.settings import Config

_HEAD: Final = (
    "# scraperd: every setting with its default. An unknown key or a wrong type ends the",
    "# start with exit code 78. A variable overrides each: SCRAPERD_CONCURRENCY=200, and",
    "# with two underscores after the table's name SCRAPERD_FETCH__CONNECT_TIMEOUT=5.",
    "#",
    "# (reload: yes) stands where a reload (systemctl reload, SIGHUP) changes the setting in a",
    "# running process. The others need a restart, and the log says so (reloaded, needs_restart).",
)
# What stands under the head of a table whose keys are the user's own.
_ENTRIES: Final = {
    "hosts": '# "*.example.com" = { per_host_delay = 2.0, per_host_concurrency = 1 }',
    "proxies": '# office = "http://user:password@proxy.example:3128"',
    "callback_endpoints": '# billing = { url = "https://billing.example/hooks" }',
}


def example() -> str:
    """Return a configuration of all defaults: every setting, its reason, its unit."""
    lines, defaults, table = [*_HEAD], Config(), ""
    for name in SETTINGS:  # the tables come last: what follows a table's head belongs to it
        own, _, leaf = name.rpartition(".")
        if own != table:
            table = own
            if own in TABLES:
                lines += ["", "", f"# {meta_of(own)['description']}", f"[{own}]"]
        if leaf in _ENTRIES:
            lines += ["", "", _comment(name), f"[{leaf}]", _ENTRIES[leaf]]
        else:
            lines += ["", _comment(name), f"{leaf} = {_toml(value_of(defaults, name))}"]
    return "\n".join(lines) + "\n"


def _comment(name: str) -> str:
    meta = meta_of(name)
    unit, reload = meta["extra"]["unit"], "yes" if meta["extra"]["reload"] else "no"
    return f"# {meta['description']} [{unit}] (reload: {reload})"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple():
            items = (f'"{item}"' if isinstance(item, str) else str(item) for item in value)
            return f"[{', '.join(items)}]"
        case _:
            return f"{value:g}" if isinstance(value, float) else f"{value:_}"
