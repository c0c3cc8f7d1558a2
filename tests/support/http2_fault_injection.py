"""Faults of the sidecar's own where HTTP/2 is spoken: as `fault_injection` has them for HTTP/1, with situations of HTTP/2.

A fault ends its stream, or its connection with INTERNAL_ERROR; a bystander on another connection notices nothing, and
neither does a sibling on the same one, where the fault was a stream's.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import h2.events
import h2.exceptions
import pytest

from sidecar.proxy.exchange.exchange import Exchange, ExchangeState
from sidecar.proxy.exchange.held import HeldBody
from sidecar.proxy.exchange.ledger import Ledger
from sidecar.proxy.http2.app_stream import AppStream
from sidecar.proxy.http2.app_streams import AppStreams
from sidecar.proxy.http2.connection import Http2Connection
from sidecar.proxy.http2.downstream import Http2Downstream
from sidecar.proxy.http2.upstream import Http2Upstream
from sidecar.proxy.http2.upstream_stream import UpstreamStream
from tests.support.closing import close_server
from tests.support.fault_injection import ALL, Injection, Sample, points_of, wrong_after
from tests.support.h2_frames import data as data_frame
from tests.support.h2_peer import CALL, GET, OK, POST, Lines, Peer, fields
from tests.support.wire import LIMIT, Answer, End, Wire

CONNECTION: Final = (Http2Connection, Http2Downstream, AppStreams, Http2Upstream)
STREAM: Final = (AppStream, UpstreamStream, Exchange, HeldBody, Ledger)
"""What the tests raise from: with a fault of the second ones, the connection goes on."""
SIZE: Final = 400_000
"""Bytes of a body that no window has room for."""


class Target:
    """A target that plays its part by itself, a request as its path says."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.finish_slow = asyncio.Event()
        self.seen: set[str] = set()
        """What happens once only."""
        self._held: set[tuple[int, int]] = set()
        """Connections and streams whose bodies are not taken yet."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = await Peer.begin(End(reader, writer), is_client=False, credits_all=False)
            while await peer.read():
                for event in peer.seen:
                    if isinstance(event, h2.events.RequestReceived):
                        self._begin(peer, event)
                    elif isinstance(event, h2.events.DataReceived) and self._takes(peer, event.stream_id):
                        peer.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                peer.seen.clear()
                await peer.flush()
        except (OSError, h2.exceptions.ProtocolError):
            pass
        finally:
            writer.close()

    def _takes(self, peer: Peer, stream: int) -> bool:
        return self.go_on.is_set() or (id(peer), stream) not in self._held

    def _begin(self, peer: Peer, event: h2.events.RequestReceived) -> None:
        path = fields(event)[b":path"].decode()
        if path == "/upload":
            self._held.add((id(peer), event.stream_id))
        task = asyncio.get_running_loop().create_task(self._answer(peer, event.stream_id, path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, peer: Peer, stream: int, path: str) -> None:
        with suppress(OSError, h2.exceptions.ProtocolError):
            await self._play(peer, stream, path)

    async def _play(self, peer: Peer, stream: int, path: str) -> None:  # noqa: C901  # one branch a path
        again = path in self.seen
        self.seen.add(path)
        if path == "/never":
            return
        if path == "/slow":
            await peer.answer(stream, body=b"half", end=False)
            await self.finish_slow.wait()
            peer.h2.send_data(stream, b"half", end_stream=True)
            await peer.flush()
        elif path == "/trailers":
            peer.h2.send_headers(stream, ((b":status", b"103"), (b"link", b"</a>")))
            kind = (b"content-type", b"application/grpc")
            await peer.answer(stream, (*OK, kind), body=b"ok", trailers=((b"grpc-status", b"0"),))
        elif path == "/lone":
            await peer.answer(stream, (*OK, (b"content-type", b"application/grpc"), (b"grpc-status", b"5")))
        elif path == "/page":
            await peer.answer(stream, ((b":status", b"403"), (b"content-type", b"text/html")), body=b"<no>")
        elif path == "/malformed":
            await peer.answer(stream, ((b":status", b"999"),), body=b"no")
        elif path == "/refused" and not again:
            challenge = (b"www-authenticate", b'Bearer error="invalid_token"')
            await peer.answer(stream, ((b":status", b"401"), challenge), body=b"no")
        elif path == "/unread" and not again:
            peer.h2.reset_stream(stream, 7)
            await peer.flush()
        elif path == "/reset":
            await peer.answer(stream, body=b"half", end=False)
            peer.h2.reset_stream(stream, 2)
            await peer.flush()
        elif path == "/leaving":
            await peer.answer(stream, body=b"ok")
            peer.h2.close_connection()
            await peer.flush()
        elif path == "/vanishing" and not again:
            sock = peer.end.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.end.writer.transport.abort()
        elif path == "/broken":
            await peer.end.send(data_frame(0, b"on no stream"))
        elif path == "/fewer":
            peer.h2.update_settings({3: 1})
            await peer.answer(stream, body=b"ok")
            peer.h2.update_settings({3: 50})
            await peer.flush()
        elif path == "/big":
            await peer.answer(stream, end=False)
            await self._send(peer, stream, SIZE)
        else:
            if path == "/upload":
                await self.go_on.wait()
                peer.h2.increment_flow_control_window(2 * SIZE)
                peer.h2.increment_flow_control_window(2 * SIZE, stream)
                await peer.flush()
            await peer.answer(stream, body=b"ok")

    @staticmethod
    async def _send(peer: Peer, stream: int, left: int) -> None:
        while left:
            size = min(left, peer.h2.local_flow_control_window(stream), 16384)
            if size:
                left -= size
                peer.h2.send_data(stream, bytes(size), end_stream=not left)
                await peer.flush()
            await asyncio.sleep(0.0 if size else 0.001)


class Stage:
    """The wire, its target, and what a situation needs of both."""

    def __init__(self, wire: Wire, target: Target, injection: Injection) -> None:
        self.wire = wire
        self.target = target
        self._injection = injection

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for it, or for the fault after which it may never come."""
        await self.wire.turn(lambda: condition() or self.has_raised)

    @property
    def has_raised(self) -> bool:
        """Whether the fault has been."""
        return self._injection.raised > 0

    async def app(self, **more: bool) -> Peer:
        """Another app."""
        return await Peer.begin(await self.wire.app(), is_client=True, **more)

    def connections(self) -> list[Http2Downstream]:
        """Of apps that speak HTTP/2, the bystander's first."""
        found = [c for c in self.wire.proxy.serving if isinstance(c, Http2Downstream)]
        return sorted(found, key=lambda c: id(c) not in self._injection.spared)

    def in_flight(self, state: ExchangeState) -> int:
        """How many exchanges are in this state, the bystander's not counted."""
        streams = [s for c in self.connections()[1:] for s in c._streams.values()]
        return sum(s.exchange is not None and s.exchange.state is state for s in streams)


