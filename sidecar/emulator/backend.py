"""The app behind a target's front end.

Owns the paths that tests of a proxy need: an echo, large bodies, streams, WebSocket, redirects, cookies, interim
answers, trailers. Built by `targets`, which has judged the request before. It sees the checked token without its
signature, as an app on Cloud Run does, so that nothing here can hand it back. Bodies are never held whole.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import math
from collections.abc import Iterator
from typing import Final, final

from aiohttp import WSMsgType, web

from sidecar.emulator.asked import without_token
from sidecar.emulator.verdicts import Admitted

ADMITTED: Final = web.RequestKey("admitted", Admitted)

GZIPPED: Final = "grüße " * 10_000
"""What /gzip says, once it is decompressed."""
_BLOCK: Final = hashlib.shake_128(b"idtoken-sidecar").digest(64 * 1024)
"""No part of it repeats, so that a proxy that loses, doubles or swaps some of it is found out."""


@final
class Backend:
    """The app of one target."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.url = ""
        """The target's own, once it listens; stands for `{self}` in /redirect."""
        self._events = asyncio.Semaphore(0)

    def add_routes(self, routes: web.UrlDispatcher) -> None:
        """Every path of the app."""
        routes.add_get("/hello", self._hello)
        routes.add_get("/bytes/{size}", self._bytes)
        routes.add_get("/gzip", self._gzip)
        routes.add_get("/sse", self._sse)
        routes.add_post("/sse/release", self._release)
        routes.add_get("/ws", self._websocket)
        routes.add_route("*", "/status/{code}", self._status)
        routes.add_get("/redirect", self._redirect)
        routes.add_get("/cookie", self._cookie)
        routes.add_get("/early-hints", self._early_hints)
        routes.add_get("/trailers", self._trailers)
        routes.add_route("*", "/{path:.*}", self._echo)

    def release(self, count: int = 1) -> None:
        """Let this many more events of /sse out."""
        for _ in range(count):
            self._events.release()

    async def _hello(self, request: web.Request) -> web.Response:
        """A short answer for people: what of the caller was verified."""
        verified = request[ADMITTED].verified
        if verified is None:
            return web.Response(text=f"Hello from {self._name}. Nothing was verified.\n")
        told = {"audience": verified.audience, "caller": verified.principal, "header": verified.header}
        lines = [f"  {name:<8}  {value}\n" for name, value in told.items() if value is not None]
        return web.Response(text=f"Hello from {self._name}. Your call was verified:\n{''.join(lines)}")

    async def _echo(self, request: web.Request) -> web.Response:
        digest, size = hashlib.sha256(), 0
        async for piece in request.content.iter_any():
            digest.update(piece)
            size += len(piece)
        admitted = request[ADMITTED]
        verified = admitted.verified
        return web.json_response(
            {
                "target": self._name,
                "method": request.method,
                "path": without_token(request.raw_path)
                if verified is not None and not verified.header
                else request.raw_path,
                "headers": _headers(request, admitted),
                "body_length": size,
                "body_sha256": digest.hexdigest(),
                "verified": verified._asdict() if verified is not None else None,
            }
        )

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        """`?chunked=1`: of unknown length; `?chunk=SIZE`: at most so many bytes a write, each an HTTP chunk."""
        try:
            size, most = int(request.match_info["size"]), int(request.query.get("chunk", len(_BLOCK)))
        except ValueError:
            raise web.HTTPBadRequest(text="sizes are whole numbers") from None
        if size < 0 or most < 1:
            raise web.HTTPBadRequest(text="sizes are positive")
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        if request.query.get("chunked", "0") != "0":
            response.enable_chunked_encoding()
        else:
            response.content_length = size
        await response.prepare(request)
        if request.method != "HEAD":
            for block in _stream(size):
                for start in range(0, len(block), most):
                    await response.write(block[start : start + most])
        await response.write_eof()
        return response

    async def _gzip(self, _: web.Request) -> web.Response:
        """Text in gzip, as an app compresses it whatever is accepted."""
        headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain; charset=utf-8"}
        return web.Response(body=gzip.compress(GZIPPED.encode(), mtime=0), headers=headers)

    async def _sse(self, request: web.Request) -> web.StreamResponse:
        """`?n=` events, each when released, or with `?every=SECONDS` by themselves."""
        count, every = _number(request, "n", "3"), _number(request, "every", "0")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        for number in range(int(count)):
            if every:
                await asyncio.sleep(every)
            else:
                await self._events.acquire()
            await response.write(f"id: {number}\ndata: event {number}\n\n".encode())
        await response.write_eof()
        return response

    async def _release(self, request: web.Request) -> web.Response:
        self.release(int(_number(request, "n", "1")))
        return web.Response(status=204)

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        asked = request.headers.get("Sec-WebSocket-Protocol", "")
        protocols = [name.strip() for name in asked.split(",") if name.strip()]
        socket = web.WebSocketResponse(max_msg_size=64 * 1024 * 1024, protocols=protocols)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    async def _status(self, request: web.Request) -> web.Response:
        code = request.match_info["code"]
        if not code.isdecimal() or not 200 <= int(code) <= 599:
            raise web.HTTPBadRequest(text="a final status is between 200 and 599")
        return web.Response(status=int(code))

    async def _redirect(self, request: web.Request) -> web.Response:
        to = request.query.get("to", "/elsewhere").replace("{self}", self.url)
        return web.Response(status=302, headers={"Location": to})

    async def _cookie(self, request: web.Request) -> web.Response:
        path = request.query.get("path", "/")
        return web.Response(text="ok", headers={"Set-Cookie": f"session=1; Path={path}; HttpOnly"})

    async def _early_hints(self, request: web.Request) -> web.Response:
        """A 103 (RFC 8297) before the answer; aiohttp has no call for it."""
        if request.transport is not None:
            request.transport.write(
                b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n"
            )
        return web.json_response({"after": "early hints"})

    async def _trailers(self, request: web.Request) -> web.Response:
        """An answer with trailers; aiohttp can't send any, so it is written by hand and ends the connection."""
        body = json.dumps({"before": "trailers"}).encode()
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
            b"Trailer: X-Body-Sha256\r\nConnection: close\r\n\r\n"
        )
        digest = hashlib.sha256(body).hexdigest().encode()
        if request.transport is not None:
            request.transport.write(
                head + b"%x\r\n%s\r\n0\r\nX-Body-Sha256: %s\r\n\r\n" % (len(body), body, digest)
            )
            request.transport.close()
        # Goes nowhere: aiohttp finds the connection closing and drops it.
        return web.Response()


