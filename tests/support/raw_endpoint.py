"""An endpoint that answers with exact bytes, for faults that no HTTP server makes on purpose."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from tests.support.closing import close_server

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(data: bytes) -> Behaviour:
    """Send these bytes and close."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return behave


def http(
    status: int, body: bytes = b"", *, content_type: str = "text/html", headers: dict[str, str] | None = None
) -> Behaviour:
    """Send an HTTP answer and close; it has a metadata server's mark, unless `headers` say otherwise."""
    headers = {"Metadata-Flavor": "Google", **(headers or {})}
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", f"Content-Type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return answer("\r\n".join([*lines, "", ""]).encode() + body)


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing until the other side leaves."""
    await reader.read()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Break the connection with a RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a head and then a byte now and then, for as long as the other side listens."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\nContent-Type: text/html\r\n\r\n")
    while not reader.at_eof():
        writer.write(b"a")
        await writer.drain()
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)


class RawEndpoint:
    """An endpoint on a port of its own that reads a request and then does what the test says."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = hang
        self.requests: list[str] = []
        self.asked = asyncio.Event()
        """Set when a request has come."""
        self.gone = asyncio.Event()
        """Set whenever a connection has ended."""
        self.port = 0

    @property
    def origin(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (line for line in head.lower().split("\r\n") if line.startswith("content-length:")), ":0"
            )
            self.requests.append(head + (await reader.readexactly(int(length.partition(":")[2]))).decode())
            self.asked.set()
            await self.behaviour(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self.gone.set()


@pytest.fixture
async def raw() -> AsyncIterator[RawEndpoint]:
    """A `RawEndpoint`, listening."""
    endpoint = RawEndpoint()
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    endpoint.port = server.sockets[0].getsockname()[1]
    yield endpoint
    await close_server(server)
    await server.wait_closed()


def jwt(audience: str, *, issued: float | None = None, expires: float | None = None) -> str:
    """An unsigned JWT, issued and expiring so many seconds from now; None leaves the claim out."""
    now = time.time()  # noqa: TID251 - what is tested here runs on the real clock
    claims: dict[str, object] = {"aud": audience, "email": "sa@p.iam.gserviceaccount.com"}
    if issued is not None:
        claims["iat"] = int(now + issued)
    if expires is not None:
        claims["exp"] = int(now + expires)
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims, "signature"))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
