"""The package on a Debian that boots: install, upgrade, go back, remove, purge.

May touch: a booted machine, by the README's commands.
Must never: put a file in place by itself, but settings and the package's own archive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.booted.conftest import INSTALL, NEWER, REMOVE, UPGRADE
from tests.booted.site import PAGE, publish_slow, results, say, scrape

if TYPE_CHECKING:
    from pathlib import Path

    from tests.booted.machine import Machine

CONFIG = "/etc/scraperd/config.toml"
SETTINGS = 'fetch.allow_networks = ["127.0.0.1"]\n'
# What the machine itself writes meanwhile: logs, queues, dpkg's and apt's notes.
OTHERS = "/proc /sys /dev /run /tmp /var/log /var/cache /var/tmp /srv /var/lib/rabbitmq"


def snapshot(machine: Machine) -> set[str]:
    """All files, users, groups and units."""
    away = " -o ".join(f"-path {folder}" for folder in OTHERS.split())
    listed = machine.run(f"find / -xdev \\( {away} \\) -prune -o -print")
    others = "getent passwd; getent group; systemctl list-unit-files --no-legend --plain"
    return {*listed.splitlines(), *machine.run(others).splitlines()}


@pytest.fixture(scope="module")
def before(machine: Machine) -> set[str]:
    """What was there before the installation, in a Debian where a package came and went once.

    apt and useradd keep copies of their former files, which are there after any package.
    """
    machine.run("systemd-sysusers --inline 'u someone - -' && userdel someone")
    machine.run("apt-get install -y -q ./dist/newer.deb && apt-get purge -y -q scraperd")
    return snapshot(machine)


def test_an_installation_starts_nothing(machine: Machine, before: set[str]) -> None:
    """The package makes its user and its files, and leaves the start to the operator."""
    machine.run(INSTALL[1])
    machine.run(INSTALL[2])
    assert machine.show("scraperd", "ActiveState") == "inactive"
    assert machine.run("systemctl is-enabled scraperd", check=False).strip() == "disabled"
    machine.run(INSTALL[3])
    machine.write(CONFIG, SETTINGS)
    machine.run("systemctl reload scraperd")
    assert scrape(machine, PAGE)[0]["status"] == "ok"
    say(machine.run("getent passwd scraperd"), machine.run(f"ls -l {CONFIG}"))
    signs = "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey as K"
    machine.run(f"/usr/lib/scraperd/bin/python3 -Bc '{signs}; K.generate().sign(b\"\")'")
    say(f"new files: {len(snapshot(machine) - before)}")


def test_completion_works(machine: Machine) -> None:
    """A shell with the package's completion finishes the name of a command."""
    script = "/usr/share/bash-completion/completions/scraperd"
    words = "COMP_WORDS=(scraperd che) COMP_CWORD=1"
    shown = machine.run(
        f"{words}; . {script}; _scraperd_completion scraperd; echo ${{COMPREPLY[@]}}"
    )
    assert shown.split() == ["check"]
    say(f"scraperd che<TAB>: {shown}")


def test_an_upgrade(machine: Machine) -> None:
    """The daemon is restarted as the newer version, and finishes what is in flight before."""
    pid = machine.show("scraperd", "MainPID")
    publish_slow(machine)
    machine.run(UPGRADE[1].replace("scraperd.deb", "newer.deb"))
    assert NEWER in machine.run("scraperd --version")
    assert machine.show("scraperd", "ActiveState") == "active"
    assert machine.show("scraperd", "MainPID") != pid
    (result,) = results(machine)
    assert result["status"] == "ok"
    assert SETTINGS in machine.run(f"cat {CONFIG}")
    say(machine.run("scraperd --version"), f"the job in flight: {result['status']}")


def test_an_upgrade_that_cannot_read_the_configuration(machine: Machine) -> None:
    """The package says so, and the running daemon is left alone."""
    pid = machine.show("scraperd", "MainPID")
    machine.write(CONFIG, f"concurency = 7\n{SETTINGS}")
    said = machine.run(f"{UPGRADE[1].replace('scraperd.deb', 'newer.deb')} --reinstall 2>&1")
    assert "did you mean 'concurrency'?" in said
    assert machine.show("scraperd", "MainPID") == pid
    machine.write(CONFIG, SETTINGS)
    say(*[line for line in said.splitlines() if line.startswith("scraperd:")])


def test_the_way_back(machine: Machine, packages: Path) -> None:
    """The former version is installed over the newer one, and runs."""
    (former,) = (path.name for path in packages.glob("scraperd_*.deb"))
    machine.run(UPGRADE[2].replace("scraperd_VERSION_amd64.deb", former))
    assert NEWER not in machine.run("scraperd --version")
    assert scrape(machine, PAGE)[0]["status"] == "ok"
    say(machine.run("scraperd --version"))


def test_a_rolling_upgrade(machine: Machine) -> None:
    """Instances are restarted one after the other: one is ready before the next one stops."""
    machine.run("systemctl stop scraperd && systemctl enable --now scraperd@1 scraperd@2 2>&1")
    machine.run(UPGRADE[1].replace("scraperd.deb", "newer.deb"))
    first_ready = int(machine.show("scraperd@1", "ActiveEnterTimestampMonotonic"))
    second_ended = int(machine.show("scraperd@2", "InactiveEnterTimestampMonotonic"))
    assert 0 < first_ready < second_ended
    assert all(machine.show(f"scraperd@{i}", "ActiveState") == "active" for i in "12")
    assert scrape(machine, PAGE)[0]["status"] == "ok"
    waited = (second_ended - first_ready) / 1e6
    say(f"scraperd@1 was ready {waited:.2f} s before scraperd@2 had ended")


def test_a_removal_keeps_the_settings(machine: Machine) -> None:
    """No daemon runs, no unit is left; settings and secrets stay for the next installation."""
    machine.run("apt remove -y scraperd")
    assert not machine.run("pgrep -u scraperd", check=False)
    units = machine.run(
        "systemctl list-unit-files; systemctl list-units --all --type=service,timer"
    )
    assert "scraperd" not in units
    assert machine.run("cat /etc/scraperd/config.toml") == SETTINGS
    say(machine.run("find /etc/scraperd /usr/lib/scraperd 2>&1", check=False))
    for command in INSTALL[1:]:
        machine.run(command)


def test_a_purge_leaves_nothing(machine: Machine, before: set[str]) -> None:
    """Files, users, groups and units are those of before the installation."""
    for command in REMOVE:
        machine.run(command)
    after = snapshot(machine)
    assert not machine.run("pgrep -f bin/scraperd", check=False)
    assert (after - before, before - after) == (set(), set())
    say(f"{len(after)} files, users and units before and after")
