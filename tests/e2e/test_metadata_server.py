"""The metadata server for Google's own libraries: what it answers, whom, and what it never gives"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.keys import BadTokenError, signing_key
from sidecar.emulator.oauth import KEY_EMAIL
from sidecar.emulator.scopes import CLOUD_PLATFORM
from sidecar.runtime.clock import SystemClock
from tests.support.metadata_answers import ACCOUNTS, FLAVOR, ROWS, V1, Row
from tests.support.sidecar import COMMAND, LIMIT, Sidecar, Start, ask, clean_environment, command

AUDIENCE = "https://billing.example"
IDENTITY = f"{ACCOUNTS}/default/identity?audience="
TOKEN = f"{ACCOUNTS}/default/token"

Begin = Callable[..., Awaitable[tuple[Sidecar, int]]]


def config(google: Emulator, directory: Path, *, more: str = "", routes: str = "") -> str:
    """A sidecar with a key, on no machine of Google's."""
    key = google.write_key(directory / "key.json")
    server = more or f"audiences: ['{AUDIENCE}'], scopes: ['{CLOUD_PLATFORM}']"
    return (
        f"credentials: {{default: {{type: service_account_key, file: '{key}'}}}}\n"
        f"endpoints: {{oauth: '{google.oauth_url}', iam_credentials: '{google.iam_url}'}}\n"
        f"metadata_server: {{listen: 'localhost:0', {server}}}\n"
        + (routes or "routes: [{name: a, upstream: 'https://a.example', prefetch: false}]\n")
    )


@pytest.fixture
def begin(google: Emulator, start: Start, tmp_path: Path) -> Begin:
    """A sidecar, and the port of its metadata server."""

    async def begun(*arguments: str, ready: bool = True, **options: str) -> tuple[Sidecar, int]:
        sidecar = await start(config(google, tmp_path, **options), *arguments, ready=ready)
        return sidecar, await port_of(sidecar)

    return begun


async def port_of(sidecar: Sidecar, server: str = "metadata_server") -> int:
    (found,) = (it for it in (await sidecar.status())["handouts"] if it["server"] == server)
    return int(found["listen"][0].rpartition(":")[2])


@pytest.mark.parametrize("row", ROWS)
async def test_the_stand_in_answers_as_the_table_says(google: Emulator, row: Row) -> None:
    """The other half of the next test: both are held to the same rows."""
    await judge(int(google.metadata_address.rpartition(":")[2]), google.metadata.email or "", row)


async def test_it_answers_as_the_table_says(begin: Begin) -> None:
    """Every row, as Compute Engine's."""
    _, port = await begin()
    for row in ROWS:
        await judge(port, KEY_EMAIL, row.values[0])


async def judge(port: int, email: str, row: Row) -> None:
    path = row.path.replace("EMAIL", email)
    status, headers, body = await ask(port, row.method, path, row.headers)
    assert status == row.status, (path, body)
    assert headers["metadata-flavor"] == "Google" or status == 405, path
    if row.kind:
        assert headers["content-type"] == row.kind, path
    assert row.holds(body.decode(), email), (path, body)
    if status == 301:
        assert headers["location"].endswith(f"{path}/")


async def test_what_it_gives_is_true(google: Emulator, begin: Begin) -> None:
    """An ID token for the audience, an access token with the scopes, and the life that it says."""
    sidecar, port = await begin()
    _, _, token = await ask(port, "GET", IDENTITY + AUDIENCE, FLAVOR)
    claims = signing_key("google").verify(token.decode())
    assert (claims["aud"], claims["email"]) == (AUDIENCE, KEY_EMAIL)
    clock = SystemClock(asyncio.get_running_loop())
    before_at = clock.wall()
    _, _, body = await ask(port, "GET", TOKEN, FLAVOR)
    after_at = clock.wall()
    said = json.loads(body)
    granted = google.principals.introspect(said["access_token"])
    assert granted is not None
    assert granted.scopes == (CLOUD_PLATFORM,)
    (kept,) = (it for it in (await sidecar.status())["tokens"] if it["kind"] == "access")
    expires_at = datetime.fromisoformat(kept["expires_at"]).timestamp()
    # Rounded down: never more than is left.
    assert expires_at - after_at - 1 <= said["expires_in"] <= expires_at - before_at
    assert await sidecar.metric("idtoken_sidecar_handouts_total", server="metadata_server", kind="id") == 1
    assert (
        await sidecar.metric("idtoken_sidecar_handouts_total", server="metadata_server", kind="access") == 1
    )
    await sidecar.logged("token given to a program by `metadata_server`", audience=AUDIENCE)
    assert said["access_token"] not in sidecar.text
    assert token.decode() not in sidecar.text


