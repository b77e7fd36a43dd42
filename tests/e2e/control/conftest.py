"""What the tests of this folder share: a fleet whose rules are set by the commands.

May touch: the fixtures of all tests, daemons and commands as subprocesses.
Must never: hold a test's logic.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pika
import pytest

from tests.rig.daemon import Daemon, Dispatcher

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Command


@dataclass
class Fleet:
    """The daemons of a prefix, and the commands that steer them."""

    url: str
    prefix: str
    command: Command
    env: dict[str, str]
    key: str
    """The path of a file with a key, for those who are told of it."""

    def daemon(self, **settings: Any) -> Daemon:
        """A daemon whose log has a line for each job that is put off, too."""
        return Daemon(self.url, self.prefix, log__level="debug", **settings)

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return self.command(*words, **{**self.env, **env})

    def set(self, *words: str, processes: int = 1) -> None:
        """Set a rule that is in force in so many processes when the command ends."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        if processes:
            assert done.stderr == f"in force in {processes} processes\n"

    def rules(self) -> dict[str, dict[str, Any]]:
        """The rules in force by what they match."""
        lines = self.run("rules", "--json").stdout.splitlines()
        return {rule["match"]: rule for rule in map(json.loads, lines)}

    def publish(self, job: dict[str, Any] | bytes, queue: str = "jobs") -> None:
        """Publish on a connection of its own: others end with the broker."""
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            Dispatcher(connection.channel(), self.prefix).publish(job, queue=queue)


@pytest.fixture
def fleet(
    broker_url: str, prefix: str, scraperd: Command, env: dict[str, str], tmp_path: Path
) -> Iterator[Fleet]:
    """A fleet without a process and without a rule. Its stream is deleted at the end."""
    key = tmp_path / "key"
    key.write_text("k" * 32)
    yield Fleet(broker_url, prefix, scraperd, env, str(key))
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        connection.channel().queue_delete(f"{prefix}.rules")
