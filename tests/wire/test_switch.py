"""Another route table in a proxy that runs: what it leaves behind"""

from __future__ import annotations

import gc

from sidecar.config.groups import Limits
from sidecar.observe.logs import AccessLog
from sidecar.routing.routes import Route
from tests.support.wire import GET, OK, Wire


def routes() -> list[Route]:
    """All that the process holds."""
    return [thing for thing in gc.get_objects() if isinstance(thing, Route)]


async def test_other_limits_are_in_force_from_then_on(wire: Wire) -> None:
    """Of connections and of heads, for those that connect next."""
    await wire.start(top="limits: {connections: 1}")
    await wire.app()
    waiting = await wire.app()
    await waiting.send(GET)
    await wire.turn(lambda: wire.proxy.acceptors.stats.paused)
    wire.proxy.switch(
        wire.proxy.context.admission,
        limits=Limits.model_validate({"connections": 2, "head_timeout": "3s"}),
        pool=wire.pools.settings,
        access_log=AccessLog("off"),
    )
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await waiting.answer()).status == 200
    assert wire.proxy.acceptors.handshakes.seconds == 3.0


async def test_a_route_that_is_gone_is_forgotten(wire: Wire) -> None:
    """However often routes are replaced, only those of the table in force are kept; their counters go on.

    Whether its TLS files could be used is said of a route's present configuration only."""
    of_other_tests = routes()
    await wire.start()
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    await app.answer()
    await app.close()
    counted = wire.stats
    counted.tls_current = False
    for timeout in range(1, 6):
        text = (
            "routes:\n  - {name: billing, host: billing.internal, audience: 'https://billing.example', "
            f"upstream: 'http://127.0.0.1:{wire.upstream.port}', timeouts: {{connect: {timeout}s}}}}\n"
        )
        wire.switch(text)
    await wire.turn(lambda: not wire.proxy.connections and not any(pool.open for pool in wire.pools))
    wire.clock.advance(120)
    gc.collect()
    assert [route for route in routes() if route not in of_other_tests] == list(wire.table.routes)
    assert wire.stats is counted
    assert counted.requests == {("GET", 200): 1}
    assert counted.tls_current is None
