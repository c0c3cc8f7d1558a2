"""Google's token endpoints, answered with placeholders inside of tunnels: what each is asked, by whom, and what it never gives"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.keys import SigningKey, read
from sidecar.emulator.scopes import CLOUD_PLATFORM, IAM
from sidecar.runtime.clock import SystemClock
from sidecar.tokens import placeholder
from tests.support.sidecar import LIMIT, Sidecar, Start, clean_environment

OAUTH, STS, CREDENTIALS = (f"{name}.googleapis.com" for name in ("oauth2", "sts", "iamcredentials"))
AUDIENCE = "https://billing.example"
ACCOUNT = "/v1/projects/-/serviceAccounts/a@p.iam.gserviceaccount.com"
FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
JSON: Final = {"Content-Type": "application/json; charset=utf-8", "Authorization": "Bearer of-nobody"}
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
BIGQUERY = "https://www.googleapis.com/auth/bigquery"
NOBODY = SigningKey()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@cache
def trusting(bundle: Path, _written: int) -> ssl.SSLContext:
    """What a program with this bundle has, once for all that it asks: to read a system's CAs takes longer than a request."""
    context = ssl.create_default_context(cafile=str(bundle))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


class Asked(NamedTuple):
    """A sidecar, and how programs ask it."""

    sidecar: Sidecar
    bundle: Path

    async def __call__(
        self,
        host: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        connect: str = "",
    ) -> Answer:
        """One request inside of a tunnel to this host; `connect` are further lines of the wish for the tunnel."""
        async with asyncio.timeout(LIMIT):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.sidecar.port)
            try:
                writer.write(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n{connect}\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 200 " not in head:
                    return Answer(int(head.split()[1]), {}, await reader.read(4096))
                await writer.start_tls(
                    trusting(self.bundle, self.bundle.stat().st_mtime_ns), server_hostname=host
                )
                assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
                lines = {"Host": host, "Content-Length": str(len(body)), **(headers or {})}
                fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
                writer.write(f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode() + body)
                head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        first, *fields_of = head.decode("latin-1").split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields_of)}
        return Answer(int(first.split(" ")[1]), found, rest)

    async def token(self, **form: str) -> Answer:
        """What oauth2 answers to a form."""
        return await self(OAUTH, "/token", urlencode(form).encode(), FORM)

    async def assertion(self, **claims: object) -> Answer:
        """What oauth2 answers to an assertion that nobody's key has signed."""
        return await self.token(grant_type=JWT_BEARER, assertion=NOBODY.sign({"iss": "a", **claims}))

    async def call(self, method: str, asked: object, **headers: str) -> Answer:
        """What iamcredentials answers."""
        return await self(CREDENTIALS, f"{ACCOUNT}:{method}", json.dumps(asked).encode(), {**JSON, **headers})


Begin = Callable[..., Awaitable[Asked]]


@pytest.fixture
def begin(google: Emulator, start: Start, tmp_path: Path) -> Begin:
    """A sidecar with a key, on no machine of Google's."""

    async def begun(
        more: str = "", *, top: str = "", routes: str = "", arguments: tuple[str, ...] = ()
    ) -> Asked:
        key = google.write_key(tmp_path / "key.json")
        bundle = tmp_path / "bundle.pem"
        more = more or f"audiences: ['{AUDIENCE}', 'https://*.a.run.app'], scopes: ['{CLOUD_PLATFORM}']"
        sidecar = await start(
            f"credentials: {{default: {{type: service_account_key, file: '{key}'}}}}\n"
            f"endpoints: {{oauth: '{google.oauth_url}', iam_credentials: '{google.iam_url}'}}\n"
            f"intercept: {{bundle_file: '{bundle}'}}\n"
            f"google_token_endpoints: {{{more}}}\n{top}"
            + (routes or "routes: [{name: a, upstream: 'https://a.example', prefetch: false}]\n"),
            *arguments,
        )
        return Asked(sidecar, bundle)

    return begun


