"""sidecar.routing.routes"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.load import load
from sidecar.errors import Reason, SidecarError
from sidecar.routing.routes import RouteTable, Way, match_own

TABLE = """
routes:
  - {name: exact, host: a.b.run.app, upstream: "https://exact.example"}
  - {name: short, host: "*.run.app", upstream: "https://{host}"}
  - {name: long, host: "*.x.run.app", upstream: "https://{host}", audience: "https://{host}/"}
  - {name: billing, host: [billing.internal, bücher.example], upstream: "https://billing-abc.a.example:8443", path_prefix: /billing}
  - {name: deep, host: deep.internal, upstream: "https://deep.example", path_prefix: /billing/deep}
  - {name: twin-a, host: a.twin, upstream: "https://twin.example"}
  - {name: twin-b, host: b.twin, upstream: "https://twin.example"}
  - {name: local, host: local.internal, upstream: "http://127.0.0.1:8080"}
  - {name: kept, host: kept.internal, upstream: "https://kept.example", upstream_host: keep}
  - {name: literal, host: literal.internal, upstream: "https://l.example", upstream_host: "v.example"}
  - {name: shared-a, host: a.shared, upstream: "https://shared.example"}
  - {name: shared-b, upstream: "https://shared.example"}
  - {name: covered, upstream: "https://covered.run.app"}
  - {name: address, upstream: "https://10.1.2.3"}
"""

ROOT = """
routes:
  - {name: everything, upstream: "https://everything.example", path_prefix: /}
  - {name: address, upstream: "https://10.1.2.3"}
