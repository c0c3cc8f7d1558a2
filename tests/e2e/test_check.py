"""Every known failure has its explanation: the stand-in fails that way, and `check` says what it is and what fixes it.

The list is that of Google's libraries and front ends; each row is reached through the whole of the sidecar's own
code, in this process: sources, store, data path, diagnosis.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sidecar.cli.check import check
from sidecar.cli.steps import RouteReport, Step, Verdict
from sidecar.config.load import load
from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.iam import api_disabled, quota_exhausted, quota_project_denied
from sidecar.emulator.oauth import KEY_EMAIL
from tests.support.google import signed
from tests.support.raw_endpoint import RawEndpoint, http, jwt, raw

ACTED_AS = "acted-as@emulated-project.iam.gserviceaccount.com"
HOP = "hop@emulated-project.iam.gserviceaccount.com"
CREATOR = "roles/iam.serviceAccountTokenCreator"
ID_CREATOR = "roles/iam.serviceAccountOpenIdTokenCreator"
IAP_CLIENT = "1-a.apps.googleusercontent.com"


__all__ = ["raw"]


class World(NamedTuple):
    google: Emulator
    directory: Path
    environ: dict[str, str]

    async def check(self, credential: str, route: str = "", *, online: bool = False) -> RouteReport:
        """The report of one route; its target is a Cloud Run service unless `route` says otherwise."""
        google = self.google
        if "upstream" not in route:
            target = google.targets.get("svc") or await google.add_target("svc")
            route = f"upstream: '{target.url}', target: cloud_run, audience: '{target.url}'{route}"
        text = (
            f"endpoints: {{oauth: '{google.oauth_url}', sts: '{google.sts_url}', iam_credentials: '{google.iam_url}'}}\n"
            f"credentials:\n  default: {credential}\n  metadata: {{type: metadata}}\n"
            f"  me: {{type: user, file: {self.directory}/login.json}}\n"
            f"routes: [{{name: svc, {route}}}]\n"
        )
        loaded = load(text, environ=self.environ)
        (report,) = await check(loaded.config, self.environ, online=online)
        return report

    async def failed(self, credential: str, route: str = "", *, online: bool = False) -> Step:
        """The one step that failed."""
        report = await self.check(credential, route, online=online)
        (step,) = (step for step in report.steps if step.verdict is Verdict.FAILED)
        return step


@pytest.fixture
async def world(google: Emulator, tmp_path: Path) -> World:
    """A stand-in, and everything there is to log in with; nobody may act as anybody."""
    google.principals.add(ACTED_AS)
    google.principals.add(HOP)
    google.write_key(tmp_path / "key.json")
    google.write_login(tmp_path / "login.json", google.oauth.add_user("me@example.com"))
    return World(
        google, tmp_path, {**google.environment(), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    )


KEY = "{{type: service_account_key, file: {0}/key.json}}"
METADATA = "{{type: metadata}}"
USER = "{{type: user, file: {0}/login.json}}"
ACTING = f"{{{{type: impersonate, service_account: {ACTED_AS}, source: metadata}}}}"
ACTING_AS_ME = f"{{{{type: impersonate, service_account: {ACTED_AS}, source: me}}}}"
FEDERATED = f"{{{{type: workload_identity_federation, file: {{0}}/wif.json, service_account: {ACTED_AS}}}}}"


def federate(google: Emulator, directory: Path, **claims: Any) -> None:
    """A federation file whose subject token has these claims."""
    provider = google.sts.add_provider()
    (directory / "subject").write_text(google.sts.subject_token(provider, **claims))
    google.write_federation(directory / "wif.json", provider, {"file": str(directory / "subject")})
    google.principals.grant(provider.principal_set, ID_CREATOR, on=ACTED_AS)


def executable(google: Emulator, directory: Path, program: str = "print('{}')") -> None:
    """A federation file with an executable."""
    source = {"executable": {"command": f"{sys.executable} -c {program!r}", "timeout_millis": 5000}}
    google.write_federation(directory / "wif.json", google.sts.add_provider(), source)


def misspell_audience(google: Emulator, directory: Path) -> None:
    federate(google, directory)
    file = directory / "wif.json"
    file.write_text(file.read_text().replace("//iam.googleapis.com/", "https://iam.googleapis.com/"))


def forbid(google: Emulator, directory: Path) -> None:
    federate(google, directory)
    google.sts.add_provider().condition = lambda claims: False


def narrow(google: Emulator, directory: Path) -> None:
    google.metadata.scopes = ("https://www.googleapis.com/auth/devstorage.read_only",)


def fail_iam(fault: Fault) -> Callable[[Emulator, Path], None]:
    def switch(google: Emulator, directory: Path) -> None:
        google.principals.grant(f"serviceAccount:{google.metadata.email}", ID_CREATOR, on=ACTED_AS)
        google.principals.grant("user:me@example.com", ID_CREATOR, on=ACTED_AS)
        google.iam.endpoint.fail(fault)

    return switch


def set_user(**switches: Any) -> Callable[[Emulator, Path], None]:
    def switch(google: Emulator, directory: Path) -> None:
        user = google.oauth.add_user("me@example.com")
        for name, value in switches.items():
            setattr(user, name, value)
        google.write_login(directory / "login.json", user)

    return switch


def attach_nobody(google: Emulator, directory: Path) -> None:
    google.metadata.email = None


def unbind(google: Emulator, directory: Path) -> None:
    google.metadata.bound = False


def open_to_all(google: Emulator, directory: Path) -> None:
    (directory / "key.json").chmod(0o644)


async def stop_metadata(google: Emulator, directory: Path) -> None:
    await google.stop(google.metadata.app)


Prepare = Callable[[Emulator, Path], Awaitable[None] | None]

TOKENS = [
    pytest.param(
        METADATA, stop_metadata, "token_endpoint_unreachable", "Not on Google Cloud?", "", id="no-metadata"
    ),
    pytest.param(
        METADATA,
        lambda google, _: google.metadata.endpoint.fail(Fault("status", code=503)),
        "token_endpoint_failed",
        "answered 503",
        "",
        id="metadata-not-ready",
    ),
    pytest.param(
        METADATA, attach_nobody, "no_service_account", "attach a service account", "", id="no-account"
    ),
    pytest.param(METADATA, unbind, "token_denied", "roles/iam.workloadIdentityUser", "", id="gke-unbound"),
    pytest.param(
        KEY,
        lambda google, _: google.oauth.revoke_key(),
        "token_denied",
        "was deleted or disabled",
        f"gcloud iam service-accounts keys create KEY.json --iam-account={KEY_EMAIL}",
        id="key-revoked",
    ),
    pytest.param(
        KEY,
        lambda google, _: google.oauth.delete_account(),
        "token_denied",
        f"no service account {KEY_EMAIL}",
        "",
        id="account-deleted",
    ),
    pytest.param(KEY, open_to_all, "credential_invalid", "chmod o-r", "", id="key-for-everyone"),
    pytest.param(
        USER,
        set_user(session_ended=True),
        "reauthentication_needed",
        "limits how long a login lasts",
        "gcloud auth application-default login",
        id="session-ended",
    ),
    pytest.param(
        USER,
        set_user(revoked=True),
        "reauthentication_needed",
        "The login has ended",
        "gcloud auth application-default login",
        id="login-revoked",
    ),
    pytest.param(
        USER,
        set_user(scopes=("email",)),
        "credential_mismatch",
        "lack `openid`",
        "--scopes=openid",
        id="no-openid",
    ),
    pytest.param(
        ACTING,
        lambda google, _: None,
        "impersonation_denied",
        "may not act as",
        f"gcloud iam service-accounts add-iam-policy-binding {ACTED_AS} --member=serviceAccount:"
        f"123456789012-compute@developer.gserviceaccount.com --role={ID_CREATOR}",
        id="may-not-impersonate",
    ),
    pytest.param(
        ACTING,
        narrow,
        "scope_insufficient",
        "lacks the scope cloud-platform",
        "set-service-account",
        id="scopes",
    ),
    pytest.param(
        ACTING,
        fail_iam(api_disabled()),
        "api_disabled",
        "is not enabled",
        "gcloud services enable iamcredentials.googleapis.com --project=123456789012",
        id="api-disabled",
    ),
    pytest.param(ACTING, fail_iam(quota_exhausted()), "token_rate_limited", "after a pause", "", id="quota"),
    pytest.param(
        ACTING_AS_ME,
        fail_iam(quota_project_denied()),
        "quota_project_denied",
        "serviceUsageConsumer",
        "set-quota-project",
        id="quota-project",
    ),
    pytest.param(
        FEDERATED,
        misspell_audience,
        "token_denied",
        "not the full name of a provider",
        "",
        id="sts-audience",
    ),
    pytest.param(
        FEDERATED,
        lambda google, directory: federate(google, directory, iat=1_600_000_000, exp=1_600_003_600),
        "subject_token_failed",
        "The subject token has expired",
        "",
        id="subject-stale",
    ),
    pytest.param(
        FEDERATED, forbid, "subject_token_failed", "attribute condition rejects", "", id="condition"
    ),
    pytest.param(
        FEDERATED,
        executable,
        "subject_token_failed",
        "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1",
        "",
        id="executables",
    ),
    pytest.param(
        FEDERATED,
        lambda google, directory: google.write_federation(
            directory / "wif.json", google.sts.add_provider(), {"file": str(directory / "gone")}
        ),
        "subject_token_failed",
        "is not there",
        "",
        id="no-subject-file",
    ),
    pytest.param(
        "{{type: gcloud, command: /nowhere/gcloud}}",
        lambda google, _: None,
        "credential_not_found",
        "install the gcloud",
        "",
        id="no-gcloud",
    ),
    pytest.param(
        "{{type: file, path: {0}/gone}}",
        lambda google, _: None,
        "credential_not_found",
        "There is no file",
        "",
        id="no-token-file",
    ),
    pytest.param(
        "{{type: static, token: nonsense}}",
        lambda google, _: None,
        "token_malformed",
        "default.token",
        "",
        id="not-a-token",
    ),
]


@pytest.mark.parametrize(("credential", "prepare", "reason", "says", "command"), TOKENS)
async def test_tokens_that_cannot_be_had(
    world: World,
    credential: str,
    prepare: Prepare,
    reason: str,
    says: str,
    command: str,
    request: pytest.FixtureRequest,
) -> None:
    """The reason, a sentence with what to do, and the command that fixes it."""
    done = prepare(world.google, world.directory)
    if inspect.isawaitable(done):
        await done
    step = await world.failed(credential.format(world.directory))
    in_files = request.node.callspec.id in ("key-for-everyone", "no-subject-file", "no-token-file")
    assert (step.name, step.reason) == ("credential" if in_files else "token", reason), step
    assert says in step.says
    assert command in step.command
    assert bool(step.command) == bool(command)


async def test_a_clock_that_is_off(tmp_path: Path) -> None:
    """Google refuses what was signed at the wrong time, and the answer's Date says how far it is off."""
    async with Emulator(now=lambda: time.time() + 7200) as google:  # noqa: TID251  # google-auth reads the real one
        google.write_key(tmp_path / "key.json")
        world = World(google, tmp_path, google.environment())
        step = await world.failed(KEY.format(tmp_path))
    assert step.reason == "clock_off"
    assert step.command == "timedatectl set-ntp true"


