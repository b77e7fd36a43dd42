"""/metrics, /readyz and /healthz of the real daemon, read as Prometheus and probes read them.

May touch: a private broker, a site in a thread, the daemon as a subprocess, Debian's promtool.
Must never: sleep for luck; each wait is for something that is seen.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.rig.daemon import Daemon, Dispatcher, until
from tests.rig.debs import debs, libraries
from tests.rig.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.brokers.node import Node
    from tests.rig.sites.hostel import Hostel

BOUNDED = {  # each label with the most values that it may have
    "outcome": 6,
    "kind": 25,
    "class": 5,
    "phase": 5,
    "where": 2,
    "queue": 40,
    "lack": 2,
    "by": 9,
    "do": 3,
    "reason": 4,
    "version": 1,
    "python": 1,
    "extraction": 1,
}


TRACING = {"tracing__endpoint": "http://127.0.0.1:1/v1/traces", "tracing__sample_ratio": 0}
EVERYTHING = {**TRACING, "batches__enabled": True}


class Observed:
    """A daemon with a listener, and what it answers."""

    def __init__(self, daemon: Daemon, port: int) -> None:
        self.daemon = daemon
        self.port = port

    def get(self, path: str, accept: str = "") -> tuple[int, str]:
        """Ask for a path: status and body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Accept": accept}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def values(self) -> dict[str, float]:
        """The samples of a scrape, by name with labels as Prometheus writes them."""
        found: dict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found


@pytest.fixture
def observed(
    broker_url: str, prefix: str, dispatcher: Dispatcher, request: pytest.FixtureRequest
) -> Iterator[Observed]:
    """A daemon that serves its metrics; it drains at the end. A test may give it settings."""
    port = free_port()
    settings: dict[str, Any] = {"metrics__listen": f"127.0.0.1:{port}", "jobs__max_retries": 1}
    settings |= getattr(request, "param", {})
    with Daemon(broker_url, prefix, **settings).ready() as daemon:
        yield Observed(daemon, port)
        assert daemon.drain() == 0


def test_the_counts_are_those_of_the_jobs(
    observed: Observed, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Ok, failed, dead, retried and invalid jobs are each counted once, and their pages' bytes."""
    dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20)], extract={"t": "title"})
    dispatcher.publish_many([hostel.url("/status/404")] * 3)
    dispatcher.publish_many([hostel.url("/status/503")] * 2)
    dispatcher.publish(b"no job", message_id="bad")
    results = dispatcher.results(26)
    until(lambda: _ended(observed) == 26)  # a job is counted once it is acked
    values = observed.values()
    assert values['scraperd_jobs_total{kind="ok",outcome="ok"}'] == 20
    assert values['scraperd_jobs_total{kind="http_status",outcome="failed"}'] == 3
    assert values['scraperd_jobs_total{kind="http_status",outcome="dead"}'] == 2
    assert values['scraperd_jobs_total{kind="invalid_job",outcome="dead"}'] == 1
    assert values['scraperd_attempts_total{kind="http_status"}'] == 3 + 2 * 2
    assert values["scraperd_retries_total"] == 2
    assert values['scraperd_responses_total{class="2xx"}'] == 20
    assert values['scraperd_responses_total{class="5xx"}'] == 4
    size = sum(result.get("size", 0) for result in results)
    assert values["scraperd_response_bytes_total"] >= size > 0
    assert values["scraperd_jobs_in_flight"] == values["scraperd_fetches_running"] == 0
    assert values["scraperd_fetches_limit"] == 100
    assert values["scraperd_broker_consuming"] == values["scraperd_broker_connections_total"] == 1
    assert values['scraperd_fetch_phase_seconds_count{phase="first_byte"}'] >= 26
    assert values['scraperd_extract_seconds_count{where="loop"}'] >= 20
    assert values["scraperd_publish_seconds_count"] == 28
    assert values["scraperd_return_lateness_seconds_count"] == 2


def _ended(observed: Observed) -> float:
    """How many jobs ended."""
    values = observed.values()
    return sum(value for name, value in values.items() if name.startswith("scraperd_jobs_total{"))


