"""Tokens of a service account that another credential may act as.

Owns the chain: the source's access token, kept for as long as it lives, and the calls to IAM with it. Called by
`GoogleSource`, in worker threads. The rule: no account may impersonate itself, directly or through delegates: a
leaked token could then renew itself forever (https://cloud.google.com/iam/docs/best-practices-service-accounts). What
files and configuration show of this is refused before anything is sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, TypedDict, final

from sidecar.config.checks import chain_fault
from sidecar.config.targets import CLOUD_PLATFORM
from sidecar.errors import Reason, SidecarError
from sidecar.tokens.fetch.endpoint import too_slow
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import Fetched, Grant
from sidecar.tokens.grants.iam_credentials import IamCredentials
from sidecar.tokens.universe import DEFAULT_UNIVERSE

_RENEW_BEFORE: Final = 225.0
"""Seconds before its expiry at which the source's access token is fetched again: google-auth's own threshold."""


class _Known(TypedDict):
    """What is known about the source's access token."""

    universe: str
    caller: str | None


def _of(bearer: Fetched, known: _Known) -> _Known:
    """The same, with what came with the access token itself: gcloud's states its universe only then."""
    return known if bearer.universe is None else _Known(universe=bearer.universe, caller=known["caller"])


@final
class ImpersonationGrant(Grant):
    """A service account, and the credential that acts as it."""

    def __init__(
        self,
        source: Grant,
        account: str,
        *,
        iam: IamCredentials,
        delegates: Sequence[str] = (),
        ability: str = "impersonate",
        quota_project: str | None = None,
    ) -> None:
        """`account` and `delegates` are e-mails, the delegate nearest to the source first. `quota_project` is charged
        for calls with the account's own access token.
        """
        self.ability = ability
        self._source = source
        self._account = account
        self._delegates = tuple(delegates)
        self._iam = iam
        self._quota_project = quota_project
        self._held: tuple[Fetched, float, str] | None = None
        """The source's access token, the monotonic moment until which it is used, and its universe: a file of another
        universe can replace the source's.
        """
        self._lock = threading.Lock()

    def describe(self) -> str:
        """See `Grant.describe`."""
        through = f" through {', '.join(self._delegates)}" if self._delegates else ""
        return f"service account {self._account}{through}, impersonated by {self._source.describe()}"

    def known_email(self) -> str | None:
        """See `Grant.known_email`."""
        return self._account

    def check(self) -> None:
        """See `Grant.check`: the source is checked as far as its files go."""
        source = self._source.resolved()
        source.check()
        self._refuse_itself(source.known_email())
        if (universe := source.known_universe()) is not None:
            self._iam.base(universe)

    def known_universe(self) -> str | None:
        """See `Grant.known_universe`: the source's."""
        return self._source.known_universe()

    def universe(self, flight: Flight) -> str | None:
        """See `Grant.universe`: the source's."""
        return self._source.universe(flight)

    def look(self) -> bool:
        """See `Grant.look`; looks at the source."""
        return self._source.look()

    def id_token(self, flight: Flight, audience: str) -> Fetched:
        """See `Grant.id_token`."""
        return self._as_caller(
            flight,
            lambda bearer, known: self._iam.generate_id_token(
                flight, bearer, self._account, audience, delegates=self._delegates, **known
            ),
        )

    def access_token(self, flight: Flight, scopes: Sequence[str]) -> Fetched:
        """See `Grant.access_token`."""
        fetched = self._as_caller(
            flight,
            lambda bearer, known: self._iam.generate_access_token(
                flight, bearer, self._account, scopes, delegates=self._delegates, **known
            ),
        )
        return fetched._replace(quota_project=self._quota_project)

    def self_signed_jwt(self, flight: Flight, audience: str) -> Fetched:
        """See `Grant.self_signed_jwt`."""
        return self._as_caller(
            flight,
            lambda bearer, known: self._iam.sign_jwt(
                flight, bearer, self._account, audience, delegates=self._delegates, **known
            ),
        )

    def _as_caller(self, flight: Flight, call: Callable[[Fetched, _Known], Fetched]) -> Fetched:
        """Run `call` with the source's access token, and once more with a new one if IAM does not accept it (any
        more).
        """
        source = self._source.resolved()
        self._refuse_itself(source.email(flight))
        known = _Known(universe=source.universe(flight) or DEFAULT_UNIVERSE, caller=source.member(flight))
        # Before the source is asked for a bearer, which could go nowhere.
        self._iam.base(known["universe"])
        bearer, kept = self._bearer(flight, source, known["universe"])
        try:
            return call(bearer, _of(bearer, known))
        except SidecarError as error:
            self._held = None
            if not kept or error.reason is not Reason.TOKEN_DENIED:
                raise
        bearer, _ = self._bearer(flight, source, known["universe"])
        return call(bearer, _of(bearer, known))

    def _bearer(self, flight: Flight, source: Grant, universe: str) -> tuple[Fetched, bool]:
        """The source's access token, and whether it was cached. One fetch of it at a time, so that a hanging source
        delays only its own callers, and those until their deadline.
        """
        if not self._lock.acquire(timeout=flight.left):
            if flight.endpoint is None:
                raise SidecarError(
                    Reason.TOKEN_TIMEOUT,
                    f"The access token of {source.describe()} has been on its way for over {flight.seconds:g} s. See "
                    "whether its token endpoint answers.",
                )
            raise too_slow(flight.endpoint, flight.seconds)
        try:
            now_mono = flight.clock.mono()
            if self._held is not None and now_mono < self._held[1] and self._held[2] == universe:
                return self._held[0], True
            bearer = source.access_token(flight, [CLOUD_PLATFORM])
            life = bearer.expires_in or 0.0
            self._held = bearer, now_mono + max(life - _RENEW_BEFORE, life / 2), universe
            return bearer, False
        finally:
            self._lock.release()

    def _refuse_itself(self, source: str | None) -> None:
        fault = chain_fault([*([] if source is None else [source]), *self._delegates, self._account])
        if fault is not None:
            raise SidecarError(Reason.SELF_IMPERSONATION, f"{fault[:1].upper()}{fault[1:]}.")
