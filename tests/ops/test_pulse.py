"""When systemd's watchdog is fed: while jobs come, or would come if there were any.

May touch: an AF_UNIX socket of its own.
Must never: need systemd or a broker.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import Counter
from types import SimpleNamespace
from typing import Any

from scraperd.ops.systemd import Notifier
from scraperd.ops.telemetry import Tally
from scraperd.pulse import Pulse


def services(*, starved: bool) -> Any:
    """A daemon that consumes, as far as the pulse looks at it."""
    consuming = asyncio.Event()
    consuming.set()
    link = SimpleNamespace(consuming=consuming, starved=starved, state="consuming")
    worker = SimpleNamespace(draining=False, in_flight=0)
    pages = SimpleNamespace(scraper=SimpleNamespace(snoozed_for=Counter()))
    observer = SimpleNamespace(tally=Tally(), unlogged=0)
    return SimpleNamespace(link=link, worker=worker, pages=pages, observer=observer)


async def told(*, starved: bool) -> list[bytes]:
    """What systemd hears first, and after that."""
    name = f"scraperd-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.setblocking(False)
        notifier = Notifier(f"@{name}", watchdog_usec=20_000)
        pulse = Pulse(services(starved=starved), notifier, list)
        running = asyncio.create_task(pulse.run())
        loop = asyncio.get_running_loop()
        heard = [await loop.sock_recv(receiver, 4096) for _ in range(3)]
        running.cancel()
    return heard


async def test_the_watchdog_is_fed_while_jobs_come() -> None:
    """Ready once, and then alive again and again."""
    first, *later = await told(starved=False)
    assert first.startswith(b"READY=1\nWATCHDOG=1\n")
    assert all(one.startswith(b"WATCHDOG=1\nSTATUS=consuming") for one in later)


async def test_a_consumer_that_gets_nothing_does_not_feed_the_watchdog() -> None:
    """Jobs are ready and none comes, though the loop turns: systemd is to end the process."""
    _, *later = await told(starved=True)
    assert all(one.startswith(b"STATUS=consuming") for one in later)