def test_times_are_those_that_passed(
    observed: Observed, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A job that waited an hour in the queue by its timestamp, and pages that were held."""
    dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a"}, timestamp=int(time.time()) - 3600)
    hostel.wait_for(lambda hits: len(hits) == 1)
    assert observed.values()["scraperd_jobs_in_flight"] == 1
    assert observed.values()["scraperd_fetches_running"] == 1
    hostel.release()
    dispatcher.results(1)
    until(lambda: _ended(observed) == 1)
    values = observed.values()
    assert values["scraperd_queue_wait_seconds_count"] == 1
    assert 3600 <= values["scraperd_queue_wait_seconds_sum"] < 3700
    assert values['scraperd_queue_wait_seconds_bucket{le="1800.0"}'] == 0
    assert values['scraperd_queue_wait_seconds_bucket{le="7200.0"}'] == 1
    total = values["scraperd_job_seconds_sum"]
    phases = ("dns", "connect", "tls", "first_byte", "transfer")
    steps = [values[f'scraperd_fetch_phase_seconds_sum{{phase="{it}"}}'] for it in phases]
    assert 0 < sum(steps) <= total


def test_a_retry_that_comes_back_is_as_late_as_its_delay_queue_says(
    observed: Observed, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A site asks for 45 s and the queue waits 60 s: the job is due then, by its signed header.

    Taken out and back too early the job is not late; with a forged header it is not counted.
    """
    before = time.time()
    dispatcher.publish({"url": hostel.url("/busy/45/a"), "id": "a"})
    properties, body = dispatcher.take("delay.60")
    headers = properties.headers
    assert before + 60 <= float(headers["x-scraperd-turn"]) + 0.001 < time.time() + 60.001
    forged = [{**headers, "x-scraperd-turn": turn} for turn in ("1000.000", 7, "9" * 5000)]
    for each in (headers, *forged):
        dispatcher.publish(body, headers=each)
    until(lambda: observed.values()["scraperd_snoozes_total"] == 4)  # the site is paused
    values = observed.values()
    assert values["scraperd_return_lateness_seconds_count"] == 1
    assert values["scraperd_return_lateness_seconds_sum"] == 0
    assert values["scraperd_retries_total"] == 1


def test_the_queues_are_counted_with_the_demand(
    observed: Observed, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Each queue with its messages and consumers; demand has what is ready and what comes soon."""
    until(lambda: observed.values()['scraperd_queue_consumers{queue="jobs"}'] == 1)
    dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"}, queue="delay.40")
    dispatcher.publish({"url": hostel.url("/page/1"), "id": "b"}, queue="delay.3600")
    dispatcher.publish(b"{}", queue="dead")
    until(lambda: observed.values()['scraperd_queue_ready{queue="dead"}'] == 1, timeout=30)
    values = observed.values()
    assert values['scraperd_queue_ready{queue="delay.40"}'] == 1
    assert values["scraperd_demand"] == 1


def test_the_queues_are_counted_soon_after_the_start(observed: Observed) -> None:
    """The demand is known within 20 timers of the loop, which are five seconds; counts are ten
    seconds apart.
    """
    timers = "scraperd_loop_lag_seconds_count"
    before = observed.values()[timers]
    until(lambda: "scraperd_demand" in observed.values())
    assert observed.values()[timers] - before < 20


def test_promtool_finds_nothing_to_complain_of(
    observed: Observed, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Debian's promtool takes it, and both text formats hold the same samples."""
    dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(5)])
    dispatcher.results(5)
    text = observed.get("/metrics")[1]
    root = debs("prometheus")
    env = {"LD_LIBRARY_PATH": libraries(root)}
    tool = [str(root / "usr/bin/promtool"), "check", "metrics"]
    done = subprocess.run(tool, input=text, text=True, capture_output=True, env=env, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    accept = "application/openmetrics-text; version=1.0.0"
    new = {family.name for family in openmetrics(observed.get("/metrics", accept)[1])}
    old = {family.name for family in text_string_to_metric_families(text)}
    assert {name for name in old if name.startswith("scraperd")} <= new


@pytest.mark.parametrize("observed", [TRACING], indirect=True, ids=["tracing"])
def test_labels_are_bounded(observed: Observed, dispatcher: Dispatcher, hostel: Hostel) -> None:
    """No label names a host, a URL or a process, whatever jobs come."""
    for n in range(30):
        dispatcher.publish({"url": f"http://h{n}.invalid/{n}", "id": f"x{n}", "max_retries": 0})
    dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(30)])
    dispatcher.results(60)
    text = observed.get("/metrics")[1]
    values = defaultdict(set)
    for line in text.splitlines():
        if line.startswith("scraperd"):
            for name, value in re.findall(r'([a-z_]+)="([^"]*)"', line.partition(" ")[0]):
                values[name].add(value)
    del values["le"]
    assert not {name for name, found in values.items() if len(found) > BOUNDED[name]}
    assert "h7.invalid" not in text
    assert "127.0.0.1" not in text


