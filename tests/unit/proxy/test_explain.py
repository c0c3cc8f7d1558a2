"""sidecar.proxy.explain: what happens to a request, by the code that judges requests"""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.addresses import parse_listen
from sidecar.config.load import load
from sidecar.proxy.explain import explain

CONFIG = load(
    """
credentials: {default: {type: metadata}}
routes:
  - {name: billing, host: billing.internal, upstream: 'https://billing-abc-uc.a.run.app', path_prefix: /billing,
     listen: 'localhost:8801'}
  - {name: reports, host: reports.internal, upstream: 'https://reports.example', target: iap,
     audience: 1-a.apps.googleusercontent.com}
  - {name: api, host: api.internal, upstream: 'https://api.example', on_conflict: keep}
  - {name: other, host: other.internal, upstream: 'https://other.example', on_conflict: replace}
  - {name: storage, upstream: 'https://storage.googleapis.com', token: access, scopes: [a, b]}
  - {name: services, host: '*.a.run.app', upstream: 'https://{host}'}
""",
    environ={},
).config
LISTED = load(
    """
routes:
  - {name: billing, upstream: 'https://billing.example', path_prefix: /billing,
     allow: {methods: [GET, POST], paths: [/v1/*]}}
""",
    environ={},
).config
LOOPBACK = load(
    """
listen: [localhost:8787, '0.0.0.0:8080']
allow_remote: true
routes:
  - {name: local, upstream: 'http://localhost:7001'}
  - {name: literal, upstream: 'https://10.0.0.1'}
  - {name: root, upstream: 'https://root.example', path_prefix: /, listen: 'localhost:8801'}
""",
    environ={},
).config
OWN = "Authorization: Basic eA=="


@pytest.mark.parametrize(
    ("url", "headers", "expected"),
    [
        (
            "http://billing.localhost:8787/x?a=b",
            [],
            {
                "route": "billing",
                "way_in": "its name under .localhost",
                "sent_to": "https://billing-abc-uc.a.run.app/x?a=b",
            },
        ),
        (
            "localhost:8787/billing/x",
            [],
            {"route": "billing", "way_in": "path_prefix /billing", "headers": ["Authorization"]},
        ),
        ("http://localhost:8801/x", [], {"route": "billing", "way_in": "the route's own listener"}),
        (
            "http://127.0.0.1:8787/",
            ["Host: billing.internal"],
            {"route": "billing", "way_in": "Host: billing.internal"},
        ),
        (
            "http://storage.googleapis.com/x",
            [],
            {"route": "storage", "way_in": "HTTP_PROXY, or Host: storage.googleapis.com"},
        ),
        (
            "http://svc-x.a.run.app/",
            [],
            {"route": "services", "audience": "https://svc-x.a.run.app", "target": "cloud_run"},
        ),
        (
            "http://billing.localhost:8787/",
            [OWN],
            {"headers": ["X-Serverless-Authorization"], "route": "billing"},
        ),
        ("http://reports.localhost:8787/", [OWN], {"headers": ["Proxy-Authorization"], "target": "iap"}),
        (
            "http://reports.localhost:8787/",
            [],
            {"headers": ["Authorization"], "audience": "1-a.apps.googleusercontent.com"},
        ),
        (
            "http://api.localhost:8787/",
            [OWN],
            {"headers": [], "says": "The app's own header stays and no token is sent: `on_conflict: keep`."},
        ),
        ("http://other.localhost:8787/", [OWN], {"headers": ["Authorization"], "route": "other"}),
        ("http://storage.localhost:8787/", [], {"token": "access", "scopes": "a b", "target": "googleapis"}),
    ],
)
def test_what_is_taken(url: str, headers: list[str], expected: dict[str, Any]) -> None:
    """Route, way in, where it goes, which header."""
    found = explain(CONFIG, url, headers)
    assert found["taken"]
    assert expected.items() <= found.items()


@pytest.mark.parametrize(
    ("url", "headers", "reason", "says"),
    [
        ("http://biling.internal/", [], "no_route", "nearest route is `billing`"),
        ("http://localhost:8787/nothing", [], "no_route", ""),
        ("http://localhost:8801/", ["Origin: https://evil.example"], "caller_refused", ""),
        ("http://localhost:8801/", ["Host: evil.example"], "caller_refused", ""),
        ("http://storage.localhost:8787/", [OWN], "header_conflict", "on_conflict"),
        ("http://billing.localhost:8787/", ["Sec-Fetch-Site: cross-site"], "caller_refused", ""),
    ],
)
def test_what_is_refused(url: str, headers: list[str], reason: str, says: str) -> None:
    """With the answer that the sidecar would give."""
    found = explain(CONFIG, url, headers)
    assert not found["taken"]
    assert found["reason"] == reason
    assert says in found["says"]


@pytest.mark.parametrize(
    ("url", "headers"), [("ftp://x", []), ("http://", []), ("http://x/", ["nonsense"]), ("http://[::1/", [])]
)
def test_what_is_no_request(url: str, headers: list[str]) -> None:
    """A sentence, and no traceback."""
    with pytest.raises(ValueError, match=r"."):
        explain(CONFIG, url, headers)


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("GET", "/v1/x", None),
        ("POST", "/v1/x?a=b", None),
        ("DELETE", "/v1/x", "not_allowed"),
        ("GET", "/v2", "not_allowed"),
        ("GET", "/v1/%2e%2e/v2", "path_ambiguous"),
    ],
)
def test_what_a_route_allows(method: str, path: str, reason: str | None) -> None:
    """By any way in; the prefix is no part of the path."""
    for url in (f"http://billing.localhost:8787{path}", f"http://localhost:8787/billing{path}"):
        found = explain(LISTED, url, [], method)
        assert found.get("reason") == reason
        assert found["taken"] is (reason is None)


