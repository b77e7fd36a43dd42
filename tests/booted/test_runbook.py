"""The entries of docs/operations/troubleshooting.md by alarm, each on a Debian that boots.

May touch: a booted machine, its broker, the commands that the page names.
Must never: look where an operator who follows the page would not look.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.booted.site import PAGE, SLOW, publish_slow, results, say, scrape
from tests.rig.checks.house import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.booted.machine import Machine

CONFIG = "/etc/scraperd/config.toml"
SETTINGS = """
fetch.allow_networks = ["127.0.0.1"]
metrics.listen = "127.0.0.1:9469"
"""
PAGES = CHECKOUT / "docs/operations"


def commands(heading: str, page: str = "troubleshooting.md") -> list[str]:
    """The commands in an entry of a page."""
    text = (PAGES / page).read_text()
    (entry,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#)", text, re.MULTILINE | re.DOTALL)
    return re.findall("^    (.+)", entry, re.MULTILINE)


def status(machine: Machine) -> str:
    """The line of the daemon's status."""
    return machine.show("scraperd", "StatusText")


@pytest.fixture(autouse=True)
def running(installed: Machine) -> Iterator[Machine]:
    """The daemon runs with metrics, before a test and after it."""
    installed.write(CONFIG, SETTINGS)
    installed.run("systemctl restart scraperd")
    yield installed
    installed.run("systemctl start rabbitmq-server scraperd")


def test_the_first_look(running: Machine) -> None:
    """Each command at the head of the page works, and the journal has what an operator needs."""
    scrape(running, PAGE)
    running.write(CONFIG, f"concurency = 1\n{SETTINGS}")
    running.run("systemctl reload scraperd", check=False)
    running.until("systemctl status scraperd | grep 'Status:.*reload failed'")
    running.write(CONFIG, SETTINGS)
    running.run("systemctl restart scraperd")
    status_, journal_, *others = commands("Troubleshooting")
    assert "consuming" in running.run(status_)
    said = running.run(journal_)
    for event in ("start", "ready", "listening", "reload_failed", "drain", "drained", "stop"):
        assert f'"event":"{event}"' in said
    for command in others:
        running.run(command)
    say(*re.findall('"event":"(?:start|ready|reload_failed|drain|stop)".{0,60}', said)[-5:])


def test_not_ready(running: Machine) -> None:
    """Without a broker, `scraperd health` says why, and is good again once the broker is back."""
    running.run("systemctl stop rabbitmq-server")
    running.until("! scraperd health")
    said = running.run("scraperd health", check=False)
    assert "no broker" in said
    checked = running.run("scraperd check", check=False)
    running.run("systemctl start rabbitmq-server")
    running.until("scraperd health")
    say(f"scraperd health: {said}", f"scraperd check: {checked.splitlines()[-1]}")


def test_no_consumer(running: Machine) -> None:
    """A queue that grows because no daemon runs: check counts the jobs, and 0 consumers."""
    running.run("systemctl stop scraperd")
    running.run(f"scraperd publish {PAGE} {PAGE}?1 {PAGE}?2")
    counts, _ = commands("The jobs queue grows")
    shown = running.run(counts)
    assert "queue scraperd.jobs: 3 messages, 0 consumers" in shown
    running.run("systemctl start scraperd")
    running.until("scraperd check | grep 'jobs: 0 messages, 1 consumers'")
    say(*re.findall("queue .*", shown))


def test_too_little_concurrency(running: Machine) -> None:
    """A queue that grows because all fetches are taken: the status says so."""
    running.write(CONFIG, f"concurrency = 1\n{SETTINGS}")
    running.run("systemctl reload scraperd")
    running.run(f"scraperd publish {SLOW} {SLOW}?1 {SLOW}?2 {SLOW}?3")
    _, limits = commands("The jobs queue grows")
    shown = running.until(f"{limits} | grep 'concurrency [0-9]'")
    running.write(CONFIG, SETTINGS)
    running.run("systemctl reload scraperd")
    running.until("scraperd check | grep 'jobs: 0 messages'")
    say(shown)


