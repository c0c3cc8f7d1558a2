"""Writing answers: the app's side of an exchange, as bytes.

Owns how an answer is framed, and how it is broken off so that the app can tell. The base of `DownstreamConnection`,
which keeps the order of the requests. Rules: RFC 9112 sections 6 and 9.6.
"""

from __future__ import annotations

import socket
import struct

from sidecar.errors import Reason, SidecarError
from sidecar.net.listeners import Owner
from sidecar.net.transport import Transport
from sidecar.proxy.exchange.context import Context
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.fields import headers
from sidecar.proxy.http1 import framing, heads
from sidecar.proxy.http1.request import Request
from sidecar.proxy.messages import NO_BODY, UNKNOWN, RequestHead
from sidecar.proxy.ports import AppSide


class AnswerWriter(AppSide):
    """See the module's docstring; its attributes are the connection's."""

    __slots__ = ("_framing", "_out", "asked", "context", "current", "owner", "transport")

    context: Context
    owner: Owner
    transport: Transport
    current: Exchange | None
    """The exchange whose turn it is."""
    asked: Request
    """The head of its request."""
    _out: list[bytes]
    """The parts of the answer that were not written yet."""
    _framing: int

    @property
    def is_leaving(self) -> bool:
        """Whether the connection ends with its next answer, because the sidecar stops or the listener is gone."""
        return self.context.is_leaving or self.owner.closing

    def write_own(self, error: SidecarError, route: str | None, method: bytes, keep_alive: bool) -> None:
        """Write one of the sidecar's own answers."""
        self.transport.write(
            heads.own_answer(
                error,
                route=route,
                now=self.context.clock.wall(),
                head=method == b"HEAD",
                close=not keep_alive,
            )
        )

    def interim(self, status: int, reason: bytes, fields: headers.Fields) -> None:
        """Do nothing for HTTP/1.0, which has no interim answers."""
        if not self.asked.http10:
            self._out.append(heads.interim_head(status, reason, fields))

    def head(
        self, status: int, reason: bytes, fields: headers.Fields, found: headers.Found, body: int
    ) -> None:
        request = self.asked
        request.keep_alive = request.keep_alive and not self.is_leaving
        if body == UNKNOWN and request.http10:
            # No chunks for HTTP/1.0: the end of the connection ends the body.
            body = framing.UNTIL_CLOSE
            request.keep_alive = False
        elif (
            body == NO_BODY and b"content-length" not in found and heads.needs_length(status, request.method)
        ):
            # The answer came in HTTP/2, where a head can end a message without giving its length.
            fields = (*fields, (b"Content-Length", b"0"))
        self._framing = body
        self._out += heads.answer_head(
            status,
            reason,
            fields,
            found,
            chunked=body == framing.CHUNKED,
            http10=request.http10,
            keep_alive=request.keep_alive,
        )

    def body(self, data: bytes) -> None:
        if self._framing == framing.CHUNKED:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)

    def end(self, trailers: headers.Fields) -> None:
        if self._framing == framing.CHUNKED:
            self._out.append(heads.last_chunk(trailers))
        if self._out:
            self.flush()

    def flush(self) -> None:
        if self._out:
            out = self._out
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._out = []

    def fail(self, request: RequestHead, error: SidecarError, route: str) -> None:
        self._out = []
        asked, current = self.asked, self.current
        keep_alive = request is asked and asked.keep_alive and not self.is_leaving
        if keep_alive and current is not None:
            keep_alive = current.request_done
        asked.keep_alive = keep_alive
        self.write_own(error, route, request.method, keep_alive)

    def cut(self, error: SidecarError) -> None:
        """Close the connection, or reset it if only that shows the app that something is missing."""
        self.flush()
        sock = self.transport.get_socket()
        if self._framing == framing.UNTIL_CLOSE and sock is not None and not self.owner.is_unix:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        elif error.reason is not Reason.CLIENT_STALLED:
            self.transport.close()
        else:
            self.transport.abort()  # what it has not taken is dropped

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def tunnel_write(self, data: bytes) -> None:
        self.transport.write(data)

    def tunnel_end(self) -> bool:
        if not self.transport.can_write_eof():
            return False
        self.transport.write_eof()
        return True

    def tunnel_close(self) -> None:
        self.transport.close()
