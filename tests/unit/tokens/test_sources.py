"""sidecar.tokens.sources: from the configuration to sources, and google-auth kept lazy and quiet."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

from sidecar.config.credentials import (
    Adc,
    Credential,
    File,
    Gcloud,
    Impersonate,
    Metadata,
    ServiceAccountKey,
    Static,
    User,
    WorkloadIdentityFederation,
)
from sidecar.config.load import load
from sidecar.config.targets import TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.credential_file import FILE_LIMIT
from sidecar.tokens.sources import Inspection, build_sources, inspect, quiet_google_logging, unchanged
from sidecar.tokens.token import TokenKey
from tests.support.named_source import NamedSource
from tests.support.raw_endpoint import jwt

SA = "acted-as@p.iam.gserviceaccount.com"
HOP = "hop@p.iam.gserviceaccount.com"


def clock() -> SystemClock:
    return SystemClock(asyncio.get_running_loop())


def inline(text: str) -> ServiceAccountKey:
    """A key given as text."""
    return ServiceAccountKey.model_validate({"type": "service_account_key", "json": SecretStr(text)})


async def test_a_source_for_each_credential(tmp_path: Path) -> None:
    """Each type becomes its own source, under its name, and says what it uses without a secret."""
    sources = build_sources(
        {
            "a": Adc(type="adc"),
            "m": Metadata(type="metadata"),
            "p": Metadata(type="metadata", account="x@p.iam.gserviceaccount.com"),
            "f": ServiceAccountKey(type="service_account_key", file="/keys/f.json"),
            "j": inline('{"private_key": "very-secret"}'),
        },
        clock=clock(),
        environ={"GCE_METADATA_HOST": "h:1", "CLOUDSDK_CONFIG": str(tmp_path)},
    )
    assert {name: source.describe() for name, source in sources.items()} == {
        "a": "application default credentials: the metadata server at h:1",
        "m": "default service account of the metadata server at h:1",
        "p": "service account x@p.iam.gserviceaccount.com of the metadata server at h:1",
        "f": "service account key in /keys/f.json",
        "j": "service account key in `credentials.j.json`",
    }


async def test_sources_that_ask_others_or_nobody(tmp_path: Path) -> None:
    """The login that gcloud left is the one of this environment; tokens that come ready are named by their place."""
    sources = build_sources(
        {
            "default": Impersonate(type="impersonate", service_account=SA, source="u", delegates=(HOP,)),
            "u": User(type="user"),
            "own": User(type="user", file="/logins/me.json"),
            "g": Gcloud(type="gcloud", account="me@example.com"),
            "w": WorkloadIdentityFederation(type="workload_identity_federation", file="/wif.json"),
            "file": File(type="file", path="/run/token"),
            "fixed": Static(type="static", token=SecretStr("very-secret")),
        },
        clock=clock(),
        environ={"CLOUDSDK_CONFIG": str(tmp_path)},
    )
    login = f"a person's login in {tmp_path}/application_default_credentials.json"
    assert {name: source.describe() for name, source in sources.items()} == {
        "default": f"service account {SA} through {HOP}, impersonated by {login}",
        "u": login,
        "own": "a person's login in /logins/me.json",
        "g": "gcloud with me@example.com",
        "w": "/wif.json",
        "file": "a ready token in /run/token",
        "fixed": "a ready token in `credentials.fixed.token`",
    }


async def test_a_token_in_a_file_is_read_at_each_fetch(tmp_path: Path) -> None:
    """As the program that renews it left it, line break or not; it is checked like any token."""
    file = tmp_path / "token"
    it = build_sources({"f": File(type="file", path=str(file))}, clock=clock(), environ={})["f"]
    key = TokenKey(NamedSource("f"), "https://svc.example")
    with pytest.raises(SidecarError, match=f"credential_not_found: There is no file {file}"):
        await it.mint(key)
    for number in (1, 2):
        value = jwt("https://svc.example", issued=-number, expires=3600)
        file.write_text(value + "\n")
        assert (await it.mint(key)).bearer == f"Bearer {value}".encode()
    file.write_text(jwt("https://other.example", issued=0, expires=3600))
    with pytest.raises(SidecarError, match="token_wrong_audience"):
        await it.mint(key)


async def test_a_key_file_that_everybody_can_read_is_refused_unless_allowed(tmp_path: Path) -> None:
    """And the error says how to close it, and how to allow it."""
    file = tmp_path / "key.json"
    file.write_text("{}")
    file.chmod(0o644)
    for allowed, says in (
        (False, "`chmod o-r .*`allow_world_readable: true`"),
        (True, "lacks `client_email`"),
    ):
        key = ServiceAccountKey(type="service_account_key", file=str(file), allow_world_readable=allowed)
        with pytest.raises(SidecarError, match=f"credential_invalid: .*{says}"):
            await build_sources({"f": key}, clock=clock(), environ={})["f"].mint(
                TokenKey(NamedSource("f"), "https://x")
            )


# a reload


def acting(source: str) -> Impersonate:
    return Impersonate(type="impersonate", service_account=SA, source=source)


OLD: Mapping[str, Credential] = {
    "m": Metadata(type="metadata"),
    "g": Gcloud(type="gcloud"),
    "i": acting("g"),
    "ii": acting("i"),
    "adc": acting("default"),
}


@pytest.mark.parametrize(
    ("new", "kept"),
    [
        pytest.param(OLD, {"m", "g", "i", "ii"}, id="nothing-changed"),
        pytest.param({**OLD, "m": Adc(type="adc")}, {"g", "i", "ii"}, id="one-changed"),
        pytest.param(
            {**OLD, "g": Gcloud(type="gcloud", account="a@b.example")}, {"m"}, id="a-source-changed"
        ),
        pytest.param({"i": acting("g")}, set(), id="a-source-gone"),
        pytest.param({**OLD, "more": Adc(type="adc")}, {"m", "g", "i", "ii"}, id="one-more"),
    ],
)
def test_what_a_reload_leaves_alone(new: Mapping[str, Credential], kept: set[str]) -> None:
    """A credential is kept with its tokens only if whatever it acts from is the same, too; with other endpoints, none."""
    assert unchanged(OLD, new, same_surroundings=True) == kept
    assert unchanged(OLD, new, same_surroundings=False) == set()


async def test_a_source_that_is_kept_stays_what_it_was() -> None:
    """With what it found out, and as the source of those that are new."""
    old = build_sources(
        {"m": Metadata(type="metadata")}, clock=clock(), environ={"GCE_METADATA_HOST": "old:1"}
    )
    new = build_sources(
        {"m": Metadata(type="metadata"), "i": acting("m")},
        clock=clock(),
        environ={"GCE_METADATA_HOST": "new:1"},
        known=old,
    )
    assert new["m"] is old["m"]
    assert new["i"].describe().endswith("default service account of the metadata server at old:1")


# what can be seen without asking

ID, ACCESS = TokenKey(NamedSource("x"), "https://a"), TokenKey(NamedSource("x"), "scope", TokenKind.ACCESS)


async def inspected(tmp_path: Path, credential: Credential, *keys: TokenKey) -> Inspection:
    environ = {"CLOUDSDK_CONFIG": str(tmp_path)}
    credentials = {"x": credential, "m": Metadata(type="metadata", account=SA)}
    sources = build_sources(credentials, clock=clock(), environ=environ)
    return inspect(sources["x"].grant, keys)


async def test_what_can_never_work_is_seen_at_start(tmp_path: Path) -> None:
    """A person's login for a target that takes none, found behind `adc`; an account that would act as itself."""
    login = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    (tmp_path / "application_default_credentials.json").write_text(json.dumps(login))
    found = await inspected(tmp_path, Adc(type="adc"), ACCESS, ID)
    assert found.fault is not None
    assert found.fault.reason is Reason.CREDENTIAL_MISMATCH
    found = await inspected(tmp_path, acting("m"), ID)
    assert found.fault is not None
    assert found.fault.reason is Reason.SELF_IMPERSONATION


