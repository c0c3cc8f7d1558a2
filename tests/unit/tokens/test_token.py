"""sidecar.tokens.token: what is read from a JWT, and that a token never shows itself."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Reason, SidecarError
from sidecar.grammar.moments import from_rfc3339, rfc3339
from sidecar.tokens import policy
from sidecar.tokens.fetch.endpoint import Answer, Endpoint, Protocol
from sidecar.tokens.fetch.grant import access_token_in
from sidecar.tokens.token import MAX_JWT, Token, TokenKey
from tests.support.named_source import NamedSource

NOW = 1_800_000_000.0
AUDIENCE = "https://svc-abc-uc.a.run.app"


def jwt(claims: Any, *, raw: bytes | None = None, signature: str = "c2VjcmV0LXNpZ25hdHVyZQ") -> str:
    """An unsigned JWT with these claims, or with `raw` as its payload."""
    payload = raw if raw is not None else json.dumps(claims).encode()
    parts = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"RS256"}', payload)]
    return ".".join([*parts, signature])


GOOD = {"aud": AUDIENCE, "iat": NOW, "exp": NOW + 3600}
YEAR = 365 * 86400.0

NO_MOMENTS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "1e300",
    "-1e300",
    "-1e18",
    "true",
    '"1800003600"',
    "[1]",
    "{}",
]
NO_MOMENTS += ["1" + "0" * 400, "253402387200", "-1", "0"]
"""JSON that is no moment of a token's life."""


def test_claims_are_read_from_the_token() -> None:
    """Audience and life come from the token itself, and the header value is ready made."""
    value = jwt(GOOD)
    token = Token.from_jwt(value, received_at=NOW + 7)
    assert (token.audience, token.issued_at, token.expires_at) == (AUDIENCE, NOW, NOW + 3600)
    assert token.bearer == b"Bearer " + value.encode()


@pytest.mark.parametrize(
    ("claims", "issued_at", "expires_at"),
    [
        pytest.param({"aud": AUDIENCE, "exp": NOW + 60}, NOW, NOW + 60, id="no-iat"),
        pytest.param({"aud": AUDIENCE, "iat": None, "exp": NOW + 60}, NOW, NOW + 60, id="iat-null"),
        pytest.param({"aud": AUDIENCE, "exp": NOW - 60}, NOW, NOW - 60, id="expired-without-iat"),
        pytest.param(
            {"aud": AUDIENCE, "iat": NOW + 60, "exp": NOW + 120}, NOW + 60, NOW + 120, id="clock-behind"
        ),
        pytest.param(
            {"aud": AUDIENCE, "iat": NOW, "exp": NOW + 9 * YEAR}, NOW, NOW + 9 * YEAR, id="long-lived"
        ),
        pytest.param({"aud": AUDIENCE, "iat": NOW - 5.5, "exp": NOW + 0.5}, NOW - 5.5, NOW + 0.5, id="parts"),
        pytest.param({"aud": [AUDIENCE], "iat": NOW, "exp": NOW + 60}, NOW, NOW + 60, id="list-of-one"),
    ],
)
def test_unusual_but_valid_claims(claims: dict[str, Any], issued_at: float, expires_at: float) -> None:
    """Receipt stands in for a missing `iat`; seconds may have parts; an audience list of one is one
    audience."""
    token = Token.from_jwt(jwt(claims), received_at=NOW)
    assert (token.audience, token.issued_at, token.expires_at) == (AUDIENCE, issued_at, expires_at)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param("", Reason.TOKEN_MALFORMED, id="empty"),
        pytest.param("<html><body>Sign in to Wi-Fi</body></html>", Reason.TOKEN_MALFORMED, id="html"),
        pytest.param("ya29.opaque", Reason.TOKEN_MALFORMED, id="two-parts"),
        pytest.param(jwt(GOOD) + ".x", Reason.TOKEN_MALFORMED, id="four-parts"),
        pytest.param(jwt(GOOD) + "\n", Reason.TOKEN_MALFORMED, id="trailing-newline"),
        pytest.param(jwt(GOOD, signature="a\r\nX-Evil: 1"), Reason.TOKEN_MALFORMED, id="header-injection"),
        pytest.param(jwt(GOOD, signature="é"), Reason.TOKEN_MALFORMED, id="not-ascii"),
        pytest.param(jwt(GOOD, signature="a" * MAX_JWT), Reason.TOKEN_MALFORMED, id="too-long"),
        pytest.param(jwt(None, raw=b"not json"), Reason.TOKEN_MALFORMED, id="payload-not-json"),
        pytest.param(jwt(None, raw=b"\xff\xfe"), Reason.TOKEN_MALFORMED, id="payload-not-utf8"),
        pytest.param(jwt(None, raw=b"[" * 9000), Reason.TOKEN_MALFORMED, id="payload-too-deep"),
        pytest.param(jwt([1]), Reason.TOKEN_MALFORMED, id="payload-not-an-object"),
        pytest.param("a.a.a", Reason.TOKEN_MALFORMED, id="payload-not-base64"),
        pytest.param(jwt({"exp": NOW}), Reason.TOKEN_MALFORMED, id="no-audience"),
        pytest.param(jwt({**GOOD, "aud": ["a", "b"]}), Reason.TOKEN_MALFORMED, id="two-audiences"),
        pytest.param(jwt({**GOOD, "aud": [7]}), Reason.TOKEN_MALFORMED, id="audience-not-text"),
        pytest.param(jwt({"aud": AUDIENCE, "iat": NOW}), Reason.TOKEN_NO_EXPIRY, id="no-exp"),
        pytest.param(jwt({**GOOD, "exp": None}), Reason.TOKEN_NO_EXPIRY, id="exp-null"),
        pytest.param(
            jwt(None, raw=b'{"aud":"a","exp":1%s}' % (b"0" * 5000)),
            Reason.TOKEN_MALFORMED,
            id="exp-not-readable",
        ),
    ],
)
def test_what_is_not_a_token_with_an_expiry_is_refused(value: str, reason: Reason) -> None:
    """Anything but a JWT with one audience and a finite `exp` is refused, and nothing of it is quoted."""
    with pytest.raises(SidecarError) as caught:
        Token.from_jwt(value, received_at=NOW)
    assert caught.value.reason is reason
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    if len(value) > 5:
        assert value[-20:] not in str(caught.value)


