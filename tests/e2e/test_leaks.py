"""No secret anywhere: every command, every error path and every endpoint, with secrets that are known to the test.

Secrets are what the stand-in handed out and was sent: ID tokens, access tokens, signed JWTs, assertions, subject tokens,
refresh tokens and client secrets, private keys, AWS secrets. They are looked for in everything that the sidecar printed,
logged, answered or exposed, under `-X dev` and at log level debug; and in the text forms of its objects.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlencode

import pytest
from aiohttp import web

from sidecar.config.load import load
from sidecar.config.targets import TokenKind
from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault, Kind
from sidecar.emulator.keys import SigningKey
from sidecar.emulator.running import EmulatorThread
from sidecar.emulator.sts import AWS_SECRET, AWS_TYPE
from sidecar.errors import SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.sources import build_sources
from sidecar.tokens.token import TokenKey
from tests.support import forks
from tests.support.google import signed
from tests.support.named_source import NamedSource
from tests.support.process import SidecarProcess
from tests.support.sampling import sampled
from tests.support.secret_shapes import SHAPES, shown_of
from tests.support.sidecar import COMMAND, LIMIT, clean_environment

ACTED_AS = "acted-as@emulated-project.iam.gserviceaccount.com"
CREATOR = "roles/iam.serviceAccountTokenCreator"
OWN = "Basic b3duLXNlY3JldC1vZi10aGUtYXBw"
"""What the app sends for itself."""
ENDPOINT = "an-only-secret-of-the-token-endpoint"
CREDENTIALS = ("default", "key", "inline", "me", "acting", "federated", "aws", "vault", "fixed", "cli")


class Secrets:
    """Everything that must not be seen."""

    def __init__(self) -> None:
        self.known: set[str] = {AWS_SECRET, OWN.split()[1]}

    def add(self, text: str) -> None:
        """Of a JWT the signature is what makes it one; of a key, its lines."""
        parts = text.split(".")
        if len(parts) == 3 and text.startswith("eyJ"):
            self.known.add(parts[2])
        elif "PRIVATE KEY" in text:
            self.known.update(line for line in text.splitlines() if len(line) == 64)
        elif len(text) >= 12:
            self.known.add(text)

    def refute(self, text: str) -> None:
        """Fail where one of them stands in a text, also as they are quoted in URLs and JSON; says where, not what."""
        for secret in self.known:
            for spelling in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
                if (at := text.find(spelling)) >= 0:
                    pytest.fail(f"a secret stands after {text[max(0, at - 200) : at]!r}", pytrace=False)


class World(NamedTuple):
    google: Emulator
    secrets: Secrets
    config: str
    environ: dict[str, str]
    directory: Path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A stand-in that notes every secret, and a configuration that uses every type of credential."""
    secrets = Secrets()
    sign = SigningKey.sign

    def noted(self: SigningKey, claims: Mapping[str, Any]) -> str:
        value = sign(self, claims)
        secrets.add(value)
        return value

    monkeypatch.setattr(SigningKey, "sign", noted)
    with EmulatorThread() as thread:
        google = thread.google
        issue = google.principals.issue

        def issued(*args: Any, **options: Any) -> Any:
            token = issue(*args, **options)
            secrets.add(token.value)
            return token

        monkeypatch.setattr(google.principals, "issue", issued)
        for app in (google.oauth.app, google.sts.app):
            thread.call(lambda app=app: None)
            note_bodies(app, secrets)
        targets = [
            thread.run(google.add_target("run")),
            thread.run(google.add_target("refusing", callers=())),
            thread.run(google.add_target("api", kind="googleapis")),
        ]
        yield prepare(google, secrets, tmp_path, [target.url for target in targets])


def note_bodies(app: web.Application, secrets: Secrets) -> None:
    """Note every assertion and subject token that is sent."""
    # The applications are frozen by now; what is inside of a handler is not.
    for route in app.router.routes():
        handler = route._handler

        async def noting(request: web.Request, handler: Any = handler) -> Any:
            if request.method == "POST":
                form = parse_qs((await request.read()).decode())
                for name in ("assertion", "subject_token", "refresh_token", "client_secret"):
                    for value in form.get(name, []):
                        secrets.add(value)
            return await handler(request)

        route._handler = noting


