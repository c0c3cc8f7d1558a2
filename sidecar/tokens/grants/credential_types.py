"""Makes a grant from each type of credential file.

Owns the choice of a grant by a file's `type`, and the configured addresses that replace a file's own. Called by `adc`
and `sources`. It makes no calls. The rule: a file's own URLs count unless the configuration has others. Only the
e-mail of the impersonation URL is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final
from urllib.parse import unquote

from sidecar.config.credentials import is_email
from sidecar.grammar.terminal import command
from sidecar.tokens.credential_file import invalid, parse, quota_project_in, refuse_other_kinds, type_of
from sidecar.tokens.fetch.grant import Grant, IndirectGrant
from sidecar.tokens.grants.federation import FederationGrant, account_named
from sidecar.tokens.grants.iam_credentials import IamCredentials
from sidecar.tokens.grants.impersonation import ImpersonationGrant
from sidecar.tokens.grants.service_account import KeyGrant
from sidecar.tokens.grants.user import LOGIN, UserGrant, WorkforceGrant
from sidecar.tokens.miswritten import USE_INSTEAD
from sidecar.tokens.universe import DEFAULT_UNIVERSE, refuse_mix, universe_at, universe_in


class Addresses(NamedTuple):
    """The endpoints to use instead of those in files and the environment; see `config.models.Endpoints`. Also which
    variables programs named by files may see.
    """

    metadata: str | None = None
    oauth: str | None = None
    sts: str | None = None
    iam_credentials: str | None = None
    programs: Mapping[str, str] = MappingProxyType({})
    quota_project: str | None = None
    """The project that is charged for calls with the credential's access tokens, instead of the one in its file."""
    login: str = LOGIN
    """The command that writes the file again, for a file that is or contains a person's login."""

    def iam(self) -> IamCredentials:
        """The IAM Credentials API."""
        return IamCredentials(self.iam_credentials)


Make = Callable[[Mapping[str, Any], str, Addresses], Grant]
"""Makes a grant from a credential's contents, its place and the configured addresses."""


@final
class FileGrant(IndirectGrant):
    """A credential file of any type, read again at each fetch.

    Its grant is kept while the file stays the same, with what it has learnt: an account's e-mail, a source's access
    token.
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
    """The grant for a credential file of any type; raises CREDENTIAL_INVALID for a type that can't be used."""
    make = _TYPES.get(type_of(info))
    if make is None:
        refuse_other_kinds(info, where)
        expected = ", ".join(_TYPES)
        invalid(where, f"it has no `type` that is known (one of {expected}). {USE_INSTEAD}")
    return make(info, where, addresses)


def federation(
    info: Mapping[str, Any], where: str, addresses: Addresses, service_account: str | None = None
) -> Grant:
    """Workload identity federation with a file: as `service_account`, as the account that the file names, or as the
    federated identity itself.
    """
    direct = FederationGrant(
        lambda: json.dumps(info),
        where,
        token_url=addresses.sts,
        programs=addresses.programs,
        quota_project=addresses.quota_project,
    )
    account = service_account or direct.service_account()
    if account is None:
        return direct
    return ImpersonationGrant(
        direct,
        account,
        iam=addresses.iam(),
        ability="workload_identity_federation",
        quota_project=addresses.quota_project or quota_project_in(info),
    )


def _key(info: Mapping[str, Any], where: str, addresses: Addresses) -> Grant:
    return KeyGrant(
        lambda: json.dumps(info),
        where,
        token_uri=addresses.oauth,
        iam=addresses.iam(),
        quota_project=addresses.quota_project,
    )


def _user(info: Mapping[str, Any], where: str, addresses: Addresses) -> Grant:
    return UserGrant(
        lambda: json.dumps(info),
        where,
        token_uri=addresses.oauth,
        quota_project=addresses.quota_project,
        login=addresses.login,
    )


def _workforce(info: Mapping[str, Any], where: str, addresses: Addresses) -> Grant:
    # Its token endpoint is not the one that exchanges subject tokens: no configured address takes its place.
    return WorkforceGrant(
        lambda: json.dumps(info), where, quota_project=addresses.quota_project, login=addresses.login
    )


def _impersonated(info: Mapping[str, Any], where: str, addresses: Addresses) -> Grant:
    url, source, delegates = (
        info.get("service_account_impersonation_url"),
        info.get("source_credentials"),
        info.get("delegates") or (),
    )
    account, emails = account_named(url), [str(delegate).rpartition("/")[2] for delegate in delegates]
    again = _impersonated_login(account, emails)
    advice = f"Log in again with `{again or _impersonated_login(None, ())}`."
    if url is None or not isinstance(source, dict):
        invalid(
            where,
            f"it lacks `service_account_impersonation_url` or `source_credentials`. {advice}",
            command=again,
        )
    if account is None or not is_email(account):
        invalid(
            where,
            "its `service_account_impersonation_url` names no service account by its e-mail (a numeric ID or an "
            f"escaped `@` is none). {advice}",
            command=again,
        )
    if not all(is_email(email) for email in emails):
        invalid(where, f"its `delegates` are not service accounts. {advice}", command=again)
    inner = grant_of(
        source,
        f"`source_credentials` of {where}",
        # A plain login would write another type of file over this one.
        addresses._replace(quota_project=None, login=again or LOGIN),
    )
    _refuse_other_universe(info, where, inner)
    return ImpersonationGrant(
        inner,
        account,
        iam=addresses.iam(),
        delegates=emails,
        quota_project=addresses.quota_project or quota_project_in(info),
    )


def _impersonated_login(account: str | None, delegates: Sequence[str]) -> str:
    """The command that writes an `impersonated_service_account` file for the account in an impersonation URL. It has
    a placeholder if the account is unknown, and is empty if there is a delegate.
    """
    account = unquote(account or "")
    chain = [*delegates, account if is_email(account) else "SERVICE_ACCOUNT_EMAIL"]
    if not all(is_email(delegate) for delegate in delegates):
        return ""
    return command(*LOGIN.split(), f"--impersonate-service-account={','.join(chain)}")


def _refuse_other_universe(info: Mapping[str, Any], where: str, source: Grant) -> None:
    """Raise CREDENTIAL_MISMATCH if the file or its URL names another universe than its source, which counts."""
    universe = source.known_universe() or DEFAULT_UNIVERSE
    for said, what in (
        (universe_in(info, where), "its own `universe_domain`"),
        (
            universe_at(info.get("service_account_impersonation_url")),
            "its `service_account_impersonation_url`",
        ),
    ):
        if said not in (None, universe):
            refuse_mix(f"`source_credentials` of {where}", universe, str(said), what)


_TYPES: Final[dict[str, Make]] = {
    "service_account": _key,
    "authorized_user": _user,
    "external_account": federation,
    "external_account_authorized_user": _workforce,
    "impersonated_service_account": _impersonated,
}
