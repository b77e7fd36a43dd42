"""Which policy holds for a queue: priorities, kinds, patterns, and operator policies over it.

May touch: the pure functions.
Must never: need a broker (tests/e2e/bounds/test_policies.py has one).
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraperd.broker.rabbitmq.inspection.matching import applied, policies_of, unread
from tests.rig.clocks.effort import scaled


def policy(name: str, pattern: str = ".*", priority: int = 0, **definition: Any) -> dict[str, Any]:
    """One as the API tells it; `apply_to` is a key of its own."""
    kind = definition.pop("apply_to", "queues")
    values = {key.replace("_", "-"): value for key, value in definition.items()}
    return {
        "name": name,
        "pattern": pattern,
        "apply-to": kind,
        "definition": values,
        "priority": priority,
    }


def effective(user: list[Any], operator: list[Any], kind: str = "quorum") -> dict[str, Any]:
    """What holds for the queue `team.jobs`."""
    found = applied("team.jobs", kind, policies_of(user), policies_of(operator))
    return dict(found["effective_policy_definition"])


def test_the_highest_priority_counts_alone() -> None:
    """Policies do not add up."""
    low, high = policy("low", expires=5), policy("high", priority=9, max_length=6)
    assert effective([low, high], []) == {"max-length": 6}
    assert effective([low, policy("other", "^other", 9, max_length=6)], []) == {"expires": 5}


def test_an_operator_policy_lowers_what_a_policy_says() -> None:
    """Of limits the smaller one counts; other keys are the operator's."""
    user = [policy("u", max_length=5, message_ttl=100, overflow="drop-head")]
    operator = [policy("o", max_length=9, message_ttl=7, expires=3, overflow="reject-publish")]
    assert effective(user, operator) == {
        "max-length": 5,
        "message-ttl": 7,
        "expires": 3,
        "overflow": "reject-publish",
    }


@pytest.mark.parametrize(
    ("kind", "applies_to", "fits"),
    [
        ("quorum", "all", True),
        ("quorum", "quorum_queues", True),
        ("quorum", "classic_queues", False),
        ("quorum", "exchanges", False),
        ("quorum", "streams", False),
        ("classic", "classic_queues", True),
        ("classic", "quorum_queues", False),
    ],
)
def test_a_policy_is_for_kinds_of_queues(kind: str, applies_to: str, *, fits: bool) -> None:
    """`apply-to` of the policy, and the type of the queue."""
    found = effective([policy("p", apply_to=applies_to, expires=1)], [], kind)
    assert bool(found) is fits


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("", True),
        ("jobs", True),
        ("^jobs", False),
        (r"^team\.", True),
        (r"^(?!amq\.).*", True),
        (r"^(?!amq\.)", True),
        (r"^(?!team[.])", False),
        (r"^(?!team\.jobs$).*$", False),
        (r"(?<!a)b", None),
        ("(", None),
        ("a" * 2000, None),
    ],
)
def test_patterns(pattern: str, *, fits: bool | None) -> None:
    """They are searched for, not compared; one that only RabbitMQ can read is told."""
    found = policies_of([policy("p", pattern, expires=1)])
    assert found[0].fits("team.jobs", "quorum") is fits
    assert bool(unread("team.jobs", found)) is (fits is None)


def test_no_pattern_takes_long() -> None:
    """Whoever may write policies cannot hold the daemon up."""
    started = time.process_time()
    for pattern in ("(a+)+$", "^(?!(a|a)*b).*", "^(?!a{999}{999})x", "(.*)(.*)(.*)(.*)x{1000}$"):
        policies_of([policy("p", pattern, expires=1)])[0].fits("a" * 255, "quorum")
    assert time.process_time() - started < scaled(0.2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(("name", "pattern", "apply-to", "definition", "priority"))


@given(answer=JSON | st.lists(st.dictionaries(KEYS, JSON), max_size=4))
def test_no_answer_raises(answer: Any) -> None:
    """Whatever the other end says."""
    found = policies_of(answer)
    applied("team.jobs", "quorum", found, found)
    unread("team.jobs", found)
