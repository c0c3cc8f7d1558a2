"""The switches over HTTP do what the ones in the code do."""

from __future__ import annotations

import gzip
import io
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import ClientConnectionError, ClientSession, web
from aiohttp.test_utils import make_mocked_request

from sidecar.emulator.app import Emulator
from sidecar.emulator.callers import refuse_other_machines
from sidecar.emulator.scopes import CLOUD_PLATFORM as SCOPE
from tests.support.google import DEFAULT, FLAVOR


class Shell:
    """Somebody with curl."""

    def __init__(self, google: Emulator, session: ClientSession) -> None:
        self._google = google
        self._session = session

    async def post(self, what: str, **asked: Any) -> tuple[int, Any]:
        async with self._session.post(f"{self._google.control_url}/{what}", json=asked) as answer:
            return answer.status, await (answer.json() if answer.status == 200 else answer.text())

    async def state(self, server: str = "metadata") -> dict[str, Any]:
        async with self._session.get(f"{self._google.control_url}/faults") as answer:
            state: dict[str, Any] = (await answer.json())[server]
            return state

    async def token(self) -> tuple[int, str | None]:
        url = f"http://{self._google.metadata_address}{DEFAULT}identity?audience=a"
        async with self._session.get(url, headers=FLAVOR) as answer:
            return answer.status, answer.headers.get("Retry-After")


@pytest.fixture
def shell(google: Emulator, session: ClientSession) -> Shell:
    return Shell(google, session)


QUIET = {"listening": True, "open": True, "fault": None, "left": None, "arrived": 0}


async def test_nothing_is_switched_on_at_first(shell: Shell) -> None:
    """Both servers are shown, in order."""
    assert await shell.state("metadata") == QUIET
    assert await shell.state("oauth") == QUIET


async def test_a_fault_with_its_options_and_its_end(shell: Shell) -> None:
    """A fault is put in force with all it can have, for some requests, and ended."""
    status, state = await shell.post(
        "faults", server="metadata", kind="status", code=429, headers={"Retry-After": "7"}, times=2
    )
    assert (status, state) == (200, {**QUIET, "fault": "status", "left": 2})
    assert await shell.token() == (429, "7")
    assert await shell.state() == {**QUIET, "fault": "status", "left": 1, "arrived": 1}
    assert await shell.state("oauth") == QUIET
    await shell.post("faults", server="metadata", kind="none")
    assert await shell.token() == (200, None)


async def test_refuse_and_listen_again(shell: Shell, google: Emulator) -> None:
    """`refuse` closes the listener; any other kind opens it again on the same port."""
    address = google.metadata_address
    assert (await shell.post("faults", server="metadata", kind="refuse"))[1] == {**QUIET, "listening": False}
    with pytest.raises(ClientConnectionError):
        await shell.token()
    await shell.post("faults", server="metadata", kind="none")
    assert google.metadata_address == address
    assert await shell.token() == (200, None)


async def test_gates(shell: Shell, google: Emulator) -> None:
    """A gate holds and releases, as `hold` and `release` do."""
    assert (await shell.post("gates", server="oauth", open=False))[1]["open"] is False
    assert google.oauth.endpoint.is_open is False
    assert (await shell.post("gates", server="oauth", open=True))[1]["open"] is True


@pytest.mark.parametrize(
    ("what", "asked", "says"),
    [
        pytest.param("faults", {"kind": "hang"}, "no server is called None", id="no-server"),
        pytest.param("faults", {"server": ["x"], "kind": "hang"}, "no server is called", id="server-list"),
        pytest.param("faults", {"server": "metadata"}, "no fault is called None", id="no-kind"),
        pytest.param("faults", {"server": "metadata", "kind": "x"}, "no fault is called 'x'", id="bad-kind"),
        pytest.param(
            "faults", {"server": "metadata", "kind": ["x"]}, "no fault is called ['x']", id="kind-list"
        ),
        pytest.param(
            "faults",
            {"server": "metadata", "kind": "hang", "for": 1},
            "no option is called 'for'",
            id="option",
        ),
        pytest.param(
            "faults",
            {"server": "metadata", "kind": "status", "code": "503"},
            "code can't be '503'",
            id="code",
        ),
        pytest.param(
            "faults", {"server": "metadata", "kind": "status", "code": True}, "code can't be True", id="bool"
        ),
        pytest.param(
            "faults", {"server": "metadata", "kind": "status", "code": 99}, "not a final HTTP status", id="99"
        ),
        pytest.param(
            "faults",
            {"server": "metadata", "kind": "status", "headers": {"Retry-After": 7}},
            "headers are names and strings",
            id="headers",
        ),
        pytest.param(
            "faults", {"server": "metadata", "kind": "hang", "times": "2"}, "a whole number", id="times"
        ),
        pytest.param(
            "faults", {"server": "metadata", "kind": "hang", "times": 0}, "one request at least", id="zero"
        ),
        pytest.param(
            "faults", {"server": "metadata", "kind": "refuse", "times": 2}, "refuse has no", id="refuse"
        ),
        pytest.param("gates", {"server": "metadata", "open": 1}, "a gate is", id="gate"),
    ],
)
async def test_what_is_asked_wrongly_changes_nothing(
    shell: Shell, what: str, asked: dict[str, Any], says: str
) -> None:
    """A mistake is 400 and says what there is."""
    status, text = await shell.post(what, **asked)
    assert (status, says in text) == (400, True), text
    assert await shell.state() == QUIET


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        pytest.param("text/plain", '{"server": "metadata", "kind": "hang"}', 415, id="a-page-in-a-browser"),
        pytest.param("application/json", "{", 400, id="no-json"),
        pytest.param("application/json", "[]", 400, id="no-object"),
    ],
)
async def test_only_json_switches(
    shell: Shell, google: Emulator, session: ClientSession, content_type: str, body: str, status: int
) -> None:
    """A body that a page in a browser could send unasked is refused, and so is what is no JSON."""
    headers = {"Content-Type": content_type}
    async with session.post(f"{google.control_url}/faults", data=body, headers=headers) as answer:
        assert answer.status == status
    assert await shell.state() == QUIET