"""


@pytest.fixture
def table() -> RouteTable:
    return RouteTable.compile(load(TABLE, environ={}).config)


MATCHES = [
    pytest.param("a.b.run.app", "/", "exact", "https://exact.example", "", id="exact-before-wildcard"),
    pytest.param("A.B.Run.App.:99", "/", "exact", "https://exact.example", "", id="spelling-and-port"),
    pytest.param("c.run.app", "/", "short", "https://c.run.app", "", id="wildcard"),
    pytest.param("d.c.run.app", "/", "short", "https://d.c.run.app", "", id="wildcard-two-labels"),
    pytest.param("c.x.run.app", "/", "long", "https://c.x.run.app", "", id="longest-wildcard"),
    pytest.param("x.run.app", "/", "short", "https://x.run.app", "", id="a-wildcard-needs-a-label"),
    pytest.param(
        "xn--bcher-kva.example", "/", "billing", "https://billing-abc.a.example:8443", "", id="idna"
    ),
    pytest.param(
        "billing.localhost:8787", "/", "billing", "https://billing-abc.a.example:8443", "", id="name"
    ),
    pytest.param(
        "billing-abc.a.example", "/", "billing", "https://billing-abc.a.example:8443", "", id="upstream"
    ),
    pytest.param(
        "localhost:1",
        "/billing",
        "billing",
        "https://billing-abc.a.example:8443",
        "/billing",
        id="prefix-itself",
    ),
    pytest.param(
        "localhost:1",
        "/billing?q",
        "billing",
        "https://billing-abc.a.example:8443",
        "/billing",
        id="prefix-query",
    ),
    pytest.param(
        "10.1.2.3", "/billing/x", "billing", "https://billing-abc.a.example:8443", "/billing", id="prefix-ip"
    ),
    pytest.param("10.1.2.3", "/other", "address", "https://10.1.2.3", "", id="an-address-behind-prefixes"),
    pytest.param("10.1.2.3", "", "address", "https://10.1.2.3", "", id="an-address-by-the-proxy-way"),
    pytest.param(
        "shared.example", "/", "shared-b", "https://shared.example", "", id="an-upstream-of-one-without-hosts"
    ),
    pytest.param(
        "covered.run.app", "/", "short", "https://covered.run.app", "", id="a-wildcard-before-a-default"
    ),
    pytest.param(
        "[::1]", "/billing/deep/x", "deep", "https://deep.example", "/billing/deep", id="longest-prefix"
    ),
]


@pytest.mark.parametrize(("host", "path", "name", "origin", "prefix"), MATCHES)
def test_the_order_of_matching(
    table: RouteTable, host: str, path: str, name: str, origin: str, prefix: str
) -> None:
    """Most specific first, and the same again from the memo."""
    for _ in range(2):
        match = table.match(host.encode(), path.encode())
        assert match.destination.route.name == name
        assert match.destination.origin.decode() == origin
        assert match.prefix.decode() == prefix


NO_MATCH = [
    pytest.param("run.app", "/", id="wildcards-own-suffix"),
    pytest.param("1.2.3.4", "/", id="ip-literal"),
    pytest.param("evil.example", "/billing/x", id="prefix-under-a-strangers-name"),
    pytest.param("0.0.0.0", "/billing/x", id="prefix-under-the-unspecified-address"),
    pytest.param("[::]", "/billing/x", id="prefix-under-the-unspecified-address-of-ipv6"),
    pytest.param("[::ffff:7f00:1]", "/billing/x", id="prefix-under-loopback-in-disguise"),
    pytest.param("twin.example", "/", id="an-upstream-of-two-routes"),
    pytest.param("127.0.0.1", "/", id="a-loopback-upstream"),
    pytest.param("short.localhost", "/", id="name-of-a-wildcard-route"),
    pytest.param("localhost", "/billings", id="prefix-is-no-substring"),
    pytest.param("localhost", "", id="prefix-is-not-for-the-proxy-way"),
]


@pytest.mark.parametrize(("host", "path"), NO_MATCH)
def test_what_matches_nothing_goes_nowhere(table: RouteTable, host: str, path: str) -> None:
    """NO_ROUTE, naming the host that was asked for."""
    with pytest.raises(SidecarError) as caught:
        table.match(host.encode(), path.encode())
    assert caught.value.reason is Reason.NO_ROUTE
    assert f"`{host.strip('[]')}`" in caught.value.detail


def test_the_proxy_way_is_for_no_prefix() -> None:
    """What an app asks of its HTTP proxy says by its host what is meant: `/` does not take it."""
    table = RouteTable.compile(load(ROOT, environ={}).config)
    for _ in range(2):
        assert table.match(b"10.1.2.3", b"/").destination.route.name == "everything"
        assert table.match(b"10.1.2.3", b"").destination.route.name == "address"
        assert table.match(b"localhost", b"/").destination.route.name == "everything"
        for host in (b"localhost", b"10.1.2.4"):
            with pytest.raises(SidecarError):
                table.match(host, b"")


ONE = "routes: [{name: billing, upstream: 'https://billing-abc.a.example'}]"
TWO = """
routes:
  - {name: billing, upstream: "https://billing-abc.a.example"}
  - {name: reports, upstream: "https://reports.example", listen: "localhost:8802"}
  - {name: prefixed, upstream: "https://prefixed.example", path_prefix: /p}
  - {name: services, host: "*.run.app", upstream: "https://{host}"}
