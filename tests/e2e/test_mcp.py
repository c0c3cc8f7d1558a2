"""`idtoken-sidecar mcp`: the SDK's client by stdio, the SDK's server behind a front end that verifies tokens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters
from mcp_types import CreateMessageResult, ElicitResult, TextContent

from sidecar.emulator.app import Emulator
from tests.support.eventually import eventually
from tests.support.forks import stand_in
from tests.support.mcp_server import ToolServer, tool_server
from tests.support.sampling import sampled
from tests.support.sidecar import COMMAND, LIMIT, clean_environment, command

INSPECTOR = Path(sys.prefix) / "npm/node_modules/.bin/mcp-inspector"
HELLO = {
    **{"jsonrpc": "2.0", "id": 1, "method": "initialize"},
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


class Person:
    """What a client answers to the server, and what it was told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def elicit(self, _context: Any, params: Any) -> ElicitResult:
        self.heard.append(params.message)
        return ElicitResult(action="accept", content={"size": 42})

    async def sample(self, _context: Any, params: Any) -> CreateMessageResult:
        self.heard.append(params.messages[0].content.text)
        return CreateMessageResult(role="assistant", model="m", content=TextContent(type="text", text="blue"))

    async def hear(self, message: Any) -> None:
        self.heard.append(type(message).__name__)


def environment(google: Emulator) -> dict[str, str]:
    """What leads a sidecar to the stand-in."""
    endpoints = f"{{iam_credentials: '{google.iam_url}'}}"
    return clean_environment(**google.environment(), IDTOKEN_SIDECAR_ENDPOINTS=endpoints)


