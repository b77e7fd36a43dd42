"""Tests of wheel and sdist: what is built is installed into an empty environment, and works.

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


def built(kind: str, checkout: Path, out: Path) -> Path:
    """The wheel or the sdist that hatchling builds of a checkout."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    (found,) = out.iterdir()
    return found


def copy_of_the_checkout(folder: Path) -> Path:
    """What a wheel is built of, and nothing that was compiled."""
    folder.mkdir()
    for name in PACKED:
        if (CHECKOUT / name).is_dir():
            ignored = shutil.ignore_patterns("*.so", "LICENSE.lexbor", "__pycache__")
            shutil.copytree(CHECKOUT / name, folder / name, ignore=ignored)
        else:
            shutil.copyfile(CHECKOUT / name, folder / name)
    return folder


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
    wheel = built("wheel", CHECKOUT, tmp_path / "dist")
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{tag}-{tag}-linux_" in wheel.name
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "scraperd/extract/compiled/LICENSE.lexbor" in listed.stdout
    assert "scraperd/dashboard/page/index.html" in listed.stdout
    assert "scraperd/dashboard/page/uplot/LICENSE" in listed.stdout
    assert said_after_installing(wheel, tmp_path / "venv") == ["True", "http://h/x", "t"]


def test_a_wheel_without_it_is_for_any_python(tmp_path: Path) -> None:
    """Where nothing was compiled, the wheel is pure Python, and gives the same."""
    source = copy_of_the_checkout(tmp_path / "checkout")
    wheel = built("wheel", source, tmp_path / "dist")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert said_after_installing(wheel, tmp_path / "venv") == ["False", "http://h/x", "t"]


def test_a_compiled_tree_without_its_licence_is_left_out(tmp_path: Path) -> None:
    """The wheel is pure Python then; `pip install .` failed."""
    source = copy_of_the_checkout(tmp_path / "checkout")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (source / f"scraperd/extract/compiled/tree{suffix}").touch()
    assert built("wheel", source, tmp_path / "dist").name.endswith("-py3-none-any.whl")


def test_an_sdist_is_built_and_installed(tmp_path: Path) -> None:
    """It has what an operator copies and nothing that was compiled, and a wheel of it works."""
    sdist = built("sdist", CHECKOUT, tmp_path / "dist")
    subprocess.run(["tar", "-xf", str(sdist), "-C", str(tmp_path)], check=True)
    source = tmp_path / sdist.name.removesuffix(".tar.gz")
    for name in ("config.example.toml", "systemd/scraperd.service", "requirements/run.txt"):
        assert (source / name).read_bytes() == (CHECKOUT / name).read_bytes()
    assert not list(source.rglob("*.so"))
    wheel = built("wheel", source, tmp_path / "wheels")
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
