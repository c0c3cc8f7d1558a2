"""sidecar.hosts"""

from __future__ import annotations

import ast
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import hosts

SPELLINGS = [
    pytest.param("Billing.Internal", "billing.internal", None, id="case"),
    pytest.param("billing.internal.", "billing.internal", None, id="trailing-dot"),
    pytest.param("billing.internal:8787", "billing.internal", 8787, id="port"),
    pytest.param("billing.internal:", "billing.internal", None, id="empty-port"),
    pytest.param("127.0.0.1:80", "127.0.0.1", 80, id="ipv4"),
    pytest.param("[::1]:80", "::1", 80, id="ipv6"),
    pytest.param("[0:0:0:0:0:0:0:1]", "::1", None, id="ipv6-long"),
    pytest.param("MÜNCHEN.example", "xn--mnchen-3ya.example", None, id="idna"),
    pytest.param("xn--mnchen-3ya.example", "xn--mnchen-3ya.example", None, id="a-label"),
    pytest.param("under_score.example", "under_score.example", None, id="underscore"),
]

MALFORMED = [
    pytest.param(text, id=name)
    for name, text in {
        "empty": "",
        "dot": ".",
        "space": "a b",
        "comma": "a, b",
        "userinfo": "user@a.b",
        "two-dots": "a..b",
        "hyphen-first": "-a.b",
        "slash": "a/b",
        "percent": "a%2eb",
        "port-text": "a:x",
        "port-sign": "a:+1",
        "port-too-large": "a:65536",
        "ipv6-open": "[::1",
        "ipv6-junk": "[::1]x",
        "ipv4-in-brackets": "[127.0.0.1]",
        "zone": "[fe80::1%eth0]",
        "label-too-long": "a" * 64 + ".b",
        "name-too-long": "a." * 127 + "a",
        "nul": "a\x00b",
        "bad-idna": "xn--\u00fc.b",
    }.items()
]


@pytest.mark.parametrize(("text", "host", "port"), SPELLINGS)
def test_every_spelling_has_one_normal_form(text: str, host: str, port: int | None) -> None:
    """Case, dots, IDNA and IP notation do not matter."""
    assert hosts.parse_authority(text) == (host, port)


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_no_authority_is_refused_with_a_sentence(text: str) -> None:
    """ValueError, whatever is wrong."""
    with pytest.raises(ValueError, match=r"\w"):
        hosts.parse_authority(text)


@given(st.text(max_size=80))
def test_the_normal_form_is_stable(text: str) -> None:
    """Normalising twice changes nothing, and nothing but ValueError comes out."""
    try:
        host = hosts.normalise(text)
    except ValueError:
        return
    assert hosts.normalise(host) == host
    assert host == host.lower()


