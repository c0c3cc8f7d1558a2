"""Front ends: who is let in, under which header, and how everyone else is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession
from multidict import CIMultiDict

from sidecar.emulator.app import Emulator
from sidecar.emulator.keys import signing_key
from sidecar.emulator.kinds import TargetKind
from sidecar.emulator.targets import Target
from tests.support.clock import FakeClock
from tests.support.google import signed

NOW = 1_800_000_000
AUDIENCE = "https://billing.example"
CLIENT_ID = "1-x.apps.googleusercontent.com"


@pytest.fixture
async def fixed() -> AsyncIterator[Emulator]:
    """A stand-in whose clock stands at NOW."""
    async with Emulator(now=FakeClock(wall=NOW).wall) as google:
        yield google


class Front:
    """A target of one kind, called with headers."""

    def __init__(self, target: Target, session: ClientSession) -> None:
        self.target = target
        self._session = session

    async def call(self, *headers: tuple[str, str], path: str = "/x") -> tuple[ClientResponse, str]:
        url = self.target.url + path
        async with self._session.get(url, headers=CIMultiDict(headers)) as answer:
            return answer, await answer.text()

    async def admits(self, *headers: tuple[str, str]) -> Any:
        """What the app was told; fails where the front end refused."""
        answer, text = await self.call(*headers)
        assert answer.status == 200, text
        return await answer.json()


async def front(google: Emulator, session: ClientSession, kind: TargetKind, **options: Any) -> Front:
    return Front(await google.add_target("billing", kind=kind, **options), session)


def bearer(token: str, header: str = "Authorization") -> tuple[str, str]:
    return header, f"Bearer {token}"


def header_values(body: Any, name: str) -> list[str]:
    return [value for key, value in body["headers"] if key == name]


# Cloud Run


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        pytest.param(AUDIENCE, AUDIENCE, id="exact"),
        pytest.param(AUDIENCE, AUDIENCE + "/", id="slash-sent"),
        pytest.param(AUDIENCE + "/", AUDIENCE, id="slash-wanted"),
    ],
)
async def test_cloud_run_takes_its_audience(
    fixed: Emulator, session: ClientSession, wanted: str, sent: str
) -> None:
    """The audience is compared exactly, but for one trailing slash."""
    run = await front(fixed, session, "cloud_run", audience=wanted)
    body = await run.admits(bearer(signed(NOW, aud=sent)))
    assert body["verified"] == {
        "audience": sent,
        "email": "caller@example.com",
        "expires_at": NOW + 3600,
        "header": "Authorization",
        "principal": "user:caller@example.com",
        "credential": "id_token",
    }


async def test_the_audience_is_the_own_url_unless_told(fixed: Emulator, session: ClientSession) -> None:
    """Without an audience of its own a target wants its URL."""
    run = await front(fixed, session, "cloud_run")
    assert run.target.audience == run.target.url == f"http://127.0.0.1:{run.target.port}"
    await run.admits(bearer(signed(NOW, aud=run.target.url)))


async def test_cloud_run_needs_no_email(fixed: Emulator, session: ClientSession) -> None:
    """A token of the standard format, without e-mail, is good."""
    run = await front(fixed, session, "cloud_run", audience=AUDIENCE)
    assert (await run.admits(bearer(signed(NOW, email=None))))["verified"]["email"] is None


BAD = [
    pytest.param({"aud": "https://other.example"}, id="audience"),
    pytest.param({"aud": AUDIENCE + "/path"}, id="audience-with-path"),
    pytest.param({"aud": AUDIENCE + "//"}, id="two-slashes"),
    pytest.param({"aud": AUDIENCE.upper()}, id="audience-case"),
    pytest.param({"aud": [AUDIENCE]}, id="audience-list"),
    pytest.param({"aud": None}, id="no-audience"),
    pytest.param({"exp": NOW}, id="expired"),
    pytest.param({"exp": None}, id="no-exp"),
    pytest.param({"exp": str(NOW + 60)}, id="exp-text"),
    pytest.param({"iat": NOW + 301}, id="future"),
    pytest.param({"iat": None}, id="no-iat"),
    pytest.param({"iss": "https://evil.example"}, id="issuer"),
    pytest.param({"iss": None}, id="no-issuer"),
]


@pytest.mark.parametrize("claims", BAD)
async def test_cloud_run_refuses_a_bad_token(
    fixed: Emulator, session: ClientSession, claims: dict[str, Any]
) -> None:
    """Each wrong claim is 401 `invalid_token` and an HTML page, and never reaches the app."""
    run = await front(fixed, session, "cloud_run", audience=AUDIENCE)
    answer, page = await run.call(bearer(signed(NOW, **claims)))
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == (
        'Bearer error="invalid_token" error_description="The access token could not be verified"'
    )
    assert answer.content_type == "text/html"
    assert "<h1>Error: Unauthorized</h1>" in page
    (record,) = run.target.requests
    assert (record.verified, record.refused) == (None, 401)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([bearer("not-a-jwt")], id="no-jwt"),
        pytest.param([bearer("ya29.emulated")], id="access-token"),
        pytest.param([bearer(signing_key("other@example.com").sign({"aud": AUDIENCE}))], id="other-key"),
        pytest.param([("Authorization", "Basic dTpw")], id="basic"),
        pytest.param([("Authorization", "Bearer ")], id="empty-bearer"),
        pytest.param([bearer(signed(NOW)), bearer(signed(NOW))], id="two-headers"),
        pytest.param([("Authorization", f"Bearer {signed(NOW)}, Bearer {signed(NOW)}")], id="two-in-one"),
        pytest.param(
            [bearer("bad", "X-Serverless-Authorization"), bearer(signed(NOW))], id="bad-beside-good"
        ),
    ],
)
async def test_cloud_run_refuses_what_is_no_token(
    fixed: Emulator, session: ClientSession, headers: list[tuple[str, str]]
) -> None:
    """No ID token, a token of another key, or several, is 401; with both headers only the one counts."""
    run = await front(fixed, session, "cloud_run", audience=AUDIENCE)
    assert (await run.call(*headers))[0].status == 401


async def test_cloud_run_without_a_token(fixed: Emulator, session: ClientSession) -> None:
    """Nothing to check is 403 with Google's page, which names the path, escaped."""
    run = await front(fixed, session, "cloud_run", audience=AUDIENCE)
    answer, page = await run.call(path="/a&b")
    assert (answer.status, "WWW-Authenticate" in answer.headers) == (403, False)
    assert page == PAGE.format(
        title="403 Forbidden",
        phrase="Forbidden",
        text="Your client does not have permission to get URL <code>/a&amp;b</code> from this server.",
    )
    assert_from_google(answer)
    # As it was published.
    assert (await run.call(path="/"))[0].headers["Content-Length"] == "295"


