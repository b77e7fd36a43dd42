"""One tenant's jobs beside another's at one host or address, through the real daemon.

May touch: a private broker, sites in threads, a nameserver of the rig's, the daemon.
Must never: judge by seconds; it counts who was served in which order.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from tests.rig.daemon import Daemon, Dispatcher
from tests.rig.sites.hostel import Hostel

if TYPE_CHECKING:
    from collections.abc import Callable

VICTIM = "127.0.0.2"
HOSTILE = 240  # jobs of the attacker
HONEST = 40
LOOKED_AT = 40  # of the victim's first pages


def honest_share(
    broker_url: str,
    dispatcher: Dispatcher,
    victim: Hostel,
    hostile: list[dict[str, Any]],
    **settings: Any,
) -> int:
    """How many of the victim's first pages are honest jobs', which come mixed with hostile ones."""
    every = len(hostile) // HONEST
    limits = {"concurrency": 20, "hosts": {VICTIM: {"per_host_delay": 0.1}}, **settings}
    with Daemon(broker_url, dispatcher.prefix, **limits).ready():
        for n, job in enumerate(hostile):
            dispatcher.publish(job)
            if n % every == 0:
                dispatcher.publish({"url": victim.url(f"/page/honest-{n}")})
        victim.wait_for(lambda hits: hits.total() >= LOOKED_AT, timeout=60)
        first = victim.order()[:LOOKED_AT]  # its own robots.txt among them
    return sum("honest" in path for path in first)


Jobs: TypeAlias = "list[dict[str, Any]]"


def sent_on(victim: Hostel, stack: ExitStack) -> Jobs:
    """A site of the attacker's redirects to the victim."""
    site = stack.enter_context(Hostel())
    return [{"url": site.url(f"/to/{victim.url(f'/page/{n}')}")} for n in range(HOSTILE)]


def back_and_forth(victim: Hostel, stack: ExitStack) -> Jobs:
    """Ten times between two hosts of the attacker's, then to the victim."""
    site = stack.enter_context(Hostel("0.0.0.0"))
    jobs = []
    for n in range(HOSTILE):
        url = victim.url(f"/page/{n}")
        for hop in range(9):
            url = site.url(f"/to/{url}", f"127.0.3.{1 + hop % 2}")
        jobs.append({"url": url})
    return jobs


def posted_on(victim: Hostel, stack: ExitStack) -> Jobs:
    """The same of jobs that must not begin again."""
    site = stack.enter_context(Hostel())
    urls = [site.url(f"/keep/{victim.url(f'/page/{n}')}") for n in range(HOSTILE)]
    return [{"url": url, "method": "POST"} for url in urls]


def robots_sent_on(victim: Hostel, stack: ExitStack) -> Jobs:
    """Many hosts of the attacker's, whose robots.txt redirects to the victim's."""
    site = stack.enter_context(Hostel("0.0.0.0", robots=victim.url("/robots.txt")))
    return [{"url": site.url(f"/page/{n}", f"127.0.3.{n + 1}")} for n in range(HOSTILE)]


@pytest.fixture(scope="module")
def if_direct() -> dict[bool, int]:
    """The honest share if all jobs name the victim, by whether robots.txt is obeyed."""
    return {}


@pytest.mark.parametrize("attack", [sent_on, back_and_forth, posted_on, robots_sent_on])
def test_no_detour_into_a_host_starves_its_own_jobs(
    broker_url: str,
    prefix: str,
    dispatcher: Dispatcher,
    if_direct: dict[bool, int],
    attack: Callable[[Hostel, ExitStack], Jobs],
) -> None:
    """Jobs that come to a host by a detour get no more of it than jobs that name it: its honest
    jobs are at least half as many of the pages served first.
    """
    obeys = attack is robots_sent_on
    obey = {"politeness__robotstxt_obey": obeys, "jobs__max_retries": 0}
    if obeys not in if_direct:
        with Hostel(VICTIM) as victim:
            direct = [{"url": victim.url(f"/page/{n}")} for n in range(HOSTILE)]
            if_direct[obeys] = honest_share(broker_url, dispatcher, victim, direct, **obey)
    fair = if_direct[obeys]
    again = Dispatcher(dispatcher.channel, f"{prefix}-2")
    with ExitStack() as stack, Hostel(VICTIM) as victim:
        found = honest_share(broker_url, again, victim, attack(victim, stack), **obey)
    print(f"{attack.__name__}: honest pages of the first {LOOKED_AT}: {found}; if direct: {fair}")
    assert fair > 0
    assert found >= fair / 2


def test_those_sent_on_to_a_slow_host_leave_room_for_others(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Jobs that must not begin again wait here for the host they were sent on to, but not so many
    that the jobs of others are not delivered any more.
    """
    hosts = {VICTIM: {"per_host_concurrency": 2}}
    with (
        Hostel(VICTIM) as victim,
        Hostel("127.0.0.3") as other,
        Daemon(broker_url, prefix, concurrency=20, hosts=hosts).ready(),
    ):
        for n in range(200):
            url = hostel.url(f"/keep/{victim.url(f'/hold/{n}')}")
            dispatcher.publish({"url": url, "method": "POST", "id": f"hostile-{n}"})
        victim.wait_for(lambda hits: hits.total() == 2)
        idents = set(dispatcher.publish_many([other.url(f"/page/{n}") for n in range(20)]))
        for _, body in dispatcher.stream("results", 60):
            idents.discard(json.loads(body)["id"])
            if not idents:
                break
        assert idents == set()
        assert victim.hits.total() == 2
