"""What the tests on a booted Debian share: the package, the machine, the commands of the README.

May touch: `make deb`, the booted tree.
Must never: install anything but by the README's own commands.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.booted.machine import Machine
from tests.booted.site import serve_pages
from tests.rig.checks.house import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEWER = "9.9.9"  # the version of the package that upgrades


def readme(before: str) -> list[str]:
    """The commands that the README gives below a line that begins so."""
    text = (CHECKOUT / "README.md").read_text()
    (block,) = re.findall(rf"^{re.escape(before)}.*\n\n((?:    .+\n)+)", text, re.MULTILINE)
    return [line.strip() for line in block.splitlines()]


INSTALL = readme("As root, on Debian 12")
REMOVE = readme("To remove scraperd")
UPGRADE = readme("To upgrade, and to go back")


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as dist/ is: the package that `make deb` builds, and one of a newer version."""
    assert INSTALL[0] == "make deb"
    subprocess.run(["make", "-C", str(CHECKOUT), "deb"], check=True, stderr=subprocess.DEVNULL)
    folder = tmp_path_factory.mktemp("dist")
    built = (CHECKOUT / "dist/scraperd.deb").resolve()
    shutil.copyfile(built, folder / built.name)
    (folder / "scraperd.deb").symlink_to(built.name)
    newer = tmp_path_factory.mktemp("newer") / "scraperd"
    subprocess.run(["dpkg-deb", "-R", str(built), str(newer)], check=True)
    control = newer / "DEBIAN/control"
    control.write_text(
        re.sub("^Version: .*", f"Version: {NEWER}", control.read_text(), flags=re.MULTILINE)
    )
    (code,) = newer.glob("usr/lib/scraperd/lib/*/site-packages/scraperd/__init__.py")
    code.write_text(
        re.sub('(?<=^__version__ = ").*(?=")', NEWER, code.read_text(), flags=re.MULTILINE)
    )
    subprocess.run(["dpkg-deb", "-Znone", "-b", str(newer), str(folder / "newer.deb")], check=True)
    return folder


@pytest.fixture(scope="module")
def machine(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with RabbitMQ and a site, and no scraperd."""
    booted = Machine({packages: "/root/dist"}, tmp_path_factory.mktemp("boot") / "console")
    try:
        booted.run("rabbitmqctl add_user scraperd secret")
        booted.run("rabbitmqctl set_permissions scraperd '.*' '.*' '.*'")
        serve_pages(booted)
        yield booted
    finally:
        booted.close()


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Machine:
    """The machine with scraperd, installed and started by the README, that may scrape its site."""
    for command in INSTALL[1:]:
        machine.run(command)
    machine.write("/etc/scraperd/config.toml", 'fetch.allow_networks = ["127.0.0.1"]\n')
    machine.run("systemctl reload scraperd")
    return machine