REFUSED = {
    "browser-of-another-site": {**FLAVOR, "Origin": "https://evil.example"},
    "browser-of-this-very-address": {**FLAVOR, "Origin": "http://localhost:{port}"},
    "browser-by-fetch-metadata": {**FLAVOR, "Sec-Fetch-Site": "none"},
    "image": {**FLAVOR, "Sec-Fetch-Dest": "image"},
    "rebound-name": {**FLAVOR, "Host": "evil.example:{port}"},
    "loopback-that-browsers-do-not-know": {**FLAVOR, "Host": "0.0.0.0:{port}"},
    "forwarded": {**FLAVOR, "X-Forwarded-For": "10.0.0.1"},
    "forwarded-empty": {**FLAVOR, "X-Forwarded-For": ""},
    "forwarded-by-rfc-7239": {**FLAVOR, "Forwarded": "for=10.0.0.1"},
    "through-a-proxy": {**FLAVOR, "Via": "1.1 squid"},
    "no-flavor": {},
    "flavor-twice": {"Metadata-Flavor": "Google", "metadata-flavor": "Google"},
}


async def test_whom_it_gives_nothing(begin: Begin) -> None:
    """A page in a browser, a name that was rebound, a proxy's client: for any path, the ping too."""
    sidecar, port = await begin()
    for name, headers in REFUSED.items():
        filled = {key: value.format(port=port) for key, value in headers.items()}
        host = filled.pop("Host", "")
        for path in (IDENTITY + AUDIENCE, TOKEN, f"{V1}/project/project-id"):
            status, answered, body = await ask(port, "GET", path, filled, host=host)
            assert status == 403, (name, path)
            assert b"eyJ" not in body, name
            assert not any(field.startswith("access-control") for field in answered), name
    count = await sidecar.metric(
        "idtoken_sidecar_handouts_refused_total", server="metadata_server", reason="caller_refused"
    )
    assert count == len(REFUSED) * 3
    status, _, _ = await ask(port, "OPTIONS", IDENTITY, {"Origin": "https://evil.example"})
    assert status == 403


async def test_names_that_lead_to_it(begin: Begin) -> None:
    """Where a name of Google's is led here, by /etc/hosts say, it is the right one."""
    _, port = await begin()
    for host in (
        "metadata.google.internal",
        "metadata",
        "169.254.169.254",
        "127.0.0.1",
        "[::1]",
        "localhost",
    ):
        status, _, _ = await ask(port, "GET", IDENTITY + AUDIENCE, FLAVOR, host=host)
        assert status == 200, host


NOT_LISTED = {
    "another": "https://other.example",
    "slash": f"{AUDIENCE}/",
    "two": f"{AUDIENCE}&audience=https://other.example",
    "line-break": quote(f"{AUDIENCE}\n", safe=""),
    "gclouds": "32555940559.apps.googleusercontent.com",
    "path-under-the-wildcard": quote("https://x.a.run.app/y", safe=""),
    "round-the-wildcard": quote("https://evil.example#.a.run.app", safe=""),
}


async def test_no_parameter_widens_the_list(begin: Begin) -> None:
    """No token, and the answer says what is listed."""
    _, port = await begin(more=f"audiences: ['{AUDIENCE}', 'https://*.a.run.app']")
    for name, audience in NOT_LISTED.items():
        for more in ("", "&format=full&licenses=TRUE", "&scopes=a"):
            status, _, body = await ask(port, "GET", IDENTITY + audience + more, FLAVOR)
            assert status == (400 if name == "two" else 404), (name, body)
            assert b"eyJ" not in body, name
    status, _, body = await ask(port, "GET", f"{IDENTITY}{quote('https://x.a.run.app')}", FLAVOR)
    assert (status, signing_key("google").verify(body.decode())["aud"]) == (200, "https://x.a.run.app")


