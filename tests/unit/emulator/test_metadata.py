"""The metadata server: who is answered, with what, and how long a token is handed out."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from aiohttp import ClientSession

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.instance import PROJECT, Platform
from sidecar.emulator.keys import read, signing_key
from sidecar.emulator.metadata import EMAIL, PROFILES
from sidecar.emulator.scopes import CLOUD_PLATFORM as SCOPE
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
            f'{{"aliases":["default"],"email":"{EMAIL}","scopes":["{SCOPE}"]}}',
            id="account",
        ),
        pytest.param(DEFAULT, "application/text", "aliases\nemail\nidentity\nscopes\ntoken\n", id="list"),
        pytest.param(
            f"{DEFAULT}token?scopes={SCOPE}",
            "application/json",
            '{"access_token":"ya29.emulated","expires_in":3599,"token_type":"Bearer"}',
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


@pytest.mark.parametrize(
    "path", ["/computeMetadata/v1/nothing", "/computeMetadata/v1/instance/id/x", "/latest/meta-data/"]
)
async def test_what_there_is_not_is_404(session: ClientSession, metadata_url: str, path: str) -> None:
    """An unknown path is 404 with the flavor, and with Google's page."""
    async with session.get(metadata_url + path, headers=FLAVOR) as answer:
        assert (answer.status, answer.headers["Metadata-Flavor"]) == (404, "Google")
        assert answer.headers["Content-Type"] == "text/html; charset=UTF-8"
        assert f"The requested URL <code>{path}</code> was not found" in await answer.text()


async def test_the_page_for_what_there_is_not_has_the_published_length(
    session: ClientSession, metadata_url: str
) -> None:
    """https://github.com/googleapis/gcp-metadata/issues/657 shows the head of this answer."""
    url = f"{metadata_url}/computeMetadata/v1/universe/universe_domain"
    async with session.get(url, headers=FLAVOR) as answer:
        assert answer.headers["Content-Length"] == "1604"


async def test_only_get_is_answered(session: ClientSession, metadata_url: str) -> None:
    """Anything else is 405 with Google's page."""
    async with session.post(f"{metadata_url}{DEFAULT}token", headers=FLAVOR) as answer:
        assert (answer.status, answer.headers["Server"]) == (405, "Metadata Server for VM")
        assert "The request method <code>POST</code> is inappropriate for the URL" in await answer.text()


@pytest.mark.parametrize("platform", PROFILES)
async def test_a_directory_without_its_slash_leads_there(session: ClientSession, platform: Platform) -> None:
    """npm's gcp-metadata looks for a metadata server by asking for `instance`, and follows."""
    async with Emulator(platform=platform) as google:
        root = f"http://{google.metadata_address}/computeMetadata/v1"
        for path in ("instance", "project", "instance/service-accounts/default", "instance/attributes"):
            url = f"{root}/{path}"
            async with session.get(f"{url}?recursive=true", headers=FLAVOR, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (301, f"{url}/?recursive=true")
                assert answer.headers["Metadata-Flavor"] == "Google"
                assert answer.headers["Content-Type"].startswith("text/html")
            async with session.get(url, headers=FLAVOR) as answer:
                assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("instance/id", "1234567890123456789", id="id"),
        pytest.param("instance/id?alt=json", "1234567890123456789", id="id-as-json"),
        pytest.param("instance/zone", "projects/123456789012/zones/us-central1-a", id="zone"),
        pytest.param("instance/zone?alt=json", '"projects/123456789012/zones/us-central1-a"', id="as-json"),
        pytest.param("instance/name", "emulated", id="name"),
        pytest.param(
            "instance/hostname", "emulated.us-central1-a.c.emulated-project.internal", id="hostname"
        ),
        pytest.param("instance/attributes/", "colour\n", id="attributes"),
        pytest.param("instance/attributes/colour", "blue", id="attribute"),
        pytest.param("instance/attributes/?recursive=true", '{"colour":"blue"}', id="attributes-as-json"),
        pytest.param("instance/attributes/?recursive=true&alt=text", "colour blue\n", id="as-text"),
        pytest.param("", "instance/\nproject/\nuniverse/\n", id="root"),
        pytest.param(
            "project/?recursive=true",
            '{"attributes":{},"numericProjectId":123456789012,"projectId":"emulated-project"}',
            id="project",
        ),
        pytest.param(
            "instance/service-accounts/default/?recursive=true&alt=text",
            f"aliases default\nemail {EMAIL}\nscopes {SCOPE}\n",
            id="account-as-text",
        ),
        pytest.param("instance/service-accounts/default/aliases", "default\n", id="aliases"),
        pytest.param("instance/service-accounts/default/scopes", f"{SCOPE}\n", id="scopes"),
        pytest.param(
            "instance/service-accounts/default/scopes?alt=json", f'["{SCOPE}"]', id="scopes-as-json"
        ),
        pytest.param(
            "instance/service-accounts/?recursive=true",
            "{"
            + ",".join(
                f'"{name}":{{"aliases":["default"],"email":"{EMAIL}","scopes":["{SCOPE}"]}}'
                for name in (EMAIL, "default")
            )
            + "}",
            id="accounts",
        ),
    ],
)
async def test_every_entry_has_its_forms(
    session: ClientSession, google: Emulator, metadata_url: str, path: str, expected: str
) -> None:
    """As text, as JSON and recursively; each with an ETag and with the type that its form has."""
    google.metadata.set_attribute("colour", "blue")
    async with session.get(f"{metadata_url}/computeMetadata/v1/{path}", headers=FLAVOR) as answer:
        assert await answer.text() == expected
        is_json = "alt=json" in path or ("recursive" in path and "alt=text" not in path)
        assert answer.headers["Content-Type"] == ("application/json" if is_json else "application/text")
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["ETag"])


