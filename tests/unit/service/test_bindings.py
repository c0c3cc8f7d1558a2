"""sidecar.service.bindings: what stands in the way of listening is told apart, for apps' listeners and the admin server's."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sidecar.config.load import load
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
