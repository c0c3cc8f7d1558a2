"""Who is at the other end of a Unix socket, as the kernel knows it.

Owns the socket options for that. Called by the acceptor, for listeners that tell processes apart. A system that does
not say (SO_PEERCRED is Linux's) is not guessed about: whoever asks must refuse.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

_SO_PEERGROUPS: Final = 59
"""Of asm-generic/socket.h; the socket module lacks it. Python's getsockopt takes 1024 bytes: 256 groups."""


class Credentials(NamedTuple):
    """A process, as it was when it connected."""

    pid: int
    uid: int
    gid: int
    further_gids: tuple[int, ...]
    """Of its further groups; none before Linux 4.13."""


def of(sock: socket.socket) -> Credentials | None:
    """Of the process that connected; None where the system does not say."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    try:
        pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, option, 12))
    except (OSError, struct.error):
        return None
    return Credentials(pid, uid, gid, _further_groups(sock))


def _further_groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:  # more than fit, or a kernel before 4.13
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)
