"""Command lines at random: options, inputs, streams, signals. Each ends in words and with a code.

May touch: the `scraperd` command as a subprocess, a port of its own that answers nothing.
Must never: need luck to be repeated: FUZZ_SEED and FUZZ_SECONDS choose the cases.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.rig.daemon import LOOPBACK, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEED: Final = int(os.environ.get("FUZZ_SEED", "14"))
SECONDS: Final = float(os.environ.get("FUZZ_SECONDS", "20"))
AT_ONCE: Final = 3
MAX_LIFE: Final = 2.0  # seconds; then whatever still runs gets SIGTERM
MAX_END: Final = 45  # seconds that the end may take, on a busy machine

# The codes of docs/operations/run.md, but for 70: that is an error of ours. A signal that comes
# before there is an event loop ends the process itself.
CODES: Final = {0, 1, 2, 71, 78, 130, 143, -signal.SIGTERM}
NEVER: Final = ("Traceback", "Exception ignored", "never awaited", "was destroyed", "Fatal Python")
# Ctrl-C before Python has come to our first module is Python's to report, so that is told.
START: Final = """
import os, sys, scraperd.__main__ as main
os.write(int(sys.argv.pop(1)), b".")
main.main()
"""

_NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1",
    "1e400",
    "1e-320",
    "7.5",
    "",
    "x",
    "\u0661",
    "9" * 30,
]
_TEXTS = [
    *("", "-", "--", "h1", "{}", "[]", "nonsense", "\ud800".encode("utf-8", "surrogatepass")),
    *(b"\xff\xfe", "\u2028", "a\nb", "\x1b[2J", '{"t":"h1"}', '{"t":{"limit":NaN}}', "[" * 5000),
    *("x" * 3000, "/dev/null", "/no/such/file", "/proc", "/dev/full"),
]
_JOBS = [
    *(
        b"",
        b"\n",
        b"http://127.0.0.1:1/\n",
        b"\xef\xbb\xbfhttp://127.0.0.1:1/\n",
        b"\xff\xfeh\0t\0",
    ),
    *(
        b"http://127.0.0.1:1/\xe4\n",
        b'{"url":"http://127.0.0.1:1/","meta":"\xe2\x80\xa8\xc2\x85"}\n',
    ),
    *(b"\0" * 50, b"# nothing\r\n\r\n", b'{"url":' * 3000, b"nonsense\n" * 20, b"\xef\xbb\xbf"),
]
_STREAMS = {
    0: ["", "", "", "<&-", "0</dev/null", "0>/dev/null"],
    1: ["", "", "", ">&-", ">/dev/full", "1</dev/null", "| true"],
    2: ["", "", "", "2>&-", "2>/dev/full", "2</dev/null"],
}
_ENVIRONMENTS: list[dict[str, str]] = [
    *({}, {}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}),
]
_SIGNALS = [signal.SIGINT, signal.SIGINT, signal.SIGTERM]


@dataclass(frozen=True, slots=True)
class Case:
    """One command line with what comes on standard input, how streams are, and the signals."""

    argv: list[str | bytes]
    stdin: bytes
    streams: list[str]
    env: dict[str, str]
    signals: list[tuple[float, signal.Signals]] = field(default_factory=list)


def cases(seed: int, port: int, folder: Path) -> Iterator[Case]:
    """Cases without end."""
    draw = random.Random(seed)
    while True:
        argv = _argv(draw, port, folder)
        signals = [
            (draw.uniform(0, MAX_LIFE), draw.choice(_SIGNALS))
            for _ in range(draw.choice([0, 0, 1, 1, 2]))
        ]
        yield Case(
            argv,
            draw.choice(_JOBS),
            [draw.choice(some) for some in _STREAMS.values()],
            {
                "SCRAPERD_BROKER_URL": f"amqp://127.0.0.1:{draw.choice([1, port])}/",
                **draw.choice(_ENVIRONMENTS),
            },
            sorted(signals),
        )


def _argv(draw: random.Random, port: int, folder: Path) -> list[str | bytes]:
    """A command with options of its own or of others, and sources."""
    number, text = lambda: draw.choice(_NUMBERS), lambda: draw.choice(_TEXTS)
    site = f"http://127.0.0.1:{draw.choice([1, port])}/"
    jobs = folder / f"jobs{draw.getrandbits(32)}"
    jobs.write_bytes(draw.choice(_JOBS))
    commands: list[list[str | bytes]] = [
        ["run"],
        ["check"],
        ["schema", draw.choice(["job", "example", "x"])],
        ["scrape", draw.choice([site, "-", text()]), "--extract", text()],
        ["scrape", "-", "--extract-file", text(), "--base", text(), "--media", text()],
        ["scrape", site, "-H", text(), "--include", draw.choice(["links", "x"])],
        ["batch", draw.choice(["-", str(jobs), text()]), "--resume", text()],
        ["batch", draw.choice(["-", str(jobs)])],
        ["publish", draw.choice(["-", str(jobs), site]), "--wait", "--wait-timeout", number()],
        ["publish", draw.choice(["-", str(jobs), site]), "--extract", text()],
        ["publish", site, "--json", text(), "--timeout", number(), "--form", text()],
        [
            "results",
            "--count",
            number(),
            "--idle",
            number(),
            *draw.choice([[], ["--consume"], ["--key", "x"]]),
        ],
        ["dead", "list", "--limit", number(), "--older-than", draw.choice(["7d", text()])],
        ["dead", "show", text()],
        ["dead", "requeue", "--all", "--rate", number()],
        ["dead", "purge", "--all", *draw.choice([["--yes"], []]), "--save", text()],
        [draw.choice(["", "--help", "--version", "nothing"])],
    ]
    argv = draw.choice(commands)
    if draw.random() < 0.1:
        argv = [*argv, "--config", text()]
    return [part for part in argv if b"\0" not in os.fsencode(part)]


def ended(case: Case) -> tuple[int, str]:
    """Run a case to its end; the exit code, and all that it printed."""
    told, tells = os.pipe()
    source, given = os.pipe()
    os.write(given, case.stdin)  # less than a pipe holds
    os.close(given)
    script = f'"$@" {case.streams[0]} {case.streams[2]} {case.streams[1]}'
    piped = "|" in case.streams[1]
    script = f"set -o pipefail; {script}" if piped else f"exec {script}"
    python = [sys.executable, "-c", START, str(tells)]
    with subprocess.Popen(
        ["bash", "-c", script, "bash", *python, *case.argv],
        env={**environment(LOOPBACK), **case.env},
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[tells],
        start_new_session=True,
    ) as child:
        os.close(tells)
        os.close(source)
        os.read(told, 1)  # the command's first module is imported, or bash has ended
        os.close(told)
        began = time.monotonic()
        for at, number in [*case.signals, (MAX_LIFE, signal.SIGTERM)]:
            with suppress(subprocess.TimeoutExpired):
                child.communicate(timeout=max(0.0, began + at - time.monotonic()))
            if child.returncode is not None:
                break
            _send(child, number, group=piped)
        output, _ = child.communicate(timeout=MAX_END)
    return child.returncode, output.decode(errors="replace")


def _send(child: subprocess.Popen[bytes], number: signal.Signals, *, group: bool) -> None:
    """To the command; with a reader behind it both get the signal, as from a terminal."""
    if group:
        os.killpg(child.pid, number)
    else:
        child.send_signal(number)


def test_no_command_line_ends_without_words_and_a_code(tmp_path: Path) -> None:
    """Some seconds of random cases, the same ones each time: each ends soon, without a traceback,
    and with a code that the documents name, and none is an internal error.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(AT_ONCE) as pool:
        some = cases(SEED, silent.getsockname()[1], tmp_path)
        until = time.monotonic() + SECONDS
        tried = 0
        while time.monotonic() < until:
            batch = [next(some) for _ in range(AT_ONCE)]
            for case, (code, said) in zip(batch, pool.map(ended, batch), strict=True):
                tried += 1
                words = [word for word in NEVER if word in said]
                assert code in CODES, f"{case}\n{code}\n{said[-3000:]}"
                assert not words, f"{case}\n{code}\n{said[-3000:]}"
    assert tried >= AT_ONCE
