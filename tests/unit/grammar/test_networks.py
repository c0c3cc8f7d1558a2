"""sidecar.grammar.networks: which addresses may be an upstream's"""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grammar.networks import Rules, forbidden_address, forbidden_host, rules_for

ANY = Rules(loopback=False, private=True)
PUBLIC = Rules(loopback=False, private=False)
LOOPBACK = Rules(loopback=True, private=True)

FORBIDDEN = [
    pytest.param("169.254.169.254", "metadata", id="metadata"),
    pytest.param("169.254.169.252", "metadata", id="metadata-of-a-gke-node"),
    pytest.param("fd20:ce::254", "metadata", id="metadata-ipv6"),
    pytest.param("fd00:ec2::254", "metadata", id="metadata-aws-ipv6"),
    pytest.param("100.100.100.200", "metadata", id="metadata-alibaba"),
    pytest.param("192.0.0.192", "metadata", id="metadata-oracle-classic"),
    pytest.param("168.63.129.16", "metadata", id="metadata-azure"),
    pytest.param("::ffff:169.254.169.254", "metadata", id="metadata-mapped"),
    pytest.param("::169.254.169.254", "metadata", id="metadata-compatible"),
    pytest.param("::ffff:0:169.254.169.254", "metadata", id="metadata-translated"),
    pytest.param("64:ff9b::a9fe:a9fe", "metadata", id="metadata-nat64"),
    pytest.param("64:ff9b:1::a9fe:a9fe", "metadata", id="metadata-local-nat64"),
    pytest.param("64:ff9b:1:a9fe:a9:fe00::", "metadata", id="metadata-local-nat64-48"),
    pytest.param("64:ff9b:1:77a9:fe:a9fe::", "metadata", id="metadata-local-nat64-56"),
    pytest.param("64:ff9b:1:7777:a9:fea9:fe00:0", "metadata", id="metadata-local-nat64-64"),
    pytest.param("2002:a9fe:a9fe::1", "metadata", id="metadata-6to4"),
    pytest.param("2001:0:a9fe:a9fe::", "metadata", id="metadata-teredo-server"),
    pytest.param("2001:0:4136:e378:8000:63bf:5601:5601", "metadata", id="metadata-teredo-client"),
    pytest.param("2a00:1450::5efe:169.254.169.254", "metadata", id="metadata-isatap"),
    pytest.param("2a00:1450::200:5efe:169.254.169.254", "metadata", id="metadata-isatap-universal"),
    pytest.param("2002:808:808::200:5efe:a9fe:a9fe", "metadata", id="metadata-isatap-in-6to4"),
    pytest.param("169.254.1.1", "link-local", id="link-local"),
    pytest.param("fe80::1", "link-local", id="link-local-ipv6"),
    pytest.param("fe80::1%eth0", "link-local", id="link-local-zone"),
    pytest.param("febf::1", "link-local", id="link-local-ipv6-last"),
    pytest.param("0.0.0.0", "unspecified", id="unspecified"),
    pytest.param("0.1.2.3", "unspecified", id="this-network"),
    pytest.param("::", "unspecified", id="unspecified-ipv6"),
    pytest.param("::ffff:0.0.0.0", "unspecified", id="unspecified-mapped"),
    pytest.param("224.0.0.1", "multicast", id="multicast"),
    pytest.param("239.255.255.255", "multicast", id="multicast-last"),
    pytest.param("ff02::1", "multicast", id="multicast-ipv6"),
    pytest.param("255.255.255.255", "broadcast", id="broadcast"),
    pytest.param("127.0.0.1", "loopback", id="loopback"),
    pytest.param("127.8.8.8", "loopback", id="loopback-net"),
    pytest.param("::1", "loopback", id="loopback-ipv6"),
    pytest.param("::ffff:127.0.0.1", "loopback", id="loopback-mapped"),
    pytest.param("64:ff9b::7f00:1", "loopback", id="loopback-nat64"),
]


@pytest.mark.parametrize(("address", "why"), FORBIDDEN)
def test_what_a_name_may_not_lead_to(address: str, why: str) -> None:
    """Judged after resolution, seen through every form that holds an IPv4 address."""
    assert why in str(forbidden_address(address, 443, ANY))