async def test_who_would_impersonate_itself(world: World) -> None:
    """The attached account's e-mail shows only when it is asked for, a key's is in its file."""
    email = world.google.metadata.email
    step = await world.failed(f"{{type: impersonate, service_account: {email}, source: metadata}}")
    assert (step.name, step.reason) == ("token", "self_impersonation")
    assert "renewed forever" in step.says
    assert not world.google.iam.asked
    key = f"{{type: service_account_key, file: {world.directory}/key.json}}"
    text = f"{{type: impersonate, service_account: {KEY_EMAIL}, source: key}}\n  key: {key}"
    step = await world.failed(text)
    assert (step.name, step.reason) == ("credential", "self_impersonation")


async def refuse_audience(google: Emulator) -> str:
    target = await google.add_target("svc", audience="https://svc-abc-uc.a.run.app")
    return f"upstream: '{target.url}', target: cloud_run, audience: 'https://wrong.example'"


async def refuse_caller(google: Emulator) -> str:
    target = await google.add_target("svc", callers=())
    return f"upstream: '{target.url}', target: cloud_run, audience: '{target.url}'"


async def hide(google: Emulator) -> str:
    target = await google.add_target("svc", ingress="internal")
    return f"upstream: '{target.url}', target: cloud_run, audience: '{target.url}'"


