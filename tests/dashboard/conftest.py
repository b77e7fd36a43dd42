"""One browser for all tests of the dashboard, and a gateway with a token for each role.

May touch: the shared node, pytest's temporary folders.
Must never: hold a test's logic.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.clients.chromium import chromium
from tests.server.running import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from playwright.sync_api import Browser

    Started = Callable[..., AbstractContextManager[Gateway]]

READ, SUBMIT, ADMIN = (f"{role}-0123456789abcdef" for role in ("read", "submit", "admin"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with chromium() as found:
        yield found


@pytest.fixture
def started(broker_url: str, prefix: str, tmp_path: Path) -> Started:
    """Start a gateway whose tokens are READ, SUBMIT and ADMIN; their names are their roles."""
    file = tmp_path / "tokens"
    tokens = {"read": READ, "submit": SUBMIT, "admin": ADMIN}
    file.write_text("".join(f"{role} {role} {token}\n" for role, token in tokens.items()))

    @contextmanager
    def start(**settings: Any) -> Iterator[Gateway]:
        with Gateway(broker_url, prefix, http__tokens_file=str(file), **settings) as gateway:
            yield gateway.listening()
            log = gateway.stdout + gateway.stderr
            assert not any(token in log for token in tokens.values())

    return start
