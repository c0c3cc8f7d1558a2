"""Which upgrades are carried, and whether a 101 is an answer to what was asked for.

Owns the judgement of the heads that turn a connection into a tunnel. Called by the downstream connection for each wish
to upgrade, and by the exchange for each 101. Pure. The rules: a wish may be ignored, so one for what is not carried is
dropped and the request served without it. From a 101 on nothing is judged any more, so whatever is not beyond doubt is
refused: an upstream that can be talked into the status 101, and into no more, would give its caller a way past the
route's `allow`. Without `Connection: upgrade` llhttp takes no 101 for a switch. Sources: RFC 9110
sections 7.8 and 15.2.2, RFC 6455 section 4.1 (what a client must look at).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Set
from typing import Final

from sidecar.proxy.fields.headers import Fields, list_members

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 section 1.3."""


def carried(wish: bytes, known: Set[bytes]) -> bytes | None:
    """The protocols of an `Upgrade` list that are among `known` (lower case), in its order and spelling; None for
    none."""
    wanted = (protocol.strip(b" \t") for protocol in wish.split(b","))
    return b", ".join(protocol for protocol in wanted if protocol.lower() in known) or None


def refusal(upgrade: bytes | None, asked: Fields, answered: Fields) -> str | None:
    """What is wrong with a 101, for the end of a sentence; None where it may be passed on.

    `upgrade` is what the app's request asked for, None for nothing; the others are the lines of the two heads.
    """
    wanted = list_members(upgrade or b"")
    offered = list_members(_value(answered, b"upgrade"))
    if upgrade is None or not offered or any(member not in wanted for member in offered):
        return "with a protocol that was not asked for"
    key = _value(asked, b"sec-websocket-key")
    if b"websocket" in offered and key:
        digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
        if _value(answered, b"sec-websocket-accept") != base64.b64encode(digest):
            return "with a `Sec-WebSocket-Accept` that does not follow from the request's key"
    return None


def _value(fields: Fields, wanted: bytes) -> bytes:
    """Of all lines of this name, joined; empty where there is none."""
    return b", ".join(value.strip() for name, value in fields if name.lower() == wanted)
