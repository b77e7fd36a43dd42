"""One question to the whole fleet: who answered, who is silent, what is in the queues.

May touch: the broker.
Must never: wait longer than a second for answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from scraperd.broker.rabbitmq.topology import Topology
from scraperd.ops.fleet.answer import Question, Status, read_status, write

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.inquiry.asking import Asker, Round

WAIT: Final = 1.0  # seconds for answers
DELAYED: Final = "delay"  # stands for all delay queues together


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
    prefix: str,
    kind: Literal["status", "capacity", "host", "rules"],
    host: str = "",
    *,
    queues: bool = True,
) -> Fleet:
    """Ask all daemons of a prefix. Raises Lost, TopologyError, Closed."""
    topology = Topology(prefix)
    asked = await asker.ask(write(Question(kind, host)))
    ends = asyncio.get_running_loop().time() + WAIT
    jobs = await asker.count(topology.jobs)
    counts = await _count(asker, topology) if queues else {}
    counts["jobs"] = jobs
    await _answered(asked, 0 if jobs is None else jobs[1], ends)
    found = _read(asked)
    consumers = 0 if jobs is None else jobs[1]
    # The consumer of a process that drains is counted until the last of its jobs is acked.
    counted = sum(it.consuming or (it.state == "draining" and it.unacked > 0) for it in found)
    return Fleet(asker.broker, found, max(0, consumers - counted), counts)


async def _answered(asked: Round, consumers: int, ends: float) -> None:
    """Wait until all have answered that the broker counts, or the time is over."""
    loop = asyncio.get_running_loop()
    while True:
        if consumers and sum(it.consuming for it in _read(asked)) >= consumers:
            return
        asked.news.clear()
        try:
            async with asyncio.timeout_at(ends):
                await asked.news.wait()
        except TimeoutError:
            return
        if loop.time() >= ends:
            return


def _read(asked: Round) -> list[Status]:
    """The answers that are understood, one of each process, by name."""
    found = {(it.name, it.host, it.pid): it for body in asked.answers if (it := read_status(body))}
    return [found[key] for key in sorted(found)]


async def _count(asker: Asker, topology: Topology) -> dict[str, tuple[int, int] | None]:
    """Count all queues but the jobs queue; the delay queues together."""
    start, delays = len(topology.prefix) + 1, set(topology.delays)
    names = [queue.name for queue in topology.queues if queue.name != topology.jobs]
    found = dict(zip(names, await asyncio.gather(*map(asker.count, names)), strict=True))
    there = [count for name in delays if (count := found[name]) is not None]
    counts = {name[start:]: count for name, count in found.items() if name not in delays}
    counts[DELAYED] = (sum(ready for ready, _ in there), 0) if there else None
    return counts
