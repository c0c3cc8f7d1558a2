"""The document of /status.json."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from sidecar.admin.status import ProcessStatus, RouteStatus, document, ways_in
from sidecar.errors import Reason
from sidecar.proxy.diagnosis import Cause, Diagnosis
from sidecar.proxy.refusals import LastRefusal
from sidecar.tokens.entry import LastError, State, TokenStatus
from sidecar.tokens.token import TokenKey

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
)
ROUTE = RouteStatus(
    name="billing",
    upstream="https://billing.run.app",
    audience="https://billing.run.app",
    credential="default",
    target="cloud_run",
    token="id",
    refusal=LastRefusal(Diagnosis(Cause.HIDDEN, "It is hidden.", "gcloud run"), 404, NOW - 2.0),
    ways_in=[("host", "Host: billing.internal")],
)
TOKEN = TokenStatus(
    key=TokenKey("default", "https://billing.run.app"),
    state=State.STALE,
    expires_at=NOW + 100.5,
    renew_at=NOW - 3.0,
    last_error=LastError(Reason.TOKEN_TIMEOUT, "The metadata server did not answer in 5 s.", NOW - 1.0),
    waiting=2,
)


def test_the_document_shows_process_routes_and_tokens() -> None:
    """Every part is there, moments as RFC 3339 in UTC, durations in seconds."""
    assert document(PROCESS, [ROUTE], [TOKEN], now=NOW) == {
        "version": "1.2.3",
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
                "last_refusal": {
                    "status": 404,
                    "reason": "hidden",
                    "detail": "It is hidden.",
                    "command": "gcloud run",
                    "at": "2023-11-14T23:13:18.000Z",
                },
                "ways_in": [{"kind": "host", "use": "Host: billing.internal"}],
            }
        ],
        "tokens": [
            {
                "credential": "default",
                "audience": "https://billing.run.app",
                "kind": "id",
                "state": "stale",
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
    }


def test_what_is_not_known_is_null() -> None:
    """A key without a token has null for its moments and its error, and the document is plain JSON."""
    token = TokenStatus(
        key=TokenKey("default", "https://a"),
        state=State.MISSING,
        expires_at=None,
        renew_at=None,
        last_error=None,
        waiting=0,
    )
    (shown,) = json.loads(json.dumps(document(PROCESS, [], [token], now=NOW)))["tokens"]
    assert [shown[key] for key in ("expires_at", "expires_in", "renew_at", "last_error")] == [None] * 4


def test_uptime_is_never_negative() -> None:
    """A wall clock that was stepped back below the start shows no negative uptime."""
    assert document(PROCESS, [], [], now=PROCESS.started_at - 60)["uptime"] == 0.0


def test_an_error_that_quotes_a_token_does_not_show_it() -> None:
    """Should a failure's detail ever hold a token, the document still does not."""
    error = LastError(Reason.TOKEN_MALFORMED, "Got eyJhbGciOiJS.eyJhdWQi.c2ln for an answer.", NOW)
    shown = document(PROCESS, [], [TOKEN._replace(last_error=error)], now=NOW)
    assert shown["tokens"][0]["last_error"]["detail"] == "Got [redacted] for an answer."


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