def test_dead_letters(running: Machine) -> None:
    """A site that was down: its letters are listed, and run again once the site is back."""
    down = "http://127.0.0.1:8080/page.html"
    # Else the daemon remembers for 5 s that it could not read the robots.txt there.
    running.write(CONFIG, f"politeness.robotstxt_obey = false\n{SETTINGS}")
    running.run("systemctl reload scraperd")
    running.until("systemctl status scraperd | grep 'Status:.*reloaded at'")
    running.run(f"scraperd publish --max-retries 0 {down}")
    running.until("scraperd dead list | grep 8080")
    listed, *_ = commands("The dead queue fills up", "dead-letters.md")
    shown = running.run(listed)
    assert "exhausted" in shown
    assert "connect" in shown
    running.run("sed -i 's/listen.*/& listen 127.0.0.1:8080;/' /etc/nginx/sites-enabled/default")
    running.run("systemctl reload nginx")
    running.until(f"curl -sf {down} > /dev/null")
    running.run("scraperd results --consume --idle 0.5 > /dev/null")
    again = running.run("scraperd dead requeue --reason exhausted --host 127.0.0.1 2>&1")
    (result,) = results(running)
    assert (result["status"], result["url"]) == ("ok", down), result
    say(shown, again)


def test_memory(running: Machine) -> None:
    """The metrics of memory are those that the page names."""
    publish_slow(running)
    (asked,) = commands("The process takes much memory")
    shown = running.run(asked)
    assert re.search("^scraperd_jobs_in_flight 1", shown, re.MULTILINE)
    assert re.search("^process_resident_memory_bytes [0-9.e+]+", shown, re.MULTILINE)
    own = running.run("curl -s http://127.0.0.1:9469/metrics | grep -o '^process_[a-z_]*'").split()
    assert {"process_cpu_seconds_total", "process_open_fds"} <= {*own}
    assert "scraperd_memory_budget_limit_bytes" in shown
    say(shown)


def test_a_large_page_is_searched_in_a_helper(running: Machine) -> None:
    """The helper processes start and are confined, as the package installed them."""
    rows = "<p>row</p>" * 120_000
    running.write("/srv/site/large.html", f"<html><title>Large</title>{rows}</html>")
    (result,) = scrape(running, "http://127.0.0.1/large.html --include metadata")
    assert (result["status"], result["metadata"]["title"]) == ("ok", "Large")
    said = running.run("journalctl -u scraperd -o cat")
    assert "helpers_unconfined" not in said
    helpers = running.run("systemctl status --no-pager -n 0 scraperd | grep -c sandbox.child")
    say(f"{helpers.strip()} processes of the sandbox")


def test_one_host_is_slow(running: Machine) -> None:
    """A host with a delay: the status says that jobs wait for their turn, and a reload ends it."""
    slow = '[hosts."127.0.0.1"]\nper_host_delay = 5\n'
    running.write(CONFIG, f"{SETTINGS}\n{slow}")
    running.run("systemctl reload scraperd")
    running.run("scraperd publish " + " ".join(f"{PAGE}?{number}" for number in range(4)))
    waiting = running.until("scraperd check | grep -E 'delay.*: [1-9]'")
    running.until("systemctl status scraperd | grep -E '[1-9][0-9]* moves to wait'")
    shown = status(running)
    running.write(CONFIG, SETTINGS)
    running.run("systemctl reload scraperd")
    running.until("scraperd check | grep 'delay.*: 0 messages'", 120)
    say(waiting, shown)


def test_the_broker_blocks(running: Machine) -> None:
    """An alarm of the broker is in status and log, and the daemon goes on when the alarm ends."""
    publish_slow(running)
    running.run("rabbitmqctl set_vm_memory_high_watermark absolute 1MB")
    running.until("systemctl status scraperd | grep 'Status:.*blocked'")
    shown = status(running)
    not_ready = running.run("scraperd health", check=False)
    alarm = running.run("rabbitmq-diagnostics alarms")
    assert "broker_blocked" in running.run("journalctl -u scraperd -o cat")
    running.run("rabbitmqctl set_vm_memory_high_watermark 0.4")
    (result,) = results(running)
    assert result["status"] == "ok"
    running.until("scraperd health")
    say(shown, f"scraperd health: {not_ready}", alarm)


def test_a_further_daemon(running: Machine) -> None:
    """A second daemon with the same configuration is a second consumer; without it, one is left."""
    env = "SCRAPERD_METRICS__LISTEN=127.0.0.1:9470\n"
    running.write("/etc/scraperd/2.env", env)
    running.run("systemctl start scraperd@2")
    shown = running.until("scraperd check | grep 'jobs: 0 messages, 2 consumers'")
    running.run("systemctl stop scraperd@2")
    running.until("scraperd check | grep 'jobs: 0 messages, 1 consumers'")
    say(shown)
