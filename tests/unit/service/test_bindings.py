"""sidecar.service.bindings: what stands in the way of listening is told apart, for apps' listeners and the admin server's."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from sidecar.config.load import load
from sidecar.config.models import Config
from sidecar.routing.routes import RouteTable
from sidecar.service.bindings import Bindings
from sidecar.service.start_error import EXIT_BIND, StartError
from tests.support.clock import FakeClock
from tests.support.named_source import NamedSource


def refusal(key: str, address: str) -> str:
    """What is said where `key` is to listen there."""
    others = {"listen": "localhost:0", "admin": "localhost:0", key: address}
    text = "".join(f"{name}: '{value}'\n" for name, value in others.items())
    config = load(
        text + "allow_remote: true\nroutes: [{name: a, upstream: 'https://a.example'}]", environ={}
    ).config
    bindings = Bindings(FakeClock(), ())
    try:
        with pytest.raises(StartError) as raised:
            bindings.bind(config, RouteTable.compile(config, {"default": NamedSource("default")}))
    finally:
        bindings.close()
    assert raised.value.exit_code == EXIT_BIND
    said = str(raised.value)
    assert said.startswith(f"{key}: {address} cannot be listened on: ")
    return said


@pytest.fixture
def directory() -> Iterator[Path]:
    """One whose path leaves room for a socket's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


@pytest.mark.parametrize("key", ["listen", "admin"])
def test_causes_of_tcp(key: str) -> None:
    """A port of another process; an address of another machine (RFC 5737)."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "the port is in use" in refusal(key, f"127.0.0.1:{taken.getsockname()[1]}")
    assert "this machine has no address 192.0.2.1" in refusal(key, "192.0.2.1:8787")


@pytest.mark.parametrize("key", ["listen", "admin"])
def test_causes_of_unix_sockets(key: str, directory: Path) -> None:
    """Each as the system has it; what is there stays."""
    (directory / "file").write_text("precious")
    (directory / "link").symlink_to(directory / "nowhere")
    with ExitStack() as stack:
        live, full, datagrams = (
            stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            for kind in (socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM)
        )
        for sock, name in ((live, "live"), (full, "full"), (datagrams, "datagrams")):
            sock.bind(str(directory / name))
        live.listen()
        full.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(directory / "full"))
        for name, says in {
            "live": "the socket is in use",
            "full": "the socket is in use",
            "datagrams": "not a socket that can be replaced",
            "file": "not a socket that can be replaced",
            "link": "not a socket that can be replaced",
            ".": "not a socket that can be replaced",
            "none/s": f"there is no directory {directory}/none",
            "file/s": f"{directory}/file is not a directory",
        }.items():
            assert says in refusal(key, f"unix:{directory}/{name}")
    left = {entry.name for entry in directory.iterdir()}
    assert left == {"live", "full", "datagrams", "file", "link"}


def auto(*names: str) -> Config:
    """A configuration whose routes all have ports of their own."""
    routes = ", ".join(f"{{name: {name}, upstream: 'https://{name}.example'}}" for name in names)
    return load(f"listen: [localhost:0, auto]\nadmin: localhost:0\nroutes: [{routes}]", environ={}).config


def test_a_port_of_auto_that_is_taken_is_replaced_and_stays_its_routes() -> None:
    """Another program may have it; and whatever the order of the routes is after a reload, who calls a route's port
    goes on to reach that route."""
    first, other = auto("a", "b"), auto("new", "b", "a")
    sources = {"default": NamedSource("default")}
    bindings = Bindings(FakeClock(), ())
    with ExitStack() as stack:
        with suppress(OSError):  # taken is what it is to be
            stack.enter_context(socket.create_server(("127.0.0.1", 8801)))
        stack.callback(bindings.close)
        bindings.bind(first, RouteTable.compile(first, sources))
        before = bindings.urls(first.routes)
        assert before["a"] != "http://localhost:8801"
        assert len({*before.values(), bindings.url()}) == 3
        bindings.adopt(bindings.plan(other, RouteTable.compile(other, sources)))
        after = bindings.urls(other.routes)
        assert {name: after[name] for name in before} == before
        assert after["new"] not in before.values()
        for url in after.values():
            socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))).close()
