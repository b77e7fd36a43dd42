"""Dead letters for the page: listed, and published again or purged by who has an admin's token.

May touch: the operator's desk, the log.
Must never: change a letter that was not counted before, or let two work at the desk at a time.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from scraperd.base.hosts import HostSet, host_pattern
from scraperd.base.text import printable
from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.deadletters import desk
from scraperd.deadletters.letter import Filters
from scraperd.server.problems import Problem, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from scraperd.dashboard.descriptions import Description, What
    from scraperd.deadletters.letter import Readable

MAX_LISTED: Final = 200  # letters
MAX_ACTION: Final = 10_000  # letters of one action
LIST_TIMEOUT: Final = 30.0  # seconds
ACTION_TIMEOUT: Final = 300.0  # seconds
MAX_TEXT: Final = 500  # characters of what a letter says
BUSY: Final = "somebody else works with these dead letters by this gateway; try again"

Texts: TypeAlias = Annotated[list[Annotated[str, Meta(max_length=300)]], Meta(max_length=200)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=100 * 365 * 86400)]


class Asked(Struct, forbid_unknown_fields=True):
    """Which letters are meant: of each filter that is given, one of its values must fit.

    `older_than` and `newer_than` are seconds since they died. With `all` no filter is given.
    """

    reason: Texts = []
    kind: Texts = []
    host: Texts = []
    id: Texts = []
    older_than: Seconds | None = None
    newer_than: Seconds | None = None
    all: bool = False

    def filters(self, about: Description) -> Filters:
        """Return the filters for letters of this queue. Raises Problem."""
        now = datetime.now(UTC)
        for name, given, known in (
            ("reason", self.reason, about.reasons),
            ("kind", self.kind, about.kinds),
        ):
            if wrong := sorted({*given} - {*known}):
                those = ", ".join(sorted(known)) or "those of this queue, which has none"
                raise _wrong(name, f"{printable(wrong[0])} is not one of {those}")
        try:
            hosts = HostSet(tuple(map(host_pattern, self.host)))
        except ValueError:
            raise _wrong("host", "write www.example.com or *.example.com") from None
        return Filters(
            reasons=frozenset(self.reason),
            kinds=frozenset(self.kind),
            hosts=hosts,
            idents=frozenset(self.id),
            before=now - timedelta(seconds=self.older_than) if self.older_than else None,
            after=now - timedelta(seconds=self.newer_than) if self.newer_than else None,
        )

    @property
    def words(self) -> str:
        """The filters in a line, for the log."""
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value}
        return printable(msgspec.json.encode(given).decode(), MAX_TEXT)


class Action(Asked):
    """What is to be done. Without `expected` the letters are only counted.

    `expected` is how many were counted: no more are changed.
    """

    expected: Annotated[int, Meta(ge=1, le=MAX_ACTION)] | None = None


class Letters:
    """The desk behind one panel of the page. `event` writes to the log, `note` to the page."""

    def __init__(
        self,
        about: Description,
        event: Callable[..., None],
        note: Callable[[dict[str, Any]], None],
    ) -> None:
        self.about = about
        self._event = event
        self._note = note
        self._busy = asyncio.Lock()

    async def listed(self, asked: Asked) -> dict[str, Any]:
        """Return the first letters that match, and how many there are. Raises Problem."""
        about, now, found = self.about, datetime.now(UTC), []
        wanted = desk.Wanted(asked.filters(about), MAX_LISTED, about.read)

        def each(letter: Readable) -> None:
            found.append(_shown(about.line(letter, now)))

        async with self._desk(LIST_TIMEOUT):
            tally = await desk.look(about.opening(), wanted, each)
        return {"letters": found, "total": tally.total, "rest": tally.unseen}

    async def count(self, what: What, action: Action) -> dict[str, Any]:
        """Return how many letters `what` would be done to, at most MAX_ACTION. Raises Problem."""
        wanted = self._wanted(what, action, MAX_ACTION)
        async with self._desk(LIST_TIMEOUT):
            tally = await desk.look(self.about.opening(), wanted, lambda _: None)
        return {"matched": tally.matched, "total": tally.total, "done": 0}

    async def act(self, what: What, action: Action, holder: str) -> dict[str, Any]:
        """Publish again or remove letters, and write that to the log. Raises Problem."""
        wanted, tally = self._wanted(what, action, action.expected), desk.Tally()
        fault = ""
        try:
            async with self._desk(ACTION_TIMEOUT):
                if what == "purge":
                    await desk.purge(self.about.opening(), wanted, tally, None)
                else:
                    await desk.requeue(self.about.opening(), wanted, tally, None)
        except Problem as problem:
            fault = str(problem)
            raise problem.with_members({"done": tally.done}) from problem
        finally:
            self._tell(what, action, holder, tally.done, fault)
        return {"matched": tally.matched, "total": tally.total, "done": tally.done}

    def _wanted(self, what: What, action: Action, most: int | None) -> desk.Wanted:
        """Return the letters that are meant; all must be asked for by name. Raises Problem."""
        filters = action.filters(self.about)
        if bool(filters) == action.all:
            raise _wrong("all", "give a filter, or all: true without filters")
        if what != "purge":
            filters = self.about.believed(filters)
        return desk.Wanted(filters, most, self.about.read)

    def _tell(self, what: What, action: Action, holder: str, done: int, fault: str) -> None:
        queue, filters = self.about.queue, action.words
        self._event(
            "dead_letters",
            holder=holder,
            queue=queue,
            action=what,
            filters=filters,
            jobs=done,
            error=fault,
        )
        at = round(datetime.now(UTC).timestamp(), 1)
        about = {"holder": holder, "queue": queue, "action": what, "filters": filters, "jobs": done}
        self._note({"at": at, **about, "error": fault})

    @asynccontextmanager
    async def _desk(self, seconds: float) -> AsyncIterator[None]:
        """Have the desk alone, for so long. Raises Problem."""
        if self._busy.locked():
            raise Problem(HTTPStatus.CONFLICT, BUSY, headers={"Retry-After": "1"})
        try:
            async with self._busy, asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise unavailable(
                f"it took longer than {seconds:g} s; `{self.about.command}` has no limit", 60
            ) from None
        except (Lost, TopologyError) as error:
            raise unavailable(str(error), 5) from error


def _wrong(field: str, reason: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, f"{field}: {reason}", field=field, reason=reason)


def _shown(line: dict[str, Any]) -> dict[str, Any]:
    return {
        name: printable(value, MAX_TEXT) if isinstance(value, str) else value
        for name, value in line.items()
    }
