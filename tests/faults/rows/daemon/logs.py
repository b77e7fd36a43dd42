"""Rows in which the daemon's log can't be written.

May touch: the scene.
Must never: read a log that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.register import row

if TYPE_CHECKING:
    from tests.faults.scene import Scene

LONG = "x" * 4000  # of a URL, which the line has too: 400 lines are more than the daemon keeps


@row(12, "log-disk-full")
def log_disk_full(scene: Scene) -> None:
    """The disk of the log is full: all work is done, and the status line counts what is missing."""
    loses_lines_only(scene, "full", scene.many(1000, 100))


@row(12, "log-reader-stalls")
def log_reader_stalls(scene: Scene) -> None:
    """Nobody reads the log, which is a pipe: all work is done, and the status line counts lines."""
    loses_lines_only(scene, "stalled", scene.many(2000, 400), f"/page/{{n}}?{LONG}")


def loses_lines_only(scene: Scene, log: str, jobs: int, path: str = "/page/{n}") -> None:
    """Do all jobs with such a log, and wait until the status line counts lost lines."""
    scene.start(log=log)
    scene.load(jobs, path)
    scene.quiet()
    scene.until(
        lambda: "log lines lost" in scene.daemon.statuses[-1].status, "the status counts them"
    )
