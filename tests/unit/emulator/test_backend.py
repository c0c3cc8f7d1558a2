"""The app behind a target: it tells back exactly what came, and streams without holding."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from sidecar.emulator.app import Emulator
from sidecar.emulator.backend import sha256_of_bytes
from sidecar.emulator.targets import Target
from tests.support.google import signed


@pytest.fixture
async def target(google: Emulator) -> Target:
    """An app that everybody may call."""
    return await google.add_target("billing", kind="open")


async def raw(target: Target, request: bytes) -> bytes:
    """All that a connection brings back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_the_echo_is_faithful(target: Target) -> None:
    """Target, header order, case, repetition and bytes come back as they were sent, with the body's hash."""
    answer = await raw(
        target,
        b"PATCH /a%2Fb//../c;x=1?q=%20&q HTTP/1.1\r\nHost: billing.internal\r\nX-b: 2\r\nx-A: 1\r\n"
        b"X-B: \xe9\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
    )
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (body["target"], body["method"]) == ("billing", "PATCH")
    assert body["path"] == "/a%2Fb//../c;x=1?q=%20&q"
    assert body["headers"] == [
        ["Host", "billing.internal"],
        ["X-b", "2"],
        ["x-A", "1"],
        ["X-B", "\xe9"],
        ["Connection", "close"],
        ["Content-Length", "5"],
    ]
    assert (body["body_length"], body["body_sha256"]) == (5, hashlib.sha256(b"hello").hexdigest())
    assert target.requests[0][:3] == ("PATCH", "/a%2Fb//../c;x=1?q=%20&q", "billing.internal")


async def test_hello_is_a_short_answer(google: Emulator, session: ClientSession) -> None:
    """For a first call: who was asked, and what the token that was verified says."""
    hello = "Hello from billing. Nothing was verified.\n"
    async with session.get((await google.add_target("billing", kind="open")).url + "/hello") as answer:
        assert await answer.text() == hello
    target = await google.add_target("billing")
    headers = {"Authorization": f"Bearer {signed(time.time(), aud=target.url)}"}  # noqa: TID251  # a live token
    async with session.get(f"{target.url}/hello", headers=headers) as answer:
        told = await answer.text()
    assert told.startswith("Hello from billing. Your call was verified:\n  audience  " + target.url)
    assert "\n  caller    user:caller@example.com\n" in told
    assert told.endswith("\n")


async def test_a_compressed_body_is_not_unpacked(target: Target, session: ClientSession) -> None:
    """The hash is that of the bytes on the wire, whatever Content-Encoding says, even wrongly."""
    for packed in (gzip.compress(b"hello"), b"no gzip"):
        headers = {"Content-Encoding": "gzip"}
        async with session.post(f"{target.url}/upload", data=packed, headers=headers) as answer:
            body = await answer.json()
        assert (body["body_length"], body["body_sha256"]) == (len(packed), hashlib.sha256(packed).hexdigest())


async def test_heads_as_large_as_a_proxy_lets_through(target: Target, session: ClientSession) -> None:
    """A target of 16 KiB, a header of 60 KiB and 200 headers are taken."""
    headers = {"X-Long": "x" * 60_000, **{f"X-{number}": "1" for number in range(200)}}
    async with session.get(f"{target.url}/{'y' * 16_000}", headers=headers) as answer:
        assert len((await answer.json())["headers"]) > 200


async def test_an_upload_is_hashed_as_it_comes(target: Target, session: ClientSession) -> None:
    """A chunked body of several MiB, unknown in length, is hashed whole."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(64):
            yield bytes([number]) * 65_536

    async with session.post(f"{target.url}/upload", data=pieces()) as answer:
        body = await answer.json()
    expected = hashlib.sha256(b"".join([bytes([number]) * 65_536 for number in range(64)])).hexdigest()
    assert (body["body_length"], body["body_sha256"]) == (64 * 65_536, expected)


@pytest.mark.parametrize("query", ["", "?chunked=1", "?chunked=1&chunk=1000", "?chunk=7777"])
@pytest.mark.parametrize("size", [0, 1, 65_536, 300_001])
async def test_bytes(target: Target, session: ClientSession, size: int, query: str) -> None:
    """So many bytes, the same ones however they are framed."""
    async with session.get(f"{target.url}/bytes/{size}{query}") as answer:
        body = await answer.read()
        assert answer.headers.get("Content-Length") == (None if "chunked" in query else str(size))
    assert len(body) == size
    assert hashlib.sha256(body).hexdigest() == sha256_of_bytes(size)


async def test_chunks_are_of_the_size_asked_for(target: Target) -> None:
    """`chunk` is the size of each HTTP chunk, the last one excepted."""
    request = b"GET /bytes/25?chunked=1&chunk=10 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    body = (await raw(target, request)).partition(b"\r\n\r\n")[2]
    assert [line for line in body.split(b"\r\n") if line in (b"a", b"5", b"0")] == [b"a", b"a", b"5", b"0"]


async def test_bytes_repeat_nowhere(target: Target, session: ClientSession) -> None:
    """No 256 bytes of the stream come twice, within a block or across blocks that could be swapped."""
    async with session.get(f"{target.url}/bytes/{4 * 65_536}") as answer:
        body = await answer.read()
    blocks = {body[start : start + 65_536] for start in range(0, len(body), 65_536)}
    within = {body[start : start + 256] for start in range(0, 65_536, 256)}
    assert (len(blocks), len(within)) == (4, 256)


@pytest.mark.parametrize(
    "path", ["bytes/x", "bytes/-1", "bytes/1?chunk=0", "status/103", "status/x", "status/600"]
)
async def test_nonsense_is_refused(target: Target, session: ClientSession, path: str) -> None:
    """What can't be served is 400, not a fault of the stand-in."""
    async with session.get(f"{target.url}/{path}") as answer:
        assert answer.status == 400


