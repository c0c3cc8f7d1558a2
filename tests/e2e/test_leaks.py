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

from sidecar.clock import SystemClock
from sidecar.config.load import load
from sidecar.config.targets import TokenKind
from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault, Kind
from sidecar.emulator.keys import SigningKey
from sidecar.emulator.running import EmulatorThread
from sidecar.emulator.sts import AWS_SECRET, AWS_TYPE
from sidecar.errors import SidecarError
from sidecar.tokens.sources import build_sources
from sidecar.tokens.token import TokenKey
from tests.support.google import signed
from tests.support.named_source import NamedSource
from tests.support.process import SidecarProcess
from tests.support.sidecar import COMMAND, LIMIT, clean_environment

ACTED_AS = "acted-as@emulated-project.iam.gserviceaccount.com"
CREATOR = "roles/iam.serviceAccountTokenCreator"
OWN = "Basic b3duLXNlY3JldC1vZi10aGUtYXBw"
"""What the app sends for itself."""
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
        "log_level: debug\naccess_log: all\ntoken_wait: 2s\ncredentials:\n  default: {type: metadata}\n"
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
    environ = {**google.environment(), "KEY": json.dumps(key), "TOKEN": ready, "PYTHONDEVMODE": "1"}
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
    return "\n".join([*seen, *what_the_page_is_told(sidecar)])


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


@pytest.mark.parametrize("kind", KINDS)
def test_bad_days(world: World, kind: Kind) -> None:
    """Every endpoint misbehaves in every way; answers that hold a token among the rest."""
    for server in (world.google.metadata, world.google.oauth, world.google.sts, world.google.iam):
        server.endpoint.fail(Fault(kind))
    with SidecarProcess(world.config, world.directory, world.environ) as sidecar:
        seen = ask_everything(sidecar)
    world.secrets.refute(seen)
    world.secrets.refute(sidecar.text)
    assert '"token fetch failed"' in sidecar.text


def test_answers_that_quote_what_they_were_sent(world: World) -> None:
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
    for code in (400, 401, 403, 500):
        for server in (world.google.metadata, world.google.oauth, world.google.sts, world.google.iam):
            server.endpoint.fail(
                Fault("status", code=code, body=body, headers={"Retry-After": noted, "Content-Type": noted})
            )
        with SidecarProcess(world.config, world.directory, world.environ) as sidecar:
            seen = ask_everything(sidecar)
        world.secrets.refute(seen)
        world.secrets.refute(sidecar.text)


@pytest.mark.parametrize(
    "words",
    [
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
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("failing", [False, True], ids=["good", "failing"])
def test_commands(world: World, words: list[str], failing: bool) -> None:
    """What they print, and what they print when all goes wrong. `token` without --claims is for printing one."""
    if failing:
        for server in (world.google.metadata, world.google.oauth, world.google.sts, world.google.iam):
            server.endpoint.fail(Fault("wrong_audience"))
    file = world.directory / "c.yaml"
    file.write_text("listen: localhost:0\nadmin: localhost:0\n" + world.config)
    at = words.index("--") if "--" in words else len(words)
    found = subprocess.run(
        [*COMMAND, *words[:at], "--config", str(file), *words[at:]],
        env=clean_environment(**world.environ),
        capture_output=True,
        text=True,
        timeout=LIMIT * 3,
    )
    if not failing and "--online" not in words and "http://nowhere/" not in words:
        assert found.returncode == 0, found.stdout + found.stderr
    assert found.returncode != 2, found.stderr
    world.secrets.refute(found.stdout + found.stderr)


@pytest.mark.parametrize(
    "mistake",
    [
        "credentials: {default: {type: static, tokne: SECRET}}",
        "credentials: {default: {type: static, token: [SECRET]}}",
        "credentials: {default: {type: static, token: {a: SECRET}}}",
        "credentials: {default: {type: service_account_key, json: SECRET, file: x}}",
        "credentials: {default: {type: static, token: 'SECRET'}, x: SECRET}",
        "credentials: [SECRET]",
    ],
)
def test_mistakes_in_the_configuration(tmp_path: Path, mistake: str) -> None:
    """An error names the key, and not what stands there."""
    secret = "very-secret-value-of-a-token"
    file = tmp_path / "c.yaml"
    file.write_text(
        mistake.replace("SECRET", secret)
        + "\nroutes: [{name: a, upstream: 'https://a.example', header: 7}]\n"
    )
    found = subprocess.run(
        [*COMMAND, "config", "validate", "--config", str(file)], capture_output=True, text=True, timeout=LIMIT
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


@pytest.mark.parametrize("kind", [None, *KINDS])
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
