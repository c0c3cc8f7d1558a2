"""sidecar.proxy.acceptor: what is counted, what is told, and what a connection is made with; that callers are served is in
tests/wire"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar.config.addresses import ListenAddress
from sidecar.config.listeners import ListenerTls
from sidecar.emulator.keys import Authority
from sidecar.errors import Reason, SidecarError
from sidecar.net import listeners
from sidecar.net.callers import Callers, peer_refused, peer_unknown
from sidecar.net.certificates import Certificate
from sidecar.net.listeners import PLAIN, Listener, Owner, Settings
from sidecar.net.transport import Receiver, Transport
from sidecar.observe.metrics import HandshakeFailure, Pause
from sidecar.proxy.acceptor import Acceptors
from sidecar.proxy.faults import Faults
from tests.support.clock import FakeClock

LIMIT = 60.0
"""Seconds after which a test that waits fails."""
FAULT = RuntimeError("a bug")
NO_MORE = "accepting no connections for now: further callers wait"
OTHERS = 65_535
"""The number of nobody who runs these tests."""


class Peer(socket.socket):
    """An accepted socket of which the kernel says that this process is at its other end."""

    who = (0, 0, 0)

    def getsockopt(self, level: int, option: int, *size: int) -> Any:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED):
            return struct.pack("3i", *self.who)
        return super().getsockopt(level, option, *size)


class Scripted(socket.socket):
    """A listening socket whose `accept` raises what a test says, call by call, and then accepts."""

    steps: list[Exception]
    peers: list[tuple[int, int, int]]
    """Who calls, as pid, uid and gid; the real one where it is empty."""

    def accept(self) -> tuple[socket.socket, Any]:
        if self.steps:
            raise self.steps.pop(0)
        sock, address = super().accept()
        if self.peers:
            peer = Peer(fileno=sock.detach())
            peer.who = self.peers.pop(0)
            sock = peer
        return sock, address


class Connection(Receiver):
    """What the proxy makes of an accepted connection, as far as the acceptors are concerned."""

    transport: Transport

    def __init__(self, house: House, owner: Owner, barred: SidecarError | None, at_once: bool) -> None:
        self.house = house
        self.owner = owner
        self.barred = barred
        self.at_once = at_once

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self.house.connections.append(self)
        self.house.acceptors.opened(self.owner)

    def connection_lost(self, exc: Exception | None) -> None:
        self.house.connections.remove(self)
        self.house.acceptors.closed(self.owner)


class House:
    """Acceptors by a clock that the test moves, their listeners, and who calls."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = FakeClock()
        self.faults = Faults()
        self.connections: list[Connection] = []
        self.error: Exception | None = None
        """What is raised instead of making a connection."""
        self.acceptors = Acceptors(
            self.loop, self.clock, self._make, lambda: None, self.faults, limit=100, handshake=10.0
        )
        self._directory = directory
        self._callers: list[socket.socket] = []
        self._secured: list[asyncio.Transport] = []

    def _make(self, owner: Owner, barred: SidecarError | None, at_once: bool) -> asyncio.Protocol:
        if self.error is not None:
            raise self.error
        return Connection(self, owner, barred, at_once)

    def listen(self, settings: Settings = PLAIN, *, unix: bool = False) -> Listener:
        """One more listener."""
        address = ListenAddress(path=f"{self._directory}/s") if unix else ListenAddress("127.0.0.1", 0)
        (bound,) = listeners.bind(address)
        sock = Scripted(fileno=bound.socket.detach())
        sock.setblocking(False)
        sock.steps, sock.peers = [], []
        listener = bound._replace(socket=sock)
        self.acceptors.add(listener, Owner(None, is_unix=unix, settings=settings))
        return listener

    def call(self, listener: Listener, sent: bytes = b"") -> socket.socket:
        """Connect; it is in the backlog then."""
        sock = socket.socket(listener.socket.family)
        self._callers.append(sock)
        sock.settimeout(LIMIT)
        sock.connect(listener.socket.getsockname())
        sock.sendall(sent)
        return sock

    async def secure(self, caller: socket.socket, authority: Authority) -> None:
        """Do a caller's handshake."""
        context = ssl.create_default_context(cadata=authority.pem.decode())
        caller.setblocking(False)
        async with asyncio.timeout(LIMIT):
            transport, _ = await self.loop.create_connection(
                asyncio.Protocol, sock=caller, ssl=context, server_hostname="localhost"
            )
        self._secured.append(transport)

    async def turn(self, condition: Any) -> None:
        """Let the loop run until `condition()` holds."""
        async with asyncio.timeout(LIMIT):
            while not condition():  # noqa: ASYNC110  # the acceptors have no events for tests
                await asyncio.sleep(0)

    async def opened(self, count: int = 1) -> list[Connection]:
        """So many connections, once they are open."""
        await self.turn(lambda: len(self.connections) == count)
        return self.connections

    async def close(self) -> None:
        for transport in self._secured:
            transport.abort()
        for sock in self._callers:
            sock.close()
        self.error = None
        self.acceptors.close()
        self.acceptors.abort()
        for connection in list(self.connections):
            connection.transport.abort()
        await self.turn(lambda: not self.connections and not self.acceptors.arriving)
        assert (self.acceptors.open, self.acceptors.paused_listeners) == (0, 0)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """Closed at the end, with all that is in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        made = House(Path(directory))
        yield made
        await made.close()


def ended(caller: socket.socket) -> bool:
    """Whether the caller has been closed, or reset, from here."""
    caller.setblocking(False)
    try:
        return caller.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, object]]:
    """What the acceptors have logged: level, words and fields."""
    return [
        (record.levelname, record.message, record.fields)  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name in ("sidecar.proxy.acceptor", "sidecar.proxy.handshakes")
    ]


def noted(caplog: pytest.LogCaptureFixture) -> list[tuple[object, BaseException | None]]:
    """The faults that were reported: where, and what."""
    return [
        (record.fields["where"], (record.exc_info or (None, None))[1])  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name == "sidecar.proxy.faults"
    ]


@pytest.fixture(autouse=True)
def debug(caplog: pytest.LogCaptureFixture) -> None:
    """All that is logged can be seen."""
    caplog.set_level(logging.DEBUG)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Whom the callers trust."""
    return Authority()


