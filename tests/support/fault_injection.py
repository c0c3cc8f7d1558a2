"""Faults of the sidecar's own: each method of the data path raises, in each situation that calls it.

Not a list of places that somebody thought of: a situation is played once to see which methods it calls, then once for
each of them with that one raising, before its work and after it. RuntimeError, MemoryError and RecursionError take turns.
`tests/wire` plays all of them in `make test-all`, a sample in `make test`.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import logging
import os
import socket
import ssl
import struct
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sidecar.config.addresses import parse_listen
from sidecar.config.listeners import ListenerConfig, ListenerTls
from sidecar.emulator.keys import Authority
from sidecar.net import listeners
from sidecar.net.callers import Callers
from sidecar.net.certificates import Certificate
from sidecar.net.socket_transport import SocketTransport
from sidecar.net.tcp import TcpTransport
from sidecar.net.tls import TlsTransport
from sidecar.observe.logs import JsonFormatter
from sidecar.proxy.acceptor import Acceptor, Acceptors
from sidecar.proxy.exchange.exchange import Exchange, ExchangeState
from sidecar.proxy.exchange.held import HeldBody
from sidecar.proxy.exchange.ledger import Ledger
from sidecar.proxy.exchange.tunnel import Tunnel
from sidecar.proxy.handshakes import Handshakes
from sidecar.proxy.http1.downstream import DownstreamConnection
from sidecar.proxy.http1.request_reader import RequestReader
from sidecar.proxy.http1.turns import Turns
from sidecar.proxy.http1.upstream import UpstreamConnection
from sidecar.proxy.http2.app_stream import AppStream
from sidecar.proxy.http2.app_streams import AppStreams
from sidecar.proxy.http2.connection import Http2Connection
from sidecar.proxy.http2.downstream import Http2Downstream
from sidecar.proxy.http2.upstream import Http2Upstream
from sidecar.proxy.http2.upstream_stream import UpstreamStream
from sidecar.proxy.pool.places import Places
from sidecar.proxy.pool.pool import Pool
from sidecar.proxy.pool.pools import Pools
from sidecar.proxy.server import Proxy
from sidecar.tokens.store import TokenStore
from tests.support.closing import close_server
from tests.support.source import LIMIT
from tests.support.wire import Answer, End, Wire

OWNERS = (
    Acceptor,
    Acceptors,
    Callers,
    DownstreamConnection,
    UpstreamConnection,
    Http2Connection,
    Http2Downstream,
    Http2Upstream,
    AppStream,
    AppStreams,
    UpstreamStream,
    Exchange,
    Handshakes,
    HeldBody,
    Ledger,
    RequestReader,
    SocketTransport,
    TcpTransport,
    TlsTransport,
    Tunnel,
    Places,
    Pool,
    Pools,
    Proxy,
    TokenStore,
    Turns,
)

LEFT_OUT = {
    "__init__": "what can't be made has no connection yet; the acceptor's part",
    "__repr__": "for people",
    "fault": "the guard itself",
    "_fault": "the guard itself",
    "_fault_soon": "the guard itself",
    "end_by_fault": "the guard itself",
    "faulted": "the guard itself",
    "closed": "one `discard`, in the `finally` of the guard",
    "lost": "counts a connection out; has nothing before that",
    "_sweep": "guards each part of itself; as a timer's callback it would come out of the fake clock",
    "_closed": "of a transport: hands over to a guarded callback in a `finally`",
    "_look_again": "a timer of the token store's: as above, and every use looks again",
    "serve": "starts the test's own listener",
    "_dial": "a task whose every part is guarded; only its first line is not in it",
}
_GUARD_WITHIN = (
    "called by the event loop or the token store: its guard is in it, and what it calls raises instead"
)
LEFT_OUT_OF = {
    (Acceptor, "_on_readable"): _GUARD_WITHIN,
    (Acceptor, "_arrive"): "a task whose every part is guarded; only its first line is not in it",
    (Acceptors, "_tunnel"): "as Acceptor._arrive",
    (DownstreamConnection, "_hand_over"): _GUARD_WITHIN,
    (Acceptors, "update"): _GUARD_WITHIN,
    (Proxy, "_arm_sweep"): "as _sweep, in which it stands last",
    (Acceptors, "_crashed"): "the guard itself",
    (Acceptors, "_on_timer"): "as _sweep: what it calls is guarded",
    (Acceptors, "_try_later"): "sets the timer by which a guard tries again",
    (Acceptors, "run_short"): "the guard itself",
    (Acceptors, "opened"): "counts a connection in; has nothing before that",
    (UpstreamConnection, "connection_made"): "one assignment",
    (UpstreamConnection, "connection_lost"): _GUARD_WITHIN,
    (DownstreamConnection, "connection_lost"): _GUARD_WITHIN,
    (Turns, "_go_on"): _GUARD_WITHIN,
    (DownstreamConnection, "connection_made"): _GUARD_WITHIN,
    (TlsTransport, "_lose"): "the end itself",
    (TcpTransport, "_lose"): "the end itself",
    (SocketTransport, "_drop_kept"): "the end itself",
    (TcpTransport, "abort"): "the end itself",
    (TokenStore, "_fetch"): "as Pool._dial",
    (Pool, "_free_place"): "counts a place out; has nothing before that",
    (Places, "advance"): "the sweep calls it again",
    (DownstreamConnection, "pause_writing"): _GUARD_WITHIN,
    (DownstreamConnection, "resume_writing"): _GUARD_WITHIN,
    (UpstreamConnection, "pause_writing"): _GUARD_WITHIN,
    (UpstreamConnection, "resume_writing"): _GUARD_WITHIN,
    (Exchange, "_token_settled"): _GUARD_WITHIN,
}
LEFT_OUT_OF |= {
    (Http2Downstream, "connection_lost"): _GUARD_WITHIN,
    (Http2Downstream, "data_received"): _GUARD_WITHIN,
    (Http2Downstream, "pause_writing"): "one assignment",
    (Http2Downstream, "resume_writing"): "as _write_now, which it leads to",
    (Http2Downstream, "_write_now"): _GUARD_WITHIN,
    (AppStreams, "note_fault"): "the guard itself",
    (Http2Downstream, "write"): _GUARD_WITHIN,
    (AppStreams, "_stream_fault"): "the guard itself",
    (Http2Upstream, "connection_made"): _GUARD_WITHIN,
    (Http2Upstream, "connection_lost"): _GUARD_WITHIN,
    (Http2Upstream, "data_received"): _GUARD_WITHIN,
    (Http2Upstream, "pause_writing"): "one assignment",
    (Http2Upstream, "resume_writing"): "as _write_now, which it leads to",
    (Http2Upstream, "_write_now"): _GUARD_WITHIN,
    (Http2Upstream, "abort"): "the guard itself",
    (UpstreamStream, "cancel"): _GUARD_WITHIN,
    (Http2Upstream, "note_fault"): "the guard itself",
    (Http2Upstream, "_lose_all"): "the guard itself",
    (AppStreams, "_all_gone"): "the guard itself",
    (Http2Upstream, "write"): _GUARD_WITHIN,
}
TRIED = {(UpstreamStream, "lost"), (AppStreams, "_closed"), (Http2Upstream, "_closed")}
"""What has a name of `LEFT_OUT`, and does more than its namesakes."""
NOT_AFTER = {
    (Http2Upstream, "open"): "nothing happens between its return and the assignment of what it gave",
    (Pool, "acquire"): "nothing happens between its return and the assignment of what it gave",
}

ERRORS = (RuntimeError, MemoryError, RecursionError)
INJECTED = "injected by the test"


class Point(NamedTuple):
    """Where, and when, something is raised."""

    owner: type
    name: str
    nth: int
    after: bool
    error: type[Exception]

    def __str__(self) -> str:
        when = "after" if self.after else "before"
        return f"{self.error.__name__} {when} {self.owner.__name__}.{self.name}, call {self.nth}"


class Sample(NamedTuple):
    """Which of a situation's points are tried: every `stride`th, from the `first` on."""

    first: int
    stride: int

    def of(self, points: Sequence[Point]) -> Sequence[Point]:
        return points[self.first % (len(points) or 1) :: self.stride]


