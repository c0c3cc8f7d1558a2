"""sidecar.proxy.guard: what may not be dialled"""

from __future__ import annotations

import pytest

from sidecar.proxy.guard import forbidden_address

FORBIDDEN = [
    pytest.param("169.254.169.254", "metadata", id="metadata"),
    pytest.param("fd20:ce::254", "metadata", id="metadata-ipv6"),
    pytest.param("::ffff:169.254.169.254", "metadata", id="metadata-mapped"),
    pytest.param("64:ff9b::a9fe:a9fe", "metadata", id="metadata-nat64"),
    pytest.param("2002:a9fe:a9fe::1", "metadata", id="metadata-6to4"),
    pytest.param("169.254.1.1", "link-local", id="link-local"),
    pytest.param("fe80::1", "link-local", id="link-local-ipv6"),
    pytest.param("fe80::1%eth0", "link-local", id="link-local-zone"),
    pytest.param("0.0.0.0", "unspecified", id="unspecified"),
    pytest.param("::", "unspecified", id="unspecified-ipv6"),
    pytest.param("224.0.0.1", "multicast", id="multicast"),
    pytest.param("ff02::1", "multicast", id="multicast-ipv6"),
    pytest.param("255.255.255.255", "broadcast", id="broadcast"),
    pytest.param("127.0.0.1", "loopback", id="loopback"),
    pytest.param("127.8.8.8", "loopback", id="loopback-net"),
    pytest.param("::1", "loopback", id="loopback-ipv6"),
    pytest.param("::ffff:127.0.0.1", "loopback", id="loopback-mapped"),
]


@pytest.mark.parametrize(("address", "why"), FORBIDDEN)
def test_what_a_name_may_not_lead_to(address: str, why: str) -> None:
    """Judged after resolution, seen through embedded IPv4 forms."""
    assert why in str(forbidden_address(address, 443, loopback_named=False, own=()))


@pytest.mark.parametrize(
    "address", ["142.250.1.1", "10.0.0.5", "192.168.1.1", "fd00::1", "2a00:1450::1", "199.36.153.8"]
)
def test_public_and_private_addresses_are_fine(address: str) -> None:
    """Private Service Connect resolves run.app to private ranges."""
    assert forbidden_address(address, 443, loopback_named=False, own=()) is None


def test_loopback_is_fine_where_the_upstream_names_it_unless_it_is_the_sidecar() -> None:
    """Address and port make the difference."""
    own = {("127.0.0.1", 8787), ("::1", 8787)}
    assert forbidden_address("127.0.0.1", 8080, loopback_named=True, own=own) is None
    assert "own listener" in str(forbidden_address("127.0.0.1", 8787, loopback_named=True, own=own))
    assert "own listener" in str(forbidden_address("::ffff:127.0.0.1", 8787, loopback_named=True, own=own))
