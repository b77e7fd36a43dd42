"""House rules no linter knows: how a file opens, how long a function is.

May touch: the checkout's Python files, to read.
Must never: change one.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = ("scraperd", "tests", "benchmarks", "examples")
LONGEST: Final = 45  # lines; about 40 is the rule, and a signature over several lines is no sin
COPIED: Final = "examples/dispatcher.py"  # for strangers to copy: it explains itself to them


def main() -> int:
    """Print each fault as `file:line: what`; 1 if there is any."""
    faults = [
        f"{path.relative_to(CHECKOUT)}:{line}: {what}"
        for folder in FOLDERS
        for path in sorted((CHECKOUT / folder).rglob("*.py"))
        for line, what in faults_of(path)
    ]
    print("\n".join(faults) or "house: every file opens with its rules, no function is too long")
    return 1 if faults else 0


def faults_of(path: Path) -> Iterator[tuple[int, str]]:
    """Pairs of line and fault of one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    opening = ast.get_docstring(tree) or ""
    if str(path.relative_to(CHECKOUT)) != COPIED:
        for line in ("May touch:", "Must never:"):
            if line not in opening:
                yield 1, f"the file's docstring has no line {line!r}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST:
                yield node.lineno, f"{node.name} has {length} lines, more than {LONGEST}"


if __name__ == "__main__":
    sys.exit(main())
