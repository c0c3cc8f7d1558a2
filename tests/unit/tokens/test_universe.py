"""sidecar.tokens.universe: whose bearer goes where. What leaves for a public address is seen at a proxy of the test's own,
which refuses it; what is asked of the stand-in is seen there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.credentials import (
    Adc,
    Credential,
    Endpoints,
    Gcloud,
    Impersonate,
    Metadata,
    ServiceAccountKey,
    User,
    WorkloadIdentityFederation,
)
from sidecar.config.targets import TokenKind
from sidecar.emulator.app import Emulator
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.sources import build_sources, inspect
from sidecar.tokens.token import TokenKey
from sidecar.tokens.universe import is_universe, universe_at
from tests.support.named_source import NamedSource
from tests.support.raw_endpoint import RawEndpoint, http

OTHER = "emulated.example"
SA = "acted-as@emulated-project.iam.gserviceaccount.com"
HOP = "hop@emulated-project.iam.gserviceaccount.com"
URL = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{SA}:generateAccessToken"
OTHER_URL = URL.replace("googleapis.com", OTHER)
ID = TokenKey(NamedSource("x"), "https://svc.example")
ACCESS = TokenKey(NamedSource("x"), "https://www.googleapis.com/auth/cloud-platform", TokenKind.ACCESS)
JWT = TokenKey(NamedSource("x"), "https://svc.example", TokenKind.SELF_SIGNED_JWT)
IMPERSONATE = Impersonate(type="impersonate", service_account=SA, source="s")


class Universes:
    """A stand-in, files that lead to it, and a proxy that takes what leaves for anywhere else."""

    def __init__(self, google: Emulator, directory: Path, proxy: RawEndpoint) -> None:
        self.google = google
        self.directory = directory
        self.proxy = proxy
        proxy.behaviour = http(403)

    @property
    def left_for(self) -> set[str]:
        """Hosts that the proxy was asked for."""
        return {request.split()[1].removesuffix(":443") for request in self.proxy.requests}

    def change(self, file: Path, **changes: Any) -> str:
        """Other fields in a file; None takes one out."""
        info = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({name: value for name, value in info.items() if value is not None}))
        return str(file)

    def key(self, universe: str | None = OTHER) -> str:
        """A service account key."""
        return self.change(self.google.write_key(self.directory / "key.json"), universe_domain=universe)

    def login(self, **changes: Any) -> str:
        """A person's login."""
        user = self.google.oauth.add_user("me@example.com")
        return self.change(self.google.write_login(self.directory / "login.json", user), **changes)

    def federation(self, **changes: Any) -> str:
        """Workload identity federation, trusted by the stand-in's Security Token Service."""
        provider = self.google.sts.add_provider()
        subject = self.directory / "subject"
        subject.write_text(self.google.sts.subject_token(provider))
        file = self.google.write_federation(self.directory / "wif.json", provider, {"file": str(subject)})
        return self.change(file, **changes)

    def impersonated(self, source: str, *, url: str = OTHER_URL, **changes: Any) -> str:
        """An `impersonated_service_account` file around the credential in `source`."""
        file = self.directory / "impersonated.json"
        info = {
            "type": "impersonated_service_account",
            "service_account_impersonation_url": url,
            "source_credentials": json.loads(Path(source).read_text()),
        }
        file.write_text(json.dumps(info))
        return self.change(file, **changes)

    def source(
        self,
        credentials: Mapping[str, Credential],
        *,
        iam: str | None = None,
        sts: str | None = None,
        **environ: str,
    ) -> GoogleSource:
        """The source of the credential `x`."""
        return build_sources(
            credentials,
            clock=SystemClock(asyncio.get_running_loop()),
            environ={
                **self.google.environment(),
                "CLOUDSDK_CONFIG": str(self.directory / "none"),
                "https_proxy": f"http://{self.proxy.origin}",
                **environ,
            },
            endpoints=Endpoints(oauth=self.google.oauth_url, iam_credentials=iam, sts=sts),
            seconds=60.0,
        )["x"]

    def adc(self, file: str, **environ: str) -> GoogleSource:
        """What `adc` makes of a file."""
        return self.source({"x": Adc(type="adc")}, GOOGLE_APPLICATION_CREDENTIALS=file, **environ)

    async def refused(self, source: GoogleSource, key: TokenKey = ID) -> SidecarError:
        """The error of a fetch."""
        with pytest.raises(SidecarError) as caught:
            await source.mint(key)
        return caught.value

    async def is_seen(self, source: GoogleSource, *says: str, key: TokenKey = ID) -> None:
        """A mix that shows before anybody is asked: at start, and by the fetch, which sends nothing."""
        seen = inspect(source.grant, [key], universe=source.universe).fault
        for error in (seen, await self.refused(source, key)):
            assert error is not None
            assert error.reason is Reason.CREDENTIAL_MISMATCH, error.detail
            for text in says:
                assert text in error.detail
        self.nothing_was_sent()

    def nothing_was_sent(self) -> None:
        """To IAM or the Security Token Service, here or elsewhere."""
        assert self.left_for == set()
        assert (self.google.iam.endpoint.arrived, self.google.sts.endpoint.arrived) == (0, 0)


