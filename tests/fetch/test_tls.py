"""Tests of what is asked of a site's TLS: whose certificate, for which host, which version.

May touch: TLS sites on loopback, certificates of an authority made for the test.
Must never: trust an authority that another test made.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from yarl import URL

from scraperd.contract import Failure
from scraperd.fetch.message import Request, Response
from scraperd.wiring import fetcher_of
from tests.rig.clocks.effort import scaled
from tests.rig.page import loopback
from tests.rig.sites.chatter import Chatter
from tests.rig.sites.site import Site, page

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.sites.certificates import Certificates


async def get(context: ssl.SSLContext, **settings: Any) -> Response | Failure:
    """What a client with these settings gets of a site with this certificate."""
    async with Site(context) as site, fetcher_of(loopback(**settings)) as fetcher:
        url = URL(site.at("/", page(b"secret")))
        answer = await fetcher.fetch(Request("GET", url, {}, None, 5.0, 1000))
        assert len(site.visits) == isinstance(answer, Response)
        return answer


async def refused(context: ssl.SSLContext, **settings: Any) -> Failure:
    answer = await get(context, **settings)
    assert not isinstance(answer, Response)
    assert answer.kind == "tls"
    return answer


async def test_an_authority_of_our_own(certificates: Certificates) -> None:
    """`ca_file` is trusted, and only if it is set."""
    assert isinstance(
        await get(certificates.good, fetch__ca_file=str(certificates.authority)), Response
    )
    assert (await refused(certificates.good)).message.startswith("certificate: unknown authority: ")


async def test_instead_of_the_systems(trusted: Certificates, tmp_path: Path) -> None:
    """With `ca_file`, the system's authorities are trusted no longer, as with curl."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    assert isinstance(await get(trusted.good), Response)
    found = await refused(trusted.good, fetch__ca_file=str(other))
    assert "unknown authority" in found.message


async def test_an_authority_below_another(certificates: Certificates) -> None:
    """An intermediate authority in `ca_file` is enough, as with curl."""
    path, context = certificates.intermediate
    assert isinstance(await get(context, fetch__ca_file=str(path)), Response)


async def test_faults_are_told_apart(certificates: Certificates) -> None:
    """Expired, for another host, self-signed, of a stranger: each has words of its own."""
    settings = {"fetch__ca_file": str(certificates.authority)}
    names = ["expired", "wrong_host", "self_signed", "stranger"]
    found = [await refused(getattr(certificates, name), **settings) for name in names]
    assert not any(failure.retryable for failure in found)
    assert [failure.message for failure in found] == [
        "certificate: certificate has expired (fetch.verify_tls)",
        (
            "certificate: IP address mismatch, certificate is not valid for '127.0.0.1'"
            " (fetch.verify_tls)"
        ),
        "certificate: self-signed certificate (fetch.ca_file)",
        "certificate: unknown authority: unable to get local issuer certificate (fetch.ca_file)",
    ]


@pytest.mark.parametrize("verify", [True, False])
async def test_the_oldest_version(certificates: Certificates, *, verify: bool) -> None:
    """`tls_minimum` holds whether certificates are checked or not; 1.2 is spoken by default."""
    settings = {"fetch__verify_tls": verify, "fetch__ca_file": str(certificates.authority)}
    assert isinstance(await get(certificates.tls_1_2, **settings), Response)
    assert isinstance(await get(certificates.good, fetch__tls_minimum="1.3", **settings), Response)


@pytest.mark.parametrize("verify", [True, False])
async def test_a_version_too_old(certificates: Certificates, *, verify: bool) -> None:
    """A server that can't speak `tls_minimum` is named for that; it will not learn it by itself."""
    settings = {"fetch__verify_tls": verify, "fetch__ca_file": str(certificates.authority)}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = asyncio.create_task(asyncio.to_thread(handshake, listener, certificates.tls_1_2))
        async with fetcher_of(loopback(fetch__tls_minimum="1.3", **settings)) as fetcher:
            url = URL(f"https://127.0.0.1:{listener.getsockname()[1]}/")
            found = await fetcher.fetch(Request("GET", url, {}, None, 5.0, 1000))
        await server
    message = "handshake: the site does not speak TLS 1.3 (fetch.tls_minimum)"
    assert found == Failure("tls", message)


