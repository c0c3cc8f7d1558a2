"""sidecar.proxy.server: how often it looks after its connections, whose they are, and when all of them have gone"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.config.addresses import parse_listen
from sidecar.config.load import load
from sidecar.net import listeners
from sidecar.net.listeners import PLAIN, Listener, Settings
from sidecar.observe.logs import AccessLog
from sidecar.proxy.admission.admission import Admission
from sidecar.proxy.http1.downstream import DownstreamConnection
from sidecar.proxy.http1.turns import DownstreamState
from sidecar.proxy.server import Proxy
from tests.support.wire import GET, OK, End, Wire

FAULT = ZeroDivisionError("division by zero")
ANY_HOST = b"GET /x HTTP/1.1\r\nHost: whatever\r\n\r\n"


@pytest.mark.parametrize(
    ("top", "route", "seconds"),
    [
        pytest.param("", "", 1.0, id="usually"),
        pytest.param("limits: {head_timeout: 2s}", "", 0.2, id="head"),
        pytest.param("limits: {keep_alive: 2s}", "", 0.2, id="keep-alive"),
        pytest.param("limits: {body_timeout: 2s}", "", 0.2, id="body"),
        pytest.param("limits: {send_timeout: 2s}", "", 0.2, id="send-to-the-app"),
        pytest.param("pool: {queue_wait: 2s}", "", 0.2, id="queue"),
        pytest.param("", "pool: {queue_wait: 3s}", 0.3, id="the-route's-queue"),
        pytest.param("", "timeouts: {response: 3s}", 0.3, id="response"),
        pytest.param("", "timeouts: {send: 3s}", 0.3, id="send"),
        pytest.param("", "timeouts: {idle: 3s}", 0.3, id="idle"),
        pytest.param("", "timeouts: {tunnel_idle: 3s}", 0.3, id="tunnel-idle"),
        pytest.param("", "timeouts: {total: 3s}", 0.3, id="total"),
        pytest.param("limits: {head_timeout: 100ms}", "timeouts: {idle: 3s}", 0.02, id="no-more-often"),
    ],
)
async def test_every_timeout_is_kept_to_a_tenth(wire: Wire, top: str, route: str, seconds: float) -> None:
    """The sweep goes by the shortest, from a second down to 20 ms; it is off without connections."""
    await wire.start(route, top=top)
    idle = wire.clock.pending
    app = await wire.app()
    await wire.turn(lambda: wire.proxy.connections == 1)
    assert min(set(wire.clock.pending) - set(idle)) == pytest.approx(seconds)
    wire.clock.advance(seconds)
    assert min(wire.clock.pending) == pytest.approx(seconds)
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)
    wire.clock.advance(100.0)
    assert all(delay > 1.0 for delay in wire.clock.pending)


async def test_another_configuration_brings_its_own_pace(wire: Wire) -> None:
    """From the next sweep on."""
    await wire.start()
    await wire.app()
    await wire.turn(lambda: wire.proxy.connections == 1)
    text = "routes: [{name: billing, upstream: 'http://127.0.0.1:1'}]\nlimits: {body_timeout: 4s, head_timeout: 7s}"
    config = load(text, environ={}).config
    wire.proxy.switch(
        Admission(wire.table, pseudonym=None),
        limits=config.limits,
        pool=config.pool,
        access_log=AccessLog("off"),
    )
    assert wire.proxy.acceptors.handshakes.seconds == 7.0
    wire.clock.advance(1.0)
    assert min(wire.clock.pending) == pytest.approx(0.4)


@pytest.fixture
async def another(wire: Wire) -> AsyncIterator[Listener]:
    """A Unix socket beside the shared listener."""
    await wire.start()
    with tempfile.TemporaryDirectory() as directory:
        (listener,) = listeners.bind(parse_listen(f"unix:{directory}/s"))
        yield listener


async def call(wire: Wire, listener: Listener) -> End:
    return await wire.connect(str(listener.address.path))


async def status(wire: Wire, app: End) -> int:
    """What a request for a host that no route has is answered."""
    app.writer.write(ANY_HOST)
    if wire.upstream.waiting or wire.stats.connections_active:
        raise AssertionError
    answer = asyncio.ensure_future(app.answer())  # noqa: TID251
    await wire.turn(lambda: answer.done() or wire.stats.in_flight)
    if not answer.done():
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        await upstream.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    return (await answer).status


async def test_a_listener_is_its_route_s_until_it_is_reassigned(wire: Wire, another: Listener) -> None:
    """Then another's, or nobody's, with the next request: of connections that are open, too."""
    billing = wire.table.routes[0]
    await wire.proxy.serve(another, billing)
    app = await call(wire, another)
    assert await status(wire, app) == 200
    wire.proxy.reassign(another, None)
    assert await status(wire, app) == 404
    wire.proxy.reassign(another, billing)
    assert await status(wire, app) == 200


async def test_a_listener_that_is_to_serve_https_is_its_route_s_too(wire: Wire, another: Listener) -> None:
    """Of the same kind as before, under another scheme."""
    certificate: Any = SimpleNamespace(client_cas=b"", settings=SimpleNamespace(client_ca_file=None))
    await wire.proxy.serve(another, None)
    wire.proxy.reassign(another, wire.table.routes[0], Settings(certificate=certificate))
    owner = wire.proxy.acceptors.owner(another)
    assert (owner.route, owner.is_unix, owner.origin_scheme) == (wire.table.routes[0], True, b"https://")
    assert owner.certificate is certificate


async def test_only_the_connections_of_a_listener_that_is_gone_end(wire: Wire, another: Listener) -> None:
    """Idle ones after a second, in which a request that was on its way is served."""
    await wire.proxy.serve(another, None)
    gone, stays = await call(wire, another), await wire.app()
    assert [await status(wire, app) for app in (gone, stays)] == [404, 404]
    wire.proxy.stop_serving(another)
    wire.clock.advance(0.5)
    assert wire.proxy.connections == 2
    wire.clock.advance(2.0)
    assert await gone.rest() == b""
    await stays.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await stays.answer()).status == 200


async def is_over(proxy: Proxy) -> bool:
    try:
        async with asyncio.timeout(0):
            await proxy.drained()
    except TimeoutError:
        return False
    return True


async def test_a_drain_is_over_when_the_last_connection_is_gone(wire: Wire) -> None:
    """Whatever came and went before it."""
    await wire.start()
    first = await wire.app()
    await wire.turn(lambda: wire.proxy.connections == 1)
    await first.close()
    await wire.turn(lambda: not wire.proxy.connections)
    app = await wire.app()
    await app.send(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    assert not await is_over(wire.proxy)
    wire.proxy.begin_drain()
    assert not await is_over(wire.proxy)
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    await wire.turn(lambda: not wire.proxy.connections)
    assert await is_over(wire.proxy)


async def test_after_an_abort_nothing_is_looked_after(wire: Wire) -> None:
    """No timer is left of the sweep."""
    await wire.start()
    before = wire.clock.pending
    await wire.app()
    await wire.turn(lambda: wire.proxy.connections == 1)
    wire.proxy.reassign(wire.bound, None, PLAIN)
    wire.proxy.abort()
    assert wire.clock.pending == before


def broken(*_: object) -> None:
    raise FAULT


@pytest.mark.interpreted
async def test_a_fault_in_the_sweep_is_told_and_the_sweep_goes_on(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every timeout hangs on the next one, also where nothing is open any more."""
    await wire.start()
    app = await wire.app()
    await wire.turn(lambda: wire.proxy.connections == 1)
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)
    with monkeypatch.context() as patched:
        patched.setattr(type(wire.pools), "sweep", broken)
        wire.clock.advance(1.0)
    quiet = 4.0 - wire.clock.mono() % 4.0
    assert (wire.proxy.faults.count, min(wire.clock.pending)) == (1, pytest.approx(quiet))
    assert caplog.records[-1].fields == {"where": "sweep"}  # type: ignore[attr-defined]
    assert (caplog.records[-1].exc_info or (None, None))[1] is FAULT
    wire.clock.advance(4.0)
    assert wire.proxy.faults.count == 1


@pytest.mark.interpreted
async def test_a_fault_in_looking_at_a_connection_is_that_one_s(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends; the others are looked at all the same."""
    await wire.start()
    for _ in range(2):
        await wire.app()
    await wire.turn(lambda: wire.proxy.connections == 2)
    sweep, met = DownstreamConnection.sweep, []

    def once(connection: DownstreamConnection, now_mono: float) -> None:
        met.append(connection)
        if len(met) == 1:
            raise FAULT
        sweep(connection, now_mono)

    monkeypatch.setattr(DownstreamConnection, "sweep", once)
    wire.clock.advance(1.0)
    assert (len(met), wire.proxy.faults.count) == (2, 1)
    assert (caplog.records[-1].exc_info or (None, None))[1] is FAULT
    assert [connection.state for connection in met] == [DownstreamState.LINGER, DownstreamState.OPEN]