def prepare(google: Emulator, secrets: Secrets, directory: Path, urls: list[str]) -> World:
    user = google.oauth.add_user("me@example.com")
    secrets.add(user.refresh_token)
    secrets.add(user.client_secret)
    provider = google.sts.add_provider()
    google.principals.add(ACTED_AS)
    for member in (user.member, provider.principal_set, f"serviceAccount:{google.metadata.email}"):
        google.principals.grant(member, CREATOR, on=ACTED_AS)
    key = json.loads(google.write_key(directory / "key.json").read_text())
    secrets.add(key["private_key"])
    google.write_login(directory / "login.json", user)
    (directory / "subject").write_text(google.sts.subject_token(provider))
    google.write_federation(directory / "wif.json", provider, {"file": str(directory / "subject")})
    google.write_federation(
        directory / "aws.json", provider, google.aws_source(), subject_token_type=AWS_TYPE
    )
    ready = signed(google._now(), aud=urls[0])
    (directory / "token").write_text(ready)
    script = directory / "gcloud"
    script.write_text(f"#!/bin/sh\necho 'ERROR: {ready}' >&2\necho {ready}\n")
    script.chmod(0o755)
    routes = "".join(
        f"  - {{name: {name}, host: {name}.test, upstream: '{urls[0]}', target: cloud_run, audience: '{urls[0]}', "
        f"credential: {name}, prefetch: false}}\n"
        for name in CREDENTIALS
    )
    config = (
        f"endpoints: {{oauth: '{google.oauth_url}', sts: '{google.sts_url}', iam_credentials: '{google.iam_url}'}}\n"
        "log_level: debug\naccess_log: all\ntoken_wait: 2s\nstartup: serve\n"
        f"metadata_server: {{listen: 'localhost:0', credential: key, audiences: ['{urls[0]}'], scopes: [openid]}}\n"
        "token_endpoint: {listen: 'localhost:0', secret: \"${ENDPOINT}\"}\n"
        f"google_token_endpoints: {{credential: key, audiences: ['{urls[0]}'], scopes: [openid]}}\n"
        f"intercept: {{bundle_file: '{directory}/bundle.pem'}}\n"
        "credentials:\n  default: {type: metadata}\n"
        f"  key: {{type: service_account_key, file: {directory}/key.json}}\n"
        '  inline: {type: service_account_key, json: "${KEY}"}\n'
        f"  me: {{type: user, file: {directory}/login.json}}\n"
        f"  acting: {{type: impersonate, service_account: {ACTED_AS}, source: me}}\n"
        f"  federated: {{type: workload_identity_federation, file: {directory}/wif.json, service_account: {ACTED_AS}}}\n"
        f"  aws: {{type: workload_identity_federation, file: {directory}/aws.json, service_account: {ACTED_AS}}}\n"
        f"  vault: {{type: file, path: {directory}/token}}\n"
        '  fixed: {type: static, token: "${TOKEN}"}\n'
        f"  cli: {{type: gcloud, command: {script}, account: me@p.iam.gserviceaccount.com}}\n"
        f"routes:\n{routes}"
        f"  - {{name: refusing, host: r.test, upstream: '{urls[1]}', target: cloud_run, audience: '{urls[1]}', prefetch: false}}\n"
        f"  - {{name: unwanted, host: u.test, upstream: '{urls[0]}', audience: 'https://other', target: cloud_run, "
        "prefetch: false}\n"
        f"  - {{name: api, host: a.test, upstream: '{urls[2]}', target: googleapis, token: access, prefetch: false}}\n"
        f"  - {{name: signed, host: s.test, upstream: '{urls[2]}', target: googleapis, token: self_signed_jwt, "
        "credential: key, audience: 'https://api.googleapis.com/', prefetch: false}\n"
        "  - {name: gone, host: g.test, upstream: 'http://127.0.0.1:1', prefetch: false}\n"
    )
    secrets.add(ENDPOINT)
    environ = {**google.environment(), "KEY": json.dumps(key), "TOKEN": ready, "ENDPOINT": ENDPOINT}
    environ["PYTHONDEVMODE"] = "1"
    return World(google, secrets, config, environ, directory)


ROUTES = (*CREDENTIALS, "refusing", "unwanted", "api", "signed", "gone")


def ask_everything(sidecar: SidecarProcess) -> str:
    """Every route with a header of the app's own, and every page of the admin server; whatever was answered."""
    seen = []
    for route in ROUTES:
        for method in ("GET", "POST"):
            for headers in ({}, {"Authorization": OWN}):
                reply = sidecar.ask(
                    sidecar.port,
                    f"/x?secret={OWN.split()[1]}",
                    {"Host": f"{route}.localhost", **headers},
                    method=method,
                )
                seen.append(f"{reply.status} {dict(reply.headers)}")
                # What an app answers is its own affair; the stand-in's echoes what it was sent.
                if "proxy-status" in reply.headers:
                    seen.append(reply.body.decode())
    paths = (
        "/healthz/live",
        "/healthz/ready",
        "/healthz/startup",
        "/metrics",
        "/status.json",
        "/nothing",
        "/",
    )
    seen += [sidecar.admin(path).body.decode() for path in paths]
    seen.append(sidecar.ask(sidecar.admin_port, "/", {"Accept": "text/html"}).body.decode())
    seen += [
        sidecar.ask(sidecar.admin_port, path, {}, method="POST").body.decode() for path in ("/log-level",) * 2
    ]
    seen += ask_for_tokens(sidecar)
    seen += ask_googles_endpoints(sidecar)
    return "\n".join([*seen, *what_the_page_is_told(sidecar)])