@pytest.fixture
def universes(google: Emulator, tmp_path: Path, raw: RawEndpoint) -> Universes:
    return Universes(google, tmp_path, raw)


def key(it: Universes) -> GoogleSource:
    return it.source({"x": ServiceAccountKey(type="service_account_key", file=it.key())})


def over_a_key(it: Universes) -> GoogleSource:
    return it.source({"x": IMPERSONATE, "s": ServiceAccountKey(type="service_account_key", file=it.key())})


def over_a_chain(it: Universes) -> GoogleSource:
    return it.source(
        {"x": IMPERSONATE, "s": Adc(type="adc")},
        GOOGLE_APPLICATION_CREDENTIALS=it.impersonated(it.key(), url=OTHER_URL.replace(SA, HOP)),
    )


def over_metadata(it: Universes) -> GoogleSource:
    it.google.metadata.universe = OTHER
    return it.source({"x": IMPERSONATE, "s": Metadata(type="metadata")})


def over_adc(it: Universes) -> GoogleSource:
    it.google.metadata.universe = OTHER
    return it.source({"x": IMPERSONATE, "s": Adc(type="adc")})


def federated(**changes: Any) -> Callable[[Universes], GoogleSource]:
    return lambda it: it.source(
        {
            "x": WorkloadIdentityFederation(
                type="workload_identity_federation", file=it.federation(**changes), service_account=SA
            )
        }
    )


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(key, id="key"),
        pytest.param(over_a_key, id="impersonate-over-a-key"),
        pytest.param(over_a_chain, id="impersonate-over-an-impersonated-file"),
        pytest.param(lambda it: it.adc(it.impersonated(it.key())), id="impersonated-file"),
        pytest.param(
            lambda it: it.adc(it.impersonated(it.key(), universe_domain=OTHER)),
            id="impersonated-file-that-says-so-itself",
        ),
        pytest.param(over_metadata, id="impersonate-over-the-metadata-server"),
        pytest.param(over_adc, id="impersonate-over-adc"),
        pytest.param(federated(universe_domain=OTHER), id="federation"),
        pytest.param(
            federated(universe_domain=None, service_account_impersonation_url=OTHER_URL),
            id="federation-whose-impersonation-url-says-so",
        ),
    ],
)
async def test_the_bearer_goes_to_the_iam_of_its_own_universe(
    universes: Universes, source: Callable[[Universes], GoogleSource]
) -> None:
    """The universe is the innermost credential's, whatever is around it."""
    error = await universes.refused(source(universes))
    assert error.reason is Reason.TOKEN_ENDPOINT_UNREACHABLE, error.detail
    assert universes.left_for == {f"iamcredentials.{OTHER}"}


