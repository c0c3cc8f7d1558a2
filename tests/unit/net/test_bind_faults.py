"""sidecar.net.bind_faults: each cause has a sentence and an advice of its own"""

from __future__ import annotations

import errno
import os

import pytest

from sidecar.config.addresses import parse_listen
from sidecar.net.bind_faults import explain

CASES = [
    pytest.param("localhost:8787", errno.EADDRINUSE, "the port is in use", "'sport = :8787'", id="in-use"),
    pytest.param("127.0.0.1:80", errno.EACCES, "ports below 1024", "CAP_NET_BIND_SERVICE", id="privileged"),
    pytest.param("127.0.0.1:1024", errno.EACCES, "a rule of this system", "SELinux", id="policy"),
    pytest.param("127.0.0.1:80", errno.EPERM, "a rule of this system", "another one", id="policy-eperm"),
    pytest.param("192.0.2.1:1", errno.EADDRNOTAVAIL, "no address 192.0.2.1", "0.0.0.0", id="foreign"),
    pytest.param("[fe80::1]:1", errno.EINVAL, "no address fe80::1", "ip address", id="link-local"),
    pytest.param("[::1]:1", errno.EAFNOSUPPORT, "no IPv6", "127.0.0.1", id="no-ipv6"),
    pytest.param("127.0.0.1:1", errno.EMFILE, "no more files", "ulimit -n", id="descriptors"),
    pytest.param("unix:/run/a/s", errno.EMFILE, "no more files", "ulimit -n", id="unix-descriptors"),
    pytest.param("127.0.0.1:1", errno.ENOBUFS, os.strerror(errno.ENOBUFS), "another address", id="other"),
    pytest.param("unix:/run/a/s", errno.ENOSPC, os.strerror(errno.ENOSPC), "fix that", id="unix-other"),
    pytest.param("unix:/run/a b/s", errno.EADDRINUSE, "the socket is in use", "'/run/a b/s'", id="unix-in-use"),
    pytest.param("unix:/run/a/s", errno.EEXIST, "not a socket", "Remove it", id="not-a-socket"),
    pytest.param("unix:/run/a b/s", errno.ENOENT, "no directory /run/a b", "mkdir -p '/run/a b'", id="no-directory"),
    pytest.param("unix:/run/a/s", errno.ENOTDIR, "/run/a is not a directory", "another path", id="not-a-directory"),
    pytest.param("unix:/run/a/s", errno.EACCES, "may not write in /run/a", "chown 1000 /run/a", id="unix-permission"),
    pytest.param("unix:/run/a/s", errno.EPERM, "a socket of another user", "rm /run/a/s", id="anothers-socket"),
    pytest.param("unix:/run/a/s", errno.EROFS, "read-only", "emptyDir", id="read-only"),
]  # fmt: skip


@pytest.mark.parametrize(("address", "number", "what", "advice"), CASES)
def test_each_cause_has_its_own_advice(address: str, number: int, what: str, advice: str) -> None:
    error = OSError(number, os.strerror(number))
    said = explain(error, parse_listen(address), unprivileged_from=1024, uid=1000)
    assert what in said
    assert advice in said


def test_which_ports_are_privileged_is_this_systems_choice() -> None:
    """net.ipv4.ip_unprivileged_port_start: Docker sets 0, some set 80."""
    error = OSError(errno.EACCES, "no")
    said = [
        explain(error, parse_listen(f"localhost:{port}"), unprivileged_from=443, uid=0) for port in (442, 443)
    ]
    assert ["ports below 443" in text for text in said] == [True, False]


def test_an_error_without_a_number_is_told_as_it_is() -> None:
    said = explain(OSError("AF_UNIX path too long"), parse_listen("unix:/s"), unprivileged_from=0, uid=0)
    assert said.startswith("AF_UNIX path too long.")