async def iap_audience(google: Emulator) -> str:
    target = await google.add_target("svc", kind="iap", audience=IAP_CLIENT)
    return f"upstream: '{target.url}', target: iap, audience: '2-b.apps.googleusercontent.com'"


async def iap_role(google: Emulator) -> str:
    target = await google.add_target("svc", kind="iap", audience=IAP_CLIENT, callers=())
    return f"upstream: '{target.url}', target: iap, audience: '{IAP_CLIENT}'"


async def gateway_audience(google: Emulator) -> str:
    target = await google.add_target("svc", kind="api_gateway")
    return f"upstream: '{target.url}', target: api_gateway, audience: 'https://x'"


async def gateway_issuer(google: Emulator) -> str:
    target = await google.add_target("svc", kind="endpoints")
    return f"upstream: '{target.url}', target: endpoints, token: self_signed_jwt"


async def api_scope(google: Emulator) -> str:
    target = await google.add_target("svc", kind="googleapis")
    return f"upstream: '{target.url}', target: googleapis, token: access, scopes: email"


async def api_off(google: Emulator) -> str:
    target = await google.add_target("svc", kind="googleapis", enabled=False)
    return f"upstream: '{target.url}', target: googleapis, token: access"


async def api_role(google: Emulator) -> str:
    target = await google.add_target("svc", kind="googleapis", callers=())
    return f"upstream: '{target.url}', target: googleapis, token: access"


