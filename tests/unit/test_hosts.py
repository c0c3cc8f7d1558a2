"""sidecar.hosts"""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        pytest.param("localhost", True, id="localhost"),
        pytest.param("a.localhost", True, id="below-localhost"),
        pytest.param("127.9.9.9", True, id="127-8"),
        pytest.param("::1", True, id="ipv6"),
        pytest.param("notlocalhost", False, id="suffix-only"),
        pytest.param("localhost.example", False, id="prefix-only"),
        pytest.param("10.0.0.1", False, id="private"),
        pytest.param("0.0.0.0", False, id="unspecified"),
    ],
)
def test_loopback_is_what_can_only_mean_this_machine(host: str, loopback: bool) -> None:
    """Names are judged by spelling: nothing is resolved."""
    assert hosts.is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("host", "own"),
    [
        pytest.param("127.0.0.1", True, id="loopback"),
        pytest.param("::1", True, id="loopback-ipv6"),
        pytest.param("10.0.0.1", True, id="private"),
        pytest.param("fd00::1", True, id="private-ipv6"),
        pytest.param("0.0.0.0", False, id="unspecified"),
        pytest.param("::", False, id="unspecified-ipv6"),
        pytest.param("::ffff:7f00:1", False, id="loopback-in-ipv6"),
        pytest.param("::ffff:a00:1", False, id="private-in-ipv6"),
        pytest.param("localhost", False, id="a-name"),
    ],
)
def test_an_address_to_call_by_is_one_that_browsers_judge_as_it_is(host: str, own: bool) -> None:
    """Not one that leads to loopback without being told apart from any other site."""
    assert hosts.is_own_address(host) is own


def test_an_authority_is_written_as_it_is_read() -> None:
    """IPv6 in brackets, the port only where there is one."""
    for text in ("a.b", "a.b:1", "[::1]", "[::1]:1"):
        assert str(hosts.parse_authority(text)) == text