def lines(kind: Lines, path: str, host: str = "victim.internal", *more: tuple[bytes, bytes]) -> Lines:
    return (*kind[:2], (b":authority", host.encode()), (b":path", path.encode()), *kind[4:], *more)


async def ask(
    app: Peer, path: str, host: str = "victim.internal", *, kind: Lines = GET, body: bytes | None = None
) -> int:
    """A request; the id of its stream, 0 where the connection takes none any more."""
    with suppress(OSError, h2.exceptions.ProtocolError):
        return await app.ask(lines(kind, path, host), body=body)
    return 0


async def outcome(app: Peer, stream: int) -> Answer | None:
    """The answer on a stream, whole; None where it or its connection was ended."""
    status, found, body = 0, dict[str, str](), b""
    while stream:
        for event in [event for event in app.seen if getattr(event, "stream_id", None) == stream]:
            app.seen.remove(event)
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                found |= {name.decode(): value.decode() for name, value in fields(event).items()}
                status = int(found[":status"])
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.StreamReset):
                return None
            elif isinstance(event, h2.events.StreamEnded):
                return Answer(_status(status, found), "", [], found, body)
        try:
            if not await app.read():
                return None
        except (OSError, h2.exceptions.ProtocolError):
            return None
    return None


def _status(status: int, found: dict[str, str]) -> int:
    """A call's INTERNAL of the sidecar's own as the 500 that another request gets."""
    internal = found.get("grpc-status") == "13" and found.get("grpc-message", "").startswith("internal:")
    return 500 if internal else status


