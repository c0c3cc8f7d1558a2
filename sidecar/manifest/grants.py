"""The IAM grants that the routes of a configuration need, as gcloud lines or as Terraform.

Owns the derivation: the invoker's role on each target, and for each impersonation the role that permits it. No grant
is wider than one resource. Sources: `config.targets.FACTS`,
https://cloud.google.com/iam/docs/service-account-permissions (OpenID Connect Identity Token Creator, Service Account
Token Creator), https://cloud.google.com/iam/docs/workload-identity-federation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sidecar.config.checks import targets_of
from sidecar.config.credentials import Credential, Gcloud, Impersonate, WorkloadIdentityFederation
from sidecar.config.models import Config, RouteConfig
from sidecar.config.targets import FACTS, Target, TokenKind, service_of
from sidecar.grammar import hosts
from sidecar.manifest.plan import ManifestError
from sidecar.manifest.templates import filled

OPENID_CREATOR: Final = "roles/iam.serviceAccountOpenIdTokenCreator"
TOKEN_CREATOR: Final = "roles/iam.serviceAccountTokenCreator"
FEDERATED: Final = "roles/iam.workloadIdentityUser"


class RoleGrant(NamedTuple):
    """One role on one resource, for one member."""

    member: str
    role: str
    target: Target | None
    """The kind of target; None for a service account."""
    resource: str
    """The service account's e-mail; for a target, the name of its service or function."""
    why: str
    """The route or credential that needs it."""
    region: str = ""
    """Where a service or function runs."""
    resource_type: str = ""
    """The kind of resource behind IAP."""


class Unknown(NamedTuple):
    """Access that is needed and can't be granted by a role here."""

    why: str
    what: str


@dataclass(frozen=True)
class Known:
    """Facts that the configuration lacks, as the user stated them: by route or credential, or under "" for all."""

    member: str | None = None
    """The identity of the process, such as `serviceAccount:my-app@p.iam.gserviceaccount.com`."""
    principals: Mapping[str, str] = field(default_factory=dict)
    """The identity of a credential by itself."""
    services: Mapping[str, str] = field(default_factory=dict)
    regions: Mapping[str, str] = field(default_factory=dict)
    resource_types: Mapping[str, str] = field(default_factory=dict)


Found = tuple[list[RoleGrant], list[Unknown]]


def needed(config: Config, known: Known) -> Found:
    """Every grant once. Raises ManifestError with all missing facts, and the option for each."""
    derivation = _Derivation(config, known)
    for route in config.routes:
        derivation.add(route)
    if derivation.missing:
        options = "\n  ".join(dict.fromkeys(derivation.missing))
        raise ManifestError(
            f"the configuration does not tell all that the grants need. Give it:\n  {options}"
        )
    return list(derivation.grants.values()), list(dict.fromkeys(derivation.unknown))


