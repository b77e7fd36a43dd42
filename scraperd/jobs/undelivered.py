"""Jobs that the broker itself gave up: why, in the words of a failure.

May touch: the reason that a delivery has. Pure.
Must never: look into a body.
"""

from __future__ import annotations

from scraperd.contract import Failure


def failure(reason: str, times: int | None) -> Failure:
    """What the dispatcher of a job is told that the broker gave up for `reason`.

    `times` is how often the broker gave it out at least, if that is known.
    """
    if reason == "expired":
        return Failure("expired", "the broker: its time to live passed before a worker took it")
    if reason == "delivery_limit":
        often = f"{times} times and more" if times else "too often"
        why = f"the broker: given out {often}, and without an outcome each time"
        return Failure("internal", why)
    return Failure("internal", f"the broker took it from its queue, the reason is {reason!r}")
