"""Certificates of every kind, and OpenSSL's own server to show them.

A test makes its authorities and certificates with `authority` and `issue` (milliseconds, elliptic curves), and starts
`openssl s_server` with what it likes. The server says itself when it listens; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

LIMIT = 60.0
NAMES = ("localhost",)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def authority(
    name: str, by: Issued | None = None, *, below: int | None = None, really: bool = True, usage: bool = True
) -> Issued:
    """A CA; `below` bounds the CAs under it, and `really=False` makes one that may not issue anything.

    `usage=False` leaves its key usage out, as `openssl req -x509` does.
    """
    return _make(name, by, ca=really, path_length=below if really else None, names=(), usage=usage)


def issue(
    by: Issued | None,
    names: Sequence[str] = NAMES,
    *,
    days: tuple[int, int] = (-2, 30),
    key: Key | None = None,
    digest: hashes.HashAlgorithm | None = None,
    subject: str = "leaf",
) -> Issued:
    """A server's or client's certificate, valid from and until so many days from now; by itself without an authority."""
    return _make(subject, by, ca=False, path_length=None, names=names, days=days, key=key, digest=digest)


def _make(
    name: str,
    by: Issued | None,
    *,
    ca: bool,
    path_length: int | None,
    names: Sequence[str],
    days: tuple[int, int] = (-2, 30),
    key: Key | None = None,
    digest: hashes.HashAlgorithm | None = None,
    usage: bool = True,
) -> Issued:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)  # noqa: TID251  # OpenSSL reads the real clock, too
    signer = by.key if by else key
    issuer = by.certificate.public_key() if by else key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
    )
    if ca and usage:
        builder = builder.add_extension(_ca_usage(), critical=True)
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(one) for one in names])
        builder = builder.add_extension(alternatives, critical=False)
    return Issued(builder.sign(signer, digest or hashes.SHA256()), key)


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def revocations(by: Issued, revoked: Iterable[Issued] = (), *, days: tuple[int, int] = (-2, 30)) -> bytes:
    """The list (CRL) of one authority, as PEM."""
    now = datetime.now(UTC)  # noqa: TID251  # as above
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(by.certificate.subject)
        .last_update(now + timedelta(days=days[0]))
        .next_update(now + timedelta(days=days[1]))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key()), critical=False
        )
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for one in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(one.certificate.serial_number)
            .revocation_date(now)
            .build()
        )
    return builder.sign(by.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write(file: Path, *parts: bytes) -> Path:
    """A PEM file that only its owner can read."""
    file.write_bytes(b"".join(parts))
    file.chmod(0o600)
    return file


class Server:
    """A running `openssl s_server`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def until(self, text: bytes) -> None:
        """Wait until it has printed a line with `text`, such as one that a client sent."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT):
            while text not in (line := await self._process.stdout.readline()):
                assert line, f"openssl ended before it said {text!r}"

    def type(self, command: bytes) -> None:
        """A line on its terminal; `R` asks for a new handshake."""
        assert self._process.stdin is not None
        self._process.stdin.write(command)


@asynccontextmanager
async def s_server(
    directory: Path, shown: Issued, *arguments: str, chain: Sequence[Issued] = (), page: bool = True
) -> AsyncIterator[Server]:
    """OpenSSL's server with this certificate, on a free port of 127.0.0.1; `page` has it answer every request."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "these tests need the command `openssl` (Debian: openssl)"
    write(directory / "shown.pem", shown.pem)
    write(directory / "shown-key.pem", shown.key_pem)
    write(directory / "chain.pem", *(one.pem for one in chain))
    command = [
        "s_server",
        "-accept",
        "127.0.0.1:0",
        "-cert",
        "shown.pem",
        "-key",
        "shown-key.pem",
        *arguments,
    ]
    if chain:
        command += ["-cert_chain", "chain.pem"]
    if page:
        command += ["-www"]
    process = await asyncio.create_subprocess_exec(
        openssl,
        *command,
        cwd=directory,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT):
            while not (line := await process.stdout.readline()).startswith(b"ACCEPT "):
                assert line, "openssl did not start"
        yield Server(process, int(line.rsplit(b":", 1)[1]))
    finally:
        process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # else its pipes are closed by the collector, with a warning
