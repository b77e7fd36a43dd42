"""Config: a TOML file and SCRAPERD_... variables become one frozen value.

May touch: the file it is given and the environment, once, at the caller's word.
Must never: log, exit, or swallow a key it does not know.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_type_hints

import msgspec
from msgspec import Meta, Struct
from yarl import URL

from scraperd import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ENV_PREFIX: Final = "SCRAPERD_"
ENV_CONFIG_FILE: Final = "SCRAPERD_CONFIG"  # the command line's own; names the file, is no setting


def _s(unit: str, why: str) -> dict[str, Any]:
    return {"description": why, "extra": {"unit": unit}}


def _whole(pattern: str) -> str:
    """A pattern for the whole text: Python's `$` alone lets a line break follow."""
    return f"^{pattern}$(?!\\n)"


_Seconds = Annotated[float, Meta(gt=0, le=86400)]
_UpToAnHour = Annotated[float, Meta(gt=0, le=3600)]  # the longest delay tier
_Bytes = Annotated[int, Meta(ge=1)]


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting, its default, its unit and its reason, in the order of the example file."""

    broker_url: Annotated[
        str,
        Meta(
            **_s("amqp:// or amqps:// URL", "The broker. The path is the vhost; none means `/`."),
            pattern="^amqps?://",
        ),
    ] = "amqp://guest:guest@localhost:5672/"
    prefix: Annotated[
        str,
        Meta(
            **_s(
                "letters, digits, _ . and -, 1 to 100",
                "Starts every exchange and queue name, so that teams can share a broker.",
            ),
            pattern=_whole("[A-Za-z0-9_.-]{1,100}"),
        ),
    ] = "scraperd"
    passive_declare: Annotated[
        bool,
        Meta(
            **_s("true or false", "Only check that the queues exist; for brokers set up by policy.")
        ),
    ] = False
    delivery_limit: Annotated[
        int,
        Meta(
            **_s("redeliveries", "A job that came back this often (the process died) is dead."),
            ge=1,
            le=1000,
        ),
    ] = 5
    heartbeat: Annotated[
        int, Meta(**_s("seconds", "RabbitMQ's guide: 5 to 20; lower sees ghosts."), ge=1, le=600)
    ] = 10
    reconnect_min: Annotated[
        _Seconds, Meta(**_s("seconds", "First wait for a broker that is away, then doubling."))
    ] = 1.0
    reconnect_max: Annotated[
        _Seconds, Meta(**_s("seconds", "Longest wait for a broker that is away; jittered."))
    ] = 30.0
    confirm_timeout: Annotated[
        _Seconds,
        Meta(**_s("seconds", "A publish not confirmed by then means a new connection.")),
    ] = 30.0

    concurrency: Annotated[
        int, Meta(**_s("pages", "How many pages are scraped at once."), ge=1, le=100_000)
    ] = 100
    prefetch: Annotated[
        int,
        Meta(
            **_s(
                "jobs",
                "Unacked jobs held; 0 means concurrency and a tenth. A crash redelivers all.",
            ),
            ge=0,
            le=65535,
        ),
    ] = 0
    job_timeout: Annotated[
        _Seconds,
        Meta(**_s("seconds", "One attempt in all, well under the broker's ack timeout (30 min).")),
    ] = 120.0
    shutdown_timeout: Annotated[
        _Seconds, Meta(**_s("seconds", "SIGTERM: how long jobs in flight may take to finish."))
    ] = 30.0
    max_retries: Annotated[
        int, Meta(**_s("retries", "Further attempts after a failure that may pass."), ge=0, le=1000)
    ] = 3
    retry_backoff: Annotated[
        _Seconds,
        Meta(**_s("seconds", "Bound of the first random delay; it doubles with each attempt.")),
    ] = 5.0
    retry_backoff_max: Annotated[
        _UpToAnHour, Meta(**_s("seconds", "The bound grows no further than this."))
    ] = 600.0
    retry_after_max: Annotated[
        _UpToAnHour, Meta(**_s("seconds", "A longer Retry-After of a site is cut to this."))
    ] = 3600.0
    retry_http_codes: Annotated[
        tuple[Annotated[int, Meta(ge=100, le=599)], ...],
        Meta(**_s("statuses", "Responses that may be better next time.")),
    ] = (408, 425, 429, 500, 502, 503, 504, 522, 524)
    max_result_size: Annotated[
        _Bytes,
        Meta(**_s("bytes", "A larger result fails as too_large; RabbitMQ 4 takes 16 MiB.")),
    ] = 15 * 1024 * 1024

    download_timeout: Annotated[
        _Seconds, Meta(**_s("seconds", "One request, from dialling to the last byte."))
    ] = 30.0
    connect_timeout: Annotated[
        _Seconds, Meta(**_s("seconds", "Name lookup, TCP and TLS handshake."))
    ] = 10.0
    download_maxsize: Annotated[
        _Bytes, Meta(**_s("bytes", "Largest body, counted after decompression."))
    ] = 10 * 1024 * 1024
    max_redirects: Annotated[
        int, Meta(**_s("hops", "A longer chain fails as too_many_redirects."), ge=0, le=100)
    ] = 10
    verify_tls: Annotated[
        bool, Meta(**_s("true or false", "Check certificates against the system's authorities."))
    ] = True
    user_agent: Annotated[
        str,
        Meta(
            **_s("printable ASCII", "Empty means `scraperd/VERSION`, with the contact URL."),
            pattern=_whole("[ -~]*"),
        ),
    ] = ""
    contact_url: Annotated[
        str,
        Meta(
            **_s("URL in ASCII", "Where a site's owner reads who you are; sent in the User-Agent."),
            pattern=_whole("[!-~]*"),
        ),
    ] = ""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(**_s("debug, info, warning, error", "`warning` drops the line a job writes.")),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(**_s("auto, json, console", "auto: colours on a terminal, JSON elsewhere.")),
    ] = "auto"
    worker_name: Annotated[
        str,
        Meta(
            **_s(
                "printable ASCII, no spaces, up to 100",
                "Names this process in results and logs; empty means HOST:PID.",
            ),
            pattern=_whole("[!-~]{0,100}"),
        ),
    ] = ""

    @property
    def prefetch_count(self) -> int:
        """What the broker is asked for: `prefetch`, or concurrency and a tenth more."""
        return self.prefetch or min(65535, self.concurrency + max(2, self.concurrency // 10))

    @property
    def agent(self) -> str:
        """The User-Agent header."""
        contact = f" (+{self.contact_url})" if self.contact_url else ""
        return self.user_agent or f"scraperd/{__version__}{contact}"


class ConfigError(Exception):
    """The configuration can't be used. One line a fault: key, reason, what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    """Read `path` (or none) and the environment, which wins.

    Raises ConfigError with every fault found, not only the first.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    bad: set[str] = set()
    for source, key, raw in [
        *_from_file(path),
        *_from_env(os.environ if environ is None else environ),
    ]:
        hint = _HINTS.get(key)
        if hint is None:
            faults.append(f"{source}: unknown setting {key!r}{_nearest(key)}")
            continue
        try:
            values[key] = msgspec.convert(raw, hint)
        except (msgspec.ValidationError, UnicodeError) as error:
            faults.append(f"{source}: {key}: {_reason(key, error)}")
            bad.add(key)
    config = msgspec.structs.replace(Config(), **values)
    faults.extend(fault for keys, fault in _impossible(config) if bad.isdisjoint(keys))
    if faults:
        raise ConfigError(faults)
    return config


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
        table = _toml_table(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
    except ValueError as error:  # that of TOML, of UTF-8, or of a number with 5,000 digits
        raise ConfigError([f"{path}: not TOML: {error}"]) from error
    for key, raw in table.items():
        yield str(path), key, raw


def _toml_table(text: str) -> dict[str, Any]:
    """TOML as a table. Raises ValueError."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _from_env(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name != ENV_CONFIG_FILE:
            key = name.removeprefix(ENV_PREFIX).lower()
            yield "environment", key, _env_value(key, environ[name])


def _env_value(key: str, text: str) -> Any:
    """A variable's text as the setting's type: text as it stands, the rest read as TOML."""
    if isinstance(getattr(Config(), key, None), str):
        return text
    try:
        return _toml_table(f"value = {text}")["value"]
    except ValueError:
        return text


def _nearest(key: str) -> str:
    close = difflib.get_close_matches(key, _HINTS, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; `config.example.toml` lists them all"


def _reason(key: str, error: Exception) -> str:
    """What is wrong and what is allowed. Never the value: it may be a URL with a password."""
    unit = _meta(key)["extra"]["unit"]
    not_utf8 = isinstance(error, UnicodeError)  # a variable can hold any bytes
    reason = "not UTF-8" if not_utf8 else str(error).partition(" - at")[0]
    return f"must be: {unit}" if "matching regex" in reason else f"{reason} ({unit})"


def _impossible(config: Config) -> Iterator[tuple[set[str], str]]:
    """What no type can say, and the settings it is about. Never the broker's URL itself."""
    try:
        URL(config.broker_url)
    except ValueError:
        yield (
            {"broker_url"},
            "broker_url: not a URL; percent-encode special characters in user name and password",
        )
    ordered = [
        ("reconnect_min", "reconnect_max"),
        ("connect_timeout", "download_timeout"),
        ("download_timeout", "job_timeout"),
        ("retry_backoff", "retry_backoff_max"),
    ]
    for small, large in ordered:
        low, high = getattr(config, small), getattr(config, large)
        if low > high:
            fault = f"{small} ({low:g}) must not be greater than {large} ({high:g})"
            yield {small, large}, fault
    if 0 < config.prefetch < config.concurrency:
        fault = (
            f"prefetch ({config.prefetch}) must be 0 or at least concurrency "
            f"({config.concurrency}): fewer jobs would be held than scraped at once"
        )
        yield {"prefetch", "concurrency"}, fault


def _meta(key: str) -> dict[str, Any]:
    """The description and unit of a setting; nested annotations are merged by typing."""
    found: dict[str, Any] = {"description": "", "extra": {"unit": ""}}
    for meta in getattr(_HINTS[key], "__metadata__", ()):
        if meta.description:
            found = {"description": meta.description, "extra": meta.extra}
    return found


def example() -> str:
    """The text of config.example.toml: every setting, its reason, its unit, its default."""
    lines = [
        "# scraperd: every setting with its default. An unknown key or a wrong type ends the",
        "# start with exit code 78. A variable overrides each: SCRAPERD_CONCURRENCY=200.",
    ]
    defaults = Config()
    for key in _HINTS:
        meta = _meta(key)
        lines += [
            "",
            f"# {meta['description']} [{meta['extra']['unit']}]",
            f"{key} = {_toml(getattr(defaults, key))}",
        ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple():
            return f"[{', '.join(str(item) for item in value)}]"
        case _:
            return f"{value:g}" if isinstance(value, float) else f"{value:_}"


_HINTS: Final[dict[str, Any]] = get_type_hints(Config, include_extras=True)
