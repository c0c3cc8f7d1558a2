"""sidecar.tokens.grants.gcloud: the command lines, and what is made of what gcloud says; the real gcloud is in tests/e2e"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from sidecar.config.targets import TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.fetch.threads import FetchThreads
from sidecar.tokens.grants.gcloud import GcloudGrant
from sidecar.tokens.token import Token, TokenKey
from tests.support.named_source import NamedSource
from tests.support.raw_endpoint import jwt

AUDIENCE = "https://svc-abc-uc.a.run.app"
CLIENT = "32555940559.apps.googleusercontent.com"
SA = "dev@p.iam.gserviceaccount.com"
KEY = TokenKey(NamedSource("cli"), AUDIENCE)
PERSONS = TokenKey(NamedSource("cli"), AUDIENCE, TokenKind.ID, True)
SECRET = "eyJzZWNyZXQiOiAxfQ.eyJzZWNyZXQiOiAxfQ.c2VjcmV0"


class Gcloud:
    """A script in gcloud's place that says what a test wants, and writes down what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "gcloud"
        self._asked = directory / "asked"

    def says(self, body: str) -> None:
        """`body` is Python, with `args`, `out(text)` and `fail(text)`."""
        self.path.write_text(
            f"#!{sys.executable}\n"
            "import json, os, sys, time\n"
            "args = sys.argv[1:]\n"
            f"with open({str(self._asked)!r}, 'a') as file:\n"
            "    file.write(json.dumps([args, dict(os.environ)]) + '\\n')\n"
            "def out(text):\n    print(text)\n    sys.exit(0)\n"
            "def fail(text, code=1):\n    print(text, file=sys.stderr)\n    sys.exit(code)\n" + body,
            "utf-8",
        )
        self.path.chmod(0o755)

    @property
    def asked(self) -> list[tuple[list[str], dict[str, str]]]:
        return [tuple(json.loads(line)) for line in self._asked.read_text().splitlines()]  # type: ignore[misc]


@pytest.fixture
def gcloud(tmp_path: Path) -> Gcloud:
    return Gcloud(tmp_path)


async def mint(gcloud: Gcloud, key: TokenKey = KEY, seconds: float = 60.0, **options: object) -> Token:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": "/home/me",
        "CLOUDSDK_CORE_PROJECT": "p",
        "AWS_SECRET_ACCESS_KEY": "no",
        "PYTHONPATH": "/nowhere",
    }
    grant = GcloudGrant(environ, command=str(gcloud.path), **options)  # type: ignore[arg-type]
    clock = SystemClock(asyncio.get_running_loop())
    return await GoogleSource("test", grant, clock, FetchThreads("cli"), seconds=seconds).mint(key)


async def test_a_service_account_is_asked_for_the_audience(gcloud: Gcloud) -> None:
    """And the account is named; the environment is clean and quiet."""
    value = jwt(AUDIENCE, issued=0, expires=3600)
    gcloud.says(f"out({value!r})")
    token = await mint(gcloud, account=SA)
    assert token.bearer == b"Bearer " + value.encode()
    ((args, environ),) = gcloud.asked
    assert args == ["auth", "print-identity-token", f"--audiences={AUDIENCE}", f"--account={SA}"]
    assert environ["CLOUDSDK_CORE_DISABLE_PROMPTS"] == "1"
    assert environ["CLOUDSDK_CORE_PROJECT"] == "p"
    assert not environ.keys() & {"AWS_SECRET_ACCESS_KEY", "PYTHONPATH"}


async def test_impersonation_asks_for_the_email(gcloud: Gcloud) -> None:
    """With delegates before the account itself."""
    gcloud.says(f"out({jwt(AUDIENCE, issued=0, expires=3600)!r})")
    await mint(
        gcloud, account="me@example.com", service_account=SA, delegates=["hop@p.iam.gserviceaccount.com"]
    )
    assert gcloud.asked[0][0] == [
        "auth",
        "print-identity-token",
        f"--impersonate-service-account=hop@p.iam.gserviceaccount.com,{SA}",
        "--include-email",
        f"--audiences={AUDIENCE}",
        "--account=me@example.com",
    ]


NO_AUDIENCES = "ERROR: (gcloud.auth.print-identity-token) Invalid account type for `--audiences`. Requires valid service account."


