"""`scraperd top`: the fleet, live.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: ask more often than once a second, or leave the terminal in another state.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

import click

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.inquiry.asking import asking
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.cli.console import EXIT_USAGE, epilog, fail
from scraperd.cli.fleet.screen import Screen, taken
from scraperd.cli.fleet.view import View
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.ops.fleet.asked import Fleet, ask_all

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config

INTERVAL: Final = 1.0  # seconds from the begin of one question to the next


@click.command("top", epilog=epilog("scraperd top"))
@with_config
def command(path: Path | None) -> None:
    """Show all daemons, the queues and the hosts that wait, and draw them again each second.

    Keys: s sorts by another column, / filters by process or host, p pauses the display, q quits.
    """
    config = config_of(path)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        fail("top needs a terminal; `scraperd status` prints the same once", EXIT_USAGE)
    run_client(_top(config))


async def _top(config: Config) -> int:
    with taken() as screen:
        live = Live(config, screen)
        asked = asyncio.create_task(live.ask())
        shown = asyncio.create_task(live.show())
        try:
            await asyncio.wait((asked, shown), return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                asked.result()
        finally:
            for task in (asked, shown):
                task.cancel()
            await asyncio.gather(asked, shown, return_exceptions=True)
    return 0


class Live:
    """What is shown, and where it comes from."""

    def __init__(self, config: Config, screen: Screen) -> None:
        self._config = config
        self._screen = screen
        self._view = View()
        self._fleet: Fleet | None = None
        self._fault = ""

    async def ask(self) -> None:
        """Ask once a second; a broker that is away is tried again. Raises TopologyError.

        While the display is paused, nothing is asked.
        """
        config, prefix = self._config, self._config.broker.prefix
        while True:
            try:
                within = config.fetch.connect_timeout
                async with asking(config.broker_urls, prefix, within) as asker:
                    while True:
                        ends = asyncio.get_running_loop().time() + INTERVAL
                        if not self._view.paused:
                            self._fleet = await ask_all(asker, Topology(prefix), "status")
                            self._fault = ""
                            self._screen.changed.set()
                        now = asyncio.get_running_loop().time()
                        await asyncio.sleep(max(0.0, ends - now))
            except Lost as error:
                self._fault = f"no answer: {error}"
                self._screen.changed.set()
                await asyncio.sleep(INTERVAL)

    async def show(self) -> None:
        """Draw at each news and each key, until a key ends it."""
        screen, view = self._screen, self._view
        while True:
            keys, screen.keys = screen.keys, []
            for key in keys:
                view.press(key)
            if view.over:
                return
            screen.draw(view.lines(self._fleet, self._fault, screen.size[1]))
            screen.changed.clear()
            await screen.changed.wait()
