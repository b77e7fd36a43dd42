"""The daemon as its command runs it, with a fault built in: `python -m tests.faults.launcher`.

May touch: the daemon's classes, wrapped in this process; this process, which it may kill.
Must never: be installed with the daemon, or change what it does where no fault is asked for.

FAULT_KILL_AT=ack kills the process between a confirm and its ack, after FAULT_AFTER acks (0);
FAULT_KILL_AT=answered between a receiver's answer to a callback and the ack of that, as well.
FAULT_POISON=1 kills it when a page whose path begins with /poison is about to be scraped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from scraperd import daemon
from scraperd.broker.ports import Delivery
from scraperd.callbacks.courier import Courier
from scraperd.config.load import load, notify_socket
from scraperd.ops.systemd import Notifier
from scraperd.scrape.pipeline import Scraper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scraperd.broker.ports import Move
    from scraperd.scrape.request import Target

TASKS = "X_TASKS"  # sd_notify(3) leaves names that begin so to whoever wants them


class Counting(Notifier):
    """Says how many tasks there are along with what it is told to say."""

    __slots__ = ()

    def send(self, **state: str | int) -> None:
        super().send(**state, **{TASKS: len(asyncio.all_tasks())})


def die() -> None:
    """What the kernel's out-of-memory killer, or a crash, looks like."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_before_an_ack(after: int) -> None:
    """Die where the confirm has come and the ack is not sent yet; once, as the process is gone."""
    ack, count = Delivery.ack, 0

    async def fatal(self: Delivery) -> bool:
        nonlocal count
        count += 1
        if count > after:
            die()
        return await ack(self)

    Delivery.ack = fatal  # type: ignore[method-assign]


def kill_after_an_answer(after: int) -> None:
    """Die where a receiver has answered, and the broker is not told of it yet."""
    handle, count = Courier.handle, 0

    async def fatal(self: Courier, body: bytes, headers: Mapping[str, Any]) -> Move | None:
        nonlocal count
        move = await handle(self, body, headers)
        count += 1
        if count > after:
            die()
        return move

    Courier.handle = fatal  # type: ignore[method-assign]


def die_of_poison() -> None:
    """Some pages kill whoever touches them."""
    scrape = Scraper.scrape

    async def touch(self: Scraper, target: Target, *more: Any, **named: Any) -> Any:
        if target.url.path.startswith("/poison"):
            die()
        return await scrape(self, target, *more, **named)

    Scraper.scrape = touch  # type: ignore[method-assign]


def main() -> int:
    """Build the faults in that were asked for, and run the daemon as its command does."""
    after = int(os.environ.get("FAULT_AFTER", "0"))
    match os.environ.get("FAULT_KILL_AT"):
        case "ack":
            kill_before_an_ack(after)
        case "answered":
            kill_after_an_answer(after)
    if os.environ.get("FAULT_POISON"):
        die_of_poison()
    return daemon.run(load(None), Counting(*notify_socket()), partial(load, None))


if __name__ == "__main__":
    sys.exit(main())
