"""Without --config a command reads the machine's file, /etc/scraperd/config.toml, if it exists.

May touch: a mount namespace of its own with a copy of /etc, the `scraperd` command in it.
Must never: write into the machine's own /etc.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from scraperd.cli.main import main
from tests.rig.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., subprocess.CompletedProcess[str]]

FILE = "/etc/scraperd/config.toml"
# A copy of what can be read of /etc becomes /etc; then what the test wants; then the command,
# without root's right to read everything.
INSIDE = """
cp -r /etc "$1/etc" 2>/dev/null
rm -rf "$1/etc/scraperd"
mount --bind "$1/etc" /etc || exit 99
mkdir /etc/scraperd
eval "$2"
shift 2
exec setpriv --bounding-set=-dac_override,-dac_read_search "$@"
"""
COMMANDS = [
    "run",
    "serve",
    "check",
    "health",
    "scrape http://x/",
    "publish http://x/",
    "batch -",
    "results",
    "status",
    "batches",
    "top",
    "host example.com",
    "cancel id=a",
    "pause id=a",
    "resume id=a",
    "limit host=a.example delay=1",
    "rules",
    "dead list",
    "dead show --all",
    "dead requeue --all",
    "dead purge --all --yes",
    "callbacks list",
    "callbacks replay --all",
    "callbacks purge --all --yes",
]
GROUPS = ("dead", "callbacks")


@pytest.fixture
def scraperd(tmp_path: Path) -> Command:
    """Run a command in an empty folder, where a line of shell has prepared /etc/scraperd."""
    (tmp_path / "here").mkdir()

    def run(prepare: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        others = {k: v for k, v in os.environ.items() if not k.startswith("SCRAPERD_")}
        user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        enter = ["unshare", *user, "--mount", "bash", "-c", INSIDE, "bash", str(tmp_path), prepare]
        done = subprocess.run(
            [*enter, sys.executable, "-m", "scraperd", *args],
            env={**others, **env},
            cwd=tmp_path / "here",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 99, done.stderr
        return done

    return run


def write(text: str) -> str:
    """The line of shell that writes this text into the machine's file."""
    return f"printf '%s\\n' '{text}' > {FILE}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reads_it(scraperd: Command, command: str) -> None:
    """A mistake in the file ends each command that needs a configuration, and is named."""
    done = scraperd(write("concurency = 5"), *command.split())
    assert done.returncode == 78
    said = f"scraperd: {FILE}: unknown setting 'concurency'; did you mean 'concurrency'?\n"
    assert done.stderr == said


def test_those_are_all_commands_with_a_configuration() -> None:
    """The list above leaves none out: the rest has no --config."""
    found = set()
    groups = {f"{name} ": main.commands[name].loaded() for name in GROUPS}
    for prefix, group in {"": main, **groups}.items():
        assert isinstance(group, click.Group)
        for name, listed in group.commands.items():
            options = {option for one in listed.loaded().params for option in one.opts}
            if "--config" in options:
                found.add(prefix + name)
    assert found == {" ".join(c.split()[: 1 + c.startswith(GROUPS)]) for c in COMMANDS}


def test_variables_win_over_it(scraperd: Command) -> None:
    """It is a file as any other: one setting of it, another of the environment."""
    port = free_port()
    broker = f"amqp://127.0.0.1:{port}/"
    text = 'broker_url = "amqp://elsewhere.example/"\nbroker.allow_reply_to = ["a"]'
    done = scraperd(write(text), "check", SCRAPERD_BROKER_URL=broker)
    assert f"configuration: good ({FILE})\n" in done.stdout
    assert f"no broker at amqp://127.0.0.1:{port}" in done.stderr
    assert "elsewhere" not in done.stderr


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_file_that_is_named_is_read_instead(scraperd: Command, tmp_path: Path, by: str) -> None:
    """The machine's file has a mistake, and nobody minds: the option and the variable win."""
    named = tmp_path / "here" / "own.toml"
    named.write_text(f'broker_url = "amqp://127.0.0.1:{free_port()}/"\n')
    args = ("--config", "own.toml") if by == "option" else ()
    env = {"SCRAPERD_CONFIG": "own.toml"} if by == "variable" else {}
    done = scraperd(write("concurency = 5"), "check", *args, **env)
    assert "configuration: good (own.toml)\n" in done.stdout
    assert done.returncode == 1


