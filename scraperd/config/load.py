"""Config: a TOML file and SCRAPERD_... variables become one frozen value.

May touch: the file it is given and the environment, once, at the caller's word.
Must never: log, exit, or swallow a key it does not know.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from scraperd.base.text import printable
from scraperd.config.checks import impossible
from scraperd.config.files import BROKER_URL_CREDENTIAL, credential, lines_of, read
from scraperd.config.names import (
    ALL_TABLES,
    SETTINGS,
    TABLES,
    nearest,
    nearest_table,
    unit_of,
    value_of,
)
from scraperd.config.settings import Config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ENV_PREFIX: Final = "SCRAPERD_"
ENVIRONMENT: Final = "environment"  # where a fault of a variable is said to be
ENV_CONFIG_FILE: Final = "SCRAPERD_CONFIG"  # the command line's own; names the file, is no setting
# What Kubernetes sets in each container of a namespace that has a Service named scraperd.
_SERVICE_LINK: Final = re.compile(
    r"SCRAPERD_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT: Final = "SCRAPERD_PORT"  # the same, if its value is a URL like tcp://10.0.0.7:5672
_SERVICE_URL: Final = ("tcp://", "udp://", "sctp://")


class ConfigError(Exception):
    """The configuration can't be used. One line a fault: key, reason, what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = [printable(fault, 2_000) for fault in faults]
        super().__init__("\n".join(self.faults))


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """Read `path` (or none) and the environment, which wins.

    Raises ConfigError with every fault found, not only the first.
    """
    environ = os.environ if environ is None else environ
    faults: list[str] = []
    values: dict[str, Any] = {}
    bad: set[str] = set()
    for source, name, raw in [*_from_file(path), *_from_env(environ)]:
        if isinstance(raw, ValueError):
            faults.append(f"{source}: {_variable(name)}_FILE: {raw}")
            bad.add(name)
            continue
        if fault := _misplaced(source, name, raw):
            faults.append(f"{source}: {fault}")
            bad.add(name)
            continue
        hint = SETTINGS[name]
        try:
            values[name] = _within_machine(msgspec.convert(raw, hint))
        except (msgspec.ValidationError, UnicodeError) as error:
            faults.append(f"{source}: {name}{_entry(hint, raw)}: {_reason(name, error)}")
            bad.add(name)
    config = _config_of(values)
    if bad.isdisjoint({"broker_url", "broker_url_file"}):
        try:
            config = _with_broker_url(config, environ)
        except ValueError as error:
            faults.append(str(error))
            bad.add("broker_url")
    faults.extend(fault for names, fault in impossible(config) if bad.isdisjoint(names))
    if faults:
        raise ConfigError(faults)
    return config


def _within_machine(value: Any) -> Any:
    """Return the value. Raises msgspec.ValidationError for an integer that takes over 64 bits."""
    if type(value) is int and value > sys.maxsize:
        raise msgspec.ValidationError(f"Expected `int` <= {sys.maxsize}")
    return value


def _config_of(values: dict[str, Any]) -> Config:
    """Return the defaults with `values` over them, by the settings' names."""
    top = {name: value for name, value in values.items() if "." not in name}
    for table in TABLES:
        own = {
            name.partition(".")[2]: value
            for name, value in values.items()
            if name.startswith(f"{table}.")
        }
        top[table] = replace(value_of(Config(), table), **own)
    return replace(Config(), **top)


def _with_broker_url(config: Config, environ: Mapping[str, str]) -> Config:
    """`config` with the broker's URLs of their file: a setting's, or systemd's credential.

    Raises ValueError, which never says a URL.
    """
    is_set = config.broker_url != Config().broker_url
    path: str | Path | None = config.broker_url_file
    if path and is_set:
        raise ValueError("broker_url_file: broker_url is set as well; set one of them")
    if not path and not is_set:
        path = credential(BROKER_URL_CREDENTIAL, environ)
    if not path:
        return config
    try:
        return replace(config, broker_url=lines_of(path))
    except ValueError as error:
        raise ValueError(f"broker_url_file: {error}; write one URL a line") from error