async def test_a_site_that_wants_a_huge_prime(certificates: Certificates) -> None:
    """No key exchange is offered whose cost a site chooses: the handshake ends before it.

    A prime of 10,000 bits took 1.6 s of this process's time, on the loop, for each.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = asyncio.create_task(
            asyncio.to_thread(handshake, listener, certificates.huge_prime)
        )
        async with fetcher_of(loopback(fetch__ca_file=str(certificates.authority))) as fetcher:
            url = URL(f"https://127.0.0.1:{listener.getsockname()[1]}/")
            before = time.thread_time()
            found = await fetcher.fetch(Request("GET", url, {}, None, 20.0, 1000))
            took = time.thread_time() - before
        await server
    assert took < scaled(0.8)
    assert isinstance(found, Failure)
    assert found.kind == "tls"


async def test_a_chain_of_hundreds(certificates: Certificates) -> None:
    """A handshake of more than 48 kB ends: OpenSSL takes twice as much, which costs 0.15 s."""
    found = await refused(certificates.long_chain, fetch__ca_file=str(certificates.authority))
    assert found == Failure("tls", "handshake: more than 49152 bytes of handshake")


async def chat(certificates: Certificates, updates: int) -> tuple[Response | Failure, float]:
    """What a client has of a site with so many KeyUpdates before its page; its seconds of CPU."""

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = Chatter(certificates.pem)
        await server.greet(reader, writer)
        await asyncio.to_thread(server.update, updates)
        server.write(page(b"x" * 100_000))
        writer.write(server.said())
        await writer.drain()
        await reader.read()

    async with Site(certificates.good) as site:
        url, site.raw, site.tls = URL(site.url()), raw, None
        async with fetcher_of(loopback(fetch__ca_file=str(certificates.authority))) as fetcher:
            before = time.thread_time()
            answer = await fetcher.fetch(Request("GET", url, {}, None, 30.0, 200_000))
            return answer, time.thread_time() - before


async def test_endless_key_updates(certificates: Certificates) -> None:
    """They end the connection. 10,000 of them, 270 kB, held the loop for half a second."""
    answer, took = await chat(certificates, 10_000)
    assert answer == Failure(
        "tls",
        "after the handshake: more than 24576 bytes of TLS that carry no data",
        retryable=True,
    )
    assert took < scaled(0.3)


async def test_some_key_updates(certificates: Certificates) -> None:
    """As many as any site has reason for are no fault; nor are the parts that records come in."""
    answer, _ = await chat(certificates, 200)
    assert isinstance(answer, Response), answer
    assert answer.body == b"x" * 100_000


def demanding(listener: socket.socket, context: ssl.SSLContext) -> None:
    """A handshake with a client that shows no certificate. No reset overtakes the alert."""
    connection, _ = listener.accept()
    with context.wrap_socket(connection, True, do_handshake_on_connect=False) as tls:
        with contextlib.suppress(ssl.SSLError):
            tls.do_handshake()
        while os.read(tls.fileno(), 65536):
            pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_site_that_wants_our_certificate(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    """It says so in words: in TLS 1.3 only after the handshake (RFC 8446 section 4.4.2.4)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.pem)
    context.load_verify_locations(certificates.authority)
    context.verify_mode, context.maximum_version = ssl.CERT_REQUIRED, version
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = asyncio.create_task(asyncio.to_thread(demanding, listener, context))
        async with fetcher_of(loopback(fetch__ca_file=str(certificates.authority))) as fetcher:
            url = URL(f"https://127.0.0.1:{listener.getsockname()[1]}/")
            found = await fetcher.fetch(Request("GET", url, {}, None, 5.0, 1000))
        await server
    said = (
        "after the handshake: the site sent the alert: certificate required"
        " (it wants a certificate of its clients, and the daemon has none)"
    )
    if version is ssl.TLSVersion.TLSv1_2:
        said = (
            "handshake: the site sent the alert: handshake failure (it accepts no version, cipher"
            " or curve that is offered, or wants a certificate; see fetch.tls_legacy_servers)"
        )
    assert found == Failure("tls", said)


def handshake(listener: socket.socket, context: ssl.SSLContext) -> None:
    """One handshake that tells the client what is wrong; asyncio's servers hang up instead."""
    connection, _ = listener.accept()
    with connection, contextlib.suppress(ssl.SSLError):
        context.wrap_socket(connection, server_side=True).close()