@pytest.fixture(scope="module")
def certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of a listener that serves https."""
    file = tmp_path_factory.mktemp("certificate") / "both.pem"
    file.write_bytes(authority.issue(("localhost",)))
    file.chmod(0o600)
    return Certificate(ListenerTls(cert_file=str(file), key_file=str(file)))


# what is counted


async def test_each_connection_that_ends_is_one_less(house: House) -> None:
    """In all, and of its listener's."""
    listener = house.listen()
    callers = [house.call(listener) for _ in range(3)]
    await house.opened(3)
    owner = house.acceptors.owner(listener)
    assert (house.acceptors.open, owner.open) == (3, 3)
    callers[0].close()
    await house.opened(2)
    assert (house.acceptors.open, owner.open) == (2, 2)


async def test_each_handshake_under_way_is_one_that_arrives(house: House, certificate: Certificate) -> None:
    """Of its listener's, as long as it goes on."""
    listener = house.listen(Settings(certificate=certificate))
    callers = [house.call(listener) for _ in range(3)]
    owner = house.acceptors.owner(listener)
    await house.turn(lambda: house.acceptors.arriving == 3)
    assert owner.arriving == 3
    callers[0].close()
    await house.turn(lambda: house.acceptors.arriving == 2)
    assert owner.arriving == 2


async def test_each_listener_that_pauses_is_counted(house: House) -> None:
    """Until a connection ends."""
    house.acceptors.set_limits(limit=1, handshake=10.0)
    pausing = [house.listen(), house.listen()]
    first = house.call(house.listen())
    await house.opened()
    for listener in pausing:
        house.call(listener)
    await house.turn(lambda: house.acceptors.paused_listeners == 2)
    stats = house.acceptors.stats
    assert (stats.pausing, stats.paused) == (2, {Pause.CONNECTIONS: 2})
    first.close()
    await house.turn(lambda: house.acceptors.paused_listeners == 1)
    assert stats.accepted == 2


