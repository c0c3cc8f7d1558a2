"""What another program starts in place of the command: a script that has `fork_server` run it, at a tenth of the cost.

Owns nothing but this process's words, variables, folder and standard files, which the fork gets. `forks.stand_in` gives its
command line, without site-packages and Python's variables (`-IS`), so that it begins at once. It passes signals on, and ends as the
fork ends. Where this process is killed first, the server ends the fork.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Ask for the fork, and wait for its end."""
    path, *words = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(path)
        order = os.memfd_create("order")
        os.write(
            order, json.dumps({"words": words, "environ": dict(os.environ), "cwd": os.getcwd()}).encode()
        )
        socket.send_fds(server, [b"."], [order, 0, 1, 2])
        pid = number_from(server)

        def pass_on(number: int, _frame: FrameType | None) -> None:
            os.kill(pid, number)

        for number in PASSED_ON:
            signal.signal(number, pass_on)
        for standard in (0, 1, 2):
            os.close(standard)  # who reads there is to see the fork's end
        code = number_from(server)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def number_from(server: socket.socket) -> int:
    """What it tells next."""
    told = server.recv(4)
    if not told:
        os._exit(70)
    return int(struct.unpack("i", told)[0])


if __name__ == "__main__":
    main()
