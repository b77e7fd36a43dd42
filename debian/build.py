"""Builds dist/scraperd_VERSION_ARCHITECTURE.deb: a venv of pinned libraries, the units, a user.

May touch: build/deb/, dist/, pip, Debian's Python and dpkg-deb.
Must never: need root, or install anything on this machine.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from email.utils import formatdate
from itertools import chain
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[1]
DEBIAN: Final = CHECKOUT / "debian"
ROOT: Final = CHECKOUT / "build" / "deb"
HOME: Final = "usr/lib/scraperd"  # of the venv, in the package
DOCS: Final = "usr/share/doc/scraperd"
PYTHON: Final = Path("/usr/bin/python3")  # Debian's, which the package depends on
IN_THE_UNITS: Final = "/opt/scraperd/bin/scraperd"  # where pip puts it, by docs/operations/run.md
FLOOR: Final = (252,)  # systemd's version
KNOWS_BACKOFF: Final = (254,)  # systemd/backoff.conf
COMPLETIONS: Final = {
    "bash": "usr/share/bash-completion/completions/scraperd",
    "zsh": "usr/share/zsh/vendor-completions/_scraperd",
    "fish": "usr/share/fish/vendor_completions.d/scraperd.fish",
}


def main() -> int:
    """Build the package, and say where it is."""
    if lacks := [it for it in (str(PYTHON), "dpkg-deb", "dpkg") if shutil.which(it) is None]:
        print(f"deb: this machine has no {' and no '.join(lacks)}: run this on Debian or Ubuntu")
        return 1
    if python_version() != sys.version_info[:2]:
        shown = [".".join(map(str, found)) for found in (python_version(), sys.version_info[:2])]
        print(
            f"deb: {PYTHON} is Python {shown[0]} and .venv/ has {shown[1]}; the compiled extraction"
            f" has to be for the former: rm -rf .venv && make deb PYTHON={PYTHON}"
        )
        return 1
    epoch = _git("log", "-1", "--format=%ct") or str(int(time.time()))
    os.environ["SOURCE_DATE_EPOCH"] = epoch  # dpkg-deb gives no file a later time
    os.umask(0o022)
    shutil.rmtree(ROOT, ignore_errors=True)
    make_venv(ROOT / HOME)
    add_units()
    add_documents(int(epoch))
    add_shell(ROOT / HOME)
    add_configuration()
    built = pack(version(int(epoch)))
    newest = CHECKOUT / "dist" / "scraperd.deb"
    newest.unlink(missing_ok=True)
    newest.symlink_to(built.name)
    print(f"deb: built {built.relative_to(CHECKOUT)}; {newest.relative_to(CHECKOUT)} leads to it")
    return 0


def python_version() -> tuple[int, ...]:
    """Return the version of Debian's Python, which the package depends on."""
    said = "import sys; print(*sys.version_info[:2])"
    return tuple(map(int, subprocess.check_output([str(PYTHON), "-c", said], text=True).split()))


def version(epoch: int) -> str:
    """Return the version: that of the code, and before its release the commit's time and hash."""
    text = (CHECKOUT / "scraperd/__init__.py").read_text(encoding="utf-8")
    (code,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if _git("tag", "--points-at", "HEAD", f"v{code}") or not (commit := _git("rev-parse", "HEAD")):
        return code
    return f"{code}~{time.strftime('%Y%m%d%H%M%S', time.gmtime(epoch))}.{commit[:8]}"


def make_venv(home: Path) -> None:
    """Install the pinned libraries and the wheel of this checkout into a venv."""
    _run(str(PYTHON), "-m", "venv", "--without-pip", "--symlinks", str(home))
    wheels = ROOT.parent / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels))
    (wheel,) = wheels.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin/python3"), "install"]
    pip += ["--quiet", "--disable-pip-version-check", "--no-compile"]
    files = [("-r", str(CHECKOUT / f"requirements/{name}.txt")) for name in ("run", "callbacks")]
    _run(*pip, "--require-hashes", *chain.from_iterable(files))
    _run(*pip, "--no-deps", "--no-warn-script-location", str(wheel))
    for script in (home / "bin").iterdir():
        if not script.name.startswith(("python", "scraperd")):
            script.unlink()
    text = (home / "bin/scraperd").read_text(encoding="utf-8")
    own = re.sub(r"\A#!.*", f"#!/{HOME}/bin/python3", text)
    (home / "bin/scraperd").write_text(own, encoding="utf-8")
    config = home / "pyvenv.cfg"  # its last lines name the folder that the venv was made in
    lines = config.read_text(encoding="utf-8").splitlines(keepends=True)
    config.write_text("".join(it for it in lines if str(home) not in it), encoding="utf-8")
    for made in (*home.rglob("__pycache__"), *home.rglob("direct_url.json")):
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    shutil.rmtree(home / "include", ignore_errors=True)
    for record in home.rglob("RECORD"):  # lists files and hashes that were changed here
        record.unlink()


def add_units() -> None:
    """Add the units, with the command where this package has it, and the user's description."""
    units = Path("usr/lib/systemd/system")
    for unit in sorted((CHECKOUT / "systemd").iterdir()):
        text = unit.read_text(encoding="utf-8").replace(IN_THE_UNITS, "/usr/bin/scraperd")
        if unit.suffix != ".conf":
            _write(f"{units / unit.name}", text)
        elif _installed("systemd") >= KNOWS_BACKOFF:
            for name in ("scraperd.service.d", "scraperd@.service.d"):
                _write(f"{units / name / unit.name}", text)
    sysusers = (DEBIAN / "scraperd.sysusers").read_text(encoding="utf-8")
    _write("usr/lib/sysusers.d/scraperd.conf", sysusers)


