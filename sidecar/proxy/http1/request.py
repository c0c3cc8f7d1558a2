"""A request as HTTP/1 reads it, and who gets it.

Owns the form of a head with what HTTP/1's answer depends on, and the port between `request_reader` and the connection.
"""

from __future__ import annotations

from typing import final

from mypy_extensions import trait

from sidecar.errors import SidecarError
from sidecar.net.listeners import Owner
from sidecar.proxy.admission.admission import Admitted
from sidecar.proxy.fields import headers
from sidecar.proxy.http1 import framing
from sidecar.proxy.messages import RequestHead
from sidecar.proxy.ports import Relay


@final
class Request(RequestHead):
    """A request's head, with what HTTP/1's answer depends on."""

    __slots__ = ("absolute", "http10", "keep_alive")

    def __init__(self, began_mono: float, method: bytes, fields: headers.Fields) -> None:
        self.began_mono = began_mono
        self.method = method
        self.fields = fields
        self.path = b""
        self.body = framing.UNTIL_CLOSE
        """Which no request has: its framing was not read yet."""
        self.upgrade = None
        self.absolute = False
        """Whether the app uses the sidecar as its HTTP proxy."""
        self.http10 = False
        self.keep_alive = False
        """Whether the connection can carry another request after this one."""


@trait
class Sink:
    """What a reader reports, and what it asks."""

    __slots__ = ()

    owner: Owner

    def admit(self, request: Request) -> Admitted:
        """Judge a head; raises the SidecarError to answer with."""
        raise NotImplementedError

    def request(self, request: Request, admitted: Admitted) -> None:
        """A head that was admitted; `receiving` is to be set where a body follows."""
        raise NotImplementedError

    def refuse(self, request: Request, error: SidecarError) -> None:
        """A head that is refused."""
        raise NotImplementedError

    def broken(self, request: Request, error: SidecarError) -> None:
        """The bytes make no sense any more, and the reader is BROKEN; `request` is as much as is known of a head."""
        raise NotImplementedError

    def connect(self, request: Request, target: bytes) -> None:
        """A whole head that asks for a tunnel to `target`; the reader is done."""
        raise NotImplementedError

    def upgrade_waits(self) -> bool:
        """Whether what follows a head that asks for an upgrade has to wait for its answer."""
        raise NotImplementedError

    def carried(self, request: Request, target: bytes, wish: bytes) -> bytes | None:
        """What of a wish to upgrade is carried; None where it is declined."""
        raise NotImplementedError

    def body_ended(self, receiving: Relay, trailers: headers.Fields) -> None:
        """The request is complete."""
        raise NotImplementedError

    def http2(self, data: bytes) -> None:
        """The connection began as HTTP/2 does: `data` is all that came, and more is not for this reader."""
        raise NotImplementedError

    def may_parse(self) -> bool:
        """Whether the reader may go on to the next head, or piece of a body."""
        raise NotImplementedError
