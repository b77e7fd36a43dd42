"""The units of systemd/: valid, as closed as they can be, and the template the same as the unit.

May touch: Debian's systemd-analyze, on copies whose command exists.
Must never: ask the systemd of this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rig.debs import debs, libraries

UNITS = Path(__file__).parents[2] / "systemd"
MOST = 1.2  # exposure, by systemd-analyze security; 8.5 is a unit without any of it
OWN = {  # what the template has of its own
    *("PartOf=scraperd.target", "ReloadPropagatedFrom=scraperd.target"),
    "Environment=SCRAPERD_JOBS__WORKER_NAME=%H:%i",
    "EnvironmentFile=-/etc/scraperd/%i.env",
    *("Description=scraperd %i, scrapes jobs from a RabbitMQ queue", "WantedBy=scraperd.target"),
}


def analyze(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze: the machine's own, or that of Debian's package, not installed."""
    env, program = dict(os.environ), shutil.which("systemd-analyze")
    if program is None:
        root = debs("systemd")
        own = {str(path.parent) for path in root.rglob("libsystemd-shared-*.so")}
        env["LD_LIBRARY_PATH"] = ":".join((*own, libraries(root)))
        program = str(root / "usr/bin/systemd-analyze")
    return subprocess.run([program, *argv], env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The units, with a command that is there on each machine."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/scraperd/bin/scraperd", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("scraperd.service", "scraperd@.service"),
        *("scraperd-until-idle.service", "scraperd-gateway.service"),
    ],
)
def test_a_unit_is_closed(copies: Path, name: str) -> None:
    """Its exposure is low: what a daemon of ours has no use for is closed to it."""
    shown = analyze("security", "--offline=true", "--no-pager", str(copies / name)).stdout
    (level,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", shown)
    assert float(level) <= MOST, shown


@pytest.mark.parametrize(
    "name",
    [
        *("scraperd.service", "scraperd@1.service", "scraperd.target"),
        *("scraperd-until-idle.service", "scraperd-until-idle.timer", "scraperd-gateway.service"),
    ],
)
def test_a_unit_is_valid(copies: Path, name: str) -> None:
    """Systemd has nothing to say of it, nor of what it names."""
    if name == "scraperd@1.service":
        (copies / name).write_text((copies / "scraperd@.service").read_text())
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(copies / name))
    assert (done.returncode, done.stderr) == (0, "")


def lines(name: str) -> set[str]:
    """What a unit says, without comments."""
    text = (UNITS / name).read_text()
    return {line for line in text.splitlines() if line and line[0] != "#"}


def test_the_template_is_the_unit() -> None:
    """What one says the other says too, but for what makes it a template."""
    one, many = lines("scraperd.service"), lines("scraperd@.service")
    assert many - one == OWN
    assert {line.partition("=")[0] for line in one - many} == {"Description", "WantedBy"}


def test_the_unit_of_the_timer_is_the_unit() -> None:
    """It ends by itself, and is started by its timer; all else is the same."""
    one, idle = lines("scraperd.service"), lines("scraperd-until-idle.service")
    (ends,) = (line for line in idle if line.startswith("ExecStart="))
    assert ends.replace("run --until-idle 30 ", "run ") in one
    assert idle - one == {ends, "Description=scraperd until its queue is empty"}
    assert {line.partition("=")[0] for line in one - idle} == {
        *("Description", "ExecStart", "WantedBy", "[Install]")
    }


def test_the_unit_of_the_gateway_is_the_unit() -> None:
    """It starts another command, whose reload is not checked once more; all else is the same."""
    one, gateway = lines("scraperd.service"), lines("scraperd-gateway.service")
    (begins,) = (line for line in gateway if line.startswith("ExecStart="))
    assert begins.replace(" serve ", " run ") in one
    assert gateway - one == {begins, "Description=scraperd serve, takes jobs over HTTP"}
    assert {line.partition("=")[0] for line in one - gateway} == {
        *("Description", "ExecStart", "ExecReload")
    }
