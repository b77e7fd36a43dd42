"""How a command ends when something happens that nobody expected: in words, and with its code.

May touch: the `scraperd` command as a subprocess, with a broken library.
Must never: reach into a command's code; what fails here can fail anywhere.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from scraperd.cli import console
from scraperd.ops import life
from tests.rig.daemon import environment
from tests.rig.process import spawn

if TYPE_CHECKING:
    from pathlib import Path

# Commands of the real group that fail in each way there is.
FAILING = """
import asyncio, click
from scraperd.cli.main import main

def failing(name, error):
    @main.command(name)
    def command():
        raise error

async def cancelled():
    raise asyncio.CancelledError

failing("value", ValueError("amqp://me:hunter2/?#hunter2@host/ \\x1b[2J\\nsays no"))
failing("silent", ZeroDivisionError())
failing("end", EOFError("nothing left"))
failing("group", ExceptionGroup("two", [ExceptionGroup("one", [KeyError("x")]), ValueError("y")]))
failing("os", PermissionError(13, "Permission denied", "/etc/shadow"))
failing("library", asyncio.CancelledError())
failing("interrupt", KeyboardInterrupt())
failing("pipe", BrokenPipeError(32, "Broken pipe"))
failing("usage", click.UsageError("not like this"))
failing("exit", SystemExit(7))
main()
"""
HINT = "scraperd: PYTHONDEVMODE=1 shows the traceback; please report it\n"


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, with only the given variables of ours."""
    return subprocess.run(
        [sys.executable, *argv],
        env={**environment({}), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("value", "ValueError: amqp://host/ \N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}"),
        ("silent", "ZeroDivisionError\n"),
        ("end", "EOFError: nothing left\n"),
        ("group", "KeyError: 'x'\n"),
        ("os", "PermissionError: [Errno 13] Permission denied: '/etc/shadow'\n"),
        ("library", "CancelledError\n"),
    ],
)
def test_an_unexpected_error_is_a_line_and_70(command: str, said: str) -> None:
    """Whatever is raised: what it is, without a password or a traceback; and how to see more."""
    done = run("-c", FAILING, command)
    assert done.returncode == 70
    assert done.stdout == ""
    line, hint = done.stderr.splitlines(keepends=True)
    assert line.startswith(f"scraperd: internal error: {said}")
    assert hint == HINT
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("interrupt", 130, ""),
        ("pipe", 1, ""),
        ("exit", 7, ""),
        ("usage", 2, "Error: not like this\n"),
        ("nothing", 2, "Error: No such command 'nothing'.\n"),
    ],
)
def test_other_ends_keep_their_codes(command: str, code: int, said: str) -> None:
    """Ctrl-C, a closed pipe, wrong usage and a code of the command's own are no internal errors."""
    done = run("-c", FAILING, command)
    assert done.returncode == code
    assert done.stderr.endswith(said)
    assert "internal" not in done.stderr
    assert bool(done.stderr) == bool(said)


def test_the_development_mode_shows_the_traceback() -> None:
    """For a report: PYTHONDEVMODE=1 prints it, line by line fit for a terminal, before the line."""
    done = run("-c", FAILING, "value", PYTHONDEVMODE="1")
    assert done.returncode == 70
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("scraperd: internal error: ValueError: amqp://host/")
    assert "\x1b" not in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("where", [">&-", "2>&-", "2>/dev/full"])
@pytest.mark.parametrize(("command", "code"), [("value", 70), ("scrape nope.html", 2)])
def test_the_code_does_not_depend_on_the_terminal(command: str, code: int, where: str) -> None:
    """Closed before the start, or a full disk behind it: the exit code is the same."""
    argv = ["bash", "-c", f'"$0" -c "$1" {command} {where}', sys.executable, FAILING]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