@pytest.mark.parametrize(
    ("configuration", "universe"),
    [
        pytest.param({"properties": {"core": {"universe_domain": OTHER}}}, OTHER, id="said"),
        pytest.param({"properties": {"core": {}}}, "googleapis.com", id="not-said"),
        pytest.param(None, "googleapis.com", id="no-configuration"),
        pytest.param({"properties": {"core": {"universe_domain": "evil.example/x?"}}}, None, id="no-domain"),
    ],
)
async def test_gcloud_says_its_universe_with_its_token(
    universes: Universes, configuration: object, universe: str | None
) -> None:
    """`core/universe_domain` of its configuration."""
    until = datetime.fromtimestamp(SystemClock(asyncio.get_running_loop()).wall() + 3600, UTC)
    printed = {
        "configuration": configuration,
        "credential": {"access_token": "ya29.x", "token_expiry": f"{until:%Y-%m-%dT%H:%M:%SZ}"},
    }
    command = universes.directory / "gcloud"
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(printed)}\nEND\n")
    command.chmod(0o755)
    error = await universes.refused(
        universes.source({"x": IMPERSONATE, "s": Gcloud(type="gcloud", command=str(command))})
    )
    assert universes.left_for == (set() if universe is None else {f"iamcredentials.{universe}"})
    assert (error.reason is Reason.GCLOUD_FAILED) is (universe is None)


@pytest.mark.parametrize("universe", ["googleapis.com", None], ids=["said", "404"])
@pytest.mark.parametrize(
    ("credentials", "key"),
    [
        pytest.param({"x": IMPERSONATE, "s": Metadata(type="metadata")}, ID, id="impersonate"),
        pytest.param({"x": Metadata(type="metadata")}, JWT, id="self-signed-jwt"),
    ],
)
async def test_the_metadata_server_says_its_universe(
    universes: Universes, credentials: Mapping[str, Credential], key: TokenKey, universe: str | None
) -> None:
    """One that does not know the question is of googleapis.com."""
    universes.google.metadata.universe = universe
    await universes.refused(universes.source(credentials), key)
    assert universes.left_for == {"iamcredentials.googleapis.com"}


async def test_the_metadata_servers_universe_is_for_its_own_calls_to_iam_too(universes: Universes) -> None:
    """signJwt, for a self-signed JWT; and plain tokens, which IAM has no part in, cost no question."""
    universes.google.metadata.universe = OTHER
    it = universes.source({"x": Metadata(type="metadata")})
    await it.mint(ID)
    await it.mint(ACCESS)
    asked = {path.rpartition("/")[2] for path in universes.google.metadata.counts}
    assert asked == {"identity", "token"}
    await universes.refused(it, JWT)
    await universes.refused(it, JWT)
    assert universes.left_for == {f"iamcredentials.{OTHER}"}
    assert universes.google.metadata.counts["/computeMetadata/v1/universe/universe-domain"] == 1


@pytest.mark.parametrize("said", ["evil.example/x?", "localhost", "Emulated.Example", "a b"])
async def test_a_metadata_server_that_says_no_domain(universes: Universes, said: str) -> None:
    """Steers nothing."""
    universes.google.metadata.universe = said
    error = await universes.refused(universes.source({"x": IMPERSONATE, "s": Metadata(type="metadata")}))
    assert error.reason is Reason.CREDENTIAL_MISMATCH
    universes.nothing_was_sent()


# mixes


async def test_a_source_of_another_universe_than_the_configured_iam(universes: Universes) -> None:
    """Google's own address, regional ones included, takes no bearer of another universe."""
    credentials: Mapping[str, Credential] = {
        "x": IMPERSONATE,
        "s": ServiceAccountKey(type="service_account_key", file=universes.key()),
    }
    for iam in (
        "https://iamcredentials.googleapis.com",
        "https://iamcredentials.europe-west1.rep.googleapis.com",
    ):
        await universes.is_seen(universes.source(credentials, iam=iam), OTHER, "`endpoints.iam_credentials`")
    alone = {"x": credentials["s"]}
    await universes.is_seen(
        universes.source(alone, iam="https://iamcredentials.googleapis.com"),
        OTHER,
        "`endpoints.iam_credentials`",
    )