"""


@pytest.mark.parametrize(
    "given", [(ONE, ()), (None, ("billing=https://billing-abc.a.example",))], ids=["file", "--to"]
)
@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8787", "127.0.0.1:8787", "[::1]", "10.1.2.3", "x.localhost"]
)
def test_a_route_that_is_the_only_one_has_all_that_is_asked_of_localhost(
    given: tuple[str | None, tuple[str, ...]], host: str
) -> None:
    """However it was configured: every path is its, as it stands."""
    table = RouteTable.compile(load(given[0], environ={}, to=given[1]).config)
    for path in (b"/", b"/invoices", b"/invoices"):
        match = table.match(host.encode(), path)
        assert (match.destination.route.name, match.prefix, match.way) == ("billing", b"", Way.ONLY)


@pytest.mark.parametrize(
    ("host", "path"),
    [
        pytest.param("evil.example", "/", id="a-stranger"),
        pytest.param("localhost.evil.example", "/", id="a-stranger-in-disguise"),
        pytest.param("host.docker.internal", "/", id="a-name-of-this-machine"),
        pytest.param("0.0.0.0", "/", id="the-unspecified-address"),
        pytest.param("[::]", "/", id="the-unspecified-address-of-ipv6"),
        pytest.param("[::ffff:7f00:1]", "/", id="loopback-in-disguise"),
        pytest.param("2130706433", "/", id="a-number-that-resolvers-take-for-loopback"),
        pytest.param("localhost", "", id="the-proxy-way"),
    ],
)
def test_the_only_route_is_found_under_no_name_that_a_page_could_rebind(host: str, path: str) -> None:
    """DNS rebinding; and what an app asks of its HTTP proxy says by its host what it means, also after another got in."""
    table = RouteTable.compile(load(ONE, environ={}).config)
    for known in (host, "localhost"):
        table.match(b"localhost", b"/")
        with pytest.raises(SidecarError) as caught:
            table.match(known.encode(), path.encode() if known == host else b"")
        assert caught.value.reason is Reason.NO_ROUTE


@pytest.mark.parametrize(
    "routes",
    [
        pytest.param(
            "{name: services, host: '*.run.app', upstream: 'https://{host}'}", id="follows-the-host"
        ),
        pytest.param(
            "{name: a, upstream: 'https://a.example', path_prefix: /a}", id="its-prefix-says-what-is-its"
        ),
        pytest.param(
            "{name: a, upstream: 'https://a.example'}, {name: b, upstream: 'https://b.example'}", id="two"
        ),
    ],
)
def test_otherwise_localhost_alone_says_nothing(routes: str) -> None:
    """Default deny."""
    with pytest.raises(SidecarError):
        RouteTable.compile(load(f"routes: [{routes}]", environ={}).config).match(b"localhost", b"/x")


@pytest.mark.parametrize("host", ["localhost:8787", "127.0.0.1:8787", "[::1]:8787"])
def test_a_404_for_localhost_lists_how_each_route_is_called(host: str) -> None:
    """Its own port first, else the prefix, else its name; the nearest spelling of `localhost` would say nothing."""
    with pytest.raises(SidecarError) as caught:
        RouteTable.compile(load(TWO, environ={}).config).match(host.encode(), b"/x")
    assert caught.value.detail.endswith(
        "Call a route by its own URL. `billing`: http://billing.localhost:8787/ · `reports`: http://localhost:8802/ · "
        "`prefixed`: http://localhost:8787/p/ · `services`: `Host: *.run.app`"
    )


def test_a_404_lists_ten_routes_at_most(large: RouteTable) -> None:
    """And says where the others are."""
    with pytest.raises(SidecarError) as caught:
        large.match(b"localhost", b"/")
    assert caught.value.detail.count("localhost:8787/") == 10
    assert caught.value.detail.endswith("· and 590 more, which `idtoken-sidecar urls` lists")


def test_a_404_names_the_nearest_route(table: RouteTable) -> None:
    """With what it takes."""
    with pytest.raises(SidecarError) as caught:
        table.match(b"biling.internal", b"/")
    assert "nearest route is `billing`, which takes `billing.internal`" in caught.value.detail


@pytest.fixture(scope="module")
def large() -> RouteTable:
    routes = [
        f"  - {{name: {kind}-{number}, upstream: 'https://{kind}-{number}-abc123-uc.a.run.app'}}"
        for number in range(200)
        for kind in ("billing", "reports", "search")
    ]
    return RouteTable.compile(load("\n".join(["routes:", *routes]), environ={}).config)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        pytest.param(b"biling-77.localhost", "billing-77", id="at-the-beginning"),
        pytest.param(b"xeports-150-abc123-uc.a.run.app", "reports-150", id="the-first-letter"),
        pytest.param(b"search-9-abc123-ucx.a.run.ap", "search-9", id="at-the-end"),
        pytest.param(b"reports-42", "reports-42", id="its-name-alone"),
    ],
)
def test_the_nearest_of_many_routes_is_found_among_a_few(
    large: RouteTable, monkeypatch: pytest.MonkeyPatch, host: bytes, name: str
) -> None:
    """A miss costs the same whatever the number of routes: it holds up every other request meanwhile."""
    compared: list[int] = []

    def watched(word: str, possibilities: Iterable[str], **more: Any) -> list[str]:
        compared.append(len(list(possibilities)))
        return get_close_matches(word, possibilities, **more)

    monkeypatch.setattr("sidecar.routing.routes.get_close_matches", watched)
    with pytest.raises(SidecarError) as caught:
        large.match(host, b"/")
    assert f"The nearest route is `{name}`, " in caught.value.detail
    assert max(compared) <= 32


@pytest.mark.parametrize("host", [b"", b"a b", b"\xff\xfe", b"a, b", b"u@a"])
def test_a_malformed_host_is_bad_host(table: RouteTable, host: bytes) -> None:
    """Never a route, never a crash."""
    with pytest.raises(SidecarError) as caught:
        table.match(host, b"/")
    assert caught.value.reason is Reason.BAD_HOST


def test_destinations_hold_what_they_are_configured_to(table: RouteTable) -> None:
    """Audience, Host and port, by default and by setting."""
    fixed = table.match(b"billing.internal", b"/").destination
    assert (fixed.audience, fixed.authority, fixed.port) == (
        "https://billing-abc.a.example:8443",
        b"billing-abc.a.example:8443",
        8443,
    )
    assert fixed.host_header == b"billing-abc.a.example:8443"
    assert table.match(b"c.x.run.app", b"/").destination.audience == "https://c.x.run.app/"
    assert table.match(b"kept.internal", b"/").destination.host_header is None
    assert table.match(b"literal.internal", b"/").destination.host_header == b"v.example"
    assert table.match(b"c.run.app", b"/").destination is table.match(b"C.run.app", b"/").destination


def test_own_listeners_refuse_strangers_names(table: RouteTable) -> None:
    """Loopback, IP literals and the route's own names pass; on a Unix socket every name does."""
    (billing,) = [route for route in table.routes if route.name == "billing"]
    for host in (
        b"localhost:1",
        b"127.0.0.1",
        b"x.localhost",
        b"billing.internal",
        b"billing-abc.a.example",
        b"10.0.0.1",
    ):
        assert match_own(billing, host, any_host=False).destination is billing.fixed()
    for host in (b"evil.example", b"0.0.0.0", b"[::]:1", b"[::ffff:127.0.0.1]", b"[::ffff:0:0]"):
        with pytest.raises(SidecarError) as caught:
            match_own(billing, host, any_host=False)
        assert caught.value.reason is Reason.CALLER_REFUSED
    assert match_own(billing, b"evil.example", any_host=True).destination is billing.fixed()