@pytest.mark.parametrize(
    "address",
    [
        *("142.250.1.1", "199.36.153.8", "2a00:1450::1", "64:ff9b::8efa:101", "2002:8efa:101::1"),
        *("10.0.0.5", "192.168.1.1", "172.31.0.1", "100.64.0.1", "240.10.0.1", "fd00::1", "fd20:ce::255"),
        *("::ffff:10.0.0.5", "64:ff9b:1::a00:5", "100.100.100.201", "168.63.129.17", "fec0::1"),
        *("169.253.255.255", "169.255.0.0", "223.255.255.255", "126.255.255.255", "1.0.0.0"),
    ],
)
def test_public_and_private_addresses_are_fine(address: str) -> None:
    """Private Service Connect resolves run.app to private ranges, and a VPC's subnets may have more of them."""
    assert forbidden_address(address, 443, ANY) is None


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.5", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "100.127.255.255"),
        *("192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "240.0.0.1"),
        *("fd00::1", "fc00::1", "fec0::1", "100::1", "2001:db8::1", "2001:10::1", "3fff::1", "5f00::1"),
        *("64:ff9b:1::808:808", "4000::1", "::ffff:10.0.0.5", "64:ff9b::a00:5", "2002:a00:5::1"),
        "2a00:1450::5efe:10.0.0.5",
    ],
)
def test_allow_private_false_leaves_public_addresses_only(address: str) -> None:
    """Whatever the IANA registries don't call globally reachable, in every form."""
    assert "allow_private" in str(forbidden_address(address, 443, PUBLIC))
    assert forbidden_address(address, 443, ANY) is None


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "2a00:1450::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2001:4860::1",
    ],
)
def test_public_addresses_are_fine_always(address: str) -> None:
    """`allow_private: false` doesn't cost them."""
    assert forbidden_address(address, 443, PUBLIC) is None


def test_loopback_is_for_upstreams_that_name_it_and_they_have_nothing_else() -> None:
    """`x.localhost` may be http://, so an answer from DNS must not lead it, in plaintext, elsewhere."""
    for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert forbidden_address(address, 8080, LOOPBACK) is None
    for address in ("8.8.8.8", "10.0.0.5", "2a00:1450::1", "::ffff:8.8.8.8"):
        assert "names this machine" in str(forbidden_address(address, 8080, LOOPBACK))


@pytest.mark.parametrize(
    ("address", "port", "own", "refused"),
    [
        pytest.param("127.0.0.1", 8787, ("127.0.0.1", 8787), True, id="bound-there"),
        pytest.param("::ffff:127.0.0.1", 8787, ("127.0.0.1", 8787), True, id="mapped"),
        pytest.param("127.0.0.1", 8080, ("127.0.0.1", 8787), False, id="another-port"),
        pytest.param("127.0.0.2", 8787, ("127.0.0.1", 8787), False, id="another-address"),
        pytest.param("127.0.0.2", 8787, ("0.0.0.0", 8787), True, id="bound-everywhere"),
        pytest.param("127.0.0.2", 8787, ("::", 8787), True, id="bound-everywhere-dual-stack"),
        pytest.param("::1", 8787, ("::", 8787), True, id="bound-everywhere-ipv6"),
        pytest.param("127.0.0.2", 8080, ("0.0.0.0", 8787), False, id="bound-everywhere-another-port"),
        pytest.param("127.0.0.3", 8787, ("0.0.0.0", 8787), False, id="no-address-of-this-machine"),
    ],
)
def test_the_sidecars_own_listeners_are_never_an_upstream(
    address: str, port: int, own: tuple[str, int], refused: bool
) -> None:
    """Address and port make the difference; a listener on all addresses has every one of this machine."""
    here = {"127.0.0.1", "127.0.0.2", "::1"}.__contains__
    why = forbidden_address(address, port, LOOPBACK, own={own}, is_here=here)
    assert (why == "it is the sidecar's own listener") is refused


def test_an_interface_address_is_the_sidecars_own_too() -> None:
    """Not on loopback alone."""
    own = {("0.0.0.0", 8787)}
    assert forbidden_address("10.0.0.5", 8787, ANY, own=own, is_here=lambda _: True) is not None
    assert forbidden_address("10.0.0.5", 8787, ANY, own=own, is_here=lambda _: False) is None