async def test_a_metadata_server_of_another_universe_than_the_configured_iam(universes: Universes) -> None:
    """Shows by the fetch only, before a bearer is asked for."""
    universes.google.metadata.universe = OTHER
    it = universes.source(
        {"x": IMPERSONATE, "s": Metadata(type="metadata")}, iam="https://iamcredentials.googleapis.com"
    )
    assert inspect(it.grant, [ID]).fault is None
    error = await universes.refused(it)
    assert error.reason is Reason.CREDENTIAL_MISMATCH
    assert OTHER in error.detail
    universes.nothing_was_sent()
    assert not any(path.endswith("/token") for path in universes.google.metadata.counts)


@pytest.mark.parametrize(
    ("universe", "url", "own", "says"),
    [
        pytest.param(OTHER, URL, None, "its `service_account_impersonation_url`", id="url"),
        pytest.param(None, OTHER_URL, None, "its `service_account_impersonation_url`", id="url-of-another"),
        pytest.param(OTHER, OTHER_URL, "googleapis.com", "its own `universe_domain`", id="own"),
        pytest.param(None, URL, OTHER, "its own `universe_domain`", id="own-of-another"),
    ],
)
async def test_an_impersonated_file_of_another_universe_than_its_source(
    universes: Universes, universe: str | None, url: str, own: str | None, says: str
) -> None:
    """Is refused, whichever of the two is meant."""
    file = universes.impersonated(universes.key(universe), url=url, universe_domain=own)
    await universes.is_seen(universes.adc(file), says, OTHER, "googleapis.com")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param(
            {"universe_domain": OTHER, "token_url": "https://sts.googleapis.com/v1/token"},
            "its `token_url`",
            id="token-url",
        ),
        pytest.param(
            {"universe_domain": OTHER, "service_account_impersonation_url": URL},
            "its `service_account_impersonation_url`",
            id="impersonation-url",
        ),
        pytest.param(
            {"universe_domain": "googleapis.com", "service_account_impersonation_url": OTHER_URL},
            "its `service_account_impersonation_url`",
            id="impersonation-url-of-another",
        ),
        pytest.param(
            {"universe_domain": None, "token_url": f"https://sts.{OTHER}/v1/token"},
            "for want of a `universe_domain`",
            id="token-url-alone",
        ),
    ],
)
async def test_a_federation_file_of_several_universes(
    universes: Universes, changes: Mapping[str, str | None], says: str
) -> None:
    """Is refused."""
    await universes.is_seen(federated(**changes)(universes), says, OTHER, "googleapis.com")


async def test_a_federation_file_of_another_universe_than_the_configured_sts(universes: Universes) -> None:
    """Not even the subject token goes there."""
    credential = WorkloadIdentityFederation(
        type="workload_identity_federation", file=universes.federation(universe_domain=OTHER)
    )
    it = universes.source({"x": credential}, sts="https://sts.googleapis.com/v1/token")
    await universes.is_seen(it, "`endpoints.sts`", OTHER, key=ACCESS)


async def test_a_login_of_another_universe(universes: Universes) -> None:
    """There are none: its refresh token would go to Google."""
    it = universes.source({"x": User(type="user", file=universes.login(universe_domain=OTHER))})
    await universes.is_seen(it, OTHER, "every login of a Google account", key=ACCESS)
    assert universes.google.oauth.endpoint.arrived == 0


@pytest.mark.parametrize("said", ["evil.example/x?", ["x"], 7, "localhost", "a..b", "-a.example"])
@pytest.mark.parametrize("file", ["key", "login", "federation"])
async def test_what_is_no_domain_steers_nothing(universes: Universes, file: str, said: object) -> None:
    """A file whose `universe_domain` is none can't be used."""
    made = {"key": universes.key, "login": universes.login, "federation": universes.federation}[file]()
    it = universes.adc(universes.change(Path(made), universe_domain=said))
    error = await universes.refused(it, ACCESS)
    assert error.reason is Reason.CREDENTIAL_INVALID
    assert "`universe_domain` is not a domain" in error.detail
    universes.nothing_was_sent()