@pytest.mark.parametrize(
    ("listed", "wanted", "given"),
    [
        pytest.param(["a", "b"], None, "a b", id="all"),
        pytest.param(["a", "b"], "b", "b", id="one"),
        pytest.param(["a", "b"], "c", None, id="another"),
        pytest.param(["a", "b"], "a,c", None, id="one-too-many"),
        pytest.param([CLOUD_PLATFORM], "a", CLOUD_PLATFORM, id="within-cloud-platform"),
        pytest.param([CLOUD_PLATFORM, "a"], "a", "a", id="narrower"),
        pytest.param([CLOUD_PLATFORM, "a"], "a,b", f"{CLOUD_PLATFORM} a", id="one-of-both"),
    ],
)
async def test_scopes_are_those_that_are_listed(
    begin: Begin, google: Emulator, listed: list[str], wanted: str | None, given: str | None
) -> None:
    """A program gets fewer, or `cloud-platform` for what is within it, and never others."""
    spelled = {name: f"https://www.googleapis.com/auth/devstorage.{name}" for name in ("a", "b", "c")}
    spelled = {"a": "openid", "b": "email", "c": "profile"} | {CLOUD_PLATFORM: CLOUD_PLATFORM}
    _, port = await begin(more=f"audiences: [x], scopes: {[spelled[it] for it in listed]}")
    query = "" if wanted is None else "?scopes=" + ",".join(spelled[it] for it in wanted.split(","))
    status, _, body = await ask(port, "GET", TOKEN + query, FLAVOR)
    if given is None:
        assert status == 404, body
        assert b"metadata_server.scopes" in body
        return
    granted = google.principals.introspect(json.loads(body)["access_token"])
    assert granted is not None
    assert set(granted.scopes) == {spelled[it] for it in given.split(" ")}


async def test_without_scopes_there_are_no_access_tokens(begin: Begin) -> None:
    """They are good for more than one service: only listed programs get one."""
    _, port = await begin(more=f"audiences: ['{AUDIENCE}']")
    status, _, body = await ask(port, "GET", TOKEN, FLAVOR)
    assert (status, b"no scopes are listed" in body) == (404, True)


async def test_by_default_the_audiences_are_the_routes(
    google: Emulator, start: Start, tmp_path: Path
) -> None:
    """Of those with its credential; a wildcard's is a wildcard; each is one token with the route's."""
    key = google.write_key(tmp_path / "key.json")
    target = await google.add_target("billing")
    sidecar = await start(
        f"credentials: {{default: {{type: service_account_key, file: '{key}'}}, other: {{type: metadata}}}}\n"
        f"endpoints: {{oauth: '{google.oauth_url}'}}\nmetadata_server: {{listen: 'localhost:0'}}\n"
        f"routes:\n- {{name: billing, upstream: '{target.url}', audience: '{target.url}', target: cloud_run}}\n"
        "- {name: run, host: '*.b.run.app', upstream: 'https://{host}'}\n"
        "- {name: foreign, upstream: 'https://c.example', credential: other, prefetch: false}\n"
        "- {name: api, upstream: 'https://storage.googleapis.com', token: access, prefetch: false}\n"
    )
    (shown,) = (await sidecar.status())["handouts"]
    assert shown["audiences"] == [target.url, "https://*.b.run.app"]
    port = await port_of(sidecar)
    assert (await ask(port, "GET", IDENTITY + target.url, FLAVOR))[0] == 200
    assert (await ask(sidecar.port, "GET", "/x", host="billing.localhost"))[0] == 200
    assert len([it for it in (await sidecar.status())["tokens"] if it["audience"] == target.url]) == 1
    status, _, _ = await ask(port, "GET", f"{IDENTITY}https://c.example", FLAVOR)
    assert status == 404


async def test_a_token_that_cannot_be_had(google: Emulator, begin: Begin) -> None:
    """503 where the library may ask again, another status and the reason where it may not; never a token."""
    google.oauth.endpoint.fault = Fault("status", 503)
    sidecar, port = await begin(ready=False)
    status, headers, body = await ask(port, "GET", IDENTITY + AUDIENCE, FLAVOR)
    assert (status, body.startswith(b"idtoken-sidecar: token_endpoint_failed: ")) == (503, True)
    assert "retry-after" in headers
    ready, why = await sidecar.admin("/healthz/ready")
    assert ready == 503
    assert f"`metadata_server` has had no token yet for {AUDIENCE}" in why
    google.oauth.endpoint.fault = None


