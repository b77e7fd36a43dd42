"""Options that commands share: above all the one that names the configuration file.

May touch: the configuration, whether its file exists, the exit code.
Must never: know a setting.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scraperd.cli.console import EXIT_CONFIG, fail
from scraperd.config.files import FOLDER_VARIABLE
from scraperd.config.load import ENV_CONFIG_FILE, ConfigError, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.config.settings import Config
    from scraperd.jobs.signing import Keys


CONFIG_FILE: Final = Path("/etc/scraperd/config.toml")
CREDENTIALS: Final = "credentials"  # the folder beside CONFIG_FILE that the units hand to systemd


class Number(click.FloatRange):
    """A number within bounds. click's own type takes `nan`, which no bound refuses, and `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text as click does, but refuse what is not a number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        if math.isinf(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def config_of(path: Path | None) -> Config:
    """The configuration, or the end with each of its faults."""
    try:
        return load(path)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)


def keys_of(config: Config) -> Keys:
    """The keys of the fleet, or the end with what is wrong with their file."""
    # Here and not above: `--help` has no use for the daemon's rooms, which take long to load.
    from scraperd.base.clocks import SYSTEM  # noqa: PLC0415
    from scraperd.jobs.signing import Keys  # noqa: PLC0415
    from scraperd.reload import secrets_of  # noqa: PLC0415

    try:
        return Keys(secrets_of(config), config.broker.prefix, SYSTEM.wall)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option that names its configuration file."""
    return click.option(
        "--config",
        "-c",
        "path",
        type=click.Path(path_type=Path, readable=False),  # `load` says what is wrong, with 78
        envvar=ENV_CONFIG_FILE,
        default=_the_machines,
        callback=_with_credentials,
        help=f"TOML file; if not given, {CONFIG_FILE} where it exists. SCRAPERD_... variables win.",
    )(command)


def _with_credentials(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Return the path. With the machine's file, a command reads the same secrets as the daemon."""
    if path == CONFIG_FILE and FOLDER_VARIABLE not in os.environ:
        os.environ[FOLDER_VARIABLE] = str(path.with_name(CREDENTIALS))
    return path


def _the_machines() -> Path | None:
    """The machine's configuration file, if there is one.

    One that we may not look for, or a link that leads nowhere, counts as there: `load` says what
    is wrong. Without a word the command would go on to another broker.
    """
    try:
        CONFIG_FILE.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass
    return CONFIG_FILE
