"""Another configuration in a running process: read, compared, and handed to the rooms.

May touch: the files of the configuration, the rooms' own `configure`.
Must never: leave one room with the old settings and another with the new ones, or say a secret.

It serves the daemon and the gateway: each says by `Prepare` how its rooms are handed theirs.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TypeAlias

from scraperd.config.changes import changes, merged
from scraperd.config.checks import impossible
from scraperd.config.keys import signing_keys
from scraperd.config.load import ConfigError
from scraperd.jobs.signing import secret_of
from scraperd.ops.log import LEVELS
from scraperd.wiring import configure

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.config.changes import Change
    from scraperd.config.settings import Config
    from scraperd.ops.telemetry import Observer
    from scraperd.wiring import Services

Apply: TypeAlias = "Callable[[], list[str]]"
Prepare: TypeAlias = "Callable[[Config], Apply]"


class Running(Protocol):
    """What runs with a configuration."""

    @property
    def config(self) -> Config:
        """The configuration that holds now."""

    @property
    def observer(self) -> Observer:
        """Who writes the log."""


class Reloader:
    """Reads the configuration again when it is asked to. `run` is a service of the process.

    `reread` reads and checks it; it raises ConfigError. So does `prepare`, which reads the files
    that it names, in a thread. What that returns hands all of it over, cannot fail, and returns in
    words what else has changed. `asked` is set by who wants a reload; two that are asked for at
    once are one. `on_begin` and `on_end` are called before and after.
    """

    def __init__(
        self,
        running: Running,
        reread: Callable[[], Config],
        prepare: Prepare,
        asked: asyncio.Event,
    ) -> None:
        self._running = running
        self._reread = reread
        self._prepare = prepare
        self._asked = asked
        self.on_begin: Callable[[], None] = lambda: None
        self.on_end: Callable[[], None] = lambda: None
        self.failed = False
        """Whether the last one found a configuration that is not valid."""
        self.read_at = time.time()
        """When the configuration that holds was read, in seconds since 1970."""
        self.state = ""
        """What the last reload came to, in words for the status line; empty before the first."""

    async def run(self) -> None:
        """Reload whenever it is asked for."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            self.on_begin()
            await self._reload()
            self.on_end()

    async def _reload(self) -> None:
        running, now = self._running, datetime.now(UTC).strftime("%H:%M:%SZ")
        try:
            found, kept, apply = await asyncio.to_thread(self._read)
        except ConfigError as error:
            self.failed = True
            running.observer.event("reload_failed", error=str(error))
            self.state = f"reload failed at {now}, nothing changed: {error.faults[0]}"
            return
        self.failed, self.read_at = False, time.time()
        before = running.config.log.level
        more = apply()
        held = [*(str(it) for it in found if it.reload), *more]
        waiting = [it.name for it in found if not it.reload]
        # By the level of before or by that of now, whichever says more.
        running.observer.set_level(min(before, kept.log.level, key=LEVELS.index))
        running.observer.event("reloaded", changed=held, needs_restart=waiting)
        running.observer.set_level(kept.log.level)
        rest = f", {len(waiting)} need a restart" if waiting else ""
        self.state = f"reloaded at {now}: {len(held)} settings changed{rest}"

    def _read(self) -> tuple[list[Change], Config, Apply]:
        """Return what differs in the files, what will hold, and what hands that over.

        Raises ConfigError.
        """
        config = self._reread()
        kept = merged(self._running.config, config)
        if faults := [fault for _, fault in impossible(kept)]:
            why = "with those settings as they are that only a restart changes"
            raise ConfigError([f"{fault} ({why})" for fault in faults])
        return changes(self._running.config, config), kept, self._prepare(kept)


def prepared(services: Services, config: Config) -> Apply:
    """Return what hands a configuration to the rooms of a daemon. Raises ConfigError."""
    secrets = secrets_of(config)

    def apply() -> list[str]:
        configure(services, config, secrets)
        return []

    return apply


def secrets_of(config: Config) -> tuple[bytes, ...]:
    """The keys that sign headers: those of the file, or else one made from broker_url.

    Raises ConfigError.
    """
    return signing_keys(config.jobs.signing_key_file) or (secret_of(config.broker_urls[0]),)
