"""Signatures of Standard Webhooks 1.0: `v1` by HMAC-SHA256, `v1a` by Ed25519. Pure.

May touch: secrets as text; the package cryptography, once a secret is an Ed25519 key.
Must never: show a secret, also not in an error.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    Sign: TypeAlias = Callable[[bytes], bytes]

SYMMETRIC: Final = "whsec_"
ASYMMETRIC: Final = "whsk_"
MIN_SECRET: Final = 24  # bytes; the standard, "Signature scheme"
MAX_SECRET: Final = 64
MAX_SECRETS: Final = 4  # of a file: two of each kind, while secrets are changed
_SEED: Final = 32  # bytes of an Ed25519 key (RFC 8032 section 5.1.5)
_PAIR: Final = 64  # the same with its public key behind it, as libsodium has it


class SecretsError(ValueError):
    """A file of secrets is wrong; the message says which line, and shows no secret."""


class Secret(Struct, frozen=True):
    """One secret: the version of its signatures, and what signs."""

    version: str
    sign: Sign


class Signer(Struct, frozen=True):
    """The secrets of one receiver. Each of them signs, so that each is valid at the receiver's."""

    secrets: tuple[Secret, ...]

    def headers(self, ident: str, at: int, body: bytes) -> dict[str, str]:
        """Return the headers of an attempt at the time `at`, in seconds since 1970."""
        signed = b".".join((ident.encode(), b"%d" % at, body))
        signatures = (
            f"{secret.version},{b64encode(secret.sign(signed)).decode()}" for secret in self.secrets
        )
        return {
            "webhook-id": ident,
            "webhook-timestamp": str(at),
            "webhook-signature": " ".join(signatures),
        }


def read_secrets(text: str) -> Signer:
    """Read a file of secrets: one a line; # begins a comment. Raises SecretsError.

    Raises ImportError for an Ed25519 key if the package cryptography is not installed.
    """
    secrets = []
    for number, line in enumerate(text.splitlines(), 1):
        if found := line.partition("#")[0].strip():
            secrets.append(_secret(found, f"line {number}"))
    if not secrets:
        raise SecretsError("it has no secret")
    if len(secrets) > MAX_SECRETS:
        raise SecretsError(f"it has {len(secrets)} secrets, more than {MAX_SECRETS}")
    return Signer(tuple(secrets))


def _secret(text: str, where: str) -> Secret:
    prefix = next((it for it in (SYMMETRIC, ASYMMETRIC) if text.startswith(it)), None)
    if prefix is None:
        raise SecretsError(f"{where} begins neither with {SYMMETRIC} nor with {ASYMMETRIC}")
    try:
        raw = b64decode(_padded(text.removeprefix(prefix)), validate=True)
    except (binascii.Error, ValueError):
        raise SecretsError(f"{where} is not base64 behind {prefix}") from None
    if prefix == SYMMETRIC:
        if not MIN_SECRET <= len(raw) <= MAX_SECRET:
            raise SecretsError(
                f"{where} has {len(raw)} bytes, not {MIN_SECRET} to {MAX_SECRET}; "
                '`echo "whsec_$(openssl rand -base64 32)"` makes a secret'
            )
        return Secret("v1", _by_hmac(raw))
    if len(raw) not in (_SEED, _PAIR):
        raise SecretsError(f"{where} has {len(raw)} bytes; an Ed25519 key has {_SEED} or {_PAIR}")
    return Secret("v1a", _by_ed25519(raw, where))


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)


def _by_hmac(secret: bytes) -> Sign:
    keyed = hmac.new(secret, digestmod=hashlib.sha256)

    def sign(data: bytes) -> bytes:
        mac = keyed.copy()
        mac.update(data)
        return mac.digest()

    return sign


def _by_ed25519(raw: bytes, where: str) -> Sign:
    """What signs with a key. Raises SecretsError if the public half is that of another key."""
    # Here and not above: most fleets have no such key, and the package is an extra.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )

    key = Ed25519PrivateKey.from_private_bytes(raw[:_SEED])
    if raw[_SEED:] not in (b"", key.public_key().public_bytes_raw()):
        raise SecretsError(f"{where}: the public half of the Ed25519 key is that of another key")
    return key.sign
