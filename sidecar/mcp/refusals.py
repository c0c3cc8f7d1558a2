"""The error for a client whose request got no message of the protocol.

It is a JSON-RPC error. Its text says what happened and how to fix it, because most clients show nothing else; its
`data` has the parts. Called by `carrier`. Pure. The sidecar's own answers are read from their problem document;
`refusals/diagnosis` explains a target's 401, 403 or 404.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mcp_types import ErrorData, JSONRPCError, JSONRPCRequest, jsonrpc_message_adapter
from pydantic import ValidationError

from sidecar.proxy.fields.proxy_status import NAME
from sidecar.proxy.refusals.diagnosis import Diagnosis
from sidecar.proxy.refusals.problem import MEDIA_TYPE, reason_phrase

REFUSED: Final = -32010
"""The code of every error of the sidecar's own, in the range that the protocol leaves to implementations (-32000 to
-32019); the SDK uses -32000 and -32001."""


def of_problem(headers: Mapping[str, str], body: bytes) -> ErrorData | None:
    """The error for an answer of the sidecar's own; None where it is the target's. `headers` by lower-case name."""
    if not headers.get("proxy-status", "").startswith(f"{NAME};"):
        return None
    if headers.get("content-type") != MEDIA_TYPE:
        return None
    try:
        found = json.loads(body)
    except ValueError:
        return None
    kept = {name: found[name] for name in ("reason", "status", "route", "command") if name in found}
    return ErrorData(
        code=REFUSED, message=_with_command(f"{found['title']}. {found['detail']}", kept), data=kept
    )


def of_diagnosis(route: str, status: int, found: Diagnosis) -> ErrorData:
    """The error for what a target's refusal means."""
    kept = {"reason": str(found.cause), "status": status, "route": route}
    if found.command:
        kept["command"] = found.command
    return ErrorData(
        code=REFUSED, message=_with_command(f"The server answered {status}. {found.detail}", kept), data=kept
    )


def of_status(route: str, status: int) -> ErrorData:
    """The error for any other status."""
    return ErrorData(
        code=REFUSED,
        message=f"The server answered {status} {reason_phrase(status)}, and no message of the protocol.",
        data={"status": status, "route": route},
    )


def of_a_cut(route: str) -> ErrorData:
    """The error for an answer that ended in its middle."""
    return ErrorData(
        code=REFUSED,
        message="The connection to the server was lost before the answer had ended. The request may have been "
        "carried out.",
        data={"route": route},
    )


def _with_command(says: str, kept: Mapping[str, Any]) -> str:
    command = kept.get("command")
    return f"{says} To fix it: {command}" if command and command not in says else says


def is_error(body: bytes) -> bool:
    """Whether an answer's body is an error of the protocol, which goes to the client as it is."""
    try:
        return isinstance(jsonrpc_message_adapter.validate_json(body, by_name=False), JSONRPCError)
    except ValidationError:
        return False


def request_in(body: bytes) -> JSONRPCRequest | None:
    """The request that a POST carries; None for a notification and an answer."""
    try:
        message = jsonrpc_message_adapter.validate_json(body, by_name=False)
    except ValidationError:
        return None
    return message if isinstance(message, JSONRPCRequest) else None
