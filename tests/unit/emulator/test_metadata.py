"""The metadata server: who is answered, with what, and how long a token is handed out."""

from __future__ import annotations

import re

import pytest
from aiohttp import ClientSession

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.keys import read, signing_key
from sidecar.emulator.metadata import EMAIL, PROFILES, PROJECT, SCOPE, SUBJECT, Platform
from tests.support.clock import FakeClock
from tests.support.google import DEFAULT, FLAVOR

AUDIENCE = "https://svc-abc-uc.a.run.app/?a=b&c"


async def identity(session: ClientSession, google: Emulator, **query: str) -> str:
    query = {"audience": AUDIENCE, "format": "full", **query}
    url = f"http://{google.metadata_address}{DEFAULT}identity"
    async with session.get(url, params=query, headers=FLAVOR) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.text()


async def test_the_ping_is_answered_without_the_flavor(session: ClientSession, metadata_url: str) -> None:
    """Clients that ask who is there don't send the header, and look for it in the answer."""
    async with session.get(metadata_url) as answer:
        assert answer.status == 200
        assert answer.headers["Metadata-Flavor"] == "Google"


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        pytest.param({}, "Missing Metadata-Flavor:Google header", id="no-flavor"),
        pytest.param({"Metadata-Flavor": "google"}, "Missing Metadata-Flavor", id="wrong-flavor"),
        pytest.param({**FLAVOR, "X-Forwarded-For": "1.2.3.4"}, "X-Forwarded-For", id="forwarded"),
    ],
)
async def test_who_does_not_ask_as_google_does_is_refused(
    session: ClientSession, google: Emulator, metadata_url: str, headers: dict[str, str], says: str
) -> None:
    """A request without the flavor, or through a proxy, gets 403 and no token."""
    url = f"{metadata_url}{DEFAULT}identity"
    async with session.get(url, params={"audience": "a"}, headers=headers) as answer:
        assert (answer.status, says in await answer.text()) == (403, True)
        assert answer.headers["Metadata-Flavor"] == "Google"
    assert not google.metadata.asked


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        pytest.param("/computeMetadata/v1/project/project-id", "application/text", PROJECT, id="project"),
        pytest.param(
            "/computeMetadata/v1/project/numeric-project-id", "application/text", "123456789012", id="number"
        ),
        pytest.param(
            "/computeMetadata/v1/universe/universe-domain",
            "application/text",
            "googleapis.com",
            id="universe",
        ),
        pytest.param(f"{DEFAULT}email", "application/text", EMAIL, id="email"),
        pytest.param(
            f"{DEFAULT}?recursive=true",
            "application/json",
            f'{{"aliases": ["default"], "email": "{EMAIL}", "scopes": ["{SCOPE}"]}}',
            id="account",
        ),
        pytest.param(DEFAULT, "application/text", "aliases\nemail\nidentity\nscopes\ntoken\n", id="list"),
        pytest.param(
            f"{DEFAULT}token?scopes={SCOPE}",
            "application/json",
            '{"access_token": "ya29.emulated", "expires_in": 3599, "token_type": "Bearer"}',
            id="access-token",
        ),
    ],
)
async def test_answers_carry_the_flavor_and_their_type(
    session: ClientSession, metadata_url: str, path: str, content_type: str, body: str
) -> None:
    """Every answer has `Metadata-Flavor: Google` and exactly the content type that google-auth looks for."""
    async with session.get(metadata_url + path, headers=FLAVOR) as answer:
        text = re.sub(r"(ya29\.emulated)-[A-Za-z0-9_-]+", r"\1", await answer.text())
        assert (answer.status, text) == (200, body)
        assert answer.headers["Content-Type"] == content_type
        assert answer.headers["Metadata-Flavor"] == "Google"


@pytest.mark.parametrize("path", ["/computeMetadata/v1/nothing", "/computeMetadata/v1/instance/"])
async def test_what_there_is_not_is_404(session: ClientSession, metadata_url: str, path: str) -> None:
    """An unknown path is 404 with the flavor."""
    async with session.get(metadata_url + path, headers=FLAVOR) as answer:
        assert (answer.status, answer.headers["Metadata-Flavor"]) == (404, "Google")