def as_gcloud(config: Config, known: Known) -> str:
    """A complete shell script of gcloud lines. Raises ManifestError."""
    grants, unknown = needed(config, known)
    lines = [
        "# What the routes of this configuration need, and nothing more. A new grant takes some minutes.",
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


def as_terraform(config: Config, known: Known) -> str:
    """Complete Terraform resources of the google provider. Raises ManifestError."""
    grants, unknown = needed(config, known)
    labels: set[str] = set()
    parts = ["# What the routes of this configuration need, and nothing more."]
    parts += [_terraform_resource(grant, labels) for grant in grants]
    parts += [f"# {item.why}: {item.what}" for item in unknown]
    return "\n\n".join(parts) + "\n"


class _Derivation:
    """Derives grants from routes. Missing facts are collected, so that all are reported at once."""

    def __init__(self, config: Config, known: Known) -> None:
        self._config = config
        self._known = known
        self.grants: dict[tuple[str, str, str, str], RoleGrant] = {}
        self.unknown: list[Unknown] = []
        self.missing: list[str] = []

    def add(self, route: RouteConfig) -> None:
        """The grants of one route."""
        credential = self._config.credentials[route.credential]
        kind = TokenKind(route.token)
        for host, target in targets_of(route).items():
            if target is not Target.OTHER:
                self._on_target(route, target, host, self._acts_as(route.credential))
        self._on_accounts(route.credential, credential, kind)

    def _grant(self, grant: RoleGrant) -> None:
        self.grants.setdefault((grant.member, grant.role, grant.resource, grant.region), grant)

    def _acts_as(self, name: str) -> str:
        """The identity that a target sees."""
        credential = self._config.credentials[name]
        if isinstance(credential, Impersonate):
            return f"serviceAccount:{credential.service_account}"
        if isinstance(credential, WorkloadIdentityFederation):
            return f"serviceAccount:{self._federated_account(name, credential)}"
        if isinstance(credential, Gcloud) and credential.service_account is not None:
            return f"serviceAccount:{credential.service_account}"
        return self._runs_as(name)

    def _federated_account(self, name: str, credential: WorkloadIdentityFederation) -> str:
        if credential.service_account is None:
            self.missing.append(
                f"`service_account` of credential {name} in the configuration: the one in its file"
            )
        return credential.service_account or ""

    def _runs_as(self, name: str) -> str:
        """The identity of a credential by itself."""
        if (said := self._known.principals.get(name)) is not None:
            return said
        credential = self._config.credentials[name]
        account = getattr(credential, "account", None)
        sample = "serviceAccount:my-app@my-project.iam.gserviceaccount.com"
        match credential.type:
            case "metadata" if account not in (None, "default"):
                return f"serviceAccount:{account}"
            case "metadata" | "adc":
                if self._known.member is None:
                    self.missing.append(f"--member PRINCIPAL: who the sidecar runs as, such as {sample}")
                return self._known.member or ""
            case "user" | "gcloud":
                if account is not None:
                    return f"user:{account}"
                sample = "user:you@example.com"
            case "workload_identity_federation":
                sample = "principalSet://iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/*"
        self.missing.append(f"--principal {name}=PRINCIPAL: who credential {name} is, such as {sample}")
        return ""

    def _said(self, option: str, said: Mapping[str, str], route: str, what: str) -> str:
        value = said.get(route, said.get(""))
        if value is None:
            self.missing.append(f"--{option} {route}=VALUE: {what} (or --{option} VALUE for all routes)")
        return value or ""

    def _on_target(self, route: RouteConfig, target: Target, host: str, caller: str) -> None:
        facts = FACTS[target]
        why = f"route {route.name}: {facts.title}"
        match target:
            case Target.CLOUD_RUN | Target.CLOUD_FUNCTIONS:
                service, region = self._place(route, target, host)
                self._grant(RoleGrant(caller, "roles/run.invoker", target, service, why, region=region))
            case Target.IAP:
                service = self._said(
                    "service", self._known.services, route.name, f"what serves {host} behind IAP"
                )
                types = "backend-services, app-engine, …: what IAP is in front of there"
                kind = self._said("resource-type", self._known.resource_types, route.name, types)
                self._grant(RoleGrant(caller, facts.role, target, service, why, resource_type=kind))
            case Target.GOOGLEAPIS:
                grant = facts.grant.replace("MEMBER", caller)
                self.unknown.append(Unknown(why, f"grant {caller} the API's own role: {grant}"))
            case Target.API_GATEWAY | Target.ENDPOINTS:
                issuer = "`https://accounts.google.com`"
                if TokenKind(route.token) is TokenKind.SELF_SIGNED_JWT:
                    issuer = f"`{caller.partition(':')[2]}`"
                what = f"no role: its OpenAPI document names the issuer {issuer} and the audience"
                self.unknown.append(Unknown(why, what))

    def _place(self, route: RouteConfig, target: Target, host: str) -> tuple[str, str]:
        """Name and region of a service or function: as stated, or else from its host."""
        told = (None, _region(host)) if target is Target.CLOUD_FUNCTIONS else _told(host)
        what = "function" if target is Target.CLOUD_FUNCTIONS else "service"
        service, region = told
        # What the host tells is right for its route; a value for all routes is for the others.
        services, regions = self._known.services, self._known.regions
        if service is None or route.name in services:
            service = self._said("service", services, route.name, f"the name of the {what} at {host}")
        if region is None or route.name in regions:
            region = self._said("region", regions, route.name, f"where the {what} at {host} runs")
        return service, region

    def _on_accounts(self, name: str, credential: Credential, kind: TokenKind) -> None:
        """The grants that each impersonation needs."""
        why = f"credential {name}"
        if isinstance(credential, Impersonate):
            chain = [*credential.delegates, credential.service_account]
            self._chain(self._acts_as(credential.source), chain, kind, why)
            # The source's own token is an access token: it calls the IAM Credentials API with it.
            source = self._config.credentials[credential.source]
            self._on_accounts(credential.source, source, TokenKind.ACCESS)
        elif isinstance(credential, Gcloud) and credential.service_account is not None:
            self._chain(self._runs_as(name), [*credential.delegates, credential.service_account], kind, why)
        elif isinstance(credential, WorkloadIdentityFederation):
            account = self._federated_account(name, credential)
            # This role has everything in it that ID tokens and access tokens take.
            self._grant(RoleGrant(self._runs_as(name), FEDERATED, None, account, why))

    def _chain(self, first: str, chain: list[str], kind: TokenKind, why: str) -> None:
        caller = first
        for account in chain:
            last = account == chain[-1]
            role = OPENID_CREATOR if last and kind is TokenKind.ID else TOKEN_CREATOR
            self._grant(RoleGrant(caller, role, None, account, why))
            caller = f"serviceAccount:{account}"


def _told(host: str) -> tuple[str | None, str | None]:
    """Name and region of a Cloud Run service, as far as its host shows them."""
    service, region = service_of(host)
    return None if service == "SERVICE" else service, None if region == "REGION" else region


def _region(host: str) -> str | None:
    """The region in a function's host, `REGION-PROJECT.cloudfunctions.net`."""
    parts = host.partition(".")[0].split("-")
    return "-".join(parts[:2]) if len(parts) > 2 and not hosts.ip_literal(host) else None


def _gcloud_line(grant: RoleGrant) -> str:
    values = {"member": f"'{grant.member}'"}
    if grant.target is not Target.CLOUD_FUNCTIONS:
        values["role"] = grant.role
    return filled(f"iam/{_FILES[grant.target]}.sh", **values, **_place_of(grant)).rstrip("\n")


def _terraform_resource(grant: RoleGrant, labels: set[str]) -> str:
    # A function of the second generation is a Cloud Run service, and what lets one in is the same.
    file = "cloud-run" if grant.target is Target.CLOUD_FUNCTIONS else _FILES[grant.target]
    values = {"role": grant.role, "member": grant.member, **_place_of(grant)}
    values.pop("resource_type", None)
    base = grant.resource.partition("@")[0]
    label = _label(file, f"{base}_{grant.role.rpartition('.')[2]}", labels)
    values = {name: _within_hcl(value) for name, value in values.items()}
    return f"# {grant.why}\n{filled(f'iam/{file}.tf', label=label, **values)}".rstrip("\n")


_FILES: Final = {
    None: "service-account",
    Target.CLOUD_RUN: "cloud-run",
    Target.CLOUD_FUNCTIONS: "cloud-functions",
    Target.IAP: "iap",
}
"""The template of a grant on each kind of resource."""


def _place_of(grant: RoleGrant) -> dict[str, str]:
    match grant.target:
        case None:
            return {"account": grant.resource}
        case Target.IAP:
            return {"service": grant.resource, "resource_type": grant.resource_type}
    return {"service": grant.resource, "region": grant.region}


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
    """Text between the quotes of an HCL string, where `${` and `%{` begin an expression."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("${", "$${").replace("%{", "%%{")
