"""sidecar.net.peer: what is asked of the kernel, and how its answer is read"""

from __future__ import annotations

import errno
import select
import socket
from typing import Any, cast

import pytest

from sidecar.net import peer
from sidecar.net.transport import Transport


def test_a_silent_peer_is_probed() -> None:
    """After 30 s, every 10 s, three times: within a minute a vanished one is found."""
    with socket.socket() as sock:
        peer.probe(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [30, 10, 3]


class Kernel:
    """A transport and its socket in one, with what Linux says of the connection."""

    def __init__(self, info: bytes | OSError | None) -> None:
        self.info = info

    def get_socket(self) -> Kernel | None:
        return self if self.info is not None else None

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        if isinstance(self.info, OSError):
            raise self.info
        assert self.info is not None
        return self.info[:size]


def tcp_info(unacked: int, last_ack_ms: int) -> bytes:
    """As linux/tcp.h has it: tcpi_unacked at byte 24, tcpi_last_ack_recv at byte 56; all else is another number."""
    info = bytearray(b"\7" * 232)
    info[24:28] = unacked.to_bytes(4, "little")
    info[56:60] = last_ack_ms.to_bytes(4, "little")
    return bytes(info)


@pytest.mark.parametrize(
    ("info", "vanished"),
    [
        pytest.param(tcp_info(1, 5000), True, id="nothing-acknowledged-for-so-long"),
        pytest.param(tcp_info(9, 60_000), True, id="for-longer"),
        pytest.param(tcp_info(1, 4999), False, id="not-yet"),
        pytest.param(tcp_info(0, 60_000), False, id="all-is-acknowledged"),
        pytest.param(OSError(errno.ENOTCONN, "not connected"), False, id="closed-meanwhile"),
        pytest.param(tcp_info(1, 60_000)[:40], False, id="a-kernel-that-says-less"),
        pytest.param(None, False, id="no-socket"),
    ],
)
def test_vanished_is_who_acknowledges_nothing_of_what_was_sent(
    info: bytes | OSError | None, vanished: bool
) -> None:
    """In five seconds, here; where the system does not say, nobody has."""
    transport = cast(Transport, Kernel(info))
    assert peer.has_vanished(transport, 5.0) is vanished


def test_where_the_system_has_no_such_question_nobody_has_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other than Linux."""
    monkeypatch.delattr(socket, "TCP_INFO")
    kernel: Any = Kernel(tcp_info(1, 60_000))
    assert peer.has_vanished(kernel, 5.0) is False


class Sock:
    """A transport of a real socket, or of none."""

    def __init__(self, sock: socket.socket | None) -> None:
        self.sock = sock

    def get_socket(self) -> socket.socket | None:
        return self.sock


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux tells of an end")
def test_an_end_in_the_middle_of_a_message_is_seen_without_reading() -> None:
    """One behind a whole message is none, nor is silence; without a socket there is nothing to look at."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = cast(Transport, Sock(ours))
        assert not peer.has_left(transport, 3)
        theirs.send(b"ab")
        assert not peer.has_left(transport, 3)
        theirs.shutdown(socket.SHUT_WR)
        assert [peer.has_left(transport, due) for due in (2, 3)] == [False, True]
    assert not peer.has_left(cast(Transport, Sock(None)), 3)
    assert not peer.has_left(transport, 3)  # closed in the meantime


class Held:
    """A transport, as far as its socket goes."""

    def __init__(self, sock: socket.socket | None) -> None:
        self.sock = sock

    def get_socket(self) -> socket.socket | None:
        return self.sock


def test_what_was_not_read_of_a_connection_that_failed() -> None:
    """What had come by then; nothing of one that is silent, ended, or closed already."""
    here, there = socket.socketpair()
    here.setblocking(False)
    with there:
        transport = cast(Any, Held(here))
        assert peer.unread(transport) == b""
        there.sendall(b"HTTP/1.1 413 ")
        assert peer.unread(transport) == b"HTTP/1.1 413 "
    assert peer.unread(transport) == b""
    here.close()
    assert peer.unread(transport) == b""
    assert peer.unread(cast(Any, Held(None))) == b""
