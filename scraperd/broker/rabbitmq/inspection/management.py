"""RabbitMQ's management API, as far as it is needed: GET, one JSON answer of bounded size.

May touch: one HTTP connection at a time, to the URL of the setting.
Must never: follow a redirect, change anything, or say the password.
"""

from __future__ import annotations

import json
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from yarl import URL

from scraperd.base.text import printable
from scraperd.broker.rabbitmq.wire.dial import Target

if TYPE_CHECKING:
    from scraperd.config.tables import BrokerSettings

TIMEOUT: Final = 5.0  # seconds, for a connection and for each answer
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404


class Unanswered(Exception):  # noqa: N818 - a state of the world, not a mistake
    """The management API does not answer what it is asked; the message says why, in words."""


@dataclass(frozen=True, slots=True)
class Management:
    """The API at a URL, for a user and a vhost. Its calls block. Its `repr` has no password."""

    url: str
    user: str
    vhost: str
    password: str = field(repr=False)
    context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def of(cls, table: BrokerSettings, broker_url: str) -> Self:
        """Return the API of `broker.management_api`, with the login of a broker's URL.

        Reads files. Raises Unanswered without a password.
        """
        target = Target.of(broker_url)
        _, _, login = target.response.partition("\0")
        user, _, password = login.partition("\0")
        if not password:
            raise Unanswered("the management API needs a password, and broker_url has none")
        context = None
        if table.management_api.startswith("https:"):
            context = ssl.create_default_context(cafile=table.ca_file or None)
            if not table.verify:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return cls(table.management_api.rstrip("/"), user, target.vhost, password, context)

    def get(self, *path: str) -> Any:
        """Return the answer to a GET of /api/ and `path`; None for 404. Raises Unanswered."""
        place = "/api/" + "/".join(quote(part, safe="") for part in path)
        try:
            status, body = self._asked(place)
        except (OSError, HTTPException) as error:
            why = printable(str(error) or type(error).__name__, 200)
            raise Unanswered(f"no answer from {self.url}: {why} (broker.management_api)") from None
        if status == _NOT_FOUND:
            return None
        if status == _UNAUTHORIZED:
            raise Unanswered(
                f"{self.url} refuses the user {self.user!r}. To let that user look: rabbitmqctl "
                f"set_user_tags {self.user} management (without other tags the user has by then)"
            )
        if status != _OK or len(body) > MAX_ANSWER_BYTES:
            raise Unanswered(f"{self.url} answers {status}, {len(body)} bytes")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise Unanswered(f"{self.url} does not answer JSON; is it RabbitMQ's API?") from None

    def _asked(self, place: str) -> tuple[int, bytes]:
        url = URL(self.url)
        host = url.host or ""
        if self.context is None:
            connection = HTTPConnection(host, url.port or 80, timeout=TIMEOUT)
        else:
            port = url.port or 443
            connection = HTTPSConnection(host, port, timeout=TIMEOUT, context=self.context)
        login = b64encode(f"{self.user}:{self.password}".encode()).decode()
        try:
            path = url.raw_path.rstrip("/") + place
            connection.request("GET", path, headers={"Authorization": f"Basic {login}"})
            response: HTTPResponse = connection.getresponse()
            body = response.read(MAX_ANSWER_BYTES + 1)
            if response.length and len(body) <= MAX_ANSWER_BYTES:  # http.client says nothing of it
                raise IncompleteRead(body, response.length)
            return response.status, body
        finally:
            connection.close()
