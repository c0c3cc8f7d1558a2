"""Keys of the stand-in: what signs tokens, what verifies them, and a small CA for its TLS targets.

Owns every private key of the emulator. Used by all its servers. Real cryptography throughout: a token that
a target here accepts is one that Google's libraries accept against the certificates served here.
Sources: RFC 7515 (JWS), RFC 7517 (JWK), google-auth's `id_token.verify_token` for the PEM form.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_EPOCH = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(2049, 12, 31, tzinfo=datetime.UTC)
"""Validity of certificates: they are as young as the process, and tests move the clock."""


class BadTokenError(Exception):
    """A token that can't be trusted; the message says why."""


def encode(data: bytes) -> str:
    """base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The inverse of `encode`; BadTokenError where it is none."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise BadTokenError("not base64url") from error


@final
class SigningKey:
    """An RSA key that signs JWTs as RS256."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = self._key.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.kid = hashlib.sha256(der).hexdigest()[:40]

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A compact JWS over `claims`."""
        header = {"alg": "RS256", "kid": self.kid, "typ": "JWT"}
        signed = ".".join(
            encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims)
        )
        signature = self._key.sign(signed.encode("ascii"), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{encode(signature)}"

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token that this key signed; BadTokenError otherwise. No claim is judged here."""
        parts = token.split(".")
        if len(parts) != 3:
            raise BadTokenError("not a JWT")
        try:
            header = json.loads(decode(parts[0]))
            claims = json.loads(decode(parts[1]))
        except ValueError as error:
            raise BadTokenError("not a JWT") from error
        if not isinstance(header, dict) or not isinstance(claims, dict) or header.get("alg") != "RS256":
            raise BadTokenError("not an RS256 JWT")
        if header.get("kid") != self.kid:
            raise BadTokenError(f"no key has id {header.get('kid')}")
        try:
            self._key.public_key().verify(
                decode(parts[2]),
                f"{parts[0]}.{parts[1]}".encode("ascii"),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
        except InvalidSignature as error:
            raise BadTokenError("JWT signature is invalid") from error
        return claims

    def private_pem(self) -> str:
        """The private key in PKCS #8, as key files hold it."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode("ascii")

    def jwk(self) -> dict[str, str]:
        """The public key as one entry of a JWKS."""
        numbers = self._key.public_key().public_numbers()
        return {
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "kid": self.kid,
            "n": encode(numbers.n.to_bytes(256, "big")),
            "e": encode(numbers.e.to_bytes(3, "big")),
        }

    def certificate_pem(self) -> str:
        """A self-signed certificate over the key: the form of /oauth2/v1/certs."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idtoken-sidecar emulator")])
        builder = _builder(name, name, self._key.public_key())
        return (
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")
        )


@cache
def signing_key(owner: str) -> SigningKey:
    """The key of one owner; one a process, since making it takes a tenth of a second."""
    del owner
    return SigningKey()


@final
class Authority:
    """A CA, and one server certificate under it."""

    def __init__(self, names: Iterable[str]) -> None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idtoken-sidecar emulator CA")])
        ca_key = ec.generate_private_key(ec.SECP256R1())
        authority_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
        ca = (
            _builder(subject, subject, ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(authority_id, critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        self.ca_pem = ca.public_bytes(serialization.Encoding.PEM)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        certificate = (
            _builder(leaf, subject, key.public_key())
            .add_extension(
                x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False
            )
            .sign(ca_key, hashes.SHA256())
        )
        self.server_pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        """Certificate and key in one, as `SSLContext.load_cert_chain` takes it."""


def _builder(
    subject: x509.Name, issuer: x509.Name, public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_EPOCH)
        .not_valid_after(_END)
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
