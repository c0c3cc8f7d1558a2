"""Liveness, readiness, startup."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

REASON = "Route `billing` has had no token yet: token_endpoint_unreachable."

MISSING = "1 of 3 tokens missing: token_denied: Not allowed."


@pytest.mark.parametrize(
    ("path", "state", "status", "text"),
    [
        pytest.param("live", {}, 200, "live\n", id="live"),
        pytest.param("live", {"draining": True, "reasons": [REASON]}, 200, "live\n", id="live-whatever-else"),
        pytest.param("ready", {}, 200, "ready\n", id="ready"),
        pytest.param("ready", {"reasons": [REASON]}, 503, f"not ready\n- {REASON}\n", id="not-ready"),
        pytest.param(
            "ready",
            {"draining": True},
            503,
            "not ready\n- The sidecar is shutting down.\n",
            id="draining-though-all-is-well",
        ),
        pytest.param("ready", {"missing": MISSING}, 200, f"ready; {MISSING}\n", id="ready-without-tokens"),
        pytest.param(
            "ready",
            {"missing": MISSING, "reasons": [REASON]},
            503,
            f"not ready; {MISSING}\n- {REASON}\n",
            id="neither-ready-nor-tokens",
        ),
        pytest.param("live", {"missing": MISSING}, 200, "live\n", id="live-without-tokens"),
        pytest.param("startup", {}, 200, "started\n", id="started"),
        pytest.param(
            "startup",
            {"started": False, "reasons": [REASON]},
            503,
            f"not started\n- {REASON}\n",
            id="not-started",
        ),
        pytest.param("startup", {"reasons": [REASON]}, 200, "started\n", id="started-is-never-taken-back"),
        pytest.param("startup", {"draining": True}, 200, "started\n", id="started-while-draining"),
    ],
)
async def test_a_probe_answers_by_state(
    client: aiohttp.ClientSession, view: Any, path: str, state: dict[str, Any], status: int, text: str
) -> None:
    """Live while it answers; ready while nothing speaks against traffic, never while draining; started once."""
    vars(view).update(state)
    answer = await client.get(f"/healthz/{path}")
    assert (answer.status, await answer.text()) == (status, text)
    assert answer.content_type == "text/plain"


@pytest.mark.parametrize("accept", ["application/json", "text/html, Application/JSON;q=0.5"])
async def test_reasons_come_as_json_when_asked_for(
    client: aiohttp.ClientSession, view: Any, accept: str
) -> None:
    """`Accept: application/json` gets the same as JSON."""
    view.reasons = [REASON]
    answer = await client.get("/healthz/ready", headers={"Accept": accept})
    assert answer.status == 503
    assert await answer.json() == {"ready": False, "reasons": [REASON]}


async def test_what_is_missing_comes_as_json_too(client: aiohttp.ClientSession, view: Any) -> None:
    """Beside `reasons`, which are those of not being ready."""
    view.missing = MISSING
    answer = await client.get("/healthz/ready", headers={"Accept": "application/json"})
    assert (answer.status, await answer.json()) == (200, {"ready": True, "reasons": [], "shortfall": MISSING})


@pytest.mark.parametrize("path", ["live", "ready", "startup"])
async def test_every_probe_nudges_the_token_store(
    client: aiohttp.ClientSession, view: Any, path: str
) -> None:
    """Each probe has the tokens checked: on Cloud Run it may be the only moment with CPU."""
    await client.get(f"/healthz/{path}")
    await client.head(f"/healthz/{path}")
    assert view.nudges == 2
