"""The one origin that a connection's requests are for, if the connection is for one only.

Owns the rule that no request inside may ask for another. Made for a tunnel that an app opened by CONNECT (RFC 9110
section 9.3.6), and for TLS by the name that its handshake asked for (RFC 6066 section 3). The connection's `Owner`
holds it, and each request inside is checked before it is admitted. Pure.
"""

from __future__ import annotations

from typing import final

from sidecar.errors import Reason, SidecarError
from sidecar.grammar import hosts
from sidecar.routing.routes import request_host


@final
class Origin:
    """A scheme, a host and a port (RFC 6454 section 4)."""

    __slots__ = ("_known", "host", "port", "scheme")

    def __init__(self, scheme: bytes, host: str, port: int | None) -> None:
        """`scheme` is `http://` or `https://`, `host` is in normal form. Without a `port` every port matches."""
        self.scheme = scheme
        self.host = host
        self.port = port
        self._known = b""
        """A Host that was found to match."""

    def __str__(self) -> str:
        return f"{self.scheme.decode('ascii')}{hosts.Authority(self.host, self.port)}"

    @property
    def is_secure(self) -> bool:
        """Whether the bytes inside are TLS."""
        return self.scheme == b"https://"

    def check(self, authority: bytes, *, absolute: bool) -> None:
        """Raise for a request for another origin: BAD_HOST by its Host, MALFORMED_REQUEST if it is written as to a
        proxy.
        """
        if absolute:
            raise SidecarError(
                Reason.MALFORMED_REQUEST,
                f"The connection is for {self} alone, and the request asks for a whole URL, as one to a proxy does. "
                "Send the path alone there.",
            )
        if authority == self._known:
            return
        host = request_host(authority)
        port = hosts.parse_authority(authority.decode("ascii")).port
        any_port = self.port is None or (port or (443 if self.is_secure else 80)) == self.port
        if host != self.host or not any_port:
            raise SidecarError(
                Reason.BAD_HOST,
                f"The connection is for {self} alone, by its tunnel or its TLS, and the request's Host is another one. "
                "Open a connection for each host.",
            )
        self._known = authority