async def test_an_access_token_is_told_by_its_holder_and_scopes(shell: Shell, google: Emulator) -> None:
    """Whose it is, what it may do and until when, in RFC 7662's words; one that is not known is not active."""
    url = f"http://{google.metadata_address}{DEFAULT}token?scopes={SCOPE}"
    async with ClientSession() as session, session.get(url, headers=FLAVOR) as answer:
        token = (await answer.json())["access_token"]
    status, told = await shell.post("introspect", token=token)
    until = told.pop("exp")
    assert (status, told) == (
        200,
        {"active": True, "sub": f"serviceAccount:{google.metadata.email}", "scope": SCOPE},
    )
    assert isinstance(until, int)
    assert await shell.post("introspect", token="ya29.other") == (200, {"active": False})
    assert (await shell.post("introspect", token=1))[0] == 400


PAGES = {
    "rebound-name": {"Host": "evil.example:9000"},
    "rebound-name-below": {"Host": "localhost.evil.example"},
    "unspecified": {"Host": "0.0.0.0:9000"},
    "mapped": {"Host": "[::ffff:127.0.0.1]:9000"},
    "another-origin": {"Origin": "https://evil.example"},
    "no-origin": {"Origin": "null"},
    "its-own-origin": {"Origin": "http://localhost:9000", "Host": "localhost:9000"},
    "fetch-metadata": {"Sec-Fetch-Site": "same-origin"},
}


@pytest.mark.parametrize("marks", PAGES.values(), ids=PAGES.keys())
@pytest.mark.parametrize("what", ["faults", "gates", "call", "introspect"])
async def test_no_page_in_a_browser_is_served(
    google: Emulator, session: ClientSession, marks: dict[str, str], what: str
) -> None:
    """It would switch faults on in a developer's tests, and have the stand-in fetch what only this machine can reach."""
    asked = {"service": "scheduler", "url": google.iam_url}
    async with session.post(f"{google.control_url}/{what}", json=asked, headers=marks) as answer:
        assert answer.status == 403
    async with session.get(f"{google.control_url}/faults", headers=marks) as answer:
        assert answer.status == 403


async def test_a_body_is_bounded_and_never_inflated(google: Emulator, session: ClientSession) -> None:
    """A megabyte at most; what is compressed, or nested too deep, is no JSON."""
    kind = {"Content-Type": "application/json"}
    bodies = {
        b"[" * 100_000: (400, {}),
        b"x" * (1 << 20) + b"x": (413, {}),
        gzip.compress(b"{}"): (400, {"Content-Encoding": "gzip"}),
    }
    for body, (status, more) in bodies.items():
        url = f"{google.control_url}/faults"
        async with session.post(url, data=io.BytesIO(body), headers={**kind, **more}) as answer:
            assert answer.status == status


PEERS = {
    "127.0.0.1": True,
    "127.8.0.1": True,
    "::1": True,
    "192.0.2.7": False,
    "fe80::1%eth0": False,
    "::ffff:1.2.3.4": False,
}


@pytest.mark.parametrize(("peer", "is_local"), PEERS.items())
def test_a_call_is_for_this_machine(peer: str, is_local: bool) -> None:
    """If the stand-in listens on all addresses, its callers could reach all that it reaches."""
    transport = Mock()
    transport.get_extra_info = {"peername": (peer, 1)}.get
    request = make_mocked_request("POST", "/_emulator/call", transport=transport)
    if is_local:
        refuse_other_machines(request)
    else:
        with pytest.raises(web.HTTPForbidden):
            refuse_other_machines(request)
