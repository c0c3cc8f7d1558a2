"""Facts about each kind of target: its hosts, the tokens it accepts, and common mistakes.

Owns the table behind the defaults of a route, the checks of the configuration, the diagnosis of a refusal, and
docs/targets.md. Pure. Sources: Google's pages on calling Cloud Run
(https://cloud.google.com/run/docs/authenticating/service-to-service), functions
(https://cloud.google.com/functions/docs/securing/authenticating), IAP
(https://cloud.google.com/iap/docs/authentication-howto), API Gateway and Endpoints
(https://cloud.google.com/endpoints/docs/openapi/service-account-authentication), AIP-4111 (self-signed JWTs).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple


class TokenKind(StrEnum):
    """The kind of token that is sent as bearer."""

    ID = "id"
    """A Google-signed ID token."""
    ACCESS = "access"
    """An OAuth access token."""
    SELF_SIGNED_JWT = "self_signed_jwt"
    """A JWT that the service account's own key signed."""


class Target(StrEnum):
    """The kind of front end that checks the token."""

    CLOUD_RUN = "cloud_run"
    CLOUD_FUNCTIONS = "cloud_functions"
    IAP = "iap"
    API_GATEWAY = "api_gateway"
    ENDPOINTS = "endpoints"
    GOOGLEAPIS = "googleapis"
    OTHER = "other"


CLOUD_PLATFORM: Final = "https://www.googleapis.com/auth/cloud-platform"

GCLOUD_CLIENT_IDS: Final = frozenset(
    {
        "32555940559.apps.googleusercontent.com",
        "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com",
    }
)
"""The audiences of a person's ID tokens: of `gcloud auth login`, and of `gcloud auth application-default login`."""


class Facts(NamedTuple):
    """One kind of target."""

    title: str
    suffixes: tuple[str, ...]
    """Endings of the upstream's host, by which `target: auto` knows it."""
    kinds: frozenset[TokenKind]
    beside: str | None
    """The header that takes the token where the app sends an Authorization of its own."""
    persons: bool
    """Whether a person's ID token, whose audience is gcloud's client id, is accepted."""
    needs_email: bool
    audience: str
    """What its audience is, in words."""
    no_audience: str
    """Why there is no default audience; empty if there is one."""
    role: str
    """The role that the caller needs."""
    grant: str
    """The command that grants it, with names in capitals to fill in."""


_ID: Final = frozenset({TokenKind.ID})
_SIGNED: Final = frozenset({TokenKind.ID, TokenKind.SELF_SIGNED_JWT})

