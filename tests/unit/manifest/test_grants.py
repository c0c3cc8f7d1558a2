"""sidecar.manifest.grants: who must be allowed what."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from sidecar.config.load import load
from sidecar.manifest.grants import Known, as_gcloud, as_terraform, needed
from sidecar.manifest.plan import ManifestError

APP = "serviceAccount:app@p.iam.gserviceaccount.com"
INVOKER = "roles/run.invoker"
OPENID = "roles/iam.serviceAccountOpenIdTokenCreator"
CREATOR = "roles/iam.serviceAccountTokenCreator"
RUN = "billing-123456789012.europe-west1.run.app"
KNOWN = Known(
    member=APP,
    services={"": "name"},
    resource_types={"": "backend-services"},
)
ROUTE = f"{{name: billing, upstream: 'https://{RUN}'}}"


def grants(credentials: str, *routes: str, known: Known = KNOWN) -> list[tuple[str, str, str]]:
    config = load(f"credentials: {credentials}\nroutes: [{', '.join(routes or (ROUTE,))}]", environ={}).config
    return [
        (grant.member.partition(":")[2], grant.role, grant.resource) for grant in needed(config, known)[0]
    ]


@pytest.mark.parametrize(
    ("credentials", "wanted"),
    [
        ("{default: {type: adc}}", [("app@p.iam.gserviceaccount.com", INVOKER, "billing")]),
        ("{default: {type: metadata}}", [("app@p.iam.gserviceaccount.com", INVOKER, "billing")]),
        (
            "{default: {type: metadata, account: other@p.iam.gserviceaccount.com}}",
            [("other@p.iam.gserviceaccount.com", INVOKER, "billing")],
        ),
        (
            "{me: {type: metadata}, default: {type: impersonate, source: me, service_account: b@p.iam.gserviceaccount.com}}",
            [
                ("b@p.iam.gserviceaccount.com", INVOKER, "billing"),
                ("app@p.iam.gserviceaccount.com", OPENID, "b@p.iam.gserviceaccount.com"),
            ],
        ),
        (
            "{me: {type: metadata}, default: {type: impersonate, source: me, service_account: b@p.iam.gserviceaccount.com,"
            " delegates: [c@p.iam.gserviceaccount.com]}}",
            [
                ("b@p.iam.gserviceaccount.com", INVOKER, "billing"),
                ("app@p.iam.gserviceaccount.com", CREATOR, "c@p.iam.gserviceaccount.com"),
                ("c@p.iam.gserviceaccount.com", OPENID, "b@p.iam.gserviceaccount.com"),
            ],
        ),
        (
            "{me: {type: metadata}, hop: {type: impersonate, source: me, service_account: h@p.iam.gserviceaccount.com},"
            " default: {type: impersonate, source: hop, service_account: b@p.iam.gserviceaccount.com}}",
            [
                ("b@p.iam.gserviceaccount.com", INVOKER, "billing"),
                ("h@p.iam.gserviceaccount.com", OPENID, "b@p.iam.gserviceaccount.com"),
                ("app@p.iam.gserviceaccount.com", CREATOR, "h@p.iam.gserviceaccount.com"),
            ],
        ),
        (
            "{default: {type: gcloud, account: me@example.com, service_account: b@p.iam.gserviceaccount.com}}",
            [
                ("b@p.iam.gserviceaccount.com", INVOKER, "billing"),
                ("me@example.com", OPENID, "b@p.iam.gserviceaccount.com"),
            ],
        ),
        ("{default: {type: gcloud, account: me@example.com}}", [("me@example.com", INVOKER, "billing")]),
    ],
)
def test_each_credential_needs_just_this(credentials: str, wanted: list[tuple[str, str, str]]) -> None:
    assert grants(credentials) == wanted


@pytest.mark.parametrize(
    ("credential", "said", "wanted"),
    [
        pytest.param(
            "type: user", "user:you@example.com", [("you@example.com", INVOKER, "billing")], id="a-login"
        ),
        pytest.param(
            "type: service_account_key, file: /f",
            "serviceAccount:key@p.iam.gserviceaccount.com",
            [("key@p.iam.gserviceaccount.com", INVOKER, "billing")],
            id="a-key",
        ),
        pytest.param(
            "type: workload_identity_federation, file: /f, service_account: b@p.iam.gserviceaccount.com",
            "principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/*",
            [
                ("b@p.iam.gserviceaccount.com", INVOKER, "billing"),
                (
                    "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/*",
                    "roles/iam.workloadIdentityUser",
                    "b@p.iam.gserviceaccount.com",
                ),
            ],
            id="federation",
        ),
    ],
)
def test_who_a_credential_is_can_be_said(
    credential: str, said: str, wanted: list[tuple[str, str, str]]
) -> None:
    assert grants(f"{{default: {{{credential}}}}}", known=Known(principals={"default": said})) == wanted


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
    found, unknown = needed(config, KNOWN)
    assert [(grant.role, grant.resource) for grant in found] == [
        (INVOKER, "name"),
        ("roles/iap.httpsResourceAccessor", "name"),
    ]
    assert [item.why for item in unknown] == ["route gw: API Gateway", "route storage: Google APIs"]
    text = as_gcloud(config, KNOWN)
    assert "gcloud functions add-invoker-policy-binding name --region=europe-west1" in text
    assert "# route storage: Google APIs: grant serviceAccount:app@p" in text


def test_one_grant_for_many_routes() -> None:
    other = ROUTE.replace("billing,", "again, host: again.internal,")
    assert len(grants("{default: {type: adc}}", ROUTE, other)) == 1


CHAIN = (
    "credentials: {me: {type: metadata}, default: {type: impersonate, source: me, "
    "service_account: b@p.iam.gserviceaccount.com, delegates: [c@p.iam.gserviceaccount.com]}}\n"
    f"routes: [{ROUTE}, {{name: iap, upstream: 'https://r.example.com', target: iap, audience: x}}]"
)


@pytest.mark.parametrize(
    ("credential", "route", "said"),
    [
        pytest.param("type: adc", ROUTE, ["--member PRINCIPAL"], id="who-it-runs-as"),
        pytest.param("type: user", ROUTE, ["--principal default=PRINCIPAL"], id="a-login"),
        pytest.param(
            "type: service_account_key, file: /f", ROUTE, ["--principal default=PRINCIPAL"], id="a-key"
        ),
        pytest.param(
            "type: workload_identity_federation, file: /f",
            ROUTE,
            ["`service_account` of credential default", "--principal default=PRINCIPAL"],
            id="federation",
        ),
        pytest.param(
            "type: gcloud, account: me@example.com",
            "{name: b, upstream: 'https://billing-abcdefghij-uc.a.run.app'}",
            ["--region b=VALUE"],
            id="a-host-without-its-region",
        ),
        pytest.param(
            "type: gcloud, account: me@example.com",
            "{name: b, upstream: 'https://b.example', target: cloud_run, audience: 'https://b-abcdefghij-uc.a.run.app'}",
            ["--service b=VALUE", "--region b=VALUE"],
            id="a-custom-domain",
        ),
        pytest.param(
            "type: metadata, account: m@p.iam.gserviceaccount.com",
            "{name: b, upstream: 'https://b.example', target: iap, audience: a}",
            ["--service b=VALUE", "--resource-type b=VALUE"],
            id="iap",
        ),
    ],
)
def test_what_is_not_told_is_asked_for(credential: str, route: str, said: list[str]) -> None:
    """Nothing is written with a gap that a shell would run, or Terraform apply."""
    config = load(f"credentials: {{default: {{{credential}}}}}\nroutes: [{route}]", environ={}).config
    for write in (as_gcloud, as_terraform):
        with pytest.raises(ManifestError) as caught:
            write(config, Known())
        lines = sorted(str(caught.value).splitlines()[1:])
        assert len(lines) == len(said)
        assert all(line.strip().startswith(start) for line, start in zip(lines, sorted(said), strict=True)), (
            lines
        )


def test_what_a_host_tells_is_not_asked_for_nor_overruled_by_a_value_for_all() -> None:
    other = "{name: own, upstream: 'https://own.example', target: cloud_run, audience: 'https://o-abcdefghij-uc.a.run.app'}"
    config = load(f"routes: [{ROUTE}, {other}]", environ={}).config
    known = Known(member=APP, services={"own": "o"}, regions={"": "us-central1"})
    places = [(grant.resource, grant.region) for grant in needed(config, known)[0]]
    assert places == [("billing", "europe-west1"), ("o", "us-central1")]
    known = Known(member=APP, services={"own": "o"}, regions={"billing": "us-east1", "": "us-central1"})
    assert needed(config, known)[0][0].region == "us-east1"


def test_a_value_can_not_end_the_string_it_stands_in() -> None:
    config = load(f"routes: [{ROUTE}]", environ={}).config
    text = as_terraform(config, Known(member='user:${x}%{y}"\\'))
    assert r'member   = "user:$${x}%%{y}\"\\"' in text


def test_the_terraform_has_a_name_for_each() -> None:
    text = as_terraform(load(CHAIN, environ={}).config, KNOWN)
    names = re.findall(r'^resource "(\w+)" "(\w+)" \{$', text, re.MULTILINE)
    assert len(names) == len(set(names)) == 4
    assert 'service_account_id = "projects/-/serviceAccounts/c@p.iam.gserviceaccount.com"' in text
    assert text.count("{") == text.count("}")


@pytest.mark.test_all
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gcloud_knows_the_lines(tmp_path: object) -> None:
    """Its own parser takes them; without a login they get no further."""
    script = as_gcloud(load(CHAIN, environ={}).config, KNOWN)
    lines = script.replace("\\\n", "").splitlines()
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
