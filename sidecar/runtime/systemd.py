"""What systemd passes to a service, and what a service reports to it.

Owns the two protocols: sockets that were opened before the process (sd_listen_fds(3): LISTEN_PID, LISTEN_FDS, from file
descriptor 3 on) and notifications (sd_notify(3): a datagram to NOTIFY_SOCKET). Called by `run`. The environment and the
process's number come in. Nothing else of systemd is needed, so neither is its library.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Mapping
from typing import Final

from sidecar.grammar.contents import quoted

FIRST_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START"""

VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET")
"""What is meant for this process alone: not for a command that it runs."""


def inherited_sockets(
    environ: Mapping[str, str], pid: int, *, first: int = FIRST_DESCRIPTOR
) -> list[socket.socket]:
    """The listening sockets that were handed to process `pid`; none where the variables are not for it.

    Raises ValueError with a sentence for what is no listening stream socket. `first` is for tests.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return []
    count = environ.get("LISTEN_FDS", "0")
    if not count.isascii() or not count.isdigit():
        raise ValueError(f"LISTEN_FDS is {quoted(count)}, and not a number")
    found: list[socket.socket] = []
    for descriptor in range(first, first + int(count)):
        try:
            is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        except OSError:
            is_socket = False
        if not is_socket:
            raise ValueError(
                f"file descriptor {descriptor} is not a socket: only ListenStream= can be served"
            )
        sock = socket.socket(fileno=descriptor)
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.detach()
            raise ValueError(
                f"file descriptor {descriptor} does not listen for connections: use ListenStream= with Accept=no"
            )
        os.set_inheritable(descriptor, False)
        sock.setblocking(False)
        found.append(sock)
    return found


def notify(environ: Mapping[str, str], *lines: str) -> None:
    """Tell systemd `READY=1`, `STOPPING=1`, `STATUS=…`; nothing happens where it does not listen."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # Whether it hears us or not: we serve all the same.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.send("\n".join(lines).encode())
