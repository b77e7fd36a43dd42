"""Standard streams that are closed, and signals: no socket takes a stream's number, each ends well.

May touch: the `scraperd` command as a subprocess, /proc of it, the private broker.
Must never: close a stream of this process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.probes import Ear
from tests.rig.daemon import LOOPBACK, environment
from tests.rig.process import end, spawn

if TYPE_CHECKING:
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

UNREACHABLE = {"broker_url": "amqp://127.0.0.1:1/"}
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"]
WRITES_TO_STDOUT = f"{ {'x86_64': 1, 'aarch64': 64}[os.uname().machine] } 0x1 "  # proc(5), syscall


def in_shell(command: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command of ours by bash, which closes streams of it."""
    return subprocess.run(
        ["bash", "-c", f'exec "$0" -m scraperd {command}', sys.executable],
        env=environment({**UNREACHABLE, **settings}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_no_socket_of_the_daemon_takes_the_number_of_a_closed_stream(closed: str) -> None:
    """Each of 0 to 2 that was closed before the start leads to /dev/null, and SIGTERM ends it."""
    ear = Ear()
    argv = ["bash", "-c", f'exec "$0" -m scraperd run {closed}', sys.executable]
    env = {**environment(UNREACHABLE), "NOTIFY_SOCKET": ear.address}
    child = spawn(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert ear.wait(lambda told: "STATUS" in told.fields, 30)
        links = [Path(f"/proc/{child.pid}/fd/{fd}").readlink() for fd in range(3)]
        assert set(links) == {Path(os.devnull)}
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
    finally:
        end(child, 1)
        ear.close()


def test_the_daemon_works_without_any_stream(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """With all three closed before the start, a job is scraped, and SIGTERM drains."""
    argv = ["bash", "-c", 'exec "$0" -m scraperd run <&- >&- 2>&-', sys.executable]
    settings = {**LOOPBACK, "broker_url": broker_url, "broker__prefix": prefix}
    ear = Ear()
    child = spawn(argv, env={**environment(settings), "NOTIFY_SOCKET": ear.address})
    try:
        assert ear.wait(lambda told: "READY" in told.fields, 30)
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        assert dispatcher.results(1)[0]["status"] == "ok"
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
    finally:
        end(child, 1)
        ear.close()


@pytest.mark.parametrize(
    "command",
    ["--version", "--help", "schema job", "scrape /dev/null --media text/html", "check"],
)
@pytest.mark.parametrize("where", [">&-", "1</dev/null"])
def test_nothing_is_printed_to_nowhere_without_a_word(command: str, where: str) -> None:
    """A standard output that is closed, or open for reading only, is told, with exit code 1."""
    done = in_shell(f"{command} {where}")
    assert done.returncode == 1
    assert done.stderr == "scraperd: standard output can't be written: Bad file descriptor\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("batch - <&-", "-: can't be read: standard input is closed"),
        ("publish - <&-", "-: can't be read: standard input is closed"),
        ("scrape - <&-", "-: can't be read: standard input is closed"),
        ("dead purge --all <&-", "nobody can be asked here: give --yes to remove dead letters"),
        ("batch /no/such/file", "/no/such/file: can't be read: No such file or directory"),
        ("batch /proc", "/proc: can't be read: Is a directory"),
    ],
)
def test_an_input_that_is_not_there_is_wrong_usage(command: str, said: str) -> None:
    """A closed standard input, or a file that cannot be read, is a line and 2."""
    done = in_shell(command)
    assert (done.returncode, done.stderr) == (2, f"scraperd: {said}\n")


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_batch_does_not_mix_its_notes_with_results(tmp_path: Path, where: str) -> None:
    """Without a standard error the notes are lost: standard output has results only."""
    jobs = tmp_path / "jobs"
    jobs.write_text("http://127.0.0.1:1/\nnonsense\n")
    done = in_shell(f"batch {jobs} {where}")
    assert done.returncode == 1
    assert [line[0] for line in done.stdout.splitlines()] == ["{", "{"]


BEFORE_THE_LOOP = """
import os, signal, sys
import scraperd.__main__
os.kill(os.getpid(), signal.SIGINT)
"""


def test_ctrl_c_while_modules_are_imported_is_quiet() -> None:
    """From the command's first module on, Ctrl-C ends it with 130 and without a traceback."""
    done = subprocess.run([sys.executable, "-c", BEFORE_THE_LOOP], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_waits_for_its_reader(number: signal.Signals) -> None:
    """Standard output is a pipe that is full: one signal ends the command all the same."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filled = os.write(writing, bytes(1 << 20))
    os.set_blocking(writing, True)
    argv = [sys.executable, "-m", "scraperd", "scrape", "http://127.0.0.1:1/"]
    child = spawn(argv, env=environment({}), stdout=writing, stderr=subprocess.DEVNULL)
    try:
        now = Path(f"/proc/{child.pid}/syscall")
        while not now.read_text().startswith(WRITES_TO_STDOUT):
            assert child.poll() is None
        child.send_signal(number)
        assert child.wait(20) == 128 + number
    finally:
        end(child, 1)
        os.close(writing)
    assert len(os.read(reading, 1 << 20)) == filled
    os.close(reading)
