"""Tests of what TLS servers that are not ours do: which failure it is, and whether it may pass.

May touch: OpenSSL's and GnuTLS's servers, nginx, sites of raw bytes; all private.
Must never: expect words that only our own server would cause.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from yarl import URL

from scraperd.contract import Failure
from scraperd.fetch.message import Request, Response
from scraperd.wiring import fetcher_of
from tests.rig.page import failed, loopback
from tests.rig.sites.nginx import Nginx
from tests.rig.sites.site import Site, head
from tests.rig.sites.tls_servers import TlsServer

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from tests.rig.sites.certificates import Certificates

_REFUSED: Final = (
    "handshake: the site sent the alert: handshake failure (it accepts no version, cipher or curve"
    " that is offered, or wants a certificate; see fetch.tls_legacy_servers)"
)
_WANTS: Final = (
    "after the handshake: the site sent the alert: certificate required"
    " (it wants a certificate of its clients, and the daemon has none)"
)
_NAME: Final = "handshake: the site sent the alert: unrecognized name (it does not know this host)"
_VERSION: Final = "handshake: the site does not speak TLS 1.2 (fetch.tls_minimum)"
_NO_TLS: Final = "handshake: what the site speaks on this port is not TLS (wrong version number)"
_ALERT: Final = "handshake: the site sent the alert: "
_OLD: Final = "ALL:@SECLEVEL=0"


class Row(NamedTuple):
    """A server by its options, and the failure; each one here is the same next time."""

    program: str
    options: tuple[str, ...]
    message: str
    host: str = "127.0.0.1"


SERVERS: Final = {
    "client's certificate, TLS 1.3": Row("openssl", ("-Verify", "1", "-tls1_3"), _WANTS),
    "client's certificate, TLS 1.2": Row("openssl", ("-Verify", "1", "-tls1_2"), _REFUSED),
    "client's certificate, GnuTLS": Row("gnutls-serv", ("--require-client-cert",), _WANTS),
    "client's certificate, GnuTLS and TLS 1.2": Row(
        "gnutls-serv",
        ("--require-client-cert", "--priority", "NORMAL:-VERS-TLS1.3"),
        "handshake: the site sent the alert: decode error",
    ),
    "no encryption": Row("openssl", ("-tls1_2", "-cipher", "eNULL:@SECLEVEL=0"), _REFUSED),
    "no certificate": Row("openssl", ("-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"), _REFUSED),
    "small DH": Row("openssl", ("-tls1_2", "-cipher", "DHE:@SECLEVEL=0"), _REFUSED),
    "SHA-1 in the handshake": Row(
        "openssl", ("-tls1_2", "-sigalgs", "RSA+SHA1", "-cipher", _OLD), _REFUSED
    ),
    "an unknown curve": Row("openssl", ("-tls1_2", "-curves", "secp256k1"), _REFUSED),
    "TLS 1.0": Row("openssl", ("-tls1", "-cipher", _OLD), _VERSION),
    "TLS 1.1": Row("openssl", ("-tls1_1", "-cipher", _OLD), _VERSION),
    "TLS 1.0, GnuTLS": Row(
        "gnutls-serv", ("--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.0"), _REFUSED
    ),
    "another name": Row(
        "gnutls-serv", ("--sni-hostname=elsewhere.test", "--sni-hostname-fatal"), _NAME, "localhost"
    ),
}
CERTIFICATES: Final = {
    "expired": "certificate has expired (fetch.verify_tls)",
    "not yet valid": "certificate is not yet valid (fetch.verify_tls)",
    "another host": (
        "IP address mismatch, certificate is not valid for '127.0.0.1' (fetch.verify_tls)"
    ),
    "unknown authority": (
        "unknown authority: unable to get local issuer certificate (fetch.ca_file)"
    ),
    "incomplete chain": (
        "unknown authority: unable to get local issuer certificate (fetch.ca_file)"
    ),
    "weak key": "EE certificate key too weak (fetch.verify_tls)",
    "SHA-1": "CA signature digest algorithm too weak (fetch.verify_tls)",
}


async def get(url: str, certificates: Certificates, **settings: Any) -> Response | Failure:
    """What a client that trusts the test's authority gets of `url`."""
    chosen = {"fetch__ca_file": str(certificates.authority), "fetch__connect_timeout": 1.0}
    async with fetcher_of(loopback(**{**chosen, **settings})) as fetcher:
        return failed(await fetcher.fetch(Request("GET", URL(url), {}, None, 5.0, 100_000)))


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_that_will_not_have_us(
    certificates: Certificates, tmp_path: Path, name: str
) -> None:
    """What a server refuses by its options is `tls`, told in words, and not tried again."""
    row = SERVERS[name]
    pem = None if name == "no certificate" else certificates.rsa
    options = ("-nocert", *row.options) if pem is None else row.options
    with TlsServer(row.program, tmp_path, pem, *options) as server:
        found = await get(server.url.replace("127.0.0.1", row.host), certificates)
    assert found == Failure("tls", row.message)


