"""Settings for tests, named as the daemon's variables name them: `fetch__connect_timeout`.

May touch: the settings' types.
Must never: read the environment or a file.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from scraperd.config.settings import Config


def configured(base: Config | None = None, **settings: Any) -> Config:
    """Return `base`, or the defaults, with these settings over it; their values are not checked."""
    config = Config() if base is None else base
    for name, value in settings.items():
        table, _, inner = name.partition("__")
        own = replace(getattr(config, table), **{inner: value}) if inner else value
        config = replace(config, **{table: own})
    return config
