"""Whether a sidecar is ready for traffic, and otherwise why not.

Called by `life`, by probes through `view`, and by `exec`. The rule: it is ready once it listens and every route that is
to be prefetched has had its token, or `startup_wait` is over; from then on until it is asked to stop. It never depends
on targets.
"""

from __future__ import annotations

from typing import final

from sidecar.routing.routes import Route
from sidecar.service.build import Parts
from sidecar.service.start_error import EXIT_REQUIRED, StartError
from sidecar.tokens.token import TokenKey


@final
class Readiness:
    """The readiness of one sidecar."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._began_mono = parts.clock.mono()
        self._was_ready = False
        self.is_listening = False
        self.is_draining = False

    @property
    def has_started(self) -> bool:
        """Whether it has been ready once; never taken back."""
        self.state()
        return self._was_ready

    def state(self) -> tuple[bool, list[str]]:
        """Whether it is ready, and otherwise why not: a sentence for each reason."""
        if self.is_draining:
            return False, ["shutting down"]
        if not self.is_listening:
            return False, ["not listening yet"]
        if not self._was_ready:
            for_all = self._parts.config.startup == "wait" and self.startup_left() > 0
            reasons = [
                reason
                for route in self._parts.table.routes
                if (for_all or route.config.required) and (reason := self._unready(route)) is not None
            ]
            if for_all:
                reasons += self._unready_handouts()
            if reasons:
                return False, reasons
        self._was_ready = True
        return True, []

    def overdue(self) -> StartError | None:
        """Why the sidecar must end before it ever served: a required route without a token after `startup_wait`."""
        if self.is_draining or self._was_ready or self.startup_left() > 0:
            return None
        required = [route for route in self._parts.table.routes if route.config.required]
        missing = [why for route in required if (why := self._unready(route))]
        return StartError("; ".join(missing), EXIT_REQUIRED) if missing else None

    def startup_left(self) -> float:
        """Seconds that are left of `startup_wait`."""
        return max(0.0, self._began_mono + self._parts.config.startup_wait - self._parts.clock.mono())

    def _unready_handouts(self) -> list[str]:
        """Why programs could not be given a token that they are listed for."""
        return [
            f"`{server}` has had no token yet for {key.audience} ({why})"
            for server, offer in self._parts.offers.items()
            for key in offer.keys()
            if (why := self._missing(key)) is not None
        ]

    def _unready(self, route: Route) -> str | None:
        key = route.fixed_key()
        if key is None or not route.config.prefetch:
            return None
        why = self._missing(key)
        return None if why is None else f"route `{route.name}` has had no token yet ({why})"

    def _missing(self, key: TokenKey) -> str | None:
        """Why this token has not been there yet; None where it has."""
        had_token, error = self._parts.tokens.ready_state(key)
        if had_token:
            return None
        return f"{error.reason}: {error.detail}" if error is not None else "it is being fetched"
