"""The stand-in's gRPC target, called with grpcio: who is let in, how others are refused, and what the service does."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.emulator.app import Emulator
from sidecar.emulator.kinds import TargetKind, Wanted
from sidecar.emulator.running import EmulatorThread
from sidecar.emulator.targets import Target
from tests.support.google import signed
from tests.support.sidecar import LIMIT

SAY = "/emulator.v1.Echo/Say"
CHAT = "/emulator.v1.Echo/Chat"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def token(target: Target, header: str = "authorization", **claims: Any) -> tuple[tuple[str, str], ...]:
    """Metadata that has a token for the target."""
    now = time.time()  # noqa: TID251  # tokens are of the real clock
    return ((header, f"Bearer {signed(now, **{'aud': target.audience, **claims})}"),)


def channel(google: Emulator, target: Target, *options: tuple[str, Any]) -> grpc.aio.Channel:
    """A connection of its own to a target."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), *options)
    if target.url.startswith("https"):
        credentials = grpc.ssl_channel_credentials(google.ca_file.read_bytes())
        return grpc.aio.secure_channel(f"localhost:{target.port}", credentials, options=options)
    return grpc.aio.insecure_channel(f"127.0.0.1:{target.port}", options=options)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details() or ""


@pytest.fixture
async def billing(google: Emulator) -> Target:
    return await google.add_target("billing", grpc=True)


@pytest.fixture
async def open_channel(google: Emulator) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to a target that verifies nothing."""
    target = await google.add_target("open", kind="open", grpc=True)
    async with channel(google, target) as made:
        yield made


@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
async def test_a_call_with_a_good_token_is_let_in_and_recorded(google: Emulator, tls: bool) -> None:
    """By prior knowledge, and by ALPN: grpcio refuses a server that does not choose h2."""
    target = await google.add_target("billing", grpc=True, tls=tls)
    async with channel(google, target) as made:
        assert await made.unary_unary(SAY)(b"hello", metadata=token(target)) == b"hello"
    (received,) = target.requests
    assert (received.method, received.path, received.refused) == ("POST", SAY, 0)
    assert received.host == target.url.partition("//")[2]
    assert received.verified is not None
    assert (received.verified.audience, received.verified.header) == (target.url, "Authorization")
    assert received.verified.email == "caller@example.com"


@pytest.mark.parametrize(
    ("metadata", "status", "code"),
    [
        pytest.param((), 403, "PERMISSION_DENIED", id="no-token"),
        pytest.param((("authorization", "Bearer a.b.c"),), 401, "UNAUTHENTICATED", id="no-jwt"),
        pytest.param({"aud": "https://another.example"}, 401, "UNAUTHENTICATED", id="another-audience"),
        pytest.param({"email": "stranger@example.com"}, 403, "PERMISSION_DENIED", id="no-role"),
    ],
)
async def test_cloud_run_refuses_with_its_pages(
    google: Emulator, metadata: Any, status: int, code: str
) -> None:
    """By the same judgement as over HTTP/1.1; grpcio makes a status of the page's."""
    target = await google.add_target("billing", grpc=True, callers=["caller@example.com"])
    if isinstance(metadata, dict):
        metadata = token(target, **metadata)
    async with channel(google, target) as made:
        found, says = await refusal(made.unary_unary(SAY)(b"", metadata=metadata))
    assert (found.name, str(status) in says) == (code, True)
    assert (target.requests[-1].refused, target.requests[-1].verified) == (status, None)


@pytest.mark.parametrize("kind", ["api_gateway", "endpoints"])
@pytest.mark.parametrize(
    ("claims", "status", "code", "says"),
    [
        pytest.param(None, 401, "UNAUTHENTICATED", "Jwt is missing", id="no-token"),
        pytest.param({"exp": 1}, 401, "UNAUTHENTICATED", "Jwt is expired", id="expired"),
        pytest.param(
            {"aud": "x"}, 403, "PERMISSION_DENIED", "Audiences in Jwt are not allowed", id="audience"
        ),
    ],
)
async def test_espv2_refuses_as_grpc_does(
    google: Emulator, kind: TargetKind, claims: dict[str, Any] | None, status: int, code: str, says: str
) -> None:
    """With a status, and the JSON of HTTP as its message: as in the integration tests of ESPv2."""
    target = await google.add_target("billing", kind=kind, grpc=True)
    metadata = () if claims is None else token(target, **claims)
    async with channel(google, target) as made:
        found, message = await refusal(made.unary_unary(SAY)(b"", metadata=metadata))
        assert (found.name, message) == (code, f'{{"code":{status},"message":"{says}"}}')
        assert target.requests[-1].refused == status
        assert await made.unary_unary(SAY)(b"x", metadata=token(target)) == b"x"


