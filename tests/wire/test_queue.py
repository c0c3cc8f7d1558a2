"""Places for connections: the bound of a route, and the queue of requests that wait for one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.config.groups import Limits, PoolSettings
from sidecar.net.dial import Dialer
from sidecar.routing.routes import Destination
from tests.support.wire import GET, OK, End, Upstream, Wire

ANY = """
- name: any
  host: "*.any.internal"
  upstream: http://{host}
  allow_plaintext: true
  audience: https://billing.example
  wildcard_audience: shared
"""


def get(host: str, path: str = "/x") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}.any.internal\r\n\r\n".encode()


def lead(wire: Wire, host: str, upstream: Upstream) -> None:
    """Have this host of the wildcard route `any` lead to a scripted upstream: its port can't be configured."""
    destination = wire.table.routes[1].destination(f"{host}.any.internal")
    destination.host, destination.port = "127.0.0.1", upstream.port


async def queued(wire: Wire, request: bytes = GET, *, route: int = 0) -> End:
    """An app whose request waits in the queue."""
    stats = wire.proxy.stats[wire.table.routes[route].name]
    before = stats.queued
    app = await wire.app()
    await app.send(request)
    await wire.turn(lambda: stats.queued == before + 1)
    return app


async def busy(wire: Wire, request: bytes = GET) -> tuple[End, End]:
    """An app whose request has a connection, and the upstream's end of it."""
    app = await wire.app()
    await app.send(request)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    return app, upstream


async def test_requests_beyond_the_connections_wait_their_turn(wire: Wire) -> None:
    """With one connection allowed, the others go out on it in the order in which they came."""
    await wire.start(top="pool: {connections: 1}")
    first, upstream = await busy(wire)
    others = [await queued(wire, GET.replace(b"/x", b"/%d" % number)) for number in range(3)]
    await upstream.send(OK)
    assert (await first.answer()).body == b"ok"
    for number, app in enumerate(others):
        assert (await upstream.read_head()).startswith(b"GET /%d " % number)
        await upstream.send(OK)
        assert (await app.answer()).body == b"ok"
    assert wire.upstream.waiting == 0
    assert (wire.stats.queued, wire.stats.connections_opened) == (0, 1)


@pytest.mark.parametrize("queue", [0, 1])
async def test_a_full_queue_refuses_at_once(wire: Wire, queue: int) -> None:
    """503 with Retry-After, before anything went upstream; the app's connection serves on."""
    await wire.start(top=f"pool: {{connections: 1, queue: {queue}}}")
    first, upstream = await busy(wire)
    waiting = [await queued(wire) for _ in range(queue)]
    wire.clock.advance(4.0)
    late = await wire.app()
    await late.send(GET)
    answer = await late.answer()
    assert (answer.status, answer.reason) == (503, "queue_full")
    assert answer.headers["proxy-status"].startswith("idtoken-sidecar; error=connection_limit_reached;")
    # As long as the next one has waited already.
    assert answer.headers["retry-after"] == ("4" if queue else "1")
    assert "connection" not in answer.headers
    assert wire.stats.refused == {"queue_full": 1}
    await upstream.send(OK)
    for app in waiting:
        await upstream.read_head()
        await upstream.send(OK)
        assert (await app.answer()).status == 200
    assert (await first.answer()).status == 200
    await late.send(GET)
    await upstream.read_head()
    await upstream.send(OK)
    assert (await late.answer()).status == 200


async def test_the_queue_has_a_deadline(wire: Wire) -> None:
    """503 with Retry-After after `pool.queue_wait`, not a moment before; those that came later wait on."""
    await wire.start(top="pool: {connections: 1, queue_wait: 20s}")
    _, upstream = await busy(wire)
    early = await queued(wire)
    wire.clock.advance(10.0)
    late = await queued(wire)
    wire.clock.advance(9.0)
    assert wire.stats.queued == 2
    wire.clock.advance(2.0)
    answer = await early.answer()
    assert (answer.status, answer.reason, answer.headers["retry-after"]) == (503, "queue_timeout", "20")
    assert wire.stats.queued == 1
    await upstream.send(OK)
    await upstream.read_head()
    await upstream.send(OK)
    assert (await late.answer()).status == 200


async def test_a_body_that_trickles_does_not_lengthen_the_wait(wire: Wire) -> None:
    """The deadline counts from the request's arrival in the queue, whatever comes from the app meanwhile."""
    await wire.start(top="pool: {connections: 1, queue_wait: 5s}")
    await busy(wire)
    app = await queued(wire, b"POST /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 99\r\n\r\n")
    for _ in range(6):
        wire.clock.advance(1.0)
        app.writer.write(b"a")
        await wire.yield_()
    assert (await app.answer()).reason == "queue_timeout"


async def test_an_app_that_leaves_is_taken_out_of_the_queue(wire: Wire) -> None:
    """The connection goes to the next one."""
    await wire.start(top="pool: {connections: 1}")
    first, upstream = await busy(wire)
    gone = await queued(wire, GET.replace(b"/x", b"/gone"))
    last = await queued(wire, GET.replace(b"/x", b"/last"))
    await gone.close()
    await wire.turn(lambda: wire.stats.queued == 1)
    await upstream.send(OK)
    assert (await first.answer()).status == 200
    assert (await upstream.read_head()).startswith(b"GET /last ")
    await upstream.send(OK)
    assert (await last.answer()).status == 200
    assert (wire.stats.in_flight, wire.stats.connections_idle) == (0, 1)


