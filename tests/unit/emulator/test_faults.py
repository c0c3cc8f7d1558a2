"""Faults: each does what it says, for as long as it was asked to."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientSession

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import HTML, HUGE, Fault
from sidecar.emulator.keys import BadTokenError, read
from tests.support.google import DEFAULT, FLAVOR


class Callers:
    """Asks both servers alike: who must give no token on a fault is called the same way."""

    def __init__(self, google: Emulator, session: ClientSession) -> None:
        self.google = google
        self.session = session
        self.identity = f"http://{google.metadata_address}{DEFAULT}identity?audience=a&format=full"

    async def get(self, url: str | None = None, **options: Any) -> tuple[int, str, Any]:
        async with self.session.get(url or self.identity, headers=FLAVOR, **options) as answer:
            return answer.status, await answer.text(), answer.headers

    async def leave(self) -> None:
        """Ask, and give up once the request has arrived."""
        asked = asyncio.gather(self.get())
        await self.google.metadata.endpoint.wait_for(1)
        assert not asked.done()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    async def post(self) -> tuple[int, str, Any]:
        async with self.session.post(self.google.oauth_url, data={}) as answer:
            return answer.status, await answer.text(), answer.headers


@pytest.fixture
def callers(google: Emulator, session: ClientSession) -> Callers:
    return Callers(google, session)


STATUSES = [
    pytest.param(Fault("status", 404), 404, "Error 404", {}, id="404"),
    pytest.param(Fault("status", 403, body="denied"), 403, "denied", {}, id="403"),
    pytest.param(
        Fault("status", 429, {"Retry-After": "7"}), 429, "Error 429", {"Retry-After": "7"}, id="429"
    ),
    pytest.param(
        Fault("status", 500, {"content-type": "application/json"}, body="{}"),
        500,
        "{}",
        {"Content-Type": "application/json"},
        id="500",
    ),
    pytest.param(Fault("status", 503), 503, "Error 503", {}, id="503"),
    pytest.param(Fault("html"), 200, HTML, {"Content-Type": "text/html; charset=utf-8"}, id="html"),
]


@pytest.mark.parametrize(("fault", "status", "body", "headers"), STATUSES)
async def test_answers_without_a_token(
    callers: Callers, fault: Fault, status: int, body: str, headers: dict[str, str]
) -> None:
    """Status, headers and body are as the fault says, at both servers."""
    for endpoint, call in (
        (callers.google.metadata.endpoint, callers.get),
        (callers.google.oauth.endpoint, callers.post),
    ):
        endpoint.fail(fault)
        seen = await call()
        assert seen[:2] == (status, body)
        assert {name: seen[2][name] for name in headers} == headers


async def test_only_the_servers_own_errors_have_the_flavor(callers: Callers) -> None:
    """An error of the metadata server is marked as its own; a captive portal's page isn't."""
    callers.google.metadata.endpoint.fail(Fault("status", 503))
    assert (await callers.get())[2]["Metadata-Flavor"] == "Google"
    callers.google.metadata.endpoint.fail(Fault("html"))
    assert "Metadata-Flavor" not in (await callers.get())[2]


async def test_huge(callers: Callers) -> None:
    """An answer far beyond any token's size."""
    callers.google.metadata.endpoint.fail(Fault("huge"))
    status, body, _ = await callers.get()
    assert (status, len(body)) == (200, HUGE)


async def test_hang_ends_with_its_client(callers: Callers) -> None:
    """A hanging request gets nothing for as long as its client waits, and hangs nobody else afterwards."""
    callers.google.metadata.endpoint.fail(Fault("hang"), times=1)
    await callers.leave()
    assert (await callers.get())[0] == 200


async def test_slow(callers: Callers) -> None:
    """A slow answer is a right one, after the time asked for."""
    callers.google.metadata.endpoint.fail(Fault("slow", seconds=0.05))
    started = time.perf_counter()
    status, token, _ = await callers.get()
    assert time.perf_counter() - started >= 0.05
    assert (status, read(token)["aud"]) == (200, "a")


async def test_reset(callers: Callers) -> None:
    """The connection ends with RST, not with FIN: a plain socket sees it."""
    callers.google.metadata.endpoint.fail(Fault("reset"))
    host, _, port = callers.google.metadata_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = f"GET {DEFAULT}identity?audience=a HTTP/1.1\r\nHost: x\r\nMetadata-Flavor: Google\r\n\r\n"
    writer.write(request.encode())
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionResetError):
        await writer.wait_closed()


async def test_garbage(callers: Callers) -> None:
    """Three segments, as a JWT has them, with claims that are none."""
    callers.google.metadata.endpoint.fail(Fault("garbage"))
    _, access, _ = await callers.get(f"http://{callers.google.metadata_address}{DEFAULT}token")
    assert "access_token" not in access
    _, token, headers = await callers.get()
    assert token.count(".") == 2
    with pytest.raises(BadTokenError, match="Unable to parse JWT"):
        read(token)
    assert headers["Metadata-Flavor"] == "Google"


