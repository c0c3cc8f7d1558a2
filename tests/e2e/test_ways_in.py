"""Every way in, through the real process to targets that verify."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest

from sidecar.emulator.app import Emulator
from tests.support.forks import stand_in
from tests.support.sidecar import Start, ask, clean_environment, command

CASES = [
    pytest.param("GET /x", "billing.internal", id="host"),
    pytest.param("GET /x", "BILLING.Internal.:1234", id="host-other-spelling"),
    pytest.param("GET /x", "billing.localhost", id="name"),
    pytest.param("GET /billing/x", "localhost", id="path-prefix"),
    pytest.param("GET /billing/x", "[::1]:99", id="path-prefix-ipv6-literal"),
    pytest.param("GET http://billing.internal/x", "billing.internal", id="http-proxy"),
    pytest.param("GET http://billing.internal:80/x", "billing.internal:80", id="http-proxy-with-port"),
]


@pytest.mark.parametrize(("line", "host"), CASES)
async def test_the_target_verifies_every_way_in(google: Emulator, start: Start, line: str, host: str) -> None:
    """The same request reaches the target with a token that it accepts."""
    billing = await google.add_target("billing")
    sidecar = await start(
        f"routes:\n  - {{name: billing, host: billing.internal, upstream: '{billing.url}', path_prefix: /billing}}"
    )
    method, path = line.split(" ")
    status, _, body = await ask(sidecar.port, method, path, host=host)
    echo = json.loads(body)
    assert (status, echo["path"], echo["verified"]["audience"]) == (200, "/x", billing.url)
    assert echo["verified"]["email"]


async def test_localhost_is_the_only_routes_and_a_second_route_ends_that(
    google: Emulator, start: Start
) -> None:
    """The first call of README; from the second route on, the 404 says how each is called."""
    billing = await google.add_target("billing")
    one = f"  - {{name: billing, upstream: '{billing.url}'}}"
    sidecar = await start(f"routes:\n{one}")
    status, _, body = await ask(sidecar.port, "GET", "/invoices")
    assert (status, json.loads(body)["path"]) == (200, "/invoices")
    (route,) = (await sidecar.status())["routes"]
    assert route["url"] == f"http://localhost:{sidecar.port}"
    assert {"kind": "localhost", "use": f"http://127.0.0.1:{sidecar.port}/"} in route["ways_in"]
    assert (await ask(sidecar.port, "GET", "/invoices", host="evil.example"))[0] == 404

    sidecar = await start(
        f"routes:\n{one}\n  - {{name: own, upstream: '{billing.url}', listen: 'localhost:0'}}"
    )
    status, _, body = await ask(sidecar.port, "GET", "/invoices")
    assert status == 404
    assert json.loads(body)["detail"] == (
        "No route has host `localhost`, and none has a path_prefix. Call a route by its own URL. "
        f"`billing`: http://billing.localhost:{sidecar.port}/ · `own`: http://localhost:{await sidecar.own_port('own')}/"
    )


async def test_run_takes_a_url_by_itself(google: Emulator, start: Start) -> None:
    """As `--to` does."""
    billing, other = await google.add_target("billing"), await google.add_target("other")
    sidecar = await start(
        "routes: []", billing.url.replace("http", "billing=http", 1), "--to", f"other={other.url}"
    )
    assert [route["name"] for route in (await sidecar.status())["routes"]] == ["other", "billing"]
    assert (await ask(sidecar.port, "GET", "/x", host="billing.localhost"))[0] == 200


async def test_every_route_has_a_url_by_auto(google: Emulator, start: Start) -> None:
    """Told at start, by `urls` and in /status.json; each is the route's alone."""
    targets = {name: await google.add_target(name) for name in ("billing", "reports")}
    routes = "".join(f"  - {{name: {name}, upstream: '{target.url}'}}\n" for name, target in targets.items())
    sidecar = await start(f"routes:\n{routes}", "--listen", "[localhost:0, auto]")
    told = (await sidecar.logged("call billing at http://localhost:"))["urls"]
    admin = ("--admin", f"localhost:{sidecar.admin_port}")
    code, out, err = await command("urls", "--json", *admin)
    assert (code, err, json.loads(out)) == (0, "", told)
    assert {route["name"]: route["url"] for route in (await sidecar.status())["routes"]} == told
    for name, target in targets.items():
        status, _, body = await ask(int(told[name].rpartition(":")[2]), "GET", "/x")
        assert (status, json.loads(body)["verified"]["audience"]) == (200, target.url)
    assert await command("urls", "billing", *admin) == (0, f"billing  {told['billing']}\n", "")
    assert await command("urls", "biling", *admin) == (
        1,
        "",
        "no route is called `biling` there; did you mean `billing`?\n",
    )


