"""Whether the other end of a connection is still there, according to the kernel, and what it sent last.

Owns the socket options that find a vanished peer, and the checks whether one has vanished, or has left while nothing
is read from it. A machine that loses its power or its network sends no end, and the kernel repeats what is
unacknowledged for a quarter of an hour (tcp_retries2 in tcp(7)). Called by `dial`, by the sweep, and by an upstream
connection that failed; never for a connection on which bytes move.

Not TCP_USER_TIMEOUT: on Linux it also ends connections whose peer is there and has paused reading.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import ssl
import struct
import termios

from sidecar.net.transport import Transport

_IDLE = 30
_INTERVAL = 10
_PROBES = 3
"""Seconds of silence before the kernel probes a peer to which nothing is under way, seconds between probes, and how
many in a row may stay unanswered: a vanished one is found within a minute."""

_READ = 256 * 1024
"""Bytes; as much as asyncio reads at once."""

_INFO = struct.Struct("=8B13I")
"""The first part of Linux's `struct tcp_info` (linux/tcp.h), up to tcpi_last_ack_recv."""
_INT = struct.Struct("i")
_UNACKED, _LAST_ACK = 12, 20
"""Places in it: segments that are sent and not acknowledged; milliseconds since the last acknowledgement of any."""


def probe(sock: socket.socket) -> None:
    """Have the kernel probe the peer while nothing is sent to it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _INTERVAL), ("TCP_KEEPCNT", _PROBES)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def unread(transport: Transport) -> bytes:
    """Bytes that had arrived on a failed connection and were not read: a failed write drops them. Empty for TLS,
    whose transport reads to the end by itself.
    """
    sock = transport.get_socket()
    if sock is None or isinstance(sock, ssl.SSLSocket):
        return b""
    with contextlib.suppress(OSError):
        return os.read(sock.fileno(), _READ)
    return b""


def has_vanished(transport: Transport, seconds: float) -> bool:
    """Whether bytes that were sent are unacknowledged, and the peer has acknowledged nothing for so long.

    A peer that reads nothing still acknowledges, at least the kernel's window probes. False if the system does not
    say (other than Linux).
    """
    sock = transport.get_socket()
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    with contextlib.suppress(OSError, struct.error):
        info = _INFO.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256))
        return bool(info[_UNACKED]) and info[_LAST_ACK] >= seconds * 1000
    return False


def has_left(transport: Transport, due: int) -> bool:
    """Whether the other end is gone though nothing is read from it, so that nobody was told: it has reset the
    connection, or ended its side when there were fewer bytes to read than the `due` ones of its message.

    An end behind a whole message says only that no other follows. One behind bytes for which there is no room in our
    kernel can't be seen, and neither on systems without POLLRDHUP (other than Linux).
    """
    sock = transport.get_socket()
    if sock is None or not hasattr(select, "POLLRDHUP"):
        return False
    with contextlib.suppress(OSError, ValueError):  # a closed socket has no number
        poll = select.poll()
        poll.register(sock, select.POLLRDHUP)
        for _, event in poll.poll(0):
            if event & (select.POLLHUP | select.POLLERR):
                return True
            # TLS records are longer than their contents: then it is noticed later, by reading.
            (unread,) = _INT.unpack(fcntl.ioctl(sock, termios.FIONREAD, bytes(_INT.size)))
            return int(unread) < due
    return False
