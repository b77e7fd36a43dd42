"""Users of a private node with permissions of their own, set as rabbitmqctl sets them.

May touch: the node's own list of users.
Must never: change the user that the other tests have.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.rig.brokers.node import Node

_MODULE = "rabbit_auth_backend_internal"


@dataclass(frozen=True, slots=True)
class User:
    """A user who may enter the vhost `/`, and has no permission there until some are given.

    RabbitMQ keeps a permission that it granted for as long as the channel lives, so what is taken
    away is felt by new channels.
    """

    node: Node
    name: str
    password: str = ""
    """Empty: the name."""

    @classmethod
    def add(cls, node: Node, name: str, password: str = "") -> User:
        """Add a user, whose password is the name if none is given."""
        user = cls(node, name, password)
        told = ", ".join(map(_text, (name, password or name, "tests")))
        node.eval(f"{_MODULE}:add_user({told})")
        return user

    @property
    def url(self) -> str:
        """Where this user reaches the node."""
        return self.node.url.replace("guest:guest", f"{self.name}:{self.password or self.name}")

    def permit(self, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """Set the permissions, each a regular expression of names."""
        texts = [self.name, "/", configure, write, read, "tests"]
        self.node.eval(f"{_MODULE}:set_permissions({', '.join(map(_text, texts))})")

    def permit_topics(self, exchange: str, write: str, read: str = ".*") -> None:
        """Set which routing keys may be written to a topic exchange, and read from it."""
        texts = [self.name, "/", exchange, write, read, "tests"]
        self.node.eval(f"{_MODULE}:set_topic_permissions({', '.join(map(_text, texts))})")

    def tag(self, *tags: str) -> None:
        """Let the user do what these tags say: `management` opens the HTTP API."""
        self.node.eval(f"{_MODULE}:set_tags({_text(self.name)}, [{', '.join(tags)}], <<>>)")

    def delete(self) -> None:
        """Take the user away, and cut the user's connections."""
        self.node.eval(f"{_MODULE}:delete_user({_text(self.name)}, {_text('tests')})")


def _text(value: str) -> str:
    """A text as Erlang writes a binary."""
    return f"<<{json.dumps(value)}>>"