def test_a_wildcard_routes_own_listener_serves_its_hosts_only(table: RouteTable) -> None:
    """Or the Host would choose any upstream at all."""
    (short,) = [route for route in table.routes if route.name == "short"]
    assert match_own(short, b"c.run.app", any_host=False).destination.origin == b"https://c.run.app"
    for host in (b"localhost", b"evil.example", b"169.254.169.254"):
        with pytest.raises(SidecarError):
            match_own(short, host, any_host=True)


@given(st.text(alphabet="abx.-run:pl0123456789[]*", max_size=40))
def test_a_wildcard_never_leads_outside_its_suffix(host: str) -> None:
    """Whatever the Host, a destination is a fixed upstream or ends in the wildcard's suffix."""
    table = RouteTable.compile(load(TABLE, environ={}).config)
    try:
        destination = table.match(host.encode(), b"/billing").destination
    except SidecarError:
        return
    if destination.route.dynamic:
        assert destination.host.endswith(".run.app")


def test_memos_are_bounded(table: RouteTable) -> None:
    """A flood of hosts pushes the oldest destination out."""
    first = table.match(b"h0.run.app", b"/").destination
    for number in range(1, 5000):
        table.match(b"h%d.run.app" % number, b"/")
    assert table.match(b"h0.run.app", b"/").destination is not first


