"""Reply addresses as the clients of other protocols write them, and where they lead.

May touch: the pure functions; Hypothesis.
Must never: need a broker.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraperd.broker.rabbitmq.protocols.addresses import (
    MAX_KEY_BYTES,
    address_of,
    route_of,
    topic_address,
)

ROUTES = {
    "scraperd.reply.me": ("", "scraperd.reply.me"),
    "amq.gen-x": ("", "amq.gen-x"),
    "/queue/amq.gen-x": ("", "amq.gen-x"),
    "/amq/queue/q": ("", "q"),
    "/reply-queue/a/b": ("", "a/b"),
    "/queues/a%2Fb%C3%A9": ("", "a/bé"),
    "/topic/a.b": ("amq.topic", "a.b"),
    "/exchange/amq.topic/a.b": ("amq.topic", "a.b"),
    "/exchanges/amq.topic/a%20b": ("amq.topic", "a b"),
}


@pytest.mark.parametrize(("reply_to", "route"), ROUTES.items())
def test_each_form_leads_to_its_queue_or_topic(reply_to: str, route: tuple[str, str]) -> None:
    """As RabbitMQ itself would take it."""
    assert route_of(address_of(reply_to)) == route


@pytest.mark.parametrize(
    "reply_to",
    [
        *("/queue/", "/queues/", "/queues/%FF", "/queues/%2Fqueue%2Fq", "/queue//queues/q"),
        *("/exchange/other/key", "/exchange/amq.topic", "/temp-queue/x", "/", "/Queue/q"),
    ],
)
def test_what_is_of_no_form_stays_a_name(reply_to: str) -> None:
    """A queue with that name, which no pattern allows unless it says so."""
    assert address_of(reply_to) == reply_to
    assert route_of(reply_to) == ("", reply_to)


@given(st.sampled_from(list(ROUTES)).flatmap(lambda form: st.text().map(lambda end: form + end)))
def test_an_address_is_read_the_same_again(reply_to: str) -> None:
    """A retried job has the address in the place of what its publisher wrote."""
    once = address_of(reply_to)
    assert address_of(once) == once


@pytest.mark.parametrize("key", [None, "", 5, b"\xff", "x" * (MAX_KEY_BYTES + 1), "é" * 200])
def test_what_cannot_be_a_routing_key_is_not_an_address(key: object) -> None:
    """A header may hold anything, and be longer than a property."""
    assert topic_address(key) is None
    longest = topic_address("x" * MAX_KEY_BYTES)
    assert longest is not None
    assert len(longest) == 255
