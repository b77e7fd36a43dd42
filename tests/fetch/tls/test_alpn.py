"""Tests of ALPN (RFC 7301): the protocol that is asked of a site in the TLS handshake.

May touch: nginx, OpenSSL's server, proxies, each private and on loopback.
Must never: take a page of our own server for what a site does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from scraperd.contract import Failure
from scraperd.fetch.message import Request, Response
from scraperd.wiring import fetcher_of
from tests.rig import ports
from tests.rig.page import loopback
from tests.rig.sites.nginx import Nginx
from tests.rig.sites.proxies import RealProxy
from tests.rig.sites.tls_servers import TlsServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.sites.certificates import Certificates

_TLS = """
listen 127.0.0.1:{port} ssl http2;
ssl_certificate {pem};
ssl_certificate_key {pem};
location / {{ return 200 "$ssl_alpn_protocol in $server_protocol"; }}
"""


@pytest.fixture(scope="module")
def nginx(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an nginx with http2 on, which tells which protocol was agreed upon."""
    folder, port = tmp_path_factory.mktemp("nginx"), ports.free_port()
    with Nginx(folder, folder, extra=_TLS.format(port=port, pem=certificates.pem)):
        yield f"https://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The ways to a site: the names of proxies, and none."""
    with (
        RealProxy("http", tmp_path_factory.mktemp("http")) as http,
        RealProxy("socks5", tmp_path_factory.mktemp("socks5")) as socks,
    ):
        yield {"http": http.url(), "socks": socks.url()}


async def get(url: str, certificates: Certificates, **settings: Any) -> Response | Failure:
    """What a client that trusts the test's authority gets."""
    proxy = settings.pop("proxy", "")
    config = loopback(fetch__ca_file=str(certificates.authority), **settings)
    async with fetcher_of(config) as fetcher:
        return await fetcher.fetch(Request("GET", URL(url), {}, None, 5.0, 100_000, proxy=proxy))


@pytest.mark.parametrize("proxy", ["", "http", "socks"])
async def test_a_site_with_http2(
    nginx: str, ways: dict[str, str], certificates: Certificates, proxy: str
) -> None:
    """It is asked for http/1.1 by name, in a proxy's tunnel too, and speaks that."""
    answer = await get(nginx, certificates, proxies=ways, proxy=proxy)
    assert isinstance(answer, Response), answer
    assert answer.body == b"http/1.1 in HTTP/1.1"


@pytest.mark.parametrize("program", ["openssl", "gnutls-serv"])
async def test_a_site_that_knows_no_other(
    certificates: Certificates, tmp_path: Path, program: str
) -> None:
    """A server that ends the handshake where no name is common to both finds the one it knows."""
    strict = {"openssl": ["-alpn", "http/1.1"], "gnutls-serv": ["--alpn=http/1.1", "--alpn-fatal"]}
    with TlsServer(program, tmp_path, certificates.pem, *strict[program]) as server:
        assert isinstance(await get(server.url, certificates), Response)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_a_site_without_http1(
    certificates: Certificates, tmp_path: Path, version: str
) -> None:
    """A server that knows only h2 says so by an alert (RFC 7301 section 3.2): it will again."""
    options = ("-alpn", "h2", version)
    with TlsServer("openssl", tmp_path, certificates.pem, *options) as server:
        found = await get(server.url, certificates)
    said = "the site sent the alert: no application protocol (it does not speak HTTP/1.1 over TLS)"
    assert found == Failure("tls", f"handshake: {said}")
