"""sidecar.config.combinations and targets: which credential can give which token for which target"""

from __future__ import annotations

import itertools

import pytest

from sidecar.config.combinations import ABILITIES, ability_of, refusal
from sidecar.config.credentials import CREDENTIAL_TYPES
from sidecar.config.load import ConfigError, load
from sidecar.config.targets import FACTS, Target, TokenKind, default_audience, detect

CELLS = list(itertools.product(ABILITIES, TokenKind, Target))


@pytest.mark.parametrize(("ability", "kind", "target"), CELLS)
def test_every_cell_works_or_says_why_and_what_would(ability: str, kind: TokenKind, target: Target) -> None:
    """A refusal has a reason, and names at least one thing that works: tokens of this credential, or others."""
    why = refusal(ability, kind, target)
    if why is None:
        assert kind in FACTS[target].kinds
        assert kind not in ABILITIES[ability].cannot
        return
    reason, _, instead = why.partition(";")
    assert reason
    if "what works here is" in instead:
        others = [other for other in TokenKind if f"`token: {other}`" in instead]
        assert others
        assert all(refusal(ability, other, target) is None for other in others)
    else:
        named = [name for name, row in ABILITIES.items() if f"`{row.title}`" in instead]
        assert named
        assert all(any(refusal(name, other, target) is None for other in TokenKind) for name in named)


def test_a_persons_id_token_is_for_cloud_run_and_functions_alone() -> None:
    """Its audience is gcloud's client id, which no other target takes."""
    for ability in ("user", "gcloud_person"):
        taken = {target for target in Target if refusal(ability, TokenKind.ID, target) is None}
        assert taken == {Target.CLOUD_RUN, Target.CLOUD_FUNCTIONS}


def test_access_tokens_go_to_google_apis_alone() -> None:
    """A target that gets one can use it anywhere."""
    for ability in ABILITIES:
        taken = {target for target in Target if refusal(ability, TokenKind.ACCESS, target) is None}
        assert taken <= {Target.GOOGLEAPIS}


def test_every_type_but_adc_has_its_row() -> None:
    """So that the page has it."""
    assert {*CREDENTIAL_TYPES} - {"adc"} <= {*ABILITIES}


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("svc-abc-uc.a.run.app", Target.CLOUD_RUN),
        ("svc-123.us-central1.run.app", Target.CLOUD_RUN),
        ("*.a.run.app", Target.CLOUD_RUN),
        ("run.app", Target.OTHER),
        ("evilrun.app", Target.OTHER),
        ("run.app.evil.example", Target.OTHER),
        ("us-central1-p.cloudfunctions.net", Target.CLOUD_FUNCTIONS),
        ("gw-abc.uc.gateway.dev", Target.API_GATEWAY),
        ("api.endpoints.p.cloud.goog", Target.ENDPOINTS),
        ("storage.googleapis.com", Target.GOOGLEAPIS),
        ("googleapis.com.evil.example", Target.OTHER),
        ("reports.example.com", Target.OTHER),
    ],
)
def test_a_target_is_known_by_its_host(host: str, target: Target) -> None:
    """By whole labels at its end."""
    assert detect(host) is target


@pytest.mark.parametrize(
    ("target", "kind", "authority", "audience"),
    [
        ("cloud_run", "id", "svc-abc-uc.a.run.app", "https://svc-abc-uc.a.run.app"),
        ("cloud_run", "id", "canary---svc-abc-uc.a.run.app", "https://svc-abc-uc.a.run.app"),
        ("cloud_run", "id", "billing.example.com", None),
        ("cloud_functions", "id", "us-central1-p.cloudfunctions.net", None),
        ("iap", "id", "reports.example.com", None),
        ("iap", "self_signed_jwt", "reports.example.com", "https://reports.example.com/*"),
        ("api_gateway", "id", "gw-abc.uc.gateway.dev", None),
        ("endpoints", "id", "api.endpoints.p.cloud.goog", "https://api.endpoints.p.cloud.goog"),
        ("googleapis", "self_signed_jwt", "storage.googleapis.com", "https://storage.googleapis.com/"),
        ("other", "id", "api.example:8443", "https://api.example:8443"),
    ],
)
def test_default_audiences(target: str, kind: str, authority: str, audience: str | None) -> None:
    """What the target wants where the configuration says nothing; none where nothing can be known."""
    assert default_audience(Target(target), TokenKind(kind), "https", authority) == audience


