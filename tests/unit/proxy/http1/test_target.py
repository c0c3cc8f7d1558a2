"""sidecar.proxy.http1.target: what a good start line asks for; tests/unit/proxy/test_sentences.py has the others"""

from __future__ import annotations

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.http1 import target


@pytest.mark.parametrize(
    ("head", "version"),
    [
        pytest.param(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", b"1.1", id="1.1"),
        pytest.param(b"GET /x HTTP/1.0\r\n\r\n", b"1.0", id="1.0"),
        pytest.param(b"\r\n\r\nGET /x HTTP/1.1\r\n\r\n", b"1.1", id="behind-empty-lines"),
        pytest.param(b"\r\nGET /x HTTP/1.0\r\n\r\n", b"1.0", id="1.0-behind-an-empty-line"),
    ],
)
def test_the_version(head: bytes, version: bytes) -> None:
    """Of a first line that is whole; empty lines before it are passed over."""
    assert target.read_version(head, b"GET", b"/x") == version


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /x HTTP/1.2\r\n", id="1.2"),
        pytest.param(b"GET /x http/1.1\r\n", id="small-letters"),
        pytest.param(b"GET /x HTTP/1.1 \r\n", id="space-behind"),
        pytest.param(b"GET /x HTTP/1.1\n\r\n", id="bare-line-feed"),
        pytest.param(b"GET /x  HTTP/1.0\r\n", id="two-spaces"),
        pytest.param(b"GET /x RTSP/1.0\r\n", id="another-protocol"),
        pytest.param(b"GET /x", id="http-0.9"),
        pytest.param(b"\n\nGET /x HTTP/1.1\r\n", id="bare-line-feeds-before"),
    ],
)
def test_any_other_first_line(head: bytes) -> None:
    """Is refused, whatever the parser makes of it."""
    with pytest.raises(SidecarError) as caught:
        target.read_version(head, b"GET", b"/x")
    assert caught.value.reason is Reason.MALFORMED_REQUEST


@pytest.mark.parametrize(
    ("method", "what", "read"),
    [
        pytest.param(b"GET", b"/x/../y?a=/../..", (b"a.b:80", b"/x/../y?a=/../..", False), id="path"),
        pytest.param(b"GET", b"/x..y/.../%41", (b"a.b:80", b"/x..y/.../%41", False), id="dots-in-names"),
        pytest.param(b"GET", b"/?%zz%00", (b"a.b:80", b"/?%zz%00", False), id="the-query-is-the-apps-own"),
        pytest.param(b"GET", b"/x//..//y", (b"a.b:80", b"/x//..//y", False), id="empty-segments"),
        pytest.param(b"OPTIONS", b"*", (b"a.b:80", b"*", False), id="asterisk"),
        pytest.param(b"GET", b"http://A.b:80/x?y", (b"A.b:80", b"/x?y", True), id="absolute"),
        pytest.param(b"GET", b"HTTPS://a.B:80/x", (b"a.B:80", b"/x", True), id="absolute-https"),
        pytest.param(b"GET", b"http://a.b:80", (b"a.b:80", b"/", True), id="absolute-without-a-path"),
        pytest.param(b"GET", b"http://a.b:80?y/z", (b"a.b:80", b"/?y/z", True), id="absolute-with-a-query"),
        pytest.param(b"GET", b"http://a.b:80?y?z", (b"a.b:80", b"/?y?z", True), id="absolute-with-two-?"),
        pytest.param(
            b"GET", b"http://a.b:80/x/y?z", (b"a.b:80", b"/x/y?z", True), id="absolute-two-segments"
        ),
        pytest.param(
            b"GET", b"http://a.b:80/http://c/", (b"a.b:80", b"/http://c/", True), id="a-url-in-a-path"
        ),
        pytest.param(b"OPTIONS", b"http://a.b:80", (b"a.b:80", b"*", True), id="absolute-asterisk"),
        pytest.param(b"OPTIONS", b"http://a.b:80/", (b"a.b:80", b"/", True), id="absolute-options"),
    ],
)
def test_a_good_target(method: bytes, what: bytes, read: target.Target) -> None:
    """The authority as it came, the path in origin form, and whether the sidecar is used as a proxy."""
    assert target.read_target(method, what, {b"host": b"a.b:80"}) == read


@pytest.mark.parametrize("what", [b"http:///x", b"http://?x", b"http:///?x/y"])
def test_an_absolute_target_without_a_host_has_an_empty_one(what: bytes) -> None:
    """Which no route matches; nothing of the path is read as one."""
    authority, _, absolute = target.read_target(b"GET", what, {b"host": b"a"})
    assert (authority, absolute) == (b"", True)


@pytest.mark.parametrize(
    ("method", "what"),
    [
        *[
            (b"GET", b"*"),
            (b"GET", b"/.."),
            (b"GET", b"/a/../../b/c"),
            (b"GET", b"/./.."),
            (b"GET", b"//../.."),
            (b"GET", b""),
        ],
        *[
            (b"GET", b"/%"),
            (b"GET", b"/%4"),
            (b"GET", b"/%4g"),
            (b"GET", b"/a%00"),
            (b"GET", b"http://a.b:80/../x"),
        ],
        *[(b"GET", b"://a.b:80/"), (b"GET", b"http:/a.b:80/"), (b"GET", b"HTTP//a.b:80/")],
    ],
)
def test_a_bad_target(method: bytes, what: bytes) -> None:
    """Nobody agrees on what it means."""
    with pytest.raises(SidecarError) as caught:
        target.read_target(method, what, {b"host": b"a.b:80"})
    assert caught.value.reason is Reason.MALFORMED_REQUEST


