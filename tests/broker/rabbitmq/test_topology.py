"""Every queue's name and arguments, and the broker's refusals in words.

May touch: the data; messages that RabbitMQ 3.10.8 really sent.
Must never: need a broker (test_daemon.py declares the same things on one).
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scraperd.broker.rabbitmq.topology import DELAYS, Topology, conflict, wait_within

TOPOLOGY = Topology("team")
QUEUES = {queue.name: queue for queue in TOPOLOGY.queues}


def test_every_name_is_under_the_prefix() -> None:
    """Teams can share a broker: no exchange or queue is outside the prefix, and none is twice."""
    assert len(QUEUES) == len(TOPOLOGY.queues) == 6 + len(DELAYS)
    assert TOPOLOGY.exchanges == (("team.jobs", "direct"), ("team.results", "topic"))
    assert all(name.startswith("team.") for name in QUEUES)


def test_no_queue_can_lose_a_message() -> None:
    """Every queue is replicated and refuses when full; the ladder dead-letters at least once."""
    for queue in TOPOLOGY.queues:
        assert queue.arguments["x-queue-type"] == "quorum"
        assert queue.arguments["x-overflow"] == "reject-publish"
    for name in TOPOLOGY.delays:
        assert QUEUES[name].arguments["x-dead-letter-strategy"] == "at-least-once"


def test_no_queue_that_others_feed_is_dead_lettered_at_least_once() -> None:
    """On RabbitMQ 3.10 one message in such a queue would stop the retries of every prefix."""
    for queue in TOPOLOGY.queues:
        if queue.name not in TOPOLOGY.delays:
            assert "x-dead-letter-strategy" not in queue.arguments


def test_the_bindings() -> None:
    """Jobs come through their exchange by their own name, results of all kinds into one queue."""
    bindings = {queue.name: queue.binding for queue in TOPOLOGY.queues if queue.binding}
    assert bindings == {
        "team.jobs": ("team.jobs", "team.jobs"),
        "team.results": ("team.results", "#"),
    }


def test_where_a_job_goes_that_takes_its_process_down() -> None:
    """The broker itself takes it away long after we should have: to where we settle it, and from
    there to the dead queue. From where results and dead letters are kept, reading without an ack
    removes nothing, however often.
    """
    targets = dict.fromkeys(
        ("team.jobs", "team.quarantine", "team.quarantine.solo"), "team.undelivered"
    )
    for name, target in (targets | {"team.undelivered": "team.dead"}).items():
        arguments = QUEUES[name].arguments
        assert arguments["x-delivery-limit"] == 100
        assert arguments["x-dead-letter-exchange"] == ""
        assert arguments["x-dead-letter-routing-key"] == target
    for name in ("team.results", "team.dead"):
        assert QUEUES[name].arguments["x-delivery-limit"] >= 1_000_000
        assert "x-dead-letter-exchange" not in QUEUES[name].arguments


@pytest.mark.parametrize("seconds", DELAYS)
def test_a_tier_waits_and_gives_back(seconds: int) -> None:
    """Each tier holds a job for its own time and then hands it to the jobs exchange."""
    arguments = QUEUES[f"team.delay.{seconds}"].arguments
    assert arguments["x-message-ttl"] == seconds * 1000
    assert arguments["x-dead-letter-exchange"] == "team.jobs"
    assert arguments["x-dead-letter-routing-key"] == "team.jobs"


@pytest.mark.parametrize(
    ("seconds", "tier"),
    [(0.0, 1), (0.2, 1), (1.0, 1), (1.001, 2), (7, 10), (249.9, 250), (3600, 3600), (1e9, 3600)],
)
def test_a_delay_is_rounded_up_to_a_tier(seconds: float, tier: int) -> None:
    """A job never comes back before its time, as far as the longest tier goes."""
    assert TOPOLOGY.delay(seconds) == f"team.delay.{tier}"


@pytest.mark.parametrize(
    ("seconds", "tier"),
    [(0.0, 1), (0.2, 1), (1.0, 1), (1.999, 1), (2.0, 2), (7, 6), (3599, 2500), (1e9, 3600)],
)
def test_a_turn_is_waited_for_in_the_longest_tier_before_it(seconds: float, tier: int) -> None:
    """A snoozed job comes back before its turn, or after the shortest tier."""
    assert wait_within(seconds) == tier


def test_a_turn_within_the_hour_is_a_handful_of_moves_away() -> None:
    """Snoozed again and again for what is left, a job is within `snooze_after` of its turn after at
    most seven moves, and after four in the mean.
    """
    moves = []
    for start in range(3, 3600):
        left, count = float(start), 0
        while left > 2.0:
            left -= wait_within(left)
            count += 1
        moves.append(count)
    assert max(moves) <= 7
    assert sum(moves) / len(moves) < 4.2


@given(seconds=st.floats(0, 3600))
@settings(max_examples=100, deadline=None)
def test_every_delay_has_a_tier_that_exists(seconds: float) -> None:
    """The tier that a delay names is declared, waits long enough, and none shorter would do."""
    queue = TOPOLOGY.delay(seconds)
    waits = QUEUES[queue].arguments["x-message-ttl"] / 1000
    assert seconds <= waits
    assert not [tier for tier in DELAYS if seconds <= tier < waits]


DELETE_QUEUE = "drain and delete it (rabbitmqctl delete_queue --vhost / a)"
DELETE_EXCHANGE = "delete it (rabbitmqadmin --vhost=/ delete exchange name=a)"


# What of which kind, received, current; what is shown of both; the remedies beside another prefix.
@pytest.mark.parametrize(
    ("arg", "what", "received", "current", "ours", "theirs", "delete"),
    [
        ("x-delivery-limit", "queue", "'6'", "'5'", "6", "5", DELETE_QUEUE),
        (
            *("x-delivery-limit", "queue", "the value '5' of type 'byte'", "none"),
            *("5", "nothing", DELETE_QUEUE),
        ),
        (
            *("x-delivery-limit", "queue", "none", "the value '5' of type 'byte'"),
            *("nothing", "5", DELETE_QUEUE),
        ),
        (
            *("x-queue-type", "queue", "the value 'quorum' of type 'longstr'", "none"),
            *("quorum", "nothing", DELETE_QUEUE),
        ),
        ("x-queue-type", "queue", "'quorum'", "'classic'", "quorum", "classic", DELETE_QUEUE),
        ("x-message-ttl", "queue", "'2000'", "'1000'", "2000", "1000", DELETE_QUEUE),
        ("durable", "queue", "'true'", "'false'", "true", "false", DELETE_QUEUE),
        ("type", "exchange", "'topic'", "'direct'", "topic", "direct", DELETE_EXCHANGE),
        (
            *("alternate-exchange", "exchange", "none", "the value 'y' of type 'longstr'"),
            *("nothing", "y", DELETE_EXCHANGE),
        ),
    ],
)
def test_a_conflict_is_told_in_words(
    *,
    arg: str,
    what: str,
    received: str,
    current: str,
    ours: str,
    theirs: str,
    delete: str,
) -> None:
    """The broker's 406 becomes which queue, which argument, both values, and what to do."""
    text = (
        f"PRECONDITION_FAILED - inequivalent arg '{arg}' for {what} 'a' in vhost '/': "
        f"received {received} but current is {current}"
    )
    assert conflict("a", text) == (
        f"{what} 'a' exists with {arg} = {theirs}, but scraperd asks for {ours}. That can't be "
        f"changed: choose another broker.prefix, or {delete} and start again."
    )


def test_the_remedy_can_be_pasted() -> None:
    """A vhost with a quote or a space in its name is quoted for the shell."""
    text = (
        "inequivalent arg 'x' for queue 'a' in vhost 'it's here': received '1' but current is '2'"
    )
    assert "delete_queue --vhost 'it'\"'\"'s here' a)" in conflict("a", text)


OTHER_TEXT = (
    "PRECONDITION_FAILED - invalid arg 'x-dead-letter-routing-key' for queue 'f' in vhost '/': "
    "routing_key_but_no_dlx_defined"
)


@given(
    text=st.text(max_size=80)
    | st.builds("inequivalent arg '{}' for queue '{}'".format, st.text(), st.text())
)
@settings(max_examples=100, deadline=None)
@example(text=OTHER_TEXT)
def test_an_unknown_refusal_is_passed_on(text: str) -> None:
    """A message of another kind is shown as it is, with the name that was declared."""
    assert conflict("team.jobs", text) == (
        f"'team.jobs' exists and differs from what scraperd needs: {text}"
    )