def problem(text: str) -> str:
    """What is wrong with a configuration; empty for a good one."""
    try:
        load(text, file="FILE", environ={"TOKEN": "x"})
    except ConfigError as error:
        return str(error)
    return ""


def route(**keys: str) -> str:
    return "routes: [{name: a, " + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}]\n"


SA = "x@p.iam.gserviceaccount.com"
CREDENTIALS = f"""\
credentials:
  default: {{type: metadata}}
  me: {{type: user}}
  person: {{type: gcloud, account: me@example.com}}
  robot: {{type: gcloud, account: {SA}}}
  acting: {{type: gcloud, account: me@example.com, service_account: {SA}}}
  fixed: {{type: static, token: "${{TOKEN}}"}}
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (route(upstream="https://storage.googleapis.com"), "routes[0].token: Google APIs take no ID tokens"),
        (route(upstream="https://storage.googleapis.com", token="access"), ""),
        (route(upstream="https://s-uc.a.run.app", token="access"), "access tokens are not taken"),
        (route(upstream="https://s.example", token="access"), "set `target: googleapis`"),
        (route(upstream="https://s.example", token="access", target="googleapis"), ""),
        (
            route(upstream="https://s-uc.a.run.app", token="self_signed_jwt"),
            "what works here is `token: id`",
        ),
        (route(upstream="https://s.example", target="iap"), "routes[0].audience: IAP takes its own OAuth"),
        (route(upstream="https://s.example", target="iap", audience="1-a.apps.googleusercontent.com"), ""),
        (route(upstream="https://s.example", target="iap", token="self_signed_jwt"), ""),
        (route(upstream="https://r-p.cloudfunctions.net"), "its name included"),
        (route(upstream="https://r-p.cloudfunctions.net", audience="https://r-p.cloudfunctions.net/f"), ""),
        (route(upstream="https://g.uc.gateway.dev"), "x-google-audiences"),
        (route(upstream="https://own.example", target="cloud_run"), "run.app URL"),
        (route(upstream="https://s.example", scopes="[a]"), "scopes are for `token: access`"),
        (
            route(upstream="https://s.googleapis.com", token="access", audience="https://x"),
            "an access token has `scopes`",
        ),
        (
            route(upstream="https://s.example", credential="me"),
            "routes[0].credential: the ID token of a person",
        ),
        (route(upstream="https://s-uc.a.run.app", credential="me"), ""),
        (
            route(upstream="https://s.example", credential="person"),
            "routes[0].credential: the ID token of a person",
        ),
        (route(upstream="https://s.example", credential="robot"), ""),
        (route(upstream="https://s.example", credential="acting"), ""),
        (
            route(upstream="https://s.googleapis.com", token="access", credential="fixed"),
            "does not say when it expires",
        ),
        (
            route(upstream="'https://{host}'", host="['*.a.run.app', '*.internal.example']", token="access"),
            "`*.a.run.app`: Cloud Run: access tokens are not taken",
        ),
    ],
)
def test_what_cannot_work_is_an_error_that_says_what_can(text: str, says: str) -> None:
    """At the key that is to be changed; the empty string: it is valid."""
    found = problem(CREDENTIALS + text)
    assert (says in found) if says else found == ""


ROUTE = route(upstream="https://s-uc.a.run.app")


@pytest.mark.parametrize(
    ("credentials", "says"),
    [
        (
            "{a: {type: impersonate, service_account: x@p.iam.gserviceaccount.com, source: b}}",
            "no credential is",
        ),
        (
            "{a: {type: impersonate, service_account: x@p.iam.gserviceaccount.com, source: a}}",
            "`a` would be its own source",
        ),
        (
            "{a: {type: impersonate, service_account: x@p.iam.gserviceaccount.com, source: b}, "
            "b: {type: impersonate, service_account: y@p.iam.gserviceaccount.com, source: a}}",
            "`b` would be its own source",
        ),
        (
            "{a: {type: impersonate, service_account: x@p.iam.gserviceaccount.com, source: b}, "
            "b: {type: static, token: x}}",
            "is a ready ID token",
        ),
        (
            "{a: {type: impersonate, service_account: x@p.iam.gserviceaccount.com, source: b}, "
            "b: {type: metadata, account: x@p.iam.gserviceaccount.com}}",
            "credentials.a.service_account: x@p.iam.gserviceaccount.com would impersonate itself",
        ),
        (
            "{a: {type: impersonate, service_account: x@p.iam.gserviceaccount.com, "
            "delegates: [y@p.iam.gserviceaccount.com, x@p.iam.gserviceaccount.com], source: b}, b: {type: metadata}}",
            "would impersonate itself",
        ),
        (
            "{a: {type: impersonate, service_account: x@p.iam.gserviceaccount.com, source: b, "
            "delegates: [y@p.iam.gserviceaccount.com]}, "
            "b: {type: impersonate, service_account: y@p.iam.gserviceaccount.com, source: c}, c: {type: metadata}}",
            "y@p.iam.gserviceaccount.com would impersonate itself",
        ),
        (
            "{a: {type: gcloud, account: x@p.iam.gserviceaccount.com, service_account: x@p.iam.gserviceaccount.com}}",
            "would impersonate itself",
        ),
        ("{a: {type: gcloud, delegates: [x@p.iam.gserviceaccount.com]}}", "lead to a `service_account`"),
        ("{a: {type: gcloud, account: --help}}", "is not an account of gcloud's"),
        ("{a: {type: impersonate, service_account: billing}}", "is not a service account's e-mail"),
        ("{a: {type: static}}", "the key `token` is missing"),
        (
            "{a: {type: impersonate, source: b, "
            "service_account: projects/-/serviceAccounts/x@p.iam.gserviceaccount.com}, b: {type: metadata}}",
            "",
        ),
    ],
)
def test_chains_of_credentials(credentials: str, says: str) -> None:
    """They end, begin with an access token, and never come back to an account that is in them."""
    found = problem(
        f"credentials: {credentials}\n" + route(upstream="https://s-uc.a.run.app", credential="a")
    )
    assert (says in found) if says else found == ""


@pytest.mark.parametrize(
    ("endpoints", "says"),
    [
        (
            "{metadata: '127.0.0.1:8080', oauth: 'http://127.0.0.1:1/token', sts: 'https://sts.example/v1/token'}",
            "",
        ),
        ("{iam_credentials: 'https://iamcredentials.us-east1.rep.googleapis.com/'}", ""),
        ("{oauth: 'http://oauth.example/token'}", "`http://` is for loopback only"),
        ("{sts: 'http://10.0.0.1/'}", "`http://` is for loopback only"),
        ("{iam_credentials: 'https://u:p@x.example'}", "is not a URL"),
        ("{iam_credentials: 'https://x.example?y'}", "neither query nor fragment"),
        ("{metadata: 'http://127.0.0.1/x'}", "is not host and port"),
        ("{oauht: 'https://x'}", "did you mean `oauth`?"),
    ],
)
def test_endpoints(endpoints: str, says: str) -> None:
    """Credentials never cross the network in plaintext."""
    found = problem(f"endpoints: {endpoints}\n" + ROUTE)
    assert (says in found) if says else found == ""


def test_what_a_configuration_does_not_tell_is_left_to_the_start() -> None:
    """ADC, and federation without a service account, turn out when their file is read."""
    config = load(
        "credentials: {default: {type: adc}, w: {type: workload_identity_federation, file: /x}}\n" + ROUTE,
        environ={},
    ).config
    assert [ability_of(credential) for credential in config.credentials.values()] == [None, None]