@pytest.mark.parametrize("exp", NO_MOMENTS)
@pytest.mark.parametrize("iat", ["", ',"iat":1800000000'], ids=["no-iat", "iat"])
def test_an_end_that_no_token_has_is_refused(exp: str, iat: str) -> None:
    """It could not be shown, nor be renewed by; and nothing of it is quoted."""
    with pytest.raises(SidecarError) as caught:
        Token.from_jwt(jwt(None, raw=f'{{"aud":"a","exp":{exp}{iat}}}'.encode()), received_at=NOW)
    assert caught.value.reason is Reason.TOKEN_INVALID
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("iat", [*NO_MOMENTS, str(NOW + 2 * 86400), str(NOW - 101 * YEAR)])
@pytest.mark.parametrize("exp", [NOW + 3600, NOW + 3 * 86400], ids=["hour", "days"])
def test_a_beginning_that_no_token_has_is_refused(iat: str, exp: float) -> None:
    """Its whole life says when it is renewed."""
    with pytest.raises(SidecarError) as caught:
        Token.from_jwt(jwt(None, raw=f'{{"aud":"a","exp":{exp},"iat":{iat}}}'.encode()), received_at=NOW)
    assert caught.value.reason is Reason.TOKEN_INVALID


@pytest.mark.parametrize(
    ("iat", "exp"),
    [
        pytest.param(NOW, NOW, id="none"),
        pytest.param(NOW + 60, NOW, id="negative"),
        pytest.param(NOW + 10, NOW + 9, id="ends-before-it-begins"),
        pytest.param(NOW, NOW + 100 * YEAR, id="a-hundred-years"),
        pytest.param(NOW - 99 * YEAR, NOW + YEAR, id="most-of-them-over"),
    ],
)
def test_a_life_that_no_token_has_is_refused(iat: float, exp: float) -> None:
    """Be it too long or none."""
    with pytest.raises(SidecarError) as caught:
        Token.from_jwt(jwt({"aud": "a", "iat": iat, "exp": exp}), received_at=NOW)
    assert caught.value.reason is Reason.TOKEN_INVALID


