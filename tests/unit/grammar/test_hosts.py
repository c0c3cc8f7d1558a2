"""sidecar.grammar.hosts"""

from __future__ import annotations

import ast
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grammar import hosts

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


URLS = [
    pytest.param("https://a.example", ("https", ("a.example", None)), id="host"),
    pytest.param("HTTPS://A.example.:8443/x?y=z#w", ("https", ("a.example", 8443)), id="all-parts"),
    pytest.param("http://[::1]:80/", ("http", ("::1", 80)), id="ipv6"),
    pytest.param("http://[::ffff:127.0.0.1]/", ("http", ("::ffff:7f00:1", None)), id="mapped"),
    pytest.param("https://a.example?x", ("https", ("a.example", None)), id="query-without-path"),
    pytest.param("https://a/x//y?z=api://A&b=//c", ("https", ("a", None)), id="slashes"),
    *(
        pytest.param(text, None, id=name)
        for name, text in {
            "backslash-before-at": "http://evil.example\\@localhost/",
            "backslash-in-path": "https://a.example/\\x",
            "backslashes": "http:\\\\localhost",
            "user-info": "https://localhost@evil.example/",
            "tab-in-host": "http://local\thost/",
            "line-feed-in-path": "https://a.example/\nx",
            "space-before": " https://a.example",
            "space-behind": "https://a.example ",
            "nul": "https://a.example/\0",
            "brackets-behind-a-name": "http://a.example[::1]/",
            "name-behind-brackets": "http://[::1].evil.example/",
            "brackets-in-between": "http://a[::1]b/",
            "two-ports": "http://[::1]:80:90/",
            "zone": "http://[fe80::1%25eth0]/",
            "ipvfuture": "http://[v1.x]/",
            "ipv4-in-octal": "http://[0177.0.0.1]/",
            "escape-in-host": "http://localhost%2f.evil.example/",
            "ideographic-full-stop": "http://localhost\u3002evil.example/",
            "circled-letter": "http://\u24dbocalhost/",
            "no-host": "https:///x",
            "no-scheme": "//a.example",
            "another-scheme": "file://localhost/etc/passwd",
            "one-slash": "https:/a.example",
            "empty": "",
        }.items()
    ),
]


@pytest.mark.parametrize(("text", "found"), URLS)
def test_where_a_url_leads_depends_on_no_parser_and_no_version_of_python(text: str, found: object) -> None:
    """What urllib takes apart by its version, and urllib3 in another way, is no URL."""
    if found is None:
        with pytest.raises(ValueError, match=r"\w"):
            hosts.parse_url(text)
    else:
        assert hosts.parse_url(text) == found


@given(st.text("htps:/\\@[]?#%.;a1 \t", max_size=12), st.sampled_from(["http://", "https://", ""]))
def test_all_parsers_agree_on_where_a_good_url_leads(rest: str, begin: str) -> None:
    """That of `requests`, which connects, and the standard library's."""
    try:
        url = hosts.parse_url(begin + rest)
    except ValueError:
        return
    theirs = urllib3.util.parse_url(begin + rest)
    assert hosts.normalise(str(theirs.host)) == url.authority.host
    assert (theirs.port, theirs.scheme) == (url.authority.port, url.scheme)
    assert hosts.normalise(urlsplit(begin + rest).hostname or "") == url.authority.host


def test_an_authority_is_written_as_it_is_read() -> None:
    """IPv6 in brackets, the port only where there is one."""
    for text in ("a.b", "a.b:1", "[::1]", "[::1]:1"):
        assert str(hosts.parse_authority(text)) == text
