"""What is known of a broker's version: what stops its dead-lettering, what it ignores. Pure.

May touch: what the broker says of itself when a connection begins.
Must never: claim of a version what was neither measured nor read in its source.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# RabbitMQ has dead-lettering at-least-once since 3.10.0. Up to 3.12 it reads an x-death header that
# the publisher made up, and crashes over a malformed one (rabbit_dead_letter.erl); 3.13 keeps that
# code for messages from before its feature flags (mc_compat.erl); 4.0 does not read the header of a
# publisher (its release notes). The supervisor of the worker gave up after two crashes within five
# seconds until 3.10.20 and 3.11.12 (rabbit_fifo_dlx_sup.erl). Measured: 3.10.8 and 4.0.5.
FIRST: Final = (3, 10, 0)
DEAF: Final = (4, 0, 0)
PRIORITIES: Final = (4, 0, 0)
PATIENT: Final = ((3, 10, 20), (3, 11, 12))  # in each series; later ones from the start
_VERSION = re.compile(r"(?P<major>[0-9]{1,4})\.(?P<minor>[0-9]{1,4})(?:\.(?P<patch>[0-9]{1,6}))?")


def weakness(server: Mapping[str, Any], prefix: str) -> str:
    """What one message can do to this broker, and what to do about it; empty if it is not hit."""
    version, text = _version(server)
    if version is None or not FIRST <= version < DEAF:
        return ""
    what = (
        "stops all retries on its node for good, also those of other prefixes"
        if _gives_up(version)
        else "may stop retries (not measured with this version)"
    )
    return (
        f"RabbitMQ {text}: one message whose x-death header its publisher made up, dead-lettered "
        f"from any queue with x-dead-letter-strategy = at-least-once, {what}; a few of them in "
        f"{prefix}.jobs stop that queue until the node is restarted. Upgrade to RabbitMQ 4. Until "
        f"then let publishers write to the exchange {prefix}.jobs only, and configure no "
        "queues but for replies (docs/operations/queues.md)."
    )


def ignores_priority(server: Mapping[str, Any]) -> str:
    """What it means for jobs with a priority that this broker has none in its quorum queues.

    Empty if it has: RabbitMQ since 4.0 (its release notes). Measured: 3.10.8 and 4.0.5.
    """
    version, text = _version(server)
    if version is None or version >= PRIORITIES:
        return ""
    return (
        f"RabbitMQ {text} ignores the property `priority` of jobs: its quorum queues have no "
        "priorities. RabbitMQ 4 has two: 0 to 4, and above."
    )


def _version(server: Mapping[str, Any]) -> tuple[tuple[int, int, int] | None, str]:
    """The version as numbers, and as the broker says it; None if it is not RabbitMQ's."""
    product, text = server.get("product"), server.get("version")
    match = _VERSION.match(text) if product == "RabbitMQ" and isinstance(text, str) else None
    if match is None:
        return None, ""
    return (int(match["major"]), int(match["minor"]), int(match["patch"] or 0)), str(text)


def _gives_up(version: tuple[int, int, int]) -> bool:
    """Whether its dead-letter worker is gone for good after a second crash."""
    return any(version[:2] == patient[:2] and version < patient for patient in PATIENT)
