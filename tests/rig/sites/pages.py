"""Real web pages to scrape: the manuals of Python, PostgreSQL and Java, as Debian packages them.

May touch: the packages unpacked in the checkout's .cache/, to read.
Must never: change a page, or hand out a folder that is not full of them.
"""

from __future__ import annotations

from pathlib import Path

from tests.rig.debs import DebsError, debs


def python_docs() -> Path:
    """Return the folder of Python's manual: about 500 pages of 60 kB on average."""
    return _manual("python3-doc", "python3*", "library/index.html", at_least=400)


def postgres_docs() -> Path:
    """Return the folder of PostgreSQL's manual: about 1,170 pages of 20 kB on average."""
    return _manual("postgresql-doc", "postgresql-doc-*", "index.html", at_least=1000)


def java_docs() -> Path:
    """Return the folder of Java's manual: about 10,000 pages of 25 kB on average.

    Debian 12 has that of Java 17; later releases have another, which is taken instead.
    """
    for release in (17, 21, 25):
        try:
            base = debs(f"openjdk-{release}-doc")
        except DebsError as error:
            said = error
        else:
            return _full(base, f"openjdk-{release}-*/api", "index.html", at_least=5000)
    raise said


def html_files(root: Path) -> list[Path]:
    """Return every HTML page under `root`, sorted."""
    return sorted(path for path in root.rglob("*.html") if path.is_file())


def _manual(package: str, folder: str, landmark: str, *, at_least: int) -> Path:
    """Find the manual, among the unpacked files or, if the machine has the package, there."""
    return _full(debs(package), f"{folder}/html", landmark, at_least=at_least)


def _full(unpacked: Path, folder: str, landmark: str, *, at_least: int) -> Path:
    """Return the first such folder under usr/share/doc that has `at_least` pages."""
    for base in (unpacked, Path("/")):
        for html in sorted(base.glob(f"usr/share/doc/{folder}")):
            if (html / landmark).is_file() and len(html_files(html.resolve())) >= at_least:
                return html.resolve()
    raise DebsError(f"no manual of {at_least} pages or more in {folder} of {unpacked.name}")
