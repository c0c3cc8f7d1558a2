"""A process that has imported the product and forks itself for each run of the command: a script, started by `forks`.

Owns the forks' beginning and how their end is told. A fork takes the words, variables, folder and standard files that it
is sent, closes all else that is the server's, and then does what `python -m sidecar` does once its imports are over. One
thread, so that a fork has all of the process; it ends once nobody holds the other end of its standard input.
"""

from __future__ import annotations

import gc
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import sidecar
from sidecar import __main__ as entry
from sidecar.cli.commands import main

LEFT_OUT = ("__main__", "pytest_plugin")
"""The last part of modules' names: what is no part of the command."""


def import_all() -> None:
    """Every module that a command may import; what needs a part that is not installed is imported by nobody."""
    for module in pkgutil.walk_packages(sidecar.__path__, "sidecar."):
        if not module.name.endswith(LEFT_OUT):
            with suppress(ImportError):
                import_module(module.name)


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork whenever it is asked to: gives what is to be run, in each fork, and None in the server, at its end."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for fd, _ in poll.poll():
            if fd != control.fileno():
                poll.unregister(fd)
                pid, status = running.pop(fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(BrokenPipeError):  # nobody wants to know
                    os.write(status, struct.pack("i", code))
                os.close(fd)
                os.close(status)
                continue
            asked, fds, _, _ = socket.recv_fds(control, 1, 5)
            if not asked:
                return None
            order, *standard, status = fds
            if (pid := os.fork()) == 0:
                for number, given in enumerate(standard):
                    os.dup2(given, number)
                control.close()
                with open(order, "rb") as words:
                    words.seek(0)
                    wanted: dict[str, Any] = json.load(words)
                for left in (*standard, status, *running, *(status for _, status in running.values())):
                    os.close(left)
                return wanted
            for given in (order, *standard):
                os.close(given)
            own = os.pidfd_open(pid)
            running[own] = pid, status
            poll.register(own, select.POLLIN)
            control.send(struct.pack("i", pid))


def begin() -> bool:
    """Import, and serve: whether this is a fork, made ready to run the command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the tests
    control = socket.socket(fileno=os.dup(0))
    import_all()
    gc.collect()
    gc.freeze()  # a fork's collector need not look at, and so copy, what it shares with this process
    control.send(struct.pack("i", os.getpid()))
    wanted = serve(control)
    if wanted is None:
        control.close()
        return False
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["environ"])
    sys.argv = [str(entry.__file__), *wanted["words"]]
    return True


if __name__ == "__main__" and begin():
    main(prog_name="idtoken-sidecar")