async def test_callers_do_not_set_the_pace_of_asking_who_it_is(google: Emulator, start: Start) -> None:
    """Where nobody says, one question serves all who want to know, and the next one comes seconds later."""
    google.metadata.endpoint.fail(Fault("status", 503, everywhere=True))
    sidecar = await start(
        f"metadata_server: {{listen: 'localhost:0', audiences: ['{AUDIENCE}']}}\n"
        "routes: [{name: a, upstream: 'https://a.example', prefetch: false}]\n",
        ready=False,
    )
    port = await port_of(sidecar)
    answers = await asyncio.gather(*(ask(port, "GET", f"{ACCOUNTS}/", FLAVOR) for _ in range(20)))
    assert {status for status, _, _ in answers} == {503}
    assert google.metadata.counts[f"{ACCOUNTS}/default/email"] < len(answers) / 2
    google.metadata.endpoint.fail(None)


async def test_other_configurations(google: Emulator, begin: Begin, tmp_path: Path) -> None:
    """A list changes without a break; a server that is not named any more is closed, and opened when it is again."""
    sidecar, port = await begin()
    file = tmp_path / "config-0.yaml"
    text = file.read_text("utf-8")

    async def reload(changed: str, times: int) -> None:
        file.write_text(changed, "utf-8")
        sidecar.send_signal(signal.SIGHUP)
        await sidecar.logged("configuration reloaded", times=times, result="ok")

    await reload(text.replace(AUDIENCE, "https://other.example"), 1)
    assert await port_of(sidecar) == port
    assert (await ask(port, "GET", IDENTITY + AUDIENCE, FLAVOR))[0] == 404
    assert (await ask(port, "GET", f"{IDENTITY}https://other.example", FLAVOR))[0] == 200
    await reload(
        text.replace("metadata_server: {listen: 'localhost:0'", "metadata_server: {listen: '127.0.0.1:0'"), 2
    )
    moved = await port_of(sidecar)
    assert moved != port
    with pytest.raises(ConnectionRefusedError):
        await ask(port, "GET", "/", FLAVOR)
    assert (await ask(moved, "GET", IDENTITY + AUDIENCE, FLAVOR))[0] == 200
    taken = text.replace(
        "metadata_server: {listen: 'localhost:0'",
        f"metadata_server: {{listen: '127.0.0.1:{sidecar.admin_port}'",
    )
    file.write_text(taken, "utf-8")
    sidecar.send_signal(signal.SIGHUP)
    await sidecar.logged("configuration not reloaded", result="error")
    assert (await ask(moved, "GET", IDENTITY + AUDIENCE, FLAVOR))[0] == 200
    await reload("\n".join(line for line in text.splitlines() if "metadata_server" not in line), 3)
    assert (await sidecar.status())["handouts"] == []
    with pytest.raises(ConnectionRefusedError):
        await ask(moved, "GET", "/", FLAVOR)
    await reload(text, 4)
    assert (await ask(await port_of(sidecar), "GET", IDENTITY + AUDIENCE, FLAVOR))[0] == 200
    assert await sidecar.metric("idtoken_sidecar_handouts_total", server="metadata_server", kind="id") == 4


async def test_nothing_listens_unless_it_is_asked_for(google: Emulator, start: Start) -> None:
    """Without its key there is no metadata server, and no counter of one."""
    sidecar = await start("routes: [{name: a, upstream: 'https://a.example', prefetch: false}]\n")
    assert (await sidecar.status())["handouts"] == []
    assert "handouts_total{" not in (await sidecar.admin("/metrics"))[1]