# As a host is written; what a normal form must be; whether it is loopback; whether it is an address to call by.
# The table holds on every version of Python: 3.13 says otherwise of `is_loopback` and the text of what is mapped.
ADDRESSES = [
    pytest.param("127.0.0.1", "127.0.0.1", True, True, id="loopback"),
    pytest.param("127.0.0.0", "127.0.0.0", True, True, id="loopback-first"),
    pytest.param("127.255.255.255", "127.255.255.255", True, True, id="loopback-last"),
    pytest.param("126.255.255.255", "126.255.255.255", False, True, id="before-loopback"),
    pytest.param("128.0.0.0", "128.0.0.0", False, True, id="behind-loopback"),
    pytest.param("::1", "::1", True, True, id="loopback-ipv6"),
    pytest.param("0:0::0:1", "::1", True, True, id="loopback-ipv6-long"),
    pytest.param("::2", "::2", False, True, id="behind-loopback-ipv6"),
    pytest.param("::ffff:127.0.0.1", "::ffff:7f00:1", False, False, id="loopback-mapped"),
    pytest.param("::FFFF:7F00:0001", "::ffff:7f00:1", False, False, id="loopback-mapped-in-hexadecimal"),
    pytest.param("0:0:0:0:0:ffff:127.8.9.10", "::ffff:7f08:90a", False, False, id="loopback-mapped-long"),
    pytest.param("::ffff:0.0.0.0", "::ffff:0:0", False, False, id="unspecified-mapped"),
    pytest.param("::ffff:10.0.0.1", "::ffff:a00:1", False, False, id="private-mapped"),
    pytest.param("::ffff:0:127.0.0.1", "::ffff:0:7f00:1", False, True, id="loopback-translated"),
    pytest.param("::127.0.0.1", "::7f00:1", False, True, id="loopback-compatible"),
    pytest.param("64:ff9b::127.0.0.1", "64:ff9b::7f00:1", False, True, id="loopback-nat64"),
    pytest.param("2002:7f00:1::", "2002:7f00:1::", False, True, id="loopback-6to4"),
    pytest.param("0.0.0.0", "0.0.0.0", False, False, id="unspecified"),
    pytest.param("0.255.255.255", "0.255.255.255", False, False, id="this-network"),
    pytest.param("::", "::", False, False, id="unspecified-ipv6"),
    pytest.param("10.0.0.1", "10.0.0.1", False, True, id="private"),
    pytest.param("192.0.0.9", "192.0.0.9", False, True, id="protocol-assignment"),
    pytest.param("FD00::1", "fd00::1", False, True, id="private-ipv6"),
    pytest.param("fe80::1", "fe80::1", False, True, id="link-local"),
    pytest.param("2001:db8:0:1:0:0:0:1", "2001:db8:0:1::1", False, True, id="longest-run-of-zeros"),
    pytest.param("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1", False, True, id="single-zero"),
    pytest.param("localhost", "localhost", True, False, id="localhost"),
    pytest.param("A.localhost.", "a.localhost", True, False, id="below-localhost"),
    pytest.param("notlocalhost", "notlocalhost", False, False, id="suffix-only"),
    pytest.param("localhost.example", "localhost.example", False, False, id="prefix-only"),
]


@pytest.mark.parametrize(("written", "host", "loopback", "own"), ADDRESSES)
def test_what_a_host_means_depends_on_no_version_of_python(
    written: str, host: str, loopback: bool, own: bool
) -> None:
    """One normal form; loopback is what can only mean this machine, judged by spelling; an address to call by is one
    that browsers judge as it is, and does not lead to loopback without being told apart from any other site."""
    assert hosts.normalise(written) == host
    assert hosts.is_loopback(host) is loopback
    assert hosts.is_own_address(host) is own


@given(st.integers(0, 2**32 - 1))
def test_no_mapped_address_is_loopback_or_one_to_call_by(v4: int) -> None:
    """Whatever it holds; and its normal form is the one in hexadecimal, however it was written."""
    dotted = ".".join(str(octet) for octet in v4.to_bytes(4))
    host = hosts.normalise(f"::ffff:{dotted}")
    assert host == f"::ffff:{v4 >> 16:x}:{v4 & 0xFFFF:x}" == hosts.normalise(host)
    assert not hosts.is_loopback(host)
    assert not hosts.is_own_address(host)
    assert str(hosts.mapped(IPv6Address(host))) == dotted


def test_no_decision_rests_on_what_the_standard_library_calls_an_address() -> None:
    """Its answers change with the version of Python: our own networks are written down in `hosts` and `networks`."""
    theirs = {
        *("is_private", "is_global", "is_reserved", "is_link_local", "is_multicast", "is_unspecified"),
        *("is_site_local", "ipv4_mapped", "sixtofour", "teredo", "compressed", "exploded"),
    }
    found = []
    for file in sorted(Path(hosts.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            of_ours = isinstance(node.value, ast.Name) and node.value.id == "hosts"
            if node.attr in theirs or (node.attr == "is_loopback" and not of_ours):
                found.append(f"{file.name}:{node.lineno}: {node.attr}")
    assert found == []


def test_an_authority_is_written_as_it_is_read() -> None:
    """IPv6 in brackets, the port only where there is one."""
    for text in ("a.b", "a.b:1", "[::1]", "[::1]:1"):
        assert str(hosts.parse_authority(text)) == text
