"""Keys: what is signed verifies, and nothing else does."""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sidecar.emulator.keys import Authority, BadTokenError, SigningKey, encode, read, signing_key

CLAIMS = {"aud": "a", "exp": 1}


@pytest.fixture(scope="module")
def key() -> SigningKey:
    """A key; it is made once a process."""
    return signing_key("google")


def altered(token: str, part: int, change: bytes) -> str:
    parts = token.split(".")
    parts[part] = encode(change)
    return ".".join(parts)


def test_what_is_signed_verifies(key: SigningKey) -> None:
    """A signed token gives back its claims, and its header names algorithm and key."""
    token = key.sign(CLAIMS)
    assert key.verify(token) == CLAIMS == read(token)
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    assert header == {"alg": "RS256", "kid": key.kid, "typ": "JWT"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda t: altered(t, 1, b'{"aud":"b"}'), "signature is invalid", id="other-claims"),
        pytest.param(lambda t: altered(t, 2, b"x" * 256), "signature is invalid", id="other-signature"),
        pytest.param(lambda t: altered(t, 2, b""), "signature is invalid", id="no-signature"),
        pytest.param(lambda t: altered(t, 0, b'{"alg":"none"}'), "signature is invalid", id="alg-none"),
        pytest.param(lambda t: altered(t, 0, b'{"alg":"RS256","kid":"x"}'), "is invalid", id="other-kid"),
        pytest.param(lambda t: altered(t, 1, b"[]"), "Unable to parse", id="claims-no-object"),
        pytest.param(lambda t: altered(t, 0, b"{"), "Unable to parse", id="header-no-json"),
        pytest.param(lambda t: altered(t, 1, b"\xff"), "Unable to parse", id="claims-no-text"),
        pytest.param(lambda t: t.rpartition(".")[0], "Unable to parse", id="two-parts"),
        pytest.param(lambda t: t + ".x", "Unable to parse", id="four-parts"),
        pytest.param(lambda t: t + "!!!!", "Unable to parse", id="foreign-characters"),
        pytest.param(lambda t: t + "==", "Unable to parse", id="padded"),
        pytest.param(lambda t: t[:-1], "Unable to parse", id="cut-short"),
        pytest.param(lambda t: t + "é", "Unable to parse", id="not-ascii"),
        pytest.param(lambda t: "", "Unable to parse", id="empty"),
    ],
)
def test_anything_else_is_refused(key: SigningKey, change: object, says: str) -> None:
    """A token that differs in any part from what was signed is none."""
    assert callable(change)
    with pytest.raises(BadTokenError, match=says):
        key.verify(change(key.sign(CLAIMS)))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"alg": "RS256", "kid": "another"}, id="other-kid"),
        pytest.param({"alg": "RS256"}, id="no-kid"),
        pytest.param({"alg": "HS256", "kid": signing_key("google").kid}, id="other-alg"),
        pytest.param({"kid": signing_key("google").kid}, id="no-alg"),
    ],
)
def test_the_header_counts_too(key: SigningKey, header: dict[str, str]) -> None:
    """A good signature under a header that names another key or algorithm is refused."""
    signed = ".".join(encode(json.dumps(part).encode()) for part in (header, CLAIMS))
    private = serialization.load_pem_private_key(key.private_pem().encode(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    signature = private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(BadTokenError, match="signature is invalid"):
        key.verify(f"{signed}.{encode(signature)}")


def test_keys_of_two_owners_differ(key: SigningKey) -> None:
    """An owner's key is the same throughout the process, and verifies no other owner's tokens."""
    other = signing_key("someone@example.com")
    assert signing_key("google") is key
    with pytest.raises(BadTokenError):
        key.verify(other.sign(CLAIMS))


def test_a_key_in_its_public_forms_is_the_same_key(key: SigningKey) -> None:
    """JWK and certificate carry the modulus of the key that signs."""
    certificate = x509.load_pem_x509_certificate(key.certificate_pem().encode())
    public = certificate.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    jwk = key.jwk()
    modulus = base64.urlsafe_b64decode(jwk["n"] + "==")
    assert int.from_bytes(modulus, "big") == public.public_numbers().n
    assert jwk["kid"] == key.kid


def handshake(authority: Authority, names: tuple[str, ...], asked: str, folder: Path) -> None:
    """A TLS handshake in memory; ssl.SSLError where the client refuses."""
    chain = folder / "server.pem"
    chain.write_bytes(authority.issue(names))
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(chain)
    client_side = ssl.create_default_context(cadata=authority.pem.decode())
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=asked)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


@pytest.mark.parametrize("asked", ["billing.localhost", "127.0.0.1", "::1"])
def test_a_certificate_is_good_for_its_names(asked: str, tmp_path: Path) -> None:
    """A strict client that trusts the CA takes the certificate for each name and address in it."""
    handshake(Authority(), ("billing.localhost", "127.0.0.1", "::1"), asked, tmp_path)


def test_a_certificate_is_good_for_nothing_else(tmp_path: Path) -> None:
    """Another name, or another CA, is refused by the client."""
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(Authority(), ("billing.localhost",), "reports.localhost", tmp_path)
    ours, theirs = Authority(), Authority()
    ours.pem = theirs.pem
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(ours, ("billing.localhost",), "billing.localhost", tmp_path)
