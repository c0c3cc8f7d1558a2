"""Which upgrades are carried, and whether a 101 answers the app's request.

Owns the checks of the heads that turn a connection into a tunnel. Called by the downstream connection for each
requested upgrade, and by the exchange for each 101. Pure. The rules: a server may ignore `Upgrade`, so an upgrade
that is not carried is dropped and the request served without it. After a 101 nothing is checked any more, so a
doubtful 101 is refused: an upstream that could be made to answer 101, and no more, would give its caller a way past
the route's `allow`. Without `Connection: upgrade` llhttp takes no 101 for a switch. Sources: RFC 9110 sections 7.8
and 15.2.2, RFC 6455 section 4.1 (what a client must look at).
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
    """The protocols of an `Upgrade` list that are in `known` (lower case), in the list's order and spelling. None if
    there are none.
    """
    wanted = (protocol.strip(b" \t") for protocol in wish.split(b","))
    return b", ".join(protocol for protocol in wanted if protocol.lower() in known) or None


def refusal(upgrade: bytes | None, asked: Fields, answered: Fields) -> str | None:
    """What is wrong with a 101, for the end of a sentence; None if it may be passed on.

    `upgrade` is what the app asked for, None for nothing; the other arguments are the lines of the two heads.
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
    """The values of all lines with this name, joined. Empty if there is none."""
    return b", ".join(value.strip() for name, value in fields if name.lower() == wanted)