ALL = Sample(0, 1)
STRIDE = 40
"""Of the points that `make test` tries. A situation has 60 to 330."""


def with_samples(situations: Sequence[Callable[..., Any]]) -> list[Any]:
    """Parameters of a test: each situation with a sample of its points, other ones in each, and for `make test-all`
    with all of them."""
    return [
        pytest.param(situation, sample, id=situation.__name__ + name, marks=marks)
        for number, situation in enumerate(situations)
        for name, sample, marks in (
            ("-sample", Sample(7 * number, STRIDE), ()),
            ("", ALL, pytest.mark.test_all),
        )
    ]


def _is_left_out(owner: type, name: str) -> bool:
    return (owner, name) in LEFT_OUT_OF or (name in LEFT_OUT and (owner, name) not in TRIED)


class Injection:
    """Counts the calls of every method, and has one of them raise."""

    def __init__(self, point: Point | None) -> None:
        self.calls: Counter[tuple[type, str]] = Counter()
        self.armed = False
        self.raised = 0
        self.spared: set[int] = set()
        """The bystander's objects, by `id`: what happens to them is not counted."""
        self._point = point

    @contextmanager
    def installed(self) -> Iterator[None]:
        patch = pytest.MonkeyPatch()
        for owner in OWNERS:
            for name, method in vars(owner).items():
                if inspect.isfunction(method) and not _is_left_out(owner, name):
                    patch.setattr(owner, name, self._wrapped(owner, name, method))
        try:
            yield
        finally:
            patch.undo()

    def _wrapped(self, owner: type, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(method):

            async def call_async(this: Any, *args: Any, **kwargs: Any) -> Any:
                turn = self._turn(this, owner, name)
                self._maybe_raise(turn, after=False)
                result = await method(this, *args, **kwargs)
                self._maybe_raise(turn, after=True)
                return result

            return call_async

        def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            turn = self._turn(this, owner, name)
            self._maybe_raise(turn, after=False)
            result = method(this, *args, **kwargs)
            self._maybe_raise(turn, after=True)
            return result

        return call

    def _turn(self, this: Any, owner: type, name: str) -> bool:
        if not self.armed or id(this) in self.spared:
            return False
        self.calls[owner, name] += 1
        point = self._point
        return point is not None and (owner, name, self.calls[owner, name]) == point[:3]

    def _maybe_raise(self, turn: bool, *, after: bool) -> None:
        if turn and self._point is not None and self._point.after == after:
            self.raised += 1
            raise self._point.error(INJECTED)


# the upstream: answers by path


class Target:
    """An upstream that plays its part by itself."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.finish_slow = asyncio.Event()
        self.refusals = 0
        self.resets = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(  # noqa: C901  # one line a path
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        if path == "/upload":
            await self.go_on.wait()
        lower = head.lower()
        if b"content-length: " in lower:
            await reader.readexactly(int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]))
        elif b"transfer-encoding" in lower:
            await reader.readuntil(b"0\r\n")
            await reader.readuntil(b"\r\n")
        if path == "/slow":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            await self.finish_slow.wait()
            writer.write(b"half")
        elif path == "/never":
            await reader.read()
        elif path == "/chunked":
            writer.write(
                b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok"
            )
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(b"\r\n0\r\nX-Last: 1\r\n\r\n")
        elif path == "/until-close":
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok")
            await writer.drain()
            return False
        elif path == "/big":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n" + bytes(400_000))
            await writer.drain()
        elif path == "/refused" and not self.refusals:
            self.refusals += 1
            writer.write(
                b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 0\r\n\r\n'
            )
        elif path == "/forbidden":
            writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        elif path == "/malformed":
            writer.write(b"HTTP/1.1 999 No\r\nContent-Length: 2\r\n\r\nno")
        elif path == "/stale" and not self.resets:
            self.resets += 1
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        elif path == "/ws":
            writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            while data := await reader.read(100):
                writer.write(data)
            return False
        elif path != "/slow":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True


# the situations: what the app does; the answers it got


class Stage:
    """The wire, its upstream, and what a situation needs of both."""

    def __init__(self, wire: Wire, target: Target, injection: Injection, sockets: str) -> None:
        """`sockets` is a folder with a short path: a Unix socket's has at most 107 bytes."""
        self.sockets = sockets
        self.wire = wire
        self.target = target
        self._injection = injection
        self.ways: list[tuple[str | int, ssl.SSLContext | None]] = []
        """Other listeners: path or port, and the client's context where they serve https."""

    async def enter(self, address: str | int, context: ssl.SSLContext | None) -> End:
        """A new connection to one of them; the caller knows its secret."""
        async with asyncio.timeout(LIMIT):
            if isinstance(address, str):
                end = End(*await asyncio.open_unix_connection(address))
            else:
                name = None if context is None else "localhost"
                connecting = asyncio.open_connection("127.0.0.1", address, ssl=context, server_hostname=name)
                end = End(*await connecting)
        self.wire._apps.append(end)
        return end

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for it, or for the fault after which it may never come."""
        await self.wire.turn(lambda: condition() or self._injection.raised)

    async def app(self, *, narrow: bool = False) -> End:
        return await self.wire.app(narrow=narrow)

    def exchanges(self, state: ExchangeState) -> int:
        """How many connections are in the middle of an exchange in this state."""
        return sum(c.current is not None and c.current.state is state for c in self.wire.proxy.serving)


def head(path: str, more: str = "", *, method: str = "GET", host: str = "victim.internal") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


async def ask(app: End, *requests: bytes, method: str = "GET") -> list[Answer]:
    """Send, piece by piece; the answers, as many as were asked for."""
    for request in requests:
        await app.send(request)
    got = []
    for _ in range(b"".join(requests).count(b" HTTP/1.1\r\n")):
        while (answer := await app.answer(method)).status < 200:
            pass
        got.append(answer)
    return got


async def two_in_turn(stage: Stage, app: End) -> list[Answer]:
    return [*await ask(app, head("/a")), *await ask(app, head("/b"))]


async def pipelined(stage: Stage, app: End) -> list[Answer]:
    return await ask(app, head("/a") + head("/b"), head("/c"))


async def bodies(stage: Stage, app: End) -> list[Answer]:
    first = await ask(app, head("/a", "Content-Length: 6\r\n", method="POST"), b"abc", b"def")
    chunked = head("/b", "Transfer-Encoding: chunked\r\n", method="PUT")
    return [*first, *await ask(app, chunked, b"3\r\nabc\r\n", b"0\r\nX-A: 1\r\n\r\n")]


async def answers(stage: Stage, app: End) -> list[Answer]:
    got = await ask(app, head("/chunked"))
    got += await ask(app, head("/a", method="HEAD"), method="HEAD")
    got += await ask(app, head("/forbidden"))
    got += await ask(app, head("/malformed"))
    return got + await ask(app, head("/until-close"))


async def own_answers(stage: Stage, app: End) -> list[Answer]:
    got = await ask(app, head("/a", host="nobody.internal"))
    return got + await ask(app, b"GET /a HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n")


async def token_wait(stage: Stage, app: End) -> list[Answer]:
    stage.wire.source.gate.clear()
    await app.send(head("/a", host="new.internal"))
    await stage.until(lambda: stage.exchanges(ExchangeState.TOKEN))
    stage.wire.source.gate.set()
    return [await app.answer()]


async def token_refused(stage: Stage, app: End) -> list[Answer]:
    return await ask(app, head("/refused"))


async def turn_in_the_pool(stage: Stage, app: End) -> list[Answer]:
    # Both in the same pool, which has one connection: the second waits until the first is done.
    other = await stage.app()
    await other.send(head("/slow"))
    await stage.until(lambda: stage.exchanges(ExchangeState.ANSWERING) == 2)
    await app.send(head("/a"))
    await stage.until(lambda: stage.exchanges(ExchangeState.CONNECT))
    stage.target.finish_slow.set()
    got = []
    for end in (other, app):
        try:
            got.append(await end.answer())
        except (ConnectionError, asyncio.IncompleteReadError):
            assert await gone(end)
    return got


async def connection_refused(stage: Stage, app: End) -> list[Answer]:
    return await ask(app, head("/a", host="closed.internal"))


async def stale(stage: Stage, app: End) -> list[Answer]:
    return [*await ask(app, head("/a")), *await ask(app, head("/stale"))]


async def tunnel(stage: Stage, app: End) -> list[Answer]:
    await app.send(head("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n"))
    answer = await app.answer()
    if answer.status == 101:
        await app.send(b"hello")
        assert await app.read(5) == b"hello"
        app.writer.write_eof()
        assert await app.rest() == b""
    return [answer]


async def connect(stage: Stage, app: End) -> list[Answer]:
    """Requests inside of a tunnel for http."""
    await app.send(head("victim.internal:80", method="CONNECT"))
    if not (await app.read_head()).startswith(b"HTTP/1.1 200 OK\r\n"):
        return []
    return await two_in_turn(stage, app)


async def connect_for_https(stage: Stage, app: End) -> list[Answer]:
    """And of one whose https is read."""
    wire = stage.wire
    interception = wire.proxy.interception
    interception.adopt(interception.prepare(wire.config.intercept, wire.table, {}), wire.table)
    await app.send(head("victim.internal:443", method="CONNECT"))
    if not (await app.read_head()).startswith(b"HTTP/1.1 200 OK\r\n"):
        return []
    context = ssl.create_default_context(cafile=interception.bundle_file)
    context.verify_flags |= ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME: the clock is the test's
    try:
        await app.writer.start_tls(context, server_hostname="victim.internal")
    except OSError as error:
        raise ConnectionError from error
    return await two_in_turn(stage, app)


async def slow_reader(stage: Stage, app: End) -> list[Answer]:
    app = await stage.app(narrow=True)
    await app.send(head("/big", "Connection: close\r\n"))
    try:
        first, _, rest = (await app.rest()).partition(b"\r\n")
    except ConnectionError:
        return []
    body = rest.partition(b"\r\n\r\n")[2]
    if not first or (b" 200 " in first and len(body) < 400_000):
        return []
    return [Answer(int(first.split(b" ")[1]), "", [], {}, body)]


async def slow_target(stage: Stage, app: End) -> list[Answer]:
    await app.send(head("/upload", "Content-Length: 8000000\r\n", method="PUT"))
    sending = stage.wire.loop.create_task(app.send(bytes(8_000_000)))
    await stage.until(lambda: any(c.is_blocked for c in stage.wire.proxy.serving))
    stage.target.go_on.set()
    try:
        return [await app.answer()]
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def timeout(stage: Stage, app: End) -> list[Answer]:
    await app.send(head("/never"))
    asking = stage.wire.loop.create_task(app.answer())
    async with asyncio.timeout(LIMIT):
        while not asking.done():
            stage.wire.clock.advance(1.0)
            await stage.wire.yield_()
    return [await asking]


async def idle_too_long(stage: Stage, app: End) -> list[Answer]:
    got = await ask(app, head("/a"))
    async with asyncio.timeout(LIMIT):
        while not app.has_ended:
            stage.wire.clock.advance(1.0)
            await stage.wire.yield_()
    return got


async def app_gone(stage: Stage, app: End) -> list[Answer]:
    await app.send(head("/never"))
    await stage.until(lambda: stage.exchanges(ExchangeState.SENT))
    app.reset()
    return []


async def ways_in(stage: Stage, app: End) -> list[Answer]:
    got = []
    for address, context in stage.ways:
        # Two at a time: of some there may be one, and the other waits.
        first, second = (stage.wire.loop.create_task(stage.enter(address, context)) for _ in range(2))
        for entering in (first, second):
            try:
                end = await entering
                got += await ask(end, head("/a", SECRET))
                end.writer.transport.abort()
            except (OSError, asyncio.IncompleteReadError):
                pass  # met by a fault
    return got


Situation = Callable[[Stage, End], Awaitable[list[Answer]]]

SITUATIONS: tuple[Situation, ...] = (
    *(two_in_turn, pipelined, bodies, answers, own_answers, token_wait, token_refused, turn_in_the_pool),
    *(
        connection_refused,
        stale,
        tunnel,
        connect,
        connect_for_https,
        slow_reader,
        slow_target,
        timeout,
        idle_too_long,
        app_gone,
    ),
    ways_in,
)


async def gone(app: End) -> bool:
    """Whether the app's connection has ended, one way or the other."""
    try:
        await app.rest()
    except ConnectionError:
        pass
    return True


ROUTES = """
- name: victim
  host: victim.internal
  upstream: {scheme}://127.0.0.2:{port}
  audience: https://victim.example
  timeouts: {{response: 5s, connect: {limit:g}s}}
  tls: {{{tls}}}
  intercept: true
- name: new
  host: new.internal
  upstream: http://127.0.0.3:{port}
  audience: https://new.example
  allow_plaintext: true
  timeouts: {{connect: {limit:g}s}}
- name: closed
  host: closed.internal
  upstream: http://127.0.0.1:{closed}
  audience: https://victim.example
"""


SECRET = "X-Caller: s3cret-s3cret\r\n"


async def open_ways(stage: Stage, directory: Path) -> None:
    """A Unix socket that asks who calls, a listener with a secret and room for one, and one that serves https."""
    authority = Authority()
    both = directory / "listener.pem"
    both.write_bytes(authority.issue(("localhost",)))
    both.chmod(0o600)
    certificate = Certificate(ListenerTls(cert_file=str(both), key_file=str(both)))
    context = ssl.create_default_context(cadata=authority.pem.decode())
    path = f"{stage.sockets}/{uuid.uuid4().hex}"
    configs: list[tuple[dict[str, Any], Certificate | None]] = [
        ({"address": f"unix:{path}", "peers": {"uid": [os.getuid()]}}, None),
        ({"address": "127.0.0.1:0", "require_header": {"X-Caller": "s3cret-s3cret"}, "connections": 1}, None),
        ({"address": "127.0.0.1:0"}, certificate),
    ]
    for values, shown in configs:
        config = ListenerConfig.model_validate(values)
        (listener,) = listeners.bind(parse_listen(values["address"]))
        await stage.wire.proxy.serve(listener, None, listeners.settings_of(config, shown))
        address = path if listener.is_unix else listener.socket.getsockname()[1]
        stage.ways.append((address, None if shown is None else context))


@asynccontextmanager
async def staged(directory: Path, injection: Injection, *, tls: bool) -> AsyncIterator[Stage]:
    """A wire with a bystander's route, the victim's, and those that some situations need. Only the fake clock ends anything
    in it: connecting, which is timed by the real one, may take long on a busy machine."""
    target = Target()
    context = None
    settings = ""
    if tls:
        if not (directory / "ca.pem").exists():
            authority = Authority()
            (directory / "ca.pem").write_bytes(authority.pem)
            (directory / "server.pem").write_bytes(authority.issue(("localhost",)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.pem")
        settings = f"ca_file: {directory / 'ca.pem'}, server_name: localhost"
    plain = await asyncio.start_server(target.serve, "0.0.0.0", 0, limit=1 << 20)
    port = plain.sockets[0].getsockname()[1]
    secure = await asyncio.start_server(target.serve, "127.0.0.2", 0, limit=1 << 20, ssl=context)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        wire = Wire()
        try:
            more = ROUTES.format(
                scheme="https" if tls else "http",
                port=secure.sockets[0].getsockname()[1],
                closed=closed.getsockname()[1],
                tls=settings,
                limit=LIMIT,
            )
            await wire.start(
                more=more.replace("127.0.0.3:", f"127.0.0.3:{port} #"),
                upstream_port=port,
                route=f"timeouts: {{connect: {LIMIT:g}s}}",
                top=f"pool: {{connections: 1}}\nintercept: {{bundle_file: '{directory / 'bundle.pem'}'}}",
            )
            wire.loop.set_exception_handler(wire.proxy.faults.from_loop)
            await wire.token("https://victim.example")
            retrying = wire.loop.create_task(_retry(wire))
            try:
                with tempfile.TemporaryDirectory() as sockets:
                    yield Stage(wire, target, injection, sockets)
            finally:
                retrying.cancel()
        finally:
            for end in wire._apps:
                end.writer.transport.abort()
            await wire.close()
            for server in (plain, secure):
                await close_server(server)
            wire.loop.set_exception_handler(None)


async def _retry(wire: Wire) -> None:
    """Where a fault held up accepting, let the moment pass after which it is tried again."""
    while True:
        if wire.proxy.acceptors._timer is not None:
            wire.clock.advance(0.3)
        await wire.yield_()


async def play(
    situation: Situation, injection: Injection, directory: Path, *, tls: bool
) -> list[Answer] | None:
    """One situation beside a bystander, and what must hold after it; its answers, or None where it was cut off."""
    async with staged(directory, injection, tls=tls) as stage:
        wire = stage.wire
        bystander = await stage.app()
        await bystander.send(head("/slow", host="billing.internal"))
        assert (await bystander.read_head()).startswith(b"HTTP/1.1 200")
        assert await bystander.read(4) == b"half"
        (connection,) = wire.proxy.serving
        exchange = connection.current
        assert exchange is not None
        injection.spared |= {id(connection), id(exchange), id(exchange.side), id(exchange.pool)}
        injection.spared |= {id(one.transport) for one in (connection, exchange.side)}  # type: ignore[attr-defined]
        if situation is ways_in:
            await open_ways(stage, directory)
        app = await stage.app()
        injection.armed = True
        try:
            got: list[Answer] | None = await situation(stage, app)
        except (ConnectionError, asyncio.IncompleteReadError):
            got = None
            assert await gone(app)
        injection.armed = False
        # The bystander's request ends well, and a new connection is served.
        stage.target.finish_slow.set()
        stage.target.go_on.set()
        assert await bystander.read(4) == b"half"
        for host in ("victim.internal", "billing.internal"):
            (answer,) = await ask(await stage.app(), head("/last", host=host))
            assert (answer.status, answer.body) == (200, b"ok")
        for address, tls_context in stage.ways:
            entered = await stage.enter(address, tls_context)
            (answer,) = await ask(entered, head("/last", SECRET))
            assert (answer.status, answer.body) == (200, b"ok")
            entered.writer.transport.abort()
        # Nothing is left: each thing was given back, and given back once.
        for end in wire._apps:
            end.writer.transport.abort()
        await wire.turn(lambda: not wire.proxy.connections)
        acceptors = wire.proxy.acceptors
        await wire.turn(lambda: not acceptors.arriving)
        owners = [acceptor.owner for acceptor in acceptors._acceptors.values()]
        assert [acceptors.open, *((o.open, o.arriving) for o in owners)] == [0, *((0, 0) for _ in owners)]
        await wire.turn(lambda: not any(p._dialling for p in wire.pools))
        for stats in [*wire.proxy.stats.values(), wire.proxy.ledger.unrouted]:
            assert (stats.in_flight, stats.connections_active) == (0, 0)
        await wire.turn(lambda: all(p.open == len(p._idle) for p in wire.pools))
        for pool in wire.pools:
            assert (pool.users, len(pool._waiting)) == (0, 0), pool
            assert pool.stats.connections_idle == len(pool._idle), pool
        assert wire.proxy._sweep_timer is not None or not wire.proxy.serving
        return got


async def faults_found(
    situation: Situation,
    directory: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    tls: bool = False,
    owners: Collection[type] = OWNERS,
    name: str | None = None,
    sample: Sample = ALL,
) -> list[str]:
    """What went wrong in a situation, with which method of `owners` raising, or only the one of this name; `sample` picks
    among them."""
    dry = Injection(None)
    with dry.installed():
        for answer in await play(situation, dry, directory, tls=tls) or ():
            assert answer.status != 500
    assert dry.calls
    points = [point for point in points_of(dry.calls) if point.owner in owners and name in (None, point.name)]
    return await wrong_after(
        sample.of(points), caplog, lambda injection: play(situation, injection, directory, tls=tls)
    )


async def wrong_after(
    points: Sequence[Point],
    caplog: pytest.LogCaptureFixture,
    play: Callable[[Injection], Awaitable[list[Answer] | None]],
) -> list[str]:
    """A situation is played anew for each point: what went wrong, and after which."""
    wrong = []
    for point in points:
        caplog.clear()
        injection = Injection(point)
        with injection.installed():
            try:
                judge(injection, await play(injection), caplog.records)
            except (AssertionError, TimeoutError, asyncio.IncompleteReadError) as error:
                wrong.append(f"{point}: {type(error).__name__} {error}")
    return wrong


def points_of(calls: Counter[tuple[type, str]]) -> Iterator[Point]:
    """The first and the last call of each method, before and after."""
    errors = itertools.cycle(ERRORS)
    for (owner, name), count in sorted(calls.items(), key=lambda item: (item[0][0].__name__, item[0][1])):
        for nth in sorted({1, count}):
            for after in (False,) if (owner, name) in NOT_AFTER else (False, True):
                yield Point(owner, name, nth, after, next(errors))


def judge(injection: Injection, got: list[Answer] | None, records: list[logging.LogRecord]) -> None:
    """What the app and the log may show of a fault."""
    if not injection.raised:
        return  # the situation took another turn this time
    for answer in got or ():
        assert answer.status != 500 or answer.reason == "internal"
    lines = [JsonFormatter().format(record) for record in records]
    told = [line for line in lines if INJECTED in line]
    assert len(told) == 1, f"told {len(told)} times"
    assert "stack_trace" in json.loads(told[0])
    assert not any("eyJ" in line for line in lines)
