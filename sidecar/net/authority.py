"""The sidecar's own CA. It issues certificates for the hosts of intercepted routes only.

Owns the keys that certify intercepted hosts, the name constraint on them, and the certificates made with them. Called
by `interception`, which keeps them. It does no I/O: it takes and returns PEM, and time is an argument (Unix seconds).
Rules: RFC 5280 sections 4.2.1.9, 4.2.1.10 (name constraints) and 4.2.1.12; CA/Browser Forum's baseline requirements
7.1.2.5 (a constrained CA excludes every kind of name that it does not list).

Two certificates are made for one CA: a root, whose key is forgotten as soon as it has signed, and below it the one
that certifies hosts. Both carry the constraint, because Java and others ignore a root's and heed the one below it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.grammar import hosts as grammar

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

LEAF_LIFE: Final = 12 * 3600.0
"""How long a host's certificate is valid, in seconds."""
_CA_LIFE: Final = timedelta(days=3650)
"""Far longer than a process lives. The CA's key is lost when the process ends."""
_BEFORE: Final = timedelta(hours=1)
"""How far back a certificate's validity starts, because an app's clock may be behind."""
_NO_DNS_NAME: Final = "invalid"
"""A name that cannot exist (RFC 6761 section 6.4), for a CA that covers addresses only."""


class Leaf(NamedTuple):
    """A host's certificate; its text form shows no key."""

    chain: bytes
    """PEM: its own certificate, and those between it and the one that apps trust."""
    key: bytes
    ends_at: float

    def __repr__(self) -> str:
        return f"<Leaf until {self.ends_at:.0f}>"