async def test_what_may_work_later_is_no_fault(tmp_path: Path) -> None:
    """A file that is not there yet, or half written, is for the fetch to tell."""
    key = ServiceAccountKey(type="service_account_key", file=str(tmp_path / "missing"))
    assert await inspected(tmp_path, key, ID) == (None, None)
    federated = WorkloadIdentityFederation(
        type="workload_identity_federation", file=str(tmp_path / "missing")
    )
    assert await inspected(tmp_path, federated, ID) == (None, None)


async def test_a_person_is_warned_of(tmp_path: Path) -> None:
    """Where the target takes a person's ID token: any service that it reaches could use it in turn."""
    persons = ID._replace(persons=True)
    user = User(type="user", file="/me.json")
    assert "for development only" in str((await inspected(tmp_path, user, persons)).warning)
    assert await inspected(tmp_path, user, ACCESS) == (None, None)


async def test_a_bad_inline_key_is_named_by_its_place_in_the_configuration() -> None:
    """A key from a variable that is incomplete is named by its key in the configuration, and never shown."""
    key = inline('{"private_key": "very-secret"}')
    with pytest.raises(
        SidecarError, match=r"`credentials\.j\.json`.*lacks `client_email`, `token_uri`"
    ) as caught:
        await build_sources({"j": key}, clock=clock(), environ={})["j"].mint(
            TokenKey(NamedSource("j"), "https://x")
        )
    assert "secret" not in str(caught.value)


