"""sidecar.mcp.carrier: what becomes of answers that the SDK's transports would lose"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from mcp_types import JSONRPCError

from sidecar.mcp.carrier import Carrier
from sidecar.proxy.refusals.diagnosis import Cause, Diagnosis
from sidecar.proxy.refusals.refusals import LastRefusal

CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {}}
TOLD = {"jsonrpc": "2.0", "method": "notifications/initialized"}
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def answer(status: str, body: bytes, kind: str = "text/plain", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


@asynccontextmanager
async def through(
    directory: Path,
    *answers: bytes,
    last: Callable[[], LastRefusal | None] = lambda: None,
    told: list[JSONRPCError] | None = None,
) -> AsyncIterator[tuple[httpx2.AsyncClient, list[bytes]]]:
    """A client of a sidecar that gives these answers, one to each connection; and the heads that it got."""
    heads: list[bytes] = []
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(left.pop(0))
        writer.close()

    async def tell(error: JSONRPCError) -> None:
        assert told is not None
        told.append(error)

    socket = str(directory / "s")
    carrier = Carrier(socket, "tools.localhost", "tools", last, answer=None if told is None else tell)
    async with await asyncio.start_unix_server(serve, socket):
        async with httpx2.AsyncClient(transport=carrier, trust_env=False) as client:
            yield client, heads


async def test_every_request_is_one_for_the_route(tmp_path: Path) -> None:
    """The path and query stay, the server's own host is not told, and no token is there."""
    async with through(tmp_path, answer("200 OK", b"{}", "application/json")) as (client, heads):
        found = await client.post("https://tools.example/mcp?a=%2F", json=CALL)
    assert found.json() == {}
    assert heads[0].startswith(b"POST /mcp?a=%2F HTTP/1.1\r\nHost: tools.localhost\r\n")
    assert b"tools.example" not in heads[0]
    assert b"authorization" not in heads[0].lower()


DENIED = LastRefusal(Diagnosis(Cause.PERMISSION_MISSING, "It has no role.", "gcloud grant"), 403, 0.0)


@pytest.mark.parametrize(
    ("given", "last", "code", "says"),
    [
        pytest.param(
            answer("403 Forbidden", b"<html>", "text/html"),
            DENIED,
            -32010,
            "The server answered 403. It has no role. To fix it: gcloud grant",
            id="diagnosed",
        ),
        pytest.param(
            answer("500 Oops", b"?"),
            DENIED,
            -32010,
            "The server answered 500 Internal Server Error, and no message of the protocol.",
            id="another-status",
        ),
        pytest.param(
            answer(
                "503 Service Unavailable",
                json.dumps({"title": "No token", "detail": "Why.", "reason": "token_denied"}).encode(),
                "application/problem+json",
                "Proxy-Status: idtoken-sidecar; error=proxy_internal_error\r\n",
            ),
            None,
            -32010,
            "No token. Why.",
            id="the-sidecars-own",
        ),
        pytest.param(
            answer(
                "400 Bad Request",
                b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32602, "message": "its own"}}',
                "application/json",
            ),
            DENIED,
            -32602,
            "its own",
            id="the-servers-own",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
            None,
            -32010,
            "The connection to the server was lost before the answer had ended. The request may have been carried out.",
            id="cut",
        ),
    ],
)
async def test_what_is_no_message_becomes_an_error_of_the_protocol(
    given: bytes, last: LastRefusal | None, code: int, says: str, tmp_path: Path
) -> None:
    async with through(tmp_path, given, last=lambda: last) as (client, _):
        found = await client.post("https://tools.example/mcp", json=CALL)
    assert found.status_code >= 400
    error = found.json()["error"]
    assert (error["code"], error["message"]) == (code, says)
    assert found.json()["id"] in (7, None)  # the SDK puts the request's own in


async def test_the_sdk_says_what_a_404_means(tmp_path: Path) -> None:
    """That the session is over; unless a front end of Google's said it."""
    async with through(tmp_path, answer("404 Not Found", b"?")) as (client, _):
        assert (await client.post("https://tools.example/mcp", json=CALL)).status_code == 404


async def test_a_notification_that_is_refused_ends_nothing(tmp_path: Path) -> None:
    async with through(tmp_path, answer("500 Oops", b"?")) as (client, _):
        assert (await client.post("https://tools.example/mcp", json=TOLD)).status_code == 202


async def test_the_old_transport_hears_of_refusals_beside_the_answer(tmp_path: Path) -> None:
    told: list[JSONRPCError] = []
    async with through(tmp_path, answer("500 Oops", b"?"), told=told) as (client, _):
        assert (await client.post("https://tools.example/messages", json=CALL)).status_code == 202
    assert [it.id for it in told] == [7]


async def test_a_stream_that_is_cut_has_ended(tmp_path: Path) -> None:
    async with through(tmp_path, EVENTS + b"9\r\ndata: 1\n\n\r\n5\r\nda") as (client, _):
        async with client.stream("GET", "https://tools.example/mcp") as found:
            assert (await found.aread()).startswith(b"data: 1\n\n")


async def test_a_stream_that_can_not_be_opened_for_now_is_asked_for_again(tmp_path: Path) -> None:
    unavailable = answer("503 Service Unavailable", b"?")
    async with through(tmp_path, unavailable, EVENTS + b"0\r\n\r\n") as (client, heads):
        assert (await client.get("https://tools.example/mcp")).status_code == 200
    assert len(heads) == 2


async def test_a_redirect_elsewhere_goes_nowhere(tmp_path: Path) -> None:
    """Not even where somebody follows it: each request is one for the route."""
    away = answer("307 Temporary Redirect", b"", more="Location: https://evil.example/steal\r\n")
    async with through(tmp_path, away, answer("200 OK", b"{}", "application/json")) as (client, heads):
        await client.post("https://tools.example/mcp", json=CALL, follow_redirects=True)
    assert [head.split(b"\r\n")[:2] for head in heads] == [
        [b"POST /mcp HTTP/1.1", b"Host: tools.localhost"],
        [b"POST /steal HTTP/1.1", b"Host: tools.localhost"],
    ]