async def test_it_is_off_unless_it_is_asked_for(google: Emulator, start: Start, tmp_path: Path) -> None:
    """No tunnel, no certificate, no counter."""
    bundle = tmp_path / "bundle.pem"
    sidecar = await start(
        f"intercept: {{bundle_file: '{bundle}'}}\n"
        "routes: [{name: a, upstream: 'https://a.example', prefetch: false, intercept: true}]\n"
    )
    asked = Asked(sidecar, bundle)
    for host in (OAUTH, STS, CREDENTIALS):
        assert (await asked(host, "/token")).status == 501
    assert (await sidecar.status())["handouts"] == []


async def test_every_way_to_an_id_token(begin: Begin) -> None:
    """A placeholder for the audience, which lives as long as the real one that stays here."""
    asked = await begin()
    for answer, name in (
        (await asked.assertion(target_audience=AUDIENCE), "id_token"),
        (await asked.call("generateIdToken", {"audience": AUDIENCE, "includeEmail": True}), "token"),
    ):
        assert answer.status == 200, answer
        assert set(answer.json) == {name}
        token = answer.json[name]
        assert placeholder.is_in(token.encode())
        claims = read(token)
        assert claims["aud"] == AUDIENCE
        clock = SystemClock(asyncio.get_running_loop())
        assert clock.wall() + 3000 < claims["exp"] <= clock.wall() + 3600
        assert answer.headers["cache-control"] == "no-store"
    sidecar = asked.sidecar
    counted = {"server": "google_token_endpoints", "kind": "id"}
    assert await sidecar.metric("idtoken_sidecar_handouts_total", **counted) == 2
    told = await sidecar.logged(
        "placeholder given to a program by `google_token_endpoints`", audience=AUDIENCE
    )
    assert told["credential"] == "default"
    (shown,) = (await sidecar.status())["handouts"]
    assert (shown["server"], shown["listen"], shown["given"]) == ("google_token_endpoints", [], 2)