def _number(request: web.Request, name: str, default: str) -> float:
    try:
        value = float(request.query.get(name, default))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise web.HTTPBadRequest(text=f"{name} is a number")
    return value


def sha256_of_bytes(size: int) -> str:
    """The hash of what `/bytes/SIZE` serves."""
    digest = hashlib.sha256()
    for block in _stream(size):
        digest.update(block)
    return digest.hexdigest()


def _stream(size: int) -> Iterator[bytes]:
    """`size` bytes in blocks, no two of which are the same."""
    number = 0
    while size > 0:
        block = number.to_bytes(8, "big") + _BLOCK[8:]
        yield block[:size]
        size -= len(block)
        number += 1


def _headers(request: web.Request, admitted: Admitted) -> list[list[str]]:
    """Every line in order and spelling as the app gets it, the checked token without what makes it good."""
    verified = admitted.verified
    checked = verified.header.lower() if verified is not None else None
    gone = {*admitted.stripped, *(name.lower() for name, _ in admitted.added)}
    lines = []
    for raw_name, raw_value in request.raw_headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name.lower() in gone:
            continue
        if verified is not None and name.lower() == checked:
            if verified.credential == "access_token":
                value = "Bearer ACCESS_TOKEN_REMOVED_BY_GOOGLE"
            else:
                value = value.rpartition(".")[0] + ".SIGNATURE_REMOVED_BY_GOOGLE"
        if admitted.moved is not None and name.lower() == admitted.moved[0]:
            name = admitted.moved[1]
        lines.append([name, value])
    return lines + [list(line) for line in admitted.added]