async def test_a_pause_is_not_disturbed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its listener has no room, it is not looked at again for what ends elsewhere."""
    full, other = house.listen(Settings(connections=1)), house.listen()
    house.call(full)
    await house.opened()
    house.call(full)
    await house.turn(lambda: house.acceptors.paused_listeners)
    read: list[int] = []
    add_reader = house.loop.add_reader

    def record(fd: int, *more: Any) -> None:
        read.append(fd)
        add_reader(fd, *more)

    monkeypatch.setattr(house.loop, "add_reader", record)
    caller = house.call(other)
    await house.opened(2)
    caller.close()
    await house.opened(1)
    assert full.socket.fileno() not in read


async def test_in_a_shortage_there_is_room_for_nobody(house: House) -> None:
    """Its reason is the one why nobody is accepted, whatever the limits leave."""
    owner = Owner(None, is_unix=False)
    assert (house.acceptors.room(owner), house.acceptors.obstacle(owner)) == (100, None)
    house.acceptors.run_short(Pause.MEMORY, "none left")
    assert (house.acceptors.room(owner), house.acceptors.obstacle(owner)) == (0, Pause.MEMORY)


async def test_a_full_listener_is_told_apart_from_a_full_process(house: House) -> None:
    """As long as one place is left in all."""
    owner = Owner(None, is_unix=False)
    owner.limit = owner.open = 7
    house.acceptors.open = 99
    assert house.acceptors.obstacle(owner) == Pause.LISTENER
    house.acceptors.open = 100
    assert house.acceptors.obstacle(owner) == Pause.CONNECTIONS
    house.acceptors.open = 0


async def test_others_have_their_turn_among_many_callers(house: House) -> None:
    """A listener accepts 64 of them at once."""
    listener = house.listen()
    for _ in range(70):
        house.call(listener)
    stats = house.acceptors.stats
    await house.turn(lambda: stats.accepted)
    assert stats.accepted == 64
    await house.opened(70)


async def test_at_the_end_one_that_is_gone_takes_no_place(house: House) -> None:
    """Callers that wait when the listener closes are accepted as far as there is room."""
    house.acceptors.set_limits(limit=2, handshake=10.0)
    listener = house.listen()
    for _ in range(2):
        house.call(listener)
    cast(Scripted, listener.socket).steps = [ConnectionAbortedError(errno.ECONNABORTED, "gone")]
    house.acceptors.remove(listener)
    await house.opened(2)


async def test_the_end_comes_also_where_nobody_can_be_accepted(house: House) -> None:
    """Under a filter of system calls that refuses this one for good, say."""
    listener = house.listen()
    steps = cast(Scripted, listener.socket).steps = [PermissionError(errno.EPERM, "no")] * 10_000
    house.acceptors.remove(listener)
    assert len(steps) > 5_000


# what is logged


async def test_the_same_is_told_once_a_minute(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time at once, also where the machine has just started and its clock is at zero."""
    monkeypatch.setattr(house.acceptors, "clock", clock := FakeClock(mono=0.0))
    for seconds, times in ((0.0, 1), (59.9, 1), (0.2, 2)):
        clock.advance(seconds)
        house.acceptors.log(logging.INFO, "something", {"at": seconds})
        assert len(told(caplog)) == times
    assert told(caplog) == [
        ("INFO", "something", {"at": 0.0}),
        ("INFO", "something", {"at": 0.2, "untold": 1}),
    ]


