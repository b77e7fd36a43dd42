"""Tests of the wheel: what is built is installed into an empty environment, and works there.

May touch: hatchling, pip without an index, environments in a temporary folder.
Must never: find the checkout's own code where the wheel's should be.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest

from scraperd.extract.compiled import engine
from tests.rig.checks.house import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

PACKED = ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py", "scraperd", "requirements")
PROGRAM = """
import sys
from scraperd.extract.apply import Allowance, extract
from scraperd.extract.compiled import engine
assert engine.__file__.startswith(sys.prefix), engine.__file__
found = extract(b"<title>t</title><a href=x>y</a>", "http://h/", rules=None, links=True,
    metadata=True, allowance=Allowance(9, 99, bounded=engine.AVAILABLE))
print(engine.AVAILABLE, found.links[0].url, found.metadata.title)
"""


def wheel_of(checkout: Path, out: Path) -> Path:
    """The wheel that hatchling builds of a checkout."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel


def said_after_installing(wheel: Path, folder: Path) -> list[str]:
    """What the program says in a new environment: with the wheel, and the libraries of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True)
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (site / "libraries.pth").write_text(sysconfig.get_path("platlib"), encoding="utf-8")
    done = subprocess.run(
        [python, "-I", "-c", PROGRAM], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.split()


@pytest.mark.skipif(not engine.AVAILABLE, reason="the compiled tree is not built here")
def test_a_wheel_brings_the_compiled_tree_along(tmp_path: Path) -> None:
    """The wheel is for this Python and platform, has lexbor's licence, and its tree is in use."""
    wheel = wheel_of(CHECKOUT, tmp_path / "dist")
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{tag}-{tag}-linux_" in wheel.name
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "scraperd/extract/compiled/LICENSE.lexbor" in listed.stdout
    assert said_after_installing(wheel, tmp_path / "venv") == ["True", "http://h/x", "t"]


def test_a_wheel_without_it_is_for_any_python(tmp_path: Path) -> None:
    """Where nothing was compiled, the wheel is pure Python, and gives the same."""
    source = tmp_path / "checkout"
    source.mkdir()
    for name in PACKED:
        if (CHECKOUT / name).is_dir():
            ignored = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(CHECKOUT / name, source / name, ignore=ignored)
        else:
            shutil.copyfile(CHECKOUT / name, source / name)
    wheel = wheel_of(source, tmp_path / "dist")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert said_after_installing(wheel, tmp_path / "venv") == ["False", "http://h/x", "t"]


def test_without_a_compiler_setup_says_so_and_goes_on(tmp_path: Path) -> None:
    """`make setup` needs no compiler: it says in one line what is missing, and that it may be."""
    environment = {**os.environ, "CC": str(tmp_path / "cc")}
    done = subprocess.run(
        [sys.executable, "hatch_build.py"],
        cwd=CHECKOUT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == (
        "setup: the compiled extraction is not built, and is not needed: "
        f"there is no C compiler ({tmp_path / 'cc'})\n"
    )
