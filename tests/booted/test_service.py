"""The daemon under systemd, on a Debian that boots: each test says what it saw.

May touch: a booted machine, installed by the README's commands.
Must never: depend on another test's order, but on the machine that they share.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.booted.site import PAGE, SLOW, journal, publish_slow, results, say, scrape
from tests.rig.checks.house import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.booted.machine import Machine

CONFIG = "/etc/scraperd/config.toml"
SETTINGS = 'fetch.allow_networks = ["127.0.0.1"]\n'
# Blocks the event loop when it is asked to. It is in no package: a drop-in puts it on the path.
HOOK = """
import signal, time
def block_the_loop(*_):
    time.sleep(600)
signal.signal(signal.SIGRTMIN + 5, block_the_loop)
"""


@pytest.fixture(autouse=True)
def running(installed: Machine) -> Iterator[Machine]:
    """The daemon runs with good settings, before a test and after it."""
    yield installed
    installed.write(CONFIG, SETTINGS)
    installed.run("systemctl start scraperd")


def state(machine: Machine, unit: str = "scraperd") -> str:
    """The first lines of `systemctl status`."""
    shown = machine.run(f"systemctl status --no-pager -n 0 '{unit}'", check=False)
    return "\n".join(
        line for line in shown.splitlines() if re.search("Active|Status|scraperd.*-", line)
    )


def test_it_starts_and_is_ready(running: Machine) -> None:
    """A start returns once the daemon consumes, and check finds all it needs."""
    running.run("systemctl restart scraperd")
    shown = state(running)
    assert "active (running)" in shown
    assert "consuming" in shown
    checked = running.run("scraperd check")
    assert "queue scraperd.jobs: 0 messages, 1 consumers" in checked
    say(shown, *re.findall("(?:configuration|extraction|queue scraperd.jobs):.*", checked))


def test_jobs_are_done(running: Machine) -> None:
    """A job is scraped, and its result comes back."""
    (result,) = scrape(running, PAGE)
    assert result["status"] == "ok"
    say(json.dumps({key: result[key] for key in ("url", "status", "http_status")}))


def test_a_good_reload(running: Machine) -> None:
    """Other settings are in force without a stop, and the log and the status say so."""
    pid = running.show("scraperd", "MainPID")
    running.write(CONFIG, f"concurrency = 7\n{SETTINGS}")
    running.run("systemctl reload scraperd")
    running.until("systemctl status scraperd | grep 'Status:.*reloaded at'")
    assert '"concurrency: 100 -> 7"' in journal(running)
    assert running.show("scraperd", "MainPID") == pid
    say(state(running), *re.findall('.*"event":"reloaded".*', journal(running))[-1:])


def test_a_bad_reload(running: Machine) -> None:
    """The command fails and the journal says why; the daemon goes on as it was."""
    pid = running.show("scraperd", "MainPID")
    running.write(CONFIG, f"concurency = 7\n{SETTINGS}")
    done = running.finished("systemctl reload scraperd")
    assert done.returncode == 1
    running.until("systemctl status scraperd | grep 'Status:.*reload failed at'")
    shown = state(running)
    assert "did you mean 'concurrency'?" in journal(running)
    assert running.show("scraperd", "MainPID") == pid
    running.write(CONFIG, SETTINGS)  # the command below reads it too
    assert scrape(running, PAGE)[0]["status"] == "ok"
    say(f"systemctl reload: exit code {done.returncode}", shown)


def test_a_blocked_loop(running: Machine) -> None:
    """The watchdog ends a daemon whose loop hangs, its traceback is in the journal, and another
    daemon does the job.
    """
    running.write("/opt/hook/sitecustomize.py", HOOK)
    lines = "[Service]\nWatchdogSec=2\nEnvironment=PYTHONPATH=/opt/hook\n"
    running.write("/run/systemd/system/scraperd.service.d/hook.conf", lines)
    running.run("systemctl daemon-reload && systemctl restart scraperd")
    before = running.show("scraperd", "NRestarts")
    publish_slow(running)
    running.run(f"kill -s RTMIN+5 {running.show('scraperd', 'MainPID')}")
    running.until(f"test $(systemctl show --value -p NRestarts scraperd) -gt {before}")
    running.until("systemctl is-active scraperd")
    said = journal(running)
    (result,) = results(running)
    assert result["status"] == "ok"
    assert "Watchdog timeout" in said
    assert "in block_the_loop" in said
    running.run("rm /run/systemd/system/scraperd.service.d/hook.conf; systemctl daemon-reload")
    running.run("systemctl restart scraperd")
    say(*re.findall(".*(?:Watchdog timeout|in block_the_loop|status=6/ABRT).*", said))
    say(f"the job that was in flight: {result['status']}, attempt {result['attempt']}")


def test_a_stop_drains(running: Machine) -> None:
    """A page that is in flight is finished, and its result published, before the daemon ends."""
    publish_slow(running)
    running.run("systemctl stop scraperd")
    assert running.show("scraperd", "Result") == "success"
    (result,) = results(running)
    assert (result["status"], result["url"]) == ("ok", SLOW)
    assert result["timings"]["total"] > 3
    say(*re.findall('.*"event":"drain".*', journal(running))[-1:])
    say(f"result: {result['status']}, after {result['timings']['total']:.1f} s")


def test_a_killed_daemon_is_restarted(running: Machine) -> None:
    """After kill -9 the daemon starts again, and the page that was in flight is fetched again."""
    running.run("systemctl restart scraperd")
    publish_slow(running)
    running.run("systemctl kill -s KILL scraperd")
    running.until("test $(systemctl show --value -p NRestarts scraperd) -gt 0")
    running.until("systemctl is-active scraperd")
    (result,) = results(running)
    assert result["status"] == "ok"
    say(f"restarts: {running.show('scraperd', 'NRestarts')}; the job: {result['status']}")


def test_a_wrong_configuration_is_not_tried_again(running: Machine) -> None:
    """The unit fails with 78, the journal says why, and systemd does not restart it."""
    running.write(CONFIG, f"fetch.concurrency = 7\n{SETTINGS}")
    done = running.finished("systemctl restart scraperd")
    assert done.returncode == 1
    assert running.show("scraperd", "ExecMainStatus") == "78"
    assert running.show("scraperd", "SubState") == "failed"  # and not auto-restart
    assert "unknown setting 'fetch.concurrency'" in journal(running)
    say(state(running), journal(running).strip().splitlines()[-3])


def test_a_broker_that_is_away_is_waited_for(running: Machine) -> None:
    """At a boot the broker may come later: the unit is activating, and no start fails."""
    running.run("systemctl stop scraperd rabbitmq-server")
    running.run("systemctl start --no-block scraperd")
    running.until("journalctl -u scraperd -o cat | grep broker_unreachable")
    assert running.show("scraperd", "ActiveState") == "activating"
    shown = state(running)
    running.run("systemctl start rabbitmq-server")
    running.until("systemctl is-active scraperd")
    assert running.show("scraperd", "NRestarts") == "0"
    say(shown, state(running))


def test_instances_share_the_queue(running: Machine) -> None:
    """Two daemons of the template, with a target for both; each does a part of the jobs."""
    running.run("systemctl stop scraperd")
    running.run("systemctl enable --now scraperd@1 scraperd@2 scraperd.target 2>&1")
    done = scrape(running, *[f"{PAGE}?{number}" for number in range(40)])
    assert [result["status"] for result in done] == ["ok"] * 40
    shares = [journal(running, f"scraperd@{i}").count('"event":"job"') for i in "12"]
    assert sum(shares) == 40
    assert min(shares) > 0
    pids = [running.show(f"scraperd@{i}", "MainPID") for i in "12"]
    running.run("systemctl restart scraperd.target")
    running.until("systemctl is-active scraperd@1 scraperd@2")
    assert not {running.show(f"scraperd@{i}", "MainPID") for i in "12"} & {*pids}
    running.run("systemctl disable --now scraperd@1 scraperd@2 scraperd.target 2>&1")
    assert running.run("systemctl is-active scraperd@1 scraperd@2", check=False).split() == (
        ["inactive"] * 2
    )
    say(f"scraperd@1 did {shares[0]} jobs, scraperd@2 {shares[1]}")


def test_no_secret_is_shown(running: Machine) -> None:
    """The broker's password is in no variable, unit, line of the journal; another user than root
    cannot read its file.
    """
    pid = running.show("scraperd", "MainPID")
    shown = running.run(f"systemctl show scraperd; tr '\\0' '\\n' < /proc/{pid}/environ")
    assert "secret" not in shown + journal(running)
    file = "/etc/scraperd/credentials/broker-url"
    denied = running.run(f"runuser -u scraperd -- cat {file}", check=False)
    assert "Permission denied" in denied
    say(denied, running.run(f"stat -c '%A %U %n' /etc/scraperd {file} {CONFIG}"))


def test_a_signing_key(running: Machine) -> None:
    """The documented command makes a key; the daemon and `scraperd check` both take it."""
    page = (CHECKOUT / "docs/operations/queues.md").read_text()
    (command,) = re.findall(r"^    (\(umask 077; openssl .*)", page, re.MULTILINE)
    running.run(command)
    running.run("systemctl restart scraperd")
    (start,) = re.findall('.*"event":"start".*', journal(running))[-1:]
    assert '"signing_key":"/run/credentials/scraperd.service/scraperd_signing-key"' in start
    checked = running.run("scraperd check")
    running.run("rm /etc/scraperd/credentials/signing-key; systemctl restart scraperd")
    (said,) = re.findall("signing key: the first of 1 in .*", checked)
    assert said.endswith("/etc/scraperd/credentials/signing-key")
    say(start, said)


def test_the_timer(running: Machine) -> None:
    """The timer starts a daemon, which does what is in the queue, and ends with success."""
    running.run("systemctl stop scraperd")
    unit = running.run("systemctl cat scraperd-until-idle.service")
    (command,) = re.findall("^ExecStart=.*", unit, re.MULTILINE)
    often = "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/2\nRandomizedDelaySec=0\nAccuracySec=100ms\n"
    soon = f"[Service]\nExecStart=\n{command.replace('--until-idle 30', '--until-idle 2')}\n"
    for name, text in (("timer", often), ("service", soon)):
        running.write(f"/run/systemd/system/scraperd-until-idle.{name}.d/often.conf", text)
    running.run("scraperd results --consume --idle 0.5 > /dev/null")
    running.run(f"scraperd publish {PAGE} {PAGE}?1")
    running.run("systemctl daemon-reload && systemctl start scraperd-until-idle.timer")
    done = results(running, 2)
    ended = "journalctl -u scraperd-until-idle -o cat | grep 'Deactivated successfully'"
    running.until(ended)
    running.run("systemctl stop scraperd-until-idle.timer scraperd-until-idle.service")
    running.run("rm -r /run/systemd/system/scraperd-until-idle.*.d; systemctl daemon-reload")
    assert [result["status"] for result in done] == ["ok", "ok"]
    drains = re.findall('.*"event":"drain".*', journal(running, "scraperd-until-idle"))
    say(f"{len(done)} jobs done", *drains[:1])
