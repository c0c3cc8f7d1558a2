"""sidecar.proxy.exchange.tunnel: how many tunnels there may be, and how one ends"""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.exchange.deadlines import CONNECT, DONE, SENT
from sidecar.proxy.exchange.tunnel import Tunnel, no_room
from sidecar.proxy.ports import Loss
from tests.support.exchanges import OK, Exchanges
from tests.support.sides import FakeApp, FakeLink

ERROR = SidecarError(Reason.SEND_TIMEOUT, "Too slow.")
TOO_MANY = (
    "1 upgraded connections are open already, or asked for (`limits.tunnels`). Close some, or raise it."
)
NOT_ASKED = "The upstream answered 101 Switching Protocols with a protocol that was not asked for."


def test_there_is_room_up_to_the_limit() -> None:
    """And it is worth asking again soon."""
    assert no_room(["one"], 2) is None
    error = no_room(["one"], 1)
    assert error is not None
    assert (error.reason, error.detail, error.retry_after) == (Reason.TUNNEL_LIMIT, TOO_MANY, 10.0)


def test_a_tunnel_more_than_there_may_be_is_told_what_to_do() -> None:
    """One that only asks for one holds a place as well; nothing is sent of the next."""
    making = Exchanges(tunnels=1)
    first, second = (making.new(upgrade=b"websocket") for _ in range(2))
    first.start()
    second.start()
    assert (first.state, second.state, len(making.keeper.asked)) == (CONNECT, DONE, 1)
    assert making.refusal == ("tunnel_limit", TOO_MANY)
    assert making.context.tunnels == {first}


@pytest.mark.parametrize("how", ["declined", "failed", "left"])
def test_a_place_that_is_not_needed_is_given_back(how: str) -> None:
    """With the answer that declines, or the end."""
    making = Exchanges(tunnels=1)
    exchange, _ = making.sent(upgrade=b"websocket")
    assert making.context.tunnels == {exchange}
    if how == "declined":
        exchange.answer(*OK)
    elif how == "failed":
        exchange.time_out(ERROR)
    else:
        exchange.app_gone(ERROR)
    assert (making.context.tunnels, making.stats.tunnels, making.stats.upgrades) == (set(), 0, 0)


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        pytest.param(b"websocket", [], id="none"),
        pytest.param(b"websocket", [(b"Upgrade", b"h2c")], id="another"),
        pytest.param(None, [(b"Upgrade", b"websocket")], id="nothing-was-asked"),
        pytest.param(None, [], id="nothing-at-all"),
    ],
)
def test_a_switch_is_to_what_was_asked_for(asked: bytes | None, fields: Any) -> None:
    """Or no switch."""
    making = Exchanges()
    exchange, _ = making.sent(upgrade=asked)
    error = exchange.switch(b"Switching Protocols", fields)
    assert error is not None
    assert (error.reason, error.detail) == (Reason.UPGRADE_FAILED, NOT_ASKED)
    assert (exchange.state, making.stats.upgrades, making.app.told) == (SENT, 0, [])


def test_a_switch_makes_a_tunnel() -> None:
    """The app is told with the upstream's lines, and bytes go both ways, and are counted."""
    making = Exchanges()
    exchange, link = making.tunnel()
    fields = [(b"Upgrade", b"websocket")]
    assert making.app.told == [("switch", b"Switching Protocols", fields, b"websocket")]
    exchange.from_app(b"abc")
    exchange.from_upstream(b"defg")
    assert (link.body_got, making.app.body_got) == (b"abc", b"defg")
    exchange.app_gone(ERROR)
    assert (making.stats.bytes_sent, making.stats.bytes_received) == (3, 4)
    assert making.stats.requests == {("GET", 101): 1}


def test_tunnels_are_counted_and_end_without_an_error() -> None:
    """Whichever side ends them; what the app had sent still goes to the upstream."""
    making = Exchanges()
    (by_app, first), (by_upstream, _), (other, _) = (making.tunnel() for _ in range(3))
    assert (making.stats.upgrades, making.stats.tunnels) == (3, 3)
    by_app.app_gone(ERROR)
    assert (by_app.error, first.said("cancel")) == (None, [("cancel", True)])
    by_upstream.lost(Loss.UNKNOWN, None)
    assert (by_upstream.error, making.app.told[-1]) == (None, ("tunnel_close",))
    assert (making.stats.tunnels, making.stats.refused, making.stats.cut) == (1, {}, {})
    assert making.context.tunnels == {other}


def test_one_that_takes_too_long_is_cut() -> None:
    """And nothing of it is sent any more."""
    making = Exchanges()
    exchange, link = making.tunnel()
    exchange.time_out(ERROR)
    assert (link.said("cancel"), making.app.said("cut")) == ([("cancel", False)], [("cut", ERROR)])
    assert (making.stats.cut, making.stats.tunnels) == ({"send_timeout": 1}, 0)


@pytest.mark.parametrize("first", ["app", "upstream"])
def test_a_tunnel_s_directions_end_one_after_the_other(first: str) -> None:
    """The first end is passed on, the second one closes."""
    making = Exchanges()
    exchange, link = making.tunnel()
    ended = [exchange.app_ended, exchange.upstream_ended]
    told: list[Any] = [link, making.app]
    if first == "upstream":
        ended.reverse()
        told.reverse()
    assert ended[0]() is True
    assert told[0].said("tunnel_end") == [("tunnel_end",)]
    assert not told[0].said("tunnel_close")
    assert ended[1]() is False
    assert (told[1].said("tunnel_end"), told[1].said("tunnel_close")) == ([], [("tunnel_close",)])


def test_an_end_that_cannot_be_passed_on_closes() -> None:
    """TLS has none by half."""
    app, link = FakeApp(), FakeLink()
    link.halves = False
    assert Tunnel(app, link).ended(link) is False
    assert link.said("tunnel_close")


def test_before_it_is_a_tunnel_and_after_its_end_nothing_is_kept_open() -> None:
    """And late bytes go nowhere."""
    making = Exchanges()
    exchange, link = making.sent(upgrade=b"websocket")
    assert (exchange.app_ended(), exchange.upstream_ended()) == (False, False)
    tunnel, link = making.tunnel()
    tunnel.app_gone(ERROR)
    assert tunnel.app_ended() is False
    tunnel.from_app(b"late")
    assert link.body_got == b""
