"""What operators hear of one key's fetches: the log lines and the counters.

Owns the shape of the counters that the store writes and the rule for how often a failing key is logged.
Called by the store alone. It decides nothing and keeps no token. The rule: a failing key is logged when its
reason changes and then once a minute, however often it is retried; its recovery is logged once.
"""

from __future__ import annotations

import logging
from typing import Final, final

from sidecar.errors import SidecarError
from sidecar.metrics import TokenStats
from sidecar.tokens.token import Token, TokenKey

LOG_INTERVAL: Final = 60.0
"""Seconds between two lines about a key that goes on failing for the same reason."""

_log = logging.getLogger("sidecar.tokens")


@final
class FetchReport:
    """The log of one key's fetches."""

    __slots__ = ("_fields", "_logged_mono", "_reason", "_stats")

    def __init__(self, key: TokenKey, stats: TokenStats) -> None:
        self._fields = {"credential": key.credential, "audience": key.audience}
        self._stats = stats
        self._reason: str | None = None
        self._logged_mono = 0.0

    def fetched(self, token: Token, *, same: bool, took: float) -> None:
        """A fetch brought a token, after `took` seconds; `same` if it is the one that was here."""
        self._count("same" if same else "ok", "", took)
        fields = {**self._fields, "expires_at": token.expires_at}
        if self._reason is not None:
            _log.info("token fetch recovered", extra={"fields": {**fields, "reason": self._reason}})
            self._reason = None
        elif same:
            _log.debug("token unchanged", extra={"fields": fields})
        else:
            _log.info("token fetched", extra={"fields": fields})

    def failed(
        self,
        error: SidecarError,
        *,
        cause: BaseException | None,
        served: Token | None,
        now_mono: float,
        took: float,
    ) -> None:
        """A fetch failed after `took` seconds; `served` is the token that callers still get.

        `cause` is a fault of our own, logged with its traceback.
        """
        reason = error.reason.value
        self._count("error", reason, took)
        if reason == self._reason and now_mono - self._logged_mono < LOG_INTERVAL:
            return
        self._reason = reason
        self._logged_mono = now_mono
        fields: dict[str, object] = {**self._fields, "reason": reason, "detail": error.detail}
        if error.command:
            fields["command"] = error.command
        if served is not None:
            fields["expires_at"] = served.expires_at
        if cause is None:
            _log.warning("token fetch failed", extra={"fields": fields})
        else:
            _log.error("token fetch failed", exc_info=cause, extra={"fields": fields})

    def _count(self, result: str, reason: str, took: float) -> None:
        fetches = self._stats.fetches
        fetches[result, reason] = fetches.get((result, reason), 0) + 1
        self._stats.duration.observe(took)