@asynccontextmanager
async def client(
    google: Emulator, *arguments: str, mode: str = "legacy", person: Person | None = None
) -> AsyncIterator[Client]:
    """The SDK's client of one command, told as a configuration of an editor would."""
    person = person or Person()
    program, *words = stand_in()
    server = StdioServerParameters(command=program, args=[*words, "mcp", *arguments], env=environment(google))
    with anyio.fail_after(LIMIT):
        async with Client(
            server,
            mode=mode,
            elicitation_callback=person.elicit,
            sampling_callback=person.sample,
            message_handler=person.hear,
        ) as found:
            yield found


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK takes a server that has not answered for ten seconds for one of the older protocol; to start it may take that
    long on a busy machine."""
    monkeypatch.setattr("mcp.client.session.DISCOVER_TIMEOUT_SECONDS", LIMIT)


def text(result: Any) -> str:
    assert not result.is_error, result
    return str(result.content[0].text)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        pytest.param("streamable", "legacy", marks=pytest.mark.test_all),
        ("streamable", "auto"),
        ("sse", "legacy"),
        pytest.param("sse", "auto", marks=pytest.mark.test_all),
        pytest.param("json", "legacy", marks=pytest.mark.test_all),
        pytest.param("json", "auto", marks=pytest.mark.test_all),
    ],
)
async def test_a_tool_is_called_with_a_token_that_the_front_end_verifies(
    google: Emulator, kind: str, mode: str
) -> None:
    """By either transport, and by the versions of the protocol with and without a session."""
    with tool_server(kind) as tools:
        path, more = ("/sse", ["--sse"]) if kind == "sse" else ("/mcp", [])
        async with client(google, tools.url + path, *more, mode=mode) as session:
            assert {it.name for it in (await session.list_tools()).tools} >= {"whoami", "order"}
            assert text(await session.call_tool("whoami")) == google.metadata.email
        assert set(tools.tokens.values()) == {google.metadata.email}
        assert {status for _, _, status in tools.asked} <= {200, 202, 204}
        if kind != "sse" and mode == "auto":
            (name,) = {headers["mcp-name"] for headers in tools.headers if "mcp-name" in headers}
            assert name == "whoami"
        if kind == "streamable" and mode == "legacy":
            assert ("DELETE", "/mcp", 200) in tools.asked  # the session has ended


async def test_it_acts_as_another_for_an_audience_that_no_url_tells(google: Emulator) -> None:
    """`--audience` and `--impersonate`, as for a server behind IAP."""
    acted = "acted-as@emulated-project.iam.gserviceaccount.com"
    google.principals.add(acted)
    member = f"serviceAccount:{google.metadata.email}"
    google.principals.grant(member, "roles/iam.serviceAccountTokenCreator", on=acted)
    with tool_server() as tools:
        tools.audience = "1-a.apps.googleusercontent.com"
        more = ("--audience", tools.audience, "--impersonate", acted, "--credential", "metadata")
        async with client(google, f"{tools.url}/mcp", *more) as session:
            assert text(await session.call_tool("whoami")) == acted
        assert set(tools.tokens.values()) == {acted}


async def test_what_the_server_asks_passes(google: Emulator) -> None:
    """Elicitation, sampling, and what it says by itself."""
    person = Person()
    with tool_server() as tools:
        async with client(google, f"{tools.url}/mcp", person=person) as session:
            assert text(await session.call_tool("order")) == "blue, 42"
            assert person.heard == ["Which size?", "Name a colour"]
            assert text(await session.call_tool("announce")) == "announced"
            await eventually(
                lambda: "ToolListChangedNotification" in person.heard, why="it comes by another stream"
            )


async def test_a_broken_stream_is_resumed(google: Emulator) -> None:
    with tool_server() as tools:
        async with client(google, f"{tools.url}/mcp") as session:
            assert text(await session.call_tool("in_two_streams")) == "resumed"
        assert any("last-event-id" in headers for headers in tools.headers)


@pytest.mark.test_all
async def test_a_result_may_be_large(google: Emulator) -> None:
    """Larger than the megabyte that the SDK allows by itself."""
    with tool_server() as tools:
        async with client(google, f"{tools.url}/mcp") as session:
            assert len(text(await session.call_tool("big", {"size": 3_000_000}))) == 3_000_000


@pytest.mark.parametrize("mode", ["legacy", pytest.param("auto", marks=pytest.mark.test_all)])
async def test_a_call_is_cancelled(google: Emulator, mode: str) -> None:
    with tool_server() as tools:
        async with client(google, f"{tools.url}/mcp", mode=mode) as session:
            begun = anyio.Event()

            async def progress(*_: Any) -> None:
                begun.set()

            async with anyio.create_task_group() as calls:

                async def call() -> None:
                    await session.call_tool("for_ever", progress_callback=progress)

                calls.start_soon(call)
                await begun.wait()
                calls.cancel_scope.cancel()
            assert await asyncio.to_thread(tools.cancelled.wait, LIMIT)
            assert text(await session.call_tool("whoami"))


@pytest.mark.slow
@pytest.mark.test_all
@pytest.mark.parametrize("kind", ["streamable", "sse"])
async def test_progress_streams_for_longer_than_a_token_lives(kind: str) -> None:
    """A token counts when a request begins; the next request has another one."""
    async with Emulator(token_lifetime=4.0, cache_margin=2.0) as google:
        with tool_server(kind) as tools:
            path, more = ("/sse", ["--sse"]) if kind == "sse" else ("/mcp", [])
            async with client(google, tools.url + path, *more) as session:
                steps: list[float] = []

                async def progress(done: float, _total: float | None, _message: str | None) -> None:
                    steps.append(done)

                said = text(await session.call_tool("outlive", progress_callback=progress))
                assert said == f"expired after {len(steps)} steps"
                assert steps == sorted(steps)
                assert len(steps) > 5
                assert text(await session.call_tool("whoami"))
            assert len(tools.tokens) > 1
            assert 401 not in {status for _, _, status in tools.asked}


def route(tools: ToolServer, audience: str = "") -> str:
    return f"routes: [{{name: tools, upstream: '{tools.url}', target: cloud_run, audience: '{audience or tools.url}'}}]\n"


@pytest.mark.parametrize("kind", ["streamable", pytest.param("sse", marks=pytest.mark.test_all)])
async def test_a_refusal_says_what_to_do(google: Emulator, kind: str, tmp_path: Path) -> None:
    """A 403 is an error of the protocol with its reason and the command that fixes it; and the next call may work."""
    file = tmp_path / "config.yaml"
    with tool_server(kind) as tools:
        file.write_text(route(tools), "utf-8")
        arguments = ["--config", str(file), "--route", "tools", f"/{'sse' if kind == 'sse' else 'mcp'}"]
        async with client(google, *arguments, *(["--sse"] if kind == "sse" else [])) as session:
            tools.forbids = True
            with pytest.raises(MCPError) as refused:
                await session.call_tool("whoami")
            error = refused.value.error
            assert (error.code, error.data["reason"], error.data["status"]) == (
                -32010,
                "permission_missing",
                403,
            )
            assert error.data["command"] in error.message
            assert "roles/run.invoker" in error.message
            tools.forbids = False
            assert text(await session.call_tool("whoami"))


@pytest.mark.parametrize("sse", sampled((False, True), [False]))
async def test_a_session_that_is_refused_says_what_to_do(google: Emulator, sse: bool, tmp_path: Path) -> None:
    """An audience that the front end does not accept: the first message is answered with the reason."""
    file = tmp_path / "config.yaml"
    with tool_server("sse" if sse else "streamable") as tools:
        file.write_text(route(tools, "https://other-abc123-uc.a.run.app"), "utf-8")
        arguments = ["--config", str(file), "--route", "tools", "/sse" if sse else "/mcp"]
        with pytest.raises(Exception) as raised:  # noqa: PT011  # a group of one, or not, by version of the SDK
            async with client(google, *arguments, *(["--sse"] if sse else [])):
                pass
        error = _first(raised.value)
        assert isinstance(error, MCPError)
        assert error.error.data["reason"] == "token_refused"
        assert "https://other-abc123-uc.a.run.app" in error.error.message


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def test_without_a_token_the_client_hears_why(google: Emulator) -> None:
    """The sidecar's own answers are errors of the protocol too."""
    with tool_server() as tools:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            async with client(
                google, f"{tools.url}/mcp", "--impersonate", "nobody@project.iam.gserviceaccount.com"
            ):
                pass
        error = _first(raised.value)
        assert isinstance(error, MCPError)
        assert error.error.data["reason"] == "impersonation_denied"
        assert "nobody@project" in error.error.message
        assert not tools.asked


