"""Accepting: at a limit callers wait in the kernel's backlog, are told nothing, and are served when there is room"""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any, cast

import pytest

from sidecar.config.addresses import ListenAddress
from sidecar.net import listeners
from sidecar.net.listeners import PLAIN, Settings
from sidecar.observe.metrics import Pause
from tests.support.wire import GET, OK, End, Wire


async def served(wire: Wire, app: End, *, upstream: End | None = None) -> End:
    """Serve the request that `app` has sent."""
    upstream = upstream or await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    return upstream


LIMITS = [
    pytest.param("limits: {connections: 2}", Pause.CONNECTIONS, id="in-all"),
    pytest.param("listen: {address: 'localhost:0', connections: 2}", Pause.LISTENER, id="of-the-listener"),
]


@pytest.mark.parametrize(("top", "reason"), LIMITS)
async def test_at_the_limit_a_caller_waits_and_is_then_served(wire: Wire, top: str, reason: Pause) -> None:
    """Its connection and its request are in the kernel's hands: it gets no error, and no answer before there is room."""
    await wire.start(top=top)
    first, second = await wire.app(), await wire.app()
    await wire.turn(lambda: wire.proxy.connections == 2)
    third, fourth = await wire.app(), await wire.app()
    await third.send(GET)
    await fourth.send(GET)
    stats = wire.proxy.acceptors.stats
    await wire.turn(lambda: stats.paused == {reason: 1})
    assert (wire.proxy.connections, stats.accepted, stats.pausing) == (2, 2, 1)
    await first.close()
    upstream = await served(wire, third)
    assert wire.proxy.connections == 2
    await second.close()
    await served(wire, fourth, upstream=upstream)
    assert (stats.accepted, stats.pausing) == (4, 0)


async def test_nobody_waits_and_nothing_is_a_pause(wire: Wire) -> None:
    """A full house alone is none: only a caller that has to wait makes one."""
    await wire.start(top="limits: {connections: 1}")
    app = await wire.app()
    await app.send(GET)
    upstream = await served(wire, app)
    await app.send(GET)
    await served(wire, app, upstream=upstream)
    assert wire.proxy.acceptors.stats.paused == {}


@pytest.mark.parametrize("in_all", [True, False], ids=["in-all", "of-the-listener"])
async def test_a_higher_limit_lets_those_in_who_wait(wire: Wire, in_all: bool) -> None:
    """At a reload, without a connection's end."""
    top = "limits: {connections: 1}" if in_all else "listen: {address: 'localhost:0', connections: 1}"
    await wire.start(top=top)
    await wire.app()
    waiting = await wire.app()
    await waiting.send(GET)
    await wire.turn(lambda: wire.proxy.acceptors.stats.paused)
    if in_all:
        wire.proxy.acceptors.set_limits(limit=2, handshake=10.0)
    else:
        wire.proxy.reassign(wire.bound, None, Settings(connections=2))
    await served(wire, waiting)


async def test_a_lower_limit_ends_nobody(wire: Wire) -> None:
    """Open connections stay; new ones wait until there are fewer."""
    await wire.start()
    apps = [await wire.app() for _ in range(3)]
    await wire.turn(lambda: wire.proxy.connections == 3)
    wire.proxy.reassign(wire.bound, None, Settings(connections=2))
    waiting = await wire.app()
    await waiting.send(GET)
    await apps[0].send(GET)
    upstream = await served(wire, apps[0])
    await apps[1].close()
    await wire.turn(lambda: wire.proxy.connections == 2)
    await apps[2].close()
    await served(wire, waiting, upstream=upstream)


