"""Sets the rules that cancel a job or a batch, one after the other.

May touch: a connection of its own for each; the keys of the fleet, read when they are first needed.
Must never: take all places for rules: those who steer the fleet need some.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import msgspec

from scraperd.broker.rabbitmq.inquiry.asking import asking
from scraperd.broker.rabbitmq.rules.writing import book
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused
from scraperd.control.desk import QUESTION, change, rule_of
from scraperd.control.rules import DAY, MAX_RULES, RuleError, matched, shown, with_rule
from scraperd.server.access.turns import Turns
from scraperd.server.listener import Answer
from scraperd.server.problems import Problem, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from scraperd.control.rules import Rule
    from scraperd.control.stored import Keys
    from scraperd.server.tokens import Holder

JOBS: Final = "/v1/jobs/"
BATCHES: Final = "/v1/batches/"
MOST: Final = MAX_RULES - 200  # rules that are in force, past which none is set over HTTP
SAME: Final = 60.0  # seconds in which a rule is not set again: each change costs each process
MAX_WAITING: Final = 50  # requests
AGAIN: Final = 2  # seconds after which a client may ask again
BUSY: Final = "too many requests cancel jobs; send the request again later, or cancel a batch"
AWAY: Final = "the broker is away, or does not let the gateway set rules; send the request again"
NO_KEY: Final = (
    "the gateway cannot read the fleet's key (jobs.signing_key_file), so it sets no rule"
)
FULL: Final = "too many rules are in force to set one over HTTP; cancel a batch instead of its jobs"


class Cancelling:
    """Cancels jobs. `keys` reads the keys of the fleet, and raises ValueError if it can't.

    `event` writes to the log.
    """

    def __init__(
        self,
        urls: tuple[str, ...],
        prefix: str,
        connect_timeout: float,
        keys: Callable[[], Keys],
        event: Callable[..., None],
    ) -> None:
        self._urls = urls
        self._prefix = prefix
        self._connect_timeout = connect_timeout
        self._read_keys = keys
        self._keys: Keys | None = None
        self._event = event
        self._turns = Turns(MAX_WAITING, BUSY, AGAIN)

    def configure(self, connect_timeout: float) -> None:
        """Take another time to connect, in seconds."""
        self._connect_timeout = connect_timeout

    async def answer(self, request: web.BaseRequest, holder: Holder) -> Answer:
        """Set the rule that a path names, for a day. Raises Problem."""
        if request.query:
            raise Problem(HTTPStatus.BAD_REQUEST, "this path takes no query parameter")
        path = request.rel_url.raw_path
        what, start = ("id", JOBS) if path.startswith(JOBS) else ("batch", BATCHES)
        now = time.time()
        try:
            match = matched(f"{what}={unquote(path.removeprefix(start))}")
        except RuleError:
            raise Problem(HTTPStatus.NOT_FOUND, f"this cannot be the {what} of a job") from None
        by = f"http:{holder.name}" if holder.name else "http"
        rule = rule_of("cancel", match, by, now, now + DAY)
        async with self._turns.turn():
            await self._set(rule, now)
        told = {"rule": rule.id, "match": rule.match, "until": shown(rule.until)}
        return Answer(HTTPStatus.ACCEPTED, msgspec.json.encode(told))

    async def _set(self, rule: Rule, now: float) -> None:
        """Put a rule in force. Raises Problem."""
        try:
            if self._keys is None:
                self._keys = await asyncio.to_thread(self._read_keys)
            async with book(self._urls, self._prefix, self._connect_timeout) as found:
                edit = with_rule(rule, now, MOST, SAME)
                await change(found, self._keys, edit, now)
            # Daemons that know of no rules yet look for them when they are asked.
            async with asking(self._urls, self._prefix, self._connect_timeout) as asker:
                await asker.ask(QUESTION)
        except RuleError as error:
            self._event("gateway_refused", error=str(error))
            raise unavailable(FULL, AGAIN) from error
        except ValueError as error:
            self._event("gateway_refused", error=str(error))
            raise unavailable(NO_KEY, AGAIN) from error
        except (OSError, BrokerRefused, TopologyError) as error:
            self._event("gateway_refused", error=str(error))
            raise unavailable(AWAY, AGAIN) from error
