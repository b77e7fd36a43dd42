"""Jobs that are cancelled wherever they are.

May touch: a private broker, daemons and the commands as subprocesses.
Must never: wait for luck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.rig.daemon import until
from tests.rig.ports import free_port

if TYPE_CHECKING:
    from tests.e2e.control.conftest import Fleet
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel


def test_a_job_is_cancelled_wherever_it_is(
    fleet: Fleet, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """In flight, waiting for a slot, in the queue, in a delay queue; another job goes on.

    Each has a result, and counts in its batch; none is dead.
    """
    settings: dict[str, Any] = {
        "concurrency": 4,
        "jobs__retry_backoff": 3,
        "jobs__retry_backoff_max": 3,
        "batches__enabled": True,
    }
    size = 40
    batch = {"id": "monday", "size": size}
    with fleet.daemon(**settings).ready() as daemon:
        away = f"http://127.0.0.1:{free_port()}/"
        dispatcher.publish({"url": away, "id": "delayed", "batch": batch, "max_retries": 5})
        daemon.wait_for_line('"verdict":"retry"')
        dispatcher.publish({"url": hostel.url("/hold/0"), "id": "other"})
        hostel.wait_for(lambda hits: hits["/hold/0"] == 1)
        for n in range(1, size):
            dispatcher.publish({"url": hostel.url(f"/hold/{n}"), "id": f"{n}", "batch": batch})
        hostel.wait_for(lambda hits: hits.total() == 4)
        until(lambda: dispatcher.depth("jobs") > 0)
        fleet.set("cancel", "batch=monday")
        results = dispatcher.results(size + 1)
        hostel.release()
        [other] = dispatcher.results(1)
        assert dispatcher.depth("dead") == 0
        assert daemon.drain() == 0
    kinds = [it["kinds"] for it in results if "event" in it]
    found = {it["id"]: it for it in results if "event" not in it}
    assert kinds == [{"cancelled": size}]
    assert {it["error"]["kind"] for it in found.values()} == {"cancelled"}
    assert not any("dead_letter" in it for it in found.values())
    assert "batch=monday" in found["1"]["error"]["message"]
    assert found["delayed"]["attempt"] >= 2
    assert (other["id"], other["status"]) == ("other", "ok")
    assert hostel.hits.total() == 4


def test_each_way_to_name_jobs(fleet: Fleet, dispatcher: Dispatcher, hostel: Hostel) -> None:
    """By id, host and a field of `meta`; what none of the rules names is scraped."""
    for match in ("id=a", "host=*.b.example", "meta.customer=7"):
        fleet.set("cancel", match, processes=0)
    page = hostel.url("/page/1")
    jobs: list[dict[str, Any]] = [
        {"url": page, "id": "a"},
        {"url": "http://www.B.example/", "id": "host"},
        {"url": page, "id": "meta", "meta": {"customer": 7}},
        {"url": page, "id": "other", "meta": {"customer": "8"}},
        {"url": page, "id": "plain", "meta": [1]},
    ]
    with fleet.daemon().ready() as daemon:
        for job in jobs:
            dispatcher.publish(job)
        results = {it["id"]: it for it in dispatcher.results(len(jobs))}
        assert daemon.drain() == 0
    cancelled = {ident for ident, it in results.items() if it["status"] == "failed"}
    assert cancelled == {"a", "host", "meta"}
    assert {results[it]["error"]["kind"] for it in cancelled} == {"cancelled"}
