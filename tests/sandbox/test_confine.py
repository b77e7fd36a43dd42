"""What a confined process can still do, and what it can't, tried by real system calls.

May touch: child processes that confine themselves, files in a folder of the test's own.
Must never: confine the process that runs the tests.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from scraperd.sandbox.confine import lacking

if TYPE_CHECKING:
    from pathlib import Path

# Everything that a parser taken over by a page would try; each prints why it failed.
TRIES = """
import ctypes, json, os, resource, signal, socket, sys, time
from scraperd.sandbox.confine import confine
secret, out, victim = sys.argv[1], sys.argv[2], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(*given):
    result = libc.syscall(*given)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def at_once(path, flags):
    os.close(os.open(path, flags, 0o600))
tries = {
    "read a secret": lambda: at_once(secret, os.O_RDONLY),
    "list a folder": lambda: os.listdir(os.path.dirname(secret)),
    "read the parent's memory": lambda: at_once(f"/proc/{os.getppid()}/mem", os.O_RDONLY),
    "read its own environment": lambda: at_once("/proc/self/environ", os.O_RDONLY),
    "write a file": lambda: at_once(out, os.O_WRONLY | os.O_CREAT),
    "cut a file": lambda: at_once(secret, os.O_RDONLY | os.O_TRUNC),
    "change a mode": lambda: os.chmod(secret, 0o777),
    "remove": lambda: os.unlink(secret),
    "rename": lambda: os.rename(secret, out),
    "link": lambda: os.link(secret, out),
    "open a socket": lambda: socket.socket(),
    "open a local socket": lambda: socket.socket(socket.AF_UNIX),
    "make a pair": lambda: socket.socketpair(),
    "fork": lambda: os._exit(0) if os.fork() == 0 else None,
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "signal another": lambda: os.kill(victim, signal.SIGKILL),
    "signal another's thread": lambda: signal.pthread_kill(victim, 9) if 0 else call(
        {"x86_64": 234, "aarch64": 131}[os.uname().machine], victim, victim, 9),
    "trace": lambda: call({"x86_64": 101, "aarch64": 117}[os.uname().machine], 16, victim, 0, 0),
    "limit another": lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (0, 0)),
    "map for others": lambda: os.memfd_create("x"),
    "type for the user": lambda: __import__("fcntl").ioctl(0, 0x5412, b"x"),
    "raise its limit": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1)),
    "be dumped": lambda: call({"x86_64": 157, "aarch64": 167}[os.uname().machine], 4, 1, 0, 0, 0),
}
import fcntl
confine()
found = {}
for name, attempt in tries.items():
    try:
        attempt()
        found[name] = "done"
    except (OSError, PermissionError, ValueError) as error:
        found[name] = type(error).__name__
import sqlite3, decimal, wave, encodings.shift_jis  # read late, with libraries of their own
sane = ["\\u3042".encode("shift_jis").decode("shift_jis"), time.time() > 0, os.urandom(1) != b"",
        len(bytearray(50_000_000)), open(json.__file__).read(5)]
print(json.dumps([found, sane]))
"""


def test_what_is_left_to_a_confined_process(tmp_path: Path) -> None:
    """It reads code, imports, computes and answers. It reaches no file, socket, program or process
    beside that; not even as root.
    """
    assert lacking() == []  # or this machine can't tell
    secret, out = tmp_path / "secret", tmp_path / "out"
    secret.write_text("password")
    with subprocess.Popen(["sleep", "60"]) as victim:
        done = subprocess.run(
            [sys.executable, "-c", TRIES, secret, out, str(victim.pid)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        alive = victim.poll() is None
        victim.kill()
    assert done.returncode == 0, done.stderr
    found, sane = json.loads(done.stdout)
    assert [name for name, how in found.items() if how == "done"] == []
    assert sane == ["あ", True, True, 50_000_000, 'r"""J']
    assert alive
    assert secret.read_text() == "password"
    assert not out.exists()


DIES = """
import os, sys, time
from scraperd.sandbox.confine import confine
child = os.fork()
if not child:
    confine()
    os.write(1, b"confined")
    while True:
        time.sleep(0.01)
print(child, flush=True)
os.read(0, 1)
os.kill(os.getpid(), 9)
"""


def test_it_ends_with_its_parent() -> None:
    """Also if the parent is killed, and whatever it is at: its output is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", DIES], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        seen = b""
        while b"confined" not in seen or b"\n" not in seen:
            seen += os.read(parent.stdout.fileno(), 100)
        parent.stdin.write(b"x")
        parent.stdin.close()
        assert parent.stdout.read() == b""  # ends only when no process has it open


# As another user than root, to whom the kernel refuses nothing.
SECRETS = """
import ctypes, os
from scraperd.sandbox.confine import keep_secrets
def readable(pid):
    child = os.fork()
    if not child:
        try:
            os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
            os.execv("/bin/true", ["true"])
        except OSError:
            os.execv("/bin/false", ["false"])
    return os.waitpid(child, 0)[1] == 0
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
libc = ctypes.CDLL(None)
libc.prctl(4, 1, 0, 0, 0)
before = readable(os.getpid())
keep_secrets()
print(before, readable(os.getpid()), libc.prctl(3, 0, 0, 0, 0), libc.prctl(39, 0, 0, 0, 0))
print(len(os.listdir("/proc/self/fd")) > 2, int(open("/proc/self/statm").read().split()[1]) > 0)
os.abort()
"""


def test_secrets_stay_in_the_process() -> None:
    """No process of the same user reads its memory, and no core dump is written; it can still look
    at itself.
    """
    done = subprocess.run(
        [sys.executable, "-c", SECRETS],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    first, second = done.stdout.splitlines()
    before, after, dumpable, no_new = first.split()
    assert before == "True"
    assert (after, dumpable, no_new) == ("False", "0", "1")
    assert second == "True True"
    assert done.returncode == -signal.SIGABRT


BLIND = """
from scraperd.sandbox import confine as it
it.confine()
print(it.lacking())
it.confine()
print("goes on")
"""


def test_what_is_lacking_is_named() -> None:
    """On a kernel that refuses, the process goes on as it is, and it can be said what is lacking.

    Refused by a filter that knows neither Landlock nor seccomp: a helper's own.
    """
    done = subprocess.run(
        [sys.executable, "-c", BLIND], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == ["['landlock', 'seccomp']", "goes on"], done.stderr
    assert done.returncode == 0
