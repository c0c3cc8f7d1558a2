"""sidecar.proxy.peer_credentials: how the kernel's answer is read. Who may call is in tests/wire/test_peers.py."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any, cast

import pytest

from sidecar.proxy import peer_credentials

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
