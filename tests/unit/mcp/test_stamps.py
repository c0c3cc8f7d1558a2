"""sidecar.mcp.stamps: the header lines beside a message"""

from __future__ import annotations

from typing import Any

from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from sidecar.mcp.stamps import Stamps

MODERN = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}


def request(method: str, number: int = 1, **params: Any) -> JSONRPCRequest:
    return JSONRPCRequest(jsonrpc="2.0", id=number, method=method, params=params)


def response(number: int = 1, **result: Any) -> JSONRPCResponse:
    return JSONRPCResponse(jsonrpc="2.0", id=number, result=result)


def test_the_version_that_was_agreed_on_goes_with_all_that_follows() -> None:
    stamps = Stamps()
    assert stamps.sent(request("initialize", protocolVersion="2025-11-25")) == {}
    stamps.received(response(protocolVersion="2025-06-18"))
    wanted = {"mcp-protocol-version": "2025-06-18"}
    assert (
        stamps.sent(JSONRPCNotification(jsonrpc="2.0", method="notifications/initialized", params=None))
        == wanted
    )
    assert stamps.sent(request("tools/call", 2, name="t", arguments={})) == wanted
    assert stamps.sent(response(7)) == wanted  # an answer to what the server asked
    assert stamps.sent(request("initialize", 3)) == {}, "another one begins anew"


def test_an_answer_to_another_request_tells_no_version() -> None:
    stamps = Stamps()
    stamps.sent(request("initialize"))
    stamps.received(response(2, protocolVersion="2025-06-18"))
    assert stamps.sent(request("ping", 3)) == {}
    stamps.received(
        JSONRPCError.model_validate({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}})
    )
    stamps.received(response(1, protocolVersion="2025-06-18"))
    assert stamps.sent(request("ping", 4)) == {}, "it had been answered"


def test_a_message_that_names_its_version_is_described_in_headers() -> None:
    """Protocol 2026-07-28: method, name, and the arguments that the tool's schema says."""
    stamps = Stamps()
    listing = stamps.sent(request("tools/list", 1, **MODERN))
    assert listing == {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}
    schema = {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "b": {"type": "string"}}}
    broken = {"properties": {"b": {"type": "number", "x-mcp-header": "B"}}}
    tools = [
        {"name": "t", "inputSchema": schema},
        {"name": "u", "inputSchema": broken},
        "no tool",
        {"name": 3},
    ]
    stamps.received(response(1, tools=tools))
    called = stamps.sent(request("tools/call", 2, name="t", arguments={"region": "é", "b": "x"}, **MODERN))
    assert called == {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "t",
        "Mcp-Param-Region": "=?base64?w6k=?=",
    }
    assert "Mcp-Param-B" not in stamps.sent(request("tools/call", 3, name="u", arguments={"b": 1}, **MODERN))


def test_nothing_that_a_client_says_becomes_a_second_header_line() -> None:
    stamps = Stamps()
    meta = {"_meta": {"io.modelcontextprotocol/protocolVersion": "1\r\nX: y"}}
    (value,) = stamps.sent(request("ping", 1, **meta)).values()
    assert value.isprintable()
    for value in stamps.sent(request("tools/call", 2, name="a\r\nb", **MODERN)).values():
        assert value.isprintable()
