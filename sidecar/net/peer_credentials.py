"""Who is at the other end of a connection on this machine, according to the kernel.

Owns how to ask the kernel, for a Unix socket and for a port, and which of its numbers mean nothing. Called by the
acceptor and by the servers that give tokens, if they distinguish processes, and when their settings are read. If the
system does not say (SO_PEERCRED exists on Linux only), nothing is guessed: the caller must refuse.
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
    """The process's other groups; empty before Linux 4.13."""


def of(sock: socket.socket) -> Credentials | None:
    """The credentials of the process that connected; None if the system does not say."""
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
    """Whether the kernel gives this number for every user (or group) that this process's user namespace does not map
    (user_namespaces(7)), so that it identifies no one. False if the system does not say.
    """
    with contextlib.suppress(OSError, ValueError):
        if number == int((proc / f"sys/kernel/overflow{kind}").read_text()):
            lines = (proc / f"self/{kind}_map").read_text().splitlines()
            return sum(int(line.split()[2]) for line in lines) < _IDS
    return False


_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBxI")
_PORTS: Final = struct.Struct(">HH")
_REST: Final = struct.Struct("=III")
"""Any interface, and INET_DIAG_NOCOOKIE twice."""
_ANSWER: Final = struct.Struct("=BBBB48sIIIII")
"""`struct inet_diag_msg`: family, state, timer, retransmissions, the socket, expiry, both queues, user, inode."""
_CAN_READ: Final = frozenset({1, 4, 5})
"""TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2 (linux/tcp_states.h). In other states there is nobody to answer, and
TIME_WAIT has user 0 for everybody."""


def user_of(sock: socket.socket) -> int | None:
    """The user whose process has the other end of a TCP connection that stays on this machine.

    None if the system does not say: another machine, another network namespace, a peer that has left, a kernel
    without sock_diag(7). The kernel is asked about exactly this connection, by its four numbers. The user is the one
    who opened the socket, even if the socket was passed to another process later.
    """
    family = sock.family
    if family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "AF_NETLINK"):
        return None
    try:
        theirs, ours = sock.getpeername()[:2], sock.getsockname()[:2]
        ends = b"".join(socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in (theirs, ours))
        wanted = _PORTS.pack(theirs[1], ours[1]) + ends
        # From the peer's side: what is its own there is far from here.
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 2**32 - 1) + wanted
        body += _REST.pack(0, 2**32 - 1, 2**32 - 1)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as netlink:
            netlink.setblocking(False)
            size = _HEADER.size + len(body)
            netlink.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body)
            answer = netlink.recv(4096)  # the kernel answers before `send` returns
        kind = _HEADER.unpack_from(answer)[1]
        if kind != _SOCK_DIAG_BY_FAMILY:
            return None
        _, state, _, _, found, *_, user, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    except (OSError, struct.error):
        return None
    # Where the connection is gone, the kernel looks for a listener on the same port, which is somebody else's; and
    # where no process has the socket any more (it has no inode then), it may say user 0.
    return int(user) if inode and state in _CAN_READ and found[: len(wanted)] == wanted else None
