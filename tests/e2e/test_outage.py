"""What an outage looks like to its operator: the log, the probes, the status page, and trying again at once"""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

from sidecar.emulator.app import Emulator
from tests.support.sidecar import Sidecar, Start, ask, command

ROUTES = ("one", "two", "three")
TIMES = 30


async def begin(google: Emulator, start: Start, more: str = "") -> Sidecar:
    """Three routes of one credential, whose token server refuses connections."""
    urls = {name: (await google.add_target(name)).url for name in ROUTES}
    routes = "\n".join(
        f"  - {{name: {name}, host: {name}.internal, upstream: '{url}'}}" for name, url in urls.items()
    )
    await google.stop(google.metadata.app)
    return await start(f"startup: serve\nroutes:\n{routes}\n{more}")


async def flood(sidecar: Sidecar, times: int, route: str) -> Counter[int]:
    statuses = [(await ask(sidecar.port, "GET", "/x", host=f"{route}.internal"))[0] for _ in range(times)]
    return Counter(statuses)


async def test_a_token_outage_under_load_is_told_and_not_repeated(google: Emulator, start: Start) -> None:
    """One ERROR for each route, with route, reason, cause and what to do in the message; one INFO when it is over, with
    how many were refused; what the access log says of 90 refused requests is one line for each route."""
    sidecar = await begin(google, start)
    for route in ROUTES:
        assert await flood(sidecar, TIMES, route) == {503: TIMES}
    errors = [entry for entry in sidecar.log if entry["severity"] == "ERROR"]
    assert [entry["route"] for entry in errors] == list(ROUTES)
    for entry in errors:
        for said in (f"route `{entry['route']}`", "503 token_endpoint_unreachable", "refused the connection"):
            assert said in entry["message"]
    requests = [entry for entry in sidecar.log if entry["logger"] == "sidecar.access"]
    assert [entry["route"] for entry in requests] == list(ROUTES)
    assert "GET /x" in requests[0]["message"]
    # Each key's fetch is told once, too.
    assert len([entry for entry in sidecar.log if entry["severity"] in ("WARNING", "ERROR")]) == 9
    await google.start(google.metadata.app)
    assert (await sidecar.admin("/renew", "POST"))[0] == 200
    for route in ROUTES:
        assert await flood(sidecar, 1, route) == {200: 1}
        over = await sidecar.logged(f"route `{route}` answers again", route=route)
        assert (over["severity"], over["reasons"]) == ("INFO", ["token_endpoint_unreachable"])
        assert over["refused"] == TIMES
        assert f"it refused {TIMES} requests in" in over["message"]


async def test_no_message_is_a_bare_word(google: Emulator, start: Start) -> None:
    """Of all lines of a life: the event can be told from the message alone."""
    sidecar = await begin(google, start, "access_log: all\nlog_level: debug\n")
    await google.start(google.metadata.app)
    await flood(sidecar, 1, "one")
    await flood(sidecar, 1, "nowhere")
    sidecar.send_signal(signal.SIGTERM)
    await sidecar.ended()
    assert [entry["message"] for entry in sidecar.log if len(entry["message"].split()) < 3] == []


async def test_status_and_page_name_the_refusing_routes_first(google: Emulator, start: Start) -> None:
    """Errors are grouped by route and reason, with count, first and last: a flood hides no other cause."""
    sidecar = await begin(google, start)
    await flood(sidecar, 1, "nowhere")
    await flood(sidecar, 40, "two")
    status = await sidecar.status()
    assert [route["name"] for route in status["routes"]] == ["two", "one", "three"]
    refusing = status["routes"][0]["refusing"]
    assert (refusing["reason"], refusing["count"]) == ("token_endpoint_unreachable", 40)
    assert status["routes"][1]["refusing"] is None
    assert [(group["route"], group["reason"], group["count"]) for group in status["errors"]] == [
        ("two", "token_endpoint_unreachable", 40),
        ("", "no_route", 1),
    ]
    assert status["errors"][0]["first_at"] <= status["errors"][0]["last_at"]
    _, _, body = await ask(sidecar.admin_port, "GET", "/", {"Accept": "text/html"})
    page = body.decode()
    order = [page.index(f'id="route-{name}"') for name in ("two", "one", "three")]
    assert order == sorted(order)
    assert page.count("refuses requests") == 1


