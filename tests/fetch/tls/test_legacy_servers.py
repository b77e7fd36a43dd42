"""Tests of `fetch.tls_legacy_servers`: old servers of TLS, which are reached only if it is set.

May touch: GnuTLS's and OpenSSL's servers and proxies, private ones.
Must never: take a server of our own for an old one.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from scraperd.contract import Failure
from scraperd.fetch.message import Request, Response
from scraperd.wiring import fetcher_of
from tests.rig.page import loopback
from tests.rig.sites.proxies import RealProxy
from tests.rig.sites.tls_servers import TlsServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.sites.certificates import Certificates

_NO_RFC_5746 = "NORMAL:-VERS-TLS1.3:%DISABLE_SAFE_RENEGOTIATION"
_REFUSED = (
    "handshake: the site sent the alert: handshake failure (it accepts no version, cipher or curve"
    " that is offered, or wants a certificate"
)
# Those that Chromium 130 offers and Python's own list lacks; the server speaks no other.
_CIPHERS = ["ECDHE-RSA-AES128-SHA", "AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA"]


@pytest.fixture(scope="module")
def old(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that knows no secure renegotiation."""
    folder, options = tmp_path_factory.mktemp("old"), ("--priority", _NO_RFC_5746)
    with TlsServer("gnutls-serv", folder, certificates.pem, *options) as server:
        yield server.url


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real proxy of each kind, by its name."""
    with contextlib.ExitStack() as stack:
        yield {
            scheme: stack.enter_context(RealProxy(scheme, tmp_path_factory.mktemp(scheme))).url()
            for scheme in ("http", "socks5")
        }


async def get(
    url: str,
    certificates: Certificates,
    proxies: dict[str, str] | None = None,
    proxy: str = "",
    *,
    legacy: bool,
) -> Response | Failure:
    """What a client with this setting gets; it trusts the test's authority."""
    config = loopback(
        fetch__ca_file=str(certificates.authority),
        fetch__tls_legacy_servers=legacy,
        proxies=proxies or {},
    )
    async with fetcher_of(config) as fetcher:
        return await fetcher.fetch(Request("GET", URL(url), {}, None, 5.0, 100_000, proxy=proxy))


@pytest.mark.parametrize("proxy", ["", "http", "socks5"])
async def test_without_secure_renegotiation(
    old: str, certificates: Certificates, proxies: dict[str, str], proxy: str
) -> None:
    """A server without RFC 5746 is refused, by the setting's name, and reached with the setting.

    So it is in the tunnel of a proxy.
    """
    found = await get(old, certificates, proxies, proxy, legacy=False)
    assert found == Failure(
        "tls",
        "handshake: the site does not support secure renegotiation, RFC 5746"
        " (fetch.tls_legacy_servers)",
    )
    answer = await get(old, certificates, proxies, proxy, legacy=True)
    assert isinstance(answer, Response), answer
    assert answer.status == 200


@pytest.mark.parametrize("cipher", _CIPHERS)
async def test_old_ciphers(certificates: Certificates, tmp_path: Path, cipher: str) -> None:
    """RSA key exchange and SHA-1 in a MAC, as browsers speak them."""
    options = ("-tls1_2", "-cipher", cipher)
    with TlsServer("openssl", tmp_path, certificates.rsa, *options) as server:
        found = await get(server.url, certificates, legacy=False)
        assert found == Failure("tls", f"{_REFUSED}; see fetch.tls_legacy_servers)")
        answer = await get(server.url, certificates, legacy=True)
    assert isinstance(answer, Response), answer


@pytest.mark.parametrize("cipher", ["DHE", "aNULL", "eNULL"])
async def test_what_no_setting_allows(
    certificates: Certificates, tmp_path: Path, cipher: str
) -> None:
    """A key exchange whose cost a site chooses, no certificate, and no encryption stay refused."""
    options = ("-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    with TlsServer("openssl", tmp_path, certificates.rsa, *options) as server:
        found = await get(server.url, certificates, legacy=True)
    assert found == Failure("tls", f"{_REFUSED})")


async def test_a_certificate_is_checked_all_the_same(old: str) -> None:
    """The setting trusts nobody more."""
    async with fetcher_of(loopback(fetch__tls_legacy_servers=True)) as fetcher:
        found = await fetcher.fetch(Request("GET", URL(old), {}, None, 5.0, 1000))
    assert isinstance(found, Failure)
    assert found.message.startswith("certificate: unknown authority: ")
