"""An MCP server by stdio that is really one behind a route.

Owns the session: it is opened with the client's first message, ends with the client's stdin or a signal, and every
request of the client gets one answer, the server's or an error. The command `mcp` has `cli/run` call it, beside a
sidecar in this process. Messages pass unchanged in both directions, through the SDK's own transports: Streamable HTTP
with its session, its resumption of broken streams, and its stream for messages that the server starts; or, if
requested, the HTTP+SSE transport of 2024-11-05. The sidecar sets a valid token on each of their requests; a stream
continues after the token that opened it has expired.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, NamedTuple, cast, final

import anyio
import httpx2
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.stdio import stdio_server
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

from sidecar.mcp.carrier import Carrier
from sidecar.mcp.stamps import Stamps
from sidecar.mcp.stdio import Lines
from sidecar.runtime.clock import SystemClock
from sidecar.service.life import Service

_log = logging.getLogger(__name__)

_GRACE: Final = 5.0
"""Seconds that the server may take to end the session."""
_EVENT_LIMIT: Final = 64 * 1024 * 1024
"""Most bytes of one event, that is, of one tool result. The SDK's own limit is a megabyte, less than a picture needs.
"""
_LOST: Final = (httpx2.HTTPError, httpx2.StreamError, httpx2.SSEError, OSError, ValueError, RuntimeError)
"""The SDK's exceptions when a session can't be opened, or is lost."""

_Streams = tuple[Any, Any]
"""The SDK's pair: what comes in, and what takes what goes out."""


class Place(NamedTuple):
    """Where the server is."""

    url: str
    """As the client knows it."""
    route: str
    host: str
    """The host that selects the route on the sidecar's socket."""
    socket: str
    sse: bool
    """Whether to use the transport of 2024-11-05."""


async def carry(place: Place, service: Service) -> int:
    """Carry messages between stdio and the server until the client's stdin ends or a signal comes. The exit code is
    0, or 1 if the server's side was lost.
    """
    loop = asyncio.get_running_loop()
    clock = SystemClock(loop)
    lines = Lines(sys.stdin.buffer, loop)
    scope = anyio.CancelScope()
    told: list[signal.Signals] = []

    def hurry() -> None:
        clock.call_later(_GRACE, scope.cancel)

    def stop(number: signal.Signals) -> None:
        if told:
            os._exit(128 + number)
        told.append(number)
        lines.end()
        hurry()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    for name in ("mcp", "httpx2", "httpcore2"):  # they log messages and whole URLs
        logging.getLogger(name).setLevel(logging.CRITICAL)
    code = 0
    with scope:
        try:
            async with stdio_server(stdin=cast(Any, lines)) as (asked, answers), answers:
                code = await _Bridge(place, service, answers, hurry).serve(asked)
        except* BrokenPipeError:
            _log.info("the client has closed its end")
    return code


@final
class _Bridge:
    """The messages of one client."""

    def __init__(self, place: Place, service: Service, answers: Any, hurry: Callable[[], None]) -> None:
        """`answers` takes messages for the client; `hurry` is called when the end begins, and limits its time."""
        self._place = place
        self._service = service
        self._answers = answers
        self._hurry = hurry
        self._stamps = Stamps()
        self._waiting: dict[RequestId, None] = {}
        """The client's requests that have no answer yet."""

    async def serve(self, asked: Any) -> int:
        """Run until the client sends no more; returns the exit code."""
        async for item in asked:
            if isinstance(item, Exception):
                await self._not_understood()
            elif (code := await self._session(item, asked)) is not None:
                return code
        return 0

    async def _session(self, first: SessionMessage, asked: Any) -> int | None:
        """One session, from its first message; the exit code, or None where it could not be opened."""
        carrier = Carrier(
            self._place.socket,
            self._place.host,
            self._place.route,
            lambda: self._service.view.last_refusal(self._place.route),
            answer=self._say if self._place.sse else None,
        )
        self._note(first.message)
        opened = ended = False
        try:
            async with self._transport(carrier) as (said, to_server), anyio.create_task_group() as both:
                opened = True
                both.start_soon(self._pass_back, said, both.cancel_scope)
                await self._pass_on(first, to_server)
                async for item in asked:
                    if isinstance(item, Exception):
                        await self._not_understood()
                    else:
                        self._note(item.message)
                        await self._pass_on(item, to_server)
                ended = True
                self._hurry()
                both.cancel_scope.cancel()
        except* _LOST as group:
            if opened and not ended:
                _log.error("the session was lost", exc_info=group)
        if ended:
            return 0
        await self._give_up(carrier.refused)
        return 1 if opened else None

    def _transport(self, carrier: Carrier) -> AbstractAsyncContextManager[_Streams]:
        if self._place.sse:

            def client(
                headers: dict[str, str] | None = None,
                timeout: httpx2.Timeout | None = None,
                auth: httpx2.Auth | None = None,
            ) -> httpx2.AsyncClient:
                return httpx2.AsyncClient(transport=carrier, trust_env=False, timeout=None, headers=headers)

            return sse_client(self._place.url, httpx_client_factory=client)
        return self._streamable(carrier)

    @asynccontextmanager
    async def _streamable(self, carrier: Carrier) -> AsyncIterator[_Streams]:
        # No timeout here: the sidecar has those of the route. The SDK does not close a client that it was given, and
        # the sidecar would wait for its connections when it stops.
        async with (
            httpx2.AsyncClient(transport=carrier, trust_env=False, timeout=None) as client,
            streamable_http_client(
                self._place.url, http_client=client, max_sse_event_size=_EVENT_LIMIT
            ) as streams,
        ):
            yield streams

    def _note(self, message: JSONRPCMessage) -> None:
        """The client sent this message: note whether it waits for an answer."""
        if isinstance(message, JSONRPCRequest):
            self._waiting[message.id] = None
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._waiting.pop((message.params or {}).get("requestId", ""), None)

    async def _pass_on(self, item: SessionMessage, to_server: Any) -> None:
        headers = self._stamps.sent(item.message)
        await to_server.send(SessionMessage(item.message, ClientMessageMetadata(headers=headers or None)))

    async def _pass_back(self, said: Any, scope: anyio.CancelScope) -> None:
        """Pass the server's messages to the client until there are no more."""
        async for item in said:
            if isinstance(item, Exception):
                _log.warning("the server sent something that is not a message of the protocol")
                continue
            self._stamps.received(item.message)
            await self._say(item.message)
        scope.cancel()

    async def _say(self, message: JSONRPCMessage) -> None:
        if isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
            self._waiting.pop(message.id, None)
        await self._answers.send(SessionMessage(message))

    async def _give_up(self, why: ErrorData | None) -> None:
        """Answer all waiting requests with an error."""
        error = why or ErrorData(
            code=CONNECTION_CLOSED, message="The connection to the server was lost, and with it the session."
        )
        for request in list(self._waiting):
            await self._say(JSONRPCError(jsonrpc="2.0", id=request, error=error))

    async def _not_understood(self) -> None:
        error = ErrorData(code=PARSE_ERROR, message="This line is not a message of JSON-RPC 2.0.")
        await self._answers.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=None, error=error)))
