"""The document of /status.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf, nan

import pytest

from sidecar.admin.history import Recent, TrafficSample
from sidecar.admin.page import page
from sidecar.admin.status import (
    UNSHOWN,
    HandoutStatus,
    ProcessStatus,
    RouteLinks,
    RouteStatus,
    RouteTraffic,
    Traffic,
    document,
    ways_in,
)
from sidecar.errors import Reason
from sidecar.proxy.refusals.diagnosis import Cause, Diagnosis
from sidecar.proxy.refusals.outages import ErrorGroup, Refusing
from sidecar.proxy.refusals.refusals import LastRefusal
from sidecar.tokens.entry import LastError, TokenState, TokenStatus
from sidecar.tokens.token import TokenKey
from tests.support.named_source import NamedSource

NOW = 1_700_003_600.0
PROCESS = ProcessStatus(
    version="1.2.3",
    started_at=1_700_000_000.0,
    ready=False,
    reasons=["Route `billing` has had no token yet."],
    draining=False,
    listen=["127.0.0.1:8787", "[::1]:8787"],
    configured_at=NOW - 3600.0,
    reload_error=("It is broken.", NOW - 2.0),
    handouts=[
        HandoutStatus(
            "metadata_server",
            ["127.0.0.1:8788"],
            "default",
            ["https://*.a.run.app"],
            ["a"],
            given=4,
            refused=1,
        )
    ],
)
ROUTE = RouteStatus(
    name="billing",
    upstream="https://billing.run.app",
    audience="https://billing.run.app",
    credential="default",
    target="cloud_run",
    token="id",
    refusal=LastRefusal(Diagnosis(Cause.HIDDEN, "It is hidden.", "gcloud run"), 404, NOW - 2.0),
    refusing=Refusing(Reason.TOKEN_TIMEOUT, "No token came.", "", NOW - 60.0, NOW - 1.0, 240),
    ways_in=[("host", "Host: billing.internal")],
    url="http://localhost:8801",
)
RECENT = Recent(2.5, 1, 3, 0.001, 0.01, 0.00003)
TRAFFIC = Traffic(
    samples=[TrafficSample(NOW - 5.0, 10.0, 0.5, 0.001, 0.01, None)],
    routes=[
        RouteTraffic("billing", 100, 2, 1, 5, 6, RECENT, 40, RouteLinks(1, 2, 3, 4, 5)),
        RouteTraffic("", 3, 0, 3, 0, 0),
    ],
    errors=[ErrorGroup("billing", Reason.TOKEN_TIMEOUT, 240, NOW - 60.0, NOW - 1.0, "No token came.", "")],
)
NOTHING = Traffic([], [], [])
TOKEN = TokenStatus(
    key=TokenKey(NamedSource("default"), "https://billing.run.app"),
    state=TokenState.STALE,
    expires_at=NOW + 100.5,
    renew_at=NOW - 3.0,
    last_error=LastError(Reason.TOKEN_TIMEOUT, "The metadata server did not answer in 5 s.", NOW - 1.0),
    waiting=2,
    issued_at=NOW - 3500.0,
)


def unexpected(fault: Exception, where: str) -> None:
    """No row is broken here."""
    raise fault


def test_the_document_shows_process_routes_and_tokens() -> None:
    """Every part is there, moments as RFC 3339 in UTC, durations in seconds."""
    assert document(PROCESS, [ROUTE], [TOKEN], TRAFFIC, now=NOW, note=unexpected) == {
        "version": "1.2.3",
        "now": "2023-11-14T23:13:20.000Z",
        "started_at": "2023-11-14T22:13:20.000Z",
        "uptime": 3600.0,
        "ready": False,
        "reasons": ["Route `billing` has had no token yet."],
        "draining": False,
        "listen": ["127.0.0.1:8787", "[::1]:8787"],
        "configuration": {
            "read_at": "2023-11-14T22:13:20.000Z",
            "last_error": {"detail": "It is broken.", "at": "2023-11-14T23:13:18.000Z"},
        },
        "routes": [
            {
                "name": "billing",
                "upstream": "https://billing.run.app",
                "audience": "https://billing.run.app",
                "credential": "default",
                "target": "cloud_run",
                "token": "id",
                "refusing": {
                    "status": 503,
                    "reason": "token_timeout",
                    "detail": "No token came.",
                    "command": None,
                    "count": 240,
                    "since": "2023-11-14T23:12:20.000Z",
                    "last_at": "2023-11-14T23:13:19.000Z",
                },
                "last_refusal": {
                    "status": 404,
                    "reason": "hidden",
                    "detail": "It is hidden.",
                    "command": "gcloud run",
                    "at": "2023-11-14T23:13:18.000Z",
                    "good_since": 0,
                },
                "ways_in": [{"kind": "host", "use": "Host: billing.internal"}],
                "url": "http://localhost:8801",
            }
        ],
        "tokens": [
            {
                "credential": "default",
                "audience": "https://billing.run.app",
                "kind": "id",
                "state": "stale",
                "issued_at": "2023-11-14T22:15:00.000Z",
                "expires_at": "2023-11-14T23:15:00.500Z",
                "expires_in": 100.5,
                "renew_at": "2023-11-14T23:13:17.000Z",
                "waiting": 2,
                "last_error": {
                    "reason": "token_timeout",
                    "detail": "The metadata server did not answer in 5 s.",
                    "command": None,
                    "at": "2023-11-14T23:13:19.000Z",
                },
            }
        ],
        "handouts": [
            {
                "server": "metadata_server",
                "listen": ["127.0.0.1:8788"],
                "credential": "default",
                "audiences": ["https://*.a.run.app"],
                "scopes": ["a"],
                "given": 4,
                "refused": 1,
            }
        ],
        "traffic": {
            "interval": 10.0,
            "samples": [
                {
                    "at": "2023-11-14T23:13:15.000Z",
                    "requests_per_second": 10.0,
                    "errors_per_second": 0.5,
                    "median": 0.001,
                    "p99": 0.01,
                    "own_median": None,
                }
            ],
            "routes": [
                {
                    "name": "billing",
                    "requests": 100,
                    "in_flight": 2,
                    "refused": 1,
                    "upstream_4xx": 5,
                    "upstream_5xx": 6,
                    "last_minute": {
                        "requests_per_second": 2.5,
                        "answers_4xx": 1,
                        "answers_5xx": 3,
                        "median": 0.001,
                        "p99": 0.01,
                        "own_median": 0.00003,
                    },
                    "http2": 40,
                    "links": {
                        "http1": {"busy": 1, "idle": 2},
                        "http2": {"busy": 3, "idle": 4, "streams": 5},
                    },
                },
                {
                    "name": "(no route)",
                    "requests": 3,
                    "in_flight": 0,
                    "refused": 3,
                    "upstream_4xx": 0,
                    "upstream_5xx": 0,
                    "last_minute": {
                        "requests_per_second": 0.0,
                        "answers_4xx": 0,
                        "answers_5xx": 0,
                        "median": None,
                        "p99": None,
                        "own_median": None,
                    },
                    "http2": 0,
                    "links": {
                        "http1": {"busy": 0, "idle": 0},
                        "http2": {"busy": 0, "idle": 0, "streams": 0},
                    },
                },
            ],
        },
        "errors": [
            {
                "at": "2023-11-14T23:13:19.000Z",
                "route": "billing",
                "status": 503,
                "reason": "token_timeout",
                "detail": "No token came.",
                "command": None,
                "count": 240,
                "first_at": "2023-11-14T23:12:20.000Z",
                "last_at": "2023-11-14T23:13:19.000Z",
            }
        ],
    }


def test_what_is_not_known_is_null() -> None:
    """A key without a token has null for its moments and its error, and the document is plain JSON."""
    token = TokenStatus(
        key=TokenKey(NamedSource("default"), "https://a"),
        state=TokenState.MISSING,
        expires_at=None,
        renew_at=None,
        last_error=None,
        waiting=0,
    )
    (shown,) = json.loads(json.dumps(document(PROCESS, [], [token], NOTHING, now=NOW, note=unexpected)))[
        "tokens"
    ]
    assert [shown[key] for key in ("expires_at", "expires_in", "renew_at", "last_error")] == [None] * 4


def test_uptime_is_never_negative() -> None:
    """A wall clock that was stepped back below the start shows no negative uptime."""
    assert document(PROCESS, [], [], NOTHING, now=PROCESS.started_at - 60, note=unexpected)["uptime"] == 0.0


@pytest.mark.parametrize("absurd", [1e300, inf, -inf, nan, 253402387200.0, -1e18], ids=repr)
def test_an_absurd_moment_is_shown_and_harms_nothing(absurd: float) -> None:
    """Wherever it stands: every row is there, the document is JSON for every reader, and the page is whole."""
    token = TOKEN._replace(expires_at=absurd, renew_at=absurd, issued_at=absurd)
    process = PROCESS._replace(configured_at=absurd, reload_error=("Odd.", absurd))
    route = ROUTE._replace(refusal=LastRefusal(Diagnosis(Cause.HIDDEN, "Hidden.", ""), 404, absurd))
    traffic = TRAFFIC._replace(
        samples=[TRAFFIC.samples[0]._replace(at=absurd)],
        errors=[TRAFFIC.errors[0]._replace(first_at=absurd, last_at=absurd)],
    )
    well = ROUTE._replace(name="well", audience="https://well.run.app")
    shown = document(process, [route, well], [token, TOKEN], traffic, now=NOW, note=unexpected)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert [row["audience"] for row in shown["tokens"]] == [TOKEN.key.audience] * 2
    assert page(shown, "", unexpected).count("<tbody") == 2


def test_a_row_that_cannot_be_written_takes_no_other_along() -> None:
    """It says so in its place, in the document and on the page, and the fault is noted."""
    faults: list[str] = []

    def note(fault: Exception, where: str) -> None:
        faults.append(f"{where}: {type(fault).__name__}")

    broken_route = ROUTE._replace(name="broken", ways_in=[("one",)])  # type: ignore[list-item]
    broken_token = TOKEN._replace(expires_at="soon")  # type: ignore[arg-type]
    broken_error = TRAFFIC.errors[0]._replace(last_at="then")  # type: ignore[arg-type]
    shown = document(
        PROCESS,
        [broken_route, ROUTE],
        [broken_token, TOKEN],
        TRAFFIC._replace(errors=[broken_error, *TRAFFIC.errors]),
        now=NOW,
        note=note,
    )
    assert faults == ["status: ValueError", "status: TypeError", "status: TypeError"]
    assert shown["routes"][0] == {"name": "broken", "fault": UNSHOWN}
    assert shown["tokens"][0] == {"credential": "default", "audience": TOKEN.key.audience, "fault": UNSHOWN}
    assert shown["errors"][0] == {"route": "billing", "fault": UNSHOWN}
    assert [rows[1].get("fault") for rows in (shown["routes"], shown["tokens"], shown["errors"])] == [
        None
    ] * 3
    text = page(shown, "", unexpected)
    assert text.count(UNSHOWN) == 3
    assert "Host: billing.internal" in text


def test_a_row_that_cannot_be_drawn_takes_no_other_along() -> None:
    """The page stands, whatever the document holds."""
    faults: list[str] = []
    shown = document(PROCESS, [ROUTE, ROUTE], [TOKEN, TOKEN], TRAFFIC, now=NOW, note=unexpected)
    shown["routes"][0] = {"name": "<b>"}
    shown["tokens"][0]["expires_at"] = "soon"
    shown["errors"].append({"at": 7})
    text = page(shown, "", lambda fault, where: faults.append(where))
    assert faults == ["status page"] * 3
    assert text.count(UNSHOWN) == 3
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert text.count("<li><code>Host: billing.internal</code>") == 1


def test_an_error_that_quotes_a_token_does_not_show_it() -> None:
    """Should a failure's detail ever hold a token, the document still does not."""
    error = LastError(Reason.TOKEN_MALFORMED, "Got eyJhbGciOiJS.eyJhdWQi.c2ln for an answer.", NOW)
    shown = document(PROCESS, [], [TOKEN._replace(last_error=error)], NOTHING, now=NOW, note=unexpected)
    assert shown["tokens"][0]["last_error"]["detail"] == "Got [redacted] for an answer."


