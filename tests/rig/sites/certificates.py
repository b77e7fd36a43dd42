"""Certificates for the tests' TLS sites: one good, and each of the bad ones.

May touch: a folder it is given, for the authority's certificate.
Must never: make an authority that any other machine trusts.
"""

from __future__ import annotations

import base64
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"
# Faults that the library makes no certificates with: how OpenSSL is told to.
_BY_OPENSSL = {
    "weak key": ("rsa:1024", "-sha256"),
    "SHA-1": ("rsa:2048", "-sha1"),
}


class Certificates:
    """Server contexts of an authority of our own; `authority` is the file a client trusts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.authority = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(self.authority)

    @cached_property
    def good(self) -> ssl.SSLContext:
        return _context(self._ca.issue_cert(HOST, "localhost"))

    @cached_property
    def tls_1_2(self) -> ssl.SSLContext:
        """Good, of a server that speaks nothing newer than TLS 1.2."""
        context = _context(self._ca.issue_cert(HOST))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    @cached_property
    def pem(self) -> Path:
        """A good one with its key and chain, as a file."""
        path = self._folder / "good.pem"
        self._ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(path)
        return path

    @cached_property
    def rsa(self) -> Path:
        """Such a file with a key of RSA, for old ciphers."""
        path = self._folder / "rsa.pem"
        leaf = self._ca.issue_cert(HOST, key_type=trustme.KeyType.RSA)
        leaf.private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def faulty(self, fault: str) -> Path:
        """Such a file with what a site should not have, by the name of the fault."""
        path = self._folder / f"{fault.replace(' ', '-')}.pem"
        if not path.exists():
            if fault in _BY_OPENSSL:
                self._by_openssl(path, *_BY_OPENSSL[fault])
            else:
                leaf = self._issued(fault)
                path.write_bytes(leaf.private_key_pem.bytes() + leaf.cert_chain_pems[0].bytes())
        return path

    def _issued(self, fault: str) -> trustme.LeafCert:
        now, day = datetime.now(UTC), timedelta(days=1)
        if fault == "expired":
            return self._ca.issue_cert(HOST, not_before=now - 2 * day, not_after=now - day)
        if fault == "not yet valid":
            return self._ca.issue_cert(HOST, not_before=now + day, not_after=now + 2 * day)
        if fault == "another host":
            return self._ca.issue_cert("elsewhere.example")
        if fault == "incomplete chain":
            return self._ca.create_child_ca().issue_cert(HOST)
        assert fault == "unknown authority", fault
        return trustme.CA().issue_cert(HOST)

    def _by_openssl(self, path: Path, key: str, digest: str) -> None:
        """Have the authority certify a key of this kind by this digest."""
        ca, request, extension = (path.with_suffix(f".{end}") for end in ("ca", "csr", "ext"))
        self._ca.private_key_pem.write_to_path(ca)
        extension.write_text(f"subjectAltName=IP:{HOST}\n")
        asked = f"req -newkey {key} -nodes -subj /CN=x -keyout {path} -out {request}"
        issued = f"x509 -req {digest} -CA {self.authority} -CAkey {ca} -set_serial 7 -days 2"
        issued += f" -extfile {extension} -in {request}"
        subprocess.run(["openssl", *asked.split()], check=True, capture_output=True)
        done = subprocess.run(["openssl", *issued.split()], check=True, capture_output=True)
        with path.open("ab") as file:
            file.write(done.stdout)

    @cached_property
    def long_chain(self) -> ssl.SSLContext:
        """Good, but 200 certificates that belong to nothing come with it: 90 kB."""
        leaf = self._ca.issue_cert(HOST)
        path = self._folder / "long.pem"
        path.write_bytes(
            leaf.private_key_and_cert_chain_pem.bytes() + self._ca.cert_pem.bytes() * 200
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    @cached_property
    def huge_prime(self) -> ssl.SSLContext:
        """Good, of a server that knows no key exchange but DHE, with a prime of 10,000 bits.

        OpenSSL's client takes no larger one, and does not ask whether it is prime.
        """
        context = _context(self._ca.issue_cert(HOST, key_type=trustme.KeyType.RSA))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("DHE")
        path = self._folder / "prime.pem"
        path.write_text(
            "-----BEGIN DH PARAMETERS-----\n"
            + base64.encodebytes(_sequence((1 << 9_999) | 1, 2)).decode()
            + "-----END DH PARAMETERS-----\n"
        )
        context.load_dh_params(str(path))
        return context

    @cached_property
    def intermediate(self) -> tuple[Path, ssl.SSLContext]:
        """The certificate of an authority under another one, and a server certified by it."""
        below = self._ca.create_child_ca()
        path = self._folder / "intermediate.pem"
        below.cert_pem.write_to_path(path)
        return path, _context(below.issue_cert(HOST))

    @cached_property
    def expired(self) -> ssl.SSLContext:
        now = datetime.now(UTC)
        return _context(
            self._ca.issue_cert(
                HOST, not_before=now - timedelta(days=30), not_after=now - timedelta(days=1)
            )
        )

    @cached_property
    def wrong_host(self) -> ssl.SSLContext:
        return _context(self._ca.issue_cert("elsewhere.example"))

    @cached_property
    def stranger(self) -> ssl.SSLContext:
        """Of an authority that nobody trusts."""
        return _context(trustme.CA().issue_cert(HOST))

    @cached_property
    def self_signed(self) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        path = self._folder / "self-signed.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _sequence(*numbers: int) -> bytes:
    """Positive numbers in DER (X.690), as PKCS #3 wants the prime and the generator."""
    return _der(
        0x30, b"".join(_der(0x02, n.to_bytes(n.bit_length() // 8 + 1, "big")) for n in numbers)
    )


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
