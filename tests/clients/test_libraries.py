"""The stand-in is Google to client libraries that know nothing of it: each with each credential type that it has.

The second opinion on the stand-in: it imports nothing of the sidecar's, and the libraries nothing of either.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate

from sidecar.emulator.app import Emulator
from sidecar.emulator.instance import PROJECT, Platform
from sidecar.emulator.keys import BadTokenError, signing_key
from sidecar.emulator.metadata import PROFILES
from sidecar.emulator.oauth import KEY_EMAIL
from sidecar.emulator.scopes import CLOUD_PLATFORM
from sidecar.emulator.targets import Target
from tests.clients.libraries import LIBRARIES, Library
from tests.clients.results import keep
from tests.support.federation import federation_file
from tests.support.programs import lines_of
from tests.support.sidecar import clean_environment

AUDIENCE = "https://billing.example"
ACTED_AS = f"acted-as@{PROJECT}.iam.gserviceaccount.com"
PERSON = "me@example.com"
LIMIT = 240.0
_SOURCES = {"URL": "text-url", "TEXT": "file", "AWS": "aws", "PROGRAM": "executable"}
"""Of subject tokens, as the programs call their files."""
TO_SIGN = "what is to be signed, grüße"


def is_run(library: Library) -> list[pytest.MarkDecorator]:
    """The reasons not to run it here, if there are any."""
    marks = [] if library.always else [pytest.mark.test_all]
    if missing := library.missing:
        reason = f"not installed here ({', '.join(missing)}): {library.package}"
        marks.append(pytest.mark.skip(reason=reason))
    return marks


def is_signed(email: str, signature: bytes) -> bool:
    """Whether it is the account's, of what was to be signed."""
    public = load_pem_x509_certificate(signing_key(email).certificate_pem().encode()).public_key()
    assert isinstance(public, RSAPublicKey)
    try:
        public.verify(signature, TO_SIGN.encode(), PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def each(ways: str) -> list[Any]:
    """The libraries that have such ways."""
    return [
        pytest.param(name, id=name, marks=is_run(library))
        for name, library in LIBRARIES.items()
        if getattr(library, ways)
    ]


class StandIn:
    """Everything that a library may ask for."""

    def __init__(self, google: Emulator, api: Target, directory: Path) -> None:
        self.google = google
        self.api = api
        user = google.oauth.add_user(PERSON)
        provider = google.sts.add_provider()
        google.principals.add(ACTED_AS)
        for member in (f"serviceAccount:{KEY_EMAIL}", provider.principal_set):
            google.principals.grant(member, "roles/iam.serviceAccountTokenCreator", on=ACTED_AS)
        if (attached := google.metadata.email) is not None:
            # Its tokens don't let it sign as itself: it needs the role, as any other.
            google.principals.add(attached)
            google.principals.grant(
                f"serviceAccount:{attached}", "roles/iam.serviceAccountTokenCreator", on=attached
            )
        self.environ = {
            **google.environment(),
            "KEY_FILE": str(google.write_key(directory / "key.json")),
            "LOGIN_FILE": str(google.write_login(directory / "login.json", user)),
            "IMPERSONATED_FILE": str(self._write_impersonated(directory / "impersonated.json")),
            **{
                f"FEDERATION_{name}_FILE": str(
                    federation_file(google, provider, directory, source, service_account=ACTED_AS)
                )
                for name, source in _SOURCES.items()
            },
            "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES": "1",
            "STS_URL": google.sts_url,
            "OAUTH_URL": google.oauth_url,
            "IAM_URL": google.iam_url,
            "CERTS_URL": google.certs_url,
            "API_URL": api.url,
            "API_AUDIENCE": "https://storage.googleapis.com/",
            "AUDIENCE": AUDIENCE,
            "SCOPE": CLOUD_PLATFORM,
            "TARGET": ACTED_AS,
            "TO_SIGN": TO_SIGN,
            "CLOUDSDK_CONFIG": str(directory / "gcloud"),
        }
        self.emails = {
            "metadata": google.metadata.email,
            "key": KEY_EMAIL,
            "calls": KEY_EMAIL,
            "self": KEY_EMAIL,
            "login": PERSON,
            "federation": ACTED_AS,
            "impersonated": ACTED_AS,
            "verify": google.metadata.email,
        }

    def _write_impersonated(self, path: Path) -> Path:
        """What `gcloud auth application-default login --impersonate-service-account` leaves, on top of a key."""
        key = json.loads(self.google.write_key(path).read_text("utf-8"))
        info = {
            "type": "impersonated_service_account",
            "service_account_impersonation_url": f"{self.google.iam_url}/v1/projects/-/serviceAccounts/"
            f"{ACTED_AS}:generateAccessToken",
            "source_credentials": key,
            "delegates": [],
        }
        path.write_text(json.dumps(info), "utf-8")
        return path

    async def run(self, library: Library, ways: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """What each way brought, in a process of the library's own."""
        environ = clean_environment(**self.environ, **dict(library.environ), **self._for(library))
        # Keys of AWS's in the test's own environment would go before those of the machine.
        environ = {name: value for name, value in environ.items() if not name.startswith("AWS_")}
        lines, err = await lines_of(*library.command, *ways, environ=environ, limit=LIMIT)
        found = {line.pop("way"): line for line in lines}
        assert set(found) == set(ways), err[-3000:]
        return found

    def _for(self, library: Library) -> dict[str, str]:
        if library.title.endswith("(Ruby)"):
            # It asks 169.254.169.254 and nowhere else; a proxy is the one thing that it can be told.
            return {"http_proxy": f"http://{self.environ['GCE_METADATA_HOST']}", "no_proxy": "127.0.0.1"}
        return {}

    def judge(self, way: str, found: Mapping[str, Any]) -> str:
        """What is wrong with what came; empty where nothing is."""
        if "error" in found:
            return str(found["error"])
        if "absent" in found:
            return str(found["absent"])
        email = self.emails[way.partition("_")[0]]
        try:
            if (token := found.get("access_token")) is not None:
                granted = self.google.principals.introspect(token)
                assert granted is not None, "an access token that nobody gave"
                assert granted.member.partition(":")[2] == email, granted.member
                assert CLOUD_PLATFORM in granted.scopes, granted.scopes
            if (token := found.get("id_token")) is not None:
                claims = signing_key("google").verify(token)
                assert (claims["aud"], claims.get("email")) == (AUDIENCE, email), claims
            if (token := found.get("login_token")) is not None:
                assert signing_key("google").verify(token)["email"] == email
            if (token := found.get("self_signed")) is not None:
                claims = signing_key(KEY_EMAIL).verify(token, named=False)
                assert claims["iss"] == claims["sub"] == email, claims
            if (signature := found.get("signature")) is not None:
                assert is_signed(email, base64.b64decode(signature)), "a signature of somebody else's"
            if found.get("calls") == "storage":
                verified = self.api.requests[-1].verified
                assert verified is not None, "the API refused it"
                assert verified.email == email, verified
            if (project := found.get("project")) is not None:
                assert project == PROJECT, project
        except (AssertionError, BadTokenError) as error:
            return str(error) or "not what was asked for"
        return ""


@pytest.fixture
async def stand_in(google: Emulator, tmp_path: Path) -> StandIn:
    """On Compute Engine."""
    return StandIn(google, await google.add_target("storage", kind="googleapis"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", each("ways"))
async def test_a_library_gets_its_tokens(stand_in: StandIn, name: str) -> None:
    """From a key, a login, another provider's token, by acting as another account, or signed by itself."""
    library = LIBRARIES[name]
    found = await stand_in.run(library, library.ways)
    absent = {way: str(found[way]["absent"]) for way in library.newer if "absent" in found[way]}
    tried = [way for way in library.ways if way not in absent]
    wrong = {way: said for way in tried if (said := stand_in.judge(way, found[way]))}
    keep(name, "", {**absent, **{way: way not in wrong for way in tried}})
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "platform",
    [
        pytest.param(name, marks=() if name in ("compute_engine", "cloud_run") else pytest.mark.test_all)
        for name in PROFILES
    ],
)
@pytest.mark.parametrize("name", each("metadata"))
async def test_a_library_finds_the_metadata_server(name: str, platform: Platform, tmp_path: Path) -> None:
    """Of every platform, by the environment alone, and gets what it gives."""
    library = LIBRARIES[name]
    async with Emulator(platform=platform) as google:
        stand_in = StandIn(google, await google.add_target("storage", kind="googleapis"), tmp_path)
        found = await stand_in.run(library, library.metadata)
        wrong = {way: said for way in library.metadata if (said := stand_in.judge(way, found[way]))}
    keep(name, platform, {way: way not in wrong for way in library.metadata})
    assert wrong == {}


@pytest.mark.parametrize("kid", [True, False])
async def test_what_a_self_signed_token_is_for(stand_in: StandIn, kid: bool) -> None:
    """The judge above tells a good one from a bad one: it is no rubber stamp."""
    key = signing_key(KEY_EMAIL if kid else "other@example.com")
    token = key.sign({"iss": KEY_EMAIL, "sub": KEY_EMAIL})
    assert (stand_in.judge("self_signed", {"self_signed": token}) == "") is kid