class Failing:
    """A listening socket whose `accept` fails as told; `fileno` and all else are the real one's."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.error = 0
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def accept(self) -> tuple[socket.socket, Any]:
        self.tries += 1
        if self.error:
            raise OSError(self.error, "as the test wants it")
        return self._socket.accept()


SHORTAGES = [
    pytest.param(errno.EMFILE, Pause.DESCRIPTORS, id="the-process-has-no-descriptor"),
    pytest.param(errno.ENFILE, Pause.DESCRIPTORS, id="the-system-has-no-descriptor"),
    pytest.param(errno.ENOBUFS, Pause.MEMORY, id="no-buffers"),
    pytest.param(errno.ENOMEM, Pause.MEMORY, id="no-memory"),
    pytest.param(errno.EINVAL, Pause.OTHER, id="what-nobody-thought-of"),
]


@pytest.mark.parametrize(("code", "reason"), SHORTAGES)
async def test_a_shortage_is_met_with_patience(wire: Wire, code: int, reason: Pause) -> None:
    """It is tried four times a second and not at every turn, counted once, and over with the first success."""
    failing = await _failing(wire, code)
    app = await wire.app()
    await app.send(GET)
    await wire.turn(lambda: failing.tries == 1)
    for _ in range(50):
        await wire.yield_()
    assert failing.tries == 1
    for tries in range(2, 6):
        wire.clock.advance(0.25)
        await wire.turn(lambda tries=tries: failing.tries == tries)
    stats = wire.proxy.acceptors.stats
    assert (stats.paused, stats.pausing) == ({reason: 1}, 2)  # every listener
    failing.error = 0
    wire.clock.advance(0.25)
    await served(wire, app)
    assert stats.pausing == 0
    failing.error = code
    await wire.app()
    await wire.turn(lambda: stats.paused == {reason: 2})


async def test_a_shortage_is_over_where_nobody_waits_any_more(wire: Wire) -> None:
    """A listener that can be tried again pauses for nobody, though no caller has shown it yet."""
    failing = await _failing(wire, 0)
    accept = failing.accept

    def lose() -> tuple[socket.socket, Any]:
        accept()[0].close()
        raise RuntimeError("as the test wants it")

    failing.accept = lose  # type: ignore[method-assign]
    await wire.app()
    stats = wire.proxy.acceptors.stats
    await wire.turn(lambda: failing.tries == 1)
    assert (stats.paused, stats.pausing) == ({Pause.OTHER: 1}, 2)
    wire.clock.advance(0.25)
    assert stats.pausing == 0
    failing.accept = accept  # type: ignore[method-assign]
    app = await wire.app()
    await app.send(GET)
    await served(wire, app)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, object]]:
    """The entries about accepting."""
    return [
        (record.levelname, record.message, record.fields)  # type: ignore[attr-defined]
        for record in caplog.records
        if record.message.startswith("accepting")
    ]


NO_MORE = "accepting no connections for now: further callers wait"


async def test_a_limit_that_somebody_meets_is_told_once_a_minute(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """With where, how many are open, and how often it was not told."""
    await wire.start(top="limits: {connections: 1}")
    acceptors = wire.proxy.acceptors
    stats = acceptors.stats
    for seconds, pauses in ((0.0, 1), (59.9, 2), (0.1, 3)):
        wire.clock.advance(seconds)
        first, waiting = await wire.app(), await wire.app()
        await wire.turn(lambda pauses=pauses: stats.paused == {Pause.CONNECTIONS: pauses})
        for app in (first, waiting):
            await app.close()
        await wire.turn(lambda pauses=pauses: stats.accepted == 2 * pauses and not acceptors.arriving)
        await wire.turn(lambda: not acceptors.open)
    fields = {"reason": "connections", "listen": f"127.0.0.1:{wire.port}", "open": 1}
    assert told(caplog) == [("WARNING", NO_MORE, fields), ("WARNING", NO_MORE, {**fields, "untold": 1})]


async def test_a_shortage_and_its_end_are_told(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """With the system's words."""
    caplog.set_level(logging.INFO)
    failing = await _failing(wire, errno.EMFILE)
    app = await wire.app()
    await app.send(GET)
    await wire.turn(lambda: failing.tries == 1)
    failing.error = 0
    wire.clock.advance(0.25)
    await served(wire, app)
    assert told(caplog) == [
        ("WARNING", NO_MORE, {"reason": "descriptors", "detail": "as the test wants it", "open": 0}),
        ("INFO", "accepting connections again", {"open": 1}),
    ]


async def test_a_shortage_ends_when_a_connection_does(wire: Wire) -> None:
    """At once: its descriptor is free."""
    failing = await _failing(wire, 0)
    first = await wire.app()
    await wire.turn(lambda: wire.proxy.connections == 1)
    failing.error = errno.EMFILE
    app = await wire.app()
    await app.send(GET)
    await wire.turn(lambda: wire.proxy.acceptors.is_short)
    failing.error = 0
    await first.close()
    await served(wire, app)


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPROTO, errno.ENETUNREACH])
async def test_the_fault_of_one_connection_is_passed_over(wire: Wire, code: int) -> None:
    """accept(2): Linux reports a new connection's own error there."""
    failing = await _failing(wire, 0)
    real, faults = failing.accept, [OSError(code, "gone")]

    def accept() -> tuple[socket.socket, Any]:
        if faults:
            raise faults.pop()
        return real()

    failing.accept = accept  # type: ignore[method-assign]  # once only
    app = await wire.app()
    await app.send(GET)
    await served(wire, app)
    assert wire.proxy.acceptors.stats.paused == {}


