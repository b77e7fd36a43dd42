"""The completion that `scraperd completion` prints, in the shells that are there.

May touch: bash, and zsh and fish if they are installed; the command.
Must never: write into a user's own files.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scraperd.cli.main import main

if TYPE_CHECKING:
    from tests.conftest import Command

ASK = """source /dev/stdin <<< "$1"; COMP_WORDS=($2); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
[[ "$2" == *" " ]] && COMP_WORDS+=("") && COMP_CWORD=$(( COMP_CWORD + 1 ))
_scraperd_completion scraperd; printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_bash_completes_commands_options_and_choices(scraperd: Command) -> None:
    """All commands by their first letters, the options of one, those of a group, and choices."""
    script = scraperd("completion", "bash").stdout
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def complete(line: str) -> set[str]:
        done = subprocess.run(
            ["bash", "-c", ASK, "bash", script, line],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return set(done.stdout.split())

    assert complete("scraperd ") == set(main.commands)
    assert complete("scraperd sta") == {"status"}
    assert {"--json", "--capacity"} <= complete("scraperd status --")
    assert {"list", "show", "requeue", "purge"} == complete("scraperd dead ")
    assert complete("scraperd schema j") == {"job"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_asks_the_command(scraperd: Command, shell: str) -> None:
    """The script names the variable by which the command is asked."""
    done = scraperd("completion", shell)
    assert done.returncode == 0
    assert f"_SCRAPERD_COMPLETE={shell}_complete" in done.stdout