async def test_commands_have_a_time_of_their_own(tmp_path: Path) -> None:
    """A gcloud's is what it says; an executable's what its file says; who acts from one waits for it."""
    file = tmp_path / "wif.json"
    source = {"executable": {"command": "x", "timeout_millis": 20_000}}
    info = {"type": "external_account", "audience": "a", "subject_token_type": "t", "token_url": "https://x"}
    file.write_text(json.dumps({**info, "credential_source": source}))
    sources = build_sources(
        {
            "m": Metadata(type="metadata"),
            "g": Gcloud(type="gcloud", timeout="3s"),
            "slow": Gcloud(type="gcloud", timeout="40s"),
            "w": WorkloadIdentityFederation(type="workload_identity_federation", file=str(file)),
            "i": Impersonate(
                type="impersonate", service_account="a@p.iam.gserviceaccount.com", source="slow"
            ),
        },
        clock=clock(),
        environ={},
        seconds=8.0,
    )
    found = {name: source.seconds for name, source in sources.items()}
    assert found == {"m": 8.0, "g": 3.0, "slow": 40.0, "w": 22.0, "i": 42.0}


async def test_a_missing_key_file_is_named() -> None:
    """A key file that is not there is named by its path."""
    key = ServiceAccountKey(type="service_account_key", file="/nowhere/key.json")
    with pytest.raises(SidecarError, match=r"credential_not_found: There is no file /nowhere/key\.json"):
        await build_sources({"f": key}, clock=clock(), environ={})["f"].mint(
            TokenKey(NamedSource("j"), "https://x")
        )


