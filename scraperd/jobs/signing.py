"""The names of our headers on a job that travels, and the signature over them.

May touch: headers, the bytes of a body, the wall clock it is given.
Must never: raise over a header, show a key, or keep a signed header whose signature is invalid.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

ATTEMPT: Final = "x-scraperd-attempt"
JOB_ID: Final = "x-scraperd-job-id"
TURN: Final = "x-scraperd-turn"  # seconds since 1970; the host whose turn it is then; the most
# seconds that can be left of it when the job is back, should a clock have been set meanwhile.
# Of a retried job only the seconds: when it is due. A further signed header would make each
# signature invalid for processes of an earlier version; these pass over a turn without a host.
SNOOZES: Final = "x-scraperd-snoozes"  # how often the job waited for a turn in a delay queue
STRIKES: Final = "x-scraperd-strikes"  # how often it came back before it was moved to this queue
REPLY_TO: Final = "x-scraperd-reply-to"  # of a dead job that must not have the property any more
# Unsigned: a forged one is told to its own publisher, or ends its own job. Total counts are a net
# for jobs whose signed headers get lost on each move.
TRIES: Final = "x-scraperd-total-retries"
WAITS: Final = "x-scraperd-total-snoozes"
RUN: Final = "x-scraperd-run"  # how often the job was begun from its first attempt; absent: once
ATTEMPTS: Final = "x-scraperd-attempts"  # JSON: the attempts of this run that failed
SIGNATURE: Final = "x-scraperd-signature"

# Id and reply_to are signed too, but read without a signature as well: a publisher can say the same
# by a property, and a job that was on its way when the key was changed must not lose its name.
_CLAIMS: Final = (ATTEMPT, TURN, SNOOZES, STRIKES)
_SIGNED: Final = (*_CLAIMS, JOB_ID, REPLY_TO)
_DOMAIN: Final = b"scraperd headers 1"  # what else a key may sign, now or later, must not fit here
_FORM: Final = re.compile(r"1 (?P<at>[0-9]{1,11}) (?P<mac>[0-9a-f]{64})")
_SCRYPT: Final = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}  # 16 MiB, some 50 ms: once, at the start


class Keys:
    """The keys of a fleet, for one prefix: the first one signs, and each of them verifies."""

    def __init__(self, secrets: Iterable[bytes], prefix: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._scope = _DOMAIN + b"\0" + prefix.encode()
        self.configure(secrets)

    def configure(self, secrets: Iterable[bytes]) -> None:
        """Take other keys. What was signed with one that is not among them is not believed."""
        derived = [hmac.digest(secret, self._scope, "sha256") for secret in secrets]
        self._macs = [hmac.new(key, digestmod="sha256") for key in derived]

    def sign(self, body: bytes, headers: Mapping[str, Any]) -> dict[str, Any]:
        """Return `headers` with a signature over them, the job's body and the time."""
        at = int(self._clock())
        signed = _signed(at, headers, body)
        assert signed is not None, "a header of ours is neither a number nor a text"
        return {**headers, SIGNATURE: f"1 {at} {_mac(self._macs[0], signed)}"}

    def verified(
        self, body: bytes, headers: Mapping[str, Any]
    ) -> tuple[dict[str, Any], int | None]:
        """Return the headers without those that need a valid signature and have none.

        And the time of the signature in seconds since 1970, or None without a valid signature.
        """
        at = self._verified(body, headers)
        taken = (SIGNATURE,) if at is not None else (SIGNATURE, *_CLAIMS)
        return {name: value for name, value in headers.items() if name not in taken}, at

    def seal(self, purpose: bytes, values: Iterable[bytes]) -> str:
        """Return a signature over values that are no headers of a job, for one purpose."""
        return _mac(self._macs[0], b"".join(_netstrings(purpose, *values)))

    def is_sealed(self, seal: str, purpose: bytes, values: Iterable[bytes]) -> bool:
        """Return whether one of the keys made `seal` for this purpose and these values."""
        sealed, found = b"".join(_netstrings(purpose, *values)), seal.encode(errors="replace")
        fits = [hmac.compare_digest(_mac(mac, sealed).encode(), found) for mac in self._macs]
        return any(fits)

    def _verified(self, body: bytes, headers: Mapping[str, Any]) -> int | None:
        signature = headers.get(SIGNATURE)
        match = _FORM.fullmatch(signature) if isinstance(signature, str) else None
        if match is None:
            return None  # without a look at the body
        at, found = int(match["at"]), match["mac"]
        if (signed := _signed(at, headers, body)) is None:
            return None
        fits = [hmac.compare_digest(_mac(mac, signed), found) for mac in self._macs]
        return at if any(fits) else None


def claimed(headers: Mapping[str, Any]) -> bool:
    """Whether there are headers that count with a valid signature only."""
    return any(name in headers for name in (SIGNATURE, *_CLAIMS))


def secret_of(broker_url: str) -> bytes:
    """A key of what a fleet shares and a mere publisher does not have: its user on the broker.

    By scrypt (RFC 7914), as it must not be cheap to find a password by a signature.
    """
    url = URL(broker_url)
    user, password = url.user or "guest", url.password or "guest"
    vhost = unquote(url.raw_path[1:]) or "/"
    secret = b"".join(_netstrings(user.encode(), password.encode()))
    return hashlib.scrypt(secret, salt=_DOMAIN + b"\0" + vhost.encode(), **_SCRYPT)


def _mac(keyed: hmac.HMAC, signed: bytes) -> str:
    mac = keyed.copy()
    mac.update(signed)
    return mac.hexdigest()


def _signed(at: int, headers: Mapping[str, Any], body: bytes) -> bytes | None:
    """Return the bytes to sign, in one form only; None if a header is not as we write it.

    The body as its hash, so that it is read once however many keys there are.
    """
    values = [str(at).encode(), hashlib.sha256(body).digest()]
    for name in _SIGNED:
        value = headers.get(name)
        if type(value) is int:
            values.append(b"i%d" % value)
        elif isinstance(value, str):
            values.append(b"s" + value.encode(errors="surrogatepass"))
        elif name in headers:
            return None
        else:
            values.append(b"-")
    return b"".join(_netstrings(*values))


def _netstrings(*values: bytes) -> Iterator[bytes]:
    """Each with its length before it: no two lists of values give the same bytes."""
    for value in values:
        yield b"%d:%b," % (len(value), value)