async def test_ready_says_which_tokens_are_missing(google: Emulator, start: Start) -> None:
    """And is ready all the same: that does not depend on tokens once it was."""
    sidecar = await begin(google, start)
    await sidecar.logged("token fetch failed", times=3)
    status, text = await sidecar.admin("/healthz/ready")
    assert status == 200
    assert text.startswith(
        "ready; 3 of 3 tokens missing (routes `one`, `two`, `three`): token_endpoint_unreachable"
    )
    code, out, _ = await command("healthcheck", IDTOKEN_SIDECAR_ADMIN=f"localhost:{sidecar.admin_port}")
    assert (code, out) == (0, text)
    await google.start(google.metadata.app)
    assert (await sidecar.admin("/renew", "POST"))[0] == 200
    assert await sidecar.admin("/healthz/ready") == (200, "ready\n")


async def test_healthcheck_names_the_route_that_refuses_and_why(google: Emulator, start: Start) -> None:
    """Whether the sidecar refuses, for a reason that is no token's, or the target does."""
    closed = await google.add_target("closed")
    barred = await google.add_target("barred", callers=["somebody@example.com"])
    sidecar = await start(
        f"routes:\n  - {{name: closed, host: closed.internal, upstream: '{closed.url}'}}\n"
        f"  - {{name: barred, host: barred.internal, upstream: '{barred.url}', target: cloud_run, audience: '{barred.url}'}}\n"
    )
    await google.stop(closed.app)
    assert await flood(sidecar, 1, "closed") == {502: 1}
    assert await flood(sidecar, 1, "barred") == {403: 1}
    code, out, _ = await command("healthcheck", IDTOKEN_SIDECAR_ADMIN=f"localhost:{sidecar.admin_port}")
    assert code == 0
    assert "route `closed` refuses requests: connect_refused: " in out
    assert "the target of route `barred` refuses requests: permission_missing: " in out
    assert "gcloud run services add-iam-policy-binding" in out


async def test_check_prints_a_command_once_and_logs_nothing_beside_its_report(
    google: Emulator, tmp_path: Path
) -> None:
    """A command on a line of its own can be copied; what refuses is in the report already."""
    closed = await google.add_target("closed")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"credentials: {{default: {{type: metadata}}, key: {{type: service_account_key, file: {tmp_path}/key.json}}}}\n"
        f"routes:\n  - {{name: closed, host: closed.internal, upstream: '{closed.url}'}}\n"
        f"  - {{name: keyed, host: keyed.internal, upstream: '{closed.url}', audience: 'https://a.example', credential: key}}\n"
    )
    google.write_key(tmp_path / "key.json")
    google.oauth.revoke_key()
    await google.stop(closed.app)
    code, out, errors = await command("check", "--online", "--config", str(config), **google.environment())
    assert code == 1, errors
    assert "connect_refused: " in out
    assert "ERROR" not in errors + out
    create = "gcloud iam service-accounts keys create"
    assert [line.strip().startswith(f"$ {create}") for line in out.splitlines() if create in line] == [True]


async def test_a_token_can_be_had_at_once_when_its_server_is_back(google: Emulator, start: Start) -> None:
    """Whatever pause the sidecar is in; again only after some seconds, and the answer says what came of it."""
    sidecar = await begin(google, start)
    await sidecar.logged("token fetch failed", times=3)
    status, text = await sidecar.admin("/renew?route=one", "POST")
    assert (status, json.loads(text)["tokens"][0]["reason"]) == (502, "token_endpoint_unreachable")
    await google.start(google.metadata.app)
    status, text = await sidecar.admin("/renew?route=two", "POST")
    (token,) = json.loads(text)["tokens"]
    assert (status, token["route"], token["result"]) == (200, "two", "ok")
    assert (await ask(sidecar.port, "GET", "/x", host="two.internal"))[0] == 200
    status, _, body = await ask(sidecar.admin_port, "POST", "/renew?route=two")
    assert (status, json.loads(body)["status"]) == (429, 429)
    assert (await sidecar.admin("/renew?route=nobody", "POST"))[0] == 404
    admin = f"localhost:{sidecar.admin_port}"
    code, out, err = await command("renew", "three", "--admin", admin)
    assert (code, out.startswith("three: "), out.endswith(": renewed\n"), err) == (0, True, True, "")
    code, out, err = await command("renew", "nobody", "--admin", admin)
    assert (code, out, err) == (1, "", "There is no such route; /status.json has their names.\n")