MEMBER = "serviceAccount:123456789012-compute@developer.gserviceaccount.com"


@pytest.mark.parametrize(
    ("target", "cause", "says", "command"),
    [
        (refuse_audience, "token_refused", "https://wrong.example", ""),
        (
            refuse_caller,
            "permission_missing",
            "does not let it in",
            f"--member={MEMBER} --role=roles/run.invoker",
        ),
        (hide, "hidden", "ingress settings", "gcloud run services describe"),
        (iap_audience, "audience_refused", "IAP wants its own OAuth client id", ""),
        (iap_role, "permission_missing", "roles/iap.httpsResourceAccessor", f"--member={MEMBER}"),
        (gateway_audience, "audience_refused", "x-google-audiences", "gcloud api-gateway apis describe"),
        (gateway_issuer, "issuer_refused", "x-google-issuer", ""),
        (api_scope, "scope_missing", "`scopes`", ""),
        (api_off, "api_not_enabled", "not enabled", "gcloud services enable"),
        (api_role, "permission_missing", "lacks a role", "gcloud projects add-iam-policy-binding"),
    ],
)
async def test_targets_that_refuse(
    world: World, target: Callable[[Emulator], Awaitable[str]], cause: str, says: str, command: str
) -> None:
    """`--online` tells what the target's own answer means."""
    email = world.google.metadata.email or ""
    world.google.principals.add(email)
    world.google.principals.grant(f"serviceAccount:{email}", CREATOR, on=email)
    step = await world.failed("{type: metadata}", await target(world.google), online=True)
    assert (step.name, step.reason) == ("target", cause), step
    assert says in step.says
    assert command in step.command