async def outcomes(app: Peer, *streams: int) -> list[Answer]:
    """What was answered in full."""
    found = [await outcome(app, stream) for stream in streams]
    return [answer for answer in found if answer is not None]


async def two_at_once(stage: Stage, app: Peer) -> list[Answer]:
    first, second = await ask(app, "/a"), await ask(app, "/b")
    found = await outcomes(app, first, second)
    return [*found, *await outcomes(app, await ask(app, "/c"))]


async def bodies(stage: Stage, app: Peer) -> list[Answer]:
    stream = await ask(app, "/a", kind=POST, body=b"abc")
    found = await outcomes(app, stream)
    with suppress(OSError, h2.exceptions.ProtocolError):
        stream = await app.ask(lines(POST, "/b"), body=b"abc", end=False)
        app.h2.send_headers(stream, ((b"x-last", b"1"),), end_stream=True)
        await app.flush()
        found += await outcomes(app, stream)
    return found


async def calls(stage: Stage, app: Peer) -> list[Answer]:
    streams = [await ask(app, path, kind=CALL, body=bytes(5)) for path in ("/trailers", "/lone", "/page")]
    return await outcomes(app, *streams)


async def own_answers(stage: Stage, app: Peer) -> list[Answer]:
    first, second = await ask(app, "/a", "nobody.internal"), await ask(app, "/%00")
    third = await ask(app, "/malformed")
    fourth = await ask(app, "/a", "nobody.internal", kind=CALL, body=bytes(5))
    fifth = await ask(app, "/a", "closed.internal")
    return await outcomes(app, first, second, third, fourth, fifth)


async def token_wait(stage: Stage, app: Peer) -> list[Answer]:
    stage.wire.source.gate.clear()
    stream = await ask(app, "/a", "new.internal")
    await stage.until(lambda: stage.in_flight(ExchangeState.TOKEN))
    stage.wire.source.gate.set()
    return await outcomes(app, stream)


async def token_refused(stage: Stage, app: Peer) -> list[Answer]:
    return await outcomes(app, await ask(app, "/refused"))


async def sent_again(stage: Stage, app: Peer) -> list[Answer]:
    first = await outcomes(app, await ask(app, "/unread", kind=POST, body=b"abc"))
    return [*first, *await outcomes(app, await ask(app, "/vanishing"))]


async def target_resets(stage: Stage, app: Peer) -> list[Answer]:
    streams = [await ask(app, "/reset"), await ask(app, "/reset", kind=CALL, body=bytes(5))]
    return await outcomes(app, *streams)


async def target_leaves(stage: Stage, app: Peer) -> list[Answer]:
    found = await outcomes(app, await ask(app, "/leaving"))
    return [*found, *await outcomes(app, await ask(app, "/a"))]


async def target_breaks_the_rules(stage: Stage, app: Peer) -> list[Answer]:
    waiting, stream = await ask(app, "/never"), await ask(app, "/broken")
    found = await outcomes(app, stream)
    return found if stage.has_raised else [*found, *await outcomes(app, waiting)]


async def target_takes_fewer(stage: Stage, app: Peer) -> list[Answer]:
    streams = [await ask(app, path) for path in ("/fewer", "/a", "/b", "/c")]
    return await outcomes(app, *streams)