async def test_a_file_that_is_replaced_by_one_of_another_universe(universes: Universes) -> None:
    """Its bearer does not go where the old one's did, nor the old one's where its own does."""
    file = Path(universes.key(None))
    credentials: Mapping[str, Credential] = {
        "x": IMPERSONATE,
        "s": ServiceAccountKey(type="service_account_key", file=str(file)),
    }
    it = universes.source(credentials)
    await universes.refused(it)
    assert universes.left_for == {"iamcredentials.googleapis.com"}
    assert universes.google.oauth.endpoint.arrived == 1
    universes.proxy.requests.clear()
    universes.change(file, universe_domain=OTHER)
    await universes.refused(it)
    assert universes.left_for == {f"iamcredentials.{OTHER}"}
    # In that universe access tokens are self-signed.
    assert universes.google.oauth.endpoint.arrived == 1


@pytest.mark.parametrize(
    ("key", "upstream", "refused"),
    [
        pytest.param(ACCESS, "storage.googleapis.com", True, id="access-token"),
        pytest.param(JWT, "storage.googleapis.com", True, id="self-signed-jwt"),
        pytest.param(ACCESS, f"storage.{OTHER}", False, id="its-own"),
        pytest.param(ID, "storage.googleapis.com", False, id="id-token"),
    ],
)
async def test_an_upstream_of_another_universe(
    universes: Universes, key: TokenKey, upstream: str, refused: bool
) -> None:
    """Access tokens and self-signed JWTs are for the APIs of their own universe."""
    it = universes.source({"x": ServiceAccountKey(type="service_account_key", file=universes.key())})
    fault = inspect(it.grant, [key], upstream=upstream).fault
    assert (fault is not None) is refused
    if fault is not None:
        assert f"the upstream {upstream}" in fault.detail
    of_google = universes.source(
        {"x": ServiceAccountKey(type="service_account_key", file=universes.key(None))}
    )
    assert inspect(of_google.grant, [key], upstream=upstream).fault is None


# google-auth's template


@pytest.mark.parametrize("universe", ["googleapis.com", OTHER])
async def test_the_token_url_as_a_template(universes: Universes, universe: str) -> None:
    """google-auth's own default has the universe filled in."""
    file = universes.federation(token_url="https://sts.{universe_domain}/v1/token", universe_domain=universe)
    await universes.refused(universes.adc(file), ACCESS)
    assert universes.left_for == {f"sts.{universe}"}


async def test_the_token_url_of_a_workforce_login_as_a_template(universes: Universes) -> None:
    """The same."""
    user = universes.google.oauth.add_user("me@example.com")
    file = universes.google.write_workforce(universes.directory / "workforce.json", user)
    universes.change(file, token_url="https://sts.{universe_domain}/v1/oauthtoken", universe_domain=OTHER)
    await universes.refused(universes.adc(str(file)), ACCESS)
    assert universes.left_for == {f"sts.{OTHER}"}
    universes.proxy.requests.clear()
    universes.change(file, token_url="https://sts.googleapis.com/v1/oauthtoken")
    await universes.is_seen(universes.adc(str(file)), "its `token_url`", OTHER, key=ACCESS)


# the environment


@pytest.mark.parametrize(
    "credential",
    [
        pytest.param(lambda it: it.adc(it.key(None), GOOGLE_CLOUD_UNIVERSE_DOMAIN=OTHER), id="key"),
        pytest.param(
            lambda it: it.adc(it.impersonated(it.login(), url=URL), GOOGLE_CLOUD_UNIVERSE_DOMAIN=OTHER),
            id="impersonated",
        ),
        pytest.param(lambda it: it.adc(it.federation(), GOOGLE_CLOUD_UNIVERSE_DOMAIN=OTHER), id="federation"),
        pytest.param(
            lambda it: it.adc(it.key(None), GOOGLE_CLOUD_UNIVERSE_DOMAIN="https://googleapis.com"),
            id="no-domain",
        ),
    ],
)
async def test_the_environment_says_another_universe(
    universes: Universes, credential: Callable[[Universes], GoogleSource]
) -> None:
    """As Google's client libraries do, a credential of another one is refused, and the variable named."""
    await universes.is_seen(credential(universes), "GOOGLE_CLOUD_UNIVERSE_DOMAIN", key=ACCESS)
    assert universes.google.oauth.endpoint.arrived == 0


