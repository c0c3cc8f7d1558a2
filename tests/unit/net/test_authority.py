"""sidecar.net.authority: what a CA of the sidecar's own may speak for, and what is made with it"""

from __future__ import annotations

import ipaddress
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from sidecar.net.authority import LEAF_LIFE, CertificateAuthority
from tests.support import openssl

NOW = 1_800_000_000.0
AT = datetime.fromtimestamp(NOW, UTC)


def chain_of(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def verify(authority: CertificateAuthority, chain: list[x509.Certificate], name: str) -> None:
    """As a client does that trusts the CA, and looks at a root's constraint or does not."""
    (root,) = authority.trusted
    store = Store(chain_of(root))
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        subject = x509.DNSName(name)
    PolicyBuilder().store(store).time(AT.replace(tzinfo=None)).build_server_verifier(subject).verify(
        chain[0], chain[1:]
    )


@pytest.mark.parametrize(
    ("pattern", "host"),
    [
        pytest.param("billing-1.a.run.app", "billing-1.a.run.app", id="a-host"),
        pytest.param("*.a.run.app", "b.a.run.app", id="a-wildcards"),
        pytest.param("xn--bcher-kva.example", "xn--bcher-kva.example", id="an-international-name"),
    ],
)
def test_a_host_of_its_own_is_certified(pattern: str, host: str) -> None:
    """For this host alone, from an hour ago and for hours, below an issuer that is sent along."""
    authority = CertificateAuthority.made([pattern], NOW)
    leaf = authority.issue(host, NOW)
    assert leaf.ends_at == NOW + LEAF_LIFE
    chain = chain_of(leaf.chain)
    assert len(chain) == 2
    verify(authority, chain, host)
    with pytest.raises(VerificationError):
        verify(authority, chain, "other.example")
    assert b"PRIVATE KEY" in leaf.key
    assert "PRIVATE" not in repr(leaf)


def forged(authority: CertificateAuthority, names: list[x509.GeneralName]) -> list[x509.Certificate]:
    """What somebody makes who got the key: a certificate for any names."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuing = chain_of(authority.issue("billing-1.a.run.app", NOW).chain)[1]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged leaf")]))
        .issuer_name(issuing.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(AT - timedelta(hours=1))
        .not_valid_after(AT + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority._key, hashes.SHA256())  # as who has read this process's memory
    )
    return [certificate, issuing]


FORGED = [
    pytest.param([x509.DNSName("www.bank.example")], "www.bank.example", id="another-host"),
    pytest.param([x509.DNSName("a.run.app")], "a.run.app", id="above-it"),
    pytest.param([x509.DNSName("xbilling-1.a.run.app")], "xbilling-1.a.run.app", id="not-a-label"),
    pytest.param([x509.IPAddress(ipaddress.ip_address("10.0.0.1"))], "10.0.0.1", id="an-address"),
    pytest.param([x509.IPAddress(ipaddress.ip_address("fd00::1"))], "fd00::1", id="an-ipv6-address"),
]


@pytest.mark.parametrize(("names", "name"), FORGED)
def test_its_key_is_worth_nothing_for_others(
    tmp_path: Path, names: list[x509.GeneralName], name: str
) -> None:
    """By OpenSSL, too, which Python, curl and Node verify with."""
    authority = CertificateAuthority.made(["billing-1.a.run.app"], NOW)
    chain = forged(authority, names)
    with pytest.raises(VerificationError):
        verify(authority, chain, name)
    assert "permitted subtree violation" in openssl_says(tmp_path, authority, chain) or (
        "excluded subtree violation" in openssl_says(tmp_path, authority, chain)
    )


def openssl_says(directory: Path, authority: CertificateAuthority, chain: list[x509.Certificate]) -> str:
    """What `openssl verify` has to say of a chain."""
    files = {
        "root.pem": authority.trusted[0],
        "leaf.pem": chain[0].public_bytes(serialization.Encoding.PEM),
        "between.pem": b"".join(it.public_bytes(serialization.Encoding.PEM) for it in chain[1:]),
    }
    for name, data in files.items():
        (directory / name).write_bytes(data)
    found = subprocess.run(
        [
            *("openssl", "verify", "-attime", f"{NOW:.0f}", "-purpose", "sslserver"),
            *("-CAfile", "root.pem", *(["-untrusted", "between.pem"] if chain[1:] else []), "leaf.pem"),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout + found.stderr


@pytest.mark.parametrize(
    ("patterns", "host"),
    [
        pytest.param(["a.example", "*.b.example"], "a.example", id="a-host"),
        pytest.param(["a.example", "*.b.example"], "x.y.b.example", id="under-a-wildcard"),
        pytest.param(["10.1.2.3"], "10.1.2.3", id="an-address"),
        pytest.param(["a.example", "fd00::7"], "fd00::7", id="an-ipv6-address"),
    ],
)
def test_openssl_takes_what_is_made(tmp_path: Path, patterns: list[str], host: str) -> None:
    """Purpose, constraint, dates and all."""
    authority = CertificateAuthority.made(patterns, NOW)
    assert openssl_says(tmp_path, authority, chain_of(authority.issue(host, NOW).chain)).endswith("OK\n")
    assert authority.permits(host)


def test_both_certificates_of_a_ca_have_the_constraint() -> None:
    """Critical, so that who does not know it refuses; the lower one is for servers and has no CA below it."""
    authority = CertificateAuthority.made(["a.example"], NOW)
    issuing = chain_of(authority.issue("a.example", NOW).chain)[1]
    (root,) = chain_of(authority.trusted[0])
    for certificate in (issuing, root):
        extension = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        assert extension.critical
        assert extension.value.permitted_subtrees == [x509.DNSName("a.example")]
    assert issuing.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert root.public_key() != issuing.public_key()
    assert authority.is_constrained


def test_a_certificate_does_not_outlive_its_ca() -> None:
    """Or nobody would take it in its last hours."""
    by = constrained(["a.example"], days=(-2, 0))
    authority = CertificateAuthority.read(by.pem, by.key_pem, REAL)
    assert authority.issue("a.example", REAL).ends_at == authority.ends_at


REAL = datetime.now(UTC).timestamp()  # noqa: TID251  # tests.support.openssl makes certificates by the real clock


def constrained(
    permitted: list[str], excluded: list[str] | None = None, *, days: tuple[int, int] = (-2, 30)
) -> openssl.Issued:
    """A CA of somebody's own, with a constraint."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "theirs")])
    at = datetime.fromtimestamp(REAL, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at + timedelta(days=days[0]))
        .not_valid_after(at + timedelta(days=days[1], hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.NameConstraints(
                [x509.DNSName(it) for it in permitted] or None,
                [x509.DNSName(it) for it in excluded or []] or None,
            ),
            critical=True,
        )
    )
    return openssl.Issued(builder.sign(key, hashes.SHA256()), key)


@pytest.mark.parametrize(
    ("permitted", "excluded", "pattern", "may"),
    [
        pytest.param(["a.example"], [], "a.example", True, id="itself"),
        pytest.param(["a.example"], [], "b.a.example", True, id="below"),
        pytest.param([".a.example"], [], "b.a.example", True, id="with-a-dot"),
        pytest.param(["a.example"], [], "*.a.example", True, id="a-wildcard"),
        pytest.param(["a.example"], [], "xa.example", False, id="no-label"),
        pytest.param(["a.example"], [], "example", False, id="above"),
        pytest.param(["b.a.example"], [], "*.a.example", False, id="a-wider-wildcard"),
        pytest.param(["a.example"], ["b.a.example"], "c.a.example", True, id="beside-what-is-excluded"),
        pytest.param(["a.example"], ["b.a.example"], "b.a.example", False, id="excluded"),
        pytest.param(
            ["a.example"], ["b.a.example"], "*.a.example", False, id="a-wildcard-over-what-is-excluded"
        ),
        pytest.param([], ["b.example"], "a.example", True, id="only-excluded"),
    ],
)
def test_what_a_constraint_permits(
    permitted: list[str], excluded: list[str], pattern: str, may: bool
) -> None:
    """RFC 5280 section 4.2.1.10; of a wildcard, all that it could stand for."""
    by = constrained(permitted, excluded)
    assert CertificateAuthority.read(by.pem, by.key_pem, REAL).permits(pattern) is may


def test_a_ca_of_ones_own_below_another() -> None:
    """What is between is sent along, and the root is what apps trust."""
    root = openssl.authority("root")
    below = openssl.authority("below", root)
    authority = CertificateAuthority.read(below.pem + root.pem, below.key_pem, REAL)
    assert authority.trusted == [root.pem]
    assert not authority.is_constrained
    chain = chain_of(authority.issue("any.example", REAL).chain)
    assert [it.subject for it in chain[1:]] == [below.certificate.subject]
    chain[0].verify_directly_issued_by(below.certificate)
    alone = CertificateAuthority.read(below.pem, below.key_pem, REAL)
    assert alone.trusted == [below.pem]


def pem_of(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_what_cannot_be_used_is_said() -> None:
    """In one sentence, which quotes neither file."""
    good, other = openssl.authority("good"), openssl.authority("other")
    encrypted = good.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"s3cret"),
    )
    edwards = pem_of(ed25519.Ed25519PrivateKey.generate())
    old, young = constrained([], ["x"], days=(-9, -2)), constrained([], ["x"], days=(2, 9))
    no_ca = openssl.issue(None, ["leaf.example"])
    for certificate, key, words in (
        (b"", good.key_pem, "no certificate in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", good.key_pem, "no certificate"),
        (good.pem, b"", "no private key"),
        (good.pem, good.pem, "no private key"),
        (good.pem, encrypted, "encrypted"),
        (good.pem, other.key_pem, "is not the key of"),
        (good.pem, edwards, "neither RSA nor"),
        (old.pem, old.key_pem, "has expired"),
        (young.pem, young.key_pem, "not good before"),
        (no_ca.pem, no_ca.key_pem, "is no CA's"),
    ):
        with pytest.raises(ValueError, match=words) as raised:
            CertificateAuthority.read(certificate, key, REAL)
        assert "BEGIN" not in str(raised.value)


def test_an_rsa_key_certifies_too(tmp_path: Path) -> None:
    """As most companies' CAs have one."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "theirs")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(AT - timedelta(days=1))
        .not_valid_after(AT + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    issued = openssl.Issued(certificate, key)
    authority = CertificateAuthority.read(issued.pem, issued.key_pem, NOW)
    leaf = authority.issue("a.example", NOW)
    assert openssl_says(tmp_path, authority, chain_of(leaf.chain)).endswith("OK\n")
    assert ssl.PEM_cert_to_DER_cert(leaf.chain.decode())
