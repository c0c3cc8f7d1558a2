"""How long each part of an exchange may take. Owns the error of each timeout.

Called by the sweep, about once a second for every request in progress. Pure: the time without progress is an
argument. Waiting for a token and for a connection has separate limits.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from sidecar.config.groups import Timeouts
from sidecar.errors import Reason, SidecarError
from sidecar.proxy.bounds import Bounds


class ExchangeState(Enum):
    """Where an exchange is; its module's docstring has the diagram."""

    QUEUED = "queued"
    TOKEN = "token"
    CONNECT = "connect"
    SENT = "sent"
    ANSWERING = "answering"
    TUNNEL = "tunnel"
    DONE = "done"


QUEUED: Final = ExchangeState.QUEUED
TOKEN: Final = ExchangeState.TOKEN
CONNECT: Final = ExchangeState.CONNECT
SENT: Final = ExchangeState.SENT
ANSWERING: Final = ExchangeState.ANSWERING
TUNNEL: Final = ExchangeState.TUNNEL
DONE: Final = ExchangeState.DONE
"""Names for the hot path: reading a member through its class costs 90 ns."""

_DOING: Final = {
    QUEUED: "waiting for its turn",
    TOKEN: "waiting for a token",
    CONNECT: "waiting for a connection",
    SENT: "waiting for the upstream",
    ANSWERING: "being answered",
}


def total(state: ExchangeState, timeouts: Timeouts, elapsed: float) -> SidecarError | None:
    """The error of an exchange that began `elapsed` seconds ago, if that is longer than `timeouts.total`."""
    limit = timeouts.total
    if limit is None or state is TUNNEL or elapsed < limit:
        return None
    return SidecarError(
        Reason.TOTAL_TIMEOUT,
        f"The answer was not complete {limit:g} s after the request had come, while it was "
        f"{_DOING[state]}. If it may take longer, raise the route's `timeouts.total`.",
    )


def own(state: ExchangeState, limit: float | None, elapsed: float) -> SidecarError | None:
    """The error of an exchange that began `elapsed` seconds ago, if its app waits no longer than `limit`."""
    if limit is None or elapsed < limit:
        return None
    return SidecarError(
        Reason.DEADLINE_EXCEEDED,
        f"The call's own deadline of {limit:g} s passed while it was {_DOING.get(state, 'under way')}.",
    )


def stalled(
    state: ExchangeState,
    timeouts: Timeouts,
    limits: Bounds,
    quiet: float,
    *,
    app_waits: bool,
    upstream_waits: bool,
    request_done: bool,
) -> SidecarError | None:
    """The error of an exchange without progress for `quiet` seconds, if that is too long.

    `app_waits` says that bytes wait for the app to take them, `upstream_waits` that they wait for the target.
    """
    if app_waits:
        return _client(limits.send_timeout, quiet)
    if upstream_waits:
        return _send(timeouts.send, quiet)
    if state is SENT:
        if not request_done:
            return _body(limits.body_timeout, quiet)
        return _response(timeouts.response, quiet)
    return _tunnel(timeouts.tunnel_idle, quiet) if state is TUNNEL else _idle(timeouts.idle, quiet)


def _client(limit: float, quiet: float) -> SidecarError | None:
    if quiet < limit:
        return None
    return SidecarError(
        Reason.CLIENT_STALLED,
        f"The app took none of the bytes that wait for it for {limit:g} s (`limits.send_timeout`).",
    )


def _send(limit: float, quiet: float) -> SidecarError | None:
    if quiet < limit:
        return None
    return SidecarError(
        Reason.SEND_TIMEOUT,
        f"The upstream took none of the bytes that wait for it for {limit:g} s. "
        "Find out what keeps it, or raise the route's `timeouts.send`.",
    )


def _body(limit: float, quiet: float) -> SidecarError | None:
    if quiet < limit:
        return None
    return SidecarError(
        Reason.BODY_TIMEOUT,
        f"No byte of the request's body came for {limit:g} s (`limits.body_timeout`).",
    )


def _response(limit: float, quiet: float) -> SidecarError | None:
    if quiet < limit:
        return None
    return SidecarError(
        Reason.RESPONSE_TIMEOUT,
        f"The upstream did not answer within {limit:g} s. "
        "If the service may take longer, raise the route's `timeouts.response`.",
    )


def _tunnel(limit: float, quiet: float) -> SidecarError | None:
    if quiet < limit:
        return None
    return SidecarError(
        Reason.TUNNEL_IDLE,
        f"No byte moved in either direction for {limit:g} s. "
        "If long silences are normal here, raise the route's `timeouts.tunnel_idle`.",
    )


def _idle(limit: float, quiet: float) -> SidecarError | None:
    if quiet < limit:
        return None
    return SidecarError(
        Reason.IDLE_TIMEOUT,
        f"No byte moved in either direction for {limit:g} s. "
        "If long silences are normal here, raise the route's `timeouts.idle`.",
    )