OTHER_USER = """
import encodings.idna, json, os, sys, urllib.request
os.setgroups([]); os.setgid(4321); os.setuid(4321)
request = urllib.request.Request(sys.argv[1], headers={"Metadata-Flavor": "Google"})
try:
    print(urllib.request.urlopen(request).status)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize(("peers", "others"), [("0", 403), ("[0, 4321]", 200)])
async def test_processes_of_other_users(begin: Begin, tmp_path: Path, peers: str, others: int) -> None:
    """On a port, too: the kernel is asked whose connection it is."""
    sidecar, port = await begin(more=f"audiences: ['{AUDIENCE}'], peers: {{uid: {peers}}}")
    assert (await ask(port, "GET", IDENTITY + AUDIENCE, FLAVOR))[0] == 200
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", OTHER_USER, f"http://127.0.0.1:{port}{IDENTITY}{AUDIENCE}"),
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    async with asyncio.timeout(LIMIT):
        out, _ = await process.communicate()
    assert out.decode().startswith(str(others)), out
    if others == 403:
        assert b"uid 4321" in out
        await sidecar.logged("`metadata_server` gave no token", reason="caller_refused")


async def test_exec_leads_its_command_there(google: Emulator, tmp_path: Path) -> None:
    """google-auth in the command is given tokens, though the variables of the environment led elsewhere, and a key file
    that it would have gone by is not named to it."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "admin: localhost:0\n" + config(google, tmp_path).replace("listen: 'localhost:0', ", ""), "utf-8"
    )
    script = textwrap.dedent(
        f"""
        import json, os, google.auth
        from google.auth.transport.requests import Request
        from google.oauth2 import id_token
        credentials, project = google.auth.default(scopes=['{CLOUD_PLATFORM}'])
        credentials.refresh(Request())
        print(json.dumps([credentials.service_account_email, project, credentials.token,
            id_token.fetch_id_token(Request(), '{AUDIENCE}'), os.environ['METADATA_SERVER_DETECTION'],
            os.environ['GCE_METADATA_HOST'] == os.environ['GCE_METADATA_IP']]))
        """
    )
    code, out, err = await command(
        *("exec", "-c", str(file), "--", COMMAND[0], "-c", script),
        **{
            **google.environment(),
            "CLOUDSDK_CONFIG": str(tmp_path),
            "NO_GCE_CHECK": "true",
            "GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent",
        },
    )
    assert code == 0, err
    email, project, access, identity, detection, same = json.loads(out)
    assert (email, project, detection, same) == (KEY_EMAIL, google.project, "assume-present", True)
    assert google.principals.introspect(access) is not None
    assert signing_key("google").verify(identity)["aud"] == AUDIENCE
    assert google.metadata.requests == type(google.metadata.requests)()


UNTRUSTED = """
import json, os, google.auth, requests
from google.auth.transport.requests import Request
from google.oauth2 import id_token
service, api, direct = (os.environ[name] for name in ("IDTOKEN_SIDECAR_URL_SVC", "IDTOKEN_SIDECAR_URL_API", "DIRECT"))
token = id_token.fetch_id_token(Request(), direct)
credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
credentials.refresh(Request())
def called(url, token, **more):
    return requests.get(url, headers={"Authorization": f"Bearer {token}"}, **more)
print(json.dumps({
    "id": called(service + "/x", token).json()["verified"]["audience"],
    "access": called(api + "/x", credentials.token).status_code,
    "at-the-target-itself": called(direct + "/x", token).status_code,
    "in-the-url": called(service + "/x?token=" + token, token).json()["reason"],
    "held": [token, credentials.token],
}))
"""


async def test_code_that_is_not_trusted_holds_no_token(google: Emulator, tmp_path: Path) -> None:
    """google-auth in it gets placeholders; through the sidecar they are as good as tokens, and anywhere else nothing."""
    service = await google.add_target("svc")
    api = await google.add_target("api", kind="googleapis")
    file = tmp_path / "config.yaml"
    routes = (
        "routes:\n"
        f"- {{name: svc, upstream: '{service.url}', audience: '{service.url}', target: cloud_run, on_conflict: reject}}\n"
        f"- {{name: api, upstream: '{api.url}', target: googleapis, token: access}}\n"
    )
    more = f"audiences: ['{service.url}'], scopes: ['{CLOUD_PLATFORM}'], tokens: placeholder"
    text = config(google, tmp_path, more=more, routes=routes).replace("listen: 'localhost:0', ", "")
    file.write_text("admin: localhost:0\n" + text, "utf-8")
    code, out, err = await command(
        *("exec", "-c", str(file), "--", COMMAND[0], "-c", UNTRUSTED),
        **{**google.environment(), "CLOUDSDK_CONFIG": str(tmp_path), "DIRECT": service.url},
    )
    assert code == 0, err
    found = json.loads(out)
    for token in found.pop("held"):
        assert google.principals.introspect(token) is None
        with pytest.raises(BadTokenError):
            signing_key("google").verify(token)
    assert found == {
        "id": service.url,
        "access": 200,
        "at-the-target-itself": 401,
        "in-the-url": "header_conflict",
    }


async def test_a_flood_of_audiences_is_bounded(begin: Begin) -> None:
    """Under a wildcard as many are kept as `token_cache` says, like a wildcard route's."""
    sidecar, port = await begin("--token-cache", "5", more="audiences: ['https://*.a.run.app']")
    for number in range(20):
        assert (await ask(port, "GET", f"{IDENTITY}https://s{number}.a.run.app", FLAVOR))[0] == 200
    assert len((await sidecar.status())["tokens"]) <= 6
