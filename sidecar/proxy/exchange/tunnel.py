"""Requests that become a tunnel, which carries another protocol both ways (RFC 9110 section 7.8).

Owns how many tunnels there may be, and a tunnel's two ends. Called by an exchange.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, final

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.ports import TunnelEnd

_RETRY: Final = 10.0
"""The Retry-After in seconds if there are too many: tunnels live long."""


def no_room(tunnels: Collection[object], limit: int) -> SidecarError | None:
    """The error if there are too many tunnels."""
    if len(tunnels) < limit:
        return None
    return SidecarError(
        Reason.TUNNEL_LIMIT,
        f"{limit} upgraded connections are open already, or asked for (`limits.tunnels`). "
        "Close some, or raise it.",
        retry_after=_RETRY,
    )


def failed(wrong: str | None) -> SidecarError:
    """The error of a 101 that is `wrong`: answered with another protocol, or to a request that asked for none."""
    return SidecarError(
        Reason.UPGRADE_FAILED, f"The upstream answered 101 Switching Protocols {wrong or ''}".rstrip() + "."
    )


@final
class Tunnel:
    """A tunnel's two ends."""

    __slots__ = ("_half_closed", "app", "upstream")

    def __init__(self, app: TunnelEnd, upstream: TunnelEnd) -> None:
        self.app = app
        self.upstream = upstream
        self._half_closed = False

    def ended(self, other: TunnelEnd) -> bool:
        """The end opposite of `other` will send nothing more. True keeps `other`'s own direction open, if it still
        is.
        """
        both, self._half_closed = self._half_closed, True
        if both or not other.tunnel_end():
            other.tunnel_close()
            return False
        return True