def test_the_ways_of_a_route_whose_https_is_read() -> None:
    """By the proxy, and at a listener that takes https for hosts, which is no base URL."""
    assert ways_in(
        "billing",
        ["billing.run.app"],
        dynamic=False,
        path_prefix=None,
        shared=["127.0.0.1:443", "127.0.0.1:8787"],
        own=["127.0.0.2:443"],
        secure=["127.0.0.1:443", "127.0.0.2:443"],
        by_name=["127.0.0.1:443", "127.0.0.2:443"],
        intercepted=True,
    ) == [
        ("host", "Host: billing.run.app"),
        ("name", "http://billing.localhost:8787/"),
        ("http_proxy", "http://billing.run.app/ with HTTP_PROXY=http://127.0.0.1:8787"),
        ("https_proxy", "https://billing.run.app/ with HTTPS_PROXY=http://127.0.0.1:8787"),
        ("https", "https://billing.run.app/ at 127.0.0.1:443"),
        ("https", "https://billing.run.app/ at 127.0.0.2:443"),
    ]


@pytest.mark.parametrize(
    ("hosts", "dynamic", "path_prefix", "shared", "own", "expected"),
    [
        pytest.param(
            ["billing.internal", "billing.run.app"],
            False,
            "/billing",
            ["127.0.0.1:8787", "[::1]:8787"],
            ["127.0.0.1:8801", "unix:/run/billing.sock"],
            [
                ("host", "Host: billing.internal"),
                ("host", "Host: billing.run.app"),
                ("name", "http://billing.localhost:8787/"),
                ("path_prefix", "http://127.0.0.1:8787/billing/"),
                ("http_proxy", "http://billing.internal/ with HTTP_PROXY=http://127.0.0.1:8787"),
                ("http_proxy", "http://billing.run.app/ with HTTP_PROXY=http://127.0.0.1:8787"),
                ("listen", "http://127.0.0.1:8801/"),
                ("listen", "unix:/run/billing.sock"),
            ],
            id="all-ways",
        ),
        pytest.param(
            ["billing.run.app"],
            False,
            "/",
            ["unix:/run/proxy.sock", "[::]:8787"],
            ["0.0.0.0:8801"],
            [
                ("host", "Host: billing.run.app"),
                ("name", "http://billing.localhost:8787/"),
                ("path_prefix", "http://[::1]:8787/"),
                ("http_proxy", "http://billing.run.app/ with HTTP_PROXY=http://[::1]:8787"),
                ("listen", "http://127.0.0.1:8801/"),
            ],
            id="bound-to-everything",
        ),
        pytest.param(
            ["*.a.run.app"],
            True,
            "/billing",
            ["127.0.0.1:8787"],
            [],
            [
                ("host", "Host: *.a.run.app"),
                ("http_proxy", "http://*.a.run.app/ with HTTP_PROXY=http://127.0.0.1:8787"),
            ],
            id="upstream-follows-the-host",
        ),
        pytest.param(
            ["billing.internal"],
            False,
            "/billing",
            ["unix:/run/proxy.sock"],
            [],
            [("host", "Host: billing.internal")],
            id="unix-socket-only",
        ),
    ],
)
def test_ways_in_are_written_as_they_are_used(
    hosts: Sequence[str],
    dynamic: bool,
    path_prefix: str | None,
    shared: Sequence[str],
    own: Sequence[str],
    expected: list[tuple[str, str]],
) -> None:
    """Each way in to a route is spelled with the addresses that are bound, ready to be copied."""
    ways = ways_in("billing", hosts, dynamic=dynamic, path_prefix=path_prefix, shared=shared, own=own)
    assert ways == expected


