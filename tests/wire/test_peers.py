"""`peers`: which processes may call on a Unix socket, by what the kernel says of them"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest

from sidecar.config.addresses import parse_listen
from sidecar.config.listeners import ListenerConfig
from sidecar.net import listeners, peer_credentials
from sidecar.net.listeners import Settings, settings_of
from tests.support.wire import GET, OK, End, Wire

Serve = Callable[[Mapping[str, list[int]]], Awaitable[End]]
NOBODY = 65_534
OTHERS = NOBODY + 1


@pytest.fixture
async def serve(wire: Wire) -> AsyncIterator[Serve]:
    """A Unix socket for these `peers`, and a caller's connection to it."""
    ends: list[End] = []
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/s"

        async def begin(peers: Mapping[str, list[int]]) -> End:
            if not ends:
                await wire.start()
                (listener,) = listeners.bind(parse_listen(f"unix:{path}"))
                config = ListenerConfig.model_validate({"address": f"unix:{path}", "peers": peers})
                await wire.proxy.serve(listener, None, settings_of(config, None))
            ends.append(await wire.connect(path))
            return ends[-1]

        yield begin
        for end in ends:
            await end.close()


@pytest.mark.parametrize(
    "peers",
    [
        pytest.param({"uid": [os.getuid()]}, id="its-user"),
        pytest.param({"uid": [OTHERS], "gid": [os.getgid()]}, id="its-group"),
    ],
)
async def test_who_is_named_is_served(wire: Wire, serve: Serve, peers: Mapping[str, list[int]]) -> None:
    """User or group: either is enough."""
    app = await serve(peers)
    app.writer.write(GET)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    assert wire.proxy.acceptors.stats.peers_refused == 0


async def test_others_who_may_call_end_the_connections_that_are_open(wire: Wire) -> None:
    """They were judged when they were made; where the same may call, they go on."""
    await wire.start()
    with tempfile.TemporaryDirectory() as directory:
        (listener,) = listeners.bind(parse_listen(f"unix:{directory}/s"))

        def peers(uid: int, **more: int) -> Settings:
            config = {"address": f"unix:{directory}/s", "peers": {"uid": [uid]}, **more}
            return settings_of(ListenerConfig.model_validate(config), None)

        await wire.proxy.serve(listener, None, peers(os.getuid()))
        app = await wire.connect(f"{directory}/s")
        app.writer.write(GET)
        upstream = await wire.upstream.accept()
        await upstream.read_head()
        wire.proxy.reassign(listener, None, peers(os.getuid(), connections=5))
        await upstream.send(OK)
        assert "connection" not in (await app.answer()).headers
        wire.proxy.reassign(listener, None, peers(OTHERS))
        assert await app.rest() == b""
        await app.close()


async def test_who_is_not_is_told_and_counted(
    wire: Wire, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """403 with its own numbers, the log once a minute with the process; nothing is sent on."""
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        app = await serve({"uid": [OTHERS], "gid": [OTHERS]})
        app.writer.write(GET)
        answer = await app.answer()
        assert (answer.status, answer.reason) == (403, "caller_refused")
        assert f"(uid {os.getuid()}, gid {os.getgid()})" in answer.body.decode()
    assert wire.upstream.waiting == 0
    assert wire.proxy.acceptors.stats.peers_refused == 2
    (record,) = caplog.records
    assert record.fields["pid"] == os.getpid()  # type: ignore[attr-defined]


async def test_a_kernel_that_does_not_tell_of_further_groups(
    wire: Wire, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 4.13: the process's first group is what counts, and nobody is let in by the lack."""
    monkeypatch.setattr(peer_credentials, "_SO_PEERGROUPS", 9999)
    app = await serve({"gid": [OTHERS]})
    app.writer.write(GET)
    assert (await app.answer()).status == 403


@pytest.mark.parametrize("known", [False, True], ids=["no-such-option", "the-kernel-refuses"])
async def test_a_system_that_does_not_say_lets_nobody_in(
    wire: Wire, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    """403 with what to do instead, counted, in the log once a minute, and no fault."""
    if known:
        monkeypatch.setattr(socket, "SO_PEERCRED", 9999)
    else:
        monkeypatch.delattr(socket, "SO_PEERCRED")
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        app = await serve({"uid": [os.getuid()]})
        app.writer.write(GET)
        answer = await app.answer()
        assert (answer.status, answer.reason) == (403, "caller_refused")
        assert b"require_header" in answer.body
    assert wire.upstream.waiting == 0
    assert (wire.proxy.acceptors.stats.peers_refused, wire.proxy.faults.count) == (2, 0)
    assert [record.message for record in caplog.records] == [
        "this system does not say which process calls: all are refused (`peers`)"
    ]