async def test_without_an_account_nothing_of_it_is_found(
    session: ClientSession, google: Emulator, metadata_url: str
) -> None:
    """A machine without a service account, and a universe not known, answer 404."""
    google.metadata.email = google.metadata.universe = None
    paths = [
        f"{DEFAULT}?recursive=true",
        f"{DEFAULT}email",
        f"{DEFAULT}token",
        f"{DEFAULT}identity?audience=a",
    ]
    for path in [*paths, "/computeMetadata/v1/universe/universe-domain"]:
        async with session.get(metadata_url + path, headers=FLAVOR) as answer:
            assert answer.status == 404


async def test_an_identity_needs_an_audience(session: ClientSession, metadata_url: str) -> None:
    """No audience is 400."""
    async with session.get(f"{metadata_url}{DEFAULT}identity", headers=FLAVOR) as answer:
        assert (answer.status, await answer.text()) == (400, "non-empty audience parameter required\n")


async def test_claims_of_the_full_format(session: ClientSession, google: Emulator) -> None:
    """`format=full` brings e-mail and instance; the audience comes back as it was asked for, once decoded."""
    claims = read(await identity(session, google))
    instance = claims["google"]["compute_engine"]
    assert claims["aud"] == AUDIENCE
    assert claims["sub"] == claims["azp"] == SUBJECT
    assert (claims["email"], claims["email_verified"]) == (EMAIL, True)
    assert claims["exp"] - claims["iat"] == 3600
    assert instance["project_id"] == PROJECT
    assert set(instance) == {
        "project_id",
        "project_number",
        "zone",
        "instance_id",
        "instance_name",
        "instance_creation_timestamp",
        "instance_confidentiality",
    }


async def test_claims_of_the_other_formats(session: ClientSession, google: Emulator) -> None:
    """`standard` has neither e-mail nor instance; licences come only when asked for, and are cached apart."""
    standard = read(await identity(session, google, format="standard", licenses="TRUE"))
    assert set(standard) == {"aud", "azp", "exp", "iat", "iss", "sub"}
    for options, has_license in (({}, False), ({"licenses": "TRUE"}, True), ({"licenses": "FALSE"}, False)):
        claims = read(await identity(session, google, **options))
        assert ("license_id" in claims["google"]["compute_engine"]) is has_license


@pytest.mark.parametrize(
    ("lifetime", "last_same"),
    [pytest.param(3600.0, 3359.0, id="an-hour"), pytest.param(12.0, 8.0, id="short")],
)
async def test_the_same_token_until_shortly_before_its_expiry(
    session: ClientSession, lifetime: float, last_same: float
) -> None:
    """The same token comes back until 240 s before it expires, on a short life until 30 % of it are left."""
    clock = FakeClock()
    async with Emulator(now=clock.wall, token_lifetime=lifetime) as google:
        first = await identity(session, google)
        clock.advance(last_same)
        assert await identity(session, google) == first
        assert await identity(session, google, audience="another") != first
        clock.advance(1.0)
        later = await identity(session, google)
        assert read(later)["exp"] == read(first)["exp"] + last_same + 1
        google.metadata.forget()
        clock.advance(1.0)
        assert await identity(session, google) != later


async def test_a_margin_of_ones_own(session: ClientSession) -> None:
    """`cache_margin` is what is asked for, 0 included."""
    clock = FakeClock()
    async with Emulator(now=clock.wall, cache_margin=0.0) as google:
        first = await identity(session, google)
        clock.advance(3599.0)
        assert await identity(session, google) == first


async def test_a_faulty_token_is_not_kept(session: ClientSession, google: Emulator) -> None:
    """After a fault the next token is right, and a token from before it is still the one handed out."""
    first = await identity(session, google)
    google.metadata.endpoint.fail(Fault("expired"), times=1)
    assert read(await identity(session, google))["exp"] < read(first)["iat"]
    assert await identity(session, google) == first


