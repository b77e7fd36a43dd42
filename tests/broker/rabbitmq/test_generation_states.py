"""A generation without a broker: its states, as the table in generation.py has them.

May touch: a generation that never connects, the running loop.
Must never: need a broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from scraperd.base.clocks import SYSTEM
from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq import generation as module
from scraperd.broker.rabbitmq.generation import Generation, Settings

if TYPE_CHECKING:
    from scraperd.broker.ports import Delivery

SETTINGS = Settings(("amqp://127.0.0.1:1/",), "t", 10, 5, 0.1, 1, 30, passive=False)


def test_the_table_names_the_states_that_are_tested() -> None:
    """A state that is added to the table needs a test."""
    rows = [line for line in (module.__doc__ or "").splitlines() if line.startswith("| ")]
    states = [row.strip("|").split("|")[0].strip() for row in rows]
    assert states == ["state", "------", "new", "live", "lost", "closed"]


async def test_a_generation_never_comes_back() -> None:
    """Live, lost, closed: the first reason stays, acks return False, a publish raises Lost."""
    generation = Generation(SETTINGS, SETTINGS.urls[0], SYSTEM)
    assert not generation.lost.done()
    generation.end("first")
    generation.end("second")
    assert generation.lost.result() == "first"
    with pytest.raises(Lost, match="lost the broker: first"):
        await generation.publish("", "q", b"", properties=None)  # type: ignore[arg-type]
    with pytest.raises(Lost, match="lost the broker: first"):
        await generation.channel()
    with pytest.raises(Lost, match="lost the broker: first"):
        await generation.reading()
    assert await generation.count("q") is None
    await generation.close()
    await generation.close()
    assert generation.lost.result() == "first"
    assert await generation.ack(cast("Delivery", None)) is False