async def _failing(wire: Wire, code: int) -> Failing:
    """A wire whose apps connect to a listener that fails with `code`."""
    await wire.start()
    (listener,) = listeners.bind(ListenAddress("127.0.0.1", 0))
    failing = Failing(listener.socket)
    failing.error = code
    wire.port = listener.socket.getsockname()[1]
    await wire.proxy.serve(listener._replace(socket=cast(socket.socket, failing)), None)
    return failing


@pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "in-the-backlog"])
async def test_who_waits_when_the_listener_closes_is_served(wire: Wire, accepted: bool) -> None:
    """Their first requests are answered, and they are told that the connection ends."""
    await wire.start()
    # Blocking: so the loop has no turn in which it could accept, or read, too early.
    socks = [socket.create_connection(("127.0.0.1", wire.port)) for _ in range(5)]
    if accepted:
        await wire.turn(lambda: wire.proxy.connections == 5)
    for sock in socks:
        sock.sendall(GET)
        sock.setblocking(False)
    wire.proxy.stop_accepting()
    wire.proxy.begin_drain()
    apps = [await wire.adopt(sock) for sock in socks]
    for upstream in [await wire.upstream.accept() for _ in apps]:
        await upstream.read_head()
        await upstream.send(OK)
    for app in apps:
        answer = await app.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await app.rest() == b""
    await wire.proxy.drained()


@pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "in-the-backlog"])
async def test_who_asks_nothing_when_the_listener_closes_is_let_go(wire: Wire, accepted: bool) -> None:
    """After a second, so that a drain does not wait for `keep_alive`."""
    await wire.start()
    app = await wire.adopt(socket.create_connection(("127.0.0.1", wire.port)))
    if accepted:
        await wire.turn(lambda: wire.proxy.connections == 1)
    wire.proxy.stop_accepting()
    wire.proxy.begin_drain()
    await wire.turn(lambda: wire.proxy.connections == 1)
    wire.clock.advance(0.9)
    assert wire.proxy.connections == 1
    wire.clock.advance(1.2)
    assert await app.rest() == b""
    await wire.proxy.drained()


async def test_the_grace_begins_when_the_end_is_announced(wire: Wire) -> None:
    """Who has been idle for a second since then is let go, whenever the drain began."""
    await wire.start()
    early, late = await wire.app(), await wire.app()
    await early.send(GET)
    upstream = await served(wire, early)
    await late.send(GET)
    await served(wire, late, upstream=upstream)
    wire.proxy.announce_end()
    wire.clock.advance(0.6)
    wire.proxy.begin_drain()
    wire.clock.advance(0.2)
    assert wire.proxy.connections == 2
    wire.clock.advance(0.3)
    assert (await early.rest(), await late.rest()) == (b"", b"")
    await wire.proxy.drained()


async def test_the_counts_are_those_of_open_connections(wire: Wire) -> None:
    """However they end, there is room again."""
    await wire.start(top="limits: {connections: 1}")
    for end in ("close", "reset") * 3:
        app = await wire.app()
        await wire.turn(lambda: wire.proxy.acceptors.open == 1)
        if end == "close":
            await app.close()
        else:
            app.reset()
        await wire.turn(lambda: wire.proxy.acceptors.open == 0)
    assert wire.proxy.acceptors.arriving == 0
    wire.proxy.reassign(wire.bound, None, PLAIN)


@pytest.mark.parametrize("waiting", [3, 70], ids=["a-few", "more-than-are-accepted-at-once"])
async def test_callers_that_wait_when_the_listener_closes_are_let_in(wire: Wire, waiting: int) -> None:
    """All of them: the kernel would reset who is left in the backlog."""
    await wire.start()
    # Blocking: so the loop has no turn in which it could accept too early.
    socks = [socket.create_connection(("127.0.0.1", wire.port)) for _ in range(waiting)]
    wire.proxy.stop_accepting()
    await wire.turn(lambda: wire.proxy.connections == waiting)
    assert wire.proxy.acceptors.stats.accepted == waiting
    for sock in socks:
        sock.close()


async def test_a_pause_ends_with_its_listener(wire: Wire) -> None:
    """Where there is no room for who waits when it closes, nobody is accepted, and it counts as paused no more."""
    await wire.start(top="limits: {connections: 1}")
    await wire.app()
    await wire.app()
    acceptors = wire.proxy.acceptors
    await wire.turn(lambda: acceptors.stats.paused)
    wire.proxy.stop_serving(wire.bound)
    assert acceptors.stats.accepted == 1
    assert acceptors.paused_listeners == 0
