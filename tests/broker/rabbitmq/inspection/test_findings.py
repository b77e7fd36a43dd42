"""What is made of the management API's answers: harm of policies, and differences of queues.

May touch: the pure functions.
Must never: need a broker (tests/e2e/bounds/test_policies.py has one).
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scraperd.broker.rabbitmq.inspection.findings import (
    bounds,
    differences,
    exchange_differs,
    policies,
)
from scraperd.broker.rabbitmq.topology import Topology

TEAM = Topology("team")
QUEUES = {queue.name: queue for queue in TEAM.queues}


def found(policy: str = "", operator: str = "", **effective: Any) -> dict[str, Any]:
    """The same policy on all queues, as the API tells it."""
    definition = {key.replace("_", "-"): value for key, value in effective.items()}
    answer = {
        "policy": policy,
        "operator_policy": operator,
        "effective_policy_definition": definition,
    }
    return dict.fromkeys(QUEUES, answer)


def as_it_should_be(name: str) -> dict[str, Any]:
    """A queue that was declared by the daemon."""
    return {
        "type": "quorum",
        "durable": True,
        "arguments": QUEUES[name].arguments,
        "effective_policy_definition": [],
    }


def test_one_line_for_each_policy_and_harm() -> None:
    """Queues of the same harm share a line, which names three of them."""
    [line] = policies(TEAM, found("all", expires=5000))
    first = f"{TEAM.dead}, {TEAM.undelivered}, {TEAM.results} and {len(QUEUES) - 3} more"
    assert line.startswith(f"policy 'all' sets expires = 5000 for {first}: RabbitMQ deletes")
    assert "such as '^(?!team[.])'" in line
    [line] = policies(TEAM, found("", "theirs", overflow="drop-head"))
    assert line.startswith("operator policy 'theirs' sets overflow = drop-head")
    assert len(policies(TEAM, found("all", message_ttl=10_000))) == 4


def test_what_does_no_harm() -> None:
    """A limit of the jobs queue, a time that no delay reaches, keys of other kinds of queues."""
    limit = found("limit", max_length=5)[TEAM.jobs]
    assert not policies(TEAM, {TEAM.jobs: limit})
    delays = {name: found("p", message_ttl=3_600_000)[name] for name in TEAM.delays}
    assert not policies(TEAM, delays)
    assert not policies(TEAM, found("p", ha_mode="all", overflow="reject-publish"))
    assert not policies(TEAM, found("p", delivery_limit=-1))
    assert not policies(TEAM, dict.fromkeys(QUEUES))


def test_the_smaller_limit_counts() -> None:
    """Of the queue's own argument and the policy's."""
    both = {
        "arguments": {"x-max-length": 9, "x-max-length-bytes": 100},
        "effective_policy_definition": {"max-length": 5},
    }
    words = bounds(TEAM, {TEAM.jobs: both})
    assert words.startswith("queue team.jobs: max-length = 5, max-length-bytes = 100;")
    assert not bounds(TEAM, {})


def test_a_queue_as_it_should_be() -> None:
    """Nothing differs, also where a policy stands for an argument."""
    for name, queue in QUEUES.items():
        bound = [{"source": "", "routing_key": name}]
        if queue.binding:
            bound.append({"source": queue.binding[0], "routing_key": queue.binding[1]})
        assert not [*differences(TEAM, queue, as_it_should_be(name), bound)]
    by_policy = as_it_should_be(TEAM.dead)
    by_policy["arguments"] = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
    by_policy["effective_policy_definition"] = {"delivery-limit": 1_000_000_000}
    assert not [*differences(TEAM, QUEUES[TEAM.dead], by_policy, None)]


def test_what_differs_is_named() -> None:
    """Type, durability, an argument, a binding, an exchange."""
    answer = {**as_it_should_be(TEAM.jobs), "type": "classic", "durable": False}
    answer["arguments"] = {**answer["arguments"], "x-delivery-limit": 5, "x-overflow": "drop-head"}
    answer["arguments"]["x-expires"] = 7
    said = " ".join(differences(TEAM, QUEUES[TEAM.jobs], answer, []))
    for part in (
        "is not durable",
        "exists with x-delivery-limit = 5",
        "has x-queue-type = classic (must be quorum), ",
        "x-overflow = drop-head (must be reject-publish)",
        "has x-expires = 7: RabbitMQ deletes a queue",
        "is not bound to the exchange 'team.jobs' with the key 'team.jobs'",
    ):
        assert part in said
    assert "must have direct" in "".join(exchange_differs("x", "direct", {"type": "fanout"}))
    assert not [
        *exchange_differs("x", "direct", {"type": "direct"}),
        *exchange_differs("x", "y", 1),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ANSWER = st.dictionaries(
    st.sampled_from(
        ("policy", "operator_policy", "effective_policy_definition", "arguments", "type", "durable")
    ),
    JSON
    | st.dictionaries(
        st.sampled_from(("expires", "message-ttl", "max-length", "overflow", "delivery-limit")),
        JSON,
    ),
)


@given(answer=JSON | ANSWER, bound=JSON)
def test_no_answer_raises(answer: Any, bound: Any) -> None:
    """Whatever the other end says: it may not be RabbitMQ at all."""
    assert all("\n" not in line for line in policies(TEAM, dict.fromkeys(QUEUES, answer)))
    bounds(TEAM, {TEAM.jobs: answer})
    for queue in QUEUES.values():
        assert all("\n" not in line for line in differences(TEAM, queue, answer, bound))
    assert all("\n" not in line for line in exchange_differs("x", "direct", answer))
