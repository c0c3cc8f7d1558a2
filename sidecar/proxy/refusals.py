"""What went wrong lately, as operators hear of it: targets that refuse the token, and the sidecar's own errors.

Owns the last refusal of each route, how often it is logged, and the last errors of all. Called by an exchange when it
ends, with what it saw of a 401, 403 or 404 that went to the app untouched, or with the error that ended it; read by the
status page. It decides nothing about the request. The rule: one log line a minute for a route and cause, whatever the
traffic; nothing of an answer or a token but what `diagnosis` made of it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, final

from sidecar.clock import Clock
from sidecar.config.targets import TokenKind
from sidecar.errors import SidecarError
from sidecar.metrics import RouteStats
from sidecar.proxy import headers
from sidecar.proxy.diagnosis import SAMPLE, Cause, Diagnosis, Refused, diagnose
from sidecar.routes import Destination
from sidecar.tokens.token import read_claims

LOG_INTERVAL: Final = 60.0
"""Seconds between two lines about one route and cause."""

_log = logging.getLogger("sidecar.targets")


KEPT_ERRORS: Final = 20


class RecentError(NamedTuple):
    """An answer that the sidecar made itself; `at` in Unix seconds, `route` empty where none was met."""

    at: float
    route: str
    error: SidecarError


class LastRefusal(NamedTuple):
    """What a route's target refused last; `at` in Unix seconds."""

    diagnosis: Diagnosis
    status: int
    at: float


@final
class Sample:
    """The beginning of one answer that may be a refusal."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, status: int, fields: headers.Fields) -> None:
        self.status = status
        self.fields = fields
        self.body = b""

    def feed(self, data: bytes) -> None:
        """A piece of the body."""
        if len(self.body) < SAMPLE:
            self.body += data[: SAMPLE - len(self.body)]


@final
class Refusals:
    """Of every route."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, LastRefusal] = {}
        self._logged_mono: dict[tuple[str, Cause], float] = {}
        self._recent: deque[RecentError] = deque(maxlen=KEPT_ERRORS)

    def note_error(self, error: SidecarError, route: str) -> None:
        """An answer of the sidecar's own, or one that was cut off."""
        # Made anew, not kept: an exception holds the frames it came through, with the connection and its bodies.
        kept = SidecarError(error.reason, error.detail, retry_after=error.retry_after, command=error.command)
        self._recent.append(RecentError(self._clock.wall(), route, kept))

    @property
    def recent(self) -> Sequence[RecentError]:
        """The last errors, newest first."""
        return tuple(reversed(self._recent))

    def last(self, route: str) -> LastRefusal | None:
        """What this route's target refused last."""
        return self._last.get(route)

    def note(self, destination: Destination, sample: Sample, bearer: bytes, stats: RouteStats) -> None:
        """An answer has ended; `bearer` is the header value that was sent."""
        now_at, now_mono = self._clock.wall(), self._clock.mono()
        claims = {}
        if destination.token_kind is not TokenKind.ACCESS:
            claims = dict(read_claims(bearer.partition(b" ")[2].decode("ascii")) or {})
        found = diagnose(
            Refused(
                destination.target,
                destination.token_kind,
                "https" if destination.tls else "http",
                destination.authority.decode("ascii"),
                sample.status,
                {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in sample.fields},
                sample.body.decode("utf-8", "replace"),
                claims,
                now_at,
            )
        )
        if found is None:
            return
        name = destination.route.name
        stats.upstream_refusals[found.cause] = stats.upstream_refusals.get(found.cause, 0) + 1
        self._last[name] = LastRefusal(found, sample.status, now_at)
        logged_mono = self._logged_mono.get((name, found.cause))
        if logged_mono is not None and now_mono - logged_mono < LOG_INTERVAL:
            return
        self._logged_mono[name, found.cause] = now_mono
        # An app's own 403 is its business; it is told of once a minute all the same, for whoever wonders.
        level = logging.INFO if found.cause is Cause.UNEXPLAINED else logging.WARNING
        fields = {
            "route": name,
            "status": sample.status,
            "reason": str(found.cause),
            "detail": found.detail,
            "command": found.command or None,
        }
        _log.log(level, "target refused", extra={"fields": fields})
