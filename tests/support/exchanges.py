"""Exchanges between played sides: a real context, ledger and clock, a pool and a store that the test plays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.config.load import load
from sidecar.errors import SidecarError
from sidecar.observe.logs import AccessLog
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.admission.admission import HeaderPlan
from sidecar.proxy.exchange.context import Context
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.exchange.ledger import Ledger
from sidecar.proxy.faults import Faults
from sidecar.proxy.fields import headers
from sidecar.proxy.fields.headers import drop_table
from sidecar.proxy.messages import NO_BODY
from sidecar.routing.routes import Destination, Route
from tests.support import sides
from tests.support.clock import FakeClock
from tests.support.named_source import NamedSource
from tests.support.sides import FakeApp, FakeKeeper, FakeLink

TIMEOUTS = "timeouts: {connect: 1s, response: 3s, send: 4s, idle: 5s, tunnel_idle: 6s, total: 100s}"
LIMITS = {"buffer": 10, "body_timeout": 20.0, "send_timeout": 21.0}

TOKENLESS = HeaderPlan((), frozenset(), drop_table(frozenset()))
"""The token is the app's own affair."""
_DROPPED = frozenset({b"authorization"})
WITH_TOKEN = HeaderPlan((b"Authorization",), _DROPPED, drop_table(_DROPPED))

OK: Any = (200, b"OK", [(b"Content-Length", b"4")], {b"content-length": b"4"}, 4)
"""The head of a good answer."""


class FakeTokens:
    """The token store, as an exchange asks it."""

    def __init__(self) -> None:
        self.value: bytes | None = b"Bearer first"
        self.asked: list[tuple[Any, ...]] = []
        self.waiting: list[Callable[[SidecarError | None], None]] = []
        self.refused: list[bytes] = []
        """What those who wait were refused."""
        self.rejected: list[bytes] = []
        self.renews = True
        """Whether a token that was rejected is replaced."""
        self.error: SidecarError | None = None
        """The error for an exchange that would have to wait."""

    def bearer(self, *asked: Any) -> bytes | None:
        """What is sent, if it is there."""
        self.asked.append(asked)
        return self.value

    def join(self, key: Any, settled: Any, *, refused: bytes = b"") -> None:
        """Wait."""
        if self.error is not None:
            raise self.error
        self.waiting.append(settled)
        self.refused.append(refused)

    def leave(self, key: Any, settled: Any) -> None:
        """Wait no longer."""
        self.waiting.remove(settled)

    def reject(self, key: Any, value: bytes) -> bool:
        """The target would not have it."""
        self.rejected.append(value)
        return self.renews

    def settle(self, value: bytes | None, error: SidecarError | None = None) -> None:
        """The one that was waited for is there, or can't be had."""
        self.value = value
        waiting, self.waiting = self.waiting, []
        for settled in waiting:
            settled(error)


class FakePools:
    """The one pool."""

    def __init__(self, keeper: FakeKeeper) -> None:
        self.keeper = keeper
        self.faults: Faults = keeper.faults

    def get(self, destination: Destination, wire: int) -> FakeKeeper:
        """Whatever the destination."""
        assert destination is self.keeper.destination
        return self.keeper


class Exchanges:
    """Those of one route."""

    def __init__(self, keys: str = TIMEOUTS, **limits: Any) -> None:
        config = load(
            f"routes: [{{name: any, host: '*.example.com', upstream: 'https://{{host}}', {keys}}}]",
            environ={},
        ).config
        self.clock = FakeClock()
        self.route = Route(config.routes[0], NamedSource("default"))
        self.stats = RouteStats()
        self.keeper = FakeKeeper(self.route.destination("a.example.com"), self.stats)
        self.tokens = FakeTokens()
        self.ledger = Ledger(self.clock, {"any": self.stats}, AccessLog("off"), None)
        made: Any = Context
        self.context: Context = made(
            self.clock,
            None,
            admission=None,
            limits=config.limits.model_copy(update={**LIMITS, **limits}),
            pools=FakePools(self.keeper),
            tokens=self.tokens,
            ledger=self.ledger,
        )
        self.app = FakeApp()

    def new(
        self,
        method: bytes = b"GET",
        fields: headers.Fields = (),
        *,
        body: int = NO_BODY,
        upgrade: bytes | None = None,
        plan: HeaderPlan = TOKENLESS,
        app: FakeApp | None = None,
    ) -> Exchange:
        """One that waits for its turn."""
        request = sides.request(method, fields, body=body, upgrade=upgrade, began_mono=self.clock.mono())
        return Exchange(
            self.context,
            self.app if app is None else app,
            request,
            (self.keeper.destination, b"/x", b"", plan),
        )

    def waiting(self, method: bytes = b"GET", **how: Any) -> Exchange:
        """One that waits for a connection."""
        exchange = self.new(method, **how)
        exchange.start()
        return exchange

    def connect(self, exchange: Exchange) -> FakeLink:
        """Give it the connection that it waits for."""
        link = FakeLink(self.keeper)
        exchange.connected(link)
        return link

    def sent(self, method: bytes = b"GET", **how: Any) -> tuple[Exchange, FakeLink]:
        """One that was sent, and what carries it."""
        exchange = self.waiting(method, **how)
        return exchange, self.connect(exchange)

    def answering(self, method: bytes = b"GET", **how: Any) -> tuple[Exchange, FakeLink]:
        """One whose answer has begun."""
        exchange, link = self.sent(method, **how)
        assert exchange.answer(*OK)
        return exchange, link

    def tunnel(self, **how: Any) -> tuple[Exchange, FakeLink]:
        """One that has become a tunnel."""
        exchange, link = self.sent(upgrade=b"websocket", **how)
        assert exchange.switch(b"Switching Protocols", [(b"Upgrade", b"websocket")]) is None
        return exchange, link

    @property
    def refusal(self) -> tuple[str, str]:
        """Reason and detail of the error that the app was answered with."""
        ((_, _, error, route),) = self.app.said("fail")
        assert route == "any"
        return error.reason, error.detail
