"""Fetches tokens at once when an operator asks for it.

Owns how often that is allowed. Called by the service for `POST /renew` and the command `renew`, after a cause was
fixed and while the next try is still far off. It keeps no token. The rule: one fetch in `INTERVAL` for each key, so
that a script can't burden the token endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple, final

from sidecar.errors import SidecarError
from sidecar.runtime.clock import Clock
from sidecar.tokens.store import TokenStore
from sidecar.tokens.token import TokenKey

INTERVAL: Final = 5.0
"""Seconds between two such fetches of one key."""


class TooSoonError(Exception):
    """All requested tokens were fetched just now; `left` is the time in seconds until that is allowed again."""

    def __init__(self, left: float) -> None:
        super().__init__(f"asked for again too soon; wait {left:.1f} s")
        self.left = left


class Renewal(NamedTuple):
    """The result for one token."""

    key: TokenKey
    route: str
    error: SidecarError | None


@final
class Renewals:
    """See the module's docstring."""

    def __init__(self, store: TokenStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._begun_mono: dict[TokenKey, float] = {}

    async def renew(self, keys: Mapping[TokenKey, str]) -> list[Renewal]:
        """Fetch these tokens, given with their routes' names.

        Those that were fetched just now are left out. Raises TooSoonError if that is all of them.
        """
        now_mono = self._clock.mono()
        self._begun_mono = {
            key: at_mono for key, at_mono in self._begun_mono.items() if now_mono - at_mono < INTERVAL
        }
        due = {key: route for key, route in keys.items() if key not in self._begun_mono}
        if keys and not due:
            raise TooSoonError(INTERVAL - now_mono + min(self._begun_mono[key] for key in keys))
        self._begun_mono.update(dict.fromkeys(due, now_mono))
        return await asyncio.gather(*(self._renew(key, route) for key, route in due.items()))

    async def _renew(self, key: TokenKey, route: str) -> Renewal:
        try:
            return Renewal(key, route, await self._store.renew_now(key))
        except SidecarError as error:
            return Renewal(key, route, SidecarError(error.reason, error.detail, command=error.command))