async def test_a_head_has_no_body(target: Target) -> None:
    """HEAD gets the length and nothing after it; the connection goes on."""
    request = b"HEAD /bytes/10 HTTP/1.1\r\nHost: x\r\n\r\nGET /status/204 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await raw(target, request)
    first, second = answer.split(b"\r\n\r\n")[:2]
    assert b"Content-Length: 10" in first
    assert second.startswith(b"HTTP/1.1 204")


@pytest.mark.parametrize("code", [200, 204, 304, 404, 503])
async def test_status(target: Target, session: ClientSession, code: int) -> None:
    """Any final status, for any method."""
    async with session.delete(f"{target.url}/status/{code}") as answer:
        assert (answer.status, await answer.read()) == (code, b"")


async def test_redirect_and_cookie(target: Target, session: ClientSession) -> None:
    """Location and cookie path are those asked for; `{self}` is the target's own URL."""
    for to, location in (("/b", "/b"), ("{self}/c", f"{target.url}/c")):
        url = f"{target.url}/redirect"
        async with session.get(url, params={"to": to}, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, location)
    async with session.get(f"{target.url}/cookie?path=/x") as answer:
        assert answer.headers["Set-Cookie"] == "session=1; Path=/x; HttpOnly"


async def test_events_come_one_by_one_as_released(target: Target, session: ClientSession) -> None:
    """No event before its release, by the test or by a second request; then the stream ends."""
    async with session.get(f"{target.url}/sse?n=2") as answer:
        assert answer.content_type == "text/event-stream"
        first = asyncio.ensure_future(answer.content.readuntil(b"\n\n"))  # noqa: TID251 - the test owns it
        async with session.get(f"{target.url}/"):
            assert not first.done()
        target.release()
        assert await first == b"id: 0\ndata: event 0\n\n"
        async with session.post(f"{target.url}/sse/release?n=1") as released:
            assert released.status == 204
        assert await answer.content.readuntil(b"\n\n") == b"id: 1\ndata: event 1\n\n"
        assert await answer.content.read() == b""


async def test_events_by_themselves(target: Target, session: ClientSession) -> None:
    """With `every` nobody has to release them."""
    async with session.get(f"{target.url}/sse?n=2&every=0.001") as answer:
        assert (await answer.read()).count(b"data:") == 2


async def test_websocket(target: Target, session: ClientSession) -> None:
    """Text and binary messages come back, a protocol is agreed on, and the close is answered."""
    socket: ClientWebSocketResponse
    async with session.ws_connect(f"{target.url}/ws", protocols=("chat",)) as socket:
        assert socket.protocol == "chat"
        await socket.send_str("héllo")
        assert (await socket.receive()).data == "héllo"
        await socket.send_bytes(b"\x00" * 100_000)
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.BINARY, b"\x00" * 100_000)
    assert socket.close_code == 1000


async def test_early_hints(target: Target) -> None:
    """A 103 comes before the answer, on the same connection."""
    answer = await raw(target, b"GET /early-hints HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    interim, final, body = answer.split(b"\r\n\r\n")
    assert interim == b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style"
    assert final.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(body) == {"after": "early hints"}


async def test_trailers(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """The body's hash comes after it, and the connection ends without a complaint."""
    answer = await raw(target, b"GET /trailers HTTP/1.1\r\nHost: x\r\n\r\n")
    head, body, end = answer.partition(b'{"before": "trailers"}')
    assert b"Trailer: X-Body-Sha256\r\n" in head
    digest = hashlib.sha256(body).hexdigest().encode()
    assert end == b"\r\n0\r\nX-Body-Sha256: " + digest + b"\r\n\r\n"
    assert not caplog.records


async def test_a_body_is_asked_for(target: Target) -> None:
    """`Expect: 100-continue` gets its 100 before the body is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(
        b"PUT /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ok")
    assert b'"body_length": 2' in await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await writer.wait_closed()
