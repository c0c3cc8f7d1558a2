"""How many requests of a route may be sent once more.

Owns the count. Used for an exchange that met a stale connection, or whose token was refused; there is no third reason
to send a request twice. Pure: time and the number of requests come in as arguments. The rule is that of Finagle and
Envoy: retries are a share of the requests, with a minimum for routes that have few, so that an upstream in trouble
gets little extra load.

Sources: https://finagle.github.io/blog/2016/02/08/retry-budgets/, Envoy's `RetryBudget` (cluster.v3.CircuitBreakers).
"""

from __future__ import annotations

from typing import Final, final

WINDOW: Final = 10.0
"""Length in seconds of each of the two buckets that are counted: requests of the last 10 to 20 seconds count."""

FLOOR: Final = 10
"""Retries per bucket that are always permitted: one a second, a tenth of what Finagle and Linkerd permit."""


@final
class RetryBudget:
    """The budget of one route."""

    __slots__ = ("_begun_mono", "_now", "_previous", "_requests", "share")

    def __init__(self, share: float, *, requests: int, now_mono: float) -> None:
        """`share` of the requests may be sent again. `requests` is how many there have been so far."""
        self.share = share
        self._begun_mono = now_mono
        self._requests = (requests, requests)
        """The number of all requests so far when the previous bucket began, and when this one did."""
        self._previous = 0
        self._now = 0

    def tick(self, requests: int, now_mono: float) -> None:
        """Begin the next bucket if this one is over. Call it about once a second."""
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
        """Whether one more request may be sent again; it is then counted. `requests` is how many there have been so
        far.
        """
        self.tick(requests, now_mono)
        if not self.share:
            return False
        if self._previous + self._now + 1 > FLOOR + self.share * (requests - self._requests[0]):
            return False
        self._now += 1
        return True
