"""sidecar.tokens.grants.user, against the stand-in's token endpoint: what a person's login gives, and when it must be renewed"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.targets import TokenKind
from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault, Kind
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.grant import Grant
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.fetch.threads import FetchThreads
from sidecar.tokens.grants.adc import AdcGrant
from sidecar.tokens.grants.credential_types import Addresses
from sidecar.tokens.grants.user import LOGIN, UserGrant, WorkforceGrant
from sidecar.tokens.token import TokenKey, read_claims
from tests.support.named_source import NamedSource

ACCESS = TokenKey(NamedSource("me"), "https://www.googleapis.com/auth/cloud-platform", TokenKind.ACCESS)
PERSONS = TokenKey(NamedSource("me"), "https://svc.example", TokenKind.ID, True)


def source(grant: Grant) -> GoogleSource:
    return GoogleSource(
        "test", grant, SystemClock(asyncio.get_running_loop()), FetchThreads("me"), seconds=60
    )


class Login:
    """A person, and the file that the login left."""

    def __init__(self, google: Emulator, directory: Path) -> None:
        self.google = google
        self.user = google.oauth.add_user("me@example.com")
        self.file = google.write_login(directory / "login.json", self.user)

    def change(self, **changes: Any) -> None:
        """Other fields in the file; None takes one out."""
        info = {**json.loads(self.file.read_text()), **changes}
        self.file.write_text(json.dumps({name: value for name, value in info.items() if value is not None}))

    @property
    def source(self) -> GoogleSource:
        return source(
            UserGrant(self.file.read_text, str(self.file), token_uri=self.google.oauth_url),
        )

    async def refused(self, key: TokenKey = PERSONS) -> SidecarError:
        with pytest.raises(SidecarError) as caught:
            await self.source.mint(key)
        assert self.user.refresh_token not in str(caught.value)
        return caught.value


@pytest.fixture
def login(google: Emulator, tmp_path: Path) -> Login:
    return Login(google, tmp_path)


async def test_a_persons_id_token_is_for_the_client_that_logged_in(login: Login) -> None:
    """Whatever the audience: it goes only where persons are let in."""
    token = await login.source.mint(PERSONS)
    assert token.audience == login.user.client_id
    assert (read_claims(token.bearer.decode().split()[1]) or {})["email"] == "me@example.com"
    with pytest.raises(SidecarError, match=r"credential_mismatch: .*`impersonate`"):
        await login.source.mint(TokenKey(NamedSource("me"), "https://svc.example"))


async def test_a_persons_access_token(login: Login) -> None:
    """It is the person's own."""
    token = await login.source.mint(ACCESS)
    issued = login.google.principals.introspect(token.bearer.decode().split()[1])
    assert issued is not None
    assert issued.member == login.user.member


async def test_a_login_that_has_ended_says_how_to_log_in_again(login: Login) -> None:
    """Revoked, or ended by the organisation's session length."""
    login.user.revoked = True
    error = await login.refused()
    assert (error.reason, error.command) == (Reason.REAUTHENTICATION_NEEDED, LOGIN)


async def test_a_login_without_openid_has_access_tokens_only(login: Login) -> None:
    """The error names the scopes to log in with."""
    login.user.scopes = ("https://www.googleapis.com/auth/cloud-platform",)
    error = await login.refused()
    assert error.reason is Reason.CREDENTIAL_MISMATCH
    assert "--scopes=openid," in error.command
    await login.source.mint(ACCESS)


@pytest.mark.parametrize("kind", ["html", "garbage"])
async def test_an_answer_without_any_token_is_not_the_logins_fault(login: Login, kind: Kind) -> None:
    """A page of somebody else's, or JSON without a token: nobody is told to log in again with other scopes."""
    login.google.oauth.endpoint.fail(Fault(kind))
    error = await login.refused()
    assert error.reason is Reason.TOKEN_MALFORMED
    assert error.command == ""


async def test_the_token_endpoint_of_a_file_is_not_heeded(login: Login) -> None:
    """A file can't send the refresh token elsewhere: without a configured endpoint it is Google's own."""
    login.change(token_uri="http://evil.example/token")
    await login.source.mint(ACCESS)
    assert UserGrant(login.file.read_text, "x")._token_uri == "https://oauth2.googleapis.com/token"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"type": "service_account"}, "of type service_account, not a person's login", id="type"),
        pytest.param(
            {"refresh_token": None}, f"lacks `refresh_token`. Log in again with `{LOGIN}`", id="field"
        ),
    ],
)
async def test_a_file_that_is_no_login(login: Login, changes: dict[str, Any], says: str) -> None:
    """Is named, with what is wrong with it; nobody is asked."""
    login.change(**changes)
    error = await login.refused()
    assert error.reason is Reason.CREDENTIAL_INVALID
    assert says in error.detail
    assert login.google.oauth.endpoint.arrived == 0


async def test_what_is_shown_of_a_login(login: Login) -> None:
    """Where it is, and nothing of it."""
    assert login.source.describe() == f"a person's login in {login.file}"
    assert WorkforceGrant(login.file.read_text, "x").describe() == "a workforce login in x"


# by another identity provider


async def test_a_workforce_login_gives_access_tokens(google: Emulator, tmp_path: Path) -> None:
    """As Application Default Credentials, from its own token endpoint; ID tokens it has none."""
    user = google.oauth.add_user("me@example.com")
    file = google.write_workforce(tmp_path / "workforce.json", user)
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    it = source(AdcGrant(environ, Addresses(oauth="http://127.0.0.1:9/not-asked")))
    token = await it.mint(ACCESS)
    assert google.principals.introspect(token.bearer.decode().split()[1]) is not None
    with pytest.raises(SidecarError, match=r"credential_mismatch: .*put `impersonate` on top of it"):
        await it.mint(PERSONS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"token_url": None}, "lacks `token_url`", id="no-url"),
        pytest.param({"client_secret": ""}, "lacks `client_secret`", id="no-secret"),
        pytest.param({"token_url": "http://sts.example/v1/oauthtoken"}, "not an https URL", id="plain-http"),
    ],
)
async def test_a_workforce_login_that_cannot_be_used(
    google: Emulator, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """Is named; the refresh token goes nowhere, least of all in plain text."""
    file = google.write_workforce(tmp_path / "workforce.json", google.oauth.add_user("me@example.com"))
    info = {**json.loads(file.read_text()), **changes}
    text = json.dumps({name: value for name, value in info.items() if value is not None})
    with pytest.raises(SidecarError) as caught:
        await source(WorkforceGrant(lambda: text, "w.json")).mint(ACCESS)
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert says in caught.value.detail
    assert google.oauth.endpoint.arrived == 0
