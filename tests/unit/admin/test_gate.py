"""What the admin server takes in: everything else is refused before aiohttp sees it, and bounded afterwards."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.admin.app import admin_server
from tests.support.clock import FakeClock

HOST = b"Host: localhost\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
BOMB = gzip.compress(bytes(10_000_000))


class Served:
    """An admin server on a port of its own, and its clock."""

    def __init__(self, view: Any) -> None:
        self.view = view
        self.clock = FakeClock()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self.server = admin_server(view, [sock], self.clock)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def answer(self, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
        """To these bytes, up to the connection's end: status, fields by lower-case name, body."""
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), fields, body


@pytest.fixture
async def served(view: Any) -> AsyncIterator[Served]:
    made = Served(view)
    await made.server.start()
    yield made
    await made.server.close()


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        pytest.param(413, b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", id="length"),
        pytest.param(
            413, b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999\r\n\r\n", id="no-body-yet"
        ),
        pytest.param(413, b"POST /quit HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n{}", id="quit"),
        pytest.param(
            413, b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="chunked"
        ),
        pytest.param(
            413,
            b"GET /healthz/live HTTP/1.1\r\n"
            + HOST
            + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB)
            + BOMB,
            id="gzip-bomb",
        ),
        pytest.param(
            415,
            b"POST /explain HTTP/1.1\r\n"
            + HOST
            + FORM
            + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB)
            + BOMB,
            id="gzip-bomb-for-the-form",
        ),
        pytest.param(
            415,
            b"POST /explain HTTP/1.1\r\n"
            + HOST
            + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 3\r\n\r\n--x",
            id="multipart",
        ),
        pytest.param(
            411,
            b"POST /explain HTTP/1.1\r\n" + HOST + FORM + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="form-in-chunks",
        ),
        pytest.param(
            413,
            b"POST /explain HTTP/1.1\r\n" + HOST + FORM + b"Content-Length: 131073\r\n\r\n",
            id="form-too-large",
        ),
        pytest.param(417, b"GET / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n\r\n", id="expect"),
        pytest.param(417, b"GET / HTTP/1.1\r\n" + HOST + b"Expect: SECRET\r\n\r\n", id="expect-anything"),
        pytest.param(431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 1_000_000, id="a-million-bytes"),
        pytest.param(431, b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 120 + b"\r\n", id="header-lines"),
        pytest.param(431, b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", id="target"),
        pytest.param(400, b"\x16\x03\x01\x02\x00SECRET", id="tls"),
        pytest.param(400, b"SECRET\r\n\r\n", id="no-http"),
        pytest.param(400, b"GET / HTTP/1.1\r\n\r\n", id="no-host"),
        pytest.param(400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two-hosts"),
        pytest.param(400, b"GET / HTTP/1.1\r\n" + HOST + b"X: SECRET\x01\r\n\r\n", id="control-character"),
        pytest.param(
            400, b"GET / HTTP/1.1\r\n" + HOST + b"Content-Type: a\r\nContent-Type: b\r\n\r\n", id="two-types"
        ),
        pytest.param(
            400,
            b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
            id="lengths",
        ),
        pytest.param(
            400, b"GET / HTTP/1.1\r\n" + HOST + b"Sec-WebSocket-Key1: x\r\n\r\n", id="old-websocket"
        ),
        pytest.param(400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="http2"),
        pytest.param(400, b"GET / HTTP/1.1\n" + HOST + b"\r\n", id="bare-line-feed"),
        pytest.param(
            400, b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", id="another-host-in-the-target"
        ),
        pytest.param(400, b"GET https://localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", id="another-scheme"),
        pytest.param(400, b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", id="asterisk"),
        pytest.param(405, b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n", id="connect"),
    ],
)
async def test_what_is_refused_before_it_is_read(
    served: Served, caplog: pytest.LogCaptureFixture, status: int, request_bytes: bytes
) -> None:
    """A problem that repeats nothing, and the end of the connection; none of it is worth a line in the log."""
    found, fields, body = await served.answer(request_bytes)
    assert found == status
    assert fields["content-type"].startswith("application/problem+json")
    assert fields["connection"] == "close"
    assert fields["x-content-type-options"] == "nosniff"
    assert "aiohttp" not in str(fields)
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["detail"]
    assert b"SECRET" not in body
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_refusal_is_read_whatever_still_comes(served: Served, method: bytes) -> None:
    """The answer is there for who sends on, up to its end; HEAD has no body."""
    head = method + b" / HTTP/1.1\r\n" + HOST + b"Content-Length: 9000000\r\n\r\n"
    status, fields, body = await served.answer(head, b"x" * 40_000)
    assert status == 413
    assert len(body) == (0 if method == b"HEAD" else int(fields["content-length"]))


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        pytest.param(
            200, b"GET /healthz/live HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", id="empty-body"
        ),
        pytest.param(
            202, b"POST /quit HTTP/1.1\r\n" + HOST + FORM + b"Content-Length: 0\r\n\r\n", id="empty-form"
        ),
        pytest.param(200, b"GET /healthz/live HTTP/1.0\r\n\r\n", id="http-1.0"),
        pytest.param(200, b"GET http://localhost/healthz/live HTTP/1.1\r\n" + HOST + b"\r\n", id="whole-url"),
        pytest.param(403, b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", id="anothers-url"),
        pytest.param(
            200,
            b"GET /healthz/live HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n",
            id="an-upgrade-is-not-taken-up",
        ),
        pytest.param(
            200,
            b"GET /healthz/live HTTP/1.1\r\n"
            + HOST
            + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
            id="nor-is-h2c",
        ),
        pytest.param(
            200,
            b"GET /healthz/live HTTP/1.1\r\n" + HOST + b"Range: bytes=0-1\r\nCookie: a=%22b; c\r\n"
            b"Accept-Encoding: gzip\r\n\r\n",
            id="what-is-of-no-concern",
        ),
        pytest.param(405, b"OPTIONS /metrics HTTP/1.1\r\n" + HOST + b"\r\n", id="options"),
        pytest.param(405, b"TRACE /metrics HTTP/1.1\r\n" + HOST + b"Cookie: a\r\n\r\n", id="trace"),
        pytest.param(404, b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", id="options-of-all"),
        pytest.param(404, b"GET /%2e%2e/%ff%00 HTTP/1.1\r\n" + HOST + b"\r\n", id="odd-path"),
        pytest.param(404, b"GET /static/../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n", id="no-files"),
    ],
)
async def test_what_is_served_is_one_request(served: Served, status: int, request_bytes: bytes) -> None:
    """Behind every answer the connection ends."""
    found, fields, _ = await served.answer(request_bytes)
    assert found == status
    assert "server" not in fields
    if b"HTTP/1.0" not in request_bytes:
        assert fields["connection"] == "close"


async def test_what_comes_byte_by_byte_is_read(served: Served) -> None:
    """A head that comes in pieces is the same head."""
    request = b"GET /healthz/live HTTP/1.1\r\n" + HOST + b"\r\n"
    assert (await served.answer(*(request[at : at + 1] for at in range(len(request)))))[0] == 200


async def test_of_pipelined_requests_the_first_is_answered(served: Served) -> None:
    """The others ask for nothing."""
    status, _, body = await served.answer((b"POST /quit HTTP/1.1\r\n" + HOST + b"\r\n") * 500)
    assert status == 202
    assert b"HTTP/1.1" not in body
    assert served.view.quits == 1


async def test_who_says_no_more_is_answered(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(b"GET /healthz/live HTTP/1.1\r\n" + HOST + b"\r\n")
    writer.write_eof()
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_request_has_its_time(served: Served) -> None:
    """408 for who began and did not end in ten seconds, nothing for who said nothing."""
    (reader, slow), (silent, other) = [await served.connect() for _ in range(2)]
    slow.write(b"GET / HTTP/1.1\r\nX: y")
    assert (await served.answer(b"GET /healthz/live HTTP/1.1\r\n" + HOST + b"\r\n"))[0] == 200
    served.clock.advance(10.1)
    assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    assert await silent.read() == b""
    for writer in (slow, other):
        writer.close()


async def test_a_form_has_the_same_time(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(b"POST /explain HTTP/1.1\r\n" + HOST + FORM + b"Content-Length: 9\r\n\r\nurl=")
    assert (await served.answer(b"GET /healthz/live HTTP/1.1\r\n" + HOST + b"\r\n"))[0] == 200
    served.clock.advance(10.1)
    assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_an_answer_that_is_not_taken_is_broken_off(served: Served) -> None:
    """After two looks at what waits for the peer, 15 seconds apart."""
    served.view.document = {"text": "x" * 30_000_000}
    reader, writer = await served.connect()
    writer.write(b"GET /status.json HTTP/1.1\r\n" + HOST + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert (await served.answer(b"GET /healthz/live HTTP/1.1\r\n" + HOST + b"\r\n"))[0] == 200
    for _ in range(3):
        served.clock.advance(15.1)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(30_000_000)
    writer.close()


async def test_of_answers_that_are_not_taken_little_is_kept(served: Served) -> None:
    """Beyond 16 MiB in all the oldest ones are broken off."""
    served.view.document = {"text": "x" * 10_000_000}
    peers = [await served.connect() for _ in range(4)]
    for reader, writer in peers:
        writer.write(b"GET /status.json HTTP/1.1\r\n" + HOST + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await peers[0][0].readexactly(10_000_000)
    await peers[-1][0].readexactly(10_000_000)
    for _, writer in peers:
        writer.close()


async def test_who_is_about_to_ask_is_not_put_out_by_who_was_refused(served: Served) -> None:
    """However many there are: what is left of their connections is the first to go."""
    reader, writer = await served.connect()
    refused = []
    for _ in range(150):
        refused.append(await served.connect())
        refused[-1][1].write(b"\x16")
        await refused[-1][0].read()
    writer.write(b"GET /healthz/live HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    for _, other in [(reader, writer), *refused]:
        other.close()


async def test_who_has_asked_is_not_put_out_by_who_says_nothing(served: Served) -> None:
    """At the limit the oldest connection goes that has not asked."""
    served.view.document = {"text": "x" * 10_000_000}
    reader, writer = await served.connect()
    writer.write(b"GET /status.json HTTP/1.1\r\n" + HOST + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")
    silent = [await served.connect() for _ in range(150)]
    assert (await served.answer(b"GET /healthz/live HTTP/1.1\r\n" + HOST + b"\r\n"))[0] == 200
    await reader.readexactly(10_000_000)
    for _, other in [(reader, writer), *silent]:
        other.close()
