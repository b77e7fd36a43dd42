"""Traces of the real daemon, as a collector of OpenTelemetry receives them.

May touch: a private broker, a site and a collector in threads, the daemon as a subprocess.
Must never: sleep for luck; each wait is for something that is seen.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.daemon import Daemon, Dispatcher, environment, until
from tests.rig.ports import free_port
from tests.rig.sites.collector import Collector, Served, Silent, attributes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.sites.hostel import Hostel

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{PARENT}-01"
MALFORMED: list[Any] = [  # the cases of W3C's test suite for traceparent, and other AMQP types
    "",
    "00",
    f"ff-{TRACE}-{PARENT}-01",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{PARENT}-01",
    f"00-{TRACE}-{PARENT}-01-what",
    f"00-{TRACE}-{PARENT}-01.",
    f"00-{TRACE[:-1]}-{PARENT}-01",
    f"00-{TRACE}0-{PARENT}-01",
    f"00-{TRACE}-{PARENT[:-1]}.-01",
    f"00-{TRACE}-{PARENT}-0x",
    f"0-{TRACE}-{PARENT}-01",
    f"cc-{TRACE}-{PARENT}-01-" + "x" * 300,
    f"{VALID}, {VALID}",
    7,
    {"a": VALID},
]


class Redirecting(Served):
    """A site whose first page is busy once, and then leads to another; it keeps the headers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        site = self

        class Handler(Silent):
            def do_GET(self) -> None:  # noqa: N802 - the library's name
                busy = not any(path.startswith("/from") for path, _ in site.seen)
                site.seen.append((self.path, dict(self.headers.items())))
                first = self.path.startswith("/from")
                self.send_response((503 if busy else 302) if first else 200)
                if first:
                    self.send_header("Location", "/to?secret=hunter2")
                self.send_header("Content-Length", "0")
                self.end_headers()

        super().__init__(Handler)
        self.url = f"{self.origin}/from?secret=hunter2"


def _publish(dispatcher: Dispatcher, url: str, given: dict[str, Any], **job: Any) -> Any:
    """Publish a job with headers; the result's headers."""
    dispatcher.publish({"url": url, "id": "a", **job}, headers=given)
    properties, _ = dispatcher.take("results")
    return properties.headers


