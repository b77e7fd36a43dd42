"""The rules that are in force in this process, and what they say of a job.

May touch: the loop's timers; the clocks and the keys that it is handed.
Must never: read the broker, or end or move a job: the worker does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from scraperd.contract import Failure
from scraperd.control.matching import About, Matcher
from scraperd.control.rules import RuleSet
from scraperd.control.stored import read
from scraperd.politeness.admission import NotYet
from scraperd.politeness.host_rules import Limit
from scraperd.scrape.result import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scraperd.base.clocks import Clocks
    from scraperd.contract import Job
    from scraperd.control.rules import Rule
    from scraperd.control.stored import Keys

UNKNOWN_FOR: Final = 2.0  # seconds that the first jobs wait at most for the rules to be read
LOOK_INTERVAL: Final = 60.0  # seconds at most between two looks whether a rule has ended
PAUSED_FOR: Final = (15.0, 3600.0)  # seconds until a paused job comes back


class RulesInForce:
    """Keeps the newest set, and answers for each job. One for the process.

    `on_change` is called when other rules are in force. `event` writes to the log.
    """

    def __init__(self, keys: Keys, event: Callable[..., None], clocks: Clocks) -> None:
        self._keys = keys
        self._event = event
        self._clocks = clocks
        self._set = RuleSet()
        self._next: RuleSet | None = None
        self._known = asyncio.Event()
        self._patience: float | None = None  # until then jobs wait, in the loop's time
        self._timer: asyncio.TimerHandle | None = None
        self._cancels = Matcher(())
        self._pauses = Matcher(())
        self.rules: tuple[Rule, ...] = ()
        """Those that have not ended."""
        self.touched: Counter[str] = Counter()
        """How many times each rule cancelled a job or put one off here, by the rule's id."""
        self.refused = 0
        """Sets without a valid seal."""
        self.on_change: Callable[[], None] = lambda: None

    @property
    def version(self) -> int:
        """The version of the set in force; 0 without one."""
        return self._set.version

    @property
    def quiet(self) -> bool:
        """Whether it is known that no rule is in force."""
        return self._known.is_set() and not self.rules

    # From the broker.

    def take(self, body: bytes, headers: Mapping[str, Any]) -> None:
        """Take a set that the broker holds. It is in force after `settle`."""
        found = read(body, headers, self._keys)
        if found is None:
            if not self.refused:
                self._event("rules_refused", bytes=len(body))
            self.refused += 1
        elif found.version > (self._next or self._set).version:
            self._next = found

    def settle(self) -> None:
        """Put the newest set that was taken in force: there is no newer one now."""
        found, self._next = self._next, None
        if found is not None:
            self._set = found
            self._event("rules_changed", rules=len(found.at(self._clocks.wall())))
        if found is not None or not self._known.is_set():
            self._known.set()
            self._apply()

    def nothing(self) -> None:
        """The broker holds no set, nor anything that could be one."""
        self._next = None
        if self._set.version:
            self._event("rules_changed", rules=0)
        self._set = RuleSet()
        self._known.set()
        self._apply()

    def _apply(self) -> None:
        """Sort the rules that have not ended; again when the next one ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clocks.wall()
        self.rules = rules = self._set.at(now)
        self._cancels = Matcher(rule for rule in rules if rule.do == "cancel")
        self._pauses = Matcher(rule for rule in rules if rule.do == "pause")
        kept = {rule.id for rule in self._set.rules}
        self.touched = Counter({one: n for one, n in self.touched.items() if one in kept})
        if rules:
            wait = min(min(rule.until for rule in rules) - now, LOOK_INTERVAL)
            self._timer = asyncio.get_running_loop().call_later(wait, self._apply)
        self.on_change()

    # For jobs.

    async def held(self, job: Job, ident: str, host: str) -> Failed | NotYet | None:
        """Say why a job is not run now, once the rules are known; None if it is run."""
        if not self._known.is_set():
            await self._wait()
        return self.look(job, ident, host)

    async def _wait(self) -> None:
        """Wait for the rules, until UNKNOWN_FOR after the first job: perhaps none can be read."""
        if self._patience is None:
            self._patience = asyncio.get_running_loop().time() + UNKNOWN_FOR
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._patience):
                await self._known.wait()

    def look(
        self, job: Job, ident: str, host: str, *, begun: bool = False
    ) -> Failed | NotYet | None:
        """Say why a job is not run now, by the rules in force; None if it is run.

        A pause does not stop a fetch that has `begun`.
        """
        if not self.rules:
            return None
        about = About(ident, job.batch.id if job.batch else "", host, job.meta)
        now = self._clocks.wall()
        if (rule := self._cancels.of(about)) is not None and rule.until > now:
            self.touched[rule.id] += 1
            return Failed(Failure("cancelled", f"cancelled by rule {rule.id}: {rule.match}"))
        if begun:
            return None
        if (rule := self._pauses.of(about)) is not None and rule.until > now:
            self.touched[rule.id] += 1
            return self._put_off(host, rule)
        return None

    def paused(self, host: str) -> NotYet | None:
        """Say when a fetch may come back whose host is paused; None if it is not."""
        rule = self._pauses.of_host(host)
        if rule is None or rule.until <= self._clocks.wall():
            return None
        return self._put_off(host, rule)

    @property
    def limits(self) -> dict[str, Limit]:
        """What is set for hosts, by their patterns."""
        return {
            rule.value: Limit(rule.concurrency, rule.delay)
            for rule in self.rules
            if rule.do == "limit" and rule.what == "host"
        }

    @property
    def pauses_hosts(self) -> bool:
        """Whether any host is paused."""
        return self._pauses.has_hosts

    def _put_off(self, host: str, rule: Rule) -> NotYet:
        """For as long again as the pause has lasted: a long one costs few moves of each job."""
        now, (least, most) = self._clocks.wall(), PAUSED_FOR
        return NotYet(host, min(max(least, now - rule.at), most, rule.until - now))
