"""Connections from the app, as the proxy keeps count of them.

Owns the two interfaces between a connection of any wire and the proxy: what the proxy asks of a `Connection`, and what
a connection tells the proxy, its `Connections`. What an exchange asks of either is in `ports`.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr, trait

from sidecar.errors import SidecarError
from sidecar.net.listeners import Owner
from sidecar.net.transport import Transport


@trait
class Connection:
    """A connection from the app, as the proxy counts it."""

    __slots__ = ()

    owner: Owner

    def drain(self, since_mono: float) -> None:
        """Close after the current answer, or else after the next one. If no request comes, close soon after
        `since_mono`.
        """
        raise NotImplementedError

    def close_if_idle(self) -> None:
        """Close now, unless it serves a request, or was just opened and has sent none yet."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once."""
        raise NotImplementedError

    def sweep(self, now_mono: float) -> None:
        """End what has taken too long; called about once a second."""
        raise NotImplementedError

    def fault(self, error: Exception) -> None:
        """End after a fault of the sidecar's own."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class Connections:
    """What a connection from the app reports to the proxy."""

    __slots__ = ()

    def opened(self, connection: Connection) -> None:
        """A connection from the app."""
        raise NotImplementedError

    def closed(self, connection: Connection) -> None:
        """It is gone. A connection with a fault in `opened` may never have been counted."""
        raise NotImplementedError

    def lost_unused(self, owner: Owner, error: OSError) -> None:
        """A connection ended by an error before it sent a request."""
        raise NotImplementedError

    def speaks_http2(
        self, connection: Connection, transport: Transport, barred: SidecarError | None, data: bytes
    ) -> None:
        """`data` starts as HTTP/2 does: another object now owns its transport, under the same `barred`."""
        raise NotImplementedError

    def tunnels(self, connection: Connection, transport: Transport, inner: Owner, data: bytes) -> None:
        """Its app asked for a tunnel and gets one: from now on, beginning with `data`, its bytes belong to `inner`."""
        raise NotImplementedError