@pytest.mark.parametrize(
    ("kind", "shows"),
    [
        pytest.param("wrong_audience", lambda claims: claims["aud"] != "a", id="audience"),
        pytest.param("no_exp", lambda claims: "exp" not in claims, id="no-exp"),
        pytest.param("expired", lambda claims: claims["exp"] < 1_700_000_000, id="expired"),
    ],
)
async def test_faults_that_the_token_shows(callers: Callers, kind: Any, shows: Any) -> None:
    """The token is signed and wrong as asked for; without the fault it is right again."""
    callers.google.metadata.endpoint.fail(Fault(kind))
    assert shows(read((await callers.get())[1]))
    callers.google.metadata.endpoint.fail(None)
    assert not shows(read((await callers.get())[1]))


async def test_a_number_of_times(callers: Callers) -> None:
    """A fault for two requests is over at the third, and counted requests include the faulty ones."""
    endpoint = callers.google.metadata.endpoint
    endpoint.fail(Fault("status", 503), times=2)
    assert [(await callers.get())[0] for _ in range(3)] == [503, 503, 200]
    assert (endpoint.fault, endpoint.left, endpoint.arrived) == (None, None, 3)


@pytest.mark.parametrize("everywhere", [True, False])
async def test_everywhere_is_the_ping_too(callers: Callers, everywhere: bool) -> None:
    """A fault of the whole server meets the ping and the account too; otherwise these go on."""
    endpoint = callers.google.metadata.endpoint
    endpoint.fail(Fault("status", 503, everywhere=everywhere))
    origin = f"http://{callers.google.metadata_address}"
    for path in ("/", f"{DEFAULT}?recursive=true", "/computeMetadata/v1/project/project-id"):
        assert (await callers.get(origin + path))[0] == (503 if everywhere else 200)
    assert endpoint.arrived == 0
    assert [(await callers.get(f"{origin}{DEFAULT}{path}"))[0] for path in ("token", "identity")] == [
        503,
        503,
    ]


async def test_stopped_and_started_again(callers: Callers) -> None:
    """A stopped server refuses connections, and is back on the same port."""
    google = callers.google
    before = google.metadata_address
    await google.stop(google.metadata.app)
    assert not google.is_listening(google.metadata.app)
    with pytest.raises(ClientConnectionError):
        await callers.get()
    await google.start(google.metadata.app)
    await google.start(google.metadata.app)
    assert google.metadata_address == before
    assert (await callers.get())[0] == 200


async def test_answers_are_held_and_released(callers: Callers) -> None:
    """Held requests arrive and are counted, and are answered only once released."""
    endpoint = callers.google.metadata.endpoint
    endpoint.hold()
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(callers.get()) for _ in range(3)]
        await endpoint.wait_for(3)
        # A whole exchange later, so that answers would have come.
        assert (await callers.get(f"http://{callers.google.metadata_address}/"))[0] == 200
        assert not any(call.done() for call in calls)
        endpoint.release()
    assert [call.result()[0] for call in calls] == [200, 200, 200]


async def test_who_left_while_held_uses_up_no_fault(callers: Callers) -> None:
    """A request ends with its client: a fault for one request is left for who is still there."""
    endpoint = callers.google.metadata.endpoint
    endpoint.hold()
    await callers.leave()
    assert endpoint.arrived == 1
    # A whole exchange later, so that the server has seen the client go.
    await callers.get(f"http://{callers.google.metadata_address}/")
    endpoint.fail(Fault("status", 503), times=1)
    endpoint.release()
    assert [(await callers.get())[0] for _ in range(2)] == [503, 200]


async def test_waiting_for_what_has_come_does_not_wait(callers: Callers) -> None:
    """`wait_for` looks at what has arrived since the start."""
    await callers.get()
    await asyncio.wait_for(callers.google.metadata.endpoint.wait_for(1), 1)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"kind": "hangs"}, id="no-such-kind"),
        pytest.param({"kind": "status", "code": 103}, id="interim"),
        pytest.param({"kind": "status", "code": 600}, id="no-status"),
    ],
)
def test_a_fault_that_is_none(options: dict[str, Any]) -> None:
    """A mistyped fault is told at once, not found out later by a test that stays green."""
    with pytest.raises(ValueError, match=r"no fault is called|is not a final HTTP status"):
        Fault(**options)


async def test_for_no_request_at_all(google: Emulator) -> None:
    """A fault for less than one request is a mistake."""
    with pytest.raises(ValueError, match="one request at least"):
        google.metadata.endpoint.fail(Fault("hang"), times=0)
