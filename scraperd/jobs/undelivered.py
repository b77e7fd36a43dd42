"""Jobs that RabbitMQ itself gave up: why, in the words of a failure.

May touch: a delivery's headers. Pure.
Must never: trust a header's type, or look into a body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from scraperd.broker.rabbitmq.topology import RETURNS
from scraperd.contract import Failure

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.codec import Delivery

# RabbitMQ's guide to dead letters, "Effects of dead-lettering".
REASONS: Final = frozenset({"expired", "delivery_limit", "rejected", "maxlen"})
UNDELIVERED: Final = "x-scraperd-undelivered"  # the reason, where x-death is taken off


def death(headers: dict[str, Any]) -> dict[str, Any] | None:
    """The last time the broker dead-lettered it, as it says; empty if that can't be read."""
    found = headers.get("x-death")
    if not isinstance(found, list) or not found:
        return None
    return found[0] if isinstance(found[0], dict) else {}


def reason(headers: dict[str, Any]) -> str:
    """Why the broker gave it up: one of REASONS, or `unknown`."""
    last = death(headers)
    said = headers.get(UNDELIVERED) if last is None else last.get("reason")
    return said if isinstance(said, str) and said in REASONS else "unknown"


def failure(delivery: Delivery) -> Failure:
    """What its dispatcher is told."""
    why = reason(delivery.headers)
    if why == "expired":
        return Failure("expired", "RabbitMQ: its time to live passed before a worker took it")
    if why == "delivery_limit":
        return Failure(
            "internal", f"RabbitMQ: given out {RETURNS} times and more, and no outcome each time"
        )
    return Failure("internal", f"RabbitMQ took it from its queue, the reason is {why!r}")