@pytest.mark.parametrize("fault", CERTIFICATES)
async def test_a_certificate_with_a_fault(
    certificates: Certificates, tmp_path: Path, fault: str
) -> None:
    """It is named with its setting, and not tried again; `verify_tls = false` takes it."""
    options = ("-cipher", _OLD)
    with TlsServer("openssl", tmp_path, certificates.faulty(fault), *options) as server:
        found = await get(server.url, certificates)
        assert found == Failure("tls", f"certificate: {CERTIFICATES[fault]}")
        assert isinstance(await get(server.url, certificates, fetch__verify_tls=False), Response)


async def test_a_port_without_tls(certificates: Certificates, tmp_path: Path) -> None:
    """Nginx answers the handshake with a page of HTTP: the port is wrong, and stays so."""
    with Nginx(tmp_path, tmp_path / "nginx") as nginx:
        found = await get(nginx.url.replace("http:", "https:"), certificates)
    assert found == Failure("tls", _NO_TLS)


# --- sites of raw bytes


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection by RST."""
    handle: socket.socket = writer.get_extra_info("socket")
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def spoil(certificates: Certificates, answer: bytes | None, *, hard: bool) -> Failure:
    """What a client gets of a site that sends this instead of a handshake, and closes.

    Without an answer it waits until the client leaves.
    """

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        if answer is None:
            await reader.read()
        elif hard:
            reset(writer)
        else:
            writer.write(answer)
            await writer.drain()

    async with Site() as site:
        site.raw = raw
        found = await get(site.url().replace("http:", "https:"), certificates)
        assert isinstance(found, Failure)
        return found


ALERT: Final = b"\x15\x03\x03\x00\x02\x02"  # a fatal one (RFC 8446 section 6); its number follows


@pytest.mark.parametrize(
    ("answer", "message", "retryable"),
    [
        (b"\x00" * 64, _NO_TLS, False),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", _NO_TLS, False),
        (ALERT + bytes([10]), f"{_ALERT}unexpected message", True),
        (ALERT + bytes([80]), f"{_ALERT}internal error", True),
        (ALERT + bytes([90]), f"{_ALERT}user cancelled", True),
        (ALERT + bytes([48]), f"{_ALERT}unknown ca", False),
        (ALERT + bytes([70]), _VERSION, False),
    ],
)
async def test_what_comes_instead_of_a_handshake(
    certificates: Certificates, answer: bytes, message: str, *, retryable: bool
) -> None:
    """Bytes of another protocol are refused for good; an alert by what it is about."""
    found = await spoil(certificates, answer, hard=False)
    assert found == Failure("tls", message, retryable=retryable)


async def test_a_handshake_that_does_not_end(certificates: Certificates) -> None:
    """Closed, reset, or never gone on with: trouble of a connection, and so it is tried again."""
    closed = await spoil(certificates, b"", hard=False)
    assert (closed.kind, closed.retryable) == ("connect", True)
    assert closed.message.endswith(": closed during the TLS handshake")
    broken = await spoil(certificates, b"", hard=True)
    assert (broken.kind, broken.retryable) == ("connect", True)
    assert broken.message.endswith(": connection reset")
    said = "no connection within the connect timeout"
    stalled = await spoil(certificates, None, hard=False)
    assert stalled == Failure("timeout", said, retryable=True)


@pytest.mark.parametrize("version", ["good", "tls_1_2"])
async def test_no_close_notify(certificates: Certificates, version: str) -> None:
    """A body without a length may end with the connection, as curl 7.88 has it; no other may.

    Many servers close TCP and leave the end of TLS out (RFC 8446 section 6.1).
    """

    async def get_until_fin(*parts: bytes) -> Response | Failure:
        async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.writelines(parts)
            await writer.drain()
            with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as handle:
                handle.shutdown(socket.SHUT_WR)
            await reader.read()

        async with Site(getattr(certificates, version)) as site:
            site.raw = raw
            return await get(site.url(), certificates)

    whole = await get_until_fin(head("Content-Type: text/html"), b"a page")
    assert isinstance(whole, Response), whole
    assert whole.body == b"a page"
    broken = Failure("protocol", "the body broke off: the site closed it", retryable=True)
    assert await get_until_fin(head("Content-Length: 50"), b"half") == broken
    assert await get_until_fin(head("Transfer-Encoding: chunked"), b"4\r\nhalf\r\n") == broken
