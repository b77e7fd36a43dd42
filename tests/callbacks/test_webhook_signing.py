"""Signatures of callbacks: the standard's vector, its own library, RFC 8032, and wrong files.

May touch: the pure functions; the library `standardwebhooks` of the standard's authors.
Must never: use a secret that is in use anywhere.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from scraperd.callbacks.signing import SecretsError, read_secrets

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + b64encode(bytes(range(32))).decode()
# RFC 8032 section 7.1, TEST 2: a key, and its public key.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNED_72 = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
KEY = "whsk_" + b64encode(SEED).decode()
BODY = '{"test": 2432232314}'


def test_the_vector_of_the_standard() -> None:
    """The libraries of Standard Webhooks are tested with this secret, id, time and signature."""
    headers = read_secrets(SECRET).headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, BODY.encode()
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("known", [SECRET, OTHER])
def test_during_a_rotation_the_standard_s_library_takes_either_secret(known: str) -> None:
    """Both sign, with a space between; a receiver that knows one of them is content."""
    headers = read_secrets(f"{SECRET}  # old\n\n{OTHER}\n").headers(
        "msg_1", int(time.time()), BODY.encode()
    )
    assert headers["webhook-signature"].count(" v1,") == 1
    Webhook(known).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(known).verify(BODY + " ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + b64encode(b"x" * 32).decode()).verify(BODY, headers)


def test_an_ed25519_key_signs_as_rfc_8032_says() -> None:
    """The vector of the RFC, by the same code that signs callbacks; with and without padding."""
    for text in (KEY, KEY.rstrip("="), "whsk_" + b64encode(SEED + PUBLIC).decode()):
        [secret] = read_secrets(text).secrets
        assert secret.version == "v1a"
        assert secret.sign(b"\x72") == SIGNED_72


def test_v1a_is_over_the_same_bytes_as_v1() -> None:
    """Id, time and body with dots between; the library passes over the version it does not know."""
    at = int(time.time())
    headers = read_secrets(f"{KEY}\n{SECRET}").headers("msg_2", at, BODY.encode())
    asymmetric, symmetric = headers["webhook-signature"].split(" ")
    assert symmetric.startswith("v1,")
    signature = b64decode(asymmetric.removeprefix("v1a,"))
    public = Ed25519PublicKey.from_public_bytes(PUBLIC)
    public.verify(signature, f"msg_2.{at}.{BODY}".encode())
    with pytest.raises(InvalidSignature):
        public.verify(signature, f"msg_3.{at}.{BODY}".encode())
    Webhook(SECRET).verify(BODY, headers)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has no secret"),
        ("# nothing\n", "it has no secret"),
        ("hunter2", "line 1 begins neither with whsec_ nor with whsk_"),
        (f"{SECRET}\nwhpk_hunter2", "line 2 begins neither with"),
        ("whsec_hunter2!", "line 1 is not base64 behind whsec_"),
        ("whsec_hunter22", "line 1 has 6 bytes, not 24 to 64"),
        ("whsec_" + b64encode(b"h" * 65).decode(), "line 1 has 65 bytes, not 24 to 64"),
        ("whsk_hunter22", "line 1 has 6 bytes; an Ed25519 key has 32 or 64"),
        ("whsk_" + b64encode(SEED + SEED).decode(), "line 1: the public half of the Ed25519 key"),
        ("\n".join([SECRET] * 5), "it has 5 secrets, more than 4"),
    ],
)
def test_a_wrong_file_is_refused_in_words(text: str, words: str) -> None:
    """The error names the line and the rule, and never what stands there."""
    with pytest.raises(SecretsError) as error:
        read_secrets(text)
    assert str(error.value).startswith(words)
    assert "hunter" not in str(error.value)
