"""`scraperd top` in a real pseudo terminal: what it draws, its keys, and how it leaves.

May touch: the private broker, real daemons, pseudo terminals.
Must never: look at the command from inside.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.rig.daemon import Daemon
from tests.rig.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Command
    from tests.rig.daemon import Dispatcher

TOP = [sys.executable, "-m", "scraperd", "top"]
LEFT = "\x1b[?25h\x1b[?1049l"  # the cursor and the first screen are back


def has(*texts: str) -> Callable[[list[str]], bool]:
    """Whether a frame has all of these."""
    return lambda frame: all(any(text in line for line in frame) for text in texts)


def test_top_shows_sorts_filters_pauses_and_quits(
    broker_url: str, env: dict[str, str], dispatcher: Dispatcher
) -> None:
    """In 80 columns and 24 lines; the terminal is as it was before."""
    prefix = dispatcher.prefix
    with (
        Daemon(broker_url, prefix, jobs__worker_name="first").ready(),
        Daemon(broker_url, prefix, jobs__worker_name="second").ready(),
        Terminal(TOP, env) as terminal,
    ):
        terminal.until(has("2 processes answer, 0 silent", "first (", "second ("))
        assert terminal.mode != terminal.before
        terminal.type("s")
        terminal.until(has("sort: in flight"))
        terminal.type("/seco")
        terminal.until(has("filter: seco_"))
        terminal.type("\r")
        frame = terminal.until(has("filter: seco", "second ("))
        assert not any(line.startswith("first") for line in frame)
        terminal.type("p")
        terminal.until(has("PAUSED"))
        terminal.type("q")
        assert terminal.wait() == 0
        assert all(len(frame) <= 24 for frame in terminal.frames)
        drawn = [line for frame in terminal.frames for line in frame]
        assert max(map(len, drawn)) <= 80
        assert terminal.text.endswith(LEFT)
        assert terminal.mode == terminal.before


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("\x03", 0),
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 0),
    ],
    ids=["ctrl-c", "int", "term", "hup"],
)
def test_any_end_restores_the_terminal(
    env: dict[str, str], end: str | signal.Signals, code: int
) -> None:
    """A key or a signal; also where no daemon answers."""
    with Terminal(TOP, env) as terminal:
        terminal.until(has("0 processes answer"))
        if isinstance(end, str):
            terminal.type(end)
        else:
            terminal.send(end)
        assert terminal.wait() == code
        assert terminal.text.endswith(LEFT)
        assert terminal.mode == terminal.before


def test_top_waits_for_a_broker_and_needs_a_terminal(
    scraperd: Command, env: dict[str, str]
) -> None:
    """Without a broker it says so and tries again; in a pipe it names the other command."""
    away = env | {"SCRAPERD_BROKER_URL": "amqp://127.0.0.1:1/"}
    with Terminal(TOP, away, columns=40, lines=5) as terminal:
        terminal.until(has("no answer: no broker at"))
        terminal.type("q")
        assert terminal.wait() == 0
    done = scraperd("top", **env)
    assert (done.returncode, "scraperd status" in done.stderr) == (2, True)
