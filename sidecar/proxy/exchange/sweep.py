"""What the sweep checks in an exchange, about once a second.

Owns how a stall is told from slow progress, and when an exchange is given up. Called by the connection from the app.
"""

from __future__ import annotations

from math import inf

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.exchange import deadlines
from sidecar.proxy.exchange.deadlines import ANSWERING, SENT, TUNNEL
from sidecar.proxy.exchange.exchange import Exchange


def position(exchange: Exchange) -> tuple[int, int, int]:
    """A value that changes whenever something moves: the bytes received, and the bytes that wait for either side."""
    return exchange.progress, _unsent(exchange), exchange.app.unsent()


def overdue(exchange: Exchange, quiet: float, now_mono: float) -> SidecarError | None:
    """The error of an exchange without progress for `quiet` seconds, if that is too long, or of one that has reached
    `timeouts.total`.
    """
    state = exchange.state
    timeouts = exchange.pool.destination.route.config.timeouts
    elapsed = now_mono - exchange.request.began_mono
    error = deadlines.own(state, exchange.request.time_limit, elapsed) or deadlines.total(
        state, timeouts, elapsed
    )
    if error is not None or state not in (SENT, ANSWERING, TUNNEL):
        return error
    return deadlines.stalled(
        state,
        timeouts,
        exchange.context.limits,
        quiet,
        # While the app is full of earlier answers, this one is not read.
        app_waits=exchange.app.is_full if state is SENT else exchange.app.unsent() > 0,
        upstream_waits=_unsent(exchange) > 0,
        request_done=exchange.request_done,
    )


def look_for_peer(exchange: Exchange, quiet: float) -> None:
    """If nothing has moved for as long as connecting may take, check whether the upstream is still there."""
    side = exchange.side
    limit = exchange.pool.destination.route.config.timeouts.connect
    if exchange.state is not SENT or side is None or quiet < limit or not side.has_vanished(limit):
        return
    # The idle ones lead to the same peer: none of them is to cost a request as much again.
    exchange.pool.expire(inf)
    loss = side.loss()
    exchange.let_go()
    exchange.lost(
        loss,
        SidecarError(
            Reason.RESPONSE_TIMEOUT,
            f"For {limit:g} s the upstream has acknowledged nothing of what was sent to it: its machine, or "
            "the network path to it, is gone.",
        ),
    )


def _unsent(exchange: Exchange) -> int:
    return 0 if exchange.side is None else exchange.side.unsent()
