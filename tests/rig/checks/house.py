"""House rules no linter knows: how a file opens, how long a function is, what is called pure.

May touch: the checkout's Python files, to read.
Must never: change one.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT: Final = Path(__file__).resolve().parents[3]
FOLDERS: Final = ("scraperd", "tests", "benchmarks", "examples")
LONGEST: Final = 45  # lines; about 40 is the rule, and a signature over several lines is no sin
PURITY: Final = "Pure rooms and files"  # how the name of their import contract begins
FULLEST: Final = 12  # modules in a folder, without its __init__ and conftest
# For strangers to copy: they explain themselves to them.
COPIED: Final = ("examples/dispatcher.py", "examples/protocols/")


def main() -> int:
    """Print each fault as `file:line: what`; 1 if there is any."""
    faults = [
        f"{path.relative_to(CHECKOUT)}:{line}: {what}"
        for folder in FOLDERS
        for path in sorted((CHECKOUT / folder).rglob("*.py"))
        for line, what in faults_of(path)
    ]
    faults += [what for folder in FOLDERS for what in folders_too_full(CHECKOUT / folder)]
    faults += [f"scraperd/: {what}" for what in files_falsely_pure(CHECKOUT / "scraperd")]
    faults += [f"tests/: {what}" for what in faults_of_the_tests(CHECKOUT / "tests")]
    faults += [f"tests/{what}" for what in uses_of_the_benches(CHECKOUT / "tests")]
    print(
        "\n".join(faults)
        or "house: every file opens with its rules, no function is too long, pure is pure"
    )
    return 1 if faults else 0


def faults_of(path: Path) -> Iterator[tuple[int, str]]:
    """Pairs of line and fault of one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    opening = ast.get_docstring(tree) or ""
    if not str(path.relative_to(CHECKOUT)).startswith(COPIED):
        for line in ("May touch:", "Must never:"):
            if line not in opening:
                yield 1, f"the file's docstring has no line {line!r}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST:
                yield node.lineno, f"{node.name} has {length} lines, more than {LONGEST}"


def folders_too_full(root: Path) -> Iterator[str]:
    """Folders with more than FULLEST modules."""
    for folder in sorted({path.parent for path in root.rglob("*.py")}):
        modules = [
            path for path in folder.glob("*.py") if path.stem not in {"__init__", "conftest"}
        ]
        if len(modules) > FULLEST:
            yield f"{folder.relative_to(CHECKOUT)}/ has {len(modules)} modules, more than {FULLEST}"


def files_falsely_pure(package: Path) -> Iterator[str]:
    """Files that call themselves pure and are under no contract."""
    contract = purity((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    for path in sorted(package.rglob("*.py")):
        opening = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        dotted = ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        covered = any(f"{dotted}.".startswith(f"{room}.") for room in contract)
        if re.search(r"\bPure\b", opening) and not covered:
            yield f"{dotted} calls itself pure; name it in the contract {PURITY!r}"


def faults_of_the_tests(tests: Path) -> Iterator[str]:
    """Two test files of one name: pytest takes the folder off, and refuses the second.

    Those of public/ are collected by themselves.
    """
    names = Counter(path.name for path in tests.rglob("test_*.py") if path.parent.name != "public")
    for name, count in names.items():
        if count > 1:
            yield f"{count} files are called {name}; give each a name of its own"


def uses_of_the_benches(tests: Path) -> Iterator[str]:
    """What names a module of benchmarks/ in a test: what both need is in rig/ or oracles/."""
    for path in sorted(tests.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if any(name.partition(".")[0] == "benchmarks" for name in modules_named(node)):
                where = f"{path.relative_to(tests)}:{getattr(node, 'lineno', 1)}"
                yield f"{where} uses benchmarks/; what both need is in tests/rig or tests/oracles"


def modules_named(node: ast.AST) -> list[str]:
    """The modules that a statement imports, or a text that `python -m` takes for one."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module)):
            return [module]
        case ast.Constant(value=str(text)) if re.fullmatch(r"\w+(\.\w+)+", text):
            return [text]
    return []


def purity(pyproject: str) -> list[str]:
    """The modules that the import contract holds to be pure."""
    contracts = tomllib.loads(pyproject)["tool"]["importlinter"]["contracts"]
    return next(one["source_modules"] for one in contracts if one["name"].startswith(PURITY))


if __name__ == "__main__":
    sys.exit(main())