@pytest.mark.parametrize("platform", ["cloud_run", "cloud_functions", "app_engine", "cloud_build"])
async def test_what_is_serverless_has_a_region_and_no_machine(
    session: ClientSession, platform: Platform
) -> None:
    """https://cloud.google.com/run/docs/container-contract#metadata-server"""
    async with Emulator(platform=platform) as google:
        url = f"http://{google.metadata_address}/computeMetadata/v1/instance/"
        async with session.get(url, headers=FLAVOR) as answer:
            assert (await answer.text()).split() == [
                "attributes/",
                "id",
                "region",
                "service-accounts/",
                "zone",
            ]


async def test_a_change_is_waited_for(session: ClientSession, google: Emulator, metadata_url: str) -> None:
    """`wait_for_change` answers once the value is another than the one of `last_etag`, or when the time is up."""
    google.metadata.set_attribute("colour", "blue")
    url = f"{metadata_url}/computeMetadata/v1/instance/attributes/colour?wait_for_change=true"

    async def ask(more: str) -> tuple[str, str]:
        async with session.get(url + more, headers=FLAVOR) as answer:
            return await answer.text(), answer.headers["ETag"]

    first, tag = await ask("&last_etag=0")
    assert first == "blue"
    assert await ask(f"&last_etag={tag}&timeout_sec=0") == ("blue", tag)

    async def change() -> None:
        await ask("&last_etag=0")
        google.metadata.set_attribute("other", "x")
        google.metadata.set_attribute("colour", "red")

    (text, other), _ = await asyncio.gather(ask(f"&last_etag={tag}"), change())
    assert (text, other != tag) == ("red", True)


@pytest.mark.parametrize("lifetime", [3600.0, 60.0])
async def test_an_access_token_comes_back_until_shortly_before_its_expiry(
    session: ClientSession, lifetime: float
) -> None:
    """By its account and scopes, with what is left of its life; then another one comes."""
    clock = FakeClock()
    async with Emulator(now=clock.wall, token_lifetime=lifetime) as google:
        margin = google.metadata.cache_margin

        async def ask(**query: str) -> tuple[str, int]:
            url = f"http://{google.metadata_address}{DEFAULT}token"
            async with session.get(url, params=query, headers=FLAVOR) as answer:
                body = await answer.json()
                return body["access_token"], body["expires_in"]

        first = await ask()
        assert first[1] == lifetime - 1
        clock.advance(lifetime - margin - 1)
        assert await ask() == (first[0], margin)
        assert (await ask(scopes="openid"))[0] != first[0]
        clock.advance(1)
        later = await ask()
        assert (later[0] != first[0], later[1]) == (True, lifetime - 1)
        google.metadata.forget()
        assert (await ask())[0] != later[0]


@pytest.mark.parametrize("what", ["identity?audience=a&format=full", "token"])
async def test_gke_repeats_what_iam_answers(session: ClientSession, what: str) -> None:
    """Without a binding 403, naming the permission; for an account that there is not 404."""
    kind, permission = ("identity", "getOpenIdToken") if "aud" in what else ("access", "getAccessToken")
    async with Emulator(platform="gke") as google:
        url = f"http://{google.metadata_address}{DEFAULT}{what}"
        google.metadata.bound = False
        async with session.get(url, headers=FLAVOR) as answer:
            assert (answer.status, answer.content_type) == (403, "text/plain")
            assert (await answer.text()).startswith(
                f"Unable to generate {kind} token; IAM returned 403 Forbidden: Permission "
                f"'iam.serviceAccounts.{permission}' denied on resource (or it may not exist).\nThis error could be "
                "caused by a missing IAM policy binding on the target IAM service account.\n"
            )
        email = str(google.metadata.email)
        google.principals.remove(email)
        async with session.get(url, headers=FLAVOR) as answer:
            assert (answer.status, await answer.text()) == (
                404,
                f"Unable to generate {kind} token; IAM returned 404 Not Found: Not found; Gaia id not found for "
                f"email {email}\n",
            )
        async with session.get(url) as answer:
            # As captured in https://github.com/googleapis/google-api-dotnet-client/issues/1409: 94 bytes, and no name.
            assert answer.status == 403
            assert (
                await answer.text()
                == 'GKE Metadata Server encountered an error: Missing required header "Metadata-Flavor": "Google"\n'
            )
            assert answer.headers["Content-Length"] == "94"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert not {"Server", "Metadata-Flavor"} & set(answer.headers)


