"""Which credential can give which token for which target: every cell, through one running sidecar.

The cells are those of docs/targets.md, from the same table. One that works is verified by the target; one that does
not is refused when the configuration is read, with the reason that the page has.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sidecar.config.combinations import ABILITIES, refusal
from sidecar.config.load import ConfigError, load
from sidecar.config.targets import Target, TokenKind
from sidecar.emulator.app import Emulator
from sidecar.emulator.kinds import TargetKind
from sidecar.emulator.oauth import KEY_EMAIL
from sidecar.emulator.running import EmulatorThread
from tests.support.google import signed
from tests.support.process import SidecarProcess

CELLS = list(itertools.product(ABILITIES, TokenKind, Target))
WORKS = [cell for cell in CELLS if refusal(*cell) is None]
REFUSED = [cell for cell in CELLS if refusal(*cell) is not None]

ACTED_AS = "acted-as@emulated-project.iam.gserviceaccount.com"
PERSON = "me@example.com"
IAP_CLIENT = "1-a.apps.googleusercontent.com"
API = "https://storage.googleapis.com/"
GCLOUD = shutil.which("gcloud")
CREATOR = "roles/iam.serviceAccountTokenCreator"

KINDS: dict[Target, TargetKind] = {
    Target.CLOUD_RUN: "cloud_run",
    Target.CLOUD_FUNCTIONS: "cloud_functions",
    Target.IAP: "iap",
    Target.API_GATEWAY: "api_gateway",
    Target.ENDPOINTS: "endpoints",
    Target.GOOGLEAPIS: "googleapis",
    Target.OTHER: "endpoints",
}
"""What plays each; `other` is any verifier of both kinds of JWT."""


class World(NamedTuple):
    google: Emulator
    sidecar: SidecarProcess
    directory: Path
    environ: dict[str, str]


def name_of(ability: str, kind: TokenKind, target: Target) -> str:
    return f"{ability}-{kind}-{target}".replace("_", "-")


def credential_of(ability: str, target: Target, directory: Path) -> str:
    """The credential's text in the configuration."""
    return {
        "metadata": "{type: metadata}",
        "service_account_key": f"{{type: service_account_key, file: {directory}/key.json}}",
        "impersonate": f"{{type: impersonate, service_account: {ACTED_AS}, source: user}}",
        "workload_identity_federation": f"{{type: workload_identity_federation, file: {directory}/wif.json}}",
        "federated": f"{{type: workload_identity_federation, file: {directory}/direct.json}}",
        "workforce": "{type: adc}",
        "user": f"{{type: user, file: {directory}/login.json}}",
        "gcloud": f"{{type: gcloud, account: {KEY_EMAIL}}}",
        "gcloud_person": f"{{type: gcloud, account: {PERSON}, command: {directory}/gcloud-as-a-person}}",
        "file": f"{{type: file, path: {directory}/token-{target}}}",
        "static": f'{{type: static, token: "${{TOKEN_{target.upper()}}}"}}',
    }[ability]


