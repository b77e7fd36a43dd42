"""Runs tests/public inside a network namespace, with the address guard as it ships.

May touch: a namespace of its own.
Must never: skip them where no namespace can be made.
"""

from __future__ import annotations

import re
import sys

from tests.rig import public


def test_nothing_private_is_reached_from_a_public_network() -> None:
    """Every test of tests/public passes, and there are some."""
    inner = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/public"]
    process = public.run(inner, timeout=110)
    assert process.returncode == 0, f"the tests inside failed:\n{process.tail(200)}"
    passed = re.search(r"^([0-9]+) passed", process.stdout, re.MULTILINE)
    assert passed, process.tail(200)
    assert int(passed[1]) > 0