@pytest.mark.parametrize("account", [None, "me@example.com"])
async def test_a_persons_generic_token_serves_where_persons_are_let_in(
    gcloud: Gcloud, account: str | None
) -> None:
    """An active account that turns out to be a person's is asked again, without an audience."""
    value = jwt(CLIENT, issued=0, expires=3600)
    gcloud.says(f"out({value!r}) if not any('--audiences' in a for a in args) else fail({NO_AUDIENCES!r})")
    assert (await mint(gcloud, PERSONS, account=account)).audience == CLIENT
    assert len(gcloud.asked) == (2 if account is None else 1)


async def test_a_persons_generic_token_goes_nowhere_else(gcloud: Gcloud) -> None:
    """It is for gcloud's client id: any target that took it would let in everyone who got hold of it."""
    gcloud.says(f"out({jwt(CLIENT, issued=0, expires=3600)!r}) if len(args) == 2 else fail({NO_AUDIENCES!r})")
    with pytest.raises(SidecarError, match="only Cloud Run and functions take those"):
        await mint(gcloud)
    with pytest.raises(SidecarError, match=r"credential_mismatch: .*gcloud's client id"):
        await mint(gcloud, account="me@example.com")


async def test_an_access_token_comes_with_its_expiry(gcloud: Gcloud) -> None:
    """From config-helper, since print-access-token does not say it."""
    clock = SystemClock(asyncio.get_running_loop())
    gcloud.says(
        "import datetime\n"
        "at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=30)\n"
        "out(json.dumps({'credential': {'access_token': 'ya29.x', 'token_expiry': at.strftime('%Y-%m-%dT%H:%M:%SZ')}}))"
    )
    token = await mint(gcloud, TokenKey(NamedSource("cli"), "scope", TokenKind.ACCESS), account=SA)
    assert token.bearer == b"Bearer ya29.x"
    assert 1700 < token.expires_at - clock.wall() <= 1801
    assert gcloud.asked[0][0][:2] == ["config", "config-helper"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("out('{')", id="not-json"),
        pytest.param("out('[]')", id="not-an-object"),
        pytest.param("out(json.dumps({'credential': {}}))", id="no-token"),
        pytest.param(
            f"out(json.dumps({{'credential': {{'access_token': {SECRET!r}, 'token_expiry': 'soon'}}}}))",
            id="no-time",
        ),
        pytest.param(
            f"out(json.dumps({{'credential': {{'access_token': {SECRET!r}, 'token_expiry': '2027-01-15T08:00:00'}}}}))",
            id="time-of-no-zone",
        ),
        pytest.param(
            f"out(json.dumps({{'credential': {{'access_token': {SECRET!r}, 'token_expiry': '9999-12-31T23:59:59Z'}}}}))",
            id="time-of-no-token",
        ),
        pytest.param(
            f"out(json.dumps({{'credential': {{'access_token': {SECRET!r}, 'token_expiry': 7}}}}))",
            id="time-is-no-text",
        ),
        pytest.param(
            "out(json.dumps({'credential': {'access_token': 7, 'token_expiry': '2027-01-15T08:00:00Z'}}))",
            id="token-is-no-text",
        ),
    ],
)
async def test_an_access_token_without_its_expiry_is_not_used(gcloud: Gcloud, body: str) -> None:
    """What an older or other gcloud prints: the command to run by hand is named, what it printed is not."""
    gcloud.says(body)
    with pytest.raises(
        SidecarError, match=r"gcloud_failed: .* printed no access token with its expiry"
    ) as caught:
        await mint(gcloud, TokenKey(NamedSource("cli"), "scope", TokenKind.ACCESS), service_account=SA)
    assert f"config config-helper --format=json --min-expiry=10m --impersonate-service-account={SA}" in (
        caught.value.command
    )
    assert SECRET not in str(caught.value)


async def test_a_failure_for_an_access_token_has_its_reason_too(gcloud: Gcloud) -> None:
    """As for an ID token."""
    gcloud.says("fail('ERROR: You do not currently have an active account selected.')")
    with pytest.raises(SidecarError, match="credential_not_found: gcloud has no active account"):
        await mint(gcloud, TokenKey(NamedSource("cli"), "scope", TokenKind.ACCESS))


