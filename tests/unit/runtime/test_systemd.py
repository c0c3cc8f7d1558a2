"""sidecar.runtime.systemd: sockets that are handed over, and what systemd is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.runtime.systemd import inherited_sockets, notify


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def handed(sock: socket.socket, pid: int = 7, **environ: str) -> list[socket.socket]:
    """What process 7 gets of one socket; a copy of the descriptor, so that each side closes its own."""
    descriptor = os.dup(sock.fileno())
    found = inherited_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "1", **environ}, pid, first=descriptor)
    if not found:
        os.close(descriptor)
    return found


def test_sockets_are_taken_over(listening: socket.socket) -> None:
    (found,) = handed(listening)
    assert found.getsockname() == listening.getsockname()
    assert not found.getblocking()
    assert not os.get_inheritable(found.fileno())
    found.close()


@pytest.mark.parametrize("environ", [{"LISTEN_PID": "8"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "0"}])
def test_what_is_for_another_process_is_left_alone(listening: socket.socket, environ: dict[str, str]) -> None:
    assert handed(listening, **environ) == []


def test_a_process_without_systemd_has_none() -> None:
    assert inherited_sockets({}, os.getpid()) == []


@pytest.mark.parametrize("count", ["-1", "x", "", "²"])
def test_a_count_that_is_none_is_an_error(count: str) -> None:
    with pytest.raises(ValueError, match="LISTEN_FDS"):
        inherited_sockets({"LISTEN_PID": "7", "LISTEN_FDS": count}, 7)


def test_what_does_not_listen_is_an_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    try:
        with pytest.raises(ValueError, match="not a socket"):
            inherited_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7, first=descriptor)
    finally:
        os.close(descriptor)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pytest.raises(ValueError, match="ListenStream"),
    ):
        inherited_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7, first=datagrams.fileno())


@pytest.mark.parametrize("abstract", [False, True])
def test_notifications_arrive(tmp_path: Path, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"@idtoken-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
        sock.bind("\0" + name[1:] if abstract else name)
        sock.settimeout(60)
        notify({"NOTIFY_SOCKET": name}, "READY=1", "STATUS=x")
        assert sock.recv(100) == b"READY=1\nSTATUS=x"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all"])
def test_nobody_listening_is_no_error(address: str) -> None:
    notify({"NOTIFY_SOCKET": address}, "READY=1")
