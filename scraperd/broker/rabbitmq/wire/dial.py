"""Makes one connection to the broker by its URL; says refusals in words.

May touch: the network, the certificate files that the URL names.
Must never: put a credential into an error, or declare anything.
"""

from __future__ import annotations

import asyncio
import platform
import ssl
from base64 import b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from yarl import URL

from scraperd.base.text import printable
from scraperd.base.urls import without_credentials
from scraperd.broker.rabbitmq.wire.codec.tables import MAX_SHORT_BYTES
from scraperd.broker.rabbitmq.wire.connection import Connection
from scraperd.broker.rabbitmq.wire.errors import ACCESS_REFUSED, NOT_ALLOWED, Closed
from scraperd.broker.rabbitmq.wire.machine import Ended, Login

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.wire.gate import Gate

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_MAX_WORDS: Final = 500  # characters of an error
LOGIN_REFUSED: Final = "the broker refused the user name or the password of broker_url"
IS_THERE_SUCH_A_VHOST: Final = "does the vhost of broker_url exist, and may this user enter it?"


class BrokerRefused(Exception):  # noqa: N818 - a state of the world, not a mistake
    """The broker answers and says no: credentials or vhost. Waiting will not help."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the URL of a broker says. Its `repr` has no secret.

    The path is the vhost; none means `/`. The options of the query are those of the commands'
    library: cafile, capath, cadata (base64), certfile, keyfile, no_verify_ssl and auth.
    """

    host: str
    port: int
    vhost: str
    mechanism: str
    response: str = field(repr=False)
    tls: dict[str, str] | None = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Target:
        """Read a URL. Raises BrokerRefused for a login that we do not know."""
        url = URL(text)
        mechanism = url.query.get("auth", "plain").upper()
        logins = {
            "PLAIN": f"\0{url.user or 'guest'}\0{url.password or 'guest'}",
            "EXTERNAL": "",
        }
        if mechanism not in logins:
            known = ", ".join(sorted(logins)).lower()
            raise BrokerRefused(
                f"the option auth={printable(mechanism.lower(), 50)} of broker_url is unknown; "
                f"known are: {known}"
            )
        vhost = url.path[1:].replace("%2F", "/") or "/"
        if len(vhost.encode()) > MAX_SHORT_BYTES:
            raise BrokerRefused(
                f"the vhost of broker_url is longer than {MAX_SHORT_BYTES} bytes, AMQP's limit"
            )
        return cls(
            host=url.host or "localhost",
            port=url.port or _PORTS[url.scheme],
            vhost=vhost,
            mechanism=mechanism,
            response=logins[mechanism],
            tls=dict(url.query) if url.scheme == "amqps" else None,
        )


def _context(options: dict[str, str]) -> ssl.SSLContext:
    """Return what TLS needs. Raises OSError for a file that cannot be used."""
    data = options.get("cadata")
    context = ssl.create_default_context(
        ssl.Purpose.SERVER_AUTH,
        cafile=options.get("cafile"),
        capath=options.get("capath"),
        cadata=b64decode(data) if data else None,
    )
    if cert := options.get("certfile"):
        context.load_cert_chain(cert, options.get("keyfile"))
    if options.get("no_verify_ssl", "0") != "0":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def dial(
    url: str, name: str, heartbeat: int, within: float, gate: Gate | None = None
) -> Connection:
    """Connect; what is delivered comes through the gate. Raises BrokerRefused, OSError in words."""
    target = Target.of(url)
    login = Login(
        target.mechanism,
        target.response,
        target.vhost,
        heartbeat,
        {
            "connection_name": name,
            "product": "scraperd",
            "platform": f"Python {platform.python_version()}",
        },
    )
    try:
        async with asyncio.timeout(within):
            return await _opened(target, login, gate)
    except TimeoutError:
        raise OSError(f"no answer within {within:g} s (fetch.connect_timeout)") from None
    except (OSError, ValueError) as error:  # a name that is no host name is a ValueError
        raise OSError(printable(str(error), _MAX_WORDS) or "no answer") from error


async def _opened(target: Target, login: Login, gate: Gate | None) -> Connection:
    """Connect and log in. Raises BrokerRefused, OSError, ValueError."""
    tls = None if target.tls is None else await asyncio.to_thread(_context, target.tls)
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(login, gate), target.host, target.port, ssl=tls
    )
    try:
        outcome = await connection.opened
    except asyncio.CancelledError:
        connection.abort(Closed("the login was cut short"))
        raise
    if isinstance(outcome, Ended):
        raise _refusal(outcome)
    return connection


def _refusal(ended: Ended) -> BrokerRefused | OSError:
    """Return how a login ended, in words."""
    text = printable(ended.text, _MAX_WORDS)
    if ended.code == ACCESS_REFUSED and ended.state == "authenticating":
        return BrokerRefused(LOGIN_REFUSED)
    if ended.code == NOT_ALLOWED and ended.state == "opening":  # it may still be starting
        return OSError(f"{text}; {IS_THERE_SUCH_A_VHOST}")
    if ended.code == NOT_ALLOWED:
        return BrokerRefused(text)
    if ended.state == "authenticating":
        return OSError(f"{text}, during the login; are user name and password of broker_url right?")
    return OSError(text)


def endpoint(url: str) -> str:
    """Return where `url` leads, for logs and messages: no credentials, and no query.

    The query of a broker's URL can hold the password of a key file.
    """
    return without_credentials(url).partition("?")[0]
