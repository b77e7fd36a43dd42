"""The option that names the configuration file, and the configuration that comes of it.

May touch: the configuration, the exit code.
Must never: know a setting.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from scraperd.cli.console import EXIT_CONFIG, fail
from scraperd.config.load import ENV_CONFIG_FILE, ConfigError, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.config.settings import Config


def config_of(path: Path | None) -> Config:
    """The configuration, or the end with each of its faults."""
    try:
        return load(path)
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
        help="TOML file; without one, the defaults and SCRAPERD_... variables.",
    )(command)
