"""Other settings for hosts that are in use: what may start at once does, and no more than that.

May touch: HostScheduler, on a loop of the rig's own that never waits.
Must never: use a real clock or a socket.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.config.tables import HostSettings
from scraperd.politeness.admission import NotYet
from scraperd.politeness.scheduler import HostScheduler, Permit
from scraperd.wiring import scheduler_of, table_of
from tests.rig.clocks.hours import run
from tests.rig.settings import configured

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scraperd.config.settings import Config

PATIENT: dict[str, Any] = {"politeness__snooze_after": 60.0, "broker__prefetch": 1000}


def now() -> float:
    return asyncio.get_running_loop().time()


class House:
    """A scheduler with its table, and fetches that end when they are told to."""

    def __init__(self, **settings: Any) -> None:
        self.config = configured(**PATIENT, **settings)
        self.table = table_of(self.config)
        clock = asyncio.get_running_loop().time
        self.scheduler: HostScheduler = scheduler_of(
            self.config, self.table, clock, random.Random(7).random
        )
        self.permits: list[Permit] = []
        self.started: list[float] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, hosts: Iterable[str], address: str = "") -> None:
        """Ask for a permit of each, and let the loop turn."""
        self.tasks += [asyncio.ensure_future(self._fetch(host, address)) for host in hosts]
        await asyncio.sleep(0.001)

    async def _fetch(self, host: str, address: str) -> None:
        permit = await self.scheduler.acquire(host, address=address)
        assert isinstance(permit, Permit), permit
        self.permits.append(permit)
        self.started.append(now())

    async def end(self, count: int) -> None:
        """So many fetches end."""
        for _ in range(count):
            self.scheduler.release(self.permits.pop(0))
        await asyncio.sleep(0.001)

    async def configure(self, **settings: Any) -> None:
        """Hand out other settings, as a reload does."""
        config: Config = configured(self.config, **settings)
        self.config = config
        self.table.configure(config.politeness, config.hosts, config.fetch.proxy)
        self.scheduler.configure(
            config.politeness,
            concurrency=config.concurrency,
            waiting_room=config.waiting_room,
            job_timeout=config.jobs.timeout,
        )
        await asyncio.sleep(0.001)


def test_more_slots_are_given_out_at_once() -> None:
    """Two of ten run; with seven slots five more start in the same moment, and no other."""

    async def main() -> None:
        house = House(concurrency=2)
        await house.ask(f"h{n}" for n in range(10))
        assert len(house.permits) == 2
        await house.configure(concurrency=7)
        assert len(house.permits) == 7
        await house.end(7)
        assert len(house.permits) == 3

    run(main())


def test_with_fewer_slots_those_that_run_go_on() -> None:
    """Of six that run with one slot left, five must end before another may start."""

    async def main() -> None:
        house = House(concurrency=6)
        await house.ask(f"h{n}" for n in range(9))
        await house.configure(concurrency=1)
        await house.end(5)
        assert len(house.permits) == 1
        await house.end(1)
        assert len(house.permits) == 1
        await house.end(1)
        await house.end(1)
        assert len(house.started) == 9

    run(main())


@pytest.mark.parametrize("by", ["politeness", "hosts"])
def test_a_host_gets_another_limit(by: str) -> None:
    """One at once becomes four at once for a host that is in use, and back."""

    async def main() -> None:
        def limit(count: int) -> dict[str, Any]:
            if by == "politeness":
                return {"politeness__per_host_concurrency": count}
            return {"hosts": {"h": HostSettings(per_host_concurrency=count)}}

        house = House(concurrency=50, **limit(1))
        await house.ask(["h"] * 12)
        assert len(house.permits) == 1
        await house.configure(**limit(4))
        assert len(house.permits) == 4
        await house.configure(**limit(2))
        await house.end(2)
        assert len(house.permits) == 2
        await house.end(2)
        assert len(house.permits) == 2

    run(main())


def test_a_shorter_delay_holds_at_once() -> None:
    """The next fetch of a host was a minute away; with a delay of a second it starts by then."""

    async def main() -> None:
        slow = {"h": HostSettings(per_host_delay=60.0)}
        house = House(concurrency=50, hosts=slow, politeness__autothrottle=False)
        await house.ask(["h", "h"])
        await house.end(1)
        await house.configure(hosts={"h": HostSettings(per_host_delay=1.0)})
        await asyncio.wait(house.tasks)
        assert 0.5 <= house.started[1] - house.started[0] <= 1.6

    run(main())


def test_a_shorter_delay_moves_new_reservations() -> None:
    """100 jobs were promised turns over two hours; a new one is not sent behind all of them."""

    async def main() -> None:
        slow = {"h": HostSettings(per_host_delay=60.0)}
        house = House(concurrency=50, hosts=slow, politeness__autothrottle=False)
        await house.configure(politeness__snooze_after=1.0)
        await house.ask(["h"])
        answers = [await house.scheduler.acquire("h") for _ in range(100)]
        assert isinstance(answers[-1], NotYet)
        assert answers[-1].seconds > 5000
        await house.configure(hosts={"h": HostSettings(per_host_delay=6.0)})
        answer = await house.scheduler.acquire("h")
        assert isinstance(answer, NotYet)
        assert answer.seconds < 700

    run(main())


def test_a_pause_that_the_host_asked_for_is_kept() -> None:
    """A 429 asked for ten seconds; no reload makes them shorter."""

    async def main() -> None:
        house = House(concurrency=50)
        await house.ask(["h"])
        house.scheduler.release(house.permits.pop(), load="busy", penalty=10.0)
        began = now()
        await house.ask(["h"])
        await house.configure(concurrency=60, politeness__per_host_concurrency=20)
        await asyncio.wait(house.tasks)
        assert house.started[1] - began == pytest.approx(10, abs=0.2)

    run(main())


def test_an_address_gets_another_limit_or_none() -> None:
    """Hosts of one address have two places, then five; then its network is one without a limit."""

    async def main() -> None:
        house = House(concurrency=50, politeness__per_address_concurrency=2,
                      politeness__per_host_concurrency=1)  # fmt: skip
        await house.ask([f"h{n}" for n in range(12)], "192.0.2.1")
        assert len(house.permits) == 2
        await house.configure(politeness__per_address_concurrency=5)
        assert len(house.permits) == 5
        await house.configure(politeness__shared_networks=("192.0.2.0/24",))
        assert len(house.permits) == 12
        await house.configure(politeness__per_address_concurrency=0)
        await house.end(12)
        assert len(house.started) == 12

    run(main())


def test_a_limit_of_the_address_can_come_later() -> None:
    """Fetches that began without a limit by address are not counted; those after it are."""

    async def main() -> None:
        house = House(concurrency=50, politeness__per_address_concurrency=0)
        await house.ask([f"h{n}" for n in range(4)], "192.0.2.1")
        await house.configure(
            politeness__per_address_concurrency=2, politeness__per_host_concurrency=1
        )
        await house.ask([f"g{n}" for n in range(5)], "192.0.2.1")
        assert len(house.permits) == 4 + 2

    run(main())