async def test_own_listeners_are_the_routes_alone(google: Emulator, start: Start, tmp_path: Path) -> None:
    """A TCP port and a Unix socket, mode 0660; strangers' names are refused on the port."""
    billing = await google.add_target("billing")
    path = tmp_path / "billing.sock"
    sidecar = await start(
        f"routes:\n  - {{name: billing, host: billing.internal, upstream: '{billing.url}', listen: [localhost:0, 'unix:{path}']}}"
    )
    port = await sidecar.own_port("billing")
    assert (await ask(port, "GET", "/x"))[0] == 200
    assert (await ask(port, "GET", "/x", host="evil.example"))[0] == 403
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /x HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_both_loopbacks_listen_on_one_port(google: Emulator, start: Start) -> None:
    """`localhost` is 127.0.0.1 and ::1: Node and others try ::1 first."""
    billing = await google.add_target("billing")
    sidecar = await start(f"routes:\n  - {{name: billing, upstream: '{billing.url}'}}")
    for address in ("127.0.0.1", "::1"):
        reader, writer = await asyncio.open_connection(address, sidecar.port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: billing.localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_the_proxy_way_in_reaches_https(google: Emulator, start: Start) -> None:
    """The app asks for http://; the target is spoken to over TLS, verified against its CA."""
    secure = await google.add_target("secure", tls=True)
    sidecar = await start(
        f"routes:\n  - {{name: secure, host: svc-abc-uc.a.run.app, upstream: '{secure.url}', tls: {{ca_file: '{google.ca_file}'}}}}"
    )
    status, _, body = await ask(
        sidecar.port, "GET", "http://svc-abc-uc.a.run.app/x", host="svc-abc-uc.a.run.app"
    )
    assert (status, json.loads(body)["verified"]["audience"]) == (200, secure.url)
    status, _, body = await ask(sidecar.port, "CONNECT", "svc-abc-uc.a.run.app:443")
    assert (status, json.loads(body)["reason"]) == (501, "method_not_carried")


async def test_an_unknown_ca_is_a_502_that_says_what_to_set(google: Emulator, start: Start) -> None:
    """Verification can't be switched off."""
    secure = await google.add_target("secure", tls=True)
    sidecar = await start(f"routes:\n  - {{name: secure, upstream: '{secure.url}'}}")
    status, _, body = await ask(sidecar.port, "GET", "/x", host="secure.localhost")
    problem = json.loads(body)
    assert (status, problem["reason"]) == (502, "tls_unknown_ca")
    assert "tls.ca_file" in problem["detail"]
    assert not secure.requests


async def test_cloud_run_keeps_the_apps_authorization(google: Emulator, start: Start) -> None:
    """With X-Serverless-Authorization beside it, that is what Cloud Run checks."""
    billing = await google.add_target("billing")
    sidecar = await start(
        f"routes:\n  - {{name: billing, upstream: '{billing.url}', header: x-serverless-authorization}}"
    )
    status, _, body = await ask(
        sidecar.port, "GET", "/x", {"Authorization": "Bearer the-users"}, host="billing.localhost"
    )
    echo = json.loads(body)
    assert (status, echo["verified"]["header"]) == (200, "X-Serverless-Authorization")
    assert ["Authorization", "Bearer the-users"] in echo["headers"]


async def test_iap_takes_proxy_authorization(google: Emulator, start: Start) -> None:
    """The app behind IAP gets its own Authorization."""
    reports = await google.add_target("reports", kind="iap", audience="1234.apps.googleusercontent.com")
    sidecar = await start(
        f"routes:\n  - {{name: reports, upstream: '{reports.url}', audience: {reports.audience}, header: proxy-authorization}}"
    )
    status, _, body = await ask(
        sidecar.port, "GET", "/x", {"Authorization": "mine"}, host="reports.localhost"
    )
    echo = json.loads(body)
    assert (status, echo["verified"]["header"]) == (200, "Proxy-Authorization")
    assert ["Authorization", "mine"] in echo["headers"]


async def test_a_service_account_key_works_too(google: Emulator, start: Start, tmp_path: Path) -> None:
    """And so does Application Default Credentials with it."""
    billing = await google.add_target("billing")
    key = google.write_key(tmp_path / "key.json")
    route = f"routes:\n  - {{name: billing, upstream: '{billing.url}'}}"
    by_key = await start(f"credentials:\n  default: {{type: service_account_key, file: '{key}'}}\n{route}")
    by_adc = await start(route, GOOGLE_APPLICATION_CREDENTIALS=str(key))
    for sidecar in (by_key, by_adc):
        status, _, body = await ask(sidecar.port, "GET", "/x", host="billing.localhost")
        assert status == 200
        assert json.loads(body)["verified"]["email"].startswith("key-holder@")


OVERLAPPING = """routes:
  - {{name: local, upstream: '{local}'}}
  - {{name: billing, upstream: '{billing}', path_prefix: /billing, allow: {{paths: [/open]}}}}
  - {{name: deep, upstream: '{billing}', path_prefix: /billing/deep}}
"""


async def test_ways_in_that_overlap_are_warned_of(google: Emulator, start: Start, tmp_path: Path) -> None:
    """At start, with the line, and by `config validate`; a loopback upstream claims no `localhost`."""
    local, billing = await google.add_target("local"), await google.add_target("billing")
    text = OVERLAPPING.format(local=local.url, billing=billing.url)
    sidecar = await start(text)
    said = "routes[2].path_prefix: `/billing/deep` lies under `/billing` of route `billing`: "
    (logged,) = [entry for entry in sidecar.log if said in entry["message"]]
    assert logged["severity"] == "WARNING"
    status, _, body = await ask(sidecar.port, "GET", "/billing/closed")
    assert (status, json.loads(body)["reason"]) == (403, "not_allowed")
    status, _, body = await ask(sidecar.port, "GET", "/billing/deep/x")
    assert (status, json.loads(body)["path"]) == (200, "/x")
    assert not local.requests
    file = tmp_path / "overlapping.yaml"
    file.write_text(text)
    process = await asyncio.create_subprocess_exec(
        *(*stand_in(), "config", "validate", "--config", str(file)),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        env=clean_environment(),
    )
    _, stderr = await process.communicate()
    assert process.returncode == 0
    assert stderr.decode().startswith(f"warning: {file}:4:")
    assert said in stderr.decode()
