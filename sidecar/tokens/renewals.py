"""Fetching tokens at once because an operator asks for it.

Owns how often that may be asked for. Called by the service for `POST /renew` and the command `renew`, when a cause has
been fixed and the next try would come too late. It keeps no token. The rule: one fetch in `INTERVAL` for a key,
so that no script makes of this a load on the token endpoint.
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
"""Seconds between two fetches of one key that are asked for."""


class TooSoonError(Exception):
    """Everything that is asked for was asked for just now; `left` is the time in seconds until it may be again."""

    def __init__(self, left: float) -> None:
        super().__init__(f"asked for again too soon; wait {left:.1f} s")
        self.left = left


class Renewal(NamedTuple):
    """What came of one token."""

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
        """Fetch these, with their route's names; what was asked for just now is left out.

        Raises TooSoonError where that is all of them.
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
