"""Where tokens come from, as the store sees it.

Owns the `TokenSource` seam. The store calls `mint`; the status page shows `describe`. A source may not decide
when a token is fetched (that is the store, by `tokens.policy`), and may not keep one. The rule: every fetch
ends within the source's own deadline, with a token for exactly the audience that was asked for, or with a
`SidecarError` that names what to do.
"""

from __future__ import annotations

from typing import Protocol

from sidecar.tokens.token import Token


class TokenSource(Protocol):
    """One credential of the configuration."""

    async def mint(self, audience: str) -> Token:
        """Fetch a token; ends within the source's own deadline; raises `SidecarError` only."""
        ...

    def describe(self) -> str:
        """What was found, in a few words without any secret; for logs and the status page."""
        ...
