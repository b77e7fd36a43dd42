"""Tests of how a call of the AMQP library ends: each row of the table in generation.py is driven.

May touch: a generation that never connects, the running loop.
Must never: need a broker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from aiormq.exceptions import ChannelInvalidStateError

from scraperd.base.clocks import SYSTEM
from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq import generation as module
from scraperd.broker.rabbitmq.generation import WAKE_AFTER, Generation, Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.broker.ports import Delivery

SETTINGS = Settings(("amqp://127.0.0.1:1/",), "t", 10, 5, 0.1, 1, 30, passive=False)
LOST = "the test ended it"


def table(title: str) -> list[list[str]]:
    """The cells of each row of the table in generation.py whose first heading is `title`."""
    lines = iter((module.__doc__ or "").splitlines())
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith(f"| {title}"):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    return rows
                rows.append([cell.strip() for cell in row.strip("|").split("|")])
    return rows


async def answered() -> str:
    return "answer"


async def failing() -> str:
    raise ChannelInvalidStateError


async def closed_in_order() -> str:
    raise Exception  # noqa: TRY002 - just so does the library


async def forgotten() -> str:
    await asyncio.Event().wait()
    return "never"


CALLS: dict[str, Callable[[], Awaitable[str]]] = {
    "is answered": answered,
    "fails by itself": failing,
    "ends by an orderly close": closed_in_order,
    "is forgotten": forgotten,
    "is cancelled by its task": forgotten,
}
RAISED: dict[str, type[BaseException] | None] = {
    "": None,
    "that error": ChannelInvalidStateError,
    "Lost": Lost,
    "CancelledError": asyncio.CancelledError,
}


@pytest.mark.parametrize(
    ("call", "state", "raised"),
    [
        pytest.param(call, state, raised, id=f"{call}, {state}")
        for call, _, written, raised in table("the call")
        for state in (("live", "lost") if written == "any" else (written,))
    ],
)
async def test_each_row_of_the_calls(call: str, state: str, raised: str) -> None:
    """The caller meets what the table says, and a task that was cancelled stays cancelled."""
    generation = Generation(SETTINGS, SETTINGS.urls[0], SYSTEM)

    async def calling() -> str:
        with generation.calling():
            return await CALLS[call]()

    task = asyncio.create_task(calling())
    if CALLS[call] is forgotten:
        await asyncio.sleep(0)
    if state == "lost":
        generation.end(LOST)
    if call == "is cancelled by its task":
        task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    wanted = RAISED[raised]
    assert outcome == "answer" if wanted is None else type(outcome) is wanted
    if wanted is Lost:
        assert (
            str(outcome) == f"lost the broker: {LOST if state == 'lost' else 'connection closed'}"
        )
    await generation.close()


def test_the_tables_name_what_is_tested() -> None:
    """A row that is added to a table needs a test, and each way of a call is in the table."""
    assert {row[0] for row in table("the call")} == set(CALLS)
    assert [row[0] for row in table("state")] == ["new", "live", "lost", "closed"]


async def test_a_generation_that_is_cancelled_and_lost_at_once() -> None:
    """A task that somebody cancels while the forgotten calls are ended is cancelled, not lost."""
    generation = Generation(SETTINGS, SETTINGS.urls[0], SYSTEM)

    async def calling() -> None:
        with generation.calling():
            await forgotten()

    task = asyncio.create_task(calling())
    await asyncio.sleep(0)
    generation.end(LOST)
    asyncio.get_running_loop().call_later(WAKE_AFTER, task.cancel)  # behind the one of `end`
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert type(outcome) is asyncio.CancelledError


async def test_a_generation_never_comes_back() -> None:
    """Live, lost, closed: the first reason stays, acks return False, a publish raises Lost."""
    generation = Generation(SETTINGS, SETTINGS.urls[0], SYSTEM)
    assert not generation.lost.done()
    generation.end("first")
    generation.end("second")
    assert generation.lost.result() == "first"
    with pytest.raises(Lost, match="lost the broker: first"):
        await generation.publish("", "q", b"", properties=None)  # type: ignore[arg-type]
    await generation.close()
    await generation.close()
    assert generation.lost.result() == "first"
    assert await generation.ack(cast("Delivery", None)) is False
