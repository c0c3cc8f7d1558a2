"""Who must be allowed what, for the routes of a configuration to work: IAM grants, as gcloud lines or as Terraform.

Owns the derivation: the invoker's role on each target, and for each step of acting as another account the role that
allows it. No grant is wider than one resource. Sources: `config.targets.FACTS`,
https://cloud.google.com/iam/docs/service-account-permissions (OpenID Connect Identity Token Creator, Service Account
Token Creator), https://cloud.google.com/iam/docs/workload-identity-federation.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from sidecar.config.checks import targets_of
from sidecar.config.credentials import Credential, Gcloud, Impersonate, WorkloadIdentityFederation
from sidecar.config.models import Config, RouteConfig
from sidecar.config.targets import FACTS, Target, TokenKind
from sidecar.grammar import hosts
from sidecar.manifest.templates import filled
from sidecar.proxy.refusals.diagnosis import service_of

OPENID_CREATOR: Final = "roles/iam.serviceAccountOpenIdTokenCreator"
TOKEN_CREATOR: Final = "roles/iam.serviceAccountTokenCreator"
FEDERATED: Final = "roles/iam.workloadIdentityUser"


class Grant(NamedTuple):
    """One role on one resource, for one member."""

    member: str
    role: str
    target: Target | None
    """What kind of target the resource is; None: a service account."""
    resource: str
    """The service account's e-mail, or the target's host."""
    why: str
    """For which route or credential."""


class Unknown(NamedTuple):
    """What must be granted, and can't be told from the configuration."""

    why: str
    what: str


Found = tuple[list[Grant], list[Unknown]]


def needed(config: Config, member: str) -> Found:
    """Every grant once; `member` is who the process runs as, such as `serviceAccount:app@p.iam.gserviceaccount.com`."""
    grants: dict[tuple[str, str, str], Grant] = {}
    unknown: list[Unknown] = []
    for route in config.routes:
        credential = config.credentials[route.credential]
        kind = TokenKind(route.token)
        caller = _acts_as(config.credentials, credential, member)
        for host, target in targets_of(route).items():
            for item in _on_target(route, target, host, caller):
                if isinstance(item, Unknown):
                    unknown.append(item)
                else:
                    grants.setdefault((item.member, item.role, item.resource), item)
        for grant in _on_accounts(config, route.credential, credential, kind, member):
            grants.setdefault((grant.member, grant.role, grant.resource), grant)
    return list(grants.values()), list(dict.fromkeys(unknown))


def as_gcloud(config: Config, member: str) -> str:
    """A shell script of gcloud lines; what has to be filled in is in capitals."""
    grants, unknown = needed(config, member)
    lines = [
        "# What the routes of this configuration need, and nothing more. Fill in what is in capitals.",
        "# A new grant takes some minutes.",
        "set -eu",
    ]
    for grant in grants:
        lines += ["", f"# {grant.why}", _gcloud_line(grant)]
    lines += [line for item in unknown for line in ("", f"# {item.why}: {item.what}")]
    if any(grant.target is None for grant in grants):
        lines += [
            "",
            "# for all of the above that act as a service account",
            "gcloud services enable iamcredentials.googleapis.com",
        ]
    return "\n".join(lines) + "\n"


def as_terraform(config: Config, member: str) -> str:
    """Terraform resources of the google provider."""
    grants, unknown = needed(config, member)
    labels: set[str] = set()
    parts = ["# What the routes of this configuration need, and nothing more. Fill in what is in capitals."]
    parts += [_terraform_resource(grant, labels) for grant in grants]
    parts += [f"# {item.why}: {item.what}" for item in unknown]
    return "\n\n".join(parts) + "\n"


def _acts_as(credentials: dict[str, Credential], credential: Credential, member: str) -> str:
    """Whom a target sees."""
    if isinstance(credential, Impersonate):
        return f"serviceAccount:{credential.service_account}"
    if isinstance(credential, WorkloadIdentityFederation):
        return f"serviceAccount:{credential.service_account or 'SERVICE_ACCOUNT_OF_THE_FILE'}"
    if isinstance(credential, Gcloud):
        if credential.service_account is not None:
            return f"serviceAccount:{credential.service_account}"
        return f"user:{credential.account or 'YOU@EXAMPLE.COM'}"
    return _runs_as(credential, member)


def _runs_as(credential: Credential, member: str) -> str:
    """Who a credential is by itself."""
    match credential.type:
        case "metadata":
            account = getattr(credential, "account", "default")
            return member if account == "default" else f"serviceAccount:{account}"
        case "user" | "gcloud":
            account = getattr(credential, "account", None)
            return f"user:{account or 'YOU@EXAMPLE.COM'}"
        case "service_account_key":
            return "serviceAccount:KEY_ACCOUNT@PROJECT.iam.gserviceaccount.com"
        case "workload_identity_federation":
            return "principalSet://iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/*"
        case "file" | "static":
            return "MEMBER"
    return member