async def test_every_way_to_an_access_token(begin: Begin) -> None:
    """Each in its own form; `expires_in` is what is left of the real one."""
    asked = await begin()
    exchange = {"audience": "//iam", "subject_token": "x", "subject_token_type": "y", "scope": CLOUD_PLATFORM}
    answers = [
        await asked.assertion(scope=CLOUD_PLATFORM),
        await asked.token(grant_type="refresh_token", refresh_token="of nobody", client_id="a"),
        await asked(STS, "/v1/token", urlencode({"grant_type": EXCHANGE, **exchange}).encode(), FORM),
    ]
    for answer in answers:
        assert answer.status == 200, answer
        found = answer.json
        assert placeholder.is_in(found["access_token"].encode())
        assert found["token_type"] == "Bearer"
        assert 3000 < found["expires_in"] < 3600
    assert answers[2].json["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    answer = await asked.call("generateAccessToken", {"scope": [CLOUD_PLATFORM], "delegates": None})
    assert placeholder.is_in(answer.json["accessToken"].encode())
    assert answer.json["expireTime"].endswith("Z")


async def test_no_real_token_is_given(google: Emulator, begin: Begin) -> None:
    """Whatever is asked for: what Google gave this sidecar is in no answer, and no log has what was sent."""
    asked = await begin()
    answers = [
        await asked.assertion(target_audience=AUDIENCE),
        await asked.assertion(scope=CLOUD_PLATFORM),
        await asked.call("generateAccessToken", {"scope": [CLOUD_PLATFORM]}),
    ]
    assert google.oauth.asked, "there are real ones"
    for answer in answers:
        (value,) = (
            it for name, it in answer.json.items() if name in ("id_token", "access_token", "accessToken")
        )
        assert placeholder.is_in(value.encode())
        assert google.principals.introspect(value) is None
        assert value not in asked.sidecar.text
    assert "eyJ" not in asked.sidecar.text


async def test_a_scope_that_is_named_a_hundred_times_is_one(begin: Begin) -> None:
    """In the answer, and so in what is logged: no caller writes its own text into either."""
    asked = await begin()
    scope = "%20".join([CLOUD_PLATFORM] * 100)
    answer = await asked(
        OAUTH, "/token", f"grant_type=refresh_token&refresh_token=a&scope={scope}".encode(), FORM
    )
    assert (answer.status, json.loads(answer.body)["scope"]) == (200, CLOUD_PLATFORM)


async def test_without_scopes_iamcredentials_can_be_asked(begin: Begin) -> None:
    """A library needs an access token to ask there with: it gets a placeholder that stands for none, and of no other scope."""
    asked = await begin(f"audiences: ['{AUDIENCE}']")
    for scope in (IAM, CLOUD_PLATFORM):
        answer = await asked.assertion(scope=scope)
        assert placeholder.is_in(answer.json["access_token"].encode())
    assert (await asked.call("generateIdToken", {"audience": AUDIENCE})).status == 200
    answer = await asked.assertion(scope="https://www.googleapis.com/auth/devstorage.read_only")
    assert (answer.status, answer.json["error"]) == (400, "invalid_scope")
    assert (await asked.call("generateAccessToken", {"scope": [CLOUD_PLATFORM]})).status == 403


async def test_no_parameter_widens_the_lists(begin: Begin) -> None:
    """Another audience or scope is refused, in the words of each endpoint."""
    asked = await begin(f"audiences: ['{AUDIENCE}'], scopes: ['{BIGQUERY}']")
    for audience in ("https://other.example", f"{AUDIENCE}/"):
        answer = await asked.assertion(target_audience=audience)
        assert (answer.status, answer.json["error"]) == (400, "invalid_scope")
        assert AUDIENCE in answer.json["error_description"]
        answer = await asked.call("generateIdToken", {"audience": audience})
        error = answer.json["error"]
        assert (answer.status, error["code"], error["status"]) == (403, 403, "PERMISSION_DENIED")
        assert error["details"][0]["reason"] == "NOT_ALLOWED"
    assert (await asked.assertion(scope="t")).json["error"] == "invalid_scope"
    assert (await asked.call("generateAccessToken", {"scope": ["t"]})).status == 403
    counted = {"server": "google_token_endpoints", "reason": "not_allowed"}
    assert await asked.sidecar.metric("idtoken_sidecar_handouts_refused_total", **counted) == 6


def jwt(header: object, claims: object, signature: str = "AA") -> str:
    """The compact form of anything."""
    parts = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)
    )
    return ".".join([*parts, signature])


GOOD = {"alg": "RS256"}
NO_ASSERTION = {
    "nothing": "",
    "one-part": "abc",
    "no-base64url": "a+.b/.c=",
    "four-parts": jwt(GOOD, {"scope": "s"}) + ".AA",
    "no-signature": jwt(GOOD, {"scope": "s"}, ""),
    "no-algorithm": jwt({}, {"scope": "s"}),
    "header-of-no-object": jwt([], {"scope": "s"}),
    "claims-of-no-object": jwt(GOOD, ["s"]),
    "no-claims": jwt(GOOD, {}),
    "a-name-twice": "e30.eyJzY29wZSI6ImEiLCJzY29wZSI6ImIifQ.AA",
    "deep": ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (b"{}", b"[" * 50_000, b"x")
    ),
}


async def test_what_is_no_assertion(begin: Begin) -> None:
    """The signature is not looked at; the form is."""
    asked = await begin()
    for name, assertion in NO_ASSERTION.items():
        answer = await asked.token(grant_type=JWT_BEARER, assertion=assertion)
        assert (answer.status, answer.json["error"]) == (400, "invalid_grant"), name
    for claims in (
        {"scope": "s", "target_audience": AUDIENCE},
        {"target_audience": [AUDIENCE]},
        {"target_audience": ""},
        {"scope": ["s"]},
        {"scope": " "},
        {"x": 1},
    ):
        assert (await asked.assertion(**claims)).json["error"] == "invalid_scope", claims


