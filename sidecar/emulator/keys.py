"""Keys of the stand-in: what signs tokens, what verifies them, and a small CA for its TLS targets.

Owns every private key of the emulator. Used by all its servers; judges no claim, serves nothing itself. Real
cryptography throughout: a token that a target here accepts is one that Google's libraries accept against the
certificates served here.
Sources: RFC 7515 (JWS), RFC 7517 (JWK), RFC 7518 (ES256), google-auth's `id_token.verify_token` for the PEM form.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_EPOCH = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(2049, 12, 31, tzinfo=datetime.UTC)
"""Validity of certificates: they are as young as the process, and tests move the clock."""


class BadTokenError(Exception):
    """A token that can't be trusted; the message says why, in IAP's words where it has some."""


class UnknownKeyError(BadTokenError):
    """A token whose header names a key, or an algorithm, that its issuer does not have."""


def encode(data: bytes) -> str:
    """base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The inverse of `encode`; BadTokenError where it is none."""
    # Strictly: the decoder skips foreign characters, and many texts would be the same token.
    if not _BASE64URL.fullmatch(text):
        raise BadTokenError("Unable to parse JWT")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise BadTokenError("Unable to parse JWT") from error


def read(token: str) -> dict[str, Any]:
    """The claims of a token, trusted or not; BadTokenError where it is no JWT."""
    return _parse(token)[1]


def _parse(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Header, claims, signature, and what was signed."""
    parts = token.split(".")
    if len(parts) != 3:
        raise BadTokenError("Unable to parse JWT")
    try:
        header, claims = (json.loads(decode(part)) for part in parts[:2])
    except ValueError as error:
        raise BadTokenError("Unable to parse JWT") from error
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise BadTokenError("Unable to parse JWT")
    return header, claims, decode(parts[2]), ".".join(parts[:2]).encode("ascii")


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
        signed = _signed_part("RS256", self.kid, claims)
        return f"{signed}.{encode(self.sign_bytes(signed.encode('ascii')))}"

    def sign_bytes(self, data: bytes) -> bytes:
        """The signature of RS256 over any bytes."""
        return self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())

    def verify(self, token: str, *, named: bool = True) -> dict[str, Any]:
        """The claims of a token that this key signed; BadTokenError otherwise. No claim is judged here.

        `named`: whether its header must have the key's id; an id of another key is wrong in any case.
        """
        header, claims, signature, signed = _parse(token)
        try:
            # Only the one algorithm: what the header says is the sender's wish (RFC 8725 section 3.1).
            kid = header.get("kid", None if named else self.kid)
            if header.get("alg") != "RS256" or kid != self.kid:
                raise UnknownKeyError("JWT signature is invalid")
            self._key.public_key().verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
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


@final
class AssertionKey:
    """A key on P-256 that signs JWTs as ES256: IAP's, for its assertions."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key()
        self._pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode("ascii")
        # As long as IAP's: `gO4i_Q`.
        self.kid = encode(hashlib.sha256(self._pem.encode()).digest())[:6]

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A compact JWS over `claims`."""
        signed = _signed_part("ES256", self.kid, claims)
        pair = decode_dss_signature(self._key.sign(signed.encode("ascii"), ec.ECDSA(hashes.SHA256())))
        # Two numbers beside each other, and no DER (RFC 7518 section 3.4).
        return f"{signed}.{encode(b''.join(number.to_bytes(32) for number in pair))}"

    def jwk(self) -> dict[str, str]:
        """The public key as one entry of a JWKS."""
        numbers = self._key.public_key().public_numbers()
        return {
            "alg": "ES256",
            "crv": "P-256",
            "kid": self.kid,
            "kty": "EC",
            "use": "sig",
            "x": encode(numbers.x.to_bytes(32)),
            "y": encode(numbers.y.to_bytes(32)),
        }

    def public_pem(self) -> str:
        """The public key in PEM."""
        return self._pem


def _signed_part(algorithm: str, kid: str, claims: Mapping[str, Any]) -> str:
    header = {"alg": algorithm, "kid": kid, "typ": "JWT"}
    return ".".join(encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))


@cache
def assertion_key() -> AssertionKey:
    """IAP's key; one a process."""
    return AssertionKey()


@cache
def signing_key(owner: str) -> SigningKey:
    """The key of one owner; one a process, since making it takes a tenth of a second."""
    del owner
    return SigningKey()


@final
class Authority:
    """A CA of its own for the TLS targets."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idtoken-sidecar emulator CA")])
        self._id = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(self._id, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        """What clients are to trust."""

    def issue(self, names: Iterable[str]) -> bytes:
        """A server certificate for DNS names and IP addresses, with its key: PEM as `load_cert_chain` takes it."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idtoken-sidecar emulator target")])
        alternatives = x509.SubjectAlternativeName([_alternative(name) for name in dict.fromkeys(names)])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._id)
        certificate = (
            _builder(subject, self._name, key.public_key())
            .add_extension(alternatives, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


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
