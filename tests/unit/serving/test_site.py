"""sidecar.serving.site: an application behind the gate, over sockets, and whatever comes in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.serving.application import Application
from sidecar.serving.gate import Gate, Gates
from sidecar.serving.intake import Takes
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import Response
from sidecar.serving.site import Site
from tests.support.clock import FakeClock
from tests.support.eventually import eventually

TAKES = Takes("server", forms=("/form",), purpose="do it")
HOST = b"Host: localhost\r\n"
MANY = 20_000_000
"""More than the buffers of a connection to this machine take."""


class Served:
    """A site whose handler does what a path says, and what happened."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.requests: list[WholeRequest] = []
        self.ended: list[str] = []
        self.made = 0
        """Parts of `/many`, of a hundred."""
        self.released = asyncio.Event()
        self.closing = asyncio.Event()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self.site = Site(Application("server", self._answer, closing=self.closing), [sock], self.clock, TAKES)

    async def _answer(self, request: WholeRequest) -> Response:
        self.requests.append(request)
        match request.path:
            case "/parts" | "/many" | "/broken" | "/feed":
                return Response(headers={"Content-Type": "text/plain"}, parts=self._parts(request.path))
            case "/wait":
                try:
                    await self.released.wait()
                finally:
                    self.ended.append(request.path)
            case "/line-feed":
                return Response(headers={"Location": "a\nb"})
        return Response.of_text(request.path)

    async def _parts(self, path: str) -> AsyncGenerator[bytes, None]:
        try:
            yield b"first,"
            match path:
                case "/many":
                    for self.made in range(1, 101):
                        yield bytes(MANY // 100)
                case "/broken":
                    raise KeyError("broken")
                case "/feed":
                    await self.closing.wait()
            yield b"last"
        finally:
            self.ended.append(path)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def answer(self, request: bytes) -> bytes:
        """All that comes back."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            return await reader.read()
        finally:
            writer.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    await made.site.start()
    yield made
    await made.site.close()


def get(path: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return method + b" " + path + b" HTTP/" + version + b"\r\n" + HOST + b"\r\n"


async def test_a_handler_sees_the_whole_request(served: Served) -> None:
    """The path decoded, the query as it came, the body, and who asks."""
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n"
    await served.answer(b"POST http://localhost/form?a=%20 HTTP/1.1\r\n" + HOST + form + b"\r\na=bGET /next")
    (request,) = served.requests
    assert (request.method, request.path, request.query, request.body) == ("POST", "/form", "a=%20", b"a=b")
    assert request.form() == {"a": "b"}
    assert request.peername[0] == "127.0.0.1"
    assert request.socket is not None
    assert request.owner is None


async def test_of_pipelined_requests_the_first_is_asked(served: Served) -> None:
    answer = await served.answer(get(b"/a") + get(b"/b") * 100)
    assert answer.endswith(b"\r\n\r\n/a")
    assert [request.path for request in served.requests] == ["/a"]


async def test_an_answer_in_parts_is_chunked(served: Served) -> None:
    head, _, body = (await served.answer(get(b"/parts"))).partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert body == b"6\r\nfirst,\r\n4\r\nlast\r\n0\r\n\r\n"


async def test_to_http_1_0_an_answer_in_parts_ends_with_the_connection(served: Served) -> None:
    head, _, body = (await served.answer(get(b"/parts", version=b"1.0"))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"Transfer-Encoding" not in head
    assert body == b"first,last"


@pytest.mark.parametrize("path", [b"/a", b"/parts", b"/feed"])
async def test_head_has_no_body(served: Served, path: bytes) -> None:
    """And nothing is made for it."""
    assert (await served.answer(get(path, b"HEAD"))).endswith(b"\r\n\r\n")
    assert served.ended == []


async def test_who_reads_slowly_gets_all_of_it(served: Served) -> None:
    """What is not taken is not made: the parts wait for the reader."""
    reader, writer = await served.connect()
    writer.write(get(b"/many"))
    await reader.readuntil(b"first,")
    assert served.ended == []
    assert len(await reader.read()) > MANY
    writer.close()
    assert served.ended == ["/many"]


async def test_a_fault_between_parts_breaks_off(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """An end without the last chunk: nobody takes it for the whole."""
    reader, writer = await served.connect()
    writer.write(get(b"/broken"))
    assert (await reader.read()).endswith(b"\r\n\r\n6\r\nfirst,\r\n")
    writer.close()
    assert [record.getMessage() for record in caplog.records] == ["fault in the server"]


async def test_a_head_that_cannot_be_written_is_a_fault(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await served.connect()
    writer.write(get(b"/line-feed"))
    assert await reader.read() == b""
    writer.close()
    assert [record.getMessage() for record in caplog.records] == ["fault in the server"]


async def test_a_reader_that_leaves_is_no_fault(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """The parts end."""
    reader, writer = await served.connect()
    writer.write(get(b"/many"))
    await reader.readuntil(b"first,")
    writer.transport.abort()
    await eventually(lambda: served.ended == ["/many"], why="the generator is closed by the next send")
    assert served.made < 100
    assert caplog.records == []


async def test_a_handler_goes_on_when_its_peer_has_left(served: Served) -> None:
    """What was asked for is done."""
    _, writer = await served.connect()
    writer.write(get(b"/wait"))
    await eventually(lambda: served.requests != [], why="the request is on its way")
    writer.transport.abort()
    await asyncio.sleep(0)
    assert served.ended == []
    served.released.set()
    await eventually(lambda: served.ended == ["/wait"], why="the handler runs")


async def test_closing_ends_feeds_and_waits_for_answers(served: Served) -> None:
    """Who says nothing is not waited for."""
    _, silent = await served.connect()
    peers = [await served.connect() for _ in range(2)]
    for (_, writer), path in zip(peers, (b"/feed", b"/wait"), strict=True):
        writer.write(get(path))
    await eventually(lambda: len(served.requests) == 2, why="the requests are on their way")
    closing = asyncio.get_running_loop().create_task(served.site.close())
    assert (await peers[0][0].read()).endswith(b"last\r\n0\r\n\r\n")
    assert not closing.done()
    served.released.set()
    assert (await peers[1][0].read()).endswith(b"/wait")
    await closing
    for writer in (silent, *(writer for _, writer in peers)):
        writer.close()


async def test_closing_waits_a_second_and_no_longer(served: Served) -> None:
    """Then the handler is cancelled, and its connection ends without an answer."""
    reader, writer = await served.connect()
    writer.write(get(b"/wait"))
    await eventually(lambda: served.requests != [], why="the request is on its way")
    await served.site.close()
    assert served.ended == ["/wait"]
    assert await reader.read() == b""
    writer.close()


class Memory(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = b""
        self.is_over = False

    def write(self, data: Any) -> None:
        assert not self.is_over
        self.written += data

    def write_eof(self) -> None:
        self.is_over = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """It is the test that reads."""

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self.is_over = True

    def abort(self) -> None:
        self.is_over = True


async def test_an_answer_is_waited_for_until_its_connection_has_ended() -> None:
    """And not a moment longer."""
    gates = Gates(asyncio.get_running_loop(), FakeClock(), lambda gate, request: None, TAKES)
    silent, gate = gates(), gates()
    for one in (silent, gate):
        one.connection_made(Memory())
    gate.data_received(get(b"/"))
    waiting = asyncio.get_running_loop().create_task(gates.answered())
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    gate.connection_lost(None)
    for _ in range(3):
        await asyncio.sleep(0)
    assert waiting.done()


def answered(pieces: list[bytes]) -> tuple[bytes, list[WholeRequest]]:
    """What comes back to these bytes, in pieces, and which requests were served."""
    served: list[WholeRequest] = []

    async def run() -> bytes:
        loop = asyncio.get_running_loop()

        def serve(gate: Gate, request: WholeRequest) -> None:
            served.append(request)
            gate.transport.write(Response.of_text(request.path).head(http10=request.http10, now=0.0))

        clock = FakeClock()
        gate = Gates(loop, clock, serve, TAKES)()
        transport = Memory()
        gate.connection_made(transport)
        for piece in pieces:
            gate.data_received(piece)
            await asyncio.sleep(0)
        gate.eof_received()
        clock.advance(60.0)
        gate.connection_lost(None)
        return transport.written

    return asyncio.run(run()), served


TOKENS = st.sampled_from(
    [
        *(
            b"GET / HTTP/1.1\r\n",
            b"POST /form HTTP/1.1\r\n",
            b"HEAD /%zz?%ff HTTP/1.0\r\n",
            b"OPTIONS * HTTP/1.1\r\n",
        ),
        *(
            b"GET http://localhost HTTP/1.1\r\n",
            b"CONNECT a:1 HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ),
        *(HOST, b"Host: [\r\n", b"\r\n", b"\n", b"\r", b" ", b"\0", b"\xff", b":", b"Content-Length: 3\r\n"),
        *(
            b"Content-Length: 9\r\n",
            b"Content-Length: x\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"3\r\nabc\r\n0\r\n\r\n",
        ),
        *(
            b"Content-Type: application/x-www-form-urlencoded\r\n",
            b"a=b",
            b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        ),
        *(b"Expect: 100-continue\r\n", b"x" * 20_000, b"X: y\r\n" * 120, b"\x16\x03\x01"),
    ]
)


@given(st.lists(st.one_of(TOKENS, st.binary(min_size=1)), max_size=12))
@example([b"GET / HTTP/1.1\r\n", HOST, b"\r\n"])
@example(
    [
        b"POST /form HTTP/1.1\r\n",
        HOST,
        b"Content-Type: application/x-www-form-urlencoded\r\n",
        b"Content-Length: 3\r\n",
        b"\r\n",
        b"a=b",
    ]
)
def test_whatever_comes_in_there_is_one_answer_or_none(pieces: list[bytes]) -> None:
    """No bytes raise anything, and how they were cut makes no difference."""
    written, served = answered(pieces)
    assert not written or written.startswith(b"HTTP/1.")
    assert written.count(b"\r\nDate: ") <= 1
    assert len(served) <= 1
    whole, as_one = answered([b"".join(pieces)]) if pieces else (b"", [])
    assert [(it.method, it.path, it.query, it.body) for it in as_one] == [
        (it.method, it.path, it.query, it.body) for it in served
    ]
    assert whole[:12] == written[:12]
