"""`make demo`: the main job on real input: a private broker, real pages, the daemon, the results.

May touch: a temporary folder, its own children: RabbitMQ, nginx, the daemon.
Must never: use scraperd's own code on the dispatcher's side, or leave anything behind.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import pika
from rich.console import Console
from rich.table import Table

from tests.rig.brokers.erlang import NodeError
from tests.rig.brokers.node import Node
from tests.rig.debs import DebsError
from tests.rig.process import Process
from tests.rig.sites.nginx import Nginx, NginxError
from tests.rig.sites.pages import html_files, python_docs

PAGES = 500
SHOWN = 12
RULES = {
    "title": "title",
    "headings": {"selector": "h1, h2", "type": "list"},
    "links": {"selector": "a", "output": "@href", "type": "list"},
}
console = Console(width=110 if sys.stdout.isatty() else 200)  # in a pipe nothing is cut


def main() -> int:
    """Run the whole demonstration; 0 if every job came back."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="scraperd-demo-") as folder:
            return demonstrate(Path(folder))
    except KeyboardInterrupt:
        return 130
    except (DebsError, NodeError, NginxError) as error:
        console.print(f"demo: {error}", markup=False)
        return 1


def interrupt(*_: object) -> None:
    """Make SIGTERM end us the way Ctrl-C does: children first."""
    raise KeyboardInterrupt


def demonstrate(folder: Path) -> int:
    """Start everything, run the jobs, show the results, stop everything."""
    say("starting a private RabbitMQ node and an nginx with Python's manual")
    root = python_docs()
    with Node(folder / "broker") as node, Nginx(root, folder / "site") as site:
        pages = html_files(root)[:PAGES]
        base = site.url.rstrip("/")
        urls = [f"{base}/{page.relative_to(root)}" for page in pages]
        urls += [f"{base}/no-such-page.html", "http://127.0.0.1:1/nobody-listens-here"]
        say("starting scraperd")
        with daemon(node.url) as process:
            process.wait_for_line("ready")
            results, seconds = run_jobs(node.url, urls)
            process.terminate()
            code = process.wait()
    show(results, seconds, len(urls))
    say(f"the daemon drained and ended with exit code {code}; nothing is left behind")
    return 0 if len(results) == len(urls) and code == 0 else 1


def daemon(broker_url: str) -> Process:
    """The daemon, as an operator starts it; retries are quick, so that nobody waits for them."""
    env = {
        "SCRAPERD_BROKER_URL": broker_url,
        "SCRAPERD_JOBS__MAX_RETRIES": "1",
        "SCRAPERD_JOBS__RETRY_BACKOFF": "1",
        # Without it, this machine is out of bounds.
        "SCRAPERD_FETCH__ALLOW_NETWORKS": '["127.0.0.1"]',
        "SCRAPERD_FETCH__ALLOW_PORTS": "[]",
        "SCRAPERD_POLITENESS__PER_HOST_CONCURRENCY": "100",
    }
    return Process([sys.executable, "-m", "scraperd", "run"], env=env)


def run_jobs(broker_url: str, urls: list[str]) -> tuple[dict[str, dict[str, Any]], float]:
    """Publish a job a URL and consume the results; with the seconds until the last good page."""
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    channel = connection.channel()
    channel.confirm_delivery()
    waiting = {uuid.uuid4().hex: url for url in urls}
    say(f"publishing {len(urls)} jobs with pika")
    started = time.monotonic()
    for ident, url in waiting.items():
        job = {"id": ident, "url": url, "extract": RULES}
        persistent = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", "scraperd.jobs", json.dumps(job), persistent, mandatory=True)
    say(f"published in {time.monotonic() - started:.1f} s, each one confirmed")
    results: dict[str, dict[str, Any]] = {}
    good_after = 0.0
    for method, _, body in channel.consume("scraperd.results", inactivity_timeout=60):
        if method is None:
            break  # a minute without a result: `main` says that some are missing
        result = json.loads(body)
        results[result["id"]] = result
        if result["status"] == "ok":
            good_after = time.monotonic() - started
        channel.basic_ack(method.delivery_tag)
        if len(results) == len(urls):
            break
    connection.close()
    return results, good_after


def show(results: dict[str, dict[str, Any]], seconds: float, expected: int) -> None:
    """Print a table of some results, and how fast all of them were."""
    table = Table("status", "page", "title or error", "headings", "links", "ms")
    failed = [result for result in results.values() if result["status"] == "failed"]
    good = [result for result in results.values() if result["status"] == "ok"]
    for result in good[:SHOWN]:
        table.add_row(*row(result))
    table.add_row("…", f"and {len(good) - SHOWN} more", "", "", "", "")
    for result in failed:
        error = result["error"]
        what = f"{error['kind']}: {error['message']}"
        table.add_row("[red]failed", result["url"].partition("//")[2], what, "", "", "")
    console.print(table)
    took = sorted(result["timings"]["total"] for result in good)
    console.print(
        f"{len(results)} of {expected} jobs came back: {len(good)} ok in {seconds:.1f} s from the "
        f"first publish ({len(good) / seconds:.0f} pages a second, median "
        f"{1000 * took[len(took) // 2]:.0f} ms), {len(failed)} failed"
    )


def row(result: dict[str, Any]) -> list[str]:
    """One good result as a row of the table."""
    data = result["data"]
    path = "/" + result["url"].split("/", 3)[3]
    took = f"{1000 * result['timings']['total']:.0f}"
    counts = [str(len(data["headings"])), str(len(data["links"]))]
    return ["[green]ok", path, data["title"][:48], *counts, took]


def say(text: str) -> None:
    """One line of progress."""
    console.print(f"[bold]demo:[/bold] {text}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
