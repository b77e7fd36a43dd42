"""What is known of a host's queue, as values for an operator. Pure.

May touch: a queue, to read.
Must never: change what happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scraperd.politeness.host_queue import HostQueue

SOON = 1.0  # seconds; a host whose next start is nearer does not wait


class HostView(Struct, frozen=True, kw_only=True):
    """One host, as one process sees it. Times in seconds from now on.

    `why` says what the next start waits for. `delay_by` says where the delay comes from.
    """

    host: str
    why: str
    until: float
    active: int
    permits: int
    permits_limit: int
    waiting: int
    waiting_priority: int
    delay: float
    delay_by: str
    config_delay: float
    crawl_delay: float
    throttle_delay: float
    penalty: float
    routes_paused: int
    address_active: int | None
    address_limit: int | None
    latency: float | None
    robots_obeyed: bool


def view(queue: HostQueue, now: float) -> HostView:
    """Return what is known of a host at `now`, a time of the scheduler's clock."""
    throttle, address = queue.throttle, queue.address
    return HostView(
        host=queue.host,
        why=_why(queue, now),
        until=round(max(0.0, queue.opens_at - now), 3),
        active=queue.active,
        permits=int(throttle.window),
        permits_limit=throttle.limit,
        waiting=queue.waiting,
        waiting_priority=queue.priority_waiting,
        delay=round(queue.delay, 3),
        delay_by=_delay_by(queue),
        config_delay=queue.rules.delay,
        crawl_delay=round(queue.crawl_delay, 3),
        throttle_delay=round(throttle.delay, 3),
        penalty=round(max(0.0, queue.paused_until - now), 3),
        routes_paused=sum(until > now for until in queue.route_pauses.values()),
        address_active=None if address is None else address.active,
        address_limit=None if address is None else max(address.limit, queue.rules.concurrency),
        latency=round(throttle.latency, 4) if throttle.latency else None,
        robots_obeyed=queue.rules.obey_robots,
    )


def waiting(queues: Iterable[HostQueue], now: float, most: int) -> tuple[list[HostView], int]:
    """Return the hosts that jobs wait for, or that are paused, and how many there are.

    Those with the most jobs come first, then those that wait longest; `most` of them at most.
    """
    found = [it for it in queues if it.waiting or it.paused_until > now + SOON]
    found.sort(key=lambda it: (-it.waiting, -it.opens_at))
    return [view(it, now) for it in found[:most]], len(found)


def _why(queue: HostQueue, now: float) -> str:
    """What the next start waits for, in words."""
    if queue.paused_until > now:
        return "penalty: the host asked for a pause"
    if queue.full:
        limited = int(queue.throttle.window) < queue.throttle.limit
        return "permits: slowed down, as the host answers" if limited else "permits: all in use"
    if queue.opens_at > now:
        return f"delay: {_delay_by(queue)}"
    if queue.address_full:
        return "address: its IP address has as many fetches as it may"
    return "slots: concurrency" if queue.waiting else "nothing"


def _delay_by(queue: HostQueue) -> str:
    """Where the delay between two starts comes from."""
    if not queue.delay:
        return "none"
    sources = {
        queue.throttle.delay: "the host's answers (autothrottle)",
        queue.crawl_delay: "robots.txt (Crawl-delay)",
        queue.rules.delay: "configuration (per_host_delay)",
    }
    return sources[queue.delay]
