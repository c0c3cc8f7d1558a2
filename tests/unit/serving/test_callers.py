"""Who may call the admin server."""

from __future__ import annotations

import pytest

from sidecar.serving.callers import is_local, refusal
from sidecar.serving.request import WholeRequest


def asked(*lines: tuple[str, str], method: str = "GET") -> WholeRequest:
    """A request with these header lines."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        fields.setdefault(name.lower().encode(), []).append(value.encode())
    return WholeRequest(method, "/", fields=fields)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:9787", "LOCALHOST.:9787", "admin.localhost:9787"),
        *("127.0.0.1", "127.0.0.1:9787", "[::1]:9787", "[::1]"),
        *("10.4.0.17:9787", "[fd00::17]:9787"),
    ],
)
def test_an_own_name_is_served(host: str) -> None:
    """Loopback names and IP literals are the admin server's: probes come by the pod's address."""
    assert refusal(asked(("Host", host))) is None


def test_a_request_without_a_host_is_served() -> None:
    """HTTP/1.0 may leave Host out; no browser does."""
    assert refusal(asked()) is None


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:9787", "localhost.evil.example", "notlocalhost"),
        *("127.0.0.1.evil.example", "", "user@localhost", "localhost:x", "[::1", "0x7f.1", "127.1"),
        *("0.0.0.0:9787", "[::]:9787", "[::ffff:127.0.0.1]:9787", "[::ffff:7f00:1]:9787", "0.1.2.3"),
    ],
)
def test_any_other_name_is_refused(host: str) -> None:
    """A name that somebody else may have resolve to this address gets nothing: DNS rebinding."""
    reason = refusal(asked(("Host", host)))
    assert reason is not None
    assert "Host" in reason


def test_two_hosts_are_refused() -> None:
    """A second Host is nothing that an honest caller sends."""
    assert refusal(asked(("Host", "localhost"), ("Host", "localhost"))) is not None


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [
        pytest.param("Sec-Fetch-Site", "none", False, id="typed-by-the-user"),
        pytest.param("Sec-Fetch-Site", "same-origin", False, id="fetched-by-its-own-page"),
        pytest.param("Sec-Fetch-Site", "cross-site", True, id="fetched-by-another-site"),
        pytest.param("Sec-Fetch-Site", "same-site", True, id="fetched-by-another-port"),
        pytest.param("Sec-Fetch-Site", "Cross-Site", True, id="any-case"),
        pytest.param("Sec-Fetch-Site", "", True, id="unknown-site"),
        pytest.param("Origin", "http://localhost:9787", False, id="own-origin"),
        pytest.param("Origin", "http://LOCALHOST:9787", False, id="own-origin-any-case"),
        pytest.param("Origin", "https://localhost:9787", True, id="another-scheme"),
        pytest.param("Origin", "http://localhost:8080", True, id="another-port"),
        pytest.param("Origin", "http://evil.example", True, id="another-site"),
        pytest.param("Origin", "null", True, id="opaque-origin"),
        pytest.param("Origin", "", True, id="empty-origin"),
    ],
)
def test_a_page_of_another_site_is_refused(method: str, name: str, value: str, is_refused: bool) -> None:
    """Origin and Sec-Fetch-Site must say that no other site asks, whatever the method."""
    request = asked(("Host", "localhost:9787"), (name, value), method=method)
    assert (refusal(request) is not None) is is_refused


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        pytest.param(("127.0.0.1", 4711), True, id="ipv4"),
        pytest.param(("127.8.9.10", 4711), True, id="ipv4-all-of-127"),
        pytest.param(("::1", 4711, 0, 0), True, id="ipv6"),
        pytest.param(("::ffff:127.0.0.1", 4711, 0, 0), True, id="ipv4-on-a-dual-stack-socket"),
        pytest.param("", True, id="unix-unnamed"),
        pytest.param(b"\0abstract", True, id="unix-abstract"),
        pytest.param(("10.4.0.1", 4711), False, id="pod-network"),
        pytest.param(("::ffff:10.4.0.1", 4711, 0, 0), False, id="pod-network-dual-stack"),
        pytest.param(("fe80::1%eth0", 4711, 0, 2), False, id="link-local"),
        pytest.param(None, False, id="connection-gone"),
    ],
)
def test_only_this_machine_is_local(peer: object, local: bool) -> None:
    """Loopback addresses and Unix sockets are local, in any spelling; an unknown peer is not."""
    assert is_local(peer) is local
