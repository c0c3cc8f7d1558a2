"""The admin server's paths, the form of its answers, and its listeners."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from sidecar.admin.app import admin_server
from sidecar.runtime.clock import SystemClock

PATHS = ["/", "/healthz/live", "/healthz/ready", "/healthz/startup", "/metrics", "/status.json"]


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_get_without_the_body(client: aiohttp.ClientSession, path: str) -> None:
    """HEAD answers as GET does, with nothing after the head."""
    get, head = await client.get(path), await client.head(path)
    assert (get.status, head.status) == (200, 200)
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert await get.read() != b""
    assert await head.read() == b""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
async def test_another_method_is_told_what_is_allowed(
    client: aiohttp.ClientSession, path: str, method: str
) -> None:
    """What only reads takes GET and HEAD; 405 says so in Allow and in its body."""
    answer = await client.request(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert answer.content_type == "application/problem+json"
    assert (await answer.json(content_type=None))["detail"] == f"{path} takes GET, HEAD."


@pytest.mark.parametrize("path", ["/nothing", "/healthz", "/healthz/live/", "/METRICS", "/quit/x"])
async def test_an_unknown_path_is_a_problem(client: aiohttp.ClientSession, path: str) -> None:
    """404 is problem+json and does not repeat what was asked for."""
    answer = await client.get(path)
    assert (answer.status, answer.content_type) == (404, "application/problem+json")
    problem = await answer.json(content_type=None)
    assert (problem["status"], problem["title"]) == (404, "Not Found")
    assert "nothing" not in problem["detail"].replace("nothing at this path", "")


async def test_the_index_lists_every_path(client: aiohttp.ClientSession) -> None:
    """/ is plain text that names each path, /quit with its method."""
    text = await (await client.get("/")).text()
    assert all(path in text for path in PATHS)
    assert "POST /quit" in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", "/", 200, id="index"),
        pytest.param("GET", "/metrics", 200, id="metrics"),
        pytest.param("GET", "/status.json", 200, id="status"),
        pytest.param("GET", "/healthz/ready", 200, id="probe"),
        pytest.param("POST", "/quit", 202, id="quit"),
        pytest.param("GET", "/nothing", 404, id="not-found"),
        pytest.param("PUT", "/", 405, id="not-allowed"),
    ],
)
async def test_every_answer_carries_the_security_headers(
    client: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    """Nothing is sniffed, cached, framed or scripted, and no answer says what the server is made of."""
    answer = await client.request(method, path)
    assert answer.status == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "Server" not in answer.headers
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Host": "evil.example"}, id="rebound-name"),
        pytest.param({"Origin": "http://evil.example"}, id="another-origin"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, id="another-site"),
    ],
)
async def test_a_web_page_is_refused_everywhere(
    client: aiohttp.ClientSession, path: str, headers: dict[str, str]
) -> None:
    """A page of another site gets 403 for each path, the unknown ones too, with the security headers."""
    answer = await client.get(path, headers=headers)
    assert (answer.status, answer.content_type) == (403, "application/problem+json")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert (await answer.json(content_type=None))["detail"]


async def test_status_json_is_the_view_s_document(client: aiohttp.ClientSession, view: Any) -> None:
    """/status.json shows what the view reports."""
    view.document = {"version": "1.2.3", "routes": [{"name": "billing"}]}
    answer = await client.get("/status.json")
    assert answer.content_type == "application/json"
    assert await answer.json() == view.document


async def test_a_fault_is_a_plain_500(client: aiohttp.ClientSession, view: Any) -> None:
    """A fault in the view is answered with 500 that tells nothing about the inside."""
    view.document = {"not json": {object()}}
    answer = await client.get("/status.json")
    assert answer.status == 500
    assert "Server" not in answer.headers
    assert "object" not in await answer.text()


def _bound(family: socket.AddressFamily, host: str) -> socket.socket:
    sock = socket.socket(family)
    sock.bind((host, 0))
    return sock


async def test_a_server_answers_on_all_its_sockets_until_closed(view: Any) -> None:
    """Sockets bound by somebody else are served from `start` on, and refuse connections after `close`."""
    sockets = [_bound(socket.AF_INET, "127.0.0.1"), _bound(socket.AF_INET, "127.0.0.1")]
    ports = [sock.getsockname()[1] for sock in sockets]
    server = admin_server(view, sockets, SystemClock(asyncio.get_running_loop()))
    await server.start()
    async with aiohttp.ClientSession() as session:
        for port in ports:
            async with session.get(f"http://127.0.0.1:{port}/healthz/live") as answer:
                assert answer.status == 200
        await server.close()
        for port in ports:
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(f"http://127.0.0.1:{port}/healthz/live")


async def _exchange(view: Any, request: bytes) -> bytes:
    """What the server sends to these bytes until it closes the connection."""
    sock = _bound(socket.AF_INET, "127.0.0.1")
    server = admin_server(view, [sock], SystemClock(asyncio.get_running_loop()))
    port = sock.getsockname()[1]
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    await server.close()
    return answer


async def test_a_fault_is_logged(view: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of our own is an error in the log, with its traceback."""
    view.document = {"not json": {object()}}
    answer = await _exchange(
        view, b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 500 ")
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert record.exc_info[0] is TypeError


async def test_a_request_of_http_1_0_needs_no_host(view: Any) -> None:
    """A probe in HTTP/1.0 without a Host is served."""
    assert (await _exchange(view, b"GET /healthz/live HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 ")


async def test_who_asks_is_served_however_many_say_nothing(view: Any) -> None:
    """A hundred connections are kept; the oldest one ends where another one comes."""
    sock = _bound(socket.AF_INET, "127.0.0.1")
    server = admin_server(view, [sock], SystemClock(asyncio.get_running_loop()))
    port = sock.getsockname()[1]
    await server.start()
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(102)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    for oldest, _ in silent[:3]:
        assert await oldest.read() == b""
    assert not any(later.at_eof() for later, _ in silent[3:])
    for _, other in (*silent, (reader, writer)):
        other.close()
    await server.close()
