"""Where results may be sent: the default, patterns, and what no pattern opens.

May touch: the pure functions.
Must never: need a broker.
"""

from __future__ import annotations

import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraperd.broker.rabbitmq.reply_patterns import Addresses, fits
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.config.tables import BrokerSettings
from tests.rig.clocks.effort import scaled

TEAM = Topology("team")
DEFAULT = Addresses.of(TEAM, BrokerSettings().allow_reply_to)
OPEN = Addresses.of(TEAM, ["*"])

ALLOWED = ("team.results", "team.reply.me", "team.reply.a.b", "team.reply.", "amq.gen-x")


@pytest.mark.parametrize("queue", ALLOWED)
def test_what_the_default_allows(queue: str) -> None:
    """A prefix of its own below ours, queues that the broker named, and the results queue."""
    assert not DEFAULT.refuses(queue)


@pytest.mark.parametrize("queue", ["", "team", "mine", "team.reply", "teams.reply.me", "amq.gen"])
def test_what_the_default_refuses(queue: str) -> None:
    """Any other queue: a publisher could write there with the daemon's rights."""
    assert DEFAULT.refuses(queue)
    assert OPEN.refuses(queue) is (queue == "team.reply")


@pytest.mark.parametrize("prefix", ["team", "other", "a.b", "team.reply", "amq.gen-x"])
def test_queues_of_a_scraperd_are_never_allowed(prefix: str) -> None:
    """Of our prefix and of any other, whatever the patterns say; but for our own results."""
    own = {queue.name for queue in Topology(prefix).queues} | {f"{prefix}.delay.5"}
    for queue in own - {TEAM.results}:
        literal = Addresses.of(TEAM, [queue])
        assert DEFAULT.refuses(queue)
        assert OPEN.refuses(queue)
        assert literal.refuses(queue)
        assert literal.vain == [queue]


TOPICS = Addresses.of(TEAM, ["/topic/{prefix}.reply.*", "/topic/other"])


def test_a_topic_needs_a_pattern_of_its_own() -> None:
    """A pattern of queues opens no topic, and a pattern of topics no queue."""
    allowed = ("/topic/team.reply.a", "/topic/other")
    assert not any(TOPICS.refuses(topic) for topic in allowed)
    assert TOPICS.refuses("/topic/others")
    assert TOPICS.refuses("team.reply.a")
    assert TOPICS.refuses("other")
    for topic in allowed:
        assert OPEN.refuses(topic)
        assert DEFAULT.refuses(topic)


def test_a_topic_that_is_named_like_a_queue_of_ours_is_never_allowed() -> None:
    """MQTT clients publish jobs by a binding with such a key: results would come back as jobs."""
    wide = Addresses.of(TEAM, ["/topic/*"])
    assert not wide.refuses("/topic/any")
    for name in ("team.jobs", "team.results", "other.jobs", "team.delay.5"):
        assert wide.refuses(f"/topic/{name}")
        assert Addresses.of(TEAM, [f"/topic/{name}"]).vain == [f"/topic/{name}"]


CLIENT = "amq.rabbitmq.reply-to.g1h2AA1yZXBseUA5MjQ4ODg0AAACXQAAAABrCmBU.+ly9U2vwZ6O5X2Bqng3VUQ=="


def test_a_client_of_direct_reply_to_may_be_named() -> None:
    """As RabbitMQ 3.10.8 and 4.0.5 wrote it into a job, and if the patterns allow it."""
    assert not DEFAULT.refuses(CLIENT)
    assert not OPEN.refuses(CLIENT)
    assert Addresses.of(TEAM, ["team.reply.*"]).refuses(CLIENT)


@pytest.mark.parametrize(
    "queue",
    [
        "amq.rabbitmq.reply-to",
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.x.y",
        "amq.rabbitmq.reply-to.g1h.x",
        "amq.rabbitmq.trace",
        CLIENT.replace("amq.rabbitmq.reply-to", "amq.rabbitmq.other"),
        CLIENT[:-4],
        CLIENT + ".x",
        CLIENT + "\n",
        CLIENT.replace("g1h2", "g1d2"),
        CLIENT.replace("g1h2AA1yZXBseU", "g1h2AA1yZXBzeU"),
    ],
)
def test_other_names_of_the_broker_are_never_allowed(queue: str) -> None:
    """RabbitMQ ends the connection over names that it did not make."""
    assert OPEN.refuses(queue)
    literal = Addresses.of(TEAM, [queue, "amq.rabbitmq.*"])
    assert literal.refuses(queue)
    assert literal.vain == [queue]


def test_nothing_but_the_results_without_patterns() -> None:
    """An empty list switches reply_to off."""
    none = Addresses.of(TEAM, [])
    assert [queue for queue in ALLOWED if not none.refuses(queue)] == ["team.results"]


TEXT = st.text("ab.[?", max_size=12)


@given(pattern=st.text("ab*.", max_size=8), name=TEXT)
def test_a_star_stands_for_any_text(pattern: str, name: str) -> None:
    """As fnmatch has it, which knows more than stars."""
    assert fits(pattern, name) is fnmatchcase(name, pattern)


def test_no_special_characters_beside_the_star() -> None:
    """Queues may have any name."""
    for name in ("a?", "[ab]", "a\\", "ü", "{x}"):
        assert fits(name, name)
    assert not fits("a?", "ab")
    assert not fits("[ab]", "a")


def test_matching_takes_no_longer_than_reading() -> None:
    """A pattern at which a backtracking matcher would end after the universe, a thousand times."""
    pattern, name = "a*" * 127 + "b", "a" * 255
    began = time.thread_time()
    for _ in range(1000):
        assert not fits(pattern, name)
    assert time.thread_time() - began < scaled(5)