def ask_for_tokens(sidecar: SidecarProcess) -> Iterator[str]:
    """What the metadata server and the token endpoint answer, but for the tokens that they are there to give."""
    metadata, endpoint = (
        int(it["listen"][0].rpartition(":")[2])
        for it in sidecar.admin("/status.json").json["handouts"]
        if it["listen"]
    )
    (audience,) = sidecar.admin("/status.json").json["handouts"][0]["audiences"]
    account = "/computeMetadata/v1/instance/service-accounts/default/"
    identity = f"{account}identity?audience={audience}"
    token = sidecar.ask(metadata, identity, {"Metadata-Flavor": "Google"}).body.decode().strip() or "none"
    paths = (
        *("/", f"{account}?recursive=true", f"{account}token", identity),
        # What belongs elsewhere, in the place of an audience and of a scope.
        *(f"{account}identity?audience={quote(token)}", f"{account}token?scopes={quote(token)}"),
    )
    for path in paths:
        for headers in (
            {},
            {"Metadata-Flavor": "Google"},
            {"Metadata-Flavor": "Google", "Authorization": OWN},
        ):
            reply = sidecar.ask(metadata, path, headers)
            gives = reply.status == 200 and ("token" in path or "identity" in path)
            yield f"{reply.status} {dict(reply.headers)} {'' if gives else reply.body.decode()}"
    for name in (*ROUTES, "nobody"):
        for secret in (ENDPOINT, OWN):
            connection = http.client.HTTPConnection("127.0.0.1", endpoint, timeout=20)
            form = {"grant_type": "client_credentials", "client_id": name, "client_secret": secret}
            fields = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/oauth2/token", urlencode(form), fields)
            answer = connection.getresponse()
            body = answer.read().decode()
            yield f"{answer.status} {answer.getheaders()} {'' if answer.status == 200 else body}"
            connection.close()


