"""Gives a program its token.

Owns the way of a token from the store to an answer: the wait, the number of seconds it has left, the count and the
log line. Called by `metadata` and `oauth`, which write the answers. It does not decide who gets what: `offer` does.
The rule: the policy's minimum life of a token for requests holds here too, since it is the same token; no log line
contains it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, NamedTuple, final

from sidecar.config.targets import TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.observe.metrics import HandoutStats
from sidecar.observe.repeats import Paces
from sidecar.runtime.clock import Clock
from sidecar.tokens import placeholder
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import TokenKey

_log = logging.getLogger(__name__)

_SCHEME = b"Bearer "

TRANSIENT: Final = frozenset(
    {
        Reason.TOKEN_TIMEOUT,
        Reason.TOKEN_ENDPOINT_UNREACHABLE,
        Reason.TOKEN_ENDPOINT_FAILED,
        Reason.TOKEN_RATE_LIMITED,
        Reason.OVERLOADED,
        Reason.DRAINING,
    }
)
"""After these a program may try again by itself, as libraries do after a 503. After any other they show the answer."""


STAND_IN_LIFE: Final = 3600
"""Seconds that a placeholder is said to live which stands for no token."""


class HandedOut(NamedTuple):
    """A token for a program; its text form shows nothing of it."""

    value: str
    expires_in: int
    """Seconds, rounded down."""

    def __repr__(self) -> str:
        return f"<HandedOut expires_in={self.expires_in}>"


@final
class Desk:
    """The desk of one server."""

    def __init__(self, server: str, tokens: TokenStore, clock: Clock) -> None:
        """`server` is its key in the configuration, for log and metrics."""
        self._server = server
        self._tokens = tokens
        self._clock = clock
        self._told = Paces[tuple[str, str]]()
        self.stats = HandoutStats()

    async def give(self, key: TokenKey, *, caller: str = "", worthless: bool = False) -> HandedOut:
        """The token of this key; raises `SidecarError` if there is none within `token_wait`. `caller` is the calling
        process, as far as known. `worthless` asks for a placeholder that lives as long as the token, which stays
        here.
        """
        while (bearer := self._tokens.bearer(key)) is None:
            if (error := await self._wait(key)) is not None:
                raise error
        expires_at = self._tokens.expires_at(key)
        now_at = self._clock.wall()
        left = 0 if expires_at is None else int(expires_at - now_at)
        self._note(key, left, caller, worthless=worthless)
        if not worthless:
            return HandedOut(bearer[len(_SCHEME) :].decode("ascii"), left)
        if key.kind is TokenKind.ACCESS:
            return HandedOut(placeholder.access_token(key.audience), left)
        made = placeholder.id_token(key.audience, now_at=now_at, expires_at=now_at + left)
        return HandedOut(made, left)

    def stand_in(self, key: TokenKey, *, caller: str = "") -> HandedOut:
        """A placeholder that stands for no token: none is fetched for it. `key` is what was asked for."""
        self._note(key, STAND_IN_LIFE, caller, worthless=True)
        return HandedOut(placeholder.access_token(key.audience), STAND_IN_LIFE)

    def _note(self, key: TokenKey, left: int, caller: str, *, worthless: bool) -> None:
        word = "access" if key.kind is TokenKind.ACCESS else "id"
        self.stats.given[word] = self.stats.given.get(word, 0) + 1
        what = "placeholder" if worthless else "token"
        if (untold := self._told.take((key.credential, key.audience), self._clock.mono())) is not None:
            _log.info(
                f"{what} given to a program by `{self._server}`: {word} token of credential `{key.credential}` for "
                f"{key.audience}",
                extra={
                    "fields": {
                        "server": self._server,
                        "credential": key.credential,
                        "audience": key.audience,
                        "expires_in": left,
                        "caller": caller or None,
                        "untold": untold or None,
                    }
                },
            )

    def refused(self, reason: Reason, detail: str, *, caller: str = "") -> None:
        """Count and log a request that got no token."""
        self.stats.refused[reason] = self.stats.refused.get(reason, 0) + 1
        if (untold := self._told.take((reason, detail[:200]), self._clock.mono())) is not None:
            _log.warning(
                f"`{self._server}` gave no token: {detail}",
                extra={
                    "fields": {
                        "server": self._server,
                        "reason": str(reason),
                        "detail": detail,
                        "caller": caller or None,
                        "untold": untold or None,
                    }
                },
            )

    async def _wait(self, key: TokenKey) -> SidecarError | None:
        ended: asyncio.Future[SidecarError | None] = asyncio.get_running_loop().create_future()

        def wake(error: SidecarError | None) -> None:
            if not ended.done():
                ended.set_result(error)

        self._tokens.join(key, wake)
        try:
            return await ended
        finally:
            self._tokens.leave(key, wake)