async def cancelled(stage: Stage, app: Peer) -> list[Answer]:
    stream = await ask(app, "/never")
    await stage.until(lambda: stage.in_flight(ExchangeState.SENT))
    with suppress(OSError, h2.exceptions.ProtocolError):
        app.h2.reset_stream(stream, 8)
        await app.flush()
    return await outcomes(app, await ask(app, "/a"))


async def app_gone(stage: Stage, app: Peer) -> list[Answer]:
    await ask(app, "/never")
    await stage.until(lambda: stage.in_flight(ExchangeState.SENT))
    app.end.reset()
    return []


async def app_breaks_the_rules(stage: Stage, app: Peer) -> list[Answer]:
    stream = await ask(app, "/never")
    await stage.until(lambda: stage.in_flight(ExchangeState.SENT))
    await app.end.send(data_frame(0, b"on no stream"))
    return await outcomes(app, stream)


async def drained(stage: Stage, app: Peer) -> list[Answer]:
    first = await ask(app, "/a")
    await stage.until(lambda: len(stage.connections()) == 2)
    for connection in stage.connections()[1:]:
        try:
            connection.drain(stage.wire.clock.mono())
        except Exception as fault:  # noqa: BLE001  # as the sweep, from which it is called
            connection.fault(fault)
    found = await outcomes(app, first)
    await _ends_in_time(stage, app)
    return found


async def _ends_in_time(stage: Stage, app: Peer) -> None:
    """The clock goes on until the sidecar has closed the connection."""
    ending = stage.wire.loop.create_task(app.ends())
    async with asyncio.timeout(LIMIT):
        while not ending.done():
            stage.wire.clock.advance(1.0)
            await stage.wire.yield_()
    with suppress(OSError, h2.exceptions.ProtocolError):
        await ending


async def slow_reader(stage: Stage, app: Peer) -> list[Answer]:
    app = await stage.app(credits_all=False)
    stream = await ask(app, "/big")
    await stage.until(lambda: stage.wire.proxy.ledger.unrouted.flow_control_stalls)
    app.h2.increment_flow_control_window(2 * SIZE)
    app.h2.increment_flow_control_window(2 * SIZE, stream)
    with suppress(OSError):
        await app.flush()
    return await outcomes(app, stream)


async def slow_target(stage: Stage, app: Peer) -> list[Answer]:
    with suppress(OSError, h2.exceptions.ProtocolError):
        stream = await app.ask(lines(POST, "/upload"), end=False)
        sending = stage.wire.loop.create_task(Target._send(app, stream, SIZE))
        answering = stage.wire.loop.create_task(outcomes(app, stream))
        try:
            await stage.until(
                lambda: stage.wire.proxy.stats["victim"].flow_control_stalls or answering.done()
            )
            stage.target.go_on.set()
            return await answering
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    return []


async def timeout(stage: Stage, app: Peer) -> list[Answer]:
    asking = stage.wire.loop.create_task(outcomes(app, await ask(app, "/never")))
    async with asyncio.timeout(LIMIT):
        while not asking.done():
            stage.wire.clock.advance(1.0)
            await stage.wire.yield_()
    return await asking


async def idle_too_long(stage: Stage, app: Peer) -> list[Answer]:
    found = await outcomes(app, await ask(app, "/a"))
    await _ends_in_time(stage, app)
    return found


Situation = Callable[[Stage, Peer], Awaitable[list[Answer]]]

SITUATIONS: Final[Sequence[Situation]] = (
    *(two_at_once, bodies, calls, own_answers, token_wait, token_refused, sent_again, target_resets),
    *(target_leaves, target_breaks_the_rules, target_takes_fewer, cancelled, app_gone, app_breaks_the_rules),
    *(drained, slow_reader, slow_target, timeout, idle_too_long),
)

