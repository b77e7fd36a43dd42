"""What a fault of TLS means: in words, by which setting, and whether it may pass. Pure.

May touch: OpenSSL's words for a fault, and the settings.
Must never: see an error of a library, or name an address.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from scraperd.config.tables import FetchSettings

_ALERT: Final = re.compile("(?:sslv3|tlsv1|tlsv13) (?:alert )?(?P<words>.+)")
_VERSION: Final = "the site does not speak TLS {version} (fetch.tls_minimum)"
# Faults that we find in what a site sends, and alerts that say the same: with words of our own.
_TOLD: Final = {
    "unsupported protocol": _VERSION,
    "tlsv1 alert protocol version": _VERSION,
    "unsafe legacy renegotiation disabled": (
        "the site does not support secure renegotiation, RFC 5746 (fetch.tls_legacy_servers)"
    ),
    "wrong version number": "what the site speaks on this port is not TLS (wrong version number)",
}
# What an alert can mean, where its name alone does not tell; the daemon has no more to offer.
_MEANS: Final = {
    "certificate required": "it wants a certificate of its clients, and the daemon has none",
    "no application protocol": "it does not speak HTTP/1.1 over TLS",
    "unrecognized name": "it does not know this host",
}
_REFUSED: Final = "it accepts no version, cipher or curve that is offered, or wants a certificate"
# Alerts about the site, or about what it wants (RFC 8446 section 6.2): the next attempt gets them
# too. The others speak of one connection, or of a site in trouble.
_LASTING_ALERTS: Final = frozenset(
    {
        "handshake failure",
        "no certificate",
        "bad certificate",
        "unsupported certificate",
        "certificate revoked",
        "certificate expired",
        "certificate unknown",
        "illegal parameter",
        "unknown ca",
        "access denied",
        "decode error",
        "export restriction",
        "protocol version",
        "insufficient security",
        "inappropriate fallback",
        "missing extension",
        "unsupported extension",
        "certificate unobtainable",
        "unrecognized name",
        "bad certificate status response",
        "bad certificate hash value",
        "certificate required",
        "no application protocol",
    }
)
_LASTING: Final = frozenset(  # what we refuse in a site
    {
        "unsupported protocol",
        "unsafe legacy renegotiation disabled",
        "wrong version number",
        "wrong ssl version",
        "unknown protocol",
        "packet length too long",
        "excessive message size",
        "dh key too small",
        "ee key too small",
        "ca key too small",
        "ca md too weak",
        "bad ecpoint",
        "bad ecc cert",
        "wrong curve",
        "unsupported elliptic curve",
        "wrong signature type",
        "legacy sigalg disallowed or unsupported",
        "wrong certificate type",
        "unknown certificate type",
        "wrong cipher returned",
        "unknown cipher returned",
        "bad extension",
        "unsolicited extension",
        "no ciphers available",
        "no protocols available",
    }
)


def may_pass(words: str) -> bool:
    """Return whether the next attempt may be better. `words` are OpenSSL's, in lower case."""
    alert = _ALERT.fullmatch(words)
    return words not in _LASTING if alert is None else alert["words"] not in _LASTING_ALERTS


def told(words: str, settings: FetchSettings) -> str:
    """Say what the fault is, and which setting speaks of it. `words` as for `may_pass`.

    Of an alert that the site sent, it says so: a site of TLS 1.3 that wants a client's
    certificate says so only after the handshake (RFC 8446 section 4.4.2.4).
    """
    if words in _TOLD:
        return _TOLD[words].format(version=settings.tls_minimum)
    alert = _ALERT.fullmatch(words)
    if alert is None:
        return words
    name = alert["words"]
    means = _MEANS.get(name, "")
    if name in ("handshake failure", "insufficient security"):
        means = _REFUSED + ("" if settings.tls_legacy_servers else "; see fetch.tls_legacy_servers")
    return f"the site sent the alert: {name}" + (f" ({means})" if means else "")