async def test_how_much_is_remembered_as_told_has_a_bound(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """Callers may differ without end: of more than a thousand the first is forgotten."""

    def log(about: int) -> int:
        caplog.clear()
        house.acceptors.log(logging.INFO, "something", {}, about=str(about))
        return len(told(caplog))

    assert [log(about) for about in range(1000)] == [1] * 1000
    assert log(0) == 0
    assert log(1000) == 1
    assert log(0) == 1


async def test_each_reason_for_a_pause_is_told(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """Another one is, within the minute of the first."""
    narrow, wide = house.listen(Settings(connections=1)), house.listen()
    house.call(narrow)
    await house.opened()
    house.call(narrow)
    await house.turn(lambda: house.acceptors.paused_listeners == 1)
    house.acceptors.set_limits(limit=1, handshake=10.0)
    house.call(wide)
    await house.turn(lambda: house.acceptors.paused_listeners == 2)
    house.acceptors.run_short(Pause.MEMORY, "none left")
    assert told(caplog) == [
        ("WARNING", NO_MORE, {"reason": "listener_connections", "listen": str(narrow), "open": 1}),
        ("WARNING", NO_MORE, {"reason": "connections", "listen": str(wide), "open": 1}),
        ("WARNING", NO_MORE, {"reason": "memory", "detail": "none left", "open": 1}),
    ]


async def test_a_shortage_without_the_systems_words(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """It is told by what the error says itself."""
    listener = house.listen()
    cast(Scripted, listener.socket).steps = [OSError("all is lost")]
    house.call(listener)
    await house.turn(lambda: house.acceptors.is_short)
    assert told(caplog) == [("WARNING", NO_MORE, {"reason": "other", "detail": "all is lost", "open": 0})]


# faults of the sidecar's own


async def test_a_fault_of_a_listener_that_is_to_be_read_again(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is told, and both listeners are tried again a moment later."""
    pair = [house.listen(), house.listen()]
    house.acceptors.run_short(Pause.MEMORY, "none left")

    def add_reader(*_: object) -> None:
        raise FAULT

    with monkeypatch.context() as patch:
        patch.setattr(house.loop, "add_reader", add_reader)
        house.clock.advance(0.25)
    assert noted(caplog) == [("listener", FAULT)] * 2
    house.clock.advance(0.25)
    for listener in pair:
        house.call(listener)
    await house.opened(2)


async def test_a_fault_of_a_listener_that_is_read(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """It is told, and that nobody is accepted for a moment."""
    listener = house.listen()
    cast(Scripted, listener.socket).steps = [FAULT]
    house.call(listener)
    await house.turn(lambda: house.acceptors.is_short)
    assert noted(caplog) == [("listener", FAULT)]
    detail = {"reason": "other", "detail": "a fault in the sidecar", "open": 0}
    assert told(caplog) == [("WARNING", NO_MORE, detail)]
    house.clock.advance(0.25)
    await house.opened()


async def test_a_fault_of_a_listener_that_is_closed(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """It is told, and the socket is closed all the same."""
    listener = house.listen()
    cast(Scripted, listener.socket).steps = [FAULT]
    caller = house.call(listener)
    house.acceptors.remove(listener)
    assert noted(caplog) == [("listener", FAULT)]
    assert listener.socket.fileno() == -1
    await house.turn(lambda: ended(caller))


async def test_a_fault_before_a_connection_has_its_task(
    house: House,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """It is told, the caller is let go, and who stands behind it is accepted."""
    spawn = house.acceptors.tasks.spawn

    def refuse(coroutine: Coroutine[Any, Any, Any], *, name: str) -> Any:
        monkeypatch.setattr(house.acceptors.tasks, "spawn", spawn)
        coroutine.close()
        raise FAULT

    monkeypatch.setattr(house.acceptors.tasks, "spawn", refuse)
    listener = house.listen(Settings(certificate=certificate))
    first, second = house.call(listener), house.call(listener)
    await house.secure(second, authority)
    await house.opened()
    assert noted(caplog) == [("accepting a connection", FAULT)]
    await house.turn(lambda: ended(first))


KINDS = [
    pytest.param("usual", id="usual"),
    pytest.param("limited", id="with-a-limit"),
    pytest.param("https", id="https"),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_in_making_a_connection(
    house: House, caplog: pytest.LogCaptureFixture, authority: Authority, certificate: Certificate, kind: str
) -> None:
    """It is told once, the caller is let go, and its place is free again."""
    settings = {
        "usual": PLAIN,
        "limited": Settings(connections=1),
        "https": Settings(certificate=certificate),
    }[kind]
    listener = house.listen(settings)
    house.error = FAULT
    caller = house.call(listener)
    if kind == "https":
        await house.secure(caller, authority)
    await house.turn(lambda: noted(caplog))
    assert noted(caplog) == [("accepting a connection", FAULT)]
    owner = house.acceptors.owner(listener)
    assert (house.acceptors.arriving, owner.arriving, owner.open) == (0, 0, 0)


async def test_a_caller_that_is_gone_when_its_handshake_is_done(
    house: House, caplog: pytest.LogCaptureFixture, authority: Authority, certificate: Certificate
) -> None:
    """No fault, and no failed handshake."""
    house.error = ConnectionResetError(errno.ECONNRESET, "gone")
    caller = house.call(house.listen(Settings(certificate=certificate)))
    await house.secure(caller, authority)
    await house.turn(lambda: not house.acceptors.arriving)
    assert (noted(caplog), house.acceptors.stats.handshakes_failed) == ([], {})


# what a connection is made with


@pytest.mark.parametrize("limit", [None, 5], ids=["usual", "with-a-limit"])
async def test_a_connection_is_made_for_its_owner(house: House, limit: int | None) -> None:
    """Nothing bars it; its task has a name, for who looks at what runs."""
    listener = house.listen(Settings(connections=limit))
    house.call(listener)
    (made,) = await house.opened()
    assert made.owner is house.acceptors.owner(listener)
    assert (made.barred, made.at_once) == (None, False)


def peers(*uids: int, certificate: Certificate | None = None) -> Settings:
    """Those whose processes may connect."""
    return Settings(Callers({}, uids), None, certificate)


@pytest.mark.parametrize("https", [False, True], ids=["http", "https"])
async def test_a_process_that_may_not_call_is_told_with_its_request(
    house: House, authority: Authority, certificate: Certificate, https: bool
) -> None:
    """Each of its requests is answered by that; nothing is said before one comes."""
    listener = house.listen(peers(OTHERS, certificate=certificate if https else None), unix=True)
    caller = house.call(listener)
    if https:
        await house.secure(caller, authority)
    (made,) = await house.opened()
    assert str(made.barred) == str(peer_refused(os.getuid(), os.getgid()))
    assert not made.at_once


async def test_each_process_that_is_refused_is_told(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """With what the kernel says of it; another process of the same user and group is, a minute later."""
    listener = house.listen(peers(OTHERS), unix=True)
    cast(Scripted, listener.socket).peers = [(11, 1, 2), (12, 1, 2), (13, 1, 3), (14, 4, 2)]
    for _ in range(4):
        house.call(listener)
    await house.opened(4)
    message = "a process that may not call here was refused"
    where = str(listener)
    assert told(caplog) == [
        ("WARNING", message, {"listen": where, "uid": 1, "gid": 2, "pid": 11}),
        ("WARNING", message, {"listen": where, "uid": 1, "gid": 3, "pid": 13}),
        ("WARNING", message, {"listen": where, "uid": 4, "gid": 2, "pid": 14}),
    ]
    assert house.acceptors.stats.peers_refused == 4


async def test_a_system_that_does_not_say_who_calls(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are refused, and the listener is named."""
    monkeypatch.delattr(socket, "SO_PEERCRED")
    listener = house.listen(peers(os.getuid()), unix=True)
    house.call(listener)
    (made,) = await house.opened()
    assert str(made.barred) == str(peer_unknown())
    message = "this system does not say which process calls: all are refused (`peers`)"
    assert told(caplog) == [("WARNING", message, {"listen": str(listener)})]
    assert house.acceptors.stats.peers_refused == 1


async def test_who_calls_is_asked_for_peers_only(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that is required needs no word of the system."""
    monkeypatch.delattr(socket, "SO_PEERCRED")
    house.call(house.listen(Settings(Callers({"X-Caller": "secret"})), unix=True))
    (made,) = await house.opened()
    assert made.barred is None


# TLS


async def test_a_connection_is_made_when_its_handshake_is_done(
    house: House, authority: Authority, certificate: Certificate
) -> None:
    """Nothing bars it, and small answers are sent at once."""
    caller = house.call(house.listen(Settings(certificate=certificate)))
    await house.secure(caller, authority)
    (made,) = await house.opened()
    assert (made.barred, made.at_once) == (None, False)
    sock = made.transport.get_socket()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert house.clock.pending == []


async def test_plain_http_is_told_what_to_write(
    house: House, caplog: pytest.LogCaptureFixture, certificate: Certificate
) -> None:
    """At once, and it counts as a handshake that failed."""
    listener = house.listen(Settings(certificate=certificate))
    house.call(listener, b"GET / HTTP/1.1\r\n")
    (made,) = await house.opened()
    assert made.at_once
    assert made.barred is not None
    assert made.barred.reason is Reason.MALFORMED_REQUEST
    assert made.barred.detail == (
        "This listener serves https, and the request came in plain http: write `https://` before its address."
    )
    assert house.acceptors.stats.handshakes_failed == {HandshakeFailure.PLAIN_HTTP: 1}
    assert told(caplog) == [
        ("DEBUG", "TLS handshake failed", {"reason": "plain_http", "listen": str(listener)})
    ]
    assert house.clock.pending == []


async def test_a_handshake_that_the_end_of_the_sidecar_cuts_has_not_failed(
    house: House, caplog: pytest.LogCaptureFixture, certificate: Certificate
) -> None:
    """The caller is let go; nobody's time ran out."""
    caller = house.call(house.listen(Settings(certificate=certificate)))
    await house.turn(lambda: house.clock.pending)
    house.acceptors.abort()
    await house.turn(lambda: not house.acceptors.arriving)
    await house.turn(lambda: ended(caller))
    assert (house.acceptors.stats.handshakes_failed, told(caplog), noted(caplog)) == ({}, [], [])
    assert house.clock.pending == []


ALERT = ssl.SSLError(1, "[SSL] tlsv1 alert unknown ca (_ssl.c:2580)")
LATE = [
    pytest.param(True, ALERT, {HandshakeFailure.REJECTED: 1}, id="an-alert"),
    pytest.param(True, ConnectionResetError(errno.ECONNRESET, "reset"), {}, id="a-reset"),
    pytest.param(False, ALERT, {}, id="no-tls-there"),
]


@pytest.mark.parametrize(("https", "error", "counted"), LATE)
async def test_only_what_tls_says_of_a_connection_without_a_request_is_a_failed_handshake(
    house: House,
    certificate: Certificate,
    https: bool,
    error: OSError,
    counted: dict[HandshakeFailure, int],
) -> None:
    """And only where TLS was spoken."""
    settings = Settings(certificate=certificate if https else None)
    house.acceptors.handshakes.lost_unused(Owner(None, is_unix=False, settings=settings), error)
    assert house.acceptors.stats.handshakes_failed == counted


async def test_a_late_refusal_is_told_with_its_listener(
    house: House, caplog: pytest.LogCaptureFixture, certificate: Certificate
) -> None:
    """Without one, where that is closed by then."""
    settings = Settings(certificate=certificate)
    _, listener, _ = house.listen(settings), house.listen(settings), house.listen(settings)
    owner = house.acceptors.owner(listener)
    house.acceptors.handshakes.lost_unused(owner, ALERT)
    house.acceptors.remove(listener)
    house.acceptors.handshakes.lost_unused(owner, ALERT)
    assert told(caplog) == [
        ("DEBUG", "TLS handshake failed", {"reason": "rejected", "listen": where})
        for where in (str(listener), None)
    ]
