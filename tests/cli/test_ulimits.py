"""A machine that lacks something ends each command in one line, with 71: memory, files, processes.

May touch: the `scraperd` command as a subprocess, under limits of its own.
Must never: change a limit of this process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.rig.daemon import environment

if TYPE_CHECKING:
    from pathlib import Path

# Another user that may still read this Python: the kernel does not count the processes of root, and
# root may raise its limits (setrlimit(2)).
NOBODY = [
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
]
UNREACHABLE = {"broker_url": "amqp://127.0.0.1:1/"}
COMMANDS = ["run", "scrape http://127.0.0.1:1/", "check", "results", "batch -", "dead list"]


def limited(limits: str, command: str, *before: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end under limits of bash's ulimit."""
    argv = [*before, "bash", "-c", f'{limits}; exec "$0" "$@"', sys.executable]
    return subprocess.run(
        [*argv, "-m", "scraperd", *command.split()],
        env=environment(UNREACHABLE),
        input="http://127.0.0.1:1/\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "files"),
    [("run", 24), ("check", 24), *((command, 12) for command in COMMANDS), ("results", 6)],
)
def test_too_few_descriptors_are_said_in_a_line(command: str, files: int) -> None:
    """The line names the limit, its value and how to raise it; no traceback is in the log."""
    done = limited(f"ulimit -n {files}", command)
    assert done.returncode == 71, done.stderr
    assert done.stdout == "" or command == "check"
    (line,) = done.stderr.splitlines()
    assert line.startswith("scraperd: ")
    assert "file descriptors" in line
    assert f"limit is {files}" in line or f"is {files}," in line
    assert "ulimit -n" in line
    assert "LimitNOFILE" in line


@pytest.mark.parametrize("command", COMMANDS[:2])
@pytest.mark.parametrize("mebibytes", [30, 40, 50, 60, 70, 80])
def test_too_little_memory_is_said_in_a_line(command: str, mebibytes: int) -> None:
    """However far the start comes, it ends in one line that names the limit; a command for which
    the memory suffices does its work.
    """
    done = limited(f"ulimit -v {mebibytes * 1024}", command)
    assert "Traceback" not in done.stdout + done.stderr
    if command != "run" and done.returncode == 1:
        assert '"kind": "blocked_address"' in done.stdout
        return
    assert done.returncode == 71, done.stderr
    assert done.stderr == (
        f"scraperd: out of memory (the limit is {mebibytes * 1024} KiB: ulimit -v, LimitAS)\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("command", ["run", "check"])
def test_too_few_processes_are_said_in_a_line(command: str) -> None:
    """A daemon that can start no helper process says so at the start, and how to change that."""
    done = limited("ulimit -u 1", command, *NOBODY)
    assert done.returncode == 71, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        r"scraperd: \d+ helper processes can't be started: Resource temporarily unavailable: "
        r"raise LimitNPROC \(ulimit -u\) or TasksMax, or lower sandbox.processes",
        line,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_command_that_can_start_no_helper_says_so(tmp_path: Path) -> None:
    """A large page on standard input needs a helper process, and there can be none: 71."""
    argv = [*NOBODY, "bash", "-c", 'ulimit -u 1; exec "$0" -m scraperd scrape -', sys.executable]
    done = subprocess.run(
        argv,
        env=environment({}),
        input=PAGE,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 71, done.stderr
    assert done.stderr == (
        "scraperd: no further process or thread can be started (the limit is 1: ulimit -u, "
        "LimitNPROC)\n"
    )


PAGE = "<title>a page</title>" + "<p>" * 200_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_a_lower_limit_of_the_machine_holds_for_helpers(tmp_path: Path, user: str) -> None:
    """Under a limit of memory below sandbox.extract_memory a helper still searches a large page:
    it does not try to raise the limit.
    """
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    page = tmp_path / "page.html"
    page.write_text(PAGE)
    command = f'scrape {page} --extract {{"t":"title"}} --compact'
    done = limited("ulimit -v 700000", command, *(NOBODY if user == "nobody" else []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"t":"a page"' in done.stdout
