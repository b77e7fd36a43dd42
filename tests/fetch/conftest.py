"""What the rooms of a page share in their tests: fixtures of tests/rig/page.

May touch: those fixtures.
Must never: define another.
"""

from __future__ import annotations

from tests.rig.page import (
    certificates,
    clock,
    config,
    fetcher,
    no_loose_ends,
    pytest_asyncio_loop_factories,
    scrape,
    site,
    trusted,
)

__all__ = [
    "certificates",
    "clock",
    "config",
    "fetcher",
    "no_loose_ends",
    "pytest_asyncio_loop_factories",
    "scrape",
    "site",
    "trusted",
]