async def test_the_environment_says_another_universe_than_the_metadata_server(universes: Universes) -> None:
    """Which shows when it is asked: once."""
    it = universes.source({"x": Metadata(type="metadata")}, GOOGLE_CLOUD_UNIVERSE_DOMAIN=OTHER)
    assert inspect(it.grant, [ID], universe=it.universe).fault is None
    error = await universes.refused(it)
    assert error.reason is Reason.CREDENTIAL_MISMATCH
    assert "GOOGLE_CLOUD_UNIVERSE_DOMAIN says emulated.example" in error.detail
    universes.google.metadata.universe = OTHER
    it = universes.source({"x": Metadata(type="metadata")}, GOOGLE_CLOUD_UNIVERSE_DOMAIN=OTHER)
    await it.mint(ID)
    await it.mint(ID._replace(audience="https://other.example"))
    assert universes.google.metadata.counts["/computeMetadata/v1/universe/universe-domain"] == 2


async def test_the_environment_agrees(universes: Universes) -> None:
    """Then it changes nothing."""
    it = universes.adc(universes.key(None), GOOGLE_CLOUD_UNIVERSE_DOMAIN="googleapis.com")
    await it.mint(ID)
    await universes.adc(universes.key(), GOOGLE_CLOUD_UNIVERSE_DOMAIN=OTHER).mint(ACCESS)


# names


@pytest.mark.parametrize(
    ("url", "universe"),
    [
        pytest.param("https://iamcredentials.googleapis.com", "googleapis.com", id="iam"),
        pytest.param("https://iamcredentials.mtls.googleapis.com", "googleapis.com", id="mtls"),
        pytest.param("https://iamcredentials.us-east1.rep.googleapis.com/x", "googleapis.com", id="regional"),
        pytest.param("https://iamcredentials-psc.p.googleapis.com", "googleapis.com", id="private-connect"),
        pytest.param("https://STS.GoogleAPIs.com/v1/token", "googleapis.com", id="upper-case"),
        pytest.param("https://sts.emulated.example/v1/token", OTHER, id="another"),
        pytest.param("https://iamcredentials.mtls.emulated.example", OTHER, id="another-mtls"),
        pytest.param("https://evilgoogleapis.com", None, id="not-a-subdomain"),
        pytest.param("https://iam.internal", None, id="private"),
        pytest.param("http://127.0.0.1:8080", None, id="address"),
        pytest.param("https://sts.{universe_domain}/v1/token", None, id="template"),
        pytest.param("https://[", None, id="no-url"),
        pytest.param(None, None, id="none"),
        pytest.param(["x"], None, id="no-text"),
    ],
)
def test_the_universe_of_an_endpoint(url: object, universe: str | None) -> None:
    """By the names of Google's APIs; others do not tell."""
    assert universe_at(url) == universe


@given(st.text())
def test_what_is_a_universe_is_a_host(text: str) -> None:
    """Nothing that would lead a URL elsewhere passes."""
    if is_universe(text):
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
        assert universe_at(f"https://sts.{text}/x") in (text, "googleapis.com")


async def test_blanks_around_what_the_environment_says_change_nothing(universes: Universes) -> None:
    """A variable of an env file may have them."""
    universes.google.metadata.universe = OTHER
    source = universes.source({"x": Metadata(type="metadata")}, GOOGLE_CLOUD_UNIVERSE_DOMAIN=f" {OTHER} ")
    assert source.universe == OTHER
    await source.mint(ID)