@pytest.mark.parametrize(
    ("account", "service_account", "email", "member", "described"),
    [
        pytest.param(None, None, None, None, "gcloud with its active account", id="active"),
        pytest.param(
            "me@example.com", None, None, "user:me@example.com", "gcloud with me@example.com", id="person"
        ),
        pytest.param(SA, None, SA, f"serviceAccount:{SA}", f"gcloud with {SA}", id="service-account"),
        pytest.param(
            "me@example.com",
            SA,
            SA,
            f"serviceAccount:{SA}",
            f"gcloud with me@example.com, acting as hop@p through {SA}",
            id="acting",
        ),
    ],
)
def test_who_gcloud_is(
    account: str | None, service_account: str | None, email: str | None, member: str | None, described: str
) -> None:
    """As far as the configuration says: what IAM must grant to whom, and that nobody impersonates itself, hangs on it."""
    delegates = ["hop@p"] if service_account else []
    grant = GcloudGrant({}, account=account, service_account=service_account, delegates=delegates)
    assert (grant.known_email(), grant.member(None), grant.describe()) == (email, member, described)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "reason", "command"),
    [
        pytest.param(
            "fail('ERROR: You do not currently have an active account selected.')",
            Reason.CREDENTIAL_NOT_FOUND,
            "gcloud auth login",
            id="no-account",
        ),
        pytest.param(
            "fail('ERROR: Your current active account [a] does not have any valid credentials')",
            Reason.CREDENTIAL_NOT_FOUND,
            "gcloud auth login",
            id="no-credentials",
        ),
        pytest.param(
            "fail('ERROR: There was a problem refreshing your current auth tokens: Reauthentication required.')",
            Reason.REAUTHENTICATION_NEEDED,
            "gcloud auth login",
            id="reauthentication",
        ),
        pytest.param(
            "fail('problem refreshing your current auth tokens: invalid_grant: Token has been expired or revoked.')",
            Reason.REAUTHENTICATION_NEEDED,
            "gcloud auth login",
            id="revoked",
        ),
        pytest.param(
            "fail('problem refreshing your current auth tokens: Max retries exceeded with url: /token')",
            Reason.TOKEN_ENDPOINT_UNREACHABLE,
            "gcloud auth print-identity-token",
            id="network",
        ),
        pytest.param(
            "fail(\"PERMISSION_DENIED: Permission 'iam.serviceAccounts.getAccessToken' denied\")",
            Reason.IMPERSONATION_DENIED,
            f"add-iam-policy-binding {SA} --member=user:me@example.com --role=roles/iam.serviceAccountTokenCreator",
            id="denied",
        ),
        pytest.param(f"fail({SECRET!r}, 7)", Reason.GCLOUD_FAILED, "gcloud auth print", id="anything-else"),
        pytest.param(f"out('<html>{SECRET[:20]}')", Reason.TOKEN_MALFORMED, "", id="not-a-token"),
        pytest.param(
            f"out({jwt('https://other', issued=0, expires=9)!r})",
            Reason.TOKEN_WRONG_AUDIENCE,
            "",
            id="audience",
        ),
        pytest.param(f"out({SECRET!r} * 9000)", Reason.TOKEN_MALFORMED, "", id="too-long"),
    ],
)
async def test_what_gcloud_says_has_its_reason(
    gcloud: Gcloud, body: str, reason: Reason, command: str
) -> None:
    """And the command that fixes it; nothing of what it printed."""
    gcloud.says(body)
    with pytest.raises(SidecarError) as caught:
        await mint(gcloud, account="me@example.com", service_account=SA)
    assert caught.value.reason is reason
    assert command in caught.value.command
    assert SECRET[:20] not in f"{caught.value} {caught.value.command}"


async def test_a_gcloud_that_hangs_is_ended(gcloud: Gcloud) -> None:
    """At the credential's deadline, with a reason that says so."""
    gcloud.says("time.sleep(600)")
    with pytest.raises(SidecarError, match=r"token_timeout: .*print-identity-token"):
        await mint(gcloud, seconds=0.2, account=SA)


async def test_no_gcloud(gcloud: Gcloud) -> None:
    """Its absence is named."""
    with pytest.raises(SidecarError, match=r"credential_not_found: The command .*gcloud is not there"):
        await mint(gcloud, account=SA)


async def test_a_gcloud_that_may_not_be_run(gcloud: Gcloud) -> None:
    """A file without its execute bit is told apart from none."""
    gcloud.path.write_text("x")
    gcloud.path.chmod(0o644)
    with pytest.raises(SidecarError, match=r"credential_not_found: The command .*gcloud cannot be run"):
        await mint(gcloud, account=SA)