def test_refusing_routes_come_first_and_are_marked() -> None:
    """In the order of the configuration otherwise; on the page, with the cause, the count and since when."""
    well = ROUTE._replace(name="well", refusing=None, refusal=None)
    shown = document(PROCESS, [well, ROUTE], [], TRAFFIC, now=NOW, note=unexpected)
    assert [(row["name"], row["refusing"] is not None) for row in shown["routes"]] == [
        ("billing", True),
        ("well", False),
    ]
    text = page({**shown, "ready": True}, "", unexpected)
    assert "ready, but routes refuse requests" in text
    assert '1 of 2 routes is refusing requests: <a href="#route-billing">billing</a>.' in text
    assert text.count("refuses requests") == 1
    assert "240 times" in text
    assert text.index("<summary>billing<") < text.index("<summary>well<")


@pytest.mark.parametrize(("good", "red"), [(0, True), (1, False), (7, False)])
def test_a_targets_refusal_is_red_until_it_gives_a_good_answer(good: int, red: bool) -> None:
    """From then on it is told without its advice, and with how many good answers there were."""
    refusal = LastRefusal(Diagnosis(Cause.HIDDEN, "It is hidden.", "gcloud run"), 404, NOW - 2.0, good)
    route = ROUTE._replace(refusing=None, refusal=refusal)
    text = page(document(PROCESS, [route], [], NOTHING, now=NOW, note=unexpected), "", unexpected)
    assert ("It is hidden." in text) == red
    assert (f"{good} good answer" in text) == (not red)


def test_the_page_says_what_gives_tokens_to_programs() -> None:
    """Where, of which credential, for how much, and how often it did and did not."""
    shown = document(PROCESS, [], [], NOTHING, now=NOW, note=unexpected)
    text = page(shown, "", unexpected)
    assert (
        "<code>metadata_server</code> on <code>127.0.0.1:8788</code> gives programs tokens of credential default, for "
        "1 audience and 1 scope: 4 so far, and 1 requests were refused"
    ) in text
    assert "gives programs" not in page({**shown, "handouts": []}, "", unexpected)
    shown["handouts"][0].update(server="google_token_endpoints", listen=[])
    assert "google_token_endpoints</code> in tunnels (<code>HTTPS_PROXY</code>) gives" in page(
        shown, "", unexpected
    )