async def test_cloud_runs_page_for_a_bad_token(fixed: Emulator, session: ClientSession) -> None:
    """Whole, with the path; and the one of a service that is hidden."""
    run = await front(fixed, session, "cloud_run", audience=AUDIENCE)
    answer, page = await run.call(bearer("nonsense"))
    assert page == PAGE.format(
        title="401 Unauthorized",
        phrase="Unauthorized",
        text="Your client does not have permission to the requested URL <code>/x</code>.",
    )
    assert_from_google(answer)
    run.target.settings.ingress = "internal"
    answer, page = await run.call(bearer(signed(NOW)))
    text = "The requested URL was not found on this server."
    assert page == PAGE.format(title="404 Page not found", phrase="Page not found", text=text)
    assert_from_google(answer)


PAGE = """
<html><head>
<meta http-equiv="content-type" content="text/html;charset=utf-8">
<title>{title}</title>
</head>
<body text=#000000 bgcolor=#ffffff>
<h1>Error: {phrase}</h1>
<h2>{text}</h2>
<h2></h2>
</body></html>
"""


def assert_from_google(answer: ClientResponse) -> None:
    assert answer.headers["Server"] == "Google Frontend"
    assert answer.headers["Content-Type"] == "text/html; charset=UTF-8"


async def test_cloud_run_without_permission(fixed: Emulator, session: ClientSession) -> None:
    """A good token of somebody without the role is answered as if it weren't there."""
    run = await front(fixed, session, "cloud_run", audience=AUDIENCE, callers={"caller@example.com"})
    await run.admits(bearer(signed(NOW)))
    for email in ("other@example.com", None):
        answer, page = await run.call(bearer(signed(NOW, email=email)))
        assert (answer.status, "Error: Forbidden" in page) == (403, True)


async def test_cloud_run_hides_the_signature_it_checked(fixed: Emulator, session: ClientSession) -> None:
    """The app sees the checked token without its signature, and the other header as it was sent."""
    run = await front(fixed, session, "cloud_run", audience=AUDIENCE)
    token = signed(NOW)
    without = token.rpartition(".")[0] + ".SIGNATURE_REMOVED_BY_GOOGLE"
    body = await run.admits(bearer(token))
    assert header_values(body, "Authorization") == [f"Bearer {without}"]
    body = await run.admits(("Authorization", "Basic dTpw"), bearer(token, "x-serverless-authorization"))
    assert body["verified"]["header"] == "X-Serverless-Authorization"
    assert header_values(body, "Authorization") == ["Basic dTpw"]
    assert header_values(body, "x-serverless-authorization") == [f"Bearer {without}"]


