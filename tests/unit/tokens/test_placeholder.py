"""sidecar.tokens.placeholder: worth nothing, and well formed"""

from __future__ import annotations

import pytest
from google.auth import jwt
from hypothesis import given
from hypothesis import strategies as st

from sidecar.emulator.keys import BadTokenError, signing_key
from sidecar.errors import Reason, SidecarError
from sidecar.tokens import placeholder
from sidecar.tokens.token import Token
from tests.support.google import signed

NOW = 1_700_000_000


@given(st.text(max_size=100))
def test_a_library_reads_it(audience: str) -> None:
    """As google-auth reads a token that it is not to verify: when it expires, and for whom it is."""
    made = placeholder.id_token(audience, now_at=NOW, expires_at=NOW + 3600)
    claims = jwt.decode(made, verify=False)
    assert (claims["aud"], claims["iat"], claims["exp"]) == (audience, NOW, NOW + 3600)
    assert placeholder.is_in(b"Bearer " + made.encode())


@given(st.text(max_size=100))
def test_one_of_an_access_token_can_be_sent(scopes: str) -> None:
    """Of characters that a header line may have (RFC 6750 section 2.1)."""
    made = placeholder.access_token(scopes)
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")
    assert placeholder.is_in(made.encode())


def test_no_key_of_googles_signed_it() -> None:
    with pytest.raises(BadTokenError):
        signing_key("google").verify(placeholder.id_token("a", now_at=NOW, expires_at=NOW + 3600))


def test_a_real_token_is_none() -> None:
    assert not placeholder.is_in(signed(NOW).encode())
    assert not placeholder.is_in(b"ya29.a0-placeholder")


def test_no_sidecar_takes_it_for_a_token() -> None:
    """Where one sidecar's metadata server is another one's credential: that one would send it to targets."""
    with pytest.raises(SidecarError) as one:
        Token.from_jwt(placeholder.id_token("a", now_at=NOW, expires_at=NOW + 3600), received_at=NOW)
    with pytest.raises(SidecarError) as other:
        Token.opaque(placeholder.access_token("a"), scopes="a", received_at=NOW, expires_at=NOW + 60)
    assert {one.value.reason, other.value.reason} == {Reason.TOKEN_INVALID}
    assert "placeholder" in one.value.detail
