"""Who there is, who may act as whom, and which access tokens were handed out.

Owns the directory of the stand-in: service accounts, the roles granted on them, and every access token that one of
its servers gave. Shared by all servers of one `Emulator`; serves nothing itself. Names are IAM's: a member is
`serviceAccount:EMAIL`, `user:EMAIL` or `principal://…`. Sources: https://cloud.google.com/iam/docs/principals-overview,
https://cloud.google.com/iam/docs/service-account-permissions.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, final

from sidecar.emulator.scopes import KNOWN

Permission = Literal["getOpenIdToken", "getAccessToken", "signJwt", "signBlob", "implicitDelegation"]
"""Below `iam.serviceAccounts.`"""

ROLES: Final[dict[str, frozenset[Permission]]] = {
    "roles/iam.serviceAccountOpenIdTokenCreator": frozenset({"getOpenIdToken"}),
    "roles/iam.serviceAccountTokenCreator": frozenset(
        {"getOpenIdToken", "getAccessToken", "signJwt", "signBlob", "implicitDelegation"}
    ),
    "roles/iam.workloadIdentityUser": frozenset({"getOpenIdToken", "getAccessToken"}),
}


@final
@dataclass
class ServiceAccount:
    """One service account."""

    email: str
    unique_id: str
    """21 digits: the `sub` of its tokens."""
    disabled: bool = False

    @property
    def member(self) -> str:
        """Its name in IAM."""
        return f"serviceAccount:{self.email}"


@final
@dataclass(frozen=True, repr=False)
class AccessToken:
    """One access token that was handed out; its text form does not show it."""

    value: str
    member: str
    scopes: tuple[str, ...]
    expires_at: float

    def __repr__(self) -> str:
        return f"<AccessToken {self.member} {' '.join(self.scopes)}>"


@final
class Principals:
    """The directory; `now` gives Unix seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.scopes: set[str] = set(KNOWN)
        """The scopes that exist; add what is missing."""
        self._now = now
        self._accounts: dict[str, ServiceAccount] = {}
        self._bindings: set[tuple[str, str, str]] = set()
        self._tokens: dict[str, AccessToken] = {}

    def add(self, email: str, *, unique_id: str | None = None) -> ServiceAccount:
        """The service account of this e-mail, made if there is none, with a number that is its own."""
        number = unique_id or f"1{int(hashlib.sha256(email.encode()).hexdigest(), 16) % 10**20:020d}"
        return self._accounts.setdefault(email, ServiceAccount(email, number))

    def find(self, email: str) -> ServiceAccount | None:
        """The service account, if there is one."""
        return self._accounts.get(email)

    def remove(self, email: str) -> None:
        """Delete a service account; what was granted on it stays, as it does in IAM."""
        self._accounts.pop(email, None)

    def grant(self, member: str, role: str, *, on: str) -> None:
        """Give `member` a role of `ROLES` on the service account `on`; KeyError for another role."""
        self._bindings.update((member, permission, on) for permission in ROLES[role])

    def revoke(self, member: str, role: str, *, on: str) -> None:
        """Take a role away again."""
        self._bindings.difference_update((member, permission, on) for permission in ROLES[role])

    def may(self, member: str, permission: Permission, *, on: str) -> bool:
        """Whether `member` has the permission on the service account `on`, itself or with all of its pool."""
        pool = member.replace("principal://", "principalSet://").partition("/subject/")[0] + "/*"
        return any((name, permission, on) in self._bindings for name in (member, pool))

    def knows(self, scopes: Iterable[str]) -> bool:
        """Whether each of these is a scope that there is."""
        return self.scopes.issuperset(scopes)

    def issue(self, member: str, scopes: Iterable[str], *, lifetime: float) -> AccessToken:
        """A new access token for `member`, good for `lifetime` seconds."""
        token = AccessToken(
            f"ya29.emulated-{secrets.token_urlsafe(24)}", member, tuple(scopes), self._now() + lifetime
        )
        self._tokens[token.value] = token
        return token

    def introspect(self, value: str) -> AccessToken | None:
        """The access token of this text, if it was handed out here and has not expired."""
        token = self._tokens.get(value)
        return token if token is not None and token.expires_at > self._now() else None
