"""A command that changes the rules is killed at each of its steps: the next one goes on at once.

May touch: the book of rules on a private broker.
Must never: wait for luck.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.rules.stream import ARGUMENTS, stream_of
from scraperd.broker.rabbitmq.rules.writing import RulesBook, book
from scraperd.broker.rabbitmq.wire.dial import dial
from scraperd.broker.rabbitmq.wire.errors import Closed
from scraperd.control.desk import change, newest, rule_of, rules_of
from scraperd.control.rules import matched, with_rule
from scraperd.control.stored import written
from scraperd.jobs.signing import Keys
from tests.rig.brokers.users import User

if TYPE_CHECKING:
    from scraperd.control.rules import RuleSet
    from tests.e2e.control.conftest import Fleet
    from tests.rig.brokers.node import Node

KEYS = Keys([b"k" * 32], "p", time.time)


async def add(fleet: Fleet, ident: str) -> RuleSet:
    """Cancel a job as the commands do."""
    now = time.time()
    rule = rule_of("cancel", matched(f"id={ident}"), "", now, now + 60)
    async with book((fleet.url,), fleet.prefix, 5) as found:
        return await change(found, KEYS, with_rule(rule, now), now)


@pytest.mark.parametrize("step", ["locked", "stream made", "read", "written"])
async def test_a_writer_is_killed(fleet: Fleet, step: str) -> None:
    """Its change is there or not, no other rule is lost, and nobody waits for its lock."""
    if step in ("read", "written"):
        await add(fleet, "before")
    connection = await dial(fleet.url, "killed", 10, 5)
    found = RulesBook(connection, fleet.prefix)
    await found.lock()
    expected = {"after"}
    match step:
        case "stream made":
            channel = await connection.channel()
            await channel.declare_queue(stream_of(fleet.prefix), ARGUMENTS, passive=False)
        case "read":
            expected.add("before")
            assert newest(await found.records(), KEYS)
        case "written":
            expected |= {"before", "killed"}
            now = time.time()
            current = await rules_of(found, KEYS)
            rule = rule_of("cancel", matched("id=killed"), "", now, now + 60)
            after = type(current)(current.version + 1, with_rule(rule, now)(current))
            await found.write(written(after, KEYS))
    connection.abort(Closed("killed"))
    with suppress(OSError):
        await connection.close(1)
    rules = await add(fleet, "after")
    assert {rule.value for rule in rules.rules} == expected


async def test_the_lock_is_waited_for_and_not_for_ever(fleet: Fleet) -> None:
    """Who holds it keeps all others out; the error names the queue."""
    async with (
        book((fleet.url,), fleet.prefix, 5),
        book((fleet.url,), fleet.prefix, 5, writes=False) as other,
    ):
        with pytest.raises(Lost, match=r"rules\.lock"):
            await other.lock(0.3)


def test_the_permissions_of_the_documents_are_enough(node: Node, fleet: Fleet) -> None:
    """For a user of the commands (docs/operations/queues.md); without them the lack is named."""
    user = User.add(node, f"u{fleet.prefix}")
    ours = fleet.prefix
    key = {"SCRAPERD_BROKER_URL": user.url, "SCRAPERD_JOBS__SIGNING_KEY_FILE": fleet.key}
    with fleet.daemon(jobs__signing_key_file=fleet.key).ready():
        user.permit("^$", "^$", "^$")
        done = fleet.run("cancel", "id=a", **key)
        assert (done.returncode, f"{ours}.rules" in done.stderr) == (1, True)
        user.permit(
            rf"^{ours}\.(reply\.|rules)",
            rf"^{ours}\.(ask$|reply\.)|^amq\.default$",
            rf"^{ours}\.(rules$|reply\.)",
        )
        assert fleet.run("cancel", "id=a", **key).stderr == "in force in 1 processes\n"
        assert fleet.run("rules", **key).returncode == 0
    user.delete()
