"""The errors that the sidecar itself sends to apps: since when, how often, and for how long.

Owns the errors of every route, grouped by reason, and which routes refuse requests at the moment. Called by an
exchange and by `server.Proxy` for each request that ends with such an error, and once a second by the sweep, which
notices that routes have recovered. Read by the status page, the access log and `check`.

The rules: one ERROR when a route begins to refuse, one INFO when it answers again; in between each reason is logged
once a minute, with the count. An error of one request alone (its upstream hung up, it took too long) makes no outage
until it is the third in a row. The app's own errors and a drain make none. Errors are grouped, so that a flood of one
hides no other. A good answer costs no time here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, NamedTuple, final

from sidecar.errors import MEANINGS, Reason, SidecarError, Source
from sidecar.grammar.moments import in_words
from sidecar.observe.metrics import RouteStats
from sidecar.observe.repeats import INTERVAL, Pace
from sidecar.runtime.clock import Clock

IN_A_ROW: Final = 3
"""From this many such errors in a row on, errors of single requests count as the route's, for example if an upstream
answers no request.
"""

_OF_ONE_REQUEST: Final = frozenset(
    {
        Reason.UPSTREAM_CLOSED,
        Reason.UPSTREAM_MALFORMED,
        Reason.UPSTREAM_HEAD_TOO_LARGE,
        Reason.UPSTREAM_INCOMPLETE,
        Reason.UPGRADE_FAILED,
        Reason.RESPONSE_TIMEOUT,
        Reason.SEND_TIMEOUT,
        Reason.IDLE_TIMEOUT,
        Reason.TUNNEL_IDLE,
        Reason.TOTAL_TIMEOUT,
        Reason.TLS_RENEGOTIATION,
        Reason.INTERNAL,
    }
)
_NO_OUTAGE: Final = frozenset(
    {
        *(reason for reason, meaning in MEANINGS.items() if meaning.source is Source.APP),
        Reason.DRAINING,
    }
)

_CONSEQUENCES: Final = frozenset({Reason.QUEUE_FULL, Reason.QUEUE_TIMEOUT})
"""What a route refuses with when its upstream is too slow: shown only where no other reason was there."""

_log = logging.getLogger(__name__)


class ErrorGroup(NamedTuple):
    """Requests that ended with one reason on one route. Times are in Unix seconds. `route` is empty if they matched
    none.
    """

    route: str
    reason: Reason
    times: int
    first_at: float
    last_at: float
    detail: str
    """The detail of the latest one."""
    command: str


class Refusing(NamedTuple):
    """A route that refuses requests. Times are in Unix seconds."""

    reason: Reason
    """The reason of the latest refusal; where requests wait for an upstream that fails, how that fails."""
    detail: str
    command: str
    since_at: float
    last_at: float
    times: int


@final
class _Group:
    """One reason on one route."""

    __slots__ = ("command", "count", "detail", "first_at", "last_at", "lines", "pace", "reason")

    def __init__(self, reason: Reason, now_at: float) -> None:
        self.reason = reason
        self.count = 0
        self.first_at = self.last_at = now_at
        self.detail = self.command = ""
        self.pace = Pace()
        """The pace of the lines about the outage."""
        self.lines = Pace()
        """The pace of the access log's lines."""


@final
class _Outage:
    """A route's outage, from its first refusal on."""

    __slots__ = ("answered", "began_at", "began_mono", "cause", "is_told", "last", "reasons", "refused")

    def __init__(self, last: _Group, answered: int, now_mono: float) -> None:
        self.began_at = last.last_at
        self.began_mono = now_mono
        self.refused = 0
        self.last = self.cause = last
        self.answered = answered
        """How many good answers the route had given at its last refusal."""
        self.is_told = False
        self.reasons: set[Reason] = set()
        """The reasons that were logged."""


@final
class _Record:
    """The record of one route."""

    __slots__ = ("errors", "groups", "outage", "stats")

    def __init__(self, stats: RouteStats) -> None:
        self.stats = stats
        self.errors = 0
        self.groups: dict[Reason, _Group] = {}
        self.outage: _Outage | None = None

    def answered(self) -> int:
        """Requests that ended without an error of ours."""
        return sum(self.stats.requests.values()) - self.errors


