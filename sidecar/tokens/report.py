"""Reports one key's fetches to operators, in log lines and counters.

Owns the shape of the counters that the store writes and the rule for how often a failing key is logged. Called by the
store alone. It keeps no token. The rule: a failing key is logged when it fails for another reason and then once a
minute, however often it is retried; its recovery is logged once.
"""

from __future__ import annotations

import logging
from typing import final

from sidecar.errors import SidecarError
from sidecar.grammar.moments import rfc3339
from sidecar.observe.metrics import TokenStats
from sidecar.observe.repeats import Paces
from sidecar.tokens.policy import minimum_life
from sidecar.tokens.token import Token, TokenKey

_log = logging.getLogger("sidecar.tokens")


def _expiry(token: Token) -> dict[str, object]:
    """The fields of a log line, for programs and for people."""
    return {"expires_at": token.expires_at, "expires": rfc3339(token.expires_at)}


@final
class FetchReport:
    """The log of one key's fetches."""

    __slots__ = ("_fields", "_paces", "_reason", "_stats")

    def __init__(self, key: TokenKey, stats: TokenStats) -> None:
        self._fields = {"credential": key.credential, "audience": key.audience}
        self._stats = stats
        self._reason: str | None = None
        self._paces = Paces[str]()

    def fetched(self, token: Token, *, same: bool, took: float) -> None:
        """A fetch returned a token after `took` seconds; `same` if it is the current one."""
        self._count("same" if same else "ok", "", took)
        fields = {**self._fields, **_expiry(token)}
        whose = self._whose()
        if self._reason is not None:
            _log.info(
                f"token fetch recovered: there is a token for {whose} again, after {self._reason}",
                extra={"fields": {**fields, "reason": self._reason}},
            )
            self._reason, self._paces = None, Paces()
        elif same:
            _log.debug(f"token unchanged for {whose}", extra={"fields": fields})
        else:
            _log.info(f"token fetched for {whose}", extra={"fields": fields})

    def failed(
        self,
        error: SidecarError,
        *,
        cause: BaseException | None,
        served: Token | None,
        now_mono: float,
        took: float,
    ) -> None:
        """A fetch failed after `took` seconds.

        `served` is the token that callers still get. `cause` is a fault of our own, logged with its traceback.
        """
        reason = error.reason.value
        self._count("error", reason, took)
        self._reason = reason
        untold = self._paces.take(reason, now_mono)
        if untold is None:
            return
        fields: dict[str, object] = {**self._fields, "reason": reason, "detail": error.detail}
        if error.command:
            fields["command"] = error.command
        if untold:
            fields["untold"] = untold
        if served is not None:
            fields.update(_expiry(served))
        held = ""
        if served is not None:
            until = rfc3339(served.expires_at - minimum_life(served))
            held = f" The token that is here is used until {until}."
        says = f"token fetch failed for {self._whose()}: {reason}: {error.detail}{held}"
        _log.log(
            logging.WARNING if cause is None else logging.ERROR,
            says,
            exc_info=cause,
            extra={"fields": fields},
        )

    def _whose(self) -> str:
        return f"`{self._fields['audience']}` by credential `{self._fields['credential']}`"

    def _count(self, result: str, reason: str, took: float) -> None:
        fetches = self._stats.fetches
        fetches[result, reason] = fetches.get((result, reason), 0) + 1
        self._stats.duration.observe(took)
