"""Makes one connection to the broker by its URL; says refusals in words.

May touch: the network, the certificate files that the URL names.
Must never: put a credential into an error, or declare anything.
"""

from __future__ import annotations

import asyncio
import platform
import re
import ssl
from base64 import b64decode
from contextlib import contextmanager
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
    from collections.abc import Iterable, Iterator

    from scraperd.broker.rabbitmq.wire.gate import Gate

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_MAX_WORDS: Final = 500  # characters of an error
LOGIN_REFUSED: Final = "the broker refused the user name or the password of broker_url"
IS_THERE_SUCH_A_VHOST: Final = "does the vhost of broker_url exist, and may this user enter it?"
_LOGINS: Final = ("external", "plain")
_YES_NO: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_FILES: Final = ("cafile", "certfile", "keyfile", "capath")
TLS_OPTIONS: Final = (*_FILES, "cadata", "no_verify_ssl")
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")  # of a name in the DNS
_MAX_NAME: Final = 253  # characters of such a name


class BrokerRefused(Exception):  # noqa: N818 - a state of the world, not a mistake
    """The broker answers and says no: credentials or vhost. Waiting will not help."""


class WrongUrl(BrokerRefused):
    """A URL can lead to no broker, or names files for TLS that cannot be used."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the URL of a broker says. Its `repr` has no secret.

    The path is the vhost; none means `/`. The options of the query are `auth` (plain or external),
    and with amqps:// cafile, capath, cadata (base64), certfile, keyfile and no_verify_ssl.
    """

    host: str
    port: int
    vhost: str
    mechanism: str
    response: str = field(repr=False)
    tls: dict[str, str] | None = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Target:
        """Read a URL. Raises WrongUrl, in words, for one that can lead to no broker."""
        url = URL(text)
        options = _options(url)
        mechanism = options.pop("auth", "plain").lower()
        if mechanism not in _LOGINS:
            raise WrongUrl(
                f"the option auth={printable(mechanism, 50)} of broker_url is unknown; "
                f"known are: {', '.join(_LOGINS)}"
            )
        plain = f"\0{url.user or 'guest'}\0{url.password or 'guest'}"
        vhost = url.path[1:].replace("%2F", "/") or "/"
        if len(vhost.encode()) > MAX_SHORT_BYTES:
            raise WrongUrl(
                f"the vhost of broker_url is longer than {MAX_SHORT_BYTES} bytes, AMQP's limit"
            )
        return cls(
            host=_host(url),
            port=url.port or _PORTS[url.scheme],
            vhost=vhost,
            mechanism=mechanism.upper(),
            response=plain if mechanism == "plain" else "",
            tls=options if url.scheme == "amqps" else None,
        )

    def context(self) -> ssl.SSLContext | None:
        """What TLS needs; None without TLS. Reads files. Raises WrongUrl, with the option."""
        return None if self.tls is None else _context(self.tls)


def _host(url: URL) -> str:
    """The host of a broker's URL: an address or a name. Raises WrongUrl."""
    host = url.raw_host or ""
    if not host:
        raise WrongUrl("broker_url names no host")
    if ":" in host:  # an IPv6 address, which the URL's reader has checked
        return host
    labels = host.removesuffix(".").split(".")
    if len(host) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise WrongUrl(
            f"the host of broker_url, {printable(host, 100)}, can be no name: its labels must have "
            f"1 to 63 letters, digits, - or _, and {_MAX_NAME} characters in all"
        )
    return host


def _options(url: URL) -> dict[str, str]:
    """The options of a broker's URL. Raises WrongUrl for what would have no effect."""
    known = {"auth"} | (set(TLS_OPTIONS) if url.scheme == "amqps" else set())
    options = dict(url.query)
    for name in options:
        shown = printable(name, 50)
        if name in TLS_OPTIONS and url.scheme != "amqps":
            raise WrongUrl(f"the option {shown} of broker_url needs TLS: write amqps://")
        if name not in known:
            raise WrongUrl(
                f"the option {shown} of broker_url is unknown; known are: "
                + ", ".join(sorted(known))
            )
        if len(url.query.getall(name)) > 1:
            raise WrongUrl(f"broker_url has the option {shown} more than once")
    if "keyfile" in options and "certfile" not in options:
        raise WrongUrl("broker_url has a keyfile without a certfile")
    if options.get("no_verify_ssl", "0").lower() not in _YES_NO:
        raise WrongUrl("the option no_verify_ssl of broker_url must be true or false")
    return options


def _context(options: dict[str, str]) -> ssl.SSLContext:
    """Return what TLS needs. Raises WrongUrl for a file that cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    with _blamed(options, "cafile", "capath", "cadata"):
        data = options.get("cadata")
        if data or "cafile" in options or "capath" in options:
            context = ssl.create_default_context(
                ssl.Purpose.SERVER_AUTH,
                cafile=options.get("cafile"),
                capath=options.get("capath"),
                cadata=b64decode(data, validate=True) if data else None,
            )
    if cert := options.get("certfile"):
        with _blamed(options, "certfile", "keyfile"):
            context.load_cert_chain(cert, options.get("keyfile"), _no_password)
    if _YES_NO[options.get("no_verify_ssl", "0").lower()]:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_password() -> str:
    """Refuse a key that is encrypted. OpenSSL would ask the terminal for the password."""
    raise ValueError("the key is encrypted; remove its password")


@contextmanager
def _blamed(options: dict[str, str], *names: str) -> Iterator[None]:
    """What is wrong with the files of these options, as WrongUrl with their paths."""
    try:
        yield
    except (OSError, ValueError) as error:  # an SSLError is an OSError; bad base64 a ValueError
        given = [name for name in names if name in options]
        shown = ", ".join(
            f"{name}={printable(options[name], 200)}" if name in _FILES else name for name in given
        )
        why = printable(getattr(error, "strerror", None) or str(error), 200)
        if isinstance(error, ssl.SSLError):
            why = f"holds no PEM certificate and key that fit each other ({why})"
        raise WrongUrl(f"TLS to the broker: {shown}: {why}") from error


def check(urls: Iterable[str]) -> None:
    """Look at the brokers' URLs and the files that they name. Raises WrongUrl, with the URL."""
    for url in urls:
        try:
            Target.of(url).context()
        except WrongUrl as error:
            raise WrongUrl(f"{endpoint(url)}: {error}") from error


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
    tls = None if target.tls is None else await asyncio.to_thread(target.context)
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
