"""sidecar.proxy.fields.mapping: an answer that points at its own service points at the sidecar once it has passed"""

from __future__ import annotations

import pytest

from sidecar.proxy.fields.headers import survey
from sidecar.proxy.fields.mapping import map_answer, map_reference

ORIGIN, BASE = b"https://a.run.app", b"http://localhost:8787"


@pytest.mark.parametrize(
    ("value", "plain", "below"),
    [
        pytest.param(b"https://a.run.app/x?y", b"http://localhost:8787/x?y", b"/api/x?y", id="own-url"),
        pytest.param(b"HTTPS://A.Run.App/X", b"http://localhost:8787/X", b"/api/X", id="in-any-case"),
        pytest.param(b"http://a.run.app/x", b"http://localhost:8787/x", b"/api/x", id="own-host-over-http"),
        pytest.param(b"//a.run.app/x", b"http://localhost:8787/x", b"/api/x", id="own-host-without-a-scheme"),
        pytest.param(b"https://a.run.app", b"http://localhost:8787", b"/api", id="own-url-without-a-path"),
        pytest.param(b"https://a.run.app/", b"http://localhost:8787/", b"/api/", id="own-root"),
        pytest.param(b"https://a.run.app?y", b"http://localhost:8787?y", b"/api?y", id="own-query"),
        pytest.param(b"https://a.run.app#y", b"http://localhost:8787#y", b"/api#y", id="own-fragment"),
        pytest.param(b"https://a.run.app:443/x", b"http://localhost:8787/x", b"/api/x", id="default-port"),
        pytest.param(b"https://a.run.app:", b"http://localhost:8787", b"/api", id="empty-port"),
        pytest.param(b"https://A.run.app./x", b"http://localhost:8787/x", b"/api/x", id="dot-at-end"),
        pytest.param(b"http://a.run.app:80?y", b"http://localhost:8787?y", b"/api?y", id="http-default-port"),
        pytest.param(b"//a.run.app:443#y", b"http://localhost:8787#y", b"/api#y", id="port-without-a-scheme"),
        pytest.param(b"http://a.run.app:443/", b"http://localhost:8787/", b"/api/", id="http-on-its-port"),
        pytest.param(b"https://a.run.app:80/", None, None, id="https-on-port-80"),
        pytest.param(b"https://u@a.run.app:443/", None, None, id="userinfo"),
        pytest.param(b"https://a.run.app:443\\@evil/", None, None, id="backslash"),
        pytest.param(b"https://a.run.app:443.evil/", None, None, id="a-host-that-goes-on-behind-the-port"),
        pytest.param(b"https://a.run.app../", None, None, id="two-dots-at-end"),
        pytest.param(b"https://a.run.app.evil/", None, None, id="a-longer-host"),
        pytest.param(b"https://a.run.app:8443/", None, None, id="another-port"),
        pytest.param(b"https://b.run.app/x", None, None, id="another-host"),
        pytest.param(b"ws://a.run.app/x", None, None, id="another-scheme"),
        pytest.param(b"//b.run.app/x", None, None, id="another-host-without-a-scheme"),
        pytest.param(b"/x", None, b"/api/x", id="path"),
        pytest.param(b"/", None, b"/api/", id="root"),
        pytest.param(b"x/y", None, None, id="relative"),
        pytest.param(b"", None, None, id="empty"),
    ],
)
def test_a_reference(value: bytes, plain: bytes | None, below: bytes | None) -> None:
    """To the service itself: by way of the sidecar, below the route's prefix where that was the way in; else as it is."""
    assert map_reference(value, origin=ORIGIN, base=BASE, prefix=b"") == (plain or value)
    expected = value if below is None else below if value[:1] == b"/" != value[1:2] else BASE + below
    assert map_reference(value, origin=ORIGIN, base=BASE, prefix=b"/api") == expected


def test_of_an_upstream_with_a_port_the_port_counts() -> None:
    """Over plaintext, too."""
    for origin, own, other in (
        (b"https://a:8443", b"https://a.:8443/x", b"https://a/x"),
        (b"http://a", b"http://a:80/x", b"https://a:80/x"),
        (b"http://[::1]:81", b"http://[0:0:0:0:0:0:0:1]:81/x", b"http://[::1]/x"),
    ):
        assert map_reference(own, origin=origin, base=BASE, prefix=b"") == BASE + b"/x"
        assert map_reference(other, origin=origin, base=BASE, prefix=b"") == other


FIELDS = [
    (b"LOCATION", b"https://a.run.app/x"),
    (b"Content-Location", b"/y"),
    (b"Set-Cookie", b"a=1; Path=/; Secure"),
    (b"set-cookie", b"b=/; path = /z;HttpOnly"),
    (b"X-Location", b"https://a.run.app/x; path=/y"),
]


def mapped(fields: list[tuple[bytes, bytes]], prefix: bytes) -> object:
    return map_answer(fields, survey(fields), origin=ORIGIN, base=BASE, prefix=prefix)


def test_the_lines_of_an_answer() -> None:
    """Location and Content-Location; cookie paths below a prefix; every other line, all names and the order stay."""
    assert mapped(FIELDS, b"") == [
        (b"LOCATION", b"http://localhost:8787/x"),
        *FIELDS[1:],
    ]
    assert mapped(FIELDS, b"/api") == [
        (b"LOCATION", b"http://localhost:8787/api/x"),
        (b"Content-Location", b"/api/y"),
        (b"Set-Cookie", b"a=1; Path=/api/; Secure"),
        (b"set-cookie", b"b=/; path = /api/z;HttpOnly"),
        FIELDS[4],
    ]


@pytest.mark.parametrize("at", [0, 1, 2], ids=["location", "content-location", "cookie"])
def test_each_alone(at: int) -> None:
    """One of them is enough; a cookie only below a prefix."""
    assert mapped(FIELDS[at : at + 1], b"/api") != FIELDS[at : at + 1]
    assert (mapped(FIELDS[at : at + 1], b"") == FIELDS[at : at + 1]) == (at > 0)


@pytest.mark.parametrize(
    ("cookie", "mapped"),
    [
        pytest.param(b"a=1;path=/;PATH = /x;Path=y", b"a=1;path=/p/;PATH = /p/x;Path=y", id="each-path"),
        pytest.param(b"a=1" + b";path=/" * 4, b"a=1" + b";path=/p/" * 4, id="as-many-as-are-mapped"),
        pytest.param(b"a=1" + b";path=/" * 5, None, id="more-paths"),
        pytest.param(
            b"a=1" + b"; Secure" * 32, b"a=1" + b"; Secure" * 32, id="as-many-attributes-as-are-read"
        ),
        pytest.param(b"a=1" + b"; Secure" * 33, None, id="more-attributes"),
        pytest.param(b"a=1;path" + b" " * 99 + b"=\t/x", b"a=1;path" + b" " * 99 + b"=\t/p/x", id="blanks"),
    ],
)
def test_a_cookie_under_a_prefix(cookie: bytes, mapped: bytes | None) -> None:
    """Each of its paths is mapped, or it is left out: one that was not mapped would be for other routes too."""
    fields = [(b"X", b"1"), (b"Set-Cookie", cookie)]
    found = survey(fields)
    left = map_answer(fields, found, origin=ORIGIN, base=BASE, prefix=b"/p")
    assert list(left) == [(b"X", b"1"), *([] if mapped is None else [(b"Set-Cookie", mapped)])]
    unprefixed = map_answer(fields, found, origin=ORIGIN, base=BASE, prefix=b"")
    assert unprefixed == fields