def test_a_missing_host_may_have_a_stand_in() -> None:
    """On a route's own listener, for HTTP/1.0; never in place of one that came."""
    assert target.read_target(b"GET", b"/", {}, default_host=b"c") == (b"c", b"/", False)
    assert target.read_target(b"GET", b"/", {b"host": b"a"}, default_host=b"c") == (b"a", b"/", False)


@pytest.mark.parametrize(
    "host",
    [
        *(b"h", b"h:80", b"h.", b"H", b"h:8080", b"localhost:8787", b"127.0.0.1:8787", b"[::1]:8787"),
        *(b"proxy.example", b"xn--bcher-kva.example"),
    ],
)
@pytest.mark.parametrize("authority", [b"h", b"h:80", b"h.", b"H"])
def test_an_absolute_target_is_judged_by_its_own_authority(authority: bytes, host: bytes) -> None:
    """RFC 9112 section 3.2.2: a proxy ignores the received Host, whatever it names."""
    read = target.read_target(b"GET", b"http://" + authority + b"/x", {b"host": host})
    assert read == (authority, b"/x", True)


@pytest.mark.parametrize(
    "host", [b"", b"a, b", b"a, a", b"a b", b"u@h", b"h/x", b"h:x", b"h:99999", b"h..", b"\xe4", b"[::1"]
)
@pytest.mark.parametrize("http10", [False, True])
def test_a_host_that_is_none_is_an_error_beside_an_absolute_target_too(host: bytes, http10: bool) -> None:
    """RFC 9112 section 3.2: 400 for any request with an invalid one."""
    with pytest.raises(SidecarError) as caught:
        target.read_target(b"GET", b"http://h/x", {b"host": host}, http10=http10)
    assert caught.value.reason is Reason.BAD_HOST


@pytest.mark.parametrize("default", [None, b"c"])
def test_an_absolute_target_of_http_10_needs_no_host(default: bytes | None) -> None:
    """That version has none; what stands in for a missing one does not count either."""
    read = target.read_target(b"GET", b"http://h/x", {}, http10=True, default_host=default)
    assert read == (b"h", b"/x", True)


@pytest.mark.parametrize(
    "protocols", [b"h2c", b" H2C\t", b"a/1.1, b", b"h2c, h2c", b"a, h2c", b"x!#$%&'*+.^`|~-/1"]
)
def test_an_upgrade_is_a_list_of_protocols(protocols: bytes) -> None:
    """Whether they are carried is the route's to say."""
    target.check_upgrade(protocols)


@pytest.mark.parametrize("protocols", [b"", b",", b"a,", b"a b", b"a/", b"/1", b"a/1/2"])
def test_anything_else_is_none(protocols: bytes) -> None:
    """An empty member, too."""
    with pytest.raises(SidecarError):
        target.check_upgrade(protocols)


@pytest.mark.parametrize(
    ("found", "head"),
    [
        pytest.param({b"expect": b" 100-Continue "}, b"", id="expectation"),
        pytest.param({b"connection": b"a,b,c,d,e,f,g,h,i"}, b"", id="nine"),
        pytest.param({b"connection": b"upgrade", b"upgrade": b"websocket"}, b"", id="upgrade"),
        pytest.param({b"connection": b"upgrade"}, b"", id="upgrade-without-a-header"),
        pytest.param({b"upgrade": b""}, b"", id="no-upgrade-asked-for"),
        pytest.param({}, b"GET / HTTP/1.1\r\nX-Host:\ta\r\nHost: b\r\nA: c\td\r\n", id="tabs-elsewhere"),
    ],
)
def test_what_a_heads_lines_may_say(found: dict[bytes, bytes], head: bytes) -> None:
    """Nothing to say of them."""
    target.check_fields(found, head)


@pytest.mark.parametrize("name", [b"Content-Length", b"TRANSFER-ENCODING", b"host"])
def test_a_tab_beside_framing_or_host(name: bytes) -> None:
    """Some take it for a part of the value."""
    for line in (b"%b:\t5" % name, b"%b: 5\t" % name):
        with pytest.raises(SidecarError):
            target.check_fields({}, b"GET / HTTP/1.1\r\nA: b\r\n" + line + b"\r\n\r\n")


def test_https_needs_tls() -> None:
    """Only an absolute target says which it wants."""
    target.check_scheme(b"https://a/", secure=True)
    target.check_scheme(b"http://a/", secure=False)
    target.check_scheme(b"/https:", secure=False)


@pytest.mark.parametrize(
    ("line", "good"),
    [
        *[(b"GET / HTTP/1.1", True), (b"M-SEARCH * HTTP/1.0", True), (b"GET / HTTP/1.2", False)],
        *[(b"GET  / HTTP/1.1", False), (b"get / HTTP/1.1", False), (b"GET / HTTP/1.1\r\n", False)],
    ],
)
def test_a_request_line(line: bytes, good: bool) -> None:
    """RFC 9112 section 3, without its end."""
    assert target.is_request_line(line) is good


def test_empty_lines() -> None:
    """Whole ones, at the beginning."""
    assert target.empty_lines(b"\r\n\r\nGET") == 4
    assert target.empty_lines(b"\n\r\n") == target.empty_lines(b"G\r\n") == 0
    assert target.without_empty_lines(b"\r\nGET\r\n") == b"GET\r\n"


def test_no_list_is_taken_apart_without_bounds() -> None:
    """What a head full of commas names is refused before it is split."""
    long = b"a," * 65
    with pytest.raises(SidecarError, match="`Connection` names more than 9 headers"):
        target.check_fields({b"connection": long}, b"")
    with pytest.raises(SidecarError, match="`Upgrade` names more than 64 protocols"):
        target.check_upgrade(long)
    with pytest.raises(SidecarError, match="`Connection` names more than 9 headers"):
        target.check_upgrade(b"h2c", long)
    target.check_upgrade(b"h2c", b"upgrade")
