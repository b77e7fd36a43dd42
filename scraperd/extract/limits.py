"""The bounds of one extraction, from the settings. Pure.

May touch: the configuration's values.
Must never: hold a bound of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scraperd.extract.document import Limits
from scraperd.extract.rules import Bounds

if TYPE_CHECKING:
    from scraperd.config.settings import Config


def limits_of(config: Config) -> Limits:
    """The bounds the configuration sets."""
    return Limits(
        config.extract_max_matches,
        config.extract_max_output,
        config.download_maxsize,
        bounds_of(config),
    )


def bounds_of(config: Config) -> Bounds:
    """The bounds of rules the configuration sets."""
    return Bounds(
        config.extract_max_rules,
        config.extract_max_depth,
        config.extract_max_selector,
        config.extract_max_selectors,
    )
