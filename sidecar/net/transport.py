"""The interface of a connection: bytes that arrive, bytes that are sent, and its end.

Owns the two interfaces between a socket and a codec. A `Transport` (`tcp`, `tls`) has the socket; its `Receiver` is a
connection of the proxy. They are asyncio's `Transport` and `Protocol` in all but their ancestry: compiled code calls a
base class of its own directly, and asyncio's by name only.
"""

from __future__ import annotations

import socket
from typing import final

from mypy_extensions import mypyc_attr, trait


@trait
class Receiver:
    """What a transport calls; see asyncio.Protocol. What is not overridden does nothing."""

    __slots__ = ()

    def connection_made(self, transport: Transport) -> None:
        """The connection is up; called once, before anything else."""

    def data_received(self, data: bytes) -> None:
        """Bytes have come, at least one."""

    def eof_received(self) -> bool | None:
        """The peer will send nothing more. Return True to keep our own direction open, if the transport has two."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over; `exc` if an error ended it, None if we closed it or the peer ended it properly."""

    def pause_writing(self) -> None:
        """More bytes are waiting than the high mark, because the peer does not take them. May be called within
        `write`.
        """

    def resume_writing(self) -> None:
        """Fewer bytes are waiting than the low mark."""


@final
class Nobody(Receiver):
    """The receiver of a transport whose socket another transport has taken over."""

    __slots__ = ()


@mypyc_attr(allow_interpreted_subclasses=True)
class Transport:
    """What a receiver calls; see asyncio.Transport. Nothing here raises, and after the end nothing does anything."""

    __slots__ = ()

    def write(self, data: bytes) -> None:
        """Send now what can be sent, and keep the rest."""
        raise NotImplementedError

    def write_eof(self) -> None:
        """Send what is kept, then end our direction. Only if `can_write_eof`."""
        raise NotImplementedError

    def can_write_eof(self) -> bool:
        """Whether our direction can end by itself."""
        raise NotImplementedError

    def end(self) -> None:
        """Send what is kept, then say that nothing more comes, and go on reading until the peer's end or `abort`.

        For an answer behind which bytes may come that nobody reads: closing then would reset, and the reset may
        overtake the answer (RFC 9112 section 9.6).
        """
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Take no bytes until `resume_reading`."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Take bytes again."""
        raise NotImplementedError

    def read_ahead(self) -> None:
        """From now on, pass on all that has arrived in one piece: parts of it may belong to different streams."""
        raise NotImplementedError

    def is_reading(self) -> bool:
        """Whether bytes are taken."""
        raise NotImplementedError

    def set_write_buffer_limits(self, high: int) -> None:
        """The high mark in bytes; the low one is a quarter of it."""
        raise NotImplementedError

    def get_write_buffer_size(self) -> int:
        """Bytes that are kept because the socket did not take them yet."""
        raise NotImplementedError

    def set_protocol(self, receiver: Receiver) -> None:
        """From now on `data_received` of this receiver gets what arrives."""
        raise NotImplementedError

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        raise NotImplementedError

    def close(self) -> None:
        """Send what is kept, then close; nothing more is read."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once; what is kept is lost."""
        raise NotImplementedError

    def get_socket(self) -> socket.socket | None:
        """The socket, to ask the kernel about it; None where there is none. Still open in `connection_lost`."""
        raise NotImplementedError