WRONG: Final[dict[str, tuple[str, str, bytes, dict[str, str], int, str]]] = {
    "no-grant": (OAUTH, "/token", b"a=b", FORM, 400, "unsupported_grant_type"),
    "a-parameter-twice": (OAUTH, "/token", b"grant_type=a&grant_type=b", FORM, 400, "invalid_request"),
    "no-form": (OAUTH, "/token", b"\xff", FORM, 400, "invalid_request"),
    "no-refresh-token": (OAUTH, "/token", b"grant_type=refresh_token", FORM, 400, "invalid_request"),
    "json-for-a-form": (OAUTH, "/token", b"{}", JSON, 415, ""),
    "another-path": (OAUTH, "/tokeninfo", b"", {}, 404, "invalid_request"),
    "the-path-of-another-host": (OAUTH, "/v1/token", b"a=b", FORM, 404, "invalid_request"),
    "a-body-elsewhere": (OAUTH, "/x", b"a=b", FORM, 413, ""),
    "too-long": (OAUTH, "/token", b"a" * (128 * 1024 + 1), FORM, 413, ""),
    "compressed": (OAUTH, "/token", b"a=b", {**FORM, "Content-Encoding": "gzip"}, 415, ""),
    "no-exchange": (STS, "/v1/token", b"grant_type=refresh_token", FORM, 400, "unsupported_grant_type"),
    "no-subject": (
        STS,
        "/v1/token",
        f"grant_type={EXCHANGE}&audience=a".encode(),
        FORM,
        400,
        "invalid_request",
    ),
    "an-id-token-by-exchange": (
        STS,
        "/v1/token",
        f"grant_type={EXCHANGE}&audience=a&subject_token=b&subject_token_type=c&requested_token_type=d".encode(),
        FORM,
        400,
        "invalid_request",
    ),
    "no-bearer": (
        CREDENTIALS,
        f"{ACCOUNT}:generateIdToken",
        b"{}",
        {**JSON, "Authorization": ""},
        401,
        "UNAUTHENTICATED",
    ),
    "no-json": (CREDENTIALS, f"{ACCOUNT}:generateIdToken", b"{", JSON, 400, "INVALID_ARGUMENT"),
    "no-object": (CREDENTIALS, f"{ACCOUNT}:generateIdToken", b"[]", JSON, 400, "INVALID_ARGUMENT"),
    "a-name-twice": (
        CREDENTIALS,
        f"{ACCOUNT}:generateIdToken",
        b'{"audience": "a", "audience": "b"}',
        JSON,
        400,
        "INVALID_ARGUMENT",
    ),
    "a-name-of-no-field": (
        CREDENTIALS,
        f"{ACCOUNT}:generateIdToken",
        b'{"x\\n": "a"}',
        JSON,
        400,
        "INVALID_ARGUMENT",
    ),
    "no-audience": (CREDENTIALS, f"{ACCOUNT}:generateIdToken", b"{}", JSON, 400, "INVALID_ARGUMENT"),
    "scopes-of-no-text": (
        CREDENTIALS,
        f"{ACCOUNT}:generateAccessToken",
        b'{"scope": [1]}',
        JSON,
        400,
        "INVALID_ARGUMENT",
    ),
    "a-signature": (CREDENTIALS, f"{ACCOUNT}:signBlob", b'{"payload": "AA"}', JSON, 403, "PERMISSION_DENIED"),
    "another-api": (CREDENTIALS, "/v1/projects", b"", JSON, 404, "NOT_FOUND"),
}


async def test_what_is_refused_is_refused_in_the_hosts_own_form(begin: Begin) -> None:
    """RFC 6749's of oauth2 and sts, AIP-193 of iamcredentials; what never came so far, as by any server here."""
    asked = await begin()
    for name, (host, path, body, headers, status, word) in WRONG.items():
        answer = await asked(host, path, body, headers)
        assert answer.status == status, (name, answer)
        if word:
            error = answer.json["error"]
            assert (error["status"] if host == CREDENTIALS else error) == word, (name, answer)
    answer = await asked(OAUTH, "/token", method="GET")
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    answer = await asked(CREDENTIALS, f"{ACCOUNT}:generateIdToken", method="GET", headers=JSON)
    assert (answer.status, answer.json["error"]["status"]) == (400, "INVALID_ARGUMENT")