async def test_the_scheme_in_any_case(fixed: Emulator, session: ClientSession) -> None:
    """`bearer` is a scheme's name: its case is nobody's business (RFC 9110 section 11.1)."""
    run = await front(fixed, session, "cloud_run", audience=AUDIENCE)
    await run.admits(("Authorization", f"bearer {signed(NOW)}"))


# Identity-Aware Proxy


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        pytest.param([("Authorization", "Bearer ")], "empty token", id="empty"),
        pytest.param([bearer("nonsense")], "Unable to parse JWT", id="no-jwt"),
        pytest.param([("Authorization", "Basic dTpw")], "Unable to parse JWT", id="basic"),
        pytest.param(
            [bearer(signed(NOW, aud=CLIENT_ID)[:-8] + "AAAAAAAA")], "JWT signature is invalid", id="sig"
        ),
        pytest.param(
            [bearer(signed(NOW, aud="other"))],
            "Invalid bearer token. Invalid JWT audience.",
            id="audience",
        ),
        pytest.param(
            [bearer(signed(NOW, aud=CLIENT_ID + "/"))],
            "Invalid bearer token. Invalid JWT audience.",
            id="slash",
        ),
        pytest.param(
            [bearer(signed(NOW, aud=CLIENT_ID, email=None))],
            "JWT 'email' claim isn't a string",
            id="no-email",
        ),
        pytest.param([bearer(signed(NOW, aud=CLIENT_ID, exp=NOW))], "JWT has expired", id="expired"),
        pytest.param(
            [bearer(signed(NOW, aud="other"), "Proxy-Authorization")],
            "Invalid bearer token. Invalid JWT audience.",
            id="proxy-authorization",
        ),
    ],
)
async def test_iap_refuses_in_its_own_words(
    fixed: Emulator, session: ClientSession, headers: list[tuple[str, str]], says: str
) -> None:
    """Each fault of a token is 401, marked as IAP's, with the text that users report."""
    iap = await front(fixed, session, "iap", audience=CLIENT_ID)
    answer, text = await iap.call(*headers)
    assert (answer.status, text) == (401, f"Invalid IAP credentials: {says}")
    assert answer.headers["X-Goog-IAP-Generated-Response"] == "true"


async def test_iap_without_permission(fixed: Emulator, session: ClientSession) -> None:
    """A good token of somebody without the role is 403 HTML, marked as IAP's."""
    iap = await front(fixed, session, "iap", audience=CLIENT_ID, callers=[])
    answer, _ = await iap.call(bearer(signed(NOW, aud=CLIENT_ID)))
    assert (answer.status, answer.content_type) == (403, "text/html")
    assert answer.headers["X-Goog-IAP-Generated-Response"] == "true"


async def test_iap_reads_proxy_authorization_first(fixed: Emulator, session: ClientSession) -> None:
    """With a valid token there the app gets its own Authorization untouched."""
    iap = await front(fixed, session, "iap", audience=CLIENT_ID)
    body = await iap.admits(
        ("Authorization", "Bearer app's-own"), bearer(signed(NOW, aud=CLIENT_ID), "Proxy-Authorization")
    )
    assert body["verified"]["header"] == "Proxy-Authorization"
    assert header_values(body, "Authorization") == ["Bearer app's-own"]


async def test_iap_checks_only_one_of_two_good_tokens(fixed: Emulator, session: ClientSession) -> None:
    """With good tokens in both, Proxy-Authorization's is checked, and the app gets the other whole."""
    iap = await front(fixed, session, "iap", audience=CLIENT_ID)
    token = signed(NOW, aud=CLIENT_ID)
    body = await iap.admits(bearer(token), bearer(token, "Proxy-Authorization"))
    assert body["verified"]["header"] == "Proxy-Authorization"
    assert header_values(body, "Authorization") == [f"Bearer {token}"]


async def test_iap_falls_through_to_authorization(fixed: Emulator, session: ClientSession) -> None:
    """Without a valid token in Proxy-Authorization, Authorization is judged and the former taken off."""
    iap = await front(fixed, session, "iap", audience=CLIENT_ID)
    body = await iap.admits(
        ("Proxy-Authorization", "Basic dTpw"), bearer(signed(NOW, aud=CLIENT_ID), "Authorization")
    )
    assert body["verified"]["header"] == "Authorization"
    assert header_values(body, "Proxy-Authorization") == []


# Open


async def test_an_open_target_verifies_nothing(fixed: Emulator, session: ClientSession) -> None:
    """Whatever comes is let in and told back; nobody was verified."""
    target = await front(fixed, session, "open")
    body = await target.admits(("Authorization", "Basic dTpw"), ("Proxy-Authorization", "x"))
    assert body["verified"] is None
    assert header_values(body, "Authorization") == ["Basic dTpw"]
    assert header_values(body, "Proxy-Authorization") == ["x"]
