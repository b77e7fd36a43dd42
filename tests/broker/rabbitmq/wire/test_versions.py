"""Which brokers are warned of.

May touch: the data; what RabbitMQ 3.10.8 and 4.0.5 really say of themselves.
Must never: need a broker (test_cli.py asks one).
"""

from __future__ import annotations

from typing import Any

import pytest

from scraperd.broker.rabbitmq.wire.versions import ignores_priority, weakness

GIVES_UP, UNKNOWN = "stops all retries on its node", "not measured with this version"


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("3.9.29", ""),
        ("3.10.0", GIVES_UP),
        ("3.10.8", GIVES_UP),
        ("3.10.19", GIVES_UP),
        ("3.10.20", UNKNOWN),
        ("3.11.11", GIVES_UP),
        ("3.11.12", UNKNOWN),
        ("3.12.14", UNKNOWN),
        ("3.13.7+rc.1", UNKNOWN),
        ("4.0.0", ""),
        ("4.0.5", ""),
        ("4.3.1-beta.2", ""),
    ],
)
def test_a_version_that_is_hit_is_named(version: str, words: str) -> None:
    """The warning names the version, what can happen, and what to do; no other version has one."""
    said = weakness({"product": "RabbitMQ", "version": version}, "team")
    assert bool(said) == bool(words)
    if words:
        for part in (f"RabbitMQ {version}:", words, "Upgrade to RabbitMQ 4", "exchange team.jobs"):
            assert part in said


@pytest.mark.parametrize(
    "server",
    [
        {},
        {"product": "LavinMQ", "version": "3.10.8"},
        {"product": "RabbitMQ"},
        {"product": "RabbitMQ", "version": 3},
        {"product": b"RabbitMQ", "version": b"3.10.8"},
        {"product": "RabbitMQ", "version": "next"},
    ],
)
def test_what_is_not_known_is_not_warned_of(server: dict[str, Any]) -> None:
    """Another product, or a version that can't be read, is none of those."""
    assert not weakness(server, "team")


@pytest.mark.parametrize(
    ("product", "version", "ignores"),
    [
        ("RabbitMQ", "3.10.8", True),
        ("RabbitMQ", "3.13.7", True),
        ("RabbitMQ", "4.0.5", False),
        ("RabbitMQ", "4.2.0-rc.1", False),
        ("RabbitMQ", "unknown", False),
        ("LavinMQ", "2.0.0", False),
    ],
)
def test_which_brokers_ignore_priorities(product: str, version: str, *, ignores: bool) -> None:
    """RabbitMQ before 4.0; of other brokers nothing is claimed."""
    words = ignores_priority({"product": product, "version": version})
    assert (f"RabbitMQ {version} ignores the property `priority`" in words) is ignores
    assert bool(words) is ignores