REFUSED: Final[dict[str, tuple[dict[str, str], int]]] = {
    "browser-of-another-site": ({"Origin": "https://evil.example"}, 403),
    "browser-of-this-very-host": ({"Origin": "https://HOST"}, 403),
    "browser-by-fetch-metadata": ({"Sec-Fetch-Site": "none"}, 403),
    "rebound-name": ({"Host": "evil.example"}, 403),
    "another-of-the-three": ({"Host": "OTHER"}, 403),
    "loopback": ({"Host": "localhost"}, 400),
    "another-port": ({"Host": "HOST:8443"}, 400),
    "forwarded": ({"X-Forwarded-For": "10.0.0.1"}, 403),
    "forwarded-by-rfc-7239": ({"Forwarded": "for=10.0.0.1"}, 403),
    "through-a-proxy": ({"Via": "1.1 squid"}, 403),
}


@pytest.mark.parametrize("host", [OAUTH, CREDENTIALS])
async def test_whom_it_gives_nothing(begin: Begin, host: str) -> None:
    """A page in a browser, another host inside of the tunnel, what a proxy forwards: for any path."""
    asked = await begin()
    other = STS
    paths = {
        "/token": (f"grant_type=refresh_token&refresh_token=a&scope={CLOUD_PLATFORM}".encode(), FORM),
        f"{ACCOUNT}:generateIdToken": (json.dumps({"audience": AUDIENCE}).encode(), JSON),
        "/": (b"", {}),
    }
    for name, (headers, status) in REFUSED.items():
        filled = {key: it.replace("HOST", host).replace("OTHER", other) for key, it in headers.items()}
        for path, (body, fields) in paths.items():
            answer = await asked(host, path, body, {**fields, **filled})
            assert answer.status == status, (name, path, answer)
            assert not placeholder.is_in(answer.body), name
            assert not any(field.startswith("access-control") for field in answer.headers), name
    reason = {"server": "google_token_endpoints", "reason": "caller_refused"}
    refused = [status for _, status in REFUSED.values() if status == 403]
    assert await asked.sidecar.metric("idtoken_sidecar_handouts_refused_total", **reason) == len(refused) * 3
    # A page can't ask for the tunnel either, nor can a proxy, which could write nothing inside of it.
    for line in (
        "Origin: https://evil.example",
        "X-Forwarded-For: 10.0.0.1",
        "forwarded: for=10.0.0.1",
        "Via: 1.1 squid",
    ):
        answer = await asked(host, "/", connect=f"{line}\r\n")
        assert (answer.status, b"caller_refused" in answer.body) == (403, True), line


async def test_a_listeners_header_is_asked_for_with_the_tunnel(begin: Begin) -> None:
    """As for every tunnel: a program that can't bring it opens none."""
    guarded = "{address: 'localhost:0', require_header: {X-Caller: abcdefgh}}"
    asked = await begin(arguments=("--listen", guarded))
    body = b"grant_type=refresh_token&refresh_token=a"
    refused = await asked(OAUTH, "/token", body, FORM)
    assert (refused.status, b"X-Caller" in refused.body) == (403, True)
    answer = await asked(OAUTH, "/token", body, FORM, connect="X-Caller: abcdefgh\r\n")
    assert placeholder.is_in(answer.body)


