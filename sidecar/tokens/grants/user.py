"""Tokens of a person who has logged in with gcloud.

Owns the use of `authorized_user` files and of workforce logins. Called by `GoogleSource`, in a worker thread, and by
`adc`. The rule: the refresh token goes to the configured token endpoint or Google's own, over TLS or to loopback; the
`token_uri` in a file is ignored for a person's login, as in google-auth. A person's ID token is for the client id of
the login, whatever the audience.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from sidecar.config.targets import CLOUD_PLATFORM
from sidecar.errors import Reason, SidecarError
from sidecar.tokens.credential_file import (
    host_of,
    parse,
    quota_project_in,
    refuse_type,
    require,
    require_safe_url,
)
from sidecar.tokens.fetch.endpoint import NETWORK, Answer, Endpoint, Protocol
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import Fetched, Grant, access_token_in, id_token_in, json_object, refresh
from sidecar.tokens.universe import DEFAULT_UNIVERSE, filled_in, refuse_mix, universe_at, universe_in

TOKEN_URI: Final = "https://oauth2.googleapis.com/token"
LOGIN: Final = "gcloud auth application-default login"
_WITH_OPENID: Final = (
    f"{LOGIN} --scopes=openid,https://www.googleapis.com/auth/userinfo.email,{CLOUD_PLATFORM}"
)
_FIELDS: Final = ("client_id", "client_secret", "refresh_token")


@final
class UserGrant(Grant):
    """An `authorized_user` file."""

    ability = "user"

    def __init__(
        self,
        read: Callable[[], str],
        where: str,
        *,
        token_uri: str | None = None,
        quota_project: str | None = None,
        login: str = LOGIN,
    ) -> None:
        """`quota_project` overrides the file's own. `login` is the command that writes the file again."""
        self._read = read
        self._where = where
        self._token_uri = token_uri or TOKEN_URI
        self._quota_project = quota_project
        self._login = login

    def describe(self) -> str:
        """See `Grant.describe`."""
        return f"a person's login in {self._where}"

    def known_universe(self) -> str | None:
        """See `Grant.known_universe`."""
        return universe_in(parse(self._read(), self._where), self._where) or DEFAULT_UNIVERSE

    def project(self, flight: Flight) -> str | None:
        """See `Grant.project`: the project that is charged for its calls."""
        return self._quota_project or quota_project_in(self._info())

    def check(self) -> None:
        """See `Grant.check`: other universes have no such logins (google-auth refuses them too)."""
        universe = self.known_universe()
        if universe != DEFAULT_UNIVERSE:
            refuse_mix(
                f"The login in {self._where}",
                str(universe),
                DEFAULT_UNIVERSE,
                "every login of a Google account",
            )

    def id_token(self, flight: Flight, audience: str) -> Fetched:
        """See `Grant.id_token`; it is for the login's client id."""
        answer, endpoint, _ = self._refreshed(flight)
        found = json_object(answer)
        # Where there is no access token either, it is not the login's scopes that are at fault, but what answers.
        if isinstance(found.get("access_token"), str) and not isinstance(found.get("id_token"), str):
            raise SidecarError(
                Reason.CREDENTIAL_MISMATCH,
                f"The login in {self._where} gives access tokens and no ID token: its scopes lack `openid`. Log in "
                f"again with `{_WITH_OPENID}`.",
                command=_WITH_OPENID,
            )
        return id_token_in(answer, endpoint)

    def access_token(self, flight: Flight, scopes: Sequence[str]) -> Fetched:
        """See `Grant.access_token`; it has the scopes that the login was given."""
        answer, endpoint, info = self._refreshed(flight)
        return access_token_in(answer, endpoint, quota_project=self._quota_project or quota_project_in(info))

    def look(self) -> bool:
        """See `Grant.look`."""
        self._info()
        return True

    def _info(self) -> Mapping[str, Any]:
        info = parse(self._read(), self._where)
        if info.get("type") != "authorized_user":
            refuse_type(info, self._where, "a person's login")
        require(info, _FIELDS, self._where, f"Log in again with `{self._login}`.")
        self.check()
        return info

    def _refreshed(self, flight: Flight) -> tuple[Answer, Endpoint, Mapping[str, Any]]:
        info = self._info()
        from google.oauth2.credentials import Credentials

        credentials = Credentials.from_authorized_user_info(info).with_token_uri(self._token_uri)  # type: ignore[no-untyped-call]
        endpoint = Endpoint(
            f"the token endpoint at {host_of(self._token_uri)}",
            Protocol.LOGIN,
            f"the login in {self._where}",
            NETWORK,
            login=self._login,
        )
        return refresh(credentials, flight.open(endpoint, proxies=True), endpoint), endpoint, info


@final
class WorkforceGrant(Grant):
    """An `external_account_authorized_user` file: a person's login by another identity provider."""

    ability = "workforce"

    def __init__(
        self, read: Callable[[], str], where: str, *, quota_project: str | None = None, login: str = LOGIN
    ) -> None:
        """`quota_project` overrides the file's own. `login` is the command that writes the file again."""
        self._read = read
        self._where = where
        self._quota_project = quota_project
        self._login = f"{login} --login-config=FILE"

    def describe(self) -> str:
        """See `Grant.describe`."""
        return f"a workforce login in {self._where}"

    def known_universe(self) -> str | None:
        """See `Grant.known_universe`; raises CREDENTIAL_MISMATCH if the file's `token_url` belongs to another one."""
        info = parse(self._read(), self._where)
        universe = universe_in(info, self._where) or DEFAULT_UNIVERSE
        if universe != DEFAULT_UNIVERSE and universe_at(info.get("token_url")) == DEFAULT_UNIVERSE:
            refuse_mix(f"The login in {self._where}", universe, DEFAULT_UNIVERSE, "its `token_url`")
        return universe

    def check(self) -> None:
        """See `Grant.check`."""
        self.known_universe()

    def look(self) -> bool:
        """See `Grant.look`."""
        self._info()
        return True

    def _info(self) -> Mapping[str, Any]:
        info = {**parse(self._read(), self._where)}
        require(info, (*_FIELDS, "token_url"), self._where, f"Log in again with `{self._login}`.")
        info["token_url"] = filled_in(info["token_url"], str(self.known_universe()))
        require_safe_url(info, "token_url", self._where)
        return info

    def access_token(self, flight: Flight, scopes: Sequence[str]) -> Fetched:
        """See `Grant.access_token`."""
        info = self._info()
        from google.auth.external_account_authorized_user import Credentials

        credentials = Credentials.from_info(info)  # type: ignore[no-untyped-call]
        endpoint = Endpoint(
            f"the token endpoint at {host_of(info['token_url'])}",
            Protocol.LOGIN,
            f"the login in {self._where}",
            NETWORK,
            login=self._login,
        )
        return access_token_in(
            refresh(credentials, flight.open(endpoint, proxies=True), endpoint),
            endpoint,
            quota_project=self._quota_project or quota_project_in(info),
        )
