"""Ready-made tokens: from a file that another program renews, or from the configuration.

Owns the reading of them. Called by `GoogleSource`, in a worker thread; `FileWatch` tells the store when a file has
changed. It renews nothing. The rule: the token is sent unchanged, after the checks that all tokens get: one audience,
which is the route's, and an `exp` in the future.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from sidecar.grammar.contents import place
from sidecar.tokens.credential_file import read_text, refuse_type, type_of
from sidecar.tokens.fetch.endpoint import Endpoint, Protocol
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import Fetched, Grant
from sidecar.tokens.miswritten import loaded

_AROUND: Final = "\ufeff \t\r\n"
"""Characters that editors and shells leave around a token."""


@final
class ReadyToken(Grant):
    """A token in a file, or a literal one."""

    def __init__(self, read: Callable[[], str], where: str, *, ability: str) -> None:
        """`where` names the place: "/run/token", "`credentials.fixed.token`"."""
        self.ability = ability
        self._read = read
        self._where = where

    def describe(self) -> str:
        """See `Grant.describe`."""
        return f"a ready token in {self._where}"

    def look(self) -> bool:
        """See `Grant.look`; the token's contents are checked when it is requested."""
        self._token()
        return True

    def id_token(self, flight: Flight, audience: str) -> Fetched:
        """See `Grant.id_token`."""
        return Fetched(
            self._token(),
            Endpoint(f"{self._where}", Protocol.LOCAL, "the account that it was made for", ""),
        )

    def _token(self) -> str:
        text = self._read()
        # A credential's file is named here where a token's belongs: what its `type:` is shows in it.
        if isinstance(found := loaded(text), dict) and type_of(found) != "unknown":
            refuse_type(found, self._where, "a token")
        return text.strip(_AROUND)


def token_file(path: str) -> ReadyToken:
    """The grant of a `file` credential."""
    return ReadyToken(lambda: read_text(path), place(path), ability="file")
