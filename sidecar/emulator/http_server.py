"""HTTP/1.1 before the servers of the stand-in.

Owns the connections of one application: aiohttp's, but for the answers that aiohttp gives by itself. Those have its
name and its words, and here the server's own (`pages.Manner`): to what can't be read as HTTP, to a path, a method or a
size that no handler takes, and where a handler fails. Made by `app` each time that it starts the application; it has
the same calls as `grpc_server.GrpcServer`. A body whose chunks can't be read ends the request at once: aiohttp leaves
the handler waiting for the rest.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any, Final, cast, final

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from sidecar.emulator.pages import MANNER, NOBODY, Manner, UnreadableError

_LINE_LIMIT: Final = 1 << 17
_FIELD_LIMIT: Final = _LINE_LIMIT + 1
"""Bytes of a request's target and of a header: more than any proxy in front of them lets through. Two numbers, so that
aiohttp's error says which of them was exceeded."""
_OWN: Final = frozenset({404, 405, 413, 417})
"""The statuses of aiohttp's own answers; handlers raise none of them."""


@final
class HttpServer:
    """What listens for one application."""

    def __init__(self, app: web.Application, now: Callable[[], float]) -> None:
        """`now` gives Unix seconds."""
        self._manner = app.get(MANNER, NOBODY)
        self._now = now
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        """Listen there."""
        await self._runner.setup()
        self._server = await asyncio.get_running_loop().create_server(
            self._connection, sock=sock, ssl=context, backlog=1024
        )

    def stop_listening(self) -> None:
        """Take no further connection."""
        if self._server is not None:
            self._server.close()

    async def cleanup(self) -> None:
        """Close every connection."""
        await self._runner.cleanup()

    def _connection(self) -> _Connection:
        # A proxy's bodies and heads are to be seen as they were sent: not decoded, and of any size it lets through.
        return _Connection(
            self._manner,
            self._now,
            cast(web.Server, self._runner.server),  # which `start` has set up
            loop=asyncio.get_running_loop(),
            access_log=None,
            auto_decompress=False,
            max_line_size=_LINE_LIMIT,
            max_field_size=_FIELD_LIMIT,
            max_headers=1000,
        )


class _Connection(RequestHandler):
    """One connection."""

    __slots__ = ("_manner", "_now")

    def __init__(self, manner: Manner, now: Callable[[], float], manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._manner = manner
        self._now = now

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if (request := self._current_request) is None or request.content.is_eof():
            return
        for message, _ in self._messages:
            if isinstance(fault := getattr(message, "exc", None), HttpProcessingError):
                request.content.set_exception(RequestPayloadError(), fault)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException) and resp.status in _OWN:
            # Nothing is known of an expectation that can't be met (417).
            status = 400 if resp.status == 417 else resp.status
            allowed = resp.headers.get("Allow")
            resp = self._manner.refusal(status, request.method, request.path)
            if allowed is not None:
                resp.headers["Allow"] = allowed
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer is written here: one that aiohttp writes has its name, and its version of HTTP."""
        refused, path = 500, request.path
        match exc:
            case LineTooLong(args=(line, limit, *_)):
                refused, path = (414, _told(line)) if limit == _LINE_LIMIT else (413, "")
            case HttpProcessingError() | RequestPayloadError() | UnreadableError():
                refused = 400
            case _:
                self.log_exception("Error handling request from %s", request.remote, exc_info=exc)
        if request.transport is not None:
            if request.writer.output_size == 0:
                answer = self._manner.refusal(refused, request.method, path)
                date = formatdate(self._now(), usegmt=True)
                head, body = _written(answer, self._manner, date)
                request.transport.write(head if request.method == "HEAD" else head + body)
            request.transport.close()
        # Goes nowhere: aiohttp finds the connection closing and drops it.
        return web.Response()


def _told(target: bytes) -> str:
    """The beginning of a request's target, as the page for one that is too long names it: `/url...`."""
    text = bytes(target).decode("latin-1").removesuffix("...")
    return f"{text.partition('?')[0]}..."


def _written(answer: web.Response, manner: Manner, date: str) -> tuple[bytes, bytes]:
    body = answer.body if isinstance(answer.body, bytes) else b""
    fields: Mapping[str, str] = {
        **answer.headers,
        **manner.unread,
        "Content-Length": str(len(body)),
        "Date": date,
    }
    lines = [f"{manner.version} {answer.status} {answer.reason}", *(f"{n}: {v}" for n, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1"), body
