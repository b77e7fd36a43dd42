"""A pytest plugin for `make quick`: what needs no broker and no namespace, in about a minute.

May touch: pytest's collection and its cache, as `-p tests.rig.checks.quick` loads this file.
Must never: hold a list of tests. A new test is judged by its folder, its fixtures and its markers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from _pytest.terminal import TerminalReporter

WHOLE_SYSTEM: Final = {"e2e", "public", "faults"}  # folders: a broker or a network namespace
PROCESSES: Final = {"cli", "sandbox"}  # folders: each test starts Python again, 1 s and more
SERVERS: Final = "test_rig.py"  # starts every server that the tests have
BROKER: Final = "node"  # the fixture that starts RabbitMQ; each fixture of a broker asks for it
PROPERTY: Final = "hypothesis"  # the marker that Hypothesis gives: hundreds of examples each

BUDGET: Final = 45.0  # seconds of processor time of a process; then no further test begins
SLOW: Final = 0.5  # seconds: a test that took longer the last time runs after all others
CACHE_KEY: Final = "quick/seconds"
OUT_OF_TIME: Final = "out of time"


def pytest_configure(config: pytest.Config) -> None:
    """Note how long each test takes, in the one process that hears of all tests."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Stopwatch(config))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders and files that need more than this process."""
    inside = collection_path.relative_to(config.rootpath).parts
    if (WHOLE_SYSTEM | PROCESSES).intersection(inside) or inside[-1:] == (SERVERS,):
        return True
    return None


@pytest.hookimpl(trylast=True)  # after Hypothesis has marked its tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a broker or tries many examples, and put slow tests at the end."""
    left_out = [item for item in items if is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    seconds = known_seconds(config)
    kept = [item for item in items if not is_left_out(item)]
    items[:] = sorted(kept, key=lambda item: max(SLOW, seconds.get(item.nodeid, 0.0)))


def pytest_runtest_setup() -> None:
    """Skip a test for which there is no time left."""
    if time.process_time() > BUDGET:  # not the clock: a busy machine runs the same tests
        pytest.skip(OUT_OF_TIME)


def is_left_out(item: pytest.Item) -> bool:
    """Return True for a test that asks for a broker, or that tries many examples."""
    return BROKER in getattr(item, "fixturenames", ()) or bool(item.get_closest_marker(PROPERTY))


def known_seconds(config: pytest.Config) -> dict[str, float]:
    """Return how long each test took the last time it ran on this machine, by its id."""
    cache = getattr(config, "cache", None)  # missing if pytest runs without its cache
    found: dict[str, float] = cache.get(CACHE_KEY, {}) if cache else {}
    return found


class Stopwatch:
    """The durations of this session's tests, and how many tests it had no time for."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seconds: dict[str, float] = {}
        self._late = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's duration, or count a test that was skipped for lack of time."""
        if report.when == "call":
            self._seconds[report.nodeid] = round(report.duration, 2)
        elif report.skipped and OUT_OF_TIME in str(report.longrepr):
            self._late += 1

    def pytest_sessionfinish(self) -> None:
        """Keep the durations for the next session."""
        cache = getattr(self._config, "cache", None)
        if cache:
            cache.set(CACHE_KEY, known_seconds(self._config) | self._seconds)

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Say how many tests were not run, so that nobody takes them for good."""
        if self._late:
            terminalreporter.write_line(
                f"quick: {self._late} slow tests were not run; `make test` runs all",
                yellow=True,
            )
