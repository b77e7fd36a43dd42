"""What the tests of this folder share: a private node of each release of RabbitMQ.

May touch: pytest's temporary folders.
Must never: hold a test's logic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig.asker import Stranger
from tests.rig.brokers.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pika.adapters.blocking_connection import BlockingChannel


@pytest.fixture(scope="module", params=["3", "4"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """A node of each release."""
    with Node(tmp_path_factory.mktemp("node"), release=request.param) as node:
        yield node


@pytest.fixture
def stranger(amqp: BlockingChannel, prefix: str) -> Stranger:
    """Who asks by hand."""
    return Stranger(amqp, prefix)
