"""sidecar.manifest.grants: who must be allowed what."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from sidecar.config.load import load
from sidecar.manifest.grants import as_gcloud, as_terraform, needed

APP = "serviceAccount:app@p.iam.gserviceaccount.com"
INVOKER = "roles/run.invoker"
OPENID = "roles/iam.serviceAccountOpenIdTokenCreator"
CREATOR = "roles/iam.serviceAccountTokenCreator"
RUN = "billing-123456789012.europe-west1.run.app"
ROUTE = f"{{name: billing, upstream: 'https://{RUN}'}}"


def grants(credentials: str, *routes: str) -> list[tuple[str, str, str]]:
    config = load(f"credentials: {credentials}\nroutes: [{', '.join(routes or (ROUTE,))}]", environ={}).config
    return [(grant.member.partition(":")[2], grant.role, grant.resource) for grant in needed(config, APP)[0]]


@pytest.mark.parametrize(
    ("credentials", "wanted"),
    [
        ("{default: {type: adc}}", [("app@p.iam.gserviceaccount.com", INVOKER, RUN)]),
        ("{default: {type: metadata}}", [("app@p.iam.gserviceaccount.com", INVOKER, RUN)]),
        (
            "{default: {type: metadata, account: other@p.iam.gserviceaccount.com}}",
            [("other@p.iam.gserviceaccount.com", INVOKER, RUN)],
        ),
        (
            "{me: {type: metadata}, default: {type: impersonate, source: me, service_account: b@p.iam.gserviceaccount.com}}",
            [
                ("b@p.iam.gserviceaccount.com", INVOKER, RUN),
                ("app@p.iam.gserviceaccount.com", OPENID, "b@p.iam.gserviceaccount.com"),
            ],
        ),
        (
            "{me: {type: metadata}, default: {type: impersonate, source: me, service_account: b@p.iam.gserviceaccount.com,"
            " delegates: [c@p.iam.gserviceaccount.com]}}",
            [
                ("b@p.iam.gserviceaccount.com", INVOKER, RUN),
                ("app@p.iam.gserviceaccount.com", CREATOR, "c@p.iam.gserviceaccount.com"),
                ("c@p.iam.gserviceaccount.com", OPENID, "b@p.iam.gserviceaccount.com"),
            ],
        ),
        (
            "{me: {type: metadata}, hop: {type: impersonate, source: me, service_account: h@p.iam.gserviceaccount.com},"
            " default: {type: impersonate, source: hop, service_account: b@p.iam.gserviceaccount.com}}",
            [
                ("b@p.iam.gserviceaccount.com", INVOKER, RUN),
                ("h@p.iam.gserviceaccount.com", OPENID, "b@p.iam.gserviceaccount.com"),
                ("app@p.iam.gserviceaccount.com", CREATOR, "h@p.iam.gserviceaccount.com"),
            ],
        ),
        (
            "{default: {type: gcloud, account: me@example.com, service_account: b@p.iam.gserviceaccount.com}}",
            [
                ("b@p.iam.gserviceaccount.com", INVOKER, RUN),
                ("me@example.com", OPENID, "b@p.iam.gserviceaccount.com"),
            ],
        ),
        ("{default: {type: gcloud, account: me@example.com}}", [("me@example.com", INVOKER, RUN)]),
        ("{default: {type: user}}", [("YOU@EXAMPLE.COM", INVOKER, RUN)]),
        (
            "{default: {type: workload_identity_federation, file: /f, service_account: b@p.iam.gserviceaccount.com}}",
            [
                ("b@p.iam.gserviceaccount.com", INVOKER, RUN),
                (
                    "//iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/*",
                    "roles/iam.workloadIdentityUser",
                    "b@p.iam.gserviceaccount.com",
                ),
            ],
        ),
        (
            "{default: {type: service_account_key, file: /f}}",
            [("KEY_ACCOUNT@PROJECT.iam.gserviceaccount.com", INVOKER, RUN)],
        ),
    ],
)
def test_each_credential_needs_just_this(credentials: str, wanted: list[tuple[str, str, str]]) -> None:
    assert grants(credentials) == wanted


def test_each_target_needs_just_this() -> None:
    config = load(
        "routes:\n"
        "  - {name: fn, upstream: 'https://europe-west1-proj.cloudfunctions.net', audience: 'https://europe-west1-proj.cloudfunctions.net/f'}\n"
        "  - {name: iap, upstream: 'https://r.example.com', target: iap, audience: 1-a.apps.googleusercontent.com}\n"
        "  - {name: gw, upstream: 'https://a-1.ew.gateway.dev', audience: 'https://a'}\n"
        "  - {name: storage, upstream: 'https://storage.googleapis.com', token: access}\n"
        "  - {name: own, upstream: 'https://own.example.com'}\n",
        environ={},
    ).config
    found, unknown = needed(config, APP)
    assert [(grant.role, grant.resource) for grant in found] == [
        (INVOKER, "europe-west1-proj.cloudfunctions.net"),
        ("roles/iap.httpsResourceAccessor", "r.example.com"),
    ]
    assert [item.why for item in unknown] == ["route gw: API Gateway", "route storage: Google APIs"]
    text = as_gcloud(config, APP)
    assert "gcloud functions add-invoker-policy-binding FUNCTION --region=europe-west1" in text
    assert "# route storage: Google APIs: grant serviceAccount:app@p" in text


def test_one_grant_for_many_routes() -> None:
    other = ROUTE.replace("billing,", "again, host: again.internal,")
    assert len(grants("{default: {type: adc}}", ROUTE, other)) == 1


CHAIN = (
    "credentials: {me: {type: metadata}, default: {type: impersonate, source: me, "
    "service_account: b@p.iam.gserviceaccount.com, delegates: [c@p.iam.gserviceaccount.com]}}\n"
    f"routes: [{ROUTE}, {{name: iap, upstream: 'https://r.example.com', target: iap, audience: x}}]"
)


def test_the_terraform_has_a_name_for_each() -> None:
    text = as_terraform(load(CHAIN, environ={}).config, APP)
    names = re.findall(r'^resource "(\w+)" "(\w+)" \{$', text, re.MULTILINE)
    assert len(names) == len(set(names)) == 4
    assert 'service_account_id = "projects/-/serviceAccounts/c@p.iam.gserviceaccount.com"' in text
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gcloud_knows_the_lines(tmp_path: object) -> None:
    """Its own parser takes them; without a login they get no further."""
    script = as_gcloud(load(CHAIN, environ={}).config, APP)
    lines = script.replace("\\\n", "").replace("RESOURCE_TYPE", "backend-services").splitlines()
    commands = [line for line in lines if line.startswith("gcloud ")]
    assert len(commands) == 5
    environ = {
        "PATH": "/usr/bin:/bin:/usr/local/bin",
        "CLOUDSDK_CONFIG": str(tmp_path),
        "HOME": str(tmp_path),
    }
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", f"{command} --project=p --quiet"],
            capture_output=True,
            text=True,
            timeout=120,
            env=environ,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert "You do not currently have an active account selected" in done.stderr
