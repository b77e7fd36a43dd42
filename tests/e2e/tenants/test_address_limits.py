"""Many names of one address, and the limit that holds for them together, through the real daemon.

May touch: a private broker, sites in threads, a nameserver of the rig's in a thread, the daemon.
Must never: judge by seconds; it counts what the sites see at once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.rig.daemon import Daemon
from tests.rig.sites.dns import threaded
from tests.rig.sites.hostel import Hostel

if TYPE_CHECKING:
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.dns import Record

NAMES = 90
LIMIT = 6


def named(count: int, *addresses: str) -> dict[str, list[Record]]:
    """So many names, each with all of these addresses in this order."""
    return {f"n{n}.test": [("A", address, 60) for address in addresses] for n in range(count)}


def finish(dispatcher: Dispatcher, wanted: set[str], timeout: float = 60) -> None:
    """Wait until each of these jobs has ended well."""
    for _, body in dispatcher.stream("results", timeout):
        result = json.loads(body)
        assert result["status"] == "ok", result
        wanted.discard(result["id"])
        if not wanted:
            return
    raise AssertionError(f"{len(wanted)} jobs have not ended within {timeout} s")


def test_many_names_of_one_address_have_one_limit(
    node: Node, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Ninety names, two jobs each, whose pages are held: the server sees as many at once as one
    address may have, never more, while another address's jobs are done; in the end all are.
    """
    node.hurry(prefix, 5)  # their turns are long off while the pages are held
    with (
        Hostel("127.0.0.2") as other,
        threaded(named(NAMES, "127.0.0.1")) as dns,
        Daemon(
            node.url,
            prefix,
            fetch__nameservers=[dns],
            concurrency=40,
            politeness__per_host_concurrency=2,
            politeness__per_address_concurrency=LIMIT,
        ).ready(),
    ):
        urls = [hostel.url(f"/hold/{n}", f"n{n % NAMES}.test") for n in range(2 * NAMES)]
        many = set(dispatcher.publish_many(urls))
        hostel.wait_for(lambda hits: hits.total() >= LIMIT)
        others = dispatcher.publish_many([other.url(f"/page/{n}") for n in range(40)])
        finish(dispatcher, set(others))
        assert hostel.hits.total() == LIMIT
        hostel.release()
        finish(dispatcher, many)
    assert hostel.most <= LIMIT
    assert hostel.hits.total() == 2 * NAMES


def test_a_first_address_that_answers_nobody_is_no_way_round(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Names that lead elsewhere first, where nothing listens, and then to the address: what counts
    is where the connection goes, though it be kept for the next job.
    """
    records: dict[str, list[Record]] = {}
    for n in range(NAMES):
        records |= {f"n{n}.test": [("A", f"127.0.5.{n + 1}", 60), ("A", "127.0.0.1", 60)]}
    with (
        threaded(records) as dns,
        Daemon(
            broker_url,
            prefix,
            fetch__nameservers=[dns],
            concurrency=40,
            politeness__per_host_concurrency=2,
            politeness__per_address_concurrency=LIMIT,
        ).ready(),
    ):
        urls = [hostel.url(f"/hold/{n}", f"n{n % NAMES}.test") for n in range(NAMES)]
        jobs = set(dispatcher.publish_many(urls))
        hostel.wait_for(lambda hits: hits.total() >= LIMIT)
        hostel.release()
        finish(dispatcher, jobs)
        finish(dispatcher, set(dispatcher.publish_many([url + "x" for url in urls])))
    assert hostel.most <= LIMIT


def test_a_shared_network_has_no_limit(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The address of a CDN that is named in the configuration is held to no limit of its own."""
    with (
        threaded(named(NAMES, "127.0.0.1")) as dns,
        Daemon(
            broker_url,
            prefix,
            fetch__nameservers=[dns],
            concurrency=40,
            politeness__per_host_concurrency=2,
            politeness__per_address_concurrency=LIMIT,
            politeness__shared_networks=["127.0.0.0/29"],
        ).ready(),
    ):
        urls = [hostel.url(f"/hold/{n}", f"n{n}.test") for n in range(40)]
        jobs = set(dispatcher.publish_many(urls))
        hostel.wait_for(lambda hits: hits.total() == 40)
        hostel.release()
        finish(dispatcher, jobs)
