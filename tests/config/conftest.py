"""What the tests of the configuration share.

May touch: files in pytest's own folder.
Must never: read or change the real environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Make a configuration file of a text."""

    def make(text: str | bytes) -> Path:
        path = tmp_path / "scraperd.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return make
