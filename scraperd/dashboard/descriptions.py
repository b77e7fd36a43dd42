"""The two queues of dead letters that the page shows: in what jobs and callbacks differ.

May touch: the table `broker`, the keys of the fleet; a queue only by who opens it.
Must never: show a URL that a job is called back at, which may be a secret.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from msgspec import Struct

from scraperd.deadletters import callback, letter, queue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from scraperd.broker.ports import Delivery
    from scraperd.config.tables import BrokerSettings
    from scraperd.deadletters.desk import Opening
    from scraperd.deadletters.letter import Filters, Readable
    from scraperd.jobs.signing import Keys

What: TypeAlias = Literal["requeue", "replay", "purge"]
DEAD: Final = "dead"
DEAD_CALLBACKS: Final = "callbacks.dead"


def _all(filters: Filters) -> Filters:
    return filters


def _line(it: Readable, now: datetime) -> dict[str, Any]:
    return it.line(now)


class Description(Struct, frozen=True):
    """One queue of dead letters.

    `queue` is its name without the prefix, `path` where the page asks for it, `again` the action
    that publishes what is in a letter, and `command` what does all of it without a limit.
    `believed` returns which letters are published again, if so many were asked for.
    """

    queue: str
    path: str
    again: What
    command: str
    reasons: tuple[str, ...]
    kinds: tuple[str, ...]
    opening: Callable[[], Opening]
    read: Callable[[Delivery], Readable]
    believed: Callable[[Filters], Filters] = _all
    line: Callable[[Readable, datetime], dict[str, Any]] = _line

    @property
    def told(self) -> dict[str, Any]:
        """What the page is told of it."""
        names = ("queue", "path", "again", "reasons", "kinds")
        return {name: getattr(self, name) for name in names}


def dead_jobs(table: BrokerSettings, urls: tuple[str, ...], within: float) -> Description:
    """Return the dead queue. `urls` are the brokers, dialled `within` seconds each."""
    return Description(
        queue=DEAD,
        path="/v1/dead",
        again="requeue",
        command="scraperd dead",
        reasons=letter.REASONS,
        kinds=tuple(sorted(letter.KINDS)),
        opening=partial(queue.dead_queue, table, urls, within),
        read=letter.read,
    )


def dead_callbacks(  # noqa: PLR0917 - as `dead_jobs`
    table: BrokerSettings,
    urls: tuple[str, ...],
    within: float,
    keys: Keys,
    endpoints: Mapping[str, str],
    clock: Callable[[], float],
) -> Description:
    """Return the queue of dead callbacks. `keys` seal what is replayed.

    `endpoints` are URLs by name, and `clock` gives seconds since 1970.
    """

    def read(delivery: Delivery) -> Readable:
        return callback.read_callback(delivery, keys=keys, urls=endpoints, now=clock())

    return Description(
        queue=DEAD_CALLBACKS,
        path="/v1/callbacks/dead",
        again="replay",
        command="scraperd callbacks",
        reasons=callback.REASONS,
        kinds=(),
        opening=partial(queue.dead_callbacks, table, urls, within),
        read=read,
        believed=callback.believed,
        line=_without_url,
    )


def _without_url(it: Readable, now: datetime) -> dict[str, Any]:
    """Return a callback in short: of an endpoint its name, of a URL only the host."""
    line = it.line(now)
    return {**line, "to": "" if ":" in line["to"] else line["to"]}
