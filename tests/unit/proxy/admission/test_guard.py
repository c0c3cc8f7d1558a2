"""sidecar.proxy.admission.guard: pages of other sites, in a browser on this machine, get nothing; nor do they at the admin port"""

from __future__ import annotations

import contextlib

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.admission.guard import mark_of_another_site, refuse_browser, refuse_stray_browser
from sidecar.proxy.fields import headers
from sidecar.serving.callers import refusal
from sidecar.serving.request import WholeRequest

HOST = "localhost:8787"
SITE, ORIGIN = "Sec-Fetch-Site", "Origin"

REFUSED = [
    pytest.param([(SITE, "cross-site")], SITE, id="cross-site"),
    pytest.param([(SITE, "same-site")], SITE, id="same-site"),
    pytest.param([(SITE, "Cross-Site")], SITE, id="any-case"),
    pytest.param([("sec-fetch-SITE", "cross-site")], SITE, id="any-case-of-the-name"),
    pytest.param([(SITE, "")], SITE, id="empty-site"),
    pytest.param([(SITE, "sibling-site")], SITE, id="a-word-of-the-future"),
    pytest.param([(SITE, "none, cross-site")], SITE, id="two-sites-in-a-line"),
    pytest.param([(SITE, "none"), (SITE, "cross-site")], SITE, id="two-sites"),
    pytest.param([(SITE, "same-origin"), (SITE, "same-origin")], SITE, id="two-equal-sites"),
    pytest.param([(SITE, '"none"')], SITE, id="quoted"),
    pytest.param([(ORIGIN, "http://evil.example")], ORIGIN, id="another-origin"),
    pytest.param([(ORIGIN, "null")], ORIGIN, id="opaque-origin"),
    pytest.param([(ORIGIN, "")], ORIGIN, id="empty-origin"),
    pytest.param([(ORIGIN, "http://localhost:3000")], ORIGIN, id="another-port"),
    pytest.param([(ORIGIN, "http://localhost")], ORIGIN, id="no-port"),
    pytest.param([(ORIGIN, "https://localhost:8787")], ORIGIN, id="another-scheme"),
    pytest.param([(ORIGIN, "http://localhost:8787/")], ORIGIN, id="no-origin-at-all"),
    pytest.param([(ORIGIN, "http://localhost:8787.evil.example")], ORIGIN, id="longer"),
    pytest.param(
        [(ORIGIN, "http://localhost:8787"), (ORIGIN, "http://evil.example")], ORIGIN, id="two-origins"
    ),
    pytest.param([(ORIGIN, "http://localhost:8787 http://evil.example")], ORIGIN, id="a-list-of-origins"),
    pytest.param([(SITE, "same-origin"), (ORIGIN, "http://evil.example")], ORIGIN, id="a-good-site-only"),
    pytest.param([(SITE, "cross-site"), (ORIGIN, "http://localhost:8787")], SITE, id="a-good-origin-only"),
]
SERVED = [
    pytest.param([], id="no-browser"),
    pytest.param([(SITE, "none")], id="typed-by-a-person"),
    pytest.param([(SITE, " Same-Origin ")], id="own-page"),
    pytest.param([(SITE, "same-origin"), (ORIGIN, "http://localhost:8787")], id="own-page-with-origin"),
    pytest.param([(ORIGIN, "HTTP://LOCALHOST:8787")], id="own-origin-in-any-case"),
    pytest.param([("Sec-Fetch-Mode", "cors")], id="fetch-of-node"),
    pytest.param([("Referer", "http://evil.example/"), ("User-Agent", "Mozilla/5.0")], id="no-marks"),
]


def marks(lines: list[tuple[str, str]]) -> tuple[str | None, str | None]:
    """What the data path and the admin port make of it."""
    fields = [(name.encode(), value.encode()) for name, value in lines]
    found: dict[bytes, list[bytes]] = {b"host": [HOST.encode()]}
    for name, value in fields:
        found.setdefault(name.lower(), []).append(value)
    return mark_of_another_site(headers.survey(fields), HOST.encode()), refusal(
        WholeRequest("GET", "/", fields=found)
    )


