"""sidecar.proxy.fields.proxy_status: what of an upstream's Proxy-Status the app gets to see"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.fields.proxy_status import foreign

OURS = b"idtoken-sidecar; error=destination_not_found"


def passed(*lines: bytes) -> list[bytes]:
    """The values that are left of an answer's lines; every other line stays."""
    others = [(b"Server", b"x"), (b"Via", b"1.1 idtoken-sidecar")]
    left = foreign([others[0], *((b"Proxy-Status", line) for line in lines), others[1]])
    assert (left[0], left[-1]) == tuple(others)
    assert all(name == b"Proxy-Status" for name, _ in left[1:-1])
    return [value for _, value in left[1:-1]]


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        pytest.param([b"cdn; error=dns_error"], [b"cdn; error=dns_error"], id="of-another"),
        pytest.param([OURS], [], id="token"),
        pytest.param([b'"idtoken-sidecar"; error=dns_error'], [], id="string"),
        pytest.param([b"IdToken-SIDECAR;error=x"], [], id="case"),
        pytest.param([b"\tidtoken-sidecar "], [], id="white-space"),
        pytest.param([b"cdn, " + OURS + b", lb;x"], [b"cdn, lb;x"], id="in-between"),
        pytest.param([OURS + b",cdn"], [b"cdn"], id="first"),
        pytest.param([b"cdn\t,\t" + OURS], [b"cdn"], id="last"),
        pytest.param([b"cdn", OURS, b"lb"], [b"cdn", b"lb"], id="a-line-of-its-own"),
        pytest.param([b"idtoken-sidecar-6f1c; error=x"], [], id="begins-like-ours"),
        pytest.param([b"cdn; details=idtoken-sidecar"], [], id="a-reader-that-only-looks-for-the-name"),
        pytest.param(
            [b'cdn; details="a, idtoken-sidecar; error=x", lb'], [b"lb"], id="comma-inside-a-string"
        ),
        pytest.param(
            [b'cdn; details="a, b; \\"c\\" \\\\", ' + OURS],
            [b'cdn; details="a, b; \\"c\\" \\\\"'],
            id="string-with-all-there-is",
        ),
        pytest.param(
            [b'a; n=-12; d=1.5; b=:aGk=:; t=?1; w=a/b:c; f; at=@12; u=%"f%c3%bc", ' + OURS],
            [b'a; n=-12; d=1.5; b=:aGk=:; t=?1; w=a/b:c; f; at=@12; u=%"f%c3%bc"'],
            id="every-kind-of-parameter",
        ),
        # What is no list is nothing to those who read it by the rules; to others it is what it looks like.
        pytest.param([b"cdn; error=, " + OURS], [], id="broken-member"),
        pytest.param([b'cdn; details="a', OURS], [], id="string-without-its-end"),
        pytest.param([b'cdn; details="a', b'b, idtoken-sidecar"'], [], id="string-over-two-lines"),
        pytest.param([OURS + b","], [], id="comma-at-the-end"),
        pytest.param([b"(cdn idtoken-sidecar)"], [], id="inner-list"),
        pytest.param([b"12, " + OURS], [], id="number-as-member"),
        pytest.param([b'"idtoken\\-sidecar"; error=x'], [], id="escape-that-there-is-not"),
        pytest.param([b'%"idtoken%2dsidecar"; error=x'], [], id="percent"),
        pytest.param([b"", OURS, b"cdn"], [b"cdn"], id="empty-line"),
        pytest.param([b"a," * 64 + OURS], [b", ".join([b"a"] * 64)], id="as-many-as-are-read"),
        pytest.param([b"a," * 65 + OURS], [], id="more-than-anybody-writes"),
        pytest.param([b"a," * 32, b"a," * 32 + OURS, b"a"], [], id="more-in-several-lines"),
        pytest.param([b"a," * 900 + b"b"], [b"a," * 900 + b"b"], id="many-without-the-name"),
        pytest.param([b'a;b="\\"' + b"a" * 5000], [], id="escapes-in-very-much"),
        # Broken, and none of our business.
        pytest.param([b"cdn ; error"], [b"cdn ; error"], id="broken-without-the-name"),
        pytest.param([b'"', b""], [b'"', b""], id="nonsense-without-the-name"),
    ],
)
def test_what_passes(lines: list[bytes], left: list[bytes]) -> None:
    """No member by the sidecar's name, in whatever form; members of others stay to the byte."""
    assert passed(*lines) == left


def test_the_name_of_the_line_is_found_in_any_spelling() -> None:
    """Field names have no case."""
    assert foreign([(b"PROXY-status", OURS), (b"proxy-status", b"cdn")]) == [(b"proxy-status", b"cdn")]


PARAMETER = st.sampled_from([b"; error=dns_error", b';details="a,b"', b"; x", b"; y=?0", b'; d="\\""'])
MEMBER = st.tuples(
    st.sampled_from([b"cdn", b'"my, proxy"', b"*x/y", b"idtoken-sidecar", b'"IDTOKEN-sidecar"', b"idtoken"]),
    st.lists(PARAMETER, max_size=3),
).map(lambda made: made[0] + b"".join(made[1]))


@given(
    st.lists(st.lists(MEMBER, min_size=1, max_size=4), min_size=1, max_size=4),
    st.sampled_from([b",", b" ,\t"]),
)
def test_every_member_of_another_passes_in_order(lines: list[list[bytes]], comma: bytes) -> None:
    """And no other."""
    kept = [[member for member in line if b"idtoken-sidecar" not in member.lower()] for line in lines]
    left = passed(*(comma.join(line) for line in lines))
    if kept == lines:
        assert left == [comma.join(line) for line in lines]
    else:
        assert left == [b", ".join(line) for line in kept if line]


@given(st.lists(st.binary(max_size=40) | st.sampled_from([OURS, b"cdn"]), max_size=4))
def test_nothing_that_passes_has_the_name(lines: list[bytes]) -> None:
    """Whatever bytes come."""
    assert not any(b"idtoken-sidecar" in value.lower() for value in passed(*lines))
