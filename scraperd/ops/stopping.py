"""Which signals stop a process, and which of them are one request that came twice.

May touch: nothing but the values it is given.
Must never: install a handler, or end the process.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
IGNORED: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # by default they end a process
TWIN_INTERVAL: Final = 1.0  # seconds

Meaning: TypeAlias = Literal["first", "twin", "second"]


@dataclass(slots=True)
class Stop:
    """The signal that stops a process: the first one, and when it came."""

    first: signal.Signals | None = None
    _at: float = 0.0

    def take(self, number: signal.Signals, now: float) -> Meaning:
        """Return what a signal means that comes at `now`, in seconds of a monotonic clock.

        Ctrl-C reaches each process of a terminal, and a supervisor among them passes it on, as
        SIGINT or as SIGTERM. So a signal within TWIN_INTERVAL of the first is the same request,
        unless both are SIGTERM, which no terminal sends.
        """
        if self.first is None:
            self.first, self._at = number, now
            return "first"
        both_terms = self.first == number == signal.SIGTERM
        return "second" if both_terms or now - self._at > TWIN_INTERVAL else "twin"