async def test_requests_are_counted_and_kept(
    session: ClientSession, google: Emulator, metadata_url: str
) -> None:
    """What was asked, by path, with headers and audience; identity requests apart."""
    async with session.get(metadata_url):
        pass
    await identity(session, google)
    assert google.metadata.counts == {"/": 1, f"{DEFAULT}identity": 1}
    ping, request = google.metadata.requests
    assert (ping.path, ping.audience, request.audience) == ("/", None, AUDIENCE)
    assert request.headers["metadata-flavor"] == "Google"
    assert [tuple(asked) for asked in google.metadata.asked] == [(AUDIENCE, "default", "full")]


async def test_an_account_is_known_by_its_address_too(session: ClientSession, metadata_url: str) -> None:
    """The account's e-mail stands for `default`; another one is not found."""
    root = f"{metadata_url}/computeMetadata/v1/instance/service-accounts"
    for account, status in ((EMAIL, 200), ("other@example.com", 404)):
        url = f"{root}/{account}/identity"
        async with session.get(url, params={"audience": "a"}, headers=FLAVOR) as answer:
            assert answer.status == status


@pytest.mark.parametrize("platform", PROFILES)
async def test_what_each_platform_answers(session: ClientSession, platform: Platform) -> None:
    """Its own account and server; the instance's description only where there is an instance."""
    async with Emulator(platform=platform) as google:
        profile = PROFILES[platform]
        root = f"http://{google.metadata_address}{DEFAULT}"
        async with session.get(f"{root}email", headers=FLAVOR) as answer:
            assert await answer.text() == profile.email
            assert answer.headers["Server"] == profile.server
        found = {}
        for form in ("full", "standard"):
            async with session.get(f"{root}identity?audience=a&format={form}", headers=FLAVOR) as answer:
                found[form] = signing_key("google").verify(await answer.text())
        assert found["full"]["email"] == profile.email
        assert ("email" in found["standard"]) == profile.email_always
        assert ("google" in found["full"]) == (platform in ("compute_engine", "app_engine_flexible"))


async def test_further_accounts_are_asked_for_by_name(session: ClientSession, google: Emulator) -> None:
    """And each has tokens of its own."""
    other = "other@p.iam.gserviceaccount.com"
    google.metadata.others.append(other)
    accounts = f"http://{google.metadata_address}/computeMetadata/v1/instance/service-accounts/"
    async with session.get(accounts, headers=FLAVOR) as answer:
        assert await answer.text() == f"default/\n{EMAIL}/\n{other}/\n"
    for account, email in (("default", EMAIL), (other, other)):
        async with session.get(
            f"{accounts}{account}/identity?audience=a&format=full", headers=FLAVOR
        ) as answer:
            assert read(await answer.text())["email"] == email
    async with session.get(f"{accounts}nobody@x/identity?audience=a", headers=FLAVOR) as answer:
        assert answer.status == 404


async def test_a_kubernetes_account_that_is_not_bound_is_refused(session: ClientSession) -> None:
    """403 for tokens of either kind, as GKE's metadata server answers."""
    async with Emulator(platform="gke") as google:
        google.metadata.bound = False
        for what in ("identity?audience=a", "token"):
            async with session.get(
                f"http://{google.metadata_address}{DEFAULT}{what}", headers=FLAVOR
            ) as answer:
                assert answer.status == 403


async def test_an_instance_gives_no_more_than_its_scopes(session: ClientSession, google: Emulator) -> None:
    """What is asked beyond them is left out."""
    google.metadata.scopes = ("https://www.googleapis.com/auth/devstorage.read_only",)
    url = f"http://{google.metadata_address}{DEFAULT}token?scopes={SCOPE},{google.metadata.scopes[0]}"
    async with session.get(url, headers=FLAVOR) as answer:
        token = google.principals.introspect((await answer.json())["access_token"])
    assert token is not None
    assert token.scopes == google.metadata.scopes