number = (
    st.integers()
    | st.floats()
    | st.floats(NOW - 20 * YEAR, NOW + 20 * YEAR)
    | st.sampled_from([True, "1", None])
)


@given(number, number)
def test_what_is_taken_in_has_a_life_to_plan_with(iat: Any, exp: Any) -> None:
    """Whatever numbers a token names: it is refused by a reason, or can be planned and shown."""
    try:
        token = Token.from_jwt(jwt({"aud": "a", "iat": iat, "exp": exp}), received_at=NOW)
    except SidecarError:
        return
    assert abs(token.expires_at - NOW) <= 11 * YEAR
    assert abs(token.issued_at - NOW) <= 21 * YEAR
    plan = policy.schedule(token, now=policy.Instant(NOW, 100.0), jitter=0.5)
    assert max(plan) <= policy.Instant(NOW + 11 * YEAR, 11 * YEAR)
    assert from_rfc3339(rfc3339(plan.renew.at)) == pytest.approx(plan.renew.at, abs=0.01)


@given(st.text() | st.text(alphabet="abcAB01_-.").map(lambda text: f"a.{text}.b"))
def test_any_text_is_read_or_refused(value: str) -> None:
    """No text makes the reader raise anything but its own error, and none that passes can break a header
    line."""
    try:
        token = Token.from_jwt(value, received_at=NOW)
    except SidecarError:
        return
    assert b"\r" not in token.bearer
    assert b"\n" not in token.bearer


@pytest.mark.parametrize(
    "show",
    [
        pytest.param(repr, id="repr"),
        pytest.param(str, id="str"),
        pytest.param(lambda token: f"{token}", id="format"),
        pytest.param(lambda token: f"{token:>200}", id="format-spec"),
        pytest.param(lambda token: "%s %r" % (token, token), id="percent"),  # noqa: UP031 - the form that logging uses
        pytest.param(lambda token: repr([token, {"t": token}]), id="in-a-container"),
    ],
)
def test_a_token_shows_audience_and_expiry_only(show: Any) -> None:
    """A token has no text form but its audience and expiry."""
    value = jwt(GOOD)
    text = show(Token.from_jwt(value, received_at=NOW))
    assert AUDIENCE in text
    assert "1800003600" in text
    assert not any(part in text for part in value.split("."))


@pytest.mark.parametrize(
    "leak",
    [
        pytest.param(pickle.dumps, id="pickle"),
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(vars, id="vars"),
        pytest.param(json.dumps, id="json"),
    ],
)
def test_a_token_cannot_be_serialised(leak: Any) -> None:
    """A token can't be written out by accident."""
    with pytest.raises(TypeError):
        leak(Token.from_jwt(jwt(GOOD), received_at=NOW))


def test_keys_differ_by_credential_audience_and_kind() -> None:
    """Nothing but the same credential, audience (to the letter) and kind shares a token."""
    keys = {
        TokenKey(NamedSource("a"), AUDIENCE),
        TokenKey(NamedSource("b"), AUDIENCE),
        TokenKey(NamedSource("a"), AUDIENCE + "/"),
        TokenKey(NamedSource("a"), AUDIENCE, "access"),
    }
    assert len(keys) == 4
    assert TokenKey(NamedSource("a"), AUDIENCE) == TokenKey(NamedSource("a"), AUDIENCE, "id")


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        *((seconds, Reason.TOKEN_INVALID) for seconds in NO_MOMENTS if seconds not in ("-1", "0")),
        (str(100 * YEAR), Reason.TOKEN_INVALID),
        ("null", Reason.TOKEN_NO_EXPIRY),
    ],
)
def test_an_access_token_needs_a_life_that_ends(seconds: str, reason: Reason) -> None:
    """`expires_in` is a number of seconds: what JSON readers take for one and is none is refused."""
    endpoint = Endpoint("the endpoint", Protocol.OAUTH, "somebody", "")
    body = f'{{"access_token": "abc", "expires_in": {seconds}}}'.encode()
    with pytest.raises(SidecarError) as caught:
        access_token_in(Answer(200, {}, body), endpoint)
    assert caught.value.reason is reason
