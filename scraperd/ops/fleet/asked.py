"""One question to the whole fleet: who answered, who is silent, what is in the queues.

May touch: the broker.
Must never: wait longer than a second for answers.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from scraperd.ops.fleet.answer import Question, Status, read_status, write

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.inquiry.asking import Asker, Round
    from scraperd.broker.rabbitmq.topology import Topology

WAIT: Final = 1.0  # seconds for answers
JOBS: Final = "jobs"
DELAYED: Final = "delay"  # stands for all delay queues together
CALLBACKS_DELAYED: Final = "callbacks.delay"  # the same of callbacks


@dataclass(slots=True)
class Fleet:
    """What came of one question.

    `silent` processes did not answer, though the broker counts their consumers. `queues` has ready
    messages and consumers by the name without the prefix; None if a queue is not there.
    """

    broker: str
    statuses: list[Status]
    silent: int = 0
    queues: dict[str, tuple[int, int] | None] = field(default_factory=dict)


async def ask_all(
    asker: Asker,
    topology: Topology,
    kind: Literal["status", "capacity", "host", "settings", "rules"],
    host: str = "",
    *,
    queues: bool = True,
) -> Fleet:
    """Ask all daemons of a prefix. Without `queues` only the jobs queue is counted.

    Raises Lost, TopologyError, Closed.
    """
    asked = await asker.ask(write(Question(kind, host)))
    ends = asyncio.get_running_loop().time() + WAIT
    counts = await _count(asker, topology, queues=queues)
    _, consumers = counts[JOBS] or (0, 0)
    found = await _answered(asked, consumers, ends)
    # The consumer of a process that drains is counted until the last of its jobs is acked.
    counted = sum(it.consuming or (it.state == "draining" and it.unacked > 0) for it in found)
    return Fleet(asker.broker, found, max(0, consumers - counted), counts)


async def _answered(asked: Round, consumers: int, ends: float) -> list[Status]:
    """Return the answers that are understood, one of each process, by name.

    Wait for them until all have answered that the broker counts, or the time is over.
    """
    found: dict[tuple[str, str, int], Status] = {}
    taken = 0
    with suppress(TimeoutError):
        async with asyncio.timeout_at(ends):
            while not consumers or sum(it.consuming for it in found.values()) < consumers:
                asked.news.clear()
                fresh = asked.answers[taken:]
                taken += len(fresh)
                for body in fresh:
                    if it := read_status(body):
                        found[it.name, it.host, it.pid] = it
                if not fresh:
                    await asked.news.wait()
    return [found[key] for key in sorted(found)]


async def _count(
    asker: Asker, topology: Topology, *, queues: bool
) -> dict[str, tuple[int, int] | None]:
    """Count the queues, by their names without the prefix; the delay queues together."""
    start = len(topology.prefix) + 1
    names = [queue.name for queue in topology.queues] if queues else [topology.jobs]
    counts = dict(zip(names, await asker.counts(names), strict=True))
    for sum_of, tiers in (
        (DELAYED, topology.delays),
        (CALLBACKS_DELAYED, topology.callback_delays),
    ):
        if tiers[0] in counts:
            there = [count for name in tiers if (count := counts.pop(name)) is not None]
            total = sum(ready for ready, _ in there)
            counts[f"{topology.prefix}.{sum_of}"] = (total, 0) if there else None
    return {name[start:]: count for name, count in counts.items()}
