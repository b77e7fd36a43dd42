"""A command answers soon: what it does not need is not imported.

May touch: the `scraperd` command as a subprocess.
Must never: compare a time with one that was not taken beside it, on the same machine.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scraperd.cli.callbacks.group import command as callbacks
from scraperd.cli.dead.group import command as dead
from scraperd.cli.main import main

BROKER = {"aio_pika", "aiormq", "pamqp"}
PAGES = {"aiohttp", "lxml", "pycares", "re2", "selectolax"}
HEAVY = BROKER | PAGES | {"asyncio", "msgspec", "rich", "ssl", "structlog", "uvloop", "yarl"}


def imported(*command: str) -> set[str]:
    """The modules that a command imports, as the interpreter itself tells."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "scraperd", *command],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {row.rpartition("|")[2].strip() for row in rows}


@pytest.mark.parametrize(
    ("command", "needless"),
    [
        ("--version", HEAVY),
        ("--help", HEAVY),
        ("dead --help", HEAVY),
        ("schema job", BROKER | PAGES | {"asyncio", "rich", "structlog", "uvloop"}),
        ("schema example", BROKER | PAGES | {"asyncio", "rich", "structlog", "uvloop"}),
        ("scrape --help", BROKER | {"structlog"}),
        ("check --help", PAGES),
        ("results --help", PAGES),
        ("publish --help", {"aiohttp", "pycares"}),
        *((f"dead {name} --help", PAGES) for name in ("list", "show", "requeue", "purge")),
        *((f"callbacks {name} --help", PAGES) for name in ("list", "replay", "purge")),
    ],
)
def test_what_a_command_does_not_need_is_not_imported(command: str, needless: set[str]) -> None:
    """Libraries that take long are imported by the commands that use them, and by no other."""
    found = imported(*command.split())
    assert "scraperd.cli.main" in found
    assert not found & needless


def test_the_names_are_those_of_libraries_that_are_used() -> None:
    """`run` imports each one but those of the commands' client; `publish` imports these."""
    found = imported("run", "--help")
    assert found >= HEAVY - BROKER
    assert not found & BROKER
    assert imported("publish", "--help") >= BROKER


def seconds(*argv: str) -> float:
    """The processor time that a command takes: that of others beside it does not count."""
    child = subprocess.Popen([sys.executable, *argv], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_take_little_more_than_click(option: str) -> None:
    """The command line's library has to be imported; all else may take as long again.

    That was 17 times as long when each command was imported.
    """
    rounds = [(seconds("-m", "scraperd", option), seconds("-c", "import click")) for _ in range(5)]
    ours, click = (min(times) for times in zip(*rounds, strict=True))
    assert ours <= 2 * click


def test_the_groups_know_their_commands() -> None:
    """Each command that a group lists can be imported, has that name, and a help of its own."""
    for group in (main, dead, callbacks):
        for name, listed in group.commands.items():
            command = listed.loaded()
            assert command.name == name == listed.name
            assert command.help


@pytest.mark.parametrize("group", [[], ["dead"]], ids=["scraperd", "dead"])
def test_a_group_lists_each_command_in_a_line(group: list[str]) -> None:
    """On a terminal of 80 columns each line is whole: nothing is cut, nothing is wrapped."""
    done = subprocess.run(
        [sys.executable, "-m", "scraperd", *group, "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    listed = done.stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    commands = (dead if group else main).commands
    assert [line.split()[0] for line in listed] == sorted(commands)
    for line in listed:
        assert line.endswith(f" {commands[line.split()[0]].short_help}")
