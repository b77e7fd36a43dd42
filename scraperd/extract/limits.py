"""The bounds of one extraction, from the settings. Pure.

May touch: the configuration's values.
Must never: hold a bound of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scraperd.extract.document import Limits
from scraperd.extract.rules import Bounds

if TYPE_CHECKING:
    from scraperd.config.tables import ExtractSettings


def limits_of(settings: ExtractSettings) -> Limits:
    """The bounds the settings set."""
    return Limits(
        settings.max_matches,
        settings.max_output_size,
        bounds_of(settings),
    )


def bounds_of(settings: ExtractSettings) -> Bounds:
    """The bounds of rules the settings set."""
    return Bounds(
        settings.max_rules,
        settings.max_depth,
        settings.max_selector_length,
        settings.max_selectors_length,
    )