OTHER_USER = """
import encodings.idna, http.client, os, ssl, sys
port, bundle, host = sys.argv[1:]
context = ssl.create_default_context(cafile=bundle)
os.setgroups([]); os.setgid(4321); os.setuid(4321)
connection = http.client.HTTPSConnection("127.0.0.1", int(port), context=context)
connection.set_tunnel(host, 443)
body = "grant_type=refresh_token&refresh_token=a"
connection.request("POST", "/token", body, {"Content-Type": "application/x-www-form-urlencoded"})
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize(("peers", "others"), [("0", 403), ("[0, 4321]", 200)])
async def test_processes_of_other_users(begin: Begin, peers: str, others: int) -> None:
    """The kernel is asked whose tunnel it is."""
    asked = await begin(f"audiences: ['{AUDIENCE}'], scopes: [openid], peers: {{uid: {peers}}}")
    assert (await asked.assertion(target_audience=AUDIENCE)).status == 200
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", OTHER_USER, str(asked.sidecar.port), str(asked.bundle), OAUTH),
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    async with asyncio.timeout(LIMIT):
        out, _ = await process.communicate()
    assert out.decode().startswith(str(others)), out
    if others == 403:
        assert b"uid 4321" in out
        await asked.sidecar.logged("`google_token_endpoints` gave no token", reason="caller_refused")


async def test_a_token_that_cannot_be_had(google: Emulator, begin: Begin) -> None:
    """Who would get its placeholder is told when to come again: what it stood for could not be had either."""
    google.oauth.endpoint.fail(Fault("status", 503))
    asked = await begin(top="token_wait: 1s\nstartup: serve\n")
    answer = await asked.assertion(target_audience=AUDIENCE)
    assert (answer.status, answer.json["error"]) == (503, "temporarily_unavailable")
    answer = await asked.call("generateIdToken", {"audience": AUDIENCE})
    assert (answer.status, answer.json["error"]["status"]) == (503, "UNAVAILABLE")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_routes_own_listener_is_no_way_there(begin: Begin) -> None:
    """It is for that route, as for every other host."""
    asked = await begin(
        routes="routes: [{name: a, listen: 'localhost:0', upstream: 'https://a.example', prefetch: false}]\n"
    )
    own = Asked(asked.sidecar, asked.bundle)
    asked.sidecar.port = await asked.sidecar.own_port("a")
    answer = await own.assertion(target_audience=AUDIENCE)
    assert answer.status == 403
    assert OAUTH.encode() in answer.body


async def test_a_name_that_leads_here_is_no_way_there(begin: Begin) -> None:
    """By SNI: the sidecar's own calls would come by the same name."""
    both = "[localhost:0, {address: '127.0.0.1:0', intercept: true}]"
    asked = await begin(
        routes="routes: [{name: a, upstream: 'https://a.example', intercept: true, prefetch: false}]\n",
        arguments=("--listen", both),
    )
    port = int((await asked.sidecar.logged("listening"))["listen"][-1].rpartition(":")[2])
    context = ssl.create_default_context(cafile=str(asked.bundle))
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=OAUTH)
    entry = await asked.sidecar.logged("no certificate for an app")
    assert "HTTPS_PROXY" in entry["detail"]


async def test_another_configuration_switches_it_off_and_on(begin: Begin, tmp_path: Path) -> None:
    """At once, with the bundle written anew; what it has given stays known."""
    asked = await begin()
    sidecar = asked.sidecar
    assert (await asked.assertion(target_audience=AUDIENCE)).status == 200
    file = tmp_path / "config-0.yaml"
    text = file.read_text()
    without = "\n".join(line for line in text.splitlines() if "google_token_endpoints" not in line)
    for number, (config, status) in enumerate(((without, 501), (text, 200)), 1):
        file.write_text(config)
        assert (await sidecar.admin("/reload", "POST"))[0] == 200
        await sidecar.logged("configuration reloaded", times=number)
        assert (await asked.assertion(target_audience=AUDIENCE)).status == status
    counted = {"server": "google_token_endpoints", "kind": "id"}
    assert await sidecar.metric("idtoken_sidecar_handouts_total", **counted) == 2


async def test_the_sidecars_own_calls_go_to_google(google: Emulator, begin: Begin) -> None:
    """Its own key is for Google's endpoint: what it asks there is asked by no tunnel of its own."""
    asked = await begin(arguments=("--access-log", "all"))
    before = len(google.oauth.asked)
    assert (await asked.assertion(target_audience="https://new.a.run.app")).status == 200
    assert len(google.oauth.asked) == before + 1
    counted = {"server": "google_token_endpoints", "kind": "id"}
    assert await asked.sidecar.metric("idtoken_sidecar_handouts_total", **counted) == 1