async def test_the_token_may_be_in_the_serverless_header(google: Emulator, billing: Target) -> None:
    """And then Authorization is the app's own."""
    metadata = (*token(billing, "x-serverless-authorization"), ("authorization", "Bearer app's"))
    async with channel(google, billing) as made:
        assert await made.unary_unary(SAY)(b"x", metadata=metadata) == b"x"
    verified = billing.requests[-1].verified
    assert verified is not None
    assert verified.header == "X-Serverless-Authorization"


async def test_iap_refuses_a_call_without_a_token(google: Emulator) -> None:
    """With 401, since a call is no page that could lead to the sign-in."""
    target = await google.add_target("reports", kind="iap", grpc=True, audience="1-a.apps.example")
    async with channel(google, target) as made:
        code, _ = await refusal(made.unary_unary(SAY)(b""))
        assert (code, target.requests[-1].refused) == (grpc.StatusCode.UNAUTHENTICATED, 401)
        metadata = token(target, "proxy-authorization")
        assert await made.unary_unary(SAY)(b"x", metadata=metadata) == b"x"


async def test_another_authority_is_not_found(google: Emulator, billing: Target) -> None:
    async with channel(google, billing, ("grpc.default_authority", "other.example")) as made:
        code, says = await refusal(made.unary_unary(SAY)(b"", metadata=token(billing)))
    assert (code, billing.requests[-1].refused) == (grpc.StatusCode.UNIMPLEMENTED, 404)
    assert "404" in says


async def test_a_stream_is_echoed_message_by_message(open_channel: grpc.aio.Channel) -> None:
    """Each before the next is sent, in both directions at once."""
    call = open_channel.stream_stream(CHAT)(timeout=LIMIT)
    for number in range(3):
        await call.write(b"%d" % number)
        assert await call.read() == b"%d" % number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_messages_of_any_size_and_a_limit(open_channel: grpc.aio.Channel) -> None:
    """4 MiB, as servers of gRPC have it by themselves."""
    say = open_channel.unary_unary(SAY)
    for size in (0, 1, 65_536, 3_000_000):
        assert await say(bytes(size), timeout=LIMIT) == bytes(size)
    code, says = await refusal(say(bytes(4 * 1024 * 1024 + 1), timeout=LIMIT))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4194305" in says


async def test_compressed_messages_go_back_compressed(open_channel: grpc.aio.Channel) -> None:
    """With the encoding that they came in: the client reads what it has sent."""
    say = open_channel.unary_unary(SAY)
    assert await say(b"hello " * 1000, compression=grpc.Compression.Gzip, timeout=LIMIT) == b"hello " * 1000


@pytest.mark.parametrize(
    ("method", "says"),
    [
        pytest.param("/emulator.v1.Echo/Sing", "unknown method Sing of emulator.v1.Echo", id="method"),
        pytest.param("/billing.v1.Bills/Pay", "unknown service billing.v1.Bills", id="service"),
    ],
)
async def test_all_else_is_unimplemented(open_channel: grpc.aio.Channel, method: str, says: str) -> None:
    assert await refusal(open_channel.unary_unary(method)(b"")) == (grpc.StatusCode.UNIMPLEMENTED, says)


async def test_a_status_can_be_asked_for(google: Emulator, billing: Target) -> None:
    """From the next call on."""
    async with channel(google, billing) as made:
        billing.settings.grpc_status = 14
        code, says = await refusal(made.unary_unary(SAY)(b"", metadata=token(billing)))
        assert (code, says) == (grpc.StatusCode.UNAVAILABLE, "told to end so (grpc_status)")
        billing.settings.grpc_status = 0
        assert await made.unary_unary(SAY)(b"x", metadata=token(billing)) == b"x"
    assert [received.refused for received in billing.requests] == [0, 0]