async def test_a_retry_keeps_its_turn(wire: Wire) -> None:
    """A request that met a stale connection is sent again before those that were queued meanwhile."""
    await wire.start(top="pool: {connections: 1, queue: 1}")
    first, upstream = await busy(wire)
    await upstream.send(OK)
    await first.answer()
    await first.send(GET.replace(b"/x", b"/again"))
    await upstream.read_head()
    second = await queued(wire, GET.replace(b"/x", b"/second"))
    upstream.reset()
    fresh = await wire.upstream.accept()
    for app, path in ((first, b"/again"), (second, b"/second")):
        assert (await fresh.read_head()).startswith(b"GET %b " % path)
        await fresh.send(OK)
        assert (await app.answer()).status == 200
    assert wire.stats.retries == 1


class GatedDialer:
    """A dialer whose connections are not there before it is told."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self.gate = asyncio.Event()

    def look(self) -> list[Any]:
        return self._dialer.look()

    async def connect(
        self, destination: Destination, make: Any, session: Any, stats: Any, *, http2: bool
    ) -> Any:
        await self.gate.wait()
        return await self._dialer.connect(destination, make, session, stats, http2=http2)


async def test_dialling_is_no_part_of_the_wait(wire: Wire) -> None:
    """It has `timeouts.connect`; the queue's deadline is for those who find no place."""
    await wire.start(top="pool: {queue_wait: 1s}")
    gated = GatedDialer(wire.pools.dialer)
    wire.pools.dialer = gated  # type: ignore[assignment]
    app = await wire.app()
    await app.send(GET)
    await wire.turn(lambda: wire.stats.in_flight == 1)
    wire.clock.advance(60.0)
    assert wire.stats.queued == 0
    gated.gate.set()
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200


async def test_all_hosts_of_a_route_share_its_places(wire: Wire) -> None:
    """The longest waiting is next, whatever its host; its connection replaces the one to another host."""
    await wire.start(more=ANY, top="pool: {connections: 1}")
    other = Upstream()
    await other.start()
    lead(wire, "a", wire.upstream)
    lead(wire, "b", other)
    first, a = await busy(wire, get("a"))
    second = await queued(wire, get("b"), route=1)
    third = await queued(wire, get("a", "/third"), route=1)
    assert other.waiting == 0
    await a.send(OK)
    assert (await first.answer()).status == 200
    assert await a.rest() == b""
    b = await other.accept()
    await b.read_head()
    await b.send(OK)
    assert (await second.answer()).status == 200
    assert await b.rest() == b""
    a = await wire.upstream.accept()
    assert (await a.read_head()).startswith(b"GET /third ")
    await a.send(OK)
    assert (await third.answer()).status == 200
    stats = wire.proxy.stats[wire.table.routes[1].name]
    assert (stats.connections_idle, stats.connections_active, stats.connections_opened) == (1, 0, 3)
    await other.close()


async def test_an_idle_connection_makes_room_for_another_host(wire: Wire) -> None:
    """Nobody waits for a place that an idle connection holds; the one that idled longest goes."""
    await wire.start(more=ANY, top="pool: {connections: 2, queue: 0}")
    for host in "abc":
        lead(wire, host, wire.upstream)
    ends = []
    for host in "ab":
        app, upstream = await busy(wire, get(host))
        await upstream.send(OK)
        await app.answer()
        ends.append(upstream)
        wire.clock.advance(1.0)
    app, upstream = await busy(wire, get("c"))
    assert await ends[0].rest() == b""
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    await app.send(get("b"))
    await ends[1].read_head()
    await ends[1].send(OK)
    assert (await app.answer()).status == 200
    stats = wire.proxy.stats[wire.table.routes[1].name]
    assert (stats.connections_idle, stats.connections_opened) == (2, 3)


async def test_a_route_has_its_own_limits_key_by_key(wire: Wire) -> None:
    """What it does not say is the top-level `pool`'s; another route's requests don't count."""
    await wire.start("pool: {connections: 1}", more=ANY, top="pool: {connections: 7, queue: 0}")
    lead(wire, "a", wire.upstream)
    await busy(wire)
    await busy(wire, get("a"))
    app = await wire.app()
    await app.send(GET)
    assert (await app.answer()).reason == "queue_full"
    await busy(wire, get("a"))


async def test_more_places_after_a_reload_are_taken_at_once(wire: Wire) -> None:
    """The queue need not wait for the next answer."""
    await wire.start(top="pool: {connections: 1}")
    await busy(wire)
    app = await queued(wire)
    proxy = wire.proxy
    proxy.switch(
        proxy.context.admission,
        limits=Limits(),
        pool=PoolSettings(connections=2),
        access_log=proxy.ledger.access_log,
    )
    second = await wire.upstream.accept()
    await second.read_head()
    await second.send(OK)
    assert (await app.answer()).status == 200


async def test_a_failed_dial_gives_its_place_to_the_queue(wire: Wire) -> None:
    """Each request gets its own answer, and none is left waiting."""
    await wire.start(top="pool: {connections: 1}")
    first, upstream = await busy(wire)
    others = [await queued(wire) for _ in range(3)]
    await wire.upstream.stop()
    upstream.reset()
    assert (await first.answer()).reason == "upstream_closed"
    assert [(await app.answer()).reason for app in others] == ["connect_refused"] * 3
    assert (wire.stats.queued, wire.stats.in_flight) == (0, 0)