def marks_of(ability: str) -> list[pytest.MarkDecorator]:
    """A second for each of them is gcloud's own."""
    return [pytest.mark.test_all] if ability.startswith("gcloud") else []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A stand-in with a target of each kind, and a sidecar with a route for every cell that works."""
    directory = tmp_path_factory.mktemp("matrix")
    with EmulatorThread() as thread:
        google = thread.google
        for target, kind in KINDS.items():
            options = {"issuers": {KEY_EMAIL, ACTED_AS, google.metadata.email}} if kind == "endpoints" else {}
            if kind == "api_gateway":
                options = {"issuers": {KEY_EMAIL, ACTED_AS, google.metadata.email}}
            if kind == "googleapis":
                options = {"service": "storage.googleapis.com"}
            audience = IAP_CLIENT if kind == "iap" else None
            thread.run(google.add_target(target, kind=kind, audience=audience, **options))  # type: ignore[arg-type]
        environ = prepare(google, directory)
        config = configuration(google, directory)
        with SidecarProcess(config, directory, environ) as sidecar:
            yield World(google, sidecar, directory, environ)


def prepare(google: Emulator, directory: Path) -> dict[str, str]:
    """Everything that the credentials need, and the environment for it."""
    user = google.oauth.add_user(PERSON)
    provider = google.sts.add_provider()
    google.principals.add(ACTED_AS)
    for member in (user.member, provider.principal_set):
        google.principals.grant(member, CREATOR, on=ACTED_AS)
    email = google.metadata.email or ""
    google.principals.add(email)
    google.principals.grant(f"serviceAccount:{email}", CREATOR, on=email)
    google.write_key(directory / "key.json")
    google.write_login(directory / "login.json", user)
    google.write_workforce(directory / "workforce.json", user)
    (directory / "subject").write_text(google.sts.subject_token(provider))
    source = {"file": str(directory / "subject")}
    google.write_federation(directory / "wif.json", provider, source, service_account=ACTED_AS)
    google.write_federation(directory / "direct.json", provider, source)
    wrapper = directory / "gcloud-as-a-person"
    wrapper.write_text(
        f'#!/bin/sh\nCLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE={directory}/login.json exec gcloud "$@"\n'
    )
    wrapper.chmod(0o755)
    environ = {
        **google.environment(),
        "GOOGLE_APPLICATION_CREDENTIALS": str(directory / "workforce.json"),
        "CLOUDSDK_CONFIG": str(directory / "gcloud"),
        "HOME": str(directory),
    }
    now = google._now()
    for target in Target:
        token = signed(now, aud=audience_of(google, target, TokenKind.ID), email="ready@example.com")
        (directory / f"token-{target}").write_text(token + "\n")
        environ[f"TOKEN_{target.upper()}"] = token
    return environ


def sign_in(world: World) -> None:
    """gcloud, as an account of the stand-in; the test is skipped where there is no gcloud."""
    if GCLOUD is None:
        pytest.skip("gcloud is not installed here")
    key, signed_in = world.directory / "key.json", world.directory / "signed-in"
    if not signed_in.exists():
        path = os.environ.get("PATH", "/usr/bin:/bin") + ":" + str(Path(GCLOUD).parent)
        subprocess.run(
            [GCLOUD, "auth", "activate-service-account", f"--key-file={key}", "--quiet"],
            env={**world.environ, "PATH": path},
            capture_output=True,
            check=True,
            timeout=60,
        )
        signed_in.touch()


def audience_of(google: Emulator, target: Target, kind: TokenKind) -> str:
    if target is Target.GOOGLEAPIS:
        return API
    if target is Target.IAP and kind is TokenKind.SELF_SIGNED_JWT:
        return f"{google.targets[target].url}/*"
    return google.targets[target].audience


def configuration(google: Emulator, directory: Path) -> str:
    lines = [
        "endpoints:",
        f"  oauth: {google.oauth_url}",
        f"  sts: {google.sts_url}",
        f"  iam_credentials: {google.iam_url}",
        "credentials:",
        f"  user: {credential_of('user', Target.OTHER, directory)}",
    ]
    lines += [
        f"  {ability}-{target}: {credential_of(ability, target, directory)}"
        for ability, target in itertools.product(ABILITIES, Target)
    ]
    lines.append("routes:")
    for ability, kind, target in WORKS:
        keys = [
            f"name: {name_of(ability, kind, target)}",
            f"host: {name_of(ability, kind, target)}.test",
            f"upstream: {google.targets[target].url}",
            f"target: {target}",
            f"token: {kind}",
            f"credential: {ability}-{target}",
            "prefetch: false",
        ]
        if kind is not TokenKind.ACCESS:
            keys.append(f'audience: "{audience_of(google, target, kind)}"')
        lines.append(f"  - {{{', '.join(keys)}}}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("ability", "kind", "target"),
    [pytest.param(*cell, id=name_of(*cell), marks=marks_of(cell[0])) for cell in WORKS],
)
def test_what_works_is_verified_by_the_target(
    world: World, ability: str, kind: TokenKind, target: Target
) -> None:
    """With the right kind of token, for the right audience, of the right account."""
    if ability.startswith("gcloud"):
        sign_in(world)
    reply = world.sidecar.get(name_of(ability, kind, target))
    assert reply.status == 200, reply.body
    verified = reply.json["verified"]
    expected = {
        TokenKind.ID: "id_token",
        TokenKind.ACCESS: "access_token",
        TokenKind.SELF_SIGNED_JWT: "self_signed",
    }
    assert verified["credential"] == expected[kind]
    if not ABILITIES[ability].person and kind is not TokenKind.ACCESS:
        assert verified["audience"] == audience_of(world.google, target, kind)
    who = {
        "metadata": world.google.metadata.email,
        "service_account_key": KEY_EMAIL,
        "gcloud": KEY_EMAIL,
        "impersonate": ACTED_AS,
        "workload_identity_federation": ACTED_AS,
        "federated": None,
        "file": "ready@example.com",
        "static": "ready@example.com",
    }.get(ability, PERSON)
    assert verified["email"] == who


@pytest.mark.parametrize(("ability", "kind", "target"), REFUSED, ids=[name_of(*cell) for cell in REFUSED])
def test_what_cannot_work_is_refused_with_its_reason(
    tmp_path: Path, ability: str, kind: TokenKind, target: Target
) -> None:
    """When the configuration is read, if that tells; a credential whose file decides is refused at start."""
    text = "credentials:\n"
    text += f"  default: {credential_of(ability, target, tmp_path)}\n"
    text += f"  user: {credential_of('user', target, tmp_path)}\n"
    text += f"routes: [{{name: a, upstream: 'https://a.example', target: {target}, token: {kind}"
    text += "}]\n" if kind is TokenKind.ACCESS else ", audience: 'https://x'}]\n"
    why = refusal(ability, kind, target) or ""
    if ability in ("federated", "workforce") and refusal("metadata", kind, target) is None:
        with EmulatorThread() as thread:
            prepare_files_alone(thread.google, tmp_path)
            environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "workforce.json")}
            with pytest.raises(AssertionError) as started, SidecarProcess(text, tmp_path, environ):
                pass
            assert "credential_mismatch" in str(started.value)
            assert why.partition(";")[0].partition(":")[0] in str(started.value)
        return
    with pytest.raises(ConfigError) as caught:
        load(text, environ={f"TOKEN_{target.upper()}": "x"})
    expected = why if ability not in ("federated", "workforce") else refusal("metadata", kind, target)
    assert str(expected) in str(caught.value)


def prepare_files_alone(google: Emulator, directory: Path) -> None:
    """The two credentials that only their files tell about."""
    google.write_workforce(directory / "workforce.json", google.oauth.add_user(PERSON))
    google.write_federation(directory / "direct.json", google.sts.add_provider(), {"file": "/x"})
