"""What the tests of this folder share: a private node of each release of RabbitMQ.

May touch: the fixtures of all tests.
Must never: hold a test's logic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.rig.brokers.node import Node


@pytest.fixture(scope="module")
def node(node_of_each_release: Node) -> Node:
    """A node of each release."""
    return node_of_each_release
