"""Target services: a Google front end with an app behind it.

Owns the app: it tells back what reached it, and has what tests of a proxy need (large bodies, streams,
WebSocket, redirects, cookies). The front end is `checks`. Like Cloud Run, it takes the signature off the
token it checked before the app sees it, so nothing here can hand a token back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple, final

from aiohttp import WSMsgType, web

from sidecar.emulator.checks import RefusedError, TargetKind, Verified, check
from sidecar.emulator.keys import SigningKey

_BLOCK: Final = bytes(range(256)) * 256
"""64 KiB of the deterministic stream that /bytes serves."""


_VERIFIED: Final = web.RequestKey("verified", Verified)
"""Where a request carries who its caller is; absent behind an `open` target."""


class Received(NamedTuple):
    """One request as a target saw it."""

    method: str
    path: str
    host: str
    verified: Verified | None
    refused: int
    """The front end's status where it refused, else 0."""


@final
class Target:
    """One service. `url` is set once it listens."""

    def __init__(
        self, name: str, kind: TargetKind, audience: str | None, key: SigningKey, now: Callable[[], float]
    ) -> None:
        self.name = name
        self.kind = kind
        self.url = ""
        self.requests: deque[Received] = deque(maxlen=10_000)
        self._audience = audience
        self._key = key
        self._now = now
        self._events = asyncio.Semaphore(0)
        self.app = web.Application(client_max_size=1 << 50, middlewares=[self._front_end])
        routes = self.app.router
        routes.add_get("/bytes/{size}", self._bytes)
        routes.add_get("/sse", self._sse)
        routes.add_get("/ws", self._websocket)
        routes.add_route("*", "/status/{code}", self._status)
        routes.add_get("/redirect", self._redirect)
        routes.add_get("/cookie", self._cookie)
        routes.add_route("*", "/{path:.*}", self._echo)

    @property
    def audience(self) -> str:
        """The audience it wants: its own URL unless told otherwise."""
        return self._audience or self.url

    def release(self, count: int = 1) -> None:
        """Let this many more events of /sse out."""
        for _ in range(count):
            self._events.release()

    @web.middleware
    async def _front_end(self, request: web.Request, handler: Callable[..., object]) -> web.StreamResponse:
        verified, refused = None, None
        try:
            verified = check(
                self.kind, request.headers, audience=self.audience, key=self._key, now=self._now()
            )
        except RefusedError as error:
            refused = error.response
        self.requests.append(
            Received(
                request.method, request.raw_path, request.host, verified, refused.status if refused else 0
            )
        )
        if refused is not None:
            return refused
        if verified is not None:
            request[_VERIFIED] = verified
        return await handler(request)  # type: ignore[misc, no-any-return]  # aiohttp's handlers are awaitable

    async def _echo(self, request: web.Request) -> web.Response:
        digest, size = hashlib.sha256(), 0
        async for piece in request.content.iter_any():
            digest.update(piece)
            size += len(piece)
        verified = request.get(_VERIFIED)
        return web.json_response(
            {
                "target": self.name,
                "method": request.method,
                "path": request.raw_path,
                "headers": _headers(request, verified),
                "body_length": size,
                "body_sha256": digest.hexdigest(),
                "verified": verified._asdict() if verified is not None else None,
            }
        )

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        size = int(request.match_info["size"])
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        if "chunked" in request.query:
            response.enable_chunked_encoding()
        else:
            response.content_length = size
        await response.prepare(request)
        async for block in _stream(size):
            await response.write(block)
        await response.write_eof()
        return response

    async def _sse(self, request: web.Request) -> web.StreamResponse:
        count = int(request.query.get("n", "3"))
        every = float(request.query.get("every", "0"))
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        for number in range(count):
            if every:
                await asyncio.sleep(every)
            else:
                await self._events.acquire()
            await response.write(f"id: {number}\ndata: event {number}\n\n".encode())
        await response.write_eof()
        return response

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=64 * 1024 * 1024)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    async def _status(self, request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["code"]))

    async def _redirect(self, request: web.Request) -> web.Response:
        to = request.query.get("to", "/elsewhere").replace("{self}", self.url)
        return web.Response(status=302, headers={"Location": to})

    async def _cookie(self, request: web.Request) -> web.Response:
        path = request.query.get("path", "/")
        return web.Response(text="ok", headers={"Set-Cookie": f"session=1; Path={path}; HttpOnly"})


def sha256_of_bytes(size: int) -> str:
    """The hash of what `/bytes/SIZE` serves."""
    digest = hashlib.sha256()
    for _ in range(size // len(_BLOCK)):
        digest.update(_BLOCK)
    digest.update(_BLOCK[: size % len(_BLOCK)])
    return digest.hexdigest()


async def _stream(size: int) -> AsyncIterator[bytes]:
    while size > 0:
        block = _BLOCK[:size]
        size -= len(block)
        yield block


def _headers(request: web.Request, verified: Verified | None) -> list[list[str]]:
    """Every line in order and spelling, the checked token without its signature."""
    lines = []
    for raw_name, raw_value in request.raw_headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if verified is not None and name.lower() == verified.header.lower():
            value = value.rpartition(".")[0] + ".SIGNATURE_REMOVED_BY_GOOGLE"
        lines.append([name, value])
    return lines