def _on_target(route: RouteConfig, target: Target, host: str, caller: str) -> list[Grant | Unknown]:
    facts = FACTS[target]
    why = f"route {route.name}: {facts.title}"
    match target:
        case Target.CLOUD_RUN:
            return [Grant(caller, "roles/run.invoker", target, host, why)]
        case Target.CLOUD_FUNCTIONS:
            return [Grant(caller, "roles/run.invoker", target, host, why)]
        case Target.IAP:
            return [Grant(caller, facts.role, target, host, why)]
        case Target.GOOGLEAPIS:
            return [
                Unknown(why, f"grant {caller} the API's own role: {facts.grant.replace('MEMBER', caller)}")
            ]
        case Target.API_GATEWAY | Target.ENDPOINTS:
            if TokenKind(route.token) is TokenKind.SELF_SIGNED_JWT:
                issuer = f"`{caller.partition(':')[2]}`"
            else:
                issuer = "`https://accounts.google.com`"
            return [Unknown(why, f"no role: its OpenAPI document names the issuer {issuer} and the audience")]
        case Target.OTHER:
            return []


def _on_accounts(
    config: Config, name: str, credential: Credential, kind: TokenKind, member: str
) -> list[Grant]:
    """What each step of acting as another account needs."""
    why = f"credential {name}"
    if isinstance(credential, Impersonate):
        source = config.credentials[credential.source]
        first = _acts_as(config.credentials, source, member)
        chain = [*credential.delegates, credential.service_account]
        # The source's own token is an access token: it calls the IAM Credentials API with it.
        return [
            *_chain(first, chain, kind, why),
            *_on_accounts(config, credential.source, source, TokenKind.ACCESS, member),
        ]
    if isinstance(credential, Gcloud) and credential.service_account is not None:
        first = f"user:{credential.account or 'YOU@EXAMPLE.COM'}"
        return _chain(first, [*credential.delegates, credential.service_account], kind, why)
    if isinstance(credential, WorkloadIdentityFederation):
        account = credential.service_account or "SERVICE_ACCOUNT_OF_THE_FILE"
        federated = _runs_as(credential, member)
        # This role has everything in it that ID tokens and access tokens take.
        return [Grant(federated, FEDERATED, None, account, why)]
    return []


def _chain(first: str, chain: list[str], kind: TokenKind, why: str) -> list[Grant]:
    grants = []
    caller = first
    for account in chain:
        last = account == chain[-1]
        role = OPENID_CREATOR if last and kind is TokenKind.ID else TOKEN_CREATOR
        grants.append(Grant(caller, role, None, account, why))
        caller = f"serviceAccount:{account}"
    return grants


def _gcloud_line(grant: Grant) -> str:
    member = f"'{grant.member}'"
    if grant.target is None:
        text = filled("iam/service-account.sh", account=grant.resource, member=member, role=grant.role)
    elif grant.target is Target.CLOUD_RUN:
        service, region = service_of(grant.resource)
        text = filled("iam/cloud-run.sh", service=service, region=region, member=member, role=grant.role)
    elif grant.target is Target.CLOUD_FUNCTIONS:
        region = _region(grant.resource)
        text = filled("iam/cloud-functions.sh", service="FUNCTION", region=region, member=member)
    else:
        text = filled("iam/iap.sh", service="SERVICE", member=member, role=grant.role)
    return text.rstrip("\n")


def _region(host: str) -> str:
    """Of a function's host, `REGION-PROJECT.cloudfunctions.net`."""
    parts = host.partition(".")[0].split("-")
    return "-".join(parts[:2]) if len(parts) > 2 and not hosts.ip_literal(host) else "REGION"


def _terraform_resource(grant: Grant, labels: set[str]) -> str:
    values = {"role": grant.role, "member": grant.member}
    if grant.target is None:
        file, base = "service-account", grant.resource.partition("@")[0]
        values["account"] = grant.resource
    elif grant.target in (Target.CLOUD_RUN, Target.CLOUD_FUNCTIONS):
        service, region = service_of(grant.resource)
        if grant.target is Target.CLOUD_FUNCTIONS:
            service, region = "FUNCTION", _region(grant.resource)
        file, base = "cloud-run", service
        values |= {"service": service, "region": region}
    else:
        file, base = "iap", grant.resource
        values["service"] = "SERVICE"
    label = _label(file, f"{base}_{grant.role.rpartition('.')[2]}", labels)
    values = {name: _within_hcl(value) for name, value in values.items()}
    return f"# {grant.why}\n{filled(f'iam/{file}.tf', label=label, **values)}".rstrip("\n")


def _label(kind: str, wanted: str, labels: set[str]) -> str:
    """A name in Terraform that no other resource of its kind has."""
    name = "".join(character if character.isalnum() else "_" for character in wanted.lower())
    label, number = name, 1
    while f"{kind}.{label}" in labels:
        number += 1
        label = f"{name}_{number}"
    labels.add(f"{kind}.{label}")
    return label


def _within_hcl(text: str) -> str:
    """Between the quotes of an HCL string, where `${` and `%{` begin an expression."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("${", "$${").replace("%{", "%%{")