@final
class Outages:
    """The outages of every route."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._open: dict[str, _Record] = {}
        """The routes with an outage."""

    # what the data path calls

    def note(self, error: SidecarError, route: str, stats: RouteStats) -> None:
        """A request ended with this error and is counted in `stats`. `route` is empty if it matched none."""
        record = self._records.get(route)
        if record is None:
            record = self._records[route] = _Record(stats)
        reason, now_at = error.reason, self._clock.wall()
        group = record.groups.get(reason)
        if group is None:
            group = record.groups[reason] = _Group(reason, now_at)
        # Taken apart, not kept: an exception holds the frames it came through, with the connection and its bodies.
        group.count += 1
        group.last_at, group.detail, group.command = now_at, error.detail, error.command
        record.errors += 1
        if route and reason not in _NO_OUTAGE:
            self._refused(record, group, route)

    def line_due(self, route: str, reason: Reason) -> int | None:
        """For the request just given to `note`: None if the access log gets no line for it, else how many had no line
        before it.
        """
        return self._records[route].groups[reason].lines.take(self._clock.mono())

    def look(self) -> None:
        """Notice which routes have answered since they refused. Called by the sweep."""
        for route, record in list(self._open.items()):
            outage = record.outage
            if outage is not None and record.answered() > outage.answered:
                record.outage = None
                del self._open[route]
                if outage.is_told:
                    self._tell_recovery(route, outage)

    # what is shown

    def errors(self) -> Sequence[ErrorGroup]:
        """All groups, the latest first."""
        found = [
            ErrorGroup(route, it.reason, it.count, it.first_at, it.last_at, it.detail, it.command)
            for route, record in self._records.items()
            for it in record.groups.values()
        ]
        return sorted(found, key=lambda group: group.last_at, reverse=True)

    def refusing(self, route: str) -> Refusing | None:
        """The errors with which this route refuses requests, if it does."""
        record = self._open.get(route)
        if record is None or record.outage is None or not record.outage.is_told:
            return None
        outage, cause = record.outage, record.outage.cause
        last_at = outage.last.last_at
        if last_at - cause.last_at > INTERVAL:
            cause = outage.last
        return Refusing(cause.reason, cause.detail, cause.command, outage.began_at, last_at, outage.refused)

    # inside

    def _refused(self, record: _Record, group: _Group, route: str) -> None:
        now_mono = self._clock.mono()
        answered = record.answered()
        outage = record.outage
        if outage is None or (not outage.is_told and answered > outage.answered):
            outage = record.outage = _Outage(group, answered, now_mono)
            self._open[route] = record
        outage.refused += 1
        outage.answered = answered
        outage.last = group
        if group.reason not in _CONSEQUENCES or outage.cause.reason in _CONSEQUENCES:
            outage.cause = group
        if outage.is_told or outage.refused >= IN_A_ROW or group.reason not in _OF_ONE_REQUEST:
            untold = group.pace.take(now_mono)
            if untold is not None:
                self._tell(route, outage, untold, now_mono)

    def _tell(self, route: str, outage: _Outage, untold: int, now_mono: float) -> None:
        last = outage.last
        status = MEANINGS[last.reason].status
        fields: dict[str, object] = {
            "route": route,
            "reason": str(last.reason),
            "status": status,
            "detail": last.detail,
            "command": last.command or None,
            "refused": outage.refused,
            "untold": untold or None,
        }
        fix = f" To fix it: {last.command}" if last.command and last.command not in last.detail else ""
        cause = f"{status} {last.reason}: {last.detail}{fix}"
        level = logging.WARNING
        if not outage.is_told:
            level = logging.ERROR
            says = f"route `{route}` refuses requests with {cause}"
        elif last.reason in outage.reasons:
            lasted = in_words(now_mono - outage.began_mono)
            says = f"route `{route}` still refuses requests, {outage.refused} in {lasted}, with {cause}"
        else:
            says = f"route `{route}`, which refuses requests already, now does so with {cause}"
        outage.is_told = True
        outage.reasons.add(last.reason)
        _log.log(level, says, extra={"fields": fields})

    def _tell_recovery(self, route: str, outage: _Outage) -> None:
        lasted = max(0.0, self._clock.mono() - outage.began_mono)
        reasons = sorted(map(str, outage.reasons))
        requests = f"{outage.refused} request{'s' if outage.refused != 1 else ''}"
        _log.info(
            f"route `{route}` answers again: it refused {requests} in {in_words(lasted)} ({', '.join(reasons)})",
            extra={
                "fields": {
                    "route": route,
                    "reasons": reasons,
                    "refused": outage.refused,
                    "seconds": round(lasted, 3),
                }
            },
        )
