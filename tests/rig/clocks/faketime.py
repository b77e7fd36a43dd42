"""A wall clock that can jump under a running process, by libfaketime; the monotonic one stays true.

May touch: one file in the folder it is given; the library that debs.py unpacks.
Must never: change this process's own clock, or the machine's.
"""

from __future__ import annotations

from pathlib import Path

from tests.rig.debs import debs


class Clock:
    """What `env` is given to reads wall time from here. `ahead` is by how many seconds it is off.

    A jump counts from the process's next look at its clock on.
    """

    def __init__(self, folder: Path) -> None:
        root = debs("libfaketime")
        library = next(
            path
            for top in (root, Path("/"))
            for path in top.glob("usr/lib/*-linux-gnu/faketime/libfaketimeMT.so.1")
        )
        self._file = folder / "clock"
        self.ahead = 0
        self.jump(0)
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds: int) -> None:
        """Set the clock forward, or back, by so many more seconds."""
        self.ahead += seconds
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{self.ahead:+d}\n")
        fresh.rename(self._file)  # at once: half a file would be half a time
