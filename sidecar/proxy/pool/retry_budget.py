"""How many requests of a route may be sent once more.

Owns the count. Asked for an exchange that met a stale connection or whose token was refused; nothing is sent twice for
a third reason. Pure: time and the number of requests come in as arguments. The rule is that of Finagle and Envoy:
retries are a share of the requests, with a floor under it for routes that have few, so that an upstream in trouble is
never asked much more than it would be anyway.

Sources: https://finagle.github.io/blog/2016/02/08/retry-budgets/, Envoy's `RetryBudget` (cluster.v3.CircuitBreakers).
"""

from __future__ import annotations

from typing import Final, final

WINDOW: Final = 10.0
"""Seconds of one of the two buckets that are looked at: what happened in the last 10 to 20 seconds counts."""

FLOOR: Final = 10
"""Retries in a window that need no requests to pay for them: one a second, a tenth of Finagle's and Linkerd's."""


@final
class RetryBudget:
    """Of one route."""

    __slots__ = ("_begun_mono", "_now", "_previous", "_requests", "share")

    def __init__(self, share: float, *, requests: int, now_mono: float) -> None:
        """`share` of the requests may be sent again; `requests` is how many there were so far, ever."""
        self.share = share
        self._begun_mono = now_mono
        self._requests = (requests, requests)
        """Of all time, when the previous bucket and this one began."""
        self._previous = 0
        self._now = 0

    def tick(self, requests: int, now_mono: float) -> None:
        """Begin the next bucket, if this one has had its time; to be called about once a second."""
        elapsed = now_mono - self._begun_mono
        if elapsed < WINDOW:
            return
        if elapsed < 2 * WINDOW:
            self._requests = (self._requests[1], requests)
            self._previous, self._now = self._now, 0
        else:
            # Nobody looked for so long: what happened meanwhile is older than anybody knows.
            self._requests = (requests, requests)
            self._previous = self._now = 0
        self._begun_mono = now_mono

    def spend(self, requests: int, now_mono: float) -> bool:
        """Whether one more may be sent again, which is counted then; `requests` is how many there were so far, ever."""
        self.tick(requests, now_mono)
        if not self.share:
            return False
        if self._previous + self._now + 1 > FLOOR + self.share * (requests - self._requests[0]):
            return False
        self._now += 1
        return True