async def running(
    google: Emulator, *arguments: str, start: tuple[str, ...] = COMMAND, **environ: str
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(*start, "mcp", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment(google), **environ},
    )


async def test_nothing_but_the_protocol_is_on_stdout(google: Emulator) -> None:
    """Whatever is logged; a line that is no message is answered and the session goes on, until stdin ends."""
    with tool_server() as tools:
        process = await running(google, f"{tools.url}/mcp", "--log-level", "debug")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\nthis is no message\n" + json.dumps(HELLO).encode() + b"\n")
        answers = [json.loads(await process.stdout.readline()) for _ in range(2)]
        assert (answers[0]["id"], answers[0]["error"]["code"]) == (None, -32700)
        assert (answers[1]["id"], answers[1]["result"]["protocolVersion"]) == (1, "2025-06-18")
        process.stdin.close()
        out, err = await asyncio.wait_for(process.communicate(), LIMIT)
        assert (process.returncode, out) == (0, b"")
        assert b"token fetched" in err
        assert b"draining: 0 connections" in err  # those of the session are closed with it
        assert b"eyJ" not in err
        assert [it[0] for it in tools.asked] == ["POST", "DELETE"]


def sockets_in(directory: Path) -> list[tuple[int, set[str]]]:
    """The mode of each of its directories, and what is in it."""
    return [(it.stat().st_mode & 0o777, {file.name for file in it.iterdir()}) for it in directory.iterdir()]