def test_every_way_in_by_name_is_told(table: RouteTable) -> None:
    """For the status page: hosts as configured, and the upstream's own where it leads here and to no other route."""
    found = {route.name: table.hosts_of(route) for route in table.routes}
    assert found["billing"] == ["billing.internal", "xn--bcher-kva.example", "billing-abc.a.example"]
    assert found["short"] == ["*.run.app"]
    assert found["twin-a"] == ["a.twin"]
    assert found["local"] == ["local.internal"]
    assert (found["shared-a"], found["shared-b"]) == (["a.shared"], ["shared.example"])
    assert found["covered"] == []
    assert repr(table.routes[0]) == "<Route exact>"
    assert repr(table.routes[0].fixed()) == "<Destination exact https://exact.example>"


def test_a_404_by_the_sidecar_s_own_address_speaks_of_the_prefixes_there_are(table: RouteTable) -> None:
    """They hold there, as on loopback."""
    with pytest.raises(SidecarError) as caught:
        table.match(b"10.0.0.5", b"/foo?x=1")
    assert caught.value.detail.startswith(
        "No route has host `10.0.0.5` or a path_prefix of `/foo`. Call a route"
    )
    with pytest.raises(SidecarError) as caught:
        table.match(b"10.0.0.5", b"")
    assert caught.value.detail.startswith("No route has host `10.0.0.5`. Call a route")


@pytest.mark.parametrize("host", ["host.docker.internal", "gateway", "billing.internal.evil.example"])
@pytest.mark.parametrize("path", ["/billing", "/billing/x", "/billing?x=1"])
def test_a_404_for_a_known_prefix_says_that_prefixes_need_loopback(
    table: RouteTable, host: str, path: str
) -> None:
    """A container that calls its host does so by a name (`host.docker.internal`): the way out is that route's `host`."""
    with pytest.raises(SidecarError) as caught:
        table.match(host.encode(), path.encode())
    assert caught.value.detail == (
        f"`/billing` is the `path_prefix` of route `billing`, and prefixes hold where the app calls `localhost` or the "
        f"address that the sidecar listens on, not `{host}`: web pages may get here by such a name. Call it so, or add "
        f"`{host}` to the route's `host`, and leave the prefix out of the path."
    )  # fmt: skip


@pytest.mark.parametrize(
    "host", [b"oauth2.googleapis.com", b"IAMCREDENTIALS.googleapis.com:80", b"sts.googleapis.com."]
)
def test_a_wildcard_takes_no_host_that_is_answered_here(host: bytes) -> None:
    """Not by http either: there a placeholder would be replaced by the real token, and Google would give another."""
    routes = "routes: [{name: apis, host: '*.googleapis.com', upstream: 'https://{host}', token: access, wildcard_audience: shared}]\n"
    more = "intercept: {bundle_file: /run/x/ca.pem}\ngoogle_token_endpoints: {scopes: ['https://www.googleapis.com/auth/cloud-platform']}\n"
    without = RouteTable.compile(load(routes, environ={}).config)
    assert without.match(host, b"/").destination.route.name == "apis"
    table = RouteTable.compile(load(routes + more, environ={}).config)
    with pytest.raises(SidecarError) as refused:
        table.match(host, b"/")
    assert refused.value.reason is Reason.NO_ROUTE
    assert "google_token_endpoints" in refused.value.detail
    assert table.match(b"storage.googleapis.com", b"/").destination.route.name == "apis"