FACTS: Final[dict[Target, Facts]] = {
    Target.CLOUD_RUN: Facts(
        "Cloud Run",
        (".run.app",),
        _ID,
        "X-Serverless-Authorization",
        persons=True,
        needs_email=False,
        audience="the service's own URL, `https://SERVICE-….run.app` without a path (also under a traffic tag's URL, "
        "behind a load balancer or a domain of its own), or one of its custom audiences",
        no_audience="Cloud Run does not take the name of a domain of its own: set `audience` to the service's "
        "run.app URL, or to one of its custom audiences",
        role="roles/run.invoker",
        grant="gcloud run services add-iam-policy-binding SERVICE --region=REGION --member=MEMBER "
        "--role=roles/run.invoker",
    ),
    Target.CLOUD_FUNCTIONS: Facts(
        "Cloud Run functions",
        (".cloudfunctions.net",),
        _ID,
        "X-Serverless-Authorization",
        persons=True,
        needs_email=False,
        audience="the function's whole URL, `https://REGION-PROJECT.cloudfunctions.net/NAME`",
        no_audience="a function's audience is its whole URL, its name included: set `audience` to "
        "`https://REGION-PROJECT.cloudfunctions.net/NAME`",
        role="roles/run.invoker (1st gen: roles/cloudfunctions.invoker)",
        grant="gcloud functions add-invoker-policy-binding FUNCTION --region=REGION --member=MEMBER",
    ),
    Target.IAP: Facts(
        "Identity-Aware Proxy",
        (),
        _SIGNED,
        "Proxy-Authorization",
        persons=False,
        needs_email=True,
        audience="the OAuth client id of IAP, `NUMBER-….apps.googleusercontent.com`; for a self-signed JWT the "
        "resource's URL, `https://HOST/*`",
        no_audience="IAP takes its own OAuth client id: set `audience` to `NUMBER-….apps.googleusercontent.com`, or "
        "use `token: self_signed_jwt`, which needs none",
        role="roles/iap.httpsResourceAccessor",
        grant="gcloud iap web add-iam-policy-binding --resource-type=RESOURCE_TYPE --service=SERVICE --member=MEMBER "
        "--role=roles/iap.httpsResourceAccessor",
    ),
    Target.API_GATEWAY: Facts(
        "API Gateway",
        (".gateway.dev",),
        _SIGNED,
        None,
        persons=False,
        needs_email=False,
        audience="what `x-google-audiences` of the API lists; without that, `https://` and the managed service's name, "
        "`https://API-….apigateway.PROJECT.cloud.goog`",
        no_audience="a gateway's host is not its audience: set `audience` to what `x-google-audiences` lists, or to "
        "`https://` and the managed service's name (`gcloud api-gateway apis describe API`)",
        role="none: the API's own configuration names issuer and audience",
        grant="gcloud api-gateway apis describe API --format='value(managedService)'",
    ),
    Target.ENDPOINTS: Facts(
        "Cloud Endpoints (ESPv2)",
        (".cloud.goog",),
        _SIGNED,
        None,
        persons=False,
        needs_email=False,
        audience="what `x-google-audiences` of the API lists; without that, `https://` and the service's name",
        no_audience="",
        role="none: the API's own configuration names issuer and audience",
        grant="gcloud endpoints services describe SERVICE_NAME",
    ),
    Target.GOOGLEAPIS: Facts(
        "Google APIs",
        (".googleapis.com",),
        frozenset({TokenKind.ACCESS, TokenKind.SELF_SIGNED_JWT}),
        None,
        persons=True,
        needs_email=False,
        audience="none for an access token, which has `scopes`; for a self-signed JWT `https://SERVICE.googleapis.com/`",
        no_audience="",
        role="the API's own roles",
        grant="gcloud projects add-iam-policy-binding PROJECT --member=MEMBER --role=ROLE",
    ),
    Target.OTHER: Facts(
        "Anything else that verifies Google's tokens",
        (),
        _SIGNED,
        None,
        persons=False,
        needs_email=False,
        audience="what was agreed upon; the upstream's origin unless set",
        no_audience="",
        role="its own",
        grant="",
    ),
}


def detect(host: str) -> Target:
    """The kind of target that is known by its host, in normal form; wildcards (`*.a.run.app`) too."""
    for target, facts in FACTS.items():
        if host.endswith(facts.suffixes):
            return target
    return Target.OTHER


def default_audience(target: Target, kind: TokenKind, scheme: str, authority: str) -> str | None:
    """The audience where the configuration gives none; None where nothing can be known.

    `authority` is the upstream's host, with its port where that is not the scheme's own.
    """
    origin = f"{scheme}://{authority}"
    facts = FACTS[target]
    if kind is TokenKind.SELF_SIGNED_JWT:
        return {Target.IAP: f"{origin}/*", Target.GOOGLEAPIS: f"{origin}/"}.get(target, origin)
    if target is Target.CLOUD_RUN:
        # The audience stays the service's own under a traffic tag's URL, `https://TAG---SERVICE-….run.app`.
        return f"{scheme}://{authority.rpartition('---')[2]}" if authority.endswith(facts.suffixes) else None
    return None if facts.no_audience else origin


_BY_PROJECT = re.compile(r"(?:[a-z0-9-]+---)?([a-z0-9-]+)-[0-9]{6,20}\.([a-z0-9-]+)\.run\.app")
_BY_HASH = re.compile(r"(?:[a-z0-9-]+---)?([a-z0-9-]+)-[a-z0-9]{10}-[a-z]{2}\.a\.run\.app")


def service_of(authority: str) -> tuple[str, str]:
    """Name and region of a Cloud Run service by its host, in capitals if the host does not contain them."""
    if (match := _BY_PROJECT.fullmatch(authority)) is not None:
        return match[1], match[2]
    if (match := _BY_HASH.fullmatch(authority)) is not None:
        return match[1], "REGION"
    return "SERVICE", "REGION"