@pytest.mark.parametrize(
    ("host", "private", "why"),
    [
        pytest.param("metadata.google.internal", True, "metadata", id="metadata-by-name"),
        pytest.param("::ffff:a9fe:a9fe", True, "metadata", id="literal"),
        pytest.param("::ffff:7f00:1", True, "does not name one", id="loopback-mapped"),
        pytest.param("10.0.0.5", False, "allow_private", id="private-literal"),
        pytest.param("localhost", False, "allow_private", id="localhost"),
        pytest.param("127.0.0.1", False, "allow_private", id="loopback-literal"),
        pytest.param("127.0.0.1", True, None, id="loopback-literal-that-may-be"),
        pytest.param("10.0.0.5", True, None, id="private-literal-that-may-be"),
        pytest.param("billing.example", False, None, id="name"),
    ],
)
def test_what_is_known_before_anything_is_resolved(host: str, private: bool, why: str | None) -> None:
    """A configuration that can never work is refused when it is read."""
    found = forbidden_host(host, rules_for(host, allow_private=private))
    assert (why in str(found)) if why else found is None


def forms(v4: int, rest: int) -> dict[str, int]:
    """Every IPv6 address that holds an IPv4 one; `rest` fills the bits that are free."""
    free64 = rest & (1 << 64) - 1
    low, high = v4 & 0xFFFF, v4 >> 16
    nat64 = 0x0064_FF9B_0001
    return {
        "mapped": 0xFFFF << 32 | v4,
        "compatible": v4,
        "translated": 0xFFFF_0000 << 32 | v4,
        "nat64": 0x0064_FF9B << 96 | v4,
        "local-nat64-96": nat64 << 80 | (free64 & 0xFFFF) << 64 | v4,
        "local-nat64-48": nat64 << 80 | high << 64 | low << 40 | free64 & (1 << 40) - 1,
        "local-nat64-56": nat64 << 80 | (free64 & 0xFF) << 72 | (v4 >> 8) >> 16 << 64 | (v4 & 0xFFFFFF) << 32,
        "local-nat64-64": nat64 << 80 | (free64 & 0xFFFF) << 64 | v4 << 24,
        "6to4": 0x2002 << 112 | v4 << 80 | rest & (1 << 80) - 1,
        "teredo-server": 0x2001 << 112 | v4 << 64 | free64,
        "teredo-client": 0x2001 << 112 | 0x0808_0808 << 64 | free64 & ~0xFFFF_FFFF | ~v4 & 0xFFFF_FFFF,
        "isatap": 0x2A00_1450 << 96 | (free64 & 0xFFFF_FFFF) << 64 | 0x5EFE << 32 | v4,
        "isatap-universal": 0x2A00_1450 << 96 | (free64 & 0xFFFF_FFFF) << 64 | 0x0200_5EFE << 32 | v4,
    }


HOSTILE = st.one_of(
    st.sampled_from([0xA9FE_A9FE, 0xA9FE_A9FC, 0xFFFF_FFFF, 0x6464_64C8, 0x7F00_0001]),
    *(
        st.integers(int(net.network_address), int(net.broadcast_address))
        for net in map(ipaddress.IPv4Network, ("169.254.0.0/16", "127.0.0.0/8", "224.0.0.0/4"))
    ),
)


@given(v4=HOSTILE, rest=st.integers(0, 2**128 - 1))
def test_every_form_of_a_forbidden_address_is_forbidden(v4: int, rest: int) -> None:
    """No spelling gets past what its plain one does not."""
    assert forbidden_address(str(ipaddress.IPv4Address(v4)), 443, ANY) is not None
    for name, value in forms(v4, rest).items():
        assert forbidden_address(str(ipaddress.IPv6Address(value)), 443, ANY) is not None, name


@given(v4=st.integers(0, 2**32 - 1), rest=st.integers(0, 2**128 - 1))
def test_no_form_of_a_private_address_is_public(v4: int, rest: int) -> None:
    """With `allow_private: false`, each form is refused where the plain address is."""
    if forbidden_address(str(ipaddress.IPv4Address(v4)), 443, PUBLIC) is None:
        return
    for name, value in forms(v4, rest).items():
        if not (name.startswith("compatible") and v4 <= 1):
            assert forbidden_address(str(ipaddress.IPv6Address(value)), 443, PUBLIC) is not None, name


@given(st.integers(0, 2**32 - 1))
def test_the_other_spellings_of_a_good_address_are_good(v4: int) -> None:
    """Networks with NAT64 resolve every name to such addresses."""
    if forbidden_address(str(ipaddress.IPv4Address(v4)), 443, ANY) is None:
        for name in ("mapped", "nat64", "local-nat64-96"):
            value = forms(v4, 0)[name]
            assert forbidden_address(str(ipaddress.IPv6Address(value)), 443, ANY) is None, name
