"""Which credential can give which token for which target.

Owns the table behind the checks of the configuration, the refusals at run time (for `adc` and `gcloud`), and the
matrix of docs/targets.md. Pure. A refusal says why, and what would work. Sources: ../targets for what a target takes;
google-auth's classes and the IAM Credentials API for what a credential gives.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sidecar.config import credentials as types
from sidecar.config.targets import FACTS, Target, TokenKind

ID, ACCESS, SELF_SIGNED = TokenKind


SERVICE_ACCOUNT_DOMAIN: Final = ".gserviceaccount.com"


class Abilities(NamedTuple):
    """What one kind of credential gives."""

    title: str
    """How a configuration names it, in the words of a message."""
    cannot: dict[TokenKind, str]
    """Kinds of token that it can't give, with the reason."""
    person: bool = False
    """Whether its ID tokens are a person's: for gcloud's client id, whatever audience is asked for."""


_NO_EXPIRY: Final = "an access token does not say when it expires, so it can't be taken from elsewhere"
_AS_IT_IS: Final = "a JWT that comes ready is sent as it is: use `token: id` for it"
_NO_KEY: Final = "a person has no key to sign with"

ABILITIES: Final[dict[str, Abilities]] = {
    "metadata": Abilities("metadata", {}),
    "service_account_key": Abilities("service_account_key", {}),
    "impersonate": Abilities("impersonate", {}),
    "workload_identity_federation": Abilities("workload_identity_federation", {}),
    "federated": Abilities(
        "workload_identity_federation without a `service_account`",
        {
            ID: "a federated identity has no ID token of Google's: set `service_account`, which it is to act as",
            SELF_SIGNED: "a federated identity has no key of Google's: set `service_account`, which it is to act as",
        },
    ),
    "workforce": Abilities(
        "adc with a workforce login",
        {
            ID: "a workforce login has no ID token of Google's: put `impersonate` on top of it",
            SELF_SIGNED: _NO_KEY,
        },
    ),
    "user": Abilities("user", {SELF_SIGNED: _NO_KEY}, person=True),
    "gcloud": Abilities(
        "gcloud with a service account", {SELF_SIGNED: "the gcloud command does not sign JWTs for others"}
    ),
    "gcloud_person": Abilities("gcloud with a person's account", {SELF_SIGNED: _NO_KEY}, person=True),
    "file": Abilities("file", {ACCESS: _NO_EXPIRY, SELF_SIGNED: _AS_IT_IS}),
    "static": Abilities("static", {ACCESS: _NO_EXPIRY, SELF_SIGNED: _AS_IT_IS}),
}
"""By what a credential turns out to be. `adc` is not here: it turns out to be one of these."""


def ability_of(credential: types.Credential) -> str | None:
    """The kind of a credential, as far as the configuration shows it; None if its file or gcloud decides."""
    match credential:
        case types.Adc() | types.WorkloadIdentityFederation(service_account=None):
            return None
        case types.Gcloud():
            if credential.service_account is not None:
                return "gcloud"
            if credential.account is None:
                return None
            return "gcloud" if credential.account.endswith(SERVICE_ACCOUNT_DOMAIN) else "gcloud_person"
    return credential.type


def refusal(ability: str, kind: TokenKind, target: Target) -> str | None:
    """Why this combination can't work and which can, in one sentence; None where it works."""
    why = _why(ability, kind, target)
    if why is None:
        return None
    others = [f"`token: {other}`" for other in TokenKind if _why(ability, other, target) is None]
    if others:
        return f"{why}; what works here is {' or '.join(others)}"
    able = [
        f"`{abilities.title}`"
        for name, abilities in ABILITIES.items()
        if any(_why(name, other, target) is None for other in TokenKind)
    ]
    return f"{why}; these credentials can serve this target: {', '.join(able)}"


def cannot_give(ability: str, kind: TokenKind, *, persons: bool) -> str | None:
    """Why this credential can't give this kind of token, whatever target; None where it can.

    `persons` says whether a person's ID token will do.
    """
    abilities = ABILITIES[ability]
    if why := abilities.cannot.get(kind):
        return why
    if abilities.person and kind is ID and not persons:
        return _PERSON
    return None


_PERSON: Final = (
    "the ID token of a person is for gcloud's client id, whatever audience is wanted: only Cloud Run and functions "
    "take that, and a wildcard, which would send it to every host, has to say `wildcard_audience: shared`. Put an "
    "`impersonate` credential on top of it, or use a service account"
)


def _why(ability: str, kind: TokenKind, target: Target) -> str | None:
    facts = FACTS[target]
    if kind not in facts.kinds:
        return _NOT_TAKEN[kind, target]
    return cannot_give(ability, kind, persons=facts.persons)


_NOT_TAKEN: Final[dict[tuple[TokenKind, Target], str]] = {
    (ID, Target.GOOGLEAPIS): "Google APIs take no ID tokens",
    **{
        (ACCESS, target): f"{FACTS[target].title}: access tokens are not taken"
        for target in (
            *(Target.CLOUD_RUN, Target.CLOUD_FUNCTIONS, Target.IAP),
            *(Target.API_GATEWAY, Target.ENDPOINTS),
        )
    },
    (
        ACCESS,
        Target.OTHER,
    ): "anyone who has an access token can use it against Google's APIs, so it goes to these only: "
    "set `target: googleapis` if that is what answers at this upstream",
    (SELF_SIGNED, Target.CLOUD_RUN): "Cloud Run takes no self-signed JWTs",
    (SELF_SIGNED, Target.CLOUD_FUNCTIONS): "Cloud Run functions take no self-signed JWTs",
}