@final
class CertificateAuthority:
    """A CA, with the key that certifies hosts."""

    def __init__(self, certificates: Sequence[x509.Certificate], key: Key) -> None:
        """`certificates` starts with the key's own certificate, followed by its issuers."""
        self._certificates = tuple(certificates)
        self._key = key
        self._permitted, self._excluded = _constraints(certificates[0])

    def __repr__(self) -> str:
        return f"<CertificateAuthority {self.name}>"

    @classmethod
    def made(cls, patterns: Collection[str], now: float) -> CertificateAuthority:
        """A new CA for these hosts. Wildcards are written as in a route."""
        constraint = _constraint_for(patterns)
        name = f"idtoken-sidecar CA {x509.random_serial_number():x}"[:32]
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = _ca_certificate(name, root_key, None, root_key, constraint, now)
        return cls([_ca_certificate(f"{name} hosts", key, root, root_key, constraint, now), root], key)

    @classmethod
    def read(cls, certificate: bytes, key: bytes, now: float) -> CertificateAuthority:
        """The CA in these two PEM files. Raises ValueError; its text says what is wrong and fits into a sentence."""
        certificates = _read_certificates(certificate)
        private = _read_key(key)
        issuing = certificates[0]
        if private.public_key() != issuing.public_key():
            raise ValueError("`ca_key_file` is not the key of the first certificate in `ca_cert_file`")
        if (why := _unfit(issuing, now)) is not None:
            raise ValueError(f"the first certificate in `ca_cert_file` {why}")
        return cls(certificates, private)

    @property
    def name(self) -> str:
        """The subject of the certificate that signs hosts' certificates."""
        return self._certificates[0].subject.rfc4514_string()

    @property
    def ends_at(self) -> float:
        """When the CA expires, in Unix seconds."""
        return self._certificates[0].not_valid_after_utc.timestamp()

    @property
    def is_constrained(self) -> bool:
        """Whether it has a constraint on DNS names."""
        return any(isinstance(name, x509.DNSName) for name in self._permitted)

    @property
    def trusted(self) -> list[bytes]:
        """The certificates that apps have to trust, each as PEM: those without an issuer here, or all if each has
        one.
        """
        roots = [it for it in self._certificates if it.issuer == it.subject]
        return [_pem(it) for it in roots or self._certificates]

    def permits(self, pattern: str) -> bool:
        """Whether its constraint permits a host, or every host below a wildcard's suffix."""
        host = pattern.removeprefix("*.")
        if grammar.ip_literal(host) is not None:
            return self._permits_address(ipaddress.ip_network(host))
        excluded = [name.value for name in self._excluded if isinstance(name, x509.DNSName)]
        permitted = [name.value for name in self._permitted if isinstance(name, x509.DNSName)]
        if any(_is_within(host, name) or _is_within(name, host) for name in excluded):
            return False
        return not permitted or any(_is_within(host, name) for name in permitted)

    def _permits_address(self, address: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
        def holds(name: x509.GeneralName) -> bool:
            if not isinstance(name, x509.IPAddress):
                return False
            network = name.value
            if isinstance(address, ipaddress.IPv4Network):
                return isinstance(network, ipaddress.IPv4Network) and address.subnet_of(network)
            return isinstance(network, ipaddress.IPv6Network) and address.subnet_of(network)

        permitted = [name for name in self._permitted if isinstance(name, x509.IPAddress)]
        return not any(map(holds, self._excluded)) and (not permitted or any(map(holds, permitted)))

    def issue(self, host: str, now: float) -> Leaf:
        """A certificate with a new key for one host (normal form)."""
        key = ec.generate_private_key(ec.SECP256R1())
        address = grammar.ip_literal(host)
        name = x509.DNSName(host) if address is None else x509.IPAddress(address)
        issuing = self._certificates[0]
        ends = min(datetime.fromtimestamp(now + LEAF_LIFE, UTC), issuing.not_valid_after_utc)
        usage = _usage(digital_signature=True)
        certificate = (
            _builder("idtoken-sidecar, for an app beside it", key, issuing, self._key)
            .not_valid_before(max(datetime.fromtimestamp(now, UTC) - _BEFORE, issuing.not_valid_before_utc))
            .not_valid_after(ends)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        between = [it for it in self._certificates if it.issuer != it.subject]
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Leaf(b"".join(map(_pem, [certificate, *between])), private, ends.timestamp())


def _constraint_for(patterns: Collection[str]) -> x509.NameConstraints:
    """A constraint that permits these hosts only."""
    permitted: list[x509.GeneralName] = []
    for host in sorted({pattern.removeprefix("*.") for pattern in patterns}):
        if grammar.ip_literal(host) is None:
            permitted.append(x509.DNSName(host))
        else:
            permitted.append(x509.IPAddress(ipaddress.ip_network(host)))
    if not any(isinstance(name, x509.DNSName) for name in permitted):
        permitted.append(x509.DNSName(_NO_DNS_NAME))
    has_address = any(isinstance(name, x509.IPAddress) for name in permitted)
    all_addresses = [x509.IPAddress(ipaddress.ip_network(it)) for it in ("0.0.0.0/0", "::/0")]
    return x509.NameConstraints(permitted, None if has_address else all_addresses)


def _ca_certificate(
    name: str,
    key: Key,
    issuer: x509.Certificate | None,
    signing: Key,
    constraint: x509.NameConstraints,
    now: float,
) -> x509.Certificate:
    at = datetime.fromtimestamp(now, UTC)
    builder = (
        _builder(name, key, issuer, signing)
        .not_valid_before(at - _BEFORE)
        .not_valid_after(at + _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1 if issuer is None else 0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(constraint, critical=True)
    )
    if issuer is not None:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    return builder.sign(signing, hashes.SHA256())


def _builder(name: str, key: Key, issuer: x509.Certificate | None, signing: Key) -> x509.CertificateBuilder:
    """What all certificates have in common. Without an `issuer` the certificate signs itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_authority_key(issuer, signing), critical=False)
    )


def _authority_key(issuer: x509.Certificate | None, signing: Key) -> x509.AuthorityKeyIdentifier:
    """The issuer's key identifier as its certificate states it. It need not be a digest of the key."""
    if issuer is not None:
        try:
            found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
            return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)
        except x509.ExtensionNotFound:
            pass
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _read_certificates(data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ValueError("`ca_cert_file` holds no certificate in PEM, or one that can't be read") from None


def _read_key(data: bytes) -> Key:
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        raise ValueError("the key in `ca_key_file` is encrypted: give one without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("`ca_key_file` holds no private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("the key in `ca_key_file` is neither RSA nor of an elliptic curve (ECDSA)")
    return key


def _unfit(certificate: x509.Certificate, now: float) -> str | None:
    """Why a certificate can't sign hosts' certificates; None if it can."""
    at = datetime.fromtimestamp(now, UTC)
    if certificate.not_valid_after_utc <= at:
        return f"has expired ({certificate.not_valid_after_utc:%Y-%m-%d})"
    if certificate.not_valid_before_utc > at:
        return f"is not good before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    try:
        extensions = certificate.extensions
    except ValueError:
        return "has extensions that can't be read"
    try:
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    if not is_ca:
        return "is no CA's (basicConstraints): put the CA first"
    try:
        may_sign = extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        may_sign = True
    return None if may_sign else "may not sign certificates (keyUsage)"


def _constraints(
    certificate: x509.Certificate,
) -> tuple[tuple[x509.GeneralName, ...], tuple[x509.GeneralName, ...]]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return (), ()
    return tuple(found.permitted_subtrees or ()), tuple(found.excluded_subtrees or ())


def _is_within(host: str, name: str) -> bool:
    """Whether a host is a constraint's host, or below it. Some CAs write a dot in front."""
    name = name.lower().lstrip(".")
    return not name or host == name or host.endswith(f".{name}")