def test_a_method_that_is_not_carried_is_no_request() -> None:
    """Nor is a misspelt one."""
    with pytest.raises(ValueError, match="`get`"):
        explain(LISTED, "http://billing.localhost/", [], "get")


@pytest.mark.parametrize(
    ("url", "headers", "route", "way"),
    [
        ("http://localhost:8787/x", [], "root", "path_prefix /"),
        ("http://LOCALHOST.:8787/x", [], "root", "path_prefix /"),
        ("http://localhost:7001/x", [], "root", "path_prefix /"),
        ("http://local.localhost:8787/x", [], "local", "its name under .localhost"),
        ("http://10.0.0.1:8080/x", [], "root", "path_prefix /"),
        ("http://10.0.0.1/x", [], "literal", "HTTP_PROXY, or Host: 10.0.0.1"),
        ("http://127.0.0.1:8801/x", ["Host: 10.0.0.1"], "root", "the route's own listener"),
    ],
)
def test_ways_in_where_upstreams_are_on_loopback(url: str, headers: list[str], route: str, way: str) -> None:
    """The way that is told is the one that was found, and no guess."""
    found = explain(LOOPBACK, url, headers)
    assert (found["route"], found["way_in"]) == (route, way)


@pytest.mark.parametrize(
    ("url", "headers", "reason"),
    [
        ("http://localhost:8787/%zz", [], "malformed_request"),
        ("http://localhost:8787/a/../../b", [], "malformed_request"),
        ("http://localhost:8787/", ["Host: root.example", "Host: root.example"], "bad_host"),
        ("http://10.0.0.2/x", [], "no_route"),
    ],
)
def test_what_is_refused_before_any_route(url: str, headers: list[str], reason: str) -> None:
    """As by the sidecar itself."""
    assert explain(LOOPBACK, url, headers)["reason"] == reason


def test_the_listeners_may_be_those_that_were_bound() -> None:
    """The port of a listener on port 0 is known when it listens."""
    places = [(parse_listen("127.0.0.1:41234"), "root"), (parse_listen("127.0.0.1:41235"), None)]
    found = explain(LOOPBACK, "http://localhost:41234/x", [], places=places)
    assert found["way_in"] == "the route's own listener"


def test_what_is_no_ascii_is_sent_as_its_escapes() -> None:
    """As requests are."""
    found = explain(CONFIG, "http://billing.localhost:8787/café?q=ä", [])
    assert found["sent_to"].endswith("/caf%C3%A9?q=%C3%A4")


READ = load(
    """
intercept: {bundle_file: /run/x/ca.pem}
routes:
  - {name: read, upstream: 'https://read.example', audience: a, intercept: true}
  - {name: left, upstream: 'https://left.example', audience: a}
""",
    environ={},
).config


def test_https_is_taken_where_it_is_read() -> None:
    """And what is said of other routes' is what the app would be answered."""
    taken = explain(READ, "https://read.example/x", [])
    assert (taken["route"], taken["way_in"]) == ("read", "HTTPS_PROXY, or a listener with `intercept`")
    assert taken["sent_to"] == "https://read.example/x"
    for url, words in (("https://left.example/", "intercept: true"), ("https://no.example/", "NO_PROXY")):
        refused = explain(READ, url, [])
        assert (refused["taken"], refused["status"]) == (False, 501)
        assert words in refused["says"]
    assert explain(READ, "http://left.example/", [])["taken"]


@pytest.mark.parametrize(
    ("host", "headers", "says"),
    [
        ("billing", [], "The token goes in `Authorization`: `header: auto`."),
        (
            "other",
            [OWN],
            "The token goes in `Authorization` and replaces the app's own `Authorization`: `on_conflict: replace`.",
        ),
        ("api", [OWN], "The app's own header stays and no token is sent: `on_conflict: keep`."),
        (
            "reports",
            [OWN],
            "The token goes in `Proxy-Authorization`, and the app's own `Authorization` passes untouched.",
        ),
    ],
)
def test_where_the_token_goes(host: str, headers: list[str], says: str) -> None:
    """Word for word, with the setting that decides it."""
    found = explain(CONFIG, f"http://{host}.internal/", lines=headers)
    assert (found["taken"], found["says"]) == (True, says)
    assert found["credential"] == "default"


def test_what_is_refused_says_so_as_an_answer_would() -> None:
    """Status, reason and the sentence."""
    found = explain(CONFIG, "http://nobody.internal/", [])
    assert sorted(found) == ["reason", "says", "status", "taken"]
    assert (found["taken"], found["status"], found["reason"]) == (False, 404, "no_route")


@pytest.mark.parametrize("line", ["Authorization", ": x", " : x"])
def test_a_header_line_has_a_name_and_a_value(line: str) -> None:
    """It is not repeated: what stands there is often a token."""
    with pytest.raises(ValueError, match=r"^a header line has a name") as caught:
        explain(CONFIG, "http://billing.internal/", lines=[line])
    assert str(caught.value).endswith("such as `Authorization: Bearer x`")


def test_what_no_route_takes_may_be_answered_here() -> None:
    """Google's token endpoints by https, where that is on; by http they are hosts of no route."""
    text = "google_token_endpoints: {}\nintercept: {bundle_file: /a/b}\nroutes: [{name: a, upstream: 'https://a.run.app'}]"
    config = load(text, environ={}).config
    found = explain(config, "https://oauth2.googleapis.com/token", [], "POST")
    assert (found["taken"], found["answered_by"]) == (True, "google_token_endpoints")
    assert explain(config, "http://oauth2.googleapis.com/token", [], "POST")["status"] == 404
