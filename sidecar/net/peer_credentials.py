"""Who is at the other end of a Unix socket, as the kernel knows it.

Owns the socket options for that, and the numbers that say nothing. Called by the acceptor, for listeners that tell
processes apart, and when their settings are read. A system that does not say (SO_PEERCRED is Linux's) is not guessed
about: the caller must refuse.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import Final, Literal, NamedTuple

_SO_PEERGROUPS: Final = 59
"""asm-generic/socket.h has it, the socket module lacks it. Python's getsockopt takes 1024 bytes: 256 groups."""


_IDS: Final = 2**32 - 1
"""How many users, or groups, there are: what the first user namespace maps."""


class Credentials(NamedTuple):
    """A process, as it was when it connected."""

    pid: int
    uid: int
    gid: int
    further_gids: tuple[int, ...]
    """The process's further groups; none before Linux 4.13."""


def of(sock: socket.socket) -> Credentials | None:
    """The credentials of the process that connected; None where the system does not say."""
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


def is_everybody_else(number: int, kind: Literal["uid", "gid"], proc: Path = Path("/proc")) -> bool:
    """Whether the kernel gives this number for every user, or group, that this process's user namespace does not map
    (user_namespaces(7)): it is no one's then. False where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        if number == int((proc / f"sys/kernel/overflow{kind}").read_text()):
            lines = (proc / f"self/{kind}_map").read_text().splitlines()
            return sum(int(line.split()[2]) for line in lines) < _IDS
    return False
