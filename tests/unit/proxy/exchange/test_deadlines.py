"""sidecar.proxy.exchange.deadlines: how long each part of an exchange may take, and what is said then"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.config.groups import Timeouts
from sidecar.errors import Reason
from sidecar.proxy.exchange import deadlines, sweep
from sidecar.proxy.exchange.deadlines import ANSWERING, CONNECT, QUEUED, SENT, TOKEN, TUNNEL, ExchangeState
from sidecar.proxy.exchange.exchange import Exchange
from tests.support.exchanges import Exchanges
from tests.support.sides import FakeLink

Made = tuple[Exchange, FakeLink]


def with_body(making: Exchanges) -> Made:
    return making.sent(b"POST", body=5)


def to_the_target(making: Exchanges) -> Made:
    exchange, link = with_body(making)
    link.waiting = 1
    return exchange, link


def to_the_target_while_answering(making: Exchanges) -> Made:
    exchange, link = making.answering()
    link.waiting = 1
    return exchange, link


def to_the_app(making: Exchanges) -> Made:
    """Also where the target takes nothing either."""
    exchange, link = to_the_target_while_answering(making)
    making.app.waiting = 1
    return exchange, link


def to_the_app_before_its_answer(making: Exchanges) -> Made:
    """The app is full of earlier answers."""
    making.app.is_full = True
    return making.sent()


OVERDUE = [
    pytest.param(
        Exchanges.sent,
        3.0,
        Reason.RESPONSE_TIMEOUT,
        "The upstream did not answer within 3 s. If the service may take longer, raise the route's `timeouts.response`.",
        id="response",
    ),
    pytest.param(
        with_body,
        20.0,
        Reason.BODY_TIMEOUT,
        "No byte of the request's body came for 20 s (`limits.body_timeout`).",
        id="body",
    ),
    pytest.param(
        to_the_target,
        4.0,
        Reason.SEND_TIMEOUT,
        "The upstream took none of the bytes that wait for it for 4 s. Find out what keeps it, or raise the route's `timeouts.send`.",
        id="send",
    ),
    pytest.param(
        to_the_app,
        21.0,
        Reason.CLIENT_STALLED,
        "The app took none of the bytes that wait for it for 21 s (`limits.send_timeout`).",
        id="app",
    ),
    pytest.param(
        to_the_app_before_its_answer,
        21.0,
        Reason.CLIENT_STALLED,
        "The app took none of the bytes that wait for it for 21 s (`limits.send_timeout`).",
        id="app-before-its-answer",
    ),
    pytest.param(
        to_the_target_while_answering,
        4.0,
        Reason.SEND_TIMEOUT,
        "The upstream took none of the bytes that wait for it for 4 s. Find out what keeps it, or raise the route's `timeouts.send`.",
        id="send-while-answering",
    ),
    pytest.param(
        Exchanges.answering,
        5.0,
        Reason.IDLE_TIMEOUT,
        "No byte moved in either direction for 5 s. If long silences are normal here, raise the route's `timeouts.idle`.",
        id="idle",
    ),
    pytest.param(
        Exchanges.tunnel,
        6.0,
        Reason.TUNNEL_IDLE,
        "No byte moved in either direction for 6 s. If long silences are normal here, raise the route's `timeouts.tunnel_idle`.",
        id="tunnel",
    ),
]


@pytest.mark.parametrize(("made", "limit", "reason", "says"), OVERDUE)
def test_every_wait_has_its_limit_and_its_words(
    made: Callable[[Exchanges], Made], limit: float, reason: Reason, says: str
) -> None:
    """Not a moment before it; by what holds things up just now."""
    making = Exchanges()
    exchange, _ = made(making)
    now_mono = making.clock.mono()
    assert sweep.overdue(exchange, limit - 0.01, now_mono) is None
    error = sweep.overdue(exchange, limit, now_mono)
    assert error is not None
    assert (error.reason, error.detail) == (reason, says)


DOING = [
    pytest.param(QUEUED, "waiting for its turn", id="queued"),
    pytest.param(TOKEN, "waiting for a token", id="token"),
    pytest.param(CONNECT, "waiting for a connection", id="connect"),
    pytest.param(SENT, "waiting for the upstream", id="sent"),
    pytest.param(ANSWERING, "being answered", id="answering"),
]


@pytest.mark.parametrize(("state", "doing"), DOING)
def test_the_whole_of_it_has_a_limit(state: ExchangeState, doing: str) -> None:
    """With what it was doing; a tunnel has none."""
    timeouts = Timeouts.model_validate({"total": "100s"})
    assert deadlines.total(state, timeouts, 99.9) is None
    error = deadlines.total(state, timeouts, 100.0)
    assert error is not None
    assert (error.reason, error.detail) == (
        Reason.TOTAL_TIMEOUT,
        f"The answer was not complete 100 s after the request had come, while it was {doing}. "
        "If it may take longer, raise the route's `timeouts.total`.",
    )
    assert deadlines.total(TUNNEL, timeouts, 999.0) is None


def test_the_limit_of_the_whole_counts_from_the_first_byte() -> None:
    """Whatever has moved since."""
    making = Exchanges()
    exchange, _ = making.sent()
    began_mono = exchange.request.began_mono
    assert sweep.overdue(exchange, 0.0, began_mono + 99.9) is None
    error = sweep.overdue(exchange, 0.0, began_mono + 100.0)
    assert error is not None
    assert error.reason is Reason.TOTAL_TIMEOUT


def test_where_nothing_is_said_of_a_total_there_is_none() -> None:
    """By default."""
    making = Exchanges("timeouts: {response: 3s}")
    exchange, _ = making.sent()
    assert sweep.overdue(exchange, 0.0, making.clock.mono() + 1e9) is None


def test_what_is_waited_for_elsewhere_has_its_limit_there() -> None:
    """Its turn, a token and a connection; a tunnel has no total."""
    making = Exchanges()
    now_mono = making.clock.mono()
    assert sweep.overdue(making.new(), 99.0, now_mono) is None
    assert sweep.overdue(making.waiting(), 99.0, now_mono) is None
    tunnel, _ = making.tunnel()
    assert sweep.overdue(tunnel, 0.0, now_mono + 999.0) is None


@pytest.mark.parametrize(
    ("state", "doing"),
    [
        (QUEUED, "waiting for its turn"),
        (TOKEN, "waiting for a token"),
        (CONNECT, "waiting for a connection"),
        (SENT, "waiting for the upstream"),
        (ANSWERING, "being answered"),
        (TUNNEL, "under way"),
    ],
)
def test_a_call_s_own_deadline(state: ExchangeState, doing: str) -> None:
    """Over from that second on; it says what the call was at."""
    assert deadlines.own(state, None, 1e9) is None
    assert deadlines.own(state, 2.5, 2.499) is None
    error = deadlines.own(state, 2.5, 2.5)
    assert error is not None
    assert error.reason is Reason.DEADLINE_EXCEEDED
    assert error.detail == f"The call's own deadline of 2.5 s passed while it was {doing}."
