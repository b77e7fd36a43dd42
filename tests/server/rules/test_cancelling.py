"""`DELETE /v1/jobs/ID` and `DELETE /v1/batches/ID`, by a real gateway and a real daemon.

May touch: a private broker, the gateway and a daemon as subprocesses.
Must never: use the gateway's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.rig.daemon import Daemon
from tests.server.running import Gateway

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel


def test_jobs_and_batches_are_cancelled(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """One in flight and one of a batch end; the first rule ever reaches a daemon that runs."""
    batch = {"id": "b:1", "size": 2}
    with (
        Daemon(broker_url, prefix, batches__enabled=True).ready() as daemon,
        Gateway(broker_url, prefix, batches__enabled=True).ready() as gateway,
    ):
        dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a/é"})
        dispatcher.publish({"url": hostel.url("/hold/2"), "id": "2", "batch": batch})
        hostel.wait_for(lambda hits: hits.total() == 2)
        got = gateway.ask("DELETE", "/v1/jobs/a%2F%C3%A9")
        assert got.status == 202
        assert got.json["match"] == "id=a/é"
        assert got.json["rule"]
        assert gateway.ask("DELETE", "/v1/batches/b%3A1").status == 202
        results = {it["id"]: it for it in dispatcher.results(2)}
        assert daemon.drain() == 0
    assert {it["error"]["kind"] for it in results.values()} == {"cancelled"}
    assert set(results) == {"a/é", "2"}


def test_what_is_wrong_is_said(broker_url: str, prefix: str, dispatcher: Dispatcher) -> None:
    """Other methods, impossible ids, a query; and a role that may only read."""
    with Gateway(broker_url, prefix).ready("gateway_start") as gateway:
        assert gateway.ask("GET", "/v1/jobs/a").status == 405
        assert gateway.ask("GET", "/v1/jobs/a").headers["Allow"] == "DELETE"
        assert gateway.ask("POST", "/v1/batches/a").headers["Allow"] == "GET, HEAD, DELETE"
        for path in ("/v1/jobs/", "/v1/batches/", f"/v1/jobs/{'x' * 256}", "/v1/batches/a%20b"):
            assert gateway.ask("DELETE", path).status == 404
        assert gateway.ask("DELETE", "/v1/jobs/a?x=1").status == 400
        assert dispatcher.prefix == prefix


def test_a_gateway_without_the_key_says_so(
    broker_url: str, prefix: str, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    """The file of the key is for the daemon alone: jobs are taken, and none can be cancelled."""
    away = str(tmp_path / "missing")
    gateway = Gateway(broker_url, prefix, jobs__signing_key_file=away)
    with gateway.ready("gateway_start"):
        got = gateway.ask("DELETE", "/v1/jobs/a")
        assert got.status == 503
        assert "jobs.signing_key_file" in got.json["detail"]
        assert dispatcher.prefix == prefix
