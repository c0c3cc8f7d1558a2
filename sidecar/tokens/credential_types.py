"""What each type of credential file turns into.

Owns the way from a file's `type` to a grant, and the addresses that the configuration puts in place of a file's
own. Called by `adc` and `sources`. Nothing is asked here. The rule: a file's own URLs count where the configuration
has none, except for the impersonation URL, of which the e-mail alone is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final

from sidecar.config.credentials import is_email
from sidecar.tokens.credential_file import invalid, parse, type_of
from sidecar.tokens.federation import FederationGrant, account_in
from sidecar.tokens.grant import Grant, IndirectGrant
from sidecar.tokens.iam_credentials import IamCredentials
from sidecar.tokens.impersonation import ImpersonationGrant
from sidecar.tokens.service_account import KeyGrant
from sidecar.tokens.user import UserGrant, WorkforceGrant

USE_INSTEAD: Final = "Use a service account key, or run on Google Cloud with a service account attached."


class Addresses(NamedTuple):
    """Where to ask, instead of what files and the environment say; see `config.models.Endpoints`. And what programs
    that files name may see of the environment."""

    metadata: str | None = None
    oauth: str | None = None
    sts: str | None = None
    iam_credentials: str | None = None
    programs: Mapping[str, str] = MappingProxyType({})

    def iam(self, universe: str | None = None) -> IamCredentials:
        """The IAM Credentials API, of a universe domain where the configuration names no address."""
        if universe is None:
            return IamCredentials(self.iam_credentials)
        return IamCredentials(self.iam_credentials, universe=universe)


Make = Callable[[Mapping[str, Any], str, Addresses], Grant]
"""From the contents of a credential, its place and the configured addresses to a grant."""


@final
class FileGrant(IndirectGrant):
    """A credential file of whatever type, read again at each fetch.

    What it turns out to be is kept while the file stays the same, with what that found out: an account's e-mail, a
    source's access token.
    """

    def __init__(self, read: Callable[[], str], where: str, make: Make, addresses: Addresses) -> None:
        self._read = read
        self._where = where
        self._make = make
        self._addresses = addresses
        self._known: tuple[str, Grant] | None = None

    def resolved(self) -> Grant:
        """See `Grant.resolved`."""
        text = self._read()
        if self._known is None or self._known[0] != text:
            self._known = text, self._make(parse(text, self._where), self._where, self._addresses)
        return self._known[1]

    def describe(self) -> str:
        """See `Grant.describe`."""
        return self._where if self._known is None else self._known[1].describe()


def grant_of(info: Mapping[str, Any], where: str, addresses: Addresses) -> Grant:
    """What a credential file of any type is; raises CREDENTIAL_INVALID for a type that can't be used."""
    make = _TYPES.get(type_of(info))
    if make is None:
        if type_of(info) == "gdch_service_account":
            invalid(
                where,
                f"it is of type gdch_service_account, for Google Distributed Cloud, whose tokens Google's services do "
                f"not take. {USE_INSTEAD}",
            )
        expected = ", ".join(_TYPES)
        invalid(where, f"it has no `type` that is known (one of {expected}). {USE_INSTEAD}")
    return make(info, where, addresses)


def federation(
    info: Mapping[str, Any], where: str, addresses: Addresses, service_account: str | None = None
) -> Grant:
    """Workload identity federation by a file: as `service_account`, as the one that the file names, or as itself."""
    direct = FederationGrant(
        lambda: json.dumps(info), where, token_url=addresses.sts, programs=addresses.programs
    )
    account = service_account or direct.service_account()
    if account is None:
        return direct
    iam = addresses.iam(_universe(info))
    return ImpersonationGrant(direct, account, iam=iam, ability="workload_identity_federation")


def _key(info: Mapping[str, Any], where: str, addresses: Addresses) -> Grant:
    iam = addresses.iam(_universe(info))
    return KeyGrant(lambda: json.dumps(info), where, token_uri=addresses.oauth, iam=iam)


def _user(info: Mapping[str, Any], where: str, addresses: Addresses) -> Grant:
    return UserGrant(lambda: json.dumps(info), where, token_uri=addresses.oauth)


def _workforce(info: Mapping[str, Any], where: str, addresses: Addresses) -> Grant:
    # Its token endpoint is not the one that exchanges subject tokens: no configured address takes its place.
    return WorkforceGrant(lambda: json.dumps(info), where)


def _impersonated(info: Mapping[str, Any], where: str, addresses: Addresses) -> Grant:
    account = account_in(info, "service_account_impersonation_url", where)
    source, delegates = info.get("source_credentials"), info.get("delegates") or ()
    if account is None or not isinstance(source, dict):
        invalid(where, "it lacks `service_account_impersonation_url` or `source_credentials`.")
    emails = [str(delegate).rpartition("/")[2] for delegate in delegates]
    if not all(is_email(email) for email in emails):
        invalid(where, "its `delegates` are not service accounts.")
    return ImpersonationGrant(
        grant_of(source, f"`source_credentials` of {where}", addresses),
        account,
        iam=addresses.iam(_universe(info)),
        delegates=emails,
    )


_TYPES: Final[dict[str, Make]] = {
    "service_account": _key,
    "authorized_user": _user,
    "external_account": federation,
    "external_account_authorized_user": _workforce,
    "impersonated_service_account": _impersonated,
}


_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")


def _universe(info: Mapping[str, Any]) -> str | None:
    found = info.get("universe_domain")
    return found if isinstance(found, str) and _DOMAIN.fullmatch(found) else None