def test_readiness_is_whether_jobs_come(node: Node, broker_url: str, prefix: str) -> None:
    """Ready while it consumes; not without a broker, and it says so."""
    port = free_port()
    with Daemon(broker_url, prefix, metrics__listen=f"127.0.0.1:{port}").ready() as daemon:
        _stop_the_broker(node, Observed(daemon, port))
        assert daemon.drain() == 0


def _stop_the_broker(node: Node, observed: Observed) -> None:
    assert observed.get("/healthz") == (200, "ok\n")
    assert observed.get("/readyz") == (200, "ready\n")
    node.stop_app()
    until(lambda: observed.get("/readyz")[0] == 503)
    assert observed.get("/readyz")[1].startswith("no broker at ")
    assert observed.get("/healthz")[0] == 200
    assert observed.values()["scraperd_broker_consuming"] == 0
    node.start_app()
    until(lambda: observed.get("/readyz")[0] == 200)
    assert observed.values()["scraperd_broker_connections_total"] == 2


def test_not_ready_while_it_drains(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A load balancer and an operator see that it ends, and why it takes nothing."""
    port = free_port()
    listen = {"metrics__listen": f"127.0.0.1:{port}", "jobs__shutdown_timeout": 60}
    with Daemon(broker_url, prefix, **listen).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a"})
        hostel.wait_for(lambda hits: len(hits) == 1)
        daemon.terminate()
        daemon.wait_for_line('"event":"drain"')
        assert Observed(daemon, port).get("/readyz") == (503, "draining\n")
        hostel.release()
        assert daemon.wait(30) == 0


def test_a_port_that_is_taken_ends_the_start(broker_url: str, prefix: str, hostel: Hostel) -> None:
    """It is said which address, why, and which setting; exit code 78, as for any such setting."""
    taken = hostel.url("").rpartition(":")[2]
    with Daemon(broker_url, prefix, metrics__listen=f"127.0.0.1:{taken}") as daemon:
        assert daemon.wait(30) == 78
        (told,) = daemon.logged("config")
        said = f"metrics.listen: 127.0.0.1:{taken} can't be listened on: address already in use"
        assert told["error"].lower().startswith(said)


@pytest.mark.parametrize("reload_to", ["concurrency = 7\n", "concurrency = 'x'\n"])
def test_reloads_are_told(
    tmp_path: Path, broker_url: str, prefix: str, dispatcher: Dispatcher, reload_to: str
) -> None:
    """Whether the last reload was good, and when the configuration that holds was read."""
    port, file = free_port(), tmp_path / "config.toml"
    file.write_text("")
    env = {"SCRAPERD_CONFIG": str(file)}
    with Daemon(broker_url, prefix, env, metrics__listen=f"127.0.0.1:{port}").ready() as daemon:
        observed = Observed(daemon, port)
        before = observed.values()
        file.write_text(reload_to)
        daemon.send_signal(signal.SIGHUP)
        good = "7" in reload_to
        daemon.wait_for_line('"event":"reloaded"' if good else '"event":"reload_failed"')
        after = observed.values()
        name = "scraperd_config_reload_time_seconds"
        assert after["scraperd_config_reload_success"] == int(good)
        assert (after[name] > before[name]) is good
        assert after["scraperd_fetches_limit"] == (7 if good else 100)
        assert daemon.drain() == 0


def test_without_the_setting_nothing_listens(broker_url: str, prefix: str) -> None:
    """The default opens no port, and loads no library for it."""
    with Daemon(broker_url, prefix).ready() as daemon:
        listening = subprocess.run(
            ["ss", "-tlnpH"], capture_output=True, text=True, check=True
        ).stdout
        assert f"pid={daemon.pid}," not in listening
        assert not daemon.logged("listening")
    assert json.dumps(daemon.logged("ready"))


@pytest.mark.parametrize("observed", [EVERYTHING], indirect=True, ids=["everything"])
def test_the_document_lists_them_all(observed: Observed) -> None:
    """Each metric has a row in docs/operations/metrics.md with its kind, and no other has."""
    page = (Path(__file__).parents[2] / "docs/operations/metrics.md").read_text()
    listed = dict(re.findall(r"^\| `(scraperd_\w+)` \| (\w+) \|", page, re.MULTILINE))
    until(lambda: "scraperd_demand" in observed.values())
    families = text_string_to_metric_families(observed.get("/metrics")[1])
    ours = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in families
        if family.name.startswith("scraperd_")
    }
    assert listed == ours