@pytest.mark.parametrize(("lines", "mark"), REFUSED)
def test_a_page_of_another_site_is_known_by_its_browser(lines: list[tuple[str, str]], mark: str) -> None:
    """What is not known to be harmless is refused, by the data path and by the admin port alike."""
    proxy, admin = marks(lines)
    assert proxy == mark
    assert admin is not None
    assert mark in admin


@pytest.mark.parametrize("lines", SERVED)
def test_others_are_served(lines: list[tuple[str, str]]) -> None:
    """Apps, people, and pages that came through the sidecar itself."""
    assert marks(lines) == (None, None)


NOBODYS = [
    *("evil.example", "evil.example:8787", "localhost.evil.example"),
    *("0.0.0.0:8787", "[::]:8787", "[::ffff:127.0.0.1]:8787"),
]


def stray(host: str, name: str) -> None:
    value = f"http://{host}" if name == "Origin" else "same-origin"
    fields = [(name.encode(), value.encode())]
    refuse_stray_browser(fields, headers.survey(fields), host.encode(), b"http://")


@pytest.mark.parametrize("host", NOBODYS)
@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site", "Sec-Fetch-Dest", "sec-fetch-user"])
def test_a_name_that_is_nobodys_serves_no_browser(host: str, name: str) -> None:
    """Whatever it says of itself: DNS rebinding makes every page same-origin."""
    with pytest.raises(SidecarError) as caught:
        stray(host, name)
    assert caught.value.reason is Reason.CALLER_REFUSED


@pytest.mark.parametrize("host", NOBODYS)
@pytest.mark.parametrize("name", ["Sec-Fetch-Mode", "User-Agent", "Referer"])
def test_an_app_that_misses_is_no_browser(host: str, name: str) -> None:
    """It is to learn its nearest route."""
    stray(host, name)


@pytest.mark.parametrize("host", [b"localhost:8787", b"biling.localhost", b"127.0.0.1:8787", b"[::1]"])
def test_a_person_who_mistypes_a_route_is_told(host: bytes) -> None:
    """No page can rebind a loopback name or an address; pages of other sites learn nothing there either."""
    typed = [(b"Sec-Fetch-Site", b"none"), (b"Sec-Fetch-Dest", b"document")]
    refuse_stray_browser(typed, headers.survey(typed), host, b"http://")
    page = [(b"Sec-Fetch-Site", b"cross-site")]
    with pytest.raises(SidecarError):
        refuse_stray_browser(page, headers.survey(page), host, b"http://")


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "mark"),
    [
        pytest.param(b"http://a", b"a:80", b"http://", None, id="port-in-the-host"),
        pytest.param(b"http://a:80", b"A", b"http://", None, id="port-in-the-origin"),
        pytest.param(b"https://a", b"a:443", b"https://", None, id="over-tls"),
        pytest.param(b"http://a", b"a:443", b"http://", "Origin", id="the-other-schemes-port"),
        pytest.param(b"http://a", b"a:8080", b"http://", "Origin", id="a-longer-port"),
        pytest.param(b"https://a", b"a:80", b"http://", "Origin", id="another-scheme"),
        pytest.param(b"http://a.", b"a", b"http://", "Origin", id="a-dot-is-another-origin-to-browsers"),
    ],
)
def test_a_default_port_may_be_left_out(origin: bytes, host: bytes, scheme: bytes, mark: str | None) -> None:
    """Of an Origin and of a Host (RFC 6454 section 4): the same site, in every spelling."""
    assert mark_of_another_site({b"origin": origin}, host, scheme) == mark


@pytest.mark.parametrize("own", [b"http://", b"https://"])
def test_an_own_page_has_the_listeners_scheme(own: bytes) -> None:
    """Over TLS an origin of http is another site's, and the other way round; also where no route takes the request."""
    for scheme in (b"http://", b"https://"):
        page = [(b"Origin", scheme + b"localhost:8787")]
        mark = None if scheme == own else "Origin"
        assert mark_of_another_site(headers.survey(page), HOST.encode(), own) == mark
        with pytest.raises(SidecarError) if mark else contextlib.nullcontext():
            refuse_browser(headers.survey(page), HOST.encode(), own)
        with pytest.raises(SidecarError) if mark else contextlib.nullcontext():
            refuse_stray_browser(page, headers.survey(page), HOST.encode(), own)
