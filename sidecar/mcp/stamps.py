"""The header lines that Streamable HTTP wants beside a message, and that a message by stdio does not have.

Owns what they follow from: the version that an `initialize` was answered with, or the one that a message names itself;
and of the tools that were listed, which arguments are repeated in headers. Called by `bridge` with every message that
passes. Pure. Sources: MCP 2025-06-18 and later, "Transports", "Protocol version header"; 2026-07-28, "Custom headers";
the SDK's client session, which does the same for a client that speaks HTTP itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp_types import (
    PROTOCOL_VERSION_META_KEY,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS


@final
class Stamps:
    """The header lines of one session."""

    def __init__(self) -> None:
        self._version: str | None = None
        """What an `initialize` came to."""
        self._asked: dict[RequestId, str] = {}
        """Requests whose answers tell something, with their methods."""
        self._repeated: dict[str, Mapping[tuple[str, ...], str]] = {}
        """By tool: the arguments that go into headers."""

    def sent(self, message: JSONRPCMessage) -> dict[str, str]:
        """A message goes to the server: the header lines for it."""
        method = getattr(message, "method", None)
        params: Mapping[str, Any] = getattr(message, "params", None) or {}
        if isinstance(message, JSONRPCRequest) and method in ("initialize", "tools/list"):
            self._asked[message.id] = message.method
        if method == "initialize":
            self._version = None
            return {}
        meta = params.get("_meta")
        named = meta.get(PROTOCOL_VERSION_META_KEY) if isinstance(meta, dict) else None
        version = named if isinstance(named, str) else self._version
        headers = {} if version is None else {MCP_PROTOCOL_VERSION_HEADER: encode_header_value(version)}
        if version in MODERN_PROTOCOL_VERSIONS and isinstance(method, str):
            headers |= self._of_a_call(method, params)
        return headers

    def _of_a_call(self, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        headers = {MCP_METHOD_HEADER: encode_header_value(method)}
        name = params.get(NAME_BEARING_METHODS.get(method, ""))
        if isinstance(name, str):
            headers[MCP_NAME_HEADER] = encode_header_value(name)
        arguments = params.get("arguments")
        if method == "tools/call" and isinstance(name, str) and isinstance(arguments, dict):
            headers |= mcp_param_headers(self._repeated.get(name, {}), arguments)
        return headers

    def received(self, message: JSONRPCMessage) -> None:
        """A message has come from the server."""
        if not isinstance(message, JSONRPCResponse | JSONRPCError) or message.id is None:
            return
        method = self._asked.pop(message.id, None)
        if method is None or isinstance(message, JSONRPCError):
            return
        if method == "initialize":
            version = message.result.get("protocolVersion")
            self._version = version if isinstance(version, str) else None
            return
        tools = message.result.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and isinstance(name := tool.get("name"), str):
                schema = tool.get("inputSchema")
                if find_invalid_x_mcp_header(schema) is None:
                    self._repeated[name] = x_mcp_header_map(schema)
