"""One gateway with tokens for all tests that only submit.

May touch: the shared node, pytest's temporary folders.
Must never: hold a test's logic.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pika
import pytest

from tests.rig.daemon import Dispatcher
from tests.server.running import Gateway, declare_jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.brokers.node import Node

SUBMIT, OTHER, READ, SLOW = (f"{name}-0123456789abcdef" for name in ("s", "o", "r", "w"))


@pytest.fixture(scope="module")
def desk(node: Node) -> Iterator[Dispatcher]:
    """The dispatcher's view of a jobs queue that nobody reads."""
    if not node.running:
        node.start()
    parameters = pika.URLParameters(node.url)
    parameters.heartbeat = 0
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    prefix = f"t{secrets.token_hex(3)}"
    declare_jobs(channel, prefix)
    yield Dispatcher(channel, prefix)
    channel.queue_delete(f"{prefix}.jobs")
    channel.exchange_delete(f"{prefix}.jobs")
    connection.close()


@pytest.fixture(scope="module")
def gateway(
    node: Node, desk: Dispatcher, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with four tokens, by which each test can be another holder."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(
        f"# name role token rate\nshop submit {SUBMIT}\nother submit {OTHER}\n"
        f"eyes read {READ}\nslow submit {SLOW} 0.01  # a request in 100 s\n"
    )
    settings = {"http__tokens_file": str(file), "http__max_jobs": 2000}
    with Gateway(node.url, desk.prefix, **settings) as found:
        yield found.ready()
        log = found.stdout + found.stderr
        assert not any(token in log for token in (SUBMIT, OTHER, READ, SLOW))