def test_a_trace_goes_from_the_jobs_headers_to_the_results(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The job, each hop, the extraction and the publish are spans; no secret is in any of them."""
    port = hostel.url("/").rsplit(":", 1)[1].strip("/")
    url = f"http://127.0.0.1:{port}/page/1?token=hunter2#hunter2"
    with Collector() as collector:
        settings = {"tracing__endpoint": collector.endpoint, "tracing__sample_ratio": 0}
        with Daemon(broker_url, prefix, **settings).ready() as daemon:
            given = {"traceparent": VALID, "tracestate": "rojo=1,congo=2"}
            secret = {"Authorization": "hunter2", "Cookie": "a=hunter2"}
            told = _publish(dispatcher, url, given, headers=secret, extract={"t": "title"})
            off = f"00-{TRACE}-{PARENT}-00"
            assert _publish(dispatcher, url, {"traceparent": off})["traceparent"] == off
            assert "traceparent" not in _publish(dispatcher, url, {})
            assert daemon.drain() == 0
    spans = collector.of(TRACE)
    assert sorted(spans) == ["GET", "extract", "process jobs", "publish result"]
    (job,), (sent,) = spans["process jobs"], spans["publish result"]
    assert job.parent_span_id.hex() == PARENT
    assert {one.parent_span_id for name in spans for one in spans[name] if one != job} == {
        job.span_id
    }
    assert told["traceparent"] == f"00-{TRACE}-{sent.span_id.hex()}-01"
    assert told["tracestate"] == "rojo=1,congo=2"
    pages = [attributes(one) for one in spans["GET"]]
    (page,) = [one for one in pages if one["url.full"].endswith("/page/1")]
    assert page["http.response.status_code"] == 200
    assert page["server.address"] == "127.0.0.1"
    assert page["server.port"] == int(port)
    assert b"hunter2" not in collector.raw


@pytest.mark.parametrize("to_sites", [False, True])
def test_a_site_gets_the_trace_only_if_it_is_to(
    broker_url: str, prefix: str, dispatcher: Dispatcher, *, to_sites: bool
) -> None:
    """Attempts and hops are spans of one trace, and with to_sites each request names its hop."""
    with Collector() as collector, Redirecting() as site:
        settings = {"tracing__endpoint": collector.endpoint, "tracing__sample_ratio": 1}
        settings |= {"tracing__to_sites": to_sites, "politeness__robotstxt_obey": False}
        with Daemon(broker_url, prefix, **settings).ready() as daemon:
            own = {"Traceparent": "the-jobs-own"}
            trace = _publish(dispatcher, site.url, {}, headers=own)["traceparent"].split("-")[1]
            assert daemon.drain() == 0
    spans = collector.of(trace)
    assert len(spans["process jobs"]) == 2
    assert {attributes(one)["scraperd.job.attempt"] for one in spans["process jobs"]} == {1, 2}
    hops = spans["GET"]
    assert [attributes(one)["http.response.status_code"] for one in hops] == [503, 302, 200]
    assert b"hunter2" not in collector.raw
    sent = [
        [value for name, value in headers.items() if name.lower() == "traceparent"]
        for _, headers in site.seen
    ]
    wanted = [[f"00-{trace}-{one.span_id.hex()}-03"] for one in hops]
    assert sent == (wanted if to_sites else [["the-jobs-own"]] * 3)


def test_a_malformed_context_harms_nothing_and_goes_nowhere(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Each malformed traceparent begins a new trace; a malformed tracestate is left out."""
    with Collector() as collector:
        settings = {"tracing__endpoint": collector.endpoint, "tracing__sample_ratio": 1}
        with Daemon(broker_url, prefix, **settings).ready() as daemon:
            for bad in MALFORMED:
                told = _publish(dispatcher, hostel.url("/page/1"), {"traceparent": bad})
                assert told["x-scraperd-status"] == "ok"
                assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", told["traceparent"])
                assert TRACE not in told["traceparent"]
            for bad in ("a=b,a=c", "=", "a=" + "x" * 600, 7, "é=1"):
                given = {"traceparent": VALID, "tracestate": bad}
                told = _publish(dispatcher, hostel.url("/page/1"), given)
                assert TRACE in told["traceparent"]
                assert "tracestate" not in told
            assert daemon.drain() == 0
        assert daemon.logged("internal_error") == []


@pytest.mark.parametrize("hangs", [False, True], ids=["down", "hangs"])
def test_a_collector_that_fails_harms_no_job_and_no_drain(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, *, hangs: bool
) -> None:
    """Jobs end as without tracing, and the flush at the end keeps to its bound.

    The log says at once what fails, and each span that was lost is in the log and in a metric.
    """
    port, listener = free_port(), free_port()
    with socket.socket() as silent:
        if hangs:
            silent.bind(("127.0.0.1", port))
            silent.listen()
        endpoint = f"http://127.0.0.1:{port}/v1/traces"
        settings = {"tracing__endpoint": endpoint, "tracing__sample_ratio": 1}
        settings["metrics__listen"] = f"127.0.0.1:{listener}"
        with Daemon(broker_url, prefix, **settings) as daemon:
            daemon.ready()
            dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(50)])
            assert {one["status"] for one in dispatcher.results(50)} == {"ok"}
            daemon.wait_for_line('"event":"spans_lost"')
            (first,) = daemon.logged("spans_lost")
            metrics = urllib.request.urlopen(f"http://127.0.0.1:{listener}/metrics").read()
            (counted,) = re.findall(rb'spans_lost_total{reason="failed"} (.+)', metrics)
            began = time.monotonic()
            assert daemon.drain() == 0
            # The bound is 2 s, and the rest is for a busy machine; the SDK itself waits for 30 s.
            assert time.monotonic() - began < 20
        until(lambda: bool(daemon.logged("stop")))
        assert (first["level"], first["endpoint"]) == ("warning", endpoint)
        assert 0 < first["spans"] <= float(counted)
        fault = "no answer within 5 s" if hangs else "Connection refused"
        assert first["error"] == f"{fault}: look at the collector, or change tracing.endpoint"
        # Of each job: its delivery, the hop, the extraction and the publish.
        assert sum(line["spans"] for line in daemon.logged("spans_lost")) == 4 * 50


def test_without_the_extra_the_start_says_what_to_install(
    broker_url: str, prefix: str, tmp_path: Path
) -> None:
    """An endpoint without the packages ends the start with 78 and one line, and check with it."""
    (tmp_path / "opentelemetry.py").write_text("raise ModuleNotFoundError('not installed')\n")
    env = {"PYTHONPATH": str(tmp_path)}
    with Daemon(broker_url, prefix, env, tracing__endpoint="http://127.0.0.1:1/v1/traces") as it:
        assert it.wait(30) == 78
        (line,) = [one.text for one in it.lines]
        assert "pip install 'scraperd[otel]'" in line
    settings = {"tracing__endpoint": "http://127.0.0.1:1/v1/traces"}
    check = subprocess.run(
        [sys.executable, "-m", "scraperd", "check", "--no-broker"],
        env={**environment(settings), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 78
    assert check.stderr == f"{line}\n"