async def test_a_token_without_an_email_for_iap(world: World) -> None:
    """Is found before anything is sent; and IAP's own words mean the same."""
    google = world.google
    target = await google.add_target("svc", kind="iap", audience=IAP_CLIENT)
    token = signed(time.time(), aud=IAP_CLIENT, email=None)  # noqa: TID251
    route = f"upstream: '{target.url}', target: iap, audience: '{IAP_CLIENT}'"
    step = await world.failed(f"{{type: static, token: {token}}}", route)
    assert (step.name, step.reason) == ("claims", "email_missing")


@pytest.mark.parametrize("email", ["\x1b[2J@x.example", "$(id)@x.example", "a@b\nverdict", "a" * 400 + "@x"])
async def test_an_email_that_is_none_is_not_shown(world: World, email: str) -> None:
    """Nor taken for one: a token's claims are from outside."""
    google = world.google
    target = await google.add_target("svc", kind="iap", audience=IAP_CLIENT)
    token = signed(time.time(), aud=IAP_CLIENT, email=email)  # noqa: TID251
    route = f"upstream: '{target.url}', target: iap, audience: '{IAP_CLIENT}'"
    step = await world.failed(f"{{type: static, token: {token}}}", route)
    assert (step.name, step.reason) == ("claims", "email_missing")
    assert email not in step.says


async def test_a_route_that_works(world: World) -> None:
    """Every step is fine, and nothing says a word of the token."""
    report = await world.check("{type: metadata}", online=True)
    assert {step.verdict for step in report.steps} == {Verdict.OK}
    assert [step.name for step in report.steps] == ["credential", "token", "claims", "clock", "target"]


async def test_an_upstream_that_is_not_there(world: World, unused_tcp_port: int) -> None:
    """The sidecar's own answer is the step's."""
    step = await world.failed(
        "{type: metadata}", f"upstream: 'http://127.0.0.1:{unused_tcp_port}'", online=True
    )
    assert (step.name, step.reason) == ("target", "connect_refused")


async def test_an_apps_own_403_is_a_warning(world: World) -> None:
    """Nobody can tell from outside what an app means by it."""
    google = world.google
    target = await google.add_target("svc", kind="open")
    text = f"upstream: '{target.url}', target: other"
    loaded = load(
        f"credentials: {{default: {{type: metadata}}}}\nroutes: [{{name: svc, {text}}}]\n", environ={}
    )
    (report,) = await check(loaded.config, world.environ, online=True, path="/status/403")
    assert report.steps[-1].verdict is Verdict.WARNING
    assert report.steps[-1].reason == "unexplained"


async def test_a_wildcard_needs_a_host(world: World) -> None:
    """It is skipped, and says so; with one, it is checked like any other."""
    text = "credentials: {default: {type: metadata}}\nroutes: [{name: svc, host: '*.a.run.app', upstream: 'https://{host}'}]\n"
    config = load(text, environ={}).config
    (report,) = await check(config, world.environ)
    assert report.steps[-1].verdict is Verdict.SKIPPED
    assert not report.failed
    (report,) = await check(config, world.environ, host="svc-abc-uc.a.run.app")
    assert "aud https://svc-abc-uc.a.run.app" in report.steps[1].says


@pytest.mark.parametrize(
    ("behind", "verdict"),
    [(5, Verdict.OK), (30, Verdict.WARNING), (300, Verdict.FAILED), (-300, Verdict.FAILED)],
)
async def test_the_clock_is_compared_with_the_token_endpoints(
    raw: RawEndpoint, behind: int, verdict: Verdict
) -> None:
    """By its Date, though the token came: requests will fail sooner or later."""
    date = formatdate(time.time() + behind, usegmt=True)  # noqa: TID251
    token = jwt("https://svc-abc-uc.a.run.app", issued=0, expires=3600)
    raw.behaviour = http(200, token.encode(), headers={"Date": date})
    text = (
        f"endpoints: {{metadata: '{raw.origin}'}}\ncredentials: {{default: {{type: metadata}}}}\n"
        "routes: [{name: svc, upstream: 'https://svc-abc-uc.a.run.app'}]\n"
    )
    (report,) = await check(load(text, environ={}).config, {})
    assert (report.steps[-1].name, report.steps[-1].verdict) == ("clock", verdict)
    if verdict is not Verdict.OK:
        assert ("behind" if behind > 0 else "ahead of") in report.steps[-1].says
        assert report.steps[-1].command == "timedatectl set-ntp true"


