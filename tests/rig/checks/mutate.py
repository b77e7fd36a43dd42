"""`make mutate ROOM=...`: change the code of a room one place at a time; a test must notice each.

May touch: `.cache/mutate/`, where mutmut works on copies.
Must never: change a file of the checkout, or count a mutant as killed that no test ran into.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.rig.checks.quick import BROKER

if TYPE_CHECKING:
    from collections.abc import Sequence

CHECKOUT: Final = Path(__file__).resolve().parents[3]
WORK: Final = CHECKOUT / ".cache" / "mutate"
COPIED: Final = ("scraperd", "tests", "docs", "examples", "config.example.toml", "README.md")
MUTMUT: Final = Path(sys.executable).with_name("mutmut")
KILLED: Final = {"killed", "segfault"}  # a timeout may be the machine's: it is shown, to be judged


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a broker; called in pytest, where this file is a plugin."""
    left_out = [item for item in items if BROKER in getattr(item, "fixturenames", ())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def main() -> int:
    """Mutate, print what survived, and write its diffs down; 1 if a mutant survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig.checks.mutate", description=__doc__)
    parser.add_argument("room", type=Path, help="a file or a folder of scraperd/")
    parser.add_argument("--tests", nargs="*", help="default: the tests of the room")
    parser.add_argument("--only", nargs="*", default=[], help="patterns of mutants' names")
    options = parser.parse_args()
    room = options.room.resolve().relative_to(CHECKOUT)
    folder = WORK / "-".join(room.with_suffix("").parts[1:])
    lay_out(folder, room, options.tests or [f"tests/{room.parts[1]}"])
    if subprocess.run([MUTMUT, "run", *options.only], cwd=folder, check=False).returncode:
        return 70
    return report(folder, room)


def lay_out(folder: Path, room: Path, tests: Sequence[str]) -> None:
    """Make a folder in which mutmut finds the code, the tests and its settings."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "mutants").mkdir(parents=True)
    (folder / "mutants" / ".cache").symlink_to(CHECKOUT / ".cache")  # downloads of the rig
    for name in COPIED:
        (folder / name).symlink_to(CHECKOUT / name)
    settings = {
        "source_paths": ["scraperd"],
        "only_mutate": [str(room) if room.suffix else f"{room}/*"],
        "also_copy": [*COPIED[2:]],
        "pytest_add_cli_args": ["-p", __spec__.name, "-p", "no:cacheprovider", "-W", "ignore"],
        "pytest_add_cli_args_test_selection": [*tests],
        "process_isolation": "forkserver",  # a run leaves caches behind that change the next one
        "timeout_constant": 5.0,  # seconds, of which it takes 15 times as many
        "track_dependencies": False,
        "use_git_change_detection": False,
    }
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    own = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(f"{own}\n[tool.mutmut]\n{lines}", encoding="utf-8")


def report(folder: Path, room: Path) -> int:
    """Print how many mutants the tests killed, and each that survived with its diff."""
    listed = mutmut(folder, "results", "--all", "true").splitlines()
    status = dict(line.strip().split(": ") for line in listed if ": " in line)
    left = [name for name, what in status.items() if what not in {*KILLED, "not checked"}]
    survivors = folder.with_suffix(".diff")
    survivors.write_text("\n".join(mutmut(folder, "show", name) for name in left), encoding="utf-8")
    print(survivors.read_text(encoding="utf-8"))
    tried = Counter(status.values())
    del tried["not checked"]  # those that --only left out
    share = 100 * (1 - len(left) / max(tried.total(), 1))
    print(f"{room}: {tried.total()} mutants, {share:.1f} % killed; {dict(tried)}")
    print(f"survivors: {survivors.relative_to(CHECKOUT)}")
    return 1 if left else 0


def mutmut(folder: Path, *argv: str) -> str:
    """What a command of mutmut prints."""
    done = subprocess.run(
        [MUTMUT, *argv], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
