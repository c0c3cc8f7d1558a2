"""A process that has imported the product and forks itself for each run of the command: a script, started by `forks`.

Owns the forks' beginning and how their end is told. A fork takes the words, variables, folder and standard files that it
is sent, closes all else that is the server's, and then does what `python -m sidecar` does once its imports are over. One
thread, so that a fork has all of the process; it ends once nobody holds the other end of its standard input.
"""

# ruff: noqa: E402  # what is registered for the end comes before the imports, which register things themselves
from __future__ import annotations

import atexit

ended: list[int] = []
"""A fork's exit code, once it is known: none in the server, nor where Python itself is to say how it ends."""


def leave() -> None:
    """End at once, with what was printed: to take all of its modules apart, a fork would first copy them."""
    if ended:
        sys.stdout.flush()  # where that fails, Python tries once more, and says so
        sys.stderr.flush()
        os._exit(ended[0])


atexit.register(leave)  # before all others are, and so called after them

import gc
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import sidecar
from sidecar import __main__ as entry
from sidecar.cli.commands import main
from sidecar.config.load import load

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
LEFT_OUT = ("__main__", "pytest_plugin")
"""The last part of modules' names: what is no part of the command."""


def import_all() -> None:
    """Every module that a command may import; what needs a part that is not installed is imported by nobody."""
    for module in pkgutil.walk_packages(sidecar.__path__, "sidecar."):
        if not module.name.endswith(LEFT_OUT):
            with suppress(ImportError):
                import_module(module.name)


class Running:
    """The forks that run, and who waits for each."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.forks: dict[int, tuple[int, int]] = {}
        """By a descriptor of the process: its number, and the descriptor by which its end is told."""
        self.waiting: dict[int, int] = {}
        """By the connection of who came through the door, by which its fork's end is told: the fork's descriptor."""

    def add(self, pid: int, status: int, *, by_door: bool) -> None:
        own = os.pidfd_open(pid)
        self.forks[own] = pid, status
        self.poll.register(own, select.POLLIN)
        if by_door:
            self.waiting[status] = own
            self.poll.register(status, 0)

    def ended(self, own: int) -> None:
        """Tell how."""
        self.poll.unregister(own)
        pid, status = self.forks.pop(own)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if self.waiting.pop(status, None) is not None:
            self.poll.unregister(status)
        with suppress(ConnectionError):  # nobody wants to know
            os.write(status, struct.pack("i", code))
        os.close(own)
        os.close(status)

    def abandoned(self, status: int) -> None:
        """Who waited is gone: the fork ends, too."""
        self.poll.unregister(status)
        signal.pidfd_send_signal(self.waiting.pop(status), signal.SIGKILL)

    def files(self) -> list[int]:
        """What is of no concern to a fork."""
        return [*self.forks, *(status for _, status in self.forks.values())]


def wanted(order: int, standard: Sequence[int], others: Sequence[int]) -> dict[str, Any]:
    """What this fork is to run, with its standard files in place, and the rest closed."""
    for number, given in enumerate(standard):
        os.dup2(given, number)
    with open(order, "rb") as words:
        words.seek(0)
        found: dict[str, Any] = json.load(words)
    for left in (*standard, *others):
        os.close(left)
    return found


def serve(control: socket.socket, door: socket.socket) -> dict[str, Any] | None:
    """Fork whenever it is asked to, by `control` or by who comes through the `door`: gives what is to be run, in each fork,
    and None in the server, at its end."""
    running = Running()
    asks = (control.fileno(), door.fileno())
    for fd in asks:
        running.poll.register(fd, select.POLLIN)
    while True:
        # What ends comes first: what is opened then may have its number.
        for fd in sorted((fd for fd, _ in running.poll.poll()), key=asks.__contains__):
            if fd in running.forks:
                running.ended(fd)
            elif fd in running.waiting:
                running.abandoned(fd)
            elif fd in asks:
                asking = control if fd == asks[0] else door.accept()[0]
                asked, fds, _, _ = socket.recv_fds(asking, 1, 5)
                if not asked and asking is control:
                    return None
                if asked:
                    order, *standard = fds
                    status = standard.pop() if asking is control else os.dup(asking.fileno())
                    if (pid := os.fork()) == 0:
                        for sock in {control, door, asking}:
                            sock.close()
                        return wanted(order, standard, [status, *running.files()])
                    for given in fds[: 1 + len(standard)]:
                        os.close(given)
                    running.add(pid, status, by_door=asking is not control)
                    with suppress(ConnectionError):
                        asking.send(struct.pack("i", pid))
                if asking is not control:
                    asking.close()


def begin() -> bool:
    """Import, and serve: whether this is a fork, made ready to run the command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the tests
    control = socket.socket(fileno=os.dup(0))
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.bind(sys.argv[1])
    door.listen()
    import_all()
    load(EXAMPLE.read_text("utf-8"), environ={})  # pydantic makes what reads a type at its first value
    gc.collect()
    gc.freeze()  # a fork's collector need not look at, and so copy, what it shares with this process
    control.send(struct.pack("i", os.getpid()))
    given = serve(control, door)
    if given is None:
        control.close()
        door.close()
        return False
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["environ"])
    sys.argv = [str(entry.__file__), *given["words"]]
    return True


if __name__ == "__main__" and begin():
    try:
        main(prog_name="idtoken-sidecar")
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            ended.append(error.code or 0)
        raise
