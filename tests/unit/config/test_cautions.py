"""sidecar.config.cautions: what is valid, and may not be what was meant"""

from __future__ import annotations

import time

import pytest

from sidecar.config.load import load

FIXED = "upstream: 'https://{}.example'"


def warned(routes: str) -> list[str]:
    """What is said of these routes, without where."""
    loaded = load("routes:\n" + routes, file="FILE", environ={})
    return [warning.partition(": ")[2] for warning in loaded.warnings]


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        pytest.param(
            """
- {name: billing, upstream: 'https://billing.a.run.app'}
- {name: any, host: '*.run.app', upstream: 'https://{host}'}
""",
            [
                "routes[0]: requests for its upstream's host, `billing.a.run.app`, go to route `any`, whose `*.run.app` "
                "covers it: write `host: billing.a.run.app` here to have them"
            ],
            id="default-under-a-wildcard",
        ),
        pytest.param(
            """
- {name: any, host: '*.run.app', upstream: 'https://{host}'}
- {name: billing, host: billing.a.run.app, upstream: 'https://billing.a.run.app'}
- {name: reports, host: '*.b.run.app', upstream: 'https://{host}'}
""",
            [
                "routes[0].host: `*.run.app` covers `billing.a.run.app` (route `billing`) and `*.b.run.app` (route "
                "`reports`) too: requests for that go there, all others come here"
            ],
            id="host-and-wildcard-under-a-wildcard",
        ),
        pytest.param(
            """
- {name: any, host: ['*.run.app', x.run.app], upstream: 'https://{host}'}
- {name: near, host: [run.app, xrun.app, 10.0.0.1], upstream: 'https://near.example'}
- {name: own, host: own.internal, upstream: 'https://own.run.app'}
""",
            [],
            id="nothing-of-others-under-a-wildcard",
        ),
        pytest.param(
            """
- {name: a, upstream: 'https://a.example', path_prefix: /a}
- {name: deep, upstream: 'https://deep.example', path_prefix: /a/b/c}
- {name: near, upstream: 'https://near.example', path_prefix: /ab}
""",
            [
                "routes[1].path_prefix: `/a/b/c` lies under `/a` of route `a`: what is below the longer one comes here, "
                "the rest goes there"
            ],
            id="prefix-under-a-prefix",
        ),
        pytest.param(
            """
- {name: root, upstream: 'https://root.example', path_prefix: /}
- {name: a, upstream: 'https://a.example', path_prefix: /a}
""",
            [
                "routes[1].path_prefix: `/a` lies under `/` of route `root`: what is below the longer one comes here, the "
                "rest goes there"
            ],
            id="prefix-under-the-root",
        ),
        pytest.param(
            """
- {name: local, host: [localhost, x.localhost, local.internal], upstream: 'http://localhost:7001'}
- {name: a, upstream: 'https://a.example', path_prefix: /a}
""",
            [
                "routes[0].host: `localhost` is how apps call the listener itself: with it every request comes to "
                "this route, and none to a `path_prefix` such as `/a` (route `a`). Leave it out, and give this route "
                "`path_prefix: /` if it should get the rest"
            ],
            id="loopback-beside-prefixes",
        ),
        pytest.param(
            "- {name: a, host: 127.0.0.1, upstream: 'https://a.example', path_prefix: /a}",
            [
                "routes[0].host: `127.0.0.1` is how apps call the listener itself: with it every request comes to "
                "this route, and none to a `path_prefix` such as `/a` (route `a`). Leave it out, and give this route "
                "`path_prefix: /` if it should get the rest"
            ],
            id="loopback-beside-its-own-prefix",
        ),
        pytest.param(
            "- {name: a, host: localhost, upstream: 'https://a.example'}", [], id="loopback-without-prefixes"
        ),
        pytest.param(
            """
- {name: a, upstream: 'http://localhost:7001'}
- {name: b, upstream: 'http://localhost:7002'}
- {name: c, upstream: 'https://c.example', path_prefix: /c}
""",
            [],
            id="loopback-upstreams-claim-nothing",
        ),
        pytest.param(
            "- {name: a, host: [a.corp.example, b.corp.example], upstream: 'https://{host}', audience: x}",
            [
                "routes[0].audience: `a.corp.example` and `b.corp.example` get one token, which each of them could use "
                "at the others: write `{host}` into it, give each a route of its own, or set "
                "`wildcard_audience: shared`"
            ],
            id="listed-hosts-that-share-a-token",
        ),
        pytest.param(
            """
- {name: a, host: [a.corp.example, b.corp.example], upstream: 'https://{host}', audience: x, wildcard_audience: shared}
- {name: b, host: [c.corp.example, d.corp.example], upstream: 'https://{host}', audience: 'https://{host}/x'}
- {name: c, host: [e.corp.example, f.corp.example], upstream: 'https://g.example', audience: x}
- {name: d, host: h.corp.example, upstream: 'https://{host}', audience: x}
- {name: e, host: [storage.googleapis.com, pubsub.googleapis.com], upstream: 'https://{host}', token: access}
""",
            [],
            id="hosts-that-may",
        ),
    ],
)
def test_what_is_warned_of(routes: str, expected: list[str]) -> None:
    """Each with the route that takes what, and what to write for the other outcome."""
    assert warned(routes) == expected


def test_a_warning_has_its_place() -> None:
    """File, line and column, as an error has."""
    text = """
routes:
  - {name: a, upstream: 'https://a.example', path_prefix: /}
  - name: b
    upstream: https://b.example
    path_prefix: /b
"""
    (warning,) = load(text, file="FILE", environ={}).warnings
    assert warning.startswith("FILE:6:5: routes[1].path_prefix: ")


def test_thousands_of_hosts_are_one_warning() -> None:
    """Which names a few; a thousand routes under wildcards and prefixes take little longer than without."""
    routes = [
        f"- {{name: r{n}, host: r{n}.a.run.app, upstream: 'https://r{n}.example', path_prefix: /p/r{n}}}"
        for n in range(1000)
    ]
    began = time.thread_time()
    (wildcard,) = warned("\n".join([*routes, "- {name: any, host: '*.run.app', upstream: 'https://{host}'}"]))
    taken = time.thread_time() - began
    assert "`r2.a.run.app` (route `r2`) and 997 more too" in wildcard
    began = time.thread_time()
    warned("\n".join(routes))
    assert taken < 3 * (time.thread_time() - began) + 0.5


@pytest.mark.parametrize(
    ("audience", "target", "warned"),
    [
        ("https://svc-abc-uc.a.run.app/path", "auto", True),
        ("https://svc-abc-uc.a.run.app/path", "other", False),
        ("https://svc-abc-uc.a.run.app/", "auto", False),
        ("https://svc-abc-uc.a.run.app", "auto", False),
        ("my-audience", "auto", False),
    ],
)
def test_an_audience_with_a_path_is_doubtful_on_cloud_run(audience: str, target: str, warned: bool) -> None:
    """It takes the service's URL, or a custom audience that it was given."""
    text = f"routes: [{{name: a, upstream: 'https://svc-abc-uc.a.run.app', audience: '{audience}', target: {target}}}]"
    found = load(text, environ={}).warnings
    assert bool(found) is warned
    if found:
        assert "routes[0].audience: it has a path" in found[0]
        assert "write `https://svc-abc-uc.a.run.app`" in found[0]