def add_documents(epoch: int) -> None:
    """Add the documents, the licences and the changelog."""
    for folder, _, names in os.walk(CHECKOUT / "docs"):
        for name in names:
            file = Path(folder) / name
            shown = file.relative_to(CHECKOUT / "docs")
            (ROOT / DOCS / "docs" / shown).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, ROOT / DOCS / "docs" / shown)
    for name in ("README.md", "SECURITY.md", "config.example.toml"):
        _write(f"{DOCS}/{name}", (CHECKOUT / name).read_text(encoding="utf-8"))
    licence = (CHECKOUT / "LICENSE").read_text(encoding="utf-8").partition("\n\n")[2]
    lines = [f" {line}" if line else " ." for line in licence.strip().splitlines()[2:]]
    copyright_ = (DEBIAN / "copyright").read_text(encoding="utf-8")
    _write(f"{DOCS}/copyright", copyright_.replace("@LICENSE@", "\n".join(lines)))
    entry = (
        f"scraperd ({version(epoch)}) unstable; urgency=medium\n\n"
        "  * changelog.gz says what changes for users.\n\n"
        f" -- The scraperd developers <scraperd@localhost>  {formatdate(epoch)}\n"
    )
    changes = (CHECKOUT / "CHANGELOG.md").read_bytes()
    for name, data in (("changelog.Debian.gz", entry.encode()), ("changelog.gz", changes)):
        (ROOT / DOCS / name).write_bytes(gzip.compress(data, 9, mtime=epoch))


def add_shell(home: Path) -> None:
    """Add the command to the PATH, and its completion in the shells."""
    (ROOT / "usr/bin").mkdir(parents=True)
    (ROOT / "usr/bin/scraperd").symlink_to("../lib/scraperd/bin/scraperd")
    for shell, path in COMPLETIONS.items():
        env = {**os.environ, "_SCRAPERD_COMPLETE": f"{shell}_source"}
        command = [str(home / "bin/python3"), "-B", str(home / "bin/scraperd")]
        _write(path, subprocess.check_output(command, env=env, text=True))


def add_configuration() -> None:
    """Add what belongs into /etc: the settings, and the folder of the secrets."""
    _write("etc/scraperd/config.toml", (DEBIAN / "config.toml").read_text(encoding="utf-8"))
    (ROOT / "etc/scraperd/config.toml").chmod(0o640)
    (ROOT / "etc/scraperd/credentials").mkdir(mode=0o700)
    overrides = (DEBIAN / "lintian-overrides").read_text(encoding="utf-8")
    _write("usr/share/lintian/overrides/scraperd", overrides)


def pack(version: str) -> Path:
    """Add what dpkg wants to know, and pack all of it; return the package."""
    files = [path for path in sorted(ROOT.rglob("*")) if path.is_file() and not path.is_symlink()]
    control, control["@VERSION@"] = fields(files), version
    text = (DEBIAN / "control").read_text(encoding="utf-8")
    for name, value in control.items():
        text = text.replace(name, value)
    _write("DEBIAN/control", text)
    _write("DEBIAN/conffiles", "/etc/scraperd/config.toml\n")
    _write(
        "DEBIAN/md5sums",
        "".join(
            f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  "
            f"{path.relative_to(ROOT)}\n"
            for path in files
            if "etc" not in path.relative_to(ROOT).parts[:1]
        ),
    )
    for script in ("postinst", "prerm", "postrm"):
        shutil.copyfile(DEBIAN / script, ROOT / "DEBIAN" / script)
        (ROOT / "DEBIAN" / script).chmod(0o755)
    built = CHECKOUT / "dist" / f"scraperd_{version}_{control['@ARCHITECTURE@']}.deb"
    built.parent.mkdir(exist_ok=True)
    _run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(ROOT), str(built))
    return built


def fields(files: list[Path]) -> dict[str, str]:
    """Return the fields of the package that depend on this machine: it is for its release."""
    major, minor = python_version()
    libc = ".".join(map(str, _installed("libc6")))
    systemd = KNOWS_BACKOFF if _installed("systemd") >= KNOWS_BACKOFF else FLOOR
    python = f"python3 (>= {major}.{minor}~), python3 (<< {major}.{minor + 1}~)"
    own = f"libc6 (>= {libc}), libgcc-s1, libstdc++6, {python}"
    return {
        "@ARCHITECTURE@": subprocess.check_output(
            ["dpkg", "--print-architecture"], text=True
        ).strip(),
        "@SIZE@": str(sum(-(-path.stat().st_size // 1024) for path in files)),
        "@DEPENDS@": f"{own}, ca-certificates, passwd, systemd (>= {systemd[0]})",
    }


def _write(path: str, text: str) -> None:
    file = ROOT / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _installed(package: str) -> tuple[int, ...]:
    """Return the version of a package on this machine; (0,) if it is not installed."""
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", done.stdout)
    return tuple(map(int, found[0].split("."))) if found else (0,)


def _git(*argv: str) -> str:
    """Return what git says of the checkout; nothing where that is no clone."""
    # Also where another user than the owner of the checkout builds, such as root.
    command = ["git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT), *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(*command: str) -> None:
    subprocess.run(command, cwd=CHECKOUT, stdout=sys.stderr, check=True)


if __name__ == "__main__":
    sys.exit(main())