def ask_googles_endpoints(sidecar: SidecarProcess) -> Iterator[str]:
    """What Google's token endpoints answer here: placeholders, which are no secrets, and never what they were sent."""
    (audience,) = sidecar.admin("/status.json").json["handouts"][0]["audiences"]
    own = OWN.split()[1]
    account = f"/v1/projects/-/serviceAccounts/{own}:"
    assertion = SigningKey().sign({"target_audience": audience})
    forms = [
        {"grant_type": own, "assertion": own},
        {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion},
        {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": own},
        {"grant_type": "refresh_token", "refresh_token": own, "client_secret": own},
        {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": own},
    ]
    asked = [
        (f"{host}.googleapis.com", path, urlencode(form), "x-www-form-urlencoded")
        for host, path in (("oauth2", "/token"), ("sts", "/v1/token"))
        for form in forms
    ]
    asked += [
        ("iamcredentials.googleapis.com", f"{account}{method}", json.dumps(body), "json")
        for method in ("generateIdToken", "generateAccessToken", "signJwt")
        for body in ({"audience": audience}, {"scope": ["openid"]}, {"payload": own})
    ]
    config = Path(sidecar.command[sidecar.command.index("--config") + 1])
    context = ssl.create_default_context(cafile=str(config.with_name("bundle.pem")))
    for host, path, body, kind in asked:
        connection = http.client.HTTPSConnection("127.0.0.1", sidecar.port, timeout=20, context=context)
        connection.set_tunnel(host, 443)
        fields = {"Content-Type": f"application/{kind}", "Authorization": f"Bearer {own}"}
        connection.request("POST", path, body, fields)
        answer = connection.getresponse()
        yield f"{answer.status} {answer.getheaders()} {answer.read().decode()}"
        connection.close()


def what_the_page_is_told(sidecar: SidecarProcess) -> list[str]:
    """The answer to its form, and every section that its feed begins with."""
    url = f"http://{ROUTES[0]}.localhost:{sidecar.port}/x"
    connection = http.client.HTTPConnection("127.0.0.1", sidecar.admin_port, timeout=20)
    try:
        connection.request(
            "POST", "/explain", urlencode({"url": url}), {"Content-Type": "application/x-www-form-urlencoded"}
        )
        explained = connection.getresponse().read().decode()
        connection.request("GET", "/events")
        feed, sections = connection.getresponse(), []
        while not any('"id": "configuration"' in section for section in sections):
            sections.append(feed.readline().decode())
    finally:
        connection.close()
    assert url in explained
    return [explained, *sections]


def test_a_good_day(world: World) -> None:
    """Every credential gets its token, and nothing shows one."""
    with SidecarProcess(world.config, world.directory, world.environ) as sidecar:
        seen = ask_everything(sidecar)
        statuses = [sidecar.get(route).status for route in CREDENTIALS]
    assert statuses == [200] * len(CREDENTIALS), sidecar.text
    assert len(world.secrets.known) > 30
    world.secrets.refute(seen)
    world.secrets.refute(sidecar.text)


KINDS: list[Kind] = ["reset", "html", "huge", "garbage", "wrong_audience", "no_exp", "expired"]


@pytest.mark.parametrize("kind", sampled(KINDS, ["wrong_audience"]))
def test_bad_days(world: World, kind: Kind) -> None:
    """Every endpoint misbehaves in every way; answers that hold a token among the rest."""
    for server in (world.google.metadata, world.google.oauth, world.google.sts, world.google.iam):
        server.endpoint.fail(Fault(kind))
    with SidecarProcess(world.config, world.directory, world.environ) as sidecar:
        seen = ask_everything(sidecar)
    world.secrets.refute(seen)
    world.secrets.refute(sidecar.text)
    assert '"token fetch failed for' in sidecar.text


@pytest.mark.parametrize("code", sampled((400, 401, 403, 500), [403]))
def test_answers_that_quote_what_they_were_sent(world: World, code: int) -> None:
    """A proxy's debug page with the request in it, as an error of every sort."""
    noted = "ya29.quoted-back-secret-token-000000"
    world.secrets.add(noted)
    body = json.dumps(
        {
            "error": {
                "code": 403,
                "status": noted,
                "message": noted,
                "details": [{"reason": noted, "metadata": {"consumer": noted}}],
            },
            "error_description": noted,
            "error_subtype": noted,
        }
    )
    for server in (world.google.metadata, world.google.oauth, world.google.sts, world.google.iam):
        server.endpoint.fail(
            Fault("status", code=code, body=body, headers={"Retry-After": noted, "Content-Type": noted})
        )
    with SidecarProcess(world.config, world.directory, world.environ) as sidecar:
        seen = ask_everything(sidecar)
    world.secrets.refute(seen)
    world.secrets.refute(sidecar.text)


COMMANDS = (
    ["check"],
    ["check", "--json"],
    ["check", "--online"],
    ["explain", "http://default.localhost:1/", "-H", f"Authorization: {OWN}"],
    ["explain", "http://nowhere/", "-H", f"Authorization: {OWN}", "--json"],
    ["config", "show"],
    ["config", "validate"],
    ["token", "default", "--claims"],
    ["token", "api", "--claims"],
    ["exec", "--", sys.executable, "-c", "pass"],
)
EVERY_DAY = [
    ("check --online", "failing"),
    ("explain http://default", "good"),
    ("token api", "good"),
    ("exec", "failing"),
]


@pytest.mark.parametrize(
    ("words", "failing"),
    [
        pytest.param(
            words,
            state == "failing",
            id=f"{state}-{' '.join(words)}",
            marks=() if daily else pytest.mark.test_all,
        )
        for words in COMMANDS
        for state in ("good", "failing")
        for daily in [any(" ".join(words).startswith(begun) and state == in_it for begun, in_it in EVERY_DAY)]
    ],
)
def test_commands(world: World, words: list[str], failing: bool) -> None:
    """What they print, and what they print when all goes wrong. `token` without --claims is for printing one."""
    if failing:
        for server in (world.google.metadata, world.google.oauth, world.google.sts, world.google.iam):
            server.endpoint.fail(Fault("wrong_audience"))
    file = world.directory / "c.yaml"
    file.write_text("listen: localhost:0\nadmin: localhost:0\n" + world.config)
    at = words.index("--") if "--" in words else len(words)
    found = forks.run(
        [*COMMAND, *words[:at], "--config", str(file), *words[at:]],
        env=clean_environment(**world.environ),
        timeout=LIMIT * 3,
    )
    if not failing and "--online" not in words and "http://nowhere/" not in words:
        assert found.returncode == 0, found.stdout + found.stderr
    assert found.returncode != 2, found.stderr
    world.secrets.refute(found.stdout + found.stderr)


MISTAKES = (
    "credentials: {default: {type: static, tokne: SECRET}}",
    "credentials: {default: {type: static, token: [SECRET]}}",
    "credentials: {default: {type: static, token: {a: SECRET}}}",
    "credentials: {default: {type: service_account_key, json: SECRET, file: x}}",
    "credentials: {default: {type: static, token: 'SECRET'}, x: SECRET}",
    "credentials: [SECRET]",
)


@pytest.mark.parametrize("mistake", sampled(MISTAKES, MISTAKES[:1]))
def test_mistakes_in_the_configuration(tmp_path: Path, mistake: str) -> None:
    """An error names the key, and not what stands there."""
    secret = "very-secret-value-of-a-token"
    file = tmp_path / "c.yaml"
    file.write_text(
        mistake.replace("SECRET", secret)
        + "\nroutes: [{name: a, upstream: 'https://a.example', header: 7}]\n"
    )
    found = forks.run(
        [*COMMAND, "config", "validate", "--config", str(file)], env=clean_environment(), timeout=LIMIT
    )
    assert found.returncode == 2
    assert "credentials" in found.stderr
    assert secret not in found.stdout + found.stderr


def test_a_crash_dump(world: World) -> None:
    """faulthandler's tracebacks of all threads, in the middle of fetches that hang."""
    for server in (world.google.metadata, world.google.oauth, world.google.sts, world.google.iam):
        server.endpoint.fail(Fault("hang"))
    with SidecarProcess(world.config, world.directory, world.environ) as sidecar:
        callers = [threading.Thread(target=sidecar.get, args=(route,)) for route in CREDENTIALS]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        sidecar.process.send_signal(signal.SIGABRT)
        assert sidecar.process.wait(LIMIT) == -signal.SIGABRT
    assert re.search(r"Fatal Python error: Aborted[\s\S]*Thread 0x", sidecar.text)
    world.secrets.refute(sidecar.text)


@pytest.mark.parametrize("kind", sampled((None, *KINDS), [None, "huge", "wrong_audience"]))
def test_the_text_forms_of_objects_and_tracebacks(world: World, kind: Kind | None) -> None:
    """Of everything that a fetch makes, and of its error with the locals of every frame."""
    for server in (world.google.metadata, world.google.oauth, world.google.sts, world.google.iam):
        server.endpoint.fail(None if kind is None else Fault(kind))
    config = load(world.config, environ=world.environ).config
    seen = [repr(config), str(config), repr(config.credentials)]

    async def mint_all() -> None:
        sources = build_sources(
            config.credentials,
            clock=SystemClock(asyncio.get_running_loop()),
            environ=world.environ,
            endpoints=config.endpoints,
        )
        url = world.google.targets["run"].url
        for name, source in sources.items():
            for key in (
                TokenKey(NamedSource(name), url, TokenKind.ID, True),
                TokenKey(NamedSource(name), "scope", TokenKind.ACCESS),
            ):
                try:
                    token = await source.mint(key)
                    seen.append(f"{token!r} {token} {token:s}")
                except SidecarError as error:
                    seen.append(repr(error) + str(error.args))
                    found = traceback.TracebackException.from_exception(error, capture_locals=True)
                    # This test's own frame knows every secret.
                    seen.extend(str(frame.locals) for frame in found.stack if frame.filename != __file__)
            seen.append(f"{source!r} {source.describe()} {source.grant!r} {vars(source)!r}")

    asyncio.run(mint_all())
    assert len(seen) > 30
    world.secrets.refute("\n".join(seen))


# Contents in the place of a path, a URL or another plain value


FORMS = ("key", "pem", "jwt")
"""What people have at hand; tests/unit/config/test_misplaced.py tries every form at every setting."""
MARK = "k7Qw9ZtR2mXc4VbN8sLp3YhD6fGj"
ROUTES_ONLY = "routes: [{name: a, upstream: 'https://a.example'}]\n"
EVERYWHERE = """\
listen:
- {address: 'localhost:8801', tls: {cert_file: "${SECRET}", key_file: "${SECRET}", client_ca_file: "${SECRET}"}}
- {address: "${SECRET}"}
- {address: 'localhost:8802', require_header: {"${SECRET}": "${SECRET}"}}
admin: "${SECRET}"
log_level: "${SECRET}"
token_wait: "${SECRET}"
endpoints: {metadata: "${SECRET}", oauth: "${SECRET}", sts: "${SECRET}", iam_credentials: "${SECRET}"}
tracing: {endpoint: "${SECRET}", service_name: "${SECRET}"}
credentials:
  default: {type: service_account_key, file: "${SECRET}"}
  federated: {type: workload_identity_federation, file: "${SECRET}", service_account: "${SECRET}"}
  me: {type: user, file: "${SECRET}"}
  cli: {type: gcloud, command: "${SECRET}", account: "${SECRET}"}
  ready: {type: file, path: "${SECRET}"}
  attached: {type: metadata, account: "${SECRET}"}
  acting: {type: impersonate, service_account: "${SECRET}", source: "${SECRET}", delegates: ["${SECRET}"]}
  odd: {type: "${SECRET}"}
routes:
- name: a
  upstream: https://a.example
  tls: {ca_file: "${SECRET}", client_cert_file: "${SECRET}", client_key_file: "${SECRET}", crl_file: "${SECRET}",
    server_name: "${SECRET}"}
  audience: "${SECRET}"
  header: "${SECRET}"
- {name: b, upstream: "${SECRET}", host: ["${SECRET}"], path_prefix: "${SECRET}", upstream_host: "${SECRET}"}
- {name: "${SECRET}", upstream: 'https://c.example', credential: "${SECRET}", allow: {paths: ["${SECRET}"]}}
- {name: d, upstream: 'https://{host}', host: 'd.example', target: "${SECRET}", token: "${SECRET}", scopes: "${SECRET}"}
"""
READERS = (
    ["run"],
    ["check"],
    ["check", "--online", "--json"],
    ["explain", "http://a.localhost:8787/"],
    ["config", "validate"],
    ["config", "show"],
    ["token", "a"],
    ["manifest", "cloud-run"],
    ["manifest", "gke"],
    ["manifest", "systemd"],
    ["manifest", "iam"],
    ["exec", "--", sys.executable, "-c", "pass"],
)


def run_command(words: list[str], directory: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return forks.run(
        [*COMMAND, *words],
        env=clean_environment(**{"PYTHONDEVMODE": "1", **environ}),
        cwd=directory,
        timeout=LIMIT * 3,
    )


def with_options(words: list[str], *options: str) -> list[str]:
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], *options, *words[at:]]


def refute_contents(secret: str, text: str) -> None:
    found = shown_of(secret, text)
    assert found is None, (
        f"{found!r} is shown, after {text[max(0, text.find(found) - 200) : text.find(found)]!r}"
    )


@pytest.mark.parametrize("form", sampled(FORMS, FORMS[:1]))
@pytest.mark.parametrize(
    "words",
    sampled(READERS, [["run"], ["check", "--online", "--json"], ["manifest", "gke"]]),
    ids=lambda words: " ".join(words[:2]),
)
def test_contents_everywhere_in_a_configuration(tmp_path: Path, words: list[str], form: str) -> None:
    """Every command refuses them, naming each place with its line, and shows none."""
    (tmp_path / "c.yaml").write_text(EVERYWHERE)
    secret = SHAPES[form](MARK)
    found = run_command(with_options(words, "--config", "c.yaml"), tmp_path, SECRET=secret)
    assert found.returncode == 2, found.stdout + found.stderr
    refute_contents(secret, found.stdout + found.stderr)
    assert "Traceback" not in found.stderr
    for line, text in enumerate(EVERYWHERE.splitlines(), 1):
        if '"${SECRET}"' in text and "require_header" not in text:
            assert f"c.yaml:{line}:" in found.stderr, text
    assert "contents, not a path" in found.stderr


@pytest.mark.parametrize("form", sampled(FORMS[:2], FORMS[:1]))
@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", ["run"]),
        ("GOOGLE_APPLICATION_CREDENTIALS", ["check"]),
        ("GOOGLE_APPLICATION_CREDENTIALS", ["config", "show"]),
        ("IDTOKEN_SIDECAR_CONFIG", ["run"]),
        ("IDTOKEN_SIDECAR_CONFIG", ["manifest", "gke"]),
        ("IDTOKEN_SIDECAR_CONFIG", ["wait"]),
        ("IDTOKEN_SIDECAR_ADMIN", ["wait"]),
        ("IDTOKEN_SIDECAR_ADMIN", ["run"]),
        ("IDTOKEN_SIDECAR_LISTEN", ["config", "show"]),
        ("IDTOKEN_SIDECAR_CREDENTIALS", ["config", "show"]),
        ("CLOUDSDK_CONFIG", ["check"]),
        ("GCE_METADATA_HOST", ["check"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_contents_in_the_environment(tmp_path: Path, variable: str, words: list[str], form: str) -> None:
    """Of what names a file, an address or settings: refused by the variable's name."""
    secret = SHAPES[form](MARK)
    (tmp_path / "c.yaml").write_text(ROUTES_ONLY)
    named = variable == "IDTOKEN_SIDECAR_CONFIG" or words == ["wait"]
    options = [] if named else ["--config", "c.yaml"]
    found = run_command(with_options(words, *options), tmp_path, **{variable: secret})
    assert found.returncode == 2, found.stdout + found.stderr
    assert (
        "--config" if (words, variable) == (["wait"], "IDTOKEN_SIDECAR_CONFIG") else variable
    ) in found.stderr
    refute_contents(secret, found.stdout + found.stderr)
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("form", sampled(FORMS, ["jwt"]))
def test_contents_on_the_command_line(tmp_path: Path, form: str) -> None:
    """As an option's value, as an argument, as an option that there is not, as a command."""
    secret = SHAPES[form](MARK)
    (tmp_path / "c.yaml").write_text(ROUTES_ONLY)
    configured = ["--config", "c.yaml"]
    for words in (
        [secret],
        ["run", "--config", secret],
        ["run", f"--config={secret}"],
        ["config", "validate", "--to", secret],
        ["config", "validate", "--to", f"a={secret}"],
        ["config", "validate", "--to", f"https://{secret}"],
        ["config", "show", "--listen", secret],
        ["config", "show", f"--token-wait={secret}"],
        ["config", "show", *configured, secret],
        ["config", "show", *configured, f"--{secret}"],
        ["config", secret],
        ["check", *configured, secret],
        ["check", *configured, "--path", secret],
        ["token", *configured, secret],
        ["explain", *configured, secret],
        ["explain", *configured, "-X", secret, "http://a.localhost/"],
        ["explain", *configured, "-H", secret, "http://a.localhost/"],
        ["manifest", "gke", *configured, "--name", secret],
        ["manifest", "gke", *configured, "--image", secret],
        ["manifest", "cloud-run", *configured, "--project", secret],
        ["manifest", "iam", *configured, "--member", secret],
        ["wait", "--admin", secret],
        ["wait", "--timeout", secret],
        ["healthcheck", "--config", secret],
        ["completion", secret],
    ):
        found = run_command(words, tmp_path)
        assert found.returncode == 2, (words[:2], found.stdout + found.stderr)
        refute_contents(secret, found.stdout + found.stderr)
        assert "Traceback" not in found.stderr


def test_a_command_that_is_contents(tmp_path: Path) -> None:
    """`exec` names what it could not run, and does not quote it."""
    (tmp_path / "c.yaml").write_text(
        f"{ROUTES_ONLY}listen: localhost:0\nadmin: localhost:0\nstartup: serve\n"
    )
    secret = SHAPES["key"](MARK)
    words = ["exec", "--no-wait", "--config", "c.yaml", "--", secret]
    found = run_command(words, tmp_path, GCE_METADATA_HOST="127.0.0.1:1")
    assert found.returncode in (126, 127)
    refute_contents(secret, found.stdout + found.stderr)


@pytest.mark.parametrize("form", sampled(FORMS, ["pem"]))
def test_contents_inside_of_credential_files(world: World, form: str) -> None:
    """Where a file's own URLs, paths, commands and e-mails belong: 503, and nothing of them on any surface."""
    secret = SHAPES[form](MARK)
    directory, google = world.directory, world.google
    key = json.loads((directory / "key.json").read_text())
    wif = json.loads((directory / "wif.json").read_text())
    login = json.loads((directory / "login.json").read_text())
    url = "service_account_impersonation_url"
    files: dict[str, dict[str, Any]] = {
        "k1": {**key, "token_uri": secret},
        "k2": {**key, "token_uri": f"https://{secret}/token"},
        "k3": {**key, "client_email": secret},
        "k4": {**key, "universe_domain": secret},
        "k5": {**key, "type": secret},
        "w1": {**wif, "token_url": secret},
        "w2": {**wif, url: secret},
        "w3": {**wif, url: f"https://iam.example/v1/projects/-/serviceAccounts/{secret}:generateAccessToken"},
        "w4": {**wif, "credential_source": {"file": secret}},
        "w5": {**wif, "credential_source": {"url": secret}},
        "w6": {**wif, "credential_source": {"url": f"http://127.0.0.1:1/{quote(secret)}"}},
        "w7": {**wif, "credential_source": {"executable": {"command": secret}}},
        "w8": {**wif, "credential_source": {"executable": {"command": "true", "output_file": secret}}},
        "w9": {**wif, "credential_source": {"certificate": {"certificate_config_location": secret}}},
        "w10": {**wif, "credential_source": {"file": str(directory / "subject"), "format": {"type": secret}}},
        "w11": {**wif, "audience": secret, "subject_token_type": secret},
        "i1": {"type": "impersonated_service_account", url: secret, "source_credentials": login},
        "p1": {"type": "external_account_authorized_user", **login, "token_url": secret},
        "q1": {**login, "quota_project_id": secret},
    }
    # The grants that a file of any type leads to are those of adc: one sidecar for each file.
    seen = []
    for name, info in files.items():
        (directory / f"{name}.json").write_text(json.dumps(info))
    credentials = "".join(
        f"  {name}: {{type: {'service_account_key' if name[0] == 'k' else 'workload_identity_federation'}, file: "
        f"{directory}/{name}.json}}\n"
        for name in files
        if name[0] in "kw"
    )
    routes = "".join(
        f"  - {{name: {name}, host: {name}.test, upstream: '{google.targets['api'].url}', target: googleapis, "
        f"token: access, credential: {name}, prefetch: false}}\n"
        for name in files
        if name[0] in "kw"
    )
    top = "log_level: debug\naccess_log: all\ntoken_wait: 2s\n"
    environ = {**world.environ, "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES": "1"}
    config = f"{top}credentials:\n{credentials}routes:\n{routes}"
    with SidecarProcess(config, directory, environ) as sidecar:
        for name in files:
            if name[0] in "kw":
                reply = sidecar.get(name)
                assert reply.status == 503, (name, reply.body)
                seen.append(f"{dict(reply.headers)} {reply.body.decode()}")
        seen += [
            sidecar.admin(path).body.decode() for path in ("/status.json", "/metrics", "/healthz/ready", "/")
        ]
        seen.append(sidecar.text)
    (directory / "c.yaml").write_text(config)
    for words in (["check", "--json"], ["config", "show"], ["manifest", "iam"]):
        found = run_command([*words, "--config", "c.yaml"], directory, **environ)
        seen.append(found.stdout + found.stderr)
    for name in ("i1", "p1", "q1"):
        found = run_command(
            ["check", "--to", google.targets["run"].url],
            directory,
            **{**environ, "GOOGLE_APPLICATION_CREDENTIALS": str(directory / f"{name}.json")},
        )
        seen.append(found.stdout + found.stderr)
    for text in seen:
        refute_contents(secret, text)
        assert "Traceback" not in text


@pytest.mark.parametrize(
    "variable",
    sampled(
        ("HTTPS_PROXY", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "HOME", "NO_PROXY"),
        ["HTTPS_PROXY", "SSL_CERT_FILE"],
    ),
)
@pytest.mark.parametrize("form", sampled(FORMS, ["jwt"]))
def test_contents_in_variables_of_libraries(world: World, variable: str, form: str) -> None:
    """They are read by requests, urllib3 and OpenSSL, whose errors quote them."""
    secret = SHAPES[form](MARK)
    endpoints = "endpoints: {oauth: 'https://oauth2.invalid/token'}\n"
    config = (
        f"{endpoints}token_wait: 3s\nlog_level: debug\ncredentials:\n  default: {{type: adc}}\n"
        f"  key: {{type: service_account_key, file: {world.directory}/key.json}}\nroutes:\n"
        + "".join(
            f"  - {{name: {name}, host: {name}.test, upstream: '{world.google.targets['run'].url}', credential: {name}, "
            "target: cloud_run, audience: 'https://a.example', prefetch: false}\n"
            for name in ("default", "key")
        )
    )
    with SidecarProcess(config, world.directory, {**world.environ, variable: secret}) as sidecar:
        replies = [sidecar.get(name) for name in ("default", "key")]
        seen = [
            f"{reply.headers} {reply.body.decode()}" for reply in replies if "proxy-status" in reply.headers
        ]
        seen += [
            sidecar.admin(path).body.decode() for path in ("/status.json", "/metrics", "/healthz/ready", "/")
        ]
        seen.append(sidecar.text)
    assert replies[1].status == 503
    for text in seen:
        refute_contents(secret, text)
        assert "Traceback" not in text


@pytest.mark.parametrize("form", sampled(FORMS, ["jwt"]))
def test_contents_that_come_with_a_reload(tmp_path: Path, form: str) -> None:
    """The old configuration stays in force; log, status, metrics, page and the reloading command show none."""
    secret = SHAPES[form](MARK)
    with SidecarProcess(
        ROUTES_ONLY + "startup: serve\n", tmp_path, {"GCE_METADATA_HOST": "127.0.0.1:1", "SECRET": secret}
    ) as it:
        (tmp_path / "config.yaml").write_text(EVERYWHERE)
        reply = it.ask(it.admin_port, "/reload", {}, method="POST")
        assert reply.json["result"] == "error", reply.body
        seen = [
            reply.body.decode(),
            *(it.admin(path).body.decode() for path in ("/status.json", "/metrics", "/")),
        ]
        again = run_command(["reload", "--admin", f"localhost:{it.admin_port}"], tmp_path)
        seen += [again.stdout + again.stderr, it.text]
    assert again.returncode == 1
    for text in seen:
        refute_contents(secret, text)
        assert "Traceback" not in text
