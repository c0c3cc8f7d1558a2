"""A credential whose tokens a test commands. Needs nothing but the product, so that `benchmarks/` can use it too."""

from __future__ import annotations

import asyncio
import base64
import json

from sidecar.errors import SidecarError
from sidecar.tokens.token import Token, TokenKey
from tests.support.clock import FakeClock

LIMIT = 60.0
"""Seconds that a test waits for anything: for what hangs, and far from what a busy machine may need."""


def jwt(audience: str, issued_at: float, serial: int = 0, account: str = "") -> str:
    """An unsigned token: the proxy reads only its claims."""
    times = {"iat": int(issued_at), "exp": int(issued_at) + 3600}
    claims = {"aud": audience, "sub": account, "jti": serial, **times}
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "RS256"}, claims)
    ]
    return b".".join([*parts, b"c2ln"]).decode()


class Source:
    """A credential that a test commands: it fails, or holds its answer, when told to."""

    def __init__(self, clock: FakeClock, name: str = "default", account: str = "") -> None:
        self.name = name
        self.account = account
        """Whose tokens it gives."""
        self._clock = clock
        self.minted: list[str] = []
        self.error: SidecarError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def mint(self, key: TokenKey) -> Token:
        audience = key.audience
        self.minted.append(audience)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        now = self._clock.wall()
        return Token.from_jwt(jwt(audience, now, len(self.minted), self.account), received_at=now)

    def describe(self) -> str:
        return "a test's"