def notify_socket(environ: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Where systemd listens and its watchdog interval in microseconds; ("", 0) without systemd."""
    environ = os.environ if environ is None else environ
    usec = environ.get("WATCHDOG_USEC", "0")
    ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    sound = re.fullmatch("[0-9]{1,20}", usec)  # 64 bits
    return environ.get("NOTIFY_SOCKET", ""), int(usec) if ours and sound else 0


def _from_file(path: Path | None) -> Iterator[tuple[str, str, Any]]:
    if path is None:
        return
    try:
        table = _toml_table(path.read_text(encoding="utf-8-sig"))  # as Windows editors write it
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
    except ValueError as error:  # that of TOML, of UTF-8, or of a number with 5,000 digits
        raise ConfigError([f"{path}: not TOML: {error}"]) from error
    for name, raw in table.items():
        if name in TABLES and isinstance(raw, dict):
            yield from ((str(path), f"{name}.{inner}", own) for inner, own in raw.items())
        else:
            yield str(path), name, raw


def _toml_table(text: str) -> dict[str, Any]:
    """TOML as a table. Raises ValueError."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _from_env(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name == ENV_CONFIG_FILE:
            continue
        if not _is_service_link(name, environ[name]):
            # Two underscores stand between table and setting: no name of ours has two in a row.
            setting = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            if setting not in SETTINGS and (whose := setting.removesuffix("_file")) in SETTINGS:
                yield ENVIRONMENT, whose, _of_file(whose, environ[name])
            else:
                yield ENVIRONMENT, setting, _env_value(setting, environ[name])


def _of_file(name: str, path: str) -> Any:
    """The value of a setting whose text stands in a file; a ValueError says why there is none."""
    try:
        return _env_value(name, read(path).decode())
    except UnicodeDecodeError:
        return ValueError(f"{printable(path)} is not UTF-8")
    except ValueError as error:
        return error


def _is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes made this variable of a Service named scraperd, and nobody meant us."""
    if name == _SERVICE_PORT:
        return text.startswith(_SERVICE_URL)
    return _SERVICE_LINK.fullmatch(name) is not None


def _env_value(name: str, text: str) -> Any:
    """A variable's text as the setting's type: text as it stands, the rest read as TOML."""
    several = name == "broker_url" and text.lstrip().startswith("[")  # no URL does
    if name in SETTINGS and isinstance(value_of(Config(), name), str) and not several:
        return text
    try:
        return _toml_table(f"value = {text}")["value"]
    except ValueError:
        return text


def _misplaced(source: str, name: str, raw: Any) -> str | None:
    """Return what is wrong with a name, or with where it stands; None if it names a setting."""
    table, _, inner = name.partition(".")
    if name in TABLES:
        where = f"{_variable(name)}__NAME" if source == ENVIRONMENT else f"[{name}]"
        return f"{name}: is a table, not a value; set each of its settings: {where}"
    if name in SETTINGS:
        single = isinstance(raw, dict) and name not in ALL_TABLES
        return f"{name}: is a single value, not a table ({unit_of(name)})" if single else None
    if inner and table in SETTINGS:
        kind = "is set as a whole" if table in ALL_TABLES else "is a single value, not a table"
        return f"{name}: {table} {kind} ({unit_of(table)})"
    if (inner or isinstance(raw, dict)) and table not in TABLES:
        close = nearest_table(table)
        hint = f"did you mean {close!r}?" if close else f"the tables are {', '.join(ALL_TABLES)}"
        return f"unknown table {table!r}; {hint}"
    return f"unknown setting {name!r}{_meant(source, name)}"


def _meant(source: str, name: str) -> str:
    """Return a hint at the settings that are most like an unknown one, and where they stand."""
    found = nearest(name)
    if not found:
        return "; `config.example.toml` lists them all"
    shown = [repr(full) + _where(source, name, full) for full in found]
    return f"; did you mean {' or '.join(shown)}?"


def _where(source: str, name: str, full: str) -> str:
    """Return where the setting `full` stands, if that is not plain from its name."""
    if source == ENVIRONMENT and "." in full:
        return f" ({_variable(full)})"
    is_above = "." in name and "." not in full and full not in ALL_TABLES
    return " (above the first table)" if is_above else ""


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper().replace(".", "__")


def _entry(hint: Any, raw: Any) -> str:
    """Which entry of a table is wrong, where it is one."""
    for name, value in raw.items() if isinstance(raw, dict) else ():
        try:
            msgspec.convert({name: value}, hint)
        except (msgspec.ValidationError, UnicodeError) as error:
            inner = re.search(r"at `\$\[\.\.\.\]\.([a-z_]+)`", str(error))
            return f'."{printable(name)}"' + (f".{inner[1]}" if inner else "")
    return ""


def _reason(name: str, error: Exception) -> str:
    """What is wrong and what is allowed. Never the value: it may be a URL with a password."""
    unit = unit_of(name)
    not_utf8 = isinstance(error, UnicodeError)  # a variable can hold any bytes
    reason = "not UTF-8" if not_utf8 else str(error).partition(" - at")[0]
    return f"must be: {unit}" if "matching regex" in reason else f"{reason} ({unit})"
