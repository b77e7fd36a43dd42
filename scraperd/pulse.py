"""What systemd is told of the process: ready, alive, reloading, stopping, and how it goes.

May touch: the services, to read; the notifier; the loop's time.
Must never: change what happens, or tell what is not so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.sandbox.extractor import Crowded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scraperd.ops.systemd import Notifier
    from scraperd.wiring import Services

STATUS_EVERY: Final = 5.0  # seconds
START_EXTENSION: Final = 30  # seconds systemd grants at a time while the broker is away


class Pulse:
    """Tells systemd, by sd_notify(3). `run` is a service of the daemon.

    `more` returns what else is to be said, each in words or empty.
    """

    def __init__(
        self, services: Services, notifier: Notifier, more: Callable[[], Iterable[str]]
    ) -> None:
        self._services = services
        self._notifier = notifier
        self._more = more
        self._ready = False

    async def run(self) -> None:
        """Tell it now and then: ready once consuming, alive while the loop turns and jobs come.

        A consumer that gets no jobs is replaced by the link. If that does not help either, the
        watchdog ends the process.
        """
        notifier, consuming = self._notifier, self._services.link.consuming
        interval = min(STATUS_EVERY, notifier.watchdog_interval or STATUS_EVERY)
        told = Counter[type]()
        while True:
            told = self._tell_snoozed(told)
            if self._ready and self._services.link.starved:
                notifier.send(STATUS=self.status)
            elif self._ready:
                notifier.send(WATCHDOG=1, STATUS=self.status)
            elif consuming.is_set():
                self._ready = True
                notifier.send(READY=1, WATCHDOG=1, STATUS=self.status)
            else:
                # The broker is waited for, for ever; systemd must not take that for a failed start.
                usec = START_EXTENSION * 1_000_000
                notifier.send(EXTEND_TIMEOUT_USEC=usec, WATCHDOG=1, STATUS=self.status)
            if self._ready:
                await asyncio.sleep(interval)
            else:
                await _first_of(consuming, interval)

    def reloading(self) -> None:
        """A reload begins. systemd waits for `reloaded` if the daemon was ready before."""
        if self._ready:
            self._notifier.reloading()

    def reloaded(self) -> None:
        """It has ended, well or not: the status says which."""
        if self._ready:
            self._notifier.send(READY=1, STATUS=self.status)

    def stopping(self, seconds: float) -> None:
        """The drain begins. However long it is set to be, systemd must not cut it short."""
        usec = round(seconds * 1_000_000)
        self._notifier.send(STOPPING=1, EXTEND_TIMEOUT_USEC=usec, STATUS=self.status)

    def _tell_snoozed(self, told: Counter[type]) -> Counter[type]:
        """Say how many jobs were snoozed since then, and why; returns what is said by now."""
        observer = self._services.observer
        news = self._services.pages.scraper.snoozed_for - told
        if count := news[Crowded]:
            observer.event("helpers_busy", jobs=count)
        if count := news[OutOfDescriptors]:
            observer.event("descriptors_exhausted", jobs=count)
        return told + news

    @property
    def status(self) -> str:
        """One line for `systemctl status`."""
        services, observer = self._services, self._services.observer
        tally = observer.tally
        state = "draining" if services.worker.draining else services.link.state
        rare = {
            "requeued": tally.requeued,
            "times starved": tally.starved,
            "settled too late": tally.lost,
            "log lines lost": observer.unlogged,
        }
        seen = "".join(f"; {count} {what}" for what, count in rare.items() if count)
        more = "".join(f"; {words}" for words in self._more() if words)
        return (
            f"{state}; {services.worker.in_flight} in flight; {tally.done} done "
            f"({tally.failed} failed), {tally.retried} retried, {tally.dead} dead; "
            f"{tally.snoozed} moves to wait for a turn{seen}{more}"
        )


async def _first_of(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
