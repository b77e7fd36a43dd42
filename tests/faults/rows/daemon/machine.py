"""Rows in which the machine is at fault: no descriptors left, a clock that jumps.

May touch: the scene; the limits and the clock of the daemon it started.
Must never: touch this process's own.
"""

from __future__ import annotations

import contextlib
import resource
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.register import row
from tests.rig.clocks.faketime import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.scene import Scene

HOUR = 3600


@row(12, "descriptors-exhausted", says="descriptors_exhausted")
def descriptors_exhausted(scene: Scene) -> None:
    """The daemon may open no more files (prlimit) for a while: no job fails of it, none is lost."""
    scene.start()
    with no_descriptors(scene.daemon.pid):
        scene.load(scene.many(500, 50))
        scene.daemon.wait_for_line("descriptors_exhausted", timeout=60)
    scene.heal()


@contextlib.contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """Within this a process may open no file beyond those it has."""
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    held = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (held, usual[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)


@row(12, "clock-jumps")
def clock_jumps(scene: Scene) -> None:
    """The wall clock jumps an hour on and two back: retries and turns keep their pace."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(Path(folder))
        scene.hooks = clock.env
        scene.start(politeness__snooze_after=0.1, politeness__per_host_delay=0.01)
        for jump in (HOUR, -2 * HOUR, HOUR):
            scene.load(scene.many(300, 40))
            scene.load(scene.many(100, 10), "/flaky/1/{n}")
            scene.load(2, "/busy/1/{n}")
            scene.more(10)
            clock.jump(jump)
            scene.heal()
            scene.quiet(90)
