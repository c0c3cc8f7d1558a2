"""Reports targets that refuse the token.

Owns the last refusal of each route and how often it is logged. Called by an exchange when it ends, with its sample of
a 401, 403 or 404 that went to the app unchanged; read by the status page. The rule: one log line a minute for each
route and cause, however much traffic there is; of an answer or a token only what `diagnosis` made of it. The
sidecar's own answers are in `outages`.
"""

from __future__ import annotations

import logging
from typing import NamedTuple, final

from sidecar.config.targets import TokenKind
from sidecar.observe.metrics import RouteStats
from sidecar.observe.repeats import Paces
from sidecar.proxy.fields import headers
from sidecar.proxy.refusals.diagnosis import SAMPLE, Cause, Diagnosis, Refused, diagnose
from sidecar.routing.routes import Destination
from sidecar.runtime.clock import Clock
from sidecar.tokens.token import read_claims

_log = logging.getLogger("sidecar.targets")


class LastRefusal(NamedTuple):
    """The last refusal of a route's target; `at` in Unix seconds."""

    diagnosis: Diagnosis
    status: int
    at: float
    good_since: int = 0
    """Good answers (below 400) of the route since then."""


@final
class Sample:
    """The beginning of an answer that may be a refusal."""

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
    """The refusals of every route."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, LastRefusal] = {}
        self._good: dict[str, tuple[RouteStats, int]] = {}
        """For each route: its counters, and how many good answers it had given at its last refusal."""
        self._paces = Paces[tuple[str, Cause]]()

    def last(self, route: str) -> LastRefusal | None:
        """The last refusal of this route's target, and whether the route has had good answers since."""
        found = self._last.get(route)
        if found is None:
            return None
        stats, before = self._good[route]
        return found._replace(good_since=stats.answered_well() - before)

    def explain(self, destination: Destination, sample: Sample, bearer: bytes) -> str:
        """The same in a sentence for the app, if it can't get the answer itself."""
        found = _diagnose(destination, sample, bearer, self._clock.wall())
        if found is None:
            return f"The target answered with HTTP {sample.status}."
        fix = f" To fix it: {found.command}" if found.command and found.command not in found.detail else ""
        return (
            f"The target refused the request with HTTP {sample.status} ({found.cause}): {found.detail}{fix}"
        )

    def note(self, destination: Destination, sample: Sample, bearer: bytes, stats: RouteStats) -> None:
        """An answer has ended. `bearer` is the header value that was sent."""
        now_at, now_mono = self._clock.wall(), self._clock.mono()
        found = _diagnose(destination, sample, bearer, now_at)
        if found is None:
            return
        name = destination.route.name
        stats.upstream_refusals[found.cause] = stats.upstream_refusals.get(found.cause, 0) + 1
        self._last[name] = LastRefusal(found, sample.status, now_at)
        self._good[name] = stats, stats.answered_well()
        untold = self._paces.take((name, found.cause), now_mono)
        if untold is None:
            return
        # An app's own 403 is its business. It is still logged once a minute, for people who look for the cause.
        level = logging.INFO if found.cause is Cause.UNEXPLAINED else logging.WARNING
        fields = {
            "route": name,
            "status": sample.status,
            "reason": str(found.cause),
            "detail": found.detail,
            "command": found.command or None,
            "untold": untold or None,
        }
        says = (
            f"target refused a request of route `{name}` with {sample.status} {found.cause}: {found.detail}"
        )
        if found.command and found.command not in found.detail:
            says += f" To fix it: {found.command}"
        _log.log(level, says, extra={"fields": fields})


def _diagnose(destination: Destination, sample: Sample, bearer: bytes, now_at: float) -> Diagnosis | None:
    claims = {}
    if destination.token_kind is not TokenKind.ACCESS:
        claims = dict(read_claims(bearer.partition(b" ")[2].decode("ascii")) or {})
    return diagnose(
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
