"""sidecar.net.peer_credentials: how the kernel's answer is read. Who may call is in tests/wire/test_peers.py."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar.net import peer_credentials
from tests.support.sidecar import free_port

NOBODY = 4294967294
"""A user of a namespace that is not mapped, as some kernels have it."""


class Kernel:
    """A socket of a process, as Linux tells of it."""

    def __init__(self, who: bytes | OSError, groups: bytes | OSError) -> None:
        self.answers = {socket.SO_PEERCRED: who, peer_credentials._SO_PEERGROUPS: groups}

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert level == socket.SOL_SOCKET
        answer = self.answers[option]
        if isinstance(answer, OSError):
            raise answer
        assert len(answer) <= size
        return answer


ENDED = OSError(errno.ENOTCONN, "not connected")


@pytest.mark.parametrize(
    ("who", "groups", "read"),
    [
        pytest.param(
            struct.pack("iII", 7, 1000, 100),
            struct.pack("3I", 4, 27, NOBODY),
            (7, 1000, 100, (4, 27, NOBODY)),
            id="whole",
        ),
        pytest.param(struct.pack("iII", 7, NOBODY, NOBODY), b"", (7, NOBODY, NOBODY, ()), id="large-numbers"),
        pytest.param(struct.pack("iII", 7, 0, 0), ENDED, (7, 0, 0, ()), id="groups-untold"),
        pytest.param(ENDED, b"", None, id="untold"),
        pytest.param(b"short", b"", None, id="something-else"),
    ],
)
def test_what_linux_says_of_a_process(who: Any, groups: Any, read: Any) -> None:
    """Users and groups go up to 2³²; what can't be read is nobody, who may not call."""
    assert peer_credentials.of(cast(socket.socket, Kernel(who, groups))) == read


def test_the_other_end_of_a_pair_is_this_process() -> None:
    """By the real kernel."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = peer_credentials.of(ours)
    assert found is not None
    assert found[:3] == (os.getpid(), os.getuid(), os.getgid())
    assert set(found.further_gids) == set(os.getgroups())


WHOLE = "         0          0 4294967295\n"
PART = "         0     100000      65536\n"


@pytest.mark.parametrize(
    ("number", "overflow", "mapped", "meant"),
    [
        pytest.param(65534, "65534\n", PART, True, id="of-a-part"),
        pytest.param(65534, "65534\n", PART + " 65536     200000      65536\n", True, id="of-two-parts"),
        pytest.param(65534, "65534\n", "", True, id="of-nobody"),
        pytest.param(65534, "65534\n", WHOLE, False, id="of-all"),
        pytest.param(1000, "65534\n", PART, False, id="another-number"),
        pytest.param(99, "99\n", PART, True, id="as-the-kernel-has-it"),
        pytest.param(65534, None, PART, False, id="no-such-system"),
        pytest.param(65534, "?\n", PART, False, id="another-systems-proc"),
        pytest.param(65534, "65534\n", None, False, id="before-user-namespaces"),
    ],
)
@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_a_number_that_stands_for_everybody_else(
    tmp_path: Path, kind: Any, number: int, overflow: str | None, mapped: str | None, meant: bool
) -> None:
    """Where a user namespace maps a part of all users only, the others are one, and nobody may be let in as that."""
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "self").mkdir()
    if overflow is not None:
        (tmp_path / f"sys/kernel/overflow{kind}").write_text(overflow)
    if mapped is not None:
        (tmp_path / f"self/{kind}_map").write_text(mapped)
    assert peer_credentials.is_everybody_else(number, kind, tmp_path) is meant


LOOPBACKS = [
    pytest.param(socket.AF_INET, "127.0.0.1", id="ipv4"),
    pytest.param(socket.AF_INET6, "::1", id="ipv6"),
]


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="only Linux tells")
@pytest.mark.parametrize(("family", "address"), LOOPBACKS)
def test_the_user_at_the_other_end_of_a_port(family: socket.AddressFamily, address: str) -> None:
    """While somebody is there to be answered, also one that says no more; nobody's once that process has let go."""
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        there = socket.socket(family)
        there.connect(listener.getsockname())
        here, _ = listener.accept()
        with here:
            assert peer_credentials.user_of(here) == os.getuid()
            there.shutdown(socket.SHUT_WR)
            assert peer_credentials.user_of(here) == os.getuid()
            there.close()
            assert peer_credentials.user_of(here) is None


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="only Linux tells")
def test_a_listener_on_the_same_port_is_not_the_peer() -> None:
    """The kernel would name it where the connection is gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there, port = socket.socket(), free_port()  # which nobody else is given, once this connection is gone
        there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        there.bind(("127.0.0.1", port))
        there.connect(listener.getsockname())
        here, _ = listener.accept()
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        there.close()  # a reset: nothing of it is left
        with here, socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            assert peer_credentials.user_of(here) is None


def test_a_unix_socket_is_not_asked_so() -> None:
    """It tells itself."""
    one, other = socket.socketpair()
    with one, other:
        assert peer_credentials.user_of(one) is None