@pytest.mark.parametrize("kind", ["token", "identity"])
async def test_serverless_platforms_can_make_no_tokens_of_a_deleted_account(
    session: ClientSession, kind: str
) -> None:
    """https://github.com/google/clusterfuzz/issues/2557; its other entries are there, as in
    https://github.com/googleapis/gcp-metadata/issues/436."""
    async with Emulator(platform="cloud_run") as google:
        url = f"http://{google.metadata_address}{DEFAULT}"
        async with session.get(f"{url}{kind}?audience=a", headers=FLAVOR) as answer:
            assert answer.status == 200
        google.principals.remove(str(google.metadata.email))
        async with session.get(f"{url}{kind}?audience=a", headers=FLAVOR) as answer:
            assert (answer.status, await answer.text()) == (
                500,
                f"Could not fetch URI {DEFAULT}{kind}?audience=a\n",
            )
        async with session.get(f"{url}email", headers=FLAVOR) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(("platform", "status"), [("compute_engine", 400), ("gke", 400), ("cloud_run", 500)])
async def test_a_misspelt_scope_gets_no_token(
    session: ClientSession, platform: Platform, status: int
) -> None:
    """Nor do several in one word."""
    async with Emulator(platform=platform) as google:
        for scopes in (SCOPE.replace("platform", "platfrom"), f"{SCOPE} openid"):
            url = f"http://{google.metadata_address}{DEFAULT}token"
            async with session.get(url, params={"scopes": scopes}, headers=FLAVOR) as answer:
                assert answer.status == status
        google.principals.scopes.add(SCOPE.replace("platform", "platfrom"))
        async with session.get(
            url, params={"scopes": SCOPE.replace("platform", "platfrom")}, headers=FLAVOR
        ) as answer:
            assert answer.status == 200


async def test_each_account_has_one_number(session: ClientSession, google: Emulator, tmp_path: Path) -> None:
    """The `sub` of its tokens, whichever server gives them, and in its key file; no two have the same."""
    other = "other@p.iam.gserviceaccount.com"
    google.metadata.others.append(other)
    found = {}
    for account in (EMAIL, other):
        url = f"http://{google.metadata_address}/computeMetadata/v1/instance/service-accounts/{account}/identity"
        async with session.get(url, params={"audience": "a"}, headers=FLAVOR) as answer:
            found[account] = read(await answer.text())["sub"]
        google.principals.grant("user:me@example.com", "roles/iam.serviceAccountTokenCreator", on=account)
        bearer = google.principals.issue("user:me@example.com", [SCOPE], lifetime=60).value
        async with session.post(
            f"{google.iam_url}/v1/projects/-/serviceAccounts/{account}:generateIdToken",
            json={"audience": "a"},
            headers={"Authorization": f"Bearer {bearer}"},
        ) as answer:
            assert read((await answer.json())["token"])["sub"] == found[account]
        key = json.loads(google.write_key(tmp_path / "key.json", email=account).read_text("utf-8"))
        assert key["client_id"] == found[account]
    assert len(set(found.values())) == 2
    assert all(re.fullmatch("1[0-9]{20}", number) for number in found.values())


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
    assert claims["sub"] == claims["azp"] == google.principals.add(EMAIL).unique_id
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
        assert await answer.text() == f"{EMAIL}/\ndefault/\n{other}/\n"
    for account, email in (("default", EMAIL), (other, other)):
        async with session.get(
            f"{accounts}{account}/identity?audience=a&format=full", headers=FLAVOR
        ) as answer:
            assert read(await answer.text())["email"] == email
    async with session.get(f"{accounts}nobody@x/identity?audience=a", headers=FLAVOR) as answer:
        assert answer.status == 404


async def test_an_instance_gives_no_more_than_its_scopes(session: ClientSession, google: Emulator) -> None:
    """What is asked beyond them is left out."""
    google.metadata.scopes = ("https://www.googleapis.com/auth/devstorage.read_only",)
    url = f"http://{google.metadata_address}{DEFAULT}token?scopes={SCOPE},{google.metadata.scopes[0]}"
    async with session.get(url, headers=FLAVOR) as answer:
        token = google.principals.introspect((await answer.json())["access_token"])
    assert token is not None
    assert token.scopes == google.metadata.scopes