COMMANDS = [
    "run",
    "check",
    "scrape http://x/",
    "publish http://x/",
    "results",
    "schema",
    "dead list",
    "dead show --all",
    "dead requeue --all",
    "dead purge --all --yes",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_broken_library_ends_each_command_with_70(tmp_path: Path, command: str) -> None:
    """As after an upgrade of the system, when a library of a library is gone."""
    why = "libgone.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "yarl.py").write_text(f'raise ImportError("{why}")\n')
    done = run("-m", "scraperd", *command.split(), PYTHONPATH=str(tmp_path))
    assert done.returncode == 70
    line, hint = done.stderr.splitlines(keepends=True)
    assert line.startswith(f"scraperd: internal error: ImportError: {why} (scraperd/")
    assert hint == HINT


def test_the_daemon_has_the_traceback_in_its_log(tmp_path: Path) -> None:
    """Nobody can run it again to see one: `died` has it, as for a part of it that dies later."""
    (tmp_path / "uvloop.py").write_text("def new_event_loop(): raise ValueError('no loop today')\n")
    done = run("-m", "scraperd", "run", PYTHONPATH=str(tmp_path))
    assert done.returncode == 70
    died = json.loads(done.stdout.splitlines()[-1])
    assert died["event"] == "died"
    assert died["exception"].startswith("Traceback")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("scraperd: internal error: ValueError: no loop today (")
    assert last.endswith("; its traceback is in the log")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("MemoryError()", "out of memory"),
        ("OSError(errno.ENOMEM, 'x')", "out of memory"),
        ("ImportError('lib.so: cannot allocate memory in static TLS block')", "out of memory"),
        ('RuntimeError("can\'t start new thread")', "no further process or thread can be started"),
        ("BlockingIOError(errno.EAGAIN, 'x')", "no further process or thread can be started"),
        ("ExceptionGroup('x', [OSError(errno.ENFILE, 'x')])", "out of file descriptors"),
    ],
)
def test_what_the_machine_lacks_is_a_line_and_71(error: str, said: str) -> None:
    """Out of memory, descriptors or processes: one line says so, and the limits that are set."""
    code = f"import errno\n{FAILING.replace('main()', '')}\nfailing('lack', {error})\nmain()"
    done = run("-c", code, "lack")
    assert done.returncode == 71
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"scraperd: {said}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_signals_end_a_command_that_reads(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Before there is an event loop: Ctrl-C is 130 and quiet, SIGTERM ends it as by itself."""
    os.mkfifo(jobs := tmp_path / "jobs")
    argv = [sys.executable, "-m", "scraperd", "publish", jobs]
    child = spawn(argv, env={**os.environ}, stderr=subprocess.PIPE)
    with jobs.open("w"):  # which waits until it is opened for reading
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
    assert child.returncode == code
    assert said == b""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("publish - <&-", "scraperd: -: can't be read: standard input is closed\n"),
        ("scrape - <&-", "scraperd: -: can't be read: standard input is closed\n"),
        ("publish - 0>/dev/null", "scraperd: -: can't be read: Bad file descriptor\n"),
        (
            "publish - <<< $'http://\\xff/'",
            "scraperd: -: not UTF-8: invalid start byte at byte 7\n",
        ),
        ("publish http://x/ --wait --timeout nan", "'--timeout': 'nan' is not a number\n"),
        ("dead requeue --all --rate nan", "'--rate': 'nan' is not a number\n"),
    ],
)
def test_what_was_a_traceback_is_wrong_usage(command: str, said: str) -> None:
    """Inputs that a user can get wrong: 2, not 70."""
    argv = ["bash", "-c", f'"$0" -m scraperd {command}', sys.executable]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(said)


def test_the_codes_are_the_daemons() -> None:
    """The two that the daemon ends with as well mean the same from each command."""
    assert (console.EXIT_INTERNAL, console.EXIT_CONFIG) == (70, 78)
    assert (life.EXIT_INTERNAL, life.EXIT_CONFIG) == (70, 78)


@pytest.mark.parametrize(
    "command", ["run", "check", "results", "publish http://a.example/", "dead list"]
)
def test_a_broker_url_that_can_lead_to_no_broker_is_wrong_configuration(command: str) -> None:
    """The daemon and each command end with 78 and name the fault, so systemd does not restart."""
    url = '["amqp://127.0.0.1:1/", "amqps://user:hunter2@broker.example/?cafile=/no/such/file"]'
    done = run("-m", "scraperd", *command.split(), SCRAPERD_BROKER_URL=url)
    said = done.stdout + done.stderr
    assert done.returncode == console.EXIT_CONFIG, said
    assert "amqps://broker.example/: TLS to the broker: cafile=/no/such/file: No such file" in said
    assert "hunter2" not in said
