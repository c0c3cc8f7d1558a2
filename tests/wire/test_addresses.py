"""What a name resolves to is judged, address by address, and what was judged is what is connected to"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import aiohappyeyeballs
import pytest

from sidecar.net.dial import is_here
from tests.support.wire import OK, Wire

NAMED = b"GET /x HTTP/1.1\r\nHost: named.internal\r\n\r\n"


class Resolver:
    """Gives one answer after another, the last one forever; counts the questions."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in answer
        ]


async def start(wire: Wire, resolver: Resolver, host: str = "api.localhost", keys: str = "") -> None:
    """A route `named` to the scripted upstream, by a name that `resolver` knows."""
    await wire.upstream.start()
    port = wire.upstream.port
    route = (
        f"- {{name: named, host: named.internal, upstream: 'http://{host}:{port}', "
        f"audience: 'https://billing.example', {keys}}}"
    )
    wire.lookup = resolver.getaddrinfo
    await wire.start(upstream_port=port, more=route)


async def test_a_forbidden_address_among_good_ones_is_passed_over(wire: Wire) -> None:
    """Happy eyeballs never gets to see it, wherever it stands."""
    resolver = Resolver(["169.254.169.254", "fe80::1", "127.0.0.1", "fd20:ce::254"])
    await start(wire, resolver)
    app = await wire.app()
    await app.send(NAMED)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).body == b"ok"


async def test_where_all_are_forbidden_each_is_named(wire: Wire) -> None:
    """With its reason; nothing is connected to."""
    await start(wire, Resolver(["169.254.169.254", "::ffff:10.0.0.5"]))
    app = await wire.app()
    await app.send(NAMED)
    answer = await app.answer()
    assert (answer.status, answer.reason) == (502, "address_forbidden")
    assert answer.headers["proxy-status"].startswith("idtoken-sidecar; error=destination_ip_prohibited")
    detail = answer.body.decode()
    assert "169.254.169.254: it is a metadata server" in detail
    assert "::ffff:10.0.0.5: it is an address of the network" in detail
    assert "`named`" in detail
    assert wire.upstream.waiting == 0


@pytest.mark.parametrize(
    ("keys", "refused"),
    [("allow_plaintext: true, allow_private: false", True), ("allow_plaintext: true", False)],
)
async def test_private_addresses_are_the_routes_choice(wire: Wire, keys: str, refused: bool) -> None:
    """`allow_private: false` is asked about what the name resolves to."""
    await start(
        wire,
        Resolver(["192.0.2.1"]),
        "api.internal",
        keys if refused else keys + ", timeouts: {connect: 20ms}",
    )
    app = await wire.app()
    await app.send(NAMED)
    answer = await app.answer()
    assert (answer.reason == "address_forbidden") is refused
    assert ("allow_private: false" in answer.body.decode()) is refused


async def test_a_name_is_resolved_once_for_a_connection(wire: Wire) -> None:
    """An answer that changes between the judgement and the connection changes nothing: DNS rebinding."""
    resolver = Resolver(["127.0.0.1"], ["169.254.169.254"])
    await start(wire, resolver)
    app = await wire.app()
    await app.send(NAMED)
    upstream = await wire.upstream.accept()
    await upstream.read_head()
    await upstream.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert (await app.answer()).body == b"ok"
    assert resolver.asked == ["api.localhost"]
    await app.send(NAMED)
    assert (await app.answer()).reason == "address_forbidden"
    assert resolver.asked == ["api.localhost"] * 2


async def test_the_address_that_was_connected_to_is_judged_too(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the kernel, or a library, made of the one that was given to it."""
    await start(wire, Resolver(["192.0.2.1"]), "api.internal", "allow_plaintext: true")
    made: list[socket.socket] = []

    async def elsewhere(*_: Any, **__: Any) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        await wire.loop.sock_connect(sock, ("127.0.0.1", wire.upstream.port))
        made.append(sock)
        return sock

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", elsewhere)
    app = await wire.app()
    await app.send(NAMED)
    answer = await app.answer()
    assert answer.reason == "address_forbidden"
    assert "127.0.0.1: it is a loopback address" in answer.body.decode()
    assert made[0].fileno() == -1


async def test_a_listener_on_all_addresses_has_each_of_this_machines(wire: Wire) -> None:
    """Not only the one that it was bound to."""
    await start(wire, Resolver(["127.0.0.1"]))
    wire.own_addresses.add(("0.0.0.0", wire.upstream.port))
    app = await wire.app()
    await app.send(NAMED)
    assert "own listener" in (await app.answer()).body.decode()


@pytest.mark.parametrize(
    ("address", "here"), [("127.0.0.1", True), ("192.0.2.1", False), ("2001:db8::1", False)]
)
def test_an_address_is_here_if_it_can_be_bound(address: str, here: bool) -> None:
    """The documentation's networks are on no machine."""
    assert is_here(address) is here
