"""Compiles the optional tree of `scraperd/extract/compiled/`, and puts it into a wheel.

May touch: pip, the C compiler, .cache/lexbor/, and that folder's compiled file.
Must never: fail an installation: without a compiler everything works, more slowly.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT: Final = Path(__file__).resolve().parent
FOLDER: Final = ROOT / "scraperd" / "extract" / "compiled"
CACHE: Final = ROOT / ".cache" / "lexbor"
PINNED: Final = ROOT / "requirements" / "lexbor.txt"
LICENSE: Final = "LICENSE.lexbor"
PARTS: Final = ("core", "css", "dom", "html", "ns", "ports/posix", "selectors", "tag")
# A symbol of lexbor must not be taken from selectolax's own copy, or given to it: all are hidden.
# -O3 with -flto makes 12 % less of a page than -O2 (measured: gcc 12, 2026-11-27).
FLAGS: Final = ("-O3", "-flto", "-g0", "-fPIC", "-fvisibility=hidden", "-w", "-DLEXBOR_STATIC")
# tree.pyx counts attributes before this function of lexbor makes one: all but its own file, and
# tree.c, are compiled to call tree.pyx's.
COUNTED: Final = "-Dlxb_html_token_attr_append=tree_token_attr_append"
OWN: Final = ("tree.c", "lexbor/html/token.c")


class Impossible(Exception):  # noqa: N818 - a state of this machine
    """The tree can't be compiled here; the text says why."""


class CustomBuildHook(BuildHookInterface[Any]):
    """Puts the compiled tree into the wheel, if `make setup` or `make wheel` made one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files, and the platform that they are for."""
        files = (target(), FOLDER / LICENSE)
        if version == "editable" or not all(file.exists() for file in files):
            return  # without its licence lexbor must not be handed on
        build_data["infer_tag"] = True
        build_data["pure_python"] = False
        for file in files:
            build_data["force_include"][str(file)] = str(file.relative_to(ROOT))


def target() -> Path:
    """Return the compiled file for this Python."""
    return FOLDER / f"tree{sysconfig.get_config_var('EXT_SUFFIX')}"


def build(folder: Path, out: Path, *flags: str) -> None:
    """Compile to `out`, with objects in `folder`; raises Impossible."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise Impossible(f"there is no C compiler ({compiler})")
    includes = sysconfig.get_path("include")
    if not (Path(includes) / "Python.h").exists():
        raise Impossible(f"Python.h is not in {includes} (Debian: python3-dev)")
    source = lexbor()
    objects = folder / sysconfig.get_config_var("SOABI")
    objects.mkdir(parents=True, exist_ok=True)
    translated = objects / "tree.c"
    _run(
        *(sys.executable, "-m", "cython", "-3", "-I", str(ROOT), "-o", str(translated)),
        str(FOLDER / "tree.pyx"),
    )
    files = [file for part in PARTS for file in sorted((source / "lexbor" / part).rglob("*.c"))]
    command = [compiler, *FLAGS, *flags, f"-I{source}", f"-I{includes}"]

    def compiled(file: Path) -> str:
        name = file.name if file == translated else str(file.relative_to(source))
        renamed = () if name in OWN else (COUNTED,)
        made = objects / f"{name.replace('/', '_')}.o"
        _run(*command, *renamed, "-c", str(file), "-o", str(made))
        return str(made)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        made = list(pool.map(compiled, [translated, *files]))
    fresh = out.with_suffix(".fresh")
    _run(compiler, "-shared", *FLAGS, *flags, "-o", str(fresh), *made, "-lm")
    fresh.replace(out)


def lexbor() -> Path:
    """Return the folder of lexbor's sources, fetched by pip with a pinned hash; or Impossible."""
    version = PINNED.read_text(encoding="utf-8").partition("==")[2].split()[0]
    unpacked = CACHE / version
    if not unpacked.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        _run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"),
            *("-r", str(PINNED), "-d", str(CACHE)),
        )
        part = CACHE / f"{version}.part"
        with tarfile.open(CACHE / f"selectolax-{version}.tar.gz") as archive:
            # Debian 12's Python has no filters yet; the archive's hash is pinned.
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(part, **safely)  # noqa: S202
        (part / f"selectolax-{version}" / "lexbor").replace(unpacked)
        shutil.rmtree(part)
    shutil.copyfile(unpacked / "LICENSE", FOLDER / LICENSE)
    return unpacked / "source"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Impossible(f"{command[0]} failed: {' '.join(said[-3:])}")


def main() -> int:
    """Compile, and say whether that was possible."""
    try:
        build(CACHE / "objects", target())
    except (Impossible, OSError, tarfile.TarError) as error:
        print(f"setup: the compiled extraction is not built, and is not needed: {error}")  # noqa: T201
        return 1
    print(f"setup: built {target().relative_to(ROOT)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