async def test_health_is_checked(google: Emulator) -> None:
    """Of the whole, of a service, and of one that there is not."""
    target = await google.add_target("svc", kind="open", grpc=True)
    async with channel(google, target) as made:
        stub = health_pb2_grpc.HealthStub(made)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
        named = health_pb2.HealthCheckRequest(service="emulator.v1.Echo")
        assert (await stub.Check(named)).status == SERVING
        target.set_health("NOT_SERVING")
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        assert (await stub.Check(named)).status == SERVING
        code, _ = await refusal(stub.Check(health_pb2.HealthCheckRequest(service="nothing")))
        assert code is grpc.StatusCode.NOT_FOUND
        code, _ = await refusal(made.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a\xff"))
        assert code is grpc.StatusCode.INTERNAL
    with pytest.raises(ValueError, match="there are UNKNOWN, SERVING"):
        target.set_health("WELL")  # type: ignore[arg-type]  # what is tested
    web = await google.add_target("web")
    with pytest.raises(ValueError, match="speaks HTTP"):
        web.set_health("SERVING")


async def test_health_is_watched(google: Emulator) -> None:
    """Changes come as they happen, and only changes; a watch of what is not there yet goes on."""
    target = await google.add_target("svc", kind="open", grpc=True)
    async with channel(google, target) as made:
        stub = health_pb2_grpc.HealthStub(made)
        call = stub.Watch(health_pb2.HealthCheckRequest(service="later"), timeout=LIMIT)
        assert (await call.read()).status == SERVICE_UNKNOWN
        target.set_health("NOT_SERVING", "later")
        assert (await call.read()).status == NOT_SERVING
        target.set_health("NOT_SERVING", "later")
        target.set_health("SERVING", "later")
        assert (await call.read()).status == SERVING
        call.cancel()


async def test_it_stops_and_starts_on_its_port(google: Emulator, billing: Target) -> None:
    """As the targets of HTTP do; an open connection ends."""
    async with channel(google, billing, ("grpc.initial_reconnect_backoff_ms", 100)) as made:
        say = made.unary_unary(SAY)
        assert await say(b"x", metadata=token(billing)) == b"x"
        await google.stop(billing.app)
        assert not google.is_listening(billing.app)
        code, _ = await refusal(say(b"x", metadata=token(billing), timeout=LIMIT))
        assert code is grpc.StatusCode.UNAVAILABLE
        await google.start(billing.app)
        assert await say(b"x", metadata=token(billing), wait_for_ready=True, timeout=LIMIT) == b"x"


@pytest.mark.parametrize(
    ("fields", "status", "server"),
    [
        pytest.param({}, b"403", b"Google Frontend", id="no-token"),
        pytest.param({"kind": "open"}, b"415", None, id="no-grpc"),
    ],
)
async def test_a_request_that_is_no_call(
    google: Emulator, fields: dict[str, Any], status: bytes, server: bytes | None
) -> None:
    """A GET is judged too, and then told that gRPC is spoken here; what the front end adds is on each answer."""
    target = await google.add_target("svc", grpc=True, **fields)
    peer = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    peer.initiate_connection()
    authority = target.url.partition("//")[2]
    head = [(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", "/x")]
    peer.send_headers(1, head, end_stream=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(peer.data_to_send())
    found: dict[bytes, bytes] = {}
    body, is_over = b"", False
    while not is_over:
        async with asyncio.timeout(LIMIT):
            received = await reader.read(65536)
        assert received
        for event in peer.receive_data(received):
            if isinstance(event, h2.events.ResponseReceived):
                found = {bytes(name): bytes(value) for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
            is_over = is_over or isinstance(event, h2.events.StreamEnded)
    writer.close()
    assert (found[b":status"], found.get(b"server")) == (status, server)
    assert found[b"date"].endswith(b" GMT")
    assert int(found[b"content-length"]) == len(body) > 0
    if status == b"403":
        assert b"Your client does not have permission to get URL <code>/x</code>" in body


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", id="http1"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64, id="no-frames"),
    ],
)
async def test_what_is_no_http2_ends_its_connection(billing: Target, sent: bytes) -> None:
    """And no other: the target goes on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", billing.port)
    writer.write(sent)
    async with asyncio.timeout(LIMIT):
        try:
            while await reader.read(65536):
                pass
        except ConnectionResetError:
            pass
    writer.close()
    assert not billing.requests
    with socket.create_connection(("127.0.0.1", billing.port), timeout=LIMIT):
        pass


def test_only_some_kinds_know_grpc() -> None:
    assert Wanted.of("billing,grpc") == ("billing", "cloud_run", True)
    assert Wanted.of("a=iap,grpc") == ("a", "iap", True)
    assert Wanted.of("a=googleapis") == ("a", "googleapis", False)
    for word in ("=iap", "a=b", "a,tls", "a,grpc,grpc", ",grpc"):
        with pytest.raises(ValueError, match="is not NAME"):
            Wanted.of(word)
    with pytest.raises(ValueError, match="these do: cloud_run, iap, api_gateway, endpoints, open"):
        Wanted.of("a=googleapis,grpc")


async def test_a_kind_that_does_not_know_it_says_so(google: Emulator) -> None:
    with pytest.raises(ValueError, match="no option 'grpc'"):
        await google.add_target("a", kind="googleapis", grpc=True)


class SilentReader:
    """A client that sends messages to be echoed, and gives no room for the echoes."""

    MESSAGE = b"\x00" + (16_000).to_bytes(4) + bytes(16_000)

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._h2.initiate_connection()

    async def fill(self, stream: int) -> int:
        """Begin a call, and send as much of it as is taken; how much that was."""
        head = [
            *((":method", "POST"), (":scheme", "http"), (":authority", "svc.localhost"), (":path", CHAT)),
            ("content-type", "application/grpc"),
        ]
        self._h2.send_headers(stream, head)
        sent, refused = 0, 0
        while refused < 2:  # answered pings in a row that brought no room
            await self._answered()
            refused += 1
            while self._h2.local_flow_control_window(stream) >= len(self.MESSAGE):
                self._h2.send_data(stream, self.MESSAGE)
                sent, refused = sent + len(self.MESSAGE), 0
        return sent

    def leave(self, stream: int) -> None:
        """Reset a call."""
        self._h2.reset_stream(stream, 8)

    async def _answered(self) -> None:
        """Wait until all that was sent has been dealt with."""
        self._h2.ping(b"answered")
        while True:
            self._writer.write(self._h2.data_to_send())
            async with asyncio.timeout(LIMIT):
                received = await self._reader.read(65536)
            assert received
            events = self._h2.receive_data(received)
            if any(isinstance(event, h2.events.PingAckReceived) for event in events):
                return


@pytest.fixture
async def silent(google: Emulator) -> AsyncIterator[SilentReader]:
    target = await google.add_target("svc", kind="open", grpc=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    yield SilentReader(reader, writer)
    writer.close()


async def test_who_reads_no_echoes_can_send_no_more(silent: SilentReader) -> None:
    """What waits to be sent is bounded: nothing further is credited then."""
    assert 250_000 < await silent.fill(1) < 1_000_000


async def test_what_was_left_behind_holds_up_no_other_call(silent: SilentReader) -> None:
    """Many calls are left with their windows full, more than the connection has room for; the last one has it all."""
    for stream in range(1, 2 * 130, 2):
        assert await silent.fill(stream) > 250_000
        silent.leave(stream)


def test_in_a_thread_for_clients_that_block() -> None:
    """As the pytest fixture has it."""
    with EmulatorThread() as thread:
        target = thread.add_target("ledger", grpc=True)
        with grpc.insecure_channel(f"127.0.0.1:{target.port}") as made:
            stub = health_pb2_grpc.HealthStub(made)
            thread.call(lambda: target.set_health("NOT_SERVING"))
            asked = health_pb2.HealthCheckRequest()
            assert stub.Check(asked, metadata=token(target), timeout=LIMIT).status == NOT_SERVING
