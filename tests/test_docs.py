"""The documents keep to the code: names, numbers and tables are compared, not trusted.

May touch: the documents and the code, to read.
Must never: run a server.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from scraperd.broker.topology import DELAYS, Topology
from scraperd.cli import main
from scraperd.config import Config, example
from scraperd.contract import Include, Job, Kind, Link, Metadata, Method, Result, Timings
from scraperd.page.extract import MAX_DEPTH, MAX_RULES, MAX_SELECTOR

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text()
CONTRACT = (CHECKOUT / "docs/contract.md").read_text()
OPERATIONS = (CHECKOUT / "docs/operations.md").read_text()
ARCHITECTURE = (CHECKOUT / "docs/architecture.md").read_text()
SOURCES = {path: path.read_text() for path in (CHECKOUT / "scraperd").rglob("*.py")}
ALL_CODE = "\n".join(SOURCES.values())
DOCUMENTS = [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(text: str) -> set[str]:
    """The names in backticks in the first column of the tables of `text`."""
    cells = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_job_field_is_documented() -> None:
    """The contract's table of a job has exactly the fields of the code."""
    assert first_cells(section(CONTRACT, "A job")) == set(Job.__struct_fields__)


def test_every_result_field_is_documented() -> None:
    """The contract's table of a result has exactly the fields of the code, and nested ones too."""
    text = section(CONTRACT, "A result")
    assert first_cells(text) == set(Result.__struct_fields__)
    nested = {*Link.__struct_fields__, *Metadata.__struct_fields__, *Timings.__struct_fields__}
    assert nested <= set(re.findall(r"[a-z_]+", text))


def test_every_failure_kind_is_documented() -> None:
    """Each kind has its row, and there is no row for a kind that is none."""
    assert first_cells(section(CONTRACT, "Failure kinds")) == set(get_args(Kind))


def test_choices_are_documented() -> None:
    """The methods, the includes and the bounds of the rules are the code's."""
    assert " ".join(get_args(Method)) in CONTRACT
    assert " ".join(f"`{name}`" for name in get_args(Include)) in CONTRACT
    bounds = (
        f"At most {MAX_RULES} rules, nested {MAX_DEPTH} deep, selectors of {MAX_SELECTOR:,} "
        "characters"
    )
    assert bounds in CONTRACT


def test_every_queue_is_documented() -> None:
    """The operations page names each queue with its arguments, and the whole ladder."""
    for queue in Topology("scraperd", 5).queues:
        if ".delay." not in queue.name:
            [row] = re.findall(rf"^\| `{queue.name}` \| queue.*$", OPERATIONS, re.MULTILINE)
            for argument in queue.arguments:
                if argument not in ("x-queue-type", "x-dead-letter-routing-key"):
                    assert argument in row
    assert f"for N = {' '.join(map(str, DELAYS))} " in OPERATIONS


def test_every_event_is_documented() -> None:
    """What the code may log is what the operations page explains."""
    said = set(
        re.findall(r'(?:event|_events|trouble|_write)[(,](?:"info", )?\s*"([a-z_]+)"', ALL_CODE)
    )
    said -= {"error", "info"}  # levels
    assert first_cells(section(OPERATIONS, "What the log says, and what to do")) == said


def test_settings_named_in_the_documents_exist() -> None:
    """A word in backticks that looks like a setting is one, or is known to be something else."""
    settings = set(Config.__struct_fields__)
    for variable in re.findall(r"SCRAPERD_([A-Z_]+)", README + OPERATIONS):
        assert variable.lower() in settings | {"config", "service_host"}  # the last is no setting
    for name in settings:
        assert f"\n{name} = " in example()


def test_commands_named_in_the_readme_exist() -> None:
    """Every `make` target and `scraperd` command of the README is there, and none is left out."""
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in re.findall(r"^    make ([a-z]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    commands = set(re.findall(r"^\| `scraperd ([a-z]+)", README, re.MULTILINE))
    assert commands == set(main.commands)


def test_files_named_in_the_architecture_exist() -> None:
    """The table of where things are lists every module, and only those."""
    listed = first_cells(section(ARCHITECTURE, "Where things are"))
    package = CHECKOUT / "scraperd"
    modules = {str(path.relative_to(package)) for path in SOURCES if not path.stem.startswith("__")}
    assert listed == modules


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """A relative link in a document names a file that is there."""
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_no_file_names_a_package_registry() -> None:
    """The pins install from whatever registry the machine is set up for."""
    hosts = re.compile("|".join(["pypi" + r"\.org", "python" + "hosted", "npmjs" + r"\.org"]))
    for path in [*CHECKOUT.glob("requirements/*"), *CHECKOUT.glob("*.toml"), *DOCUMENTS]:
        assert not hosts.search(path.read_text()), path