def ports_of(pid: int) -> list[str]:
    """What a process listens on, as Linux writes it."""
    inodes = {os.readlink(it) for it in Path(f"/proc/{pid}/fd").iterdir()}
    lines = [
        it.split() for table in ("tcp", "tcp6") for it in Path(f"/proc/net/{table}").read_text().splitlines()
    ]
    return [it[1] for it in lines if it[3] == "0A" and f"socket:[{it[9]}]" in inodes]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process listens on")
async def test_nothing_is_reachable_but_by_its_user(google: Emulator, tmp_path: Path) -> None:
    """It listens on two Unix sockets, in a directory that is its user's alone and gone at the end."""
    with tool_server() as tools:
        process = await running(google, f"{tools.url}/mcp", TMPDIR=str(tmp_path))
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(HELLO).encode() + b"\n")
        assert json.loads(await process.stdout.readline())["id"] == 1
        assert sockets_in(tmp_path) == [(0o700, {"proxy.sock", "admin.sock"})]
        assert not ports_of(process.pid)
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), LIMIT) == 0
        assert not sockets_in(tmp_path)


async def test_a_signal_ends_it_though_stdin_is_open(google: Emulator) -> None:
    with tool_server() as tools:
        process = await running(google, f"{tools.url}/mcp", start=stand_in())
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(HELLO).encode() + b"\n")
        assert json.loads(await process.stdout.readline())["id"] == 1
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), LIMIT) == 0
        process.stdin.close()
        assert [it[0] for it in tools.asked] == ["POST", "DELETE"]


@pytest.mark.test_all
@pytest.mark.skipif(
    not INSPECTOR.exists(), reason="`make test-all` installs @modelcontextprotocol/inspector by npm"
)
async def test_the_inspector_lists_and_calls_tools() -> None:
    """The reference client of TypeScript, with tokens that live for seconds."""
    async with Emulator(token_lifetime=4.0, cache_margin=2.0) as google:
        with tool_server() as tools:

            async def inspect(*words: str) -> Any:
                process = await asyncio.create_subprocess_exec(
                    *(str(INSPECTOR), "--cli", *COMMAND, "mcp", f"{tools.url}/mcp", "--method", *words),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env=environment(google),
                )
                out, err = await asyncio.wait_for(process.communicate(), LIMIT)
                assert process.returncode == 0, err.decode()
                return json.loads(out)

            listed = await inspect("tools/list")
            assert {"whoami", "outlive"} <= {tool["name"] for tool in listed["tools"]}
            said = await inspect("tools/call", "--tool-name", "whoami")
            assert said["content"][0]["text"] == google.metadata.email
            said = await inspect("tools/call", "--tool-name", "outlive")
            assert said["content"][0]["text"].startswith("expired after")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["/mcp"], "is a path: name the route", id="path"),
        pytest.param(["tools.example/mcp"], "is no URL: begin with `https://`", id="scheme"),
        pytest.param(["https://u@tools.example/mcp"], "a user name has no place", id="user"),
        pytest.param(
            ["https://t.example/mcp", "--credential", "gclod"], "no credential is called", id="credential"
        ),
        pytest.param(
            ["https://t.example/mcp", "--impersonate", "me"], "--impersonate: credentials", id="impersonate"
        ),
        pytest.param(
            ["/mcp", "--to", "a=https://a.example", "--route", "b"], "no route is called", id="route"
        ),
        pytest.param(
            ["/mcp", "--to", "a=https://a.example", "--route", "a", "--audience", "x"],
            "--audience can't be given with --route",
            id="both",
        ),
        pytest.param(
            ["https://b.example/mcp", "--to", "a=https://a.example", "--route", "a"],
            "leads to https://a.example, and not to https://b.example",
            id="elsewhere",
        ),
    ],
)
async def test_mistakes_of_the_command_line(arguments: list[str], says: str) -> None:
    code, out, err = await command("mcp", *arguments)
    assert (code, out) == (2, "")
    assert says in err
