"""A request as HTTP/1 reads it, and the interface to its receiver.

Owns the form of a head with the facts that an HTTP/1 answer depends on, and the interface between `request_reader`
and the connection.
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
    """A request's head, with the facts that an HTTP/1 answer depends on."""

    __slots__ = ("absolute", "http10", "keep_alive")

    def __init__(self, began_mono: float, method: bytes, fields: headers.Fields) -> None:
        self.began_mono = began_mono
        self.method = method
        self.fields = fields
        self.path = b""
        self.body = framing.UNTIL_CLOSE
        """A value that no request has: its framing has not been read yet."""
        self.upgrade = None
        self.absolute = False
        """Whether the app uses the sidecar as its HTTP proxy."""
        self.http10 = False
        self.keep_alive = False
        """Whether the connection can carry another request after this one."""


@trait
class Sink:
    """What a reader reports and asks."""

    __slots__ = ()

    owner: Owner

    def admit(self, request: Request) -> Admitted:
        """Judge a head; raises the SidecarError for the app."""
        raise NotImplementedError

    def request(self, request: Request, admitted: Admitted) -> None:
        """A head that was admitted. Set `receiving` if a body follows."""
        raise NotImplementedError

    def refuse(self, request: Request, error: SidecarError) -> None:
        """A head that is refused."""
        raise NotImplementedError

    def broken(self, request: Request, error: SidecarError) -> None:
        """The bytes no longer make sense, and the reader is BROKEN. `request` is what is known of a head."""
        raise NotImplementedError

    def connect(self, request: Request, target: bytes) -> None:
        """A whole head that asks for a tunnel to `target`. The reader is done."""
        raise NotImplementedError

    def upgrade_waits(self) -> bool:
        """Whether what follows a head that asks for an upgrade must wait for the answer."""
        raise NotImplementedError

    def carried(self, request: Request, target: bytes, wish: bytes) -> bytes | None:
        """The protocols of a requested upgrade that are carried; None if it is declined."""
        raise NotImplementedError

    def body_ended(self, receiving: Relay, trailers: headers.Fields) -> None:
        """The request is complete."""
        raise NotImplementedError

    def http2(self, data: bytes) -> None:
        """The connection began as HTTP/2 does: `data` is all that has arrived, and this reader gets no more."""
        raise NotImplementedError

    def may_parse(self) -> bool:
        """Whether the reader may go on to the next head, or piece of a body."""
        raise NotImplementedError
