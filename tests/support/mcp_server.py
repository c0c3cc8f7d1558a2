"""An MCP server of the SDK's behind a front end that verifies ID tokens, as Cloud Run's does."""

from __future__ import annotations

import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import uvicorn
from mcp import MCPDeprecationWarning
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCMessage, SamplingMessage, TextContent
from pydantic import BaseModel

from sidecar.emulator.keys import BadTokenError, signing_key

_claims: ContextVar[dict[str, Any]] = ContextVar("claims")

FORBIDDEN = (
    "<html><title>403 Forbidden</title><h1>Error: Forbidden</h1>"
    "<h2>Your client does not have permission to get URL <code>/mcp</code> from this server.</h2></html>"
)


class Wish(BaseModel):
    """What the tool `order` asks the person for."""

    size: int


class Events(EventStore):
    """Keeps every event, so that a stream can be resumed."""

    def __init__(self) -> None:
        self.kept: list[tuple[StreamId, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self.kept.append((stream_id, message))
        return str(len(self.kept))

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        at = int(last_event_id)
        stream = self.kept[at - 1][0]
        for number, (its, message) in enumerate(self.kept[at:], at + 1):
            if its == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class ToolServer:
    """What it was asked, by whom; and its tools."""

    def __init__(self) -> None:
        self.tokens: dict[int, str] = {}
        """The `exp` and e-mail of each token that was let in."""
        self.asked: list[tuple[str, str, int]] = []
        """Method, path and status of every request."""
        self.headers: list[dict[str, str]] = []
        self.cancelled = threading.Event()
        self.forbids = False
        """Everybody, as where `roles/run.invoker` is missing."""
        self.url = ""
        self.audience: str | None = None
        """Of the tokens that it takes; None for its URL."""
        self.events = Events()
        self.tools = MCPServer("tools")
        self._add_tools()

    def _add_tools(self) -> None:
        tool = self.tools.tool

        @tool()
        async def whoami() -> str:
            return str(_claims.get()["email"])

        @tool()
        async def outlive(ctx: Context) -> str:
            """Report progress until the token that asked has been expired for a while."""
            expires_at, told = _claims.get()["exp"], 0
            while time.time() < expires_at + 0.5:  # noqa: TID251  # as a server has it
                told += 1
                await ctx.report_progress(told, None, f"step {told}")
                await anyio.sleep(0.05)
            return f"expired after {told} steps"

        @tool()
        async def order(ctx: Context) -> str:
            """Ask the person, then the model."""
            wish = await ctx.elicit("Which size?", Wish)
            assert wish.action == "accept"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MCPDeprecationWarning)
                said = await ctx.session.create_message(
                    [SamplingMessage(role="user", content=TextContent(type="text", text="Name a colour"))],
                    max_tokens=10,
                    related_request_id=ctx.request_id,
                )
            assert isinstance(said.content, TextContent)
            return f"{said.content.text}, {wish.data.size}"

        @tool()
        async def for_ever(ctx: Context) -> str:
            """Wait until it is cancelled."""
            await ctx.report_progress(1)
            try:
                await anyio.sleep_forever()
            finally:
                self.cancelled.set()

        @tool()
        async def in_two_streams(ctx: Context) -> str:
            """Close the stream that the answer would come by."""
            await ctx.report_progress(1)
            await ctx.close_sse_stream()
            return "resumed"

        @tool()
        async def big(size: int) -> str:
            return "x" * size

        @tool()
        async def announce(ctx: Context) -> str:
            """Say something by the stream that belongs to no request."""
            await ctx.session.send_tool_list_changed()
            return "announced"

    async def _judged(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        status, body, more = self._verdict(headers)

        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.asked.append((scope["method"], scope["path"], message["status"]))
                self.headers.append(headers)
            await send(message)

        if status:
            fields = [(b"content-type", b"text/html"), *more]
            await noted({"type": "http.response.start", "status": status, "headers": fields})
            await noted({"type": "http.response.body", "body": body.encode()})
        else:
            await app(scope, receive, noted)

    def _verdict(self, headers: dict[str, str]) -> tuple[int, str, list[tuple[bytes, bytes]]]:
        if self.forbids:
            return 403, FORBIDDEN, []
        scheme, _, token = headers.get("authorization", "").partition(" ")
        try:
            claims = signing_key("google").verify(token) if scheme == "Bearer" else {}
        except BadTokenError:
            claims = {}
        if claims.get("aud") != (self.audience or self.url) or claims.get("exp", 0) <= time.time():  # noqa: TID251
            said = b'Bearer error="invalid_token" error_description="The access token could not be verified"'
            return (
                401,
                "<html><title>401</title><h1>Error: Unauthorized</h1></html>",
                [(b"www-authenticate", said)],
            )
        self.tokens[claims["exp"]] = claims["email"]
        _claims.set(claims)
        return 0, "", []


@contextmanager
def tool_server(kind: str = "streamable") -> Iterator[ToolServer]:
    """One that listens, in a thread: `streamable`, `json` or `sse`."""
    tools = ToolServer()
    match kind:
        case "sse":
            app = tools.tools.sse_app()
        case "json":
            app = tools.tools.streamable_http_app(json_response=True)
        case _:
            app = tools.tools.streamable_http_app(event_store=tools.events, retry_interval=10)

    async def judged(scope: Any, receive: Any, send: Any) -> None:
        await tools._judged(app, scope, receive, send)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        tools.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(judged, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield tools
        finally:
            server.should_exit = True
            thread.join()