def test_google_auth_is_not_imported_at_start() -> None:
    """Neither importing nor building sources pays for google-auth and requests: the first fetch does."""
    program = """
import asyncio, sys
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.sources import build_sources
import sidecar.tokens.store

async def main():
    class Adc:
        type = "adc"
    build_sources({"default": Adc()}, clock=SystemClock(asyncio.get_running_loop()), environ={})

asyncio.run(main())
print([name for name in ("google.auth", "requests", "urllib3", "cryptography") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.fixture
def google_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("google")
    level = logger.level
    yield logger
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(logging.NOTSET, logging.INFO, id="not-set"),
        pytest.param(logging.DEBUG, logging.INFO, id="debug"),
        pytest.param(logging.INFO, logging.INFO, id="info"),
        pytest.param(logging.ERROR, logging.ERROR, id="error"),
    ],
)
def test_google_loggers_stay_at_info_or_above(google_logger: logging.Logger, before: int, after: int) -> None:
    """Whatever the level of the root or of a child, google-auth never logs at DEBUG; a higher level stays."""
    google_logger.setLevel(before)
    child, unset = logging.getLogger("google.auth.test"), logging.getLogger("google.auth.other")
    child.setLevel(logging.DEBUG)
    quiet_google_logging()
    assert google_logger.level == after
    assert child.level == logging.INFO
    assert unset.level == logging.NOTSET
    assert not unset.isEnabledFor(logging.DEBUG)


FILES = {
    "key": "{{type: service_account_key, file: {place}}}",
    "federation": "{{type: workload_identity_federation, file: {place}, service_account: a@p.iam.gserviceaccount.com}}",
    "login": "{{type: user, file: {place}}}",
    "token": "{{type: file, path: {place}}}",
}


@pytest.mark.parametrize("place", ["a pipe", "/dev/zero", "a huge file"])
@pytest.mark.parametrize("kind", [*FILES, "adc"])
def test_a_credential_is_a_regular_file_of_bounded_size(tmp_path: Path, kind: str, place: str) -> None:
    """Anything else is refused at once: a pipe would keep the fetch's thread forever, a device has no end."""
    if place == "a pipe":
        place = str(tmp_path / "pipe")
        os.mkfifo(place)
        says = "it is a pipe, not a regular file"
    elif place == "/dev/zero":
        says = "it is a device, not a regular file"
    else:
        place = str(tmp_path / "huge")
        Path(place).touch()
        os.truncate(place, 2**40)
        says = f"it is larger than {FILE_LIMIT} bytes"
    text = "{type: adc}" if kind == "adc" else FILES[kind].format(place=place)
    config = load(
        f"credentials: {{default: {text}}}\nroutes: [{{name: a, upstream: 'https://a.run.app'}}]\n",
        environ={},
    ).config

    async def mint() -> None:
        environ = {"GOOGLE_APPLICATION_CREDENTIALS": place} if kind == "adc" else {}
        source = build_sources(config.credentials, clock=clock(), environ=environ)["default"]
        await source.mint(TokenKey("default", "https://a.run.app", TokenKind.ID, True))

    with pytest.raises(SidecarError) as caught:
        asyncio.run(mint())
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert says in caught.value.detail


@pytest.mark.parametrize(
    ("holds", "setting"),
    [
        ("service_account", "`type: service_account_key`"),
        ("authorized_user", "`type: user`"),
        ("external_account", "`type: workload_identity_federation`"),
        ("external_account_authorized_user", "`type: adc`, and GOOGLE_APPLICATION_CREDENTIALS to its path"),
        ("impersonated_service_account", "`type: adc`, and GOOGLE_APPLICATION_CREDENTIALS to its path"),
    ],
)
@pytest.mark.parametrize(
    "configured", ["service_account_key", "user", "workload_identity_federation", "file"]
)
async def test_a_file_of_another_type_is_told_with_the_type_to_set(
    tmp_path: Path, holds: str, setting: str, configured: str
) -> None:
    """Wherever the configuration says one thing and the file another."""
    if configured in setting:
        return
    file = tmp_path / "credential.json"
    file.write_text(json.dumps({"type": holds, "client_email": "a@b.example", "secret": "s3cret"}))
    file.chmod(0o600)
    key = "path" if configured == "file" else "file"
    config = load(
        f"credentials: {{default: {{type: {configured}, {key}: '{file}'}}}}\n"
        "routes: [{name: a, upstream: 'https://a.a.run.app'}]\n",
        environ={},
    ).config
    source = build_sources(config.credentials, clock=clock(), environ={})["default"]
    with pytest.raises(SidecarError) as caught:
        await source.mint(TokenKey(source, "https://a.a.run.app", TokenKind.ID, True))
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert f"it is a credential of type {holds}, not " in caught.value.detail
    assert caught.value.detail.endswith(f" For this file set {setting}.")
    assert "s3cret" not in caught.value.detail
    with pytest.raises(SidecarError):
        source.grant.look()
