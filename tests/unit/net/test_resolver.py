"""sidecar.net.resolver"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.net.resolver import AT_ONCE, Resolver

LIMIT = 60.0
INFO = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))


class Names:
    """The system's resolver, which answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.speak = threading.Event()
        self.error: OSError | None = None

    def __call__(self, *host: Any, **how: Any) -> list[Any]:
        self.asked.append((host, how))
        self.speak.wait(LIMIT)
        if self.error is not None:
            raise self.error
        return [INFO]


async def test_a_name_is_asked_for_once_at_a_time() -> None:
    """By all who want it; later anew, and another port is another question. Only for TCP: else each address comes twice or
    thrice, and is dialled so often."""
    names = Names()
    resolver = Resolver(asyncio.get_running_loop(), names)
    waiting = asyncio.gather(*(resolver.addresses("a.test", 80) for _ in range(5)))
    await asyncio.sleep(0)
    names.speak.set()
    assert await waiting == [[INFO]] * 5
    how = {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_TCP}
    assert names.asked == [(("a.test", 80), how)]
    await resolver.addresses("a.test", 80)
    await resolver.addresses("a.test", 81)
    assert [host for host, _ in names.asked] == [("a.test", 80), ("a.test", 80), ("a.test", 81)]


async def test_one_that_has_ended_already_is_joined_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.14 gives back a future that is done where the thread was quick: who asks next asks anew."""
    loop = asyncio.get_running_loop()

    def at_once(_: object, call: Callable[..., Any], *args: object) -> asyncio.Future[Any]:
        done = loop.create_future()
        done.set_result(call(*args))
        return done

    monkeypatch.setattr(loop, "run_in_executor", at_once)
    names = Names()
    names.speak.set()
    resolver = Resolver(loop, names)
    for _ in range(3):
        assert await resolver.addresses("a.test", 80) == [INFO]
    await asyncio.sleep(0)
    assert await resolver.addresses("a.test", 80) == [INFO]
    assert len(names.asked) == 4


async def test_many_names_whose_servers_are_silent_hold_up_no_other() -> None:
    """A wildcard route's app can ask for as many as it likes."""
    names = Names()

    def lookup(host: str, *_: object, **how: object) -> list[Any]:
        return names(host, **how) if host.startswith("silent") else [INFO]

    resolver = Resolver(asyncio.get_running_loop(), lookup)
    silent = asyncio.gather(*(resolver.addresses(f"silent-{n}.test", 80) for n in range(AT_ONCE - 1)))
    await asyncio.sleep(0)
    assert len(resolver._flights) == AT_ONCE - 1
    async with asyncio.timeout(LIMIT):
        assert await resolver.addresses("a.test", 80) == [INFO]
    assert not silent.done()
    names.speak.set()
    await silent


async def test_an_error_that_nobody_waits_for_is_no_complaint_of_the_event_loop() -> None:
    """Who gave up is gone when the resolver fails at last."""
    names, complaints = Names(), []
    names.error = socket.gaierror(socket.EAI_AGAIN, "no")
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    resolver = Resolver(loop, names)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await resolver.addresses("a.test", 80)
    names.speak.set()
    (flight,) = resolver._flights.values()
    await asyncio.wait([flight])
    del flight
    await asyncio.sleep(0)
    assert (complaints, resolver._flights) == ([], {})


CODEC = """
import asyncio, socket, ssl, sys
from sidecar.net.resolver import system_lookup
from sidecar.net.tls_handshake import HandshakeError, handshake

assert system_lookup("localhost", 80, type=socket.SOCK_STREAM)
ours, theirs = socket.socketpair()
ours.setblocking(False)

async def dial():
    try:
        await handshake(asyncio.get_running_loop(), ours, ssl.create_default_context(), "a.example", None)
    except HandshakeError:
        return theirs.recv(1000)

theirs.sendall(b"no TLS")
assert b"a.example" in asyncio.run(dial())
assert "encodings.idna" not in sys.modules
"""


def test_neither_a_look_up_nor_a_handshake_loads_a_codec() -> None:
    """1.8 MiB of tables for names that are not ASCII: ours are."""
    subprocess.run([sys.executable, "-c", CODEC], check=True)
