"""How many file descriptors a configuration needs, and a configuration that fits the limit.

May touch: the configuration's values. Pure.
Must never: change a setting without the caller saying so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.config.settings import Config

OTHERS: Final = 64  # the broker's four, the loop's, c-ares's, standard streams, files being read
MIN_DESCRIPTORS: Final = 29  # for one page at a time: three to the broker, a site, names, a helper
HELPER: Final = 4  # a helper process has two pipes, of which both ends are here while it starts


def needed(config: Config) -> int:
    """How many descriptors `config` takes at most, but for sites with dozens of dead addresses.

    A fetch that dials a site of both families has two for a while (RFC 8305).
    """
    return _connections(config) + config.concurrency + _rest(config)


def fit(config: Config, limit: int) -> Config:
    """`config` with `fetch.max_connections`, then `concurrency` lowered until `limit` suffices."""
    if needed(config) <= limit:
        return config
    room = max(2, limit - _rest(config))
    concurrency = min(config.concurrency, room // 2)
    fetch = replace(config.fetch, max_connections=room - concurrency)
    return replace(config, concurrency=concurrency, fetch=fetch)


def fitted(config: Config, limit: int, event: Callable[..., None]) -> Config:
    """`config` with no more connections than there are descriptors for; `event` is told."""
    fits = fit(config, limit)
    if fits != config:
        event(
            "descriptors_few",
            limit=limit,
            needed=needed(config),
            concurrency=fits.concurrency,
            max_connections=fits.fetch.max_connections,
        )
    return fits


def _connections(config: Config) -> int:
    """What is in use is never closed for the sake of `fetch.max_connections`."""
    return max(config.fetch.max_connections or 2 * config.concurrency, config.concurrency)


def _rest(config: Config) -> int:
    return OTHERS + HELPER * config.sandbox.processes + _callbacks(config) + config.batches.enabled


def _callbacks(config: Config) -> int:
    """A connection to each receiver, and one to the broker."""
    most = config.callbacks.concurrency
    return most + 1 if most and config.calls_back else 0