ROUTES: Final = """
- name: victim
  host: victim.internal
  upstream: http://127.0.0.2:{port}
  audience: https://victim.example
  allow_plaintext: true
  timeouts: {{response: 5s, connect: {limit:g}s}}
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


@asynccontextmanager
async def staged(injection: Injection) -> AsyncIterator[Stage]:
    """A wire with a bystander's route, the victim's, and those that some situations need."""
    target = Target()
    server = await asyncio.start_server(target.serve, "0.0.0.0", 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        wire = Wire()
        try:
            await wire.start(
                more=ROUTES.format(port=port, closed=closed.getsockname()[1], limit=LIMIT),
                upstream_port=port,
                route=f"timeouts: {{connect: {LIMIT:g}s}}",
                top="limits: {buffer: 16KiB, stream_window: 64KiB}",
            )
            wire.loop.set_exception_handler(wire.proxy.faults.from_loop)
            await wire.token("https://victim.example")
            yield Stage(wire, target, injection)
        finally:
            for end in wire._apps:
                end.writer.transport.abort()
            await wire.close()
            await close_server(server)
            wire.loop.set_exception_handler(None)


async def play(situation: Situation, injection: Injection) -> list[Answer] | None:
    """One situation beside a bystander, and what must hold after it; its answers."""
    async with staged(injection) as stage:
        wire = stage.wire
        bystander = await stage.app()
        kept = await ask(bystander, "/slow", "billing.internal")
        await bystander.until(h2.events.DataReceived, kept)
        _spare(stage, injection)
        app = await stage.app()
        injection.armed = True
        try:
            got: list[Answer] | None = await situation(stage, app)
        except (OSError, AssertionError, h2.exceptions.ProtocolError):
            if not injection.raised:
                raise
            got = None
        injection.armed = False
        # The bystander's request ends well, and a new connection is served.
        stage.target.finish_slow.set()
        stage.target.go_on.set()
        assert (await bystander.until(h2.events.DataReceived, kept)).data == b"half"
        for host in ("victim.internal", "billing.internal"):
            another = await stage.app()
            answer = await outcome(another, await ask(another, "/last", host))
            assert answer is not None, host
            assert (answer.status, answer.body) == (200, b"ok")
        await _nothing_is_left(wire)
        return got


def _spare(stage: Stage, injection: Injection) -> None:
    (connection,) = stage.connections()
    (stream,) = connection._streams.values()
    exchange = stream.exchange
    assert exchange is not None
    side = exchange.side
    assert isinstance(side, UpstreamStream)
    spared = (
        connection,
        connection.http2,
        stream,
        exchange,
        side,
        side._link,
        side._link.http2,
        exchange.pool,
    )
    injection.spared |= {id(one) for one in spared}


async def _nothing_is_left(wire: Wire) -> None:
    """Each thing was given back, and given back once."""
    for end in wire._apps:
        end.writer.transport.abort()
    await wire.turn(lambda: not wire.proxy.connections)
    assert wire.proxy.acceptors.open == 0
    await wire.turn(lambda: not any(p._dialling for p in wire.pools))
    for stats in [*wire.proxy.stats.values(), wire.proxy.ledger.unrouted]:
        assert (stats.in_flight, stats.connections_active, stats.upstream_streams) == (0, 0, 0)
    await wire.turn(lambda: all(p.open == len(p._idle) for p in wire.pools))
    for pool in wire.pools:
        assert (pool.users, len(pool._waiting), len(pool._shared)) == (0, 0, 0), pool
        assert pool.stats.connections_idle == len(pool._idle), pool


async def faults_found(
    situation: Situation, caplog: pytest.LogCaptureFixture, *, sample: Sample = ALL
) -> list[str]:
    """What went wrong in a situation, with which method raising; `sample` picks among them."""
    dry = Injection(None)
    with dry.installed():
        for answer in await play(situation, dry) or ():
            assert answer.status != 500
    points = [point for point in points_of(dry.calls) if point.owner in (*CONNECTION, *STREAM)]
    assert points

    async def judged(injection: Injection) -> list[Answer]:
        return [
            answer for answer in await play(situation, injection) or () if "grpc-status" not in answer.headers
        ]

    return await wrong_after(sample.of(points), caplog, judged)
