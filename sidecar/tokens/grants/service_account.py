"""Tokens for a service account, made with its key.

Owns the checking and use of a key. Called by `GoogleSource`, in a worker thread, and by `credential_types`. It does
not keep a key between two fetches, so that a replaced file counts from the next fetch on. The rule: the assertion
goes to the configured token endpoint or the key's own `token_uri`, over TLS or to loopback; a self-signed JWT is made
without a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from sidecar.config.credentials import is_email
from sidecar.config.targets import CLOUD_PLATFORM
from sidecar.tokens.credential_file import (
    host_of,
    invalid,
    is_project,
    parse,
    refuse_type,
    require,
    require_safe_url,
)
from sidecar.tokens.fetch.endpoint import NETWORK, Endpoint, Protocol
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import (
    Fetched,
    Grant,
    access_token_in,
    id_token_in,
    refresh,
    self_signed_claims,
)
from sidecar.tokens.grants.iam_credentials import IamCredentials
from sidecar.tokens.miswritten import unusable_key
from sidecar.tokens.universe import DEFAULT_UNIVERSE, universe_in

_FIELDS: Final = ("client_email", "private_key", "token_uri")
_AGAIN: Final = "Download the key again."
_TOKEN_LIFE: Final = 3600.0


@final
class KeyGrant(Grant):
    """A service account key, in a file or given as text."""

    ability = "service_account_key"

    def __init__(
        self,
        read: Callable[[], str],
        where: str,
        *,
        token_uri: str | None = None,
        iam: IamCredentials | None = None,
        quota_project: str | None = None,
    ) -> None:
        """`read` returns the text of the key, blocking, or raises `SidecarError`. `where` names its place.
        `token_uri` replaces the key's own. `iam` is the API for keys of another universe domain. `quota_project`
        is charged for calls with its access token.
        """
        self._read = read
        self._where = where
        self._token_uri = token_uri
        self._iam = iam or IamCredentials()
        self._quota_project = quota_project

    def describe(self) -> str:
        """See `Grant.describe`."""
        return f"service account key in {self._where}"

    def known_email(self) -> str | None:
        """See `Grant.known_email`."""
        email: str = self._info()["client_email"]
        return email

    def project(self, flight: Flight) -> str | None:
        """See `Grant.project`; the key's own."""
        found = self._info().get("project_id")
        return found if isinstance(found, str) and is_project(found) else super().project(flight)

    def known_universe(self) -> str | None:
        """See `Grant.known_universe`."""
        return universe_in(parse(self._read(), self._where), self._where) or DEFAULT_UNIVERSE

    def check(self) -> None:
        """See `Grant.check`: IAM issues the ID tokens for a key of another universe."""
        self._iam.base(self.known_universe() or DEFAULT_UNIVERSE)

    def look(self) -> bool:
        """See `Grant.look`; checks that the key can sign."""
        self._signer(self._info())
        return True

    def id_token(self, flight: Flight, audience: str) -> Fetched:
        """See `Grant.id_token`."""
        info = self._info()
        universe = self._universe(info)
        if universe != DEFAULT_UNIVERSE:
            bearer = self._self_signed(flight, info, {"scope": CLOUD_PLATFORM})
            email = info["client_email"]
            return self._iam.generate_id_token(
                flight, bearer, email, audience, universe=universe, caller=f"serviceAccount:{email}"
            )
        from google.oauth2.service_account import IDTokenCredentials

        credentials = self._usable(
            info,
            lambda: IDTokenCredentials.from_service_account_info(  # type: ignore[no-untyped-call]
                info, target_audience=audience
            ),
        )
        endpoint = self._endpoint(info)
        return id_token_in(refresh(credentials, flight.open(endpoint, proxies=True), endpoint), endpoint)

    def access_token(self, flight: Flight, scopes: Sequence[str]) -> Fetched:
        """See `Grant.access_token`."""
        info = self._info()
        if self._universe(info) != DEFAULT_UNIVERSE:
            # Other universes have no such grant: a self-signed JWT with scopes is the access token (AIP-4111).
            return self._self_signed(flight, info, {"scope": " ".join(scopes)})
        from google.oauth2.service_account import Credentials

        credentials = self._usable(
            info,
            lambda: Credentials.from_service_account_info(info, scopes=list(scopes)),  # type: ignore[no-untyped-call]
        )
        endpoint = self._endpoint(info)
        answer = refresh(credentials, flight.open(endpoint, proxies=True), endpoint)
        return access_token_in(answer, endpoint, quota_project=self._quota_project)

    def self_signed_jwt(self, flight: Flight, audience: str) -> Fetched:
        """See `Grant.self_signed_jwt`."""
        return self._self_signed(flight, self._info(), {"aud": audience})

    def _info(self) -> Mapping[str, Any]:
        info = {**parse(self._read(), self._where)}
        if self._token_uri is not None:
            info["token_uri"] = self._token_uri
        check_key(info, self._where)
        return info

    def _universe(self, info: Mapping[str, Any]) -> str:
        return universe_in(info, self._where) or DEFAULT_UNIVERSE

    def _endpoint(self, info: Mapping[str, Any]) -> Endpoint:
        return Endpoint(
            f"the token endpoint at {host_of(info['token_uri'])}",
            Protocol.OAUTH,
            f"service account {info['client_email']}",
            NETWORK,
            account=info["client_email"],
        )

    def _self_signed(self, flight: Flight, info: Mapping[str, Any], target: Mapping[str, str]) -> Fetched:
        from google.auth import jwt

        email = info["client_email"]
        endpoint = Endpoint(f"the key in {self._where}", Protocol.LOCAL, f"service account {email}", "")
        claims = self_signed_claims(email, "", flight.clock.wall())
        del claims["aud"]
        value: bytes = jwt.encode(self._signer(info), {**claims, **target})  # type: ignore[no-untyped-call]
        return Fetched(
            value.decode("ascii"), endpoint, expires_in=_TOKEN_LIFE, quota_project=self._quota_project
        )

    def _signer(self, info: Mapping[str, Any]) -> Any:
        from google.auth import crypt

        return self._usable(
            info,
            lambda: crypt.RSASigner.from_service_account_info(info),  # type: ignore[no-untyped-call]
        )

    def _usable(self, info: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        made = None
        try:
            made = make()
        except Exception:  # noqa: BLE001,S110 - cryptography has many kinds of errors; their texts may quote the key
            pass
        if made is None:
            invalid(self._where, f"{unusable_key(info['private_key'])}. {_AGAIN}")
        return made


def check_key(info: Mapping[str, Any], where: str) -> None:
    """Raise CREDENTIAL_INVALID unless this is a service account key with a permitted token endpoint."""
    if info.get("type", "service_account") != "service_account":
        refuse_type(info, where, "a service account key")
    require(info, _FIELDS, where, _AGAIN)
    if not is_email(info["client_email"]):
        invalid(where, "its `client_email` is not an e-mail address.")
    require_safe_url(info, "token_uri", where)
