"""The IAM Credentials API: tokens for a service account, for callers that may act as it.

Owns the three calls that we make ourselves: generateIdToken, generateAccessToken, signJwt. Called by the grants, in
worker threads, with their access token. google-auth's class for impersonated ID tokens accepts neither a deadline nor
an endpoint. The rule: the e-mail is in every ID token; one POST, no retry; the bearer goes only to this API's host in
the bearer's own universe. Source:
https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import quote

from sidecar.grammar.moments import from_rfc3339
from sidecar.tokens.credential_file import host_of
from sidecar.tokens.fetch.endpoint import NETWORK, Answer, Endpoint, Protocol, not_a_token
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import Fetched, id_token_in, json_object, life_said, self_signed_claims
from sidecar.tokens.universe import DEFAULT_UNIVERSE, refuse_mix, universe_at

_ACCESS_LIFE: Final = "3600s"


@final
class IamCredentials:
    """The API, with an address for each universe domain."""

    def __init__(self, base: str | None = None) -> None:
        """`base` is a URL without a path that replaces the public ones."""
        self._configured = base

    def base(self, universe: str) -> str:
        """Where bearers of this universe are sent. Raises CREDENTIAL_MISMATCH if the configured address belongs to
        another one.
        """
        if self._configured is None:
            return f"https://iamcredentials.{universe}"
        if universe != DEFAULT_UNIVERSE and universe_at(self._configured) == DEFAULT_UNIVERSE:
            refuse_mix("The credential", universe, DEFAULT_UNIVERSE, "`endpoints.iam_credentials`")
        return self._configured

    def generate_id_token(
        self,
        flight: Flight,
        bearer: Fetched,
        account: str,
        audience: str,
        *,
        universe: str,
        delegates: Sequence[str] = (),
        caller: str | None = None,
    ) -> Fetched:
        """An ID token of `account`. `universe` is the bearer's, and `caller` is the bearer's IAM member, if known."""
        answer, endpoint = self._call(
            flight,
            bearer,
            account,
            "generateIdToken",
            {"audience": audience, "includeEmail": True},
            universe,
            delegates,
            caller,
        )
        return id_token_in(answer, endpoint, "token")

    def generate_access_token(
        self,
        flight: Flight,
        bearer: Fetched,
        account: str,
        scopes: Sequence[str],
        *,
        universe: str,
        delegates: Sequence[str] = (),
        caller: str | None = None,
    ) -> Fetched:
        """An access token of `account`, for an hour."""
        answer, endpoint = self._call(
            flight,
            bearer,
            account,
            "generateAccessToken",
            {"scope": list(scopes), "lifetime": _ACCESS_LIFE},
            universe,
            delegates,
            caller,
        )
        body = json_object(answer)
        found, said = body.get("accessToken"), body.get("expireTime")
        if not isinstance(found, str) or not found:
            raise not_a_token(endpoint, answer)
        until = from_rfc3339(said)
        left = None if until is None else until - flight.clock.wall()
        return Fetched(found, endpoint, answer, life_said(endpoint, "expireTime", said, left))

    def sign_jwt(
        self,
        flight: Flight,
        bearer: Fetched,
        account: str,
        audience: str,
        *,
        universe: str,
        delegates: Sequence[str] = (),
        caller: str | None = None,
    ) -> Fetched:
        """A JWT of `account` for `audience`, signed with a key that Google keeps."""
        claims = self_signed_claims(account, audience, flight.clock.wall())
        answer, endpoint = self._call(
            flight, bearer, account, "signJwt", {"payload": json.dumps(claims)}, universe, delegates, caller
        )
        return id_token_in(answer, endpoint, "signedJwt")

    def _call(
        self,
        flight: Flight,
        bearer: Fetched,
        account: str,
        method: str,
        body: Mapping[str, Any],
        universe: str,
        delegates: Sequence[str],
        caller: str | None,
    ) -> tuple[Answer, Endpoint]:
        base = self.base(universe)
        endpoint = Endpoint(
            f"the IAM Credentials API at {host_of(base)}",
            Protocol.IAM,
            f"service account {account}",
            NETWORK,
            account=account,
            caller=caller or "",
            method=method,
            delegates=tuple(delegates),
        )
        transport = flight.open(endpoint, proxies=True)
        headers = {"content-type": "application/json", "authorization": f"Bearer {bearer.value}"}
        if bearer.quota_project is not None:
            headers["x-goog-user-project"] = bearer.quota_project
        if delegates:
            body = {**body, "delegates": [f"projects/-/serviceAccounts/{email}" for email in delegates]}
        url = f"{base}/v1/projects/-/serviceAccounts/{quote(account, safe='@')}:{method}"
        return transport(url, "POST", json.dumps(body).encode(), headers), endpoint