async def test_what_a_route_allows_is_told_and_kept_to(world: World) -> None:
    """A target that the sidecar lets nobody ask is not asked either."""
    report = await world.check("{type: metadata}", ", allow: {methods: POST, paths: /v1/*}", online=True)
    said = {step.name: step for step in report.steps}
    assert said["allow"].says == "POST of /v1/*; the rest is refused"
    assert said["target"].verdict is Verdict.SKIPPED
    assert "`allow.methods`" in said["target"].says
    assert not report.failed


LOGIN_AGAIN = "gcloud auth application-default login"
NOT_THERE = {
    "login": ("{{type: user}}", "credential_not_found", LOGIN_AGAIN),
    "login-file": ("{{type: user, file: {0}/gone.json}}", "credential_not_found", LOGIN_AGAIN),
    "key": ("{{type: service_account_key, file: {0}/gone.json}}", "credential_not_found", ""),
    "token": ("{{type: file, path: {0}/gone}}", "credential_not_found", ""),
    "federation": ("{{type: workload_identity_federation, file: {0}/gone.json}}", "credential_not_found", ""),
    "source": (
        f"{{{{type: impersonate, service_account: {ACTED_AS}, source: lost}}}}",
        "credential_not_found",
        LOGIN_AGAIN,
    ),
    "adc-named": ("{{type: adc}}", "credential_not_found", LOGIN_AGAIN),
    "adc-nobody": ("{{type: adc}}", "token_endpoint_unreachable", LOGIN_AGAIN),
}


@pytest.mark.parametrize("what", NOT_THERE)
async def test_a_credential_that_is_not_there_has_failed(
    world: World, what: str, unused_tcp_port: int
) -> None:
    """It is no "credential ok" before a token that failed; where a login fixes it, the command is that."""
    credential, reason, command = NOT_THERE[what]
    if what == "adc-named":
        world.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(world.directory / "gone.json")
    if what == "adc-nobody":
        world.environ.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
        world.environ["GCE_METADATA_HOST"] = f"127.0.0.1:{unused_tcp_port}"
    if "source: lost" in credential:
        credential += "\n  lost: {{type: user, file: {0}/gone.json}}"
    report = await world.check(credential.format(world.directory))
    (step,) = report.steps
    assert (step.name, step.verdict, step.reason, step.command) == (
        "credential",
        Verdict.FAILED,
        reason,
        command,
    )


async def test_a_credential_that_cannot_be_looked_at_is_not_called_ok(
    world: World, unused_tcp_port: int
) -> None:
    """A metadata server shows only when it is asked."""
    world.environ["GCE_METADATA_HOST"] = f"127.0.0.1:{unused_tcp_port}"
    report = await world.check(METADATA.format(""))
    assert [(step.name, step.verdict) for step in report.steps] == [
        ("credential", Verdict.SKIPPED),
        ("token", Verdict.FAILED),
    ]
    world.environ.update(world.google.environment())
    report = await world.check(METADATA.format(""))
    assert (report.steps[0].name, report.steps[0].verdict) == ("credential", Verdict.OK)


async def test_which_proxy_a_route_goes_through(world: World) -> None:
    """By its address, without its password; what goes directly says nothing of it."""
    proxied = await world.check("{type: metadata}", ", egress_proxy: 'http://me:s3cret@127.0.0.1:1'")
    (step,) = (step for step in proxied.steps if step.name == "egress")
    assert (step.verdict, step.says.partition(",")[0]) == (Verdict.OK, "through http://********@127.0.0.1:1")
    direct = await world.check("{type: metadata}")
    assert [step.name for step in direct.steps if step.name == "egress"] == []