def test_dev_null_means_no_file(scraperd: Command) -> None:
    """Who wants the defaults on a machine that has a file can say so."""
    broker = f"amqp://127.0.0.1:{free_port()}/"
    env = {"SCRAPERD_BROKER_URL": broker}
    done = scraperd(write("concurency = 5"), "check", "--config", "/dev/null", **env)
    assert "configuration: good (/dev/null)\n" in done.stdout


@pytest.mark.parametrize("prepare", ["", "rmdir /etc/scraperd"], ids=["empty folder", "no folder"])
def test_without_it_there_are_the_defaults(scraperd: Command, prepare: str) -> None:
    """As before on a machine without the file."""
    broker = f"amqp://127.0.0.1:{free_port()}/"
    done = scraperd(prepare or "true", "check", SCRAPERD_BROKER_URL=broker)
    assert "configuration: good (defaults and environment)\n" in done.stdout
    assert "no broker at" in done.stderr


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (f"touch {FILE}; chmod 0 {FILE}", "Permission denied"),
        (f"touch {FILE}; chmod 0 /etc/scraperd", "Permission denied"),
        (f"ln -s nowhere {FILE}", "No such file or directory"),
        (f"mkdir {FILE}", "Is a directory"),
    ],
    ids=["file", "folder", "link", "is a folder"],
)
def test_one_that_can_t_be_read_is_not_passed_over(
    scraperd: Command, prepare: str, why: str
) -> None:
    """Without a word a command would ask another broker than the daemon beside it."""
    done = scraperd(prepare, "check")
    assert done.returncode == 78
    assert done.stderr == f"scraperd: {FILE}: can't be read: {why}\n"


FOLDER = "/etc/scraperd/credentials"


@pytest.mark.parametrize("command", ["check", "check --config /etc/scraperd/config.toml"])
def test_the_credentials_beside_it_are_read(scraperd: Command, command: str) -> None:
    """A command that root starts asks the daemon's broker, whose URL systemd has from there."""
    url = f"amqp://user:hunter2@127.0.0.1:{free_port()}/"
    prepare = f"mkdir {FOLDER}; touch {FILE}; printf '%s\\n' '{url}' > {FOLDER}/broker-url"
    done = scraperd(prepare, *command.split())
    assert done.returncode == 1
    assert f"no broker at {url.replace('user:hunter2@', '')}" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_with_another_file_they_are_not_read(scraperd: Command) -> None:
    """Who names a file of his own does not get the broker of this machine's daemon."""
    prepare = f"mkdir {FOLDER}; touch {FILE}; echo not-a-url > {FOLDER}/broker-url"
    broker = f"amqp://127.0.0.1:{free_port()}/"
    done = scraperd(prepare, "check", "--config", "/dev/null", SCRAPERD_BROKER_URL=broker)
    assert f"no broker at {broker}" in done.stderr
    assert (
        scraperd("rm -r /etc/scraperd; " + "mkdir /etc/scraperd; " + prepare, "check").returncode
        == 78
    )


def test_credentials_that_may_not_be_read_are_not_passed_over(scraperd: Command) -> None:
    """Without a word a command would ask another broker than the daemon beside it."""
    done = scraperd(f"mkdir -m 0 {FOLDER}; touch {FILE}", "check")
    assert done.returncode == 78
    assert f"{FOLDER}/broker-url: Permission denied" in done.stderr


def test_check_without_the_broker(scraperd: Command) -> None:
    """--no-broker looks at the configuration and the machine, and dials nobody."""
    prepare = write(f'broker_url = "amqp://127.0.0.1:{free_port()}/"')
    done = scraperd(prepare, "check", "--no-broker")
    assert (done.returncode, done.stderr) == (0, "")
    done = scraperd(write("broker_url = 'amqp://x/?heartbeet=1'"), "check", "--no-broker")
    assert done.returncode == 78
