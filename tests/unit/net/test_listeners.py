"""sidecar.net.listeners: what is bound, what stands in the way, and what is left behind"""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.addresses import parse_listen
from sidecar.config.listeners import ListenerConfig
from sidecar.net import listeners
from sidecar.net.listeners import Listener, bind, settings_of

Bind = Callable[..., list[Listener]]


@pytest.fixture
def bound() -> Iterator[Bind]:
    """Binds, and closes at the end."""
    made: list[Listener] = []

    def bind_it(text: str, there: list[Listener] | None = None) -> list[Listener]:
        made.extend(found := bind(parse_listen(text), there))
        return found

    yield bind_it
    for listener in made:
        listeners.close(listener)


@pytest.fixture
def path() -> Iterator[str]:
    """A path for a socket: the one that pytest gives can be longer than a socket's may be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield f"{directory}/s"


def test_localhost_is_both_loopbacks_at_one_port(bound: Bind) -> None:
    """Node and others try ::1 first; apps know one port."""
    found = bound("localhost:0")
    ports = {listener.socket.getsockname()[1] for listener in found}
    assert len(ports) == 1
    port = ports.pop()
    assert [str(listener) for listener in found] == [f"127.0.0.1:{port}", f"[::1]:{port}"][: len(found)]
    for listener in found:
        with socket.create_connection((listener.socket.getsockname()[0], port)):
            pass


def test_a_host_without_ipv6_has_one_loopback(bound: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many containers; any other fault of the second address is one."""
    bind_tcp = listeners._bind_tcp
    code = errno.EADDRNOTAVAIL

    def without_ipv6(host: str, port: int) -> socket.socket:
        if ":" in host:
            raise OSError(code, "no")
        return bind_tcp(host, port)

    monkeypatch.setattr(listeners, "_bind_tcp", without_ipv6)
    (only,) = bound("localhost:0")
    assert only.name.startswith("127.0.0.1:")
    code = errno.EACCES
    with pytest.raises(PermissionError):
        bound("localhost:0")


def test_a_port_that_is_taken_leaves_nothing_open(bound: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second address of `localhost` is another's, the first is let go of again."""
    opened: list[socket.socket] = []
    bind_tcp = listeners._bind_tcp

    def taken(host: str, port: int) -> socket.socket:
        if ":" in host:
            raise OSError(errno.EADDRINUSE, "in use")
        opened.append(bind_tcp(host, port))
        return opened[-1]

    monkeypatch.setattr(listeners, "_bind_tcp", taken)
    with pytest.raises(OSError, match="in use"):
        bound("localhost:0")
    assert [sock.fileno() for sock in opened] == [-1]


def test_a_port_of_another_is_an_error(bound: Bind) -> None:
    """Which says so."""
    (first,) = bound("127.0.0.1:0")
    with pytest.raises(OSError, match="in use"):
        bound(first.name)


def test_a_unix_socket_is_for_owner_and_group(bound: Bind, path: str) -> None:
    """From its first moment, whatever the umask; its file goes with it."""
    umask = os.umask(0)
    try:
        (listener,) = bound(f"unix:{path}")
        assert os.umask(0) == 0
    finally:
        os.umask(umask)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert (str(listener), listener.is_unix) == (f"unix:{path}", True)
    listeners.close(listener)
    assert not os.path.exists(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to any group")
def test_a_unix_socket_takes_its_group_from_a_setgid_directory(bound: Bind, path: str) -> None:
    """As docs/listeners.md says: so that callers who are in that group can connect."""
    directory = os.path.dirname(path)
    os.chown(directory, -1, 12345)
    os.chmod(directory, 0o2750)  # noqa: S103  # as the page says
    bound(f"unix:{path}")
    found = os.stat(path)
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 0o660)


def test_what_a_crash_left_behind_is_removed(bound: Bind, path: str) -> None:
    """A socket file that nobody listens on."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    (listener,) = bound(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as app:
        app.connect(path)
    assert listener.is_unix


def test_another_processs_socket_is_left_alone(bound: Bind, path: str) -> None:
    """And so is a file that is none."""
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen()
        with pytest.raises(OSError, match=r"\] another process listens on this socket$") as raised:
            bound(f"unix:{path}")
        assert raised.value.errno == errno.EADDRINUSE
        assert os.path.exists(path)
    os.unlink(path)
    Path(path).write_text("precious")
    says = r"\] the file exists and is not a socket$"
    with pytest.raises(FileExistsError, match=says):
        bound(f"unix:{path}")
    assert Path(path).read_text() == "precious"


def test_a_socket_in_no_directory(bound: Bind, path: str) -> None:
    """Is an error of the system, and the umask is what it was."""
    umask = os.umask(0o022)
    try:
        with pytest.raises(FileNotFoundError):
            bound(f"unix:{path}/in/nothing")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(umask)


def test_what_systemd_opened_is_taken_over(bound: Bind, path: str) -> None:
    """By its address; others are left alone, and a socket's file stays systemd's."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        waiting = [listeners.inherited(unix), listeners.inherited(tcp)]
        names = [f"unix:{path}", f"127.0.0.1:{tcp.getsockname()[1]}"]
        assert (
            [str(listener.address) for listener in waiting]
            == [str(listener) for listener in waiting]
            == names
        )
        (by_port,) = bound(names[1], waiting)
        assert (by_port.socket, by_port.inherited, waiting) == (tcp, True, [listeners.inherited(unix)])
        (by_path,) = bound(f"unix:{path}", waiting)
        assert (by_path.socket, waiting) == (unix, [])
        assert by_path.inherited
        listeners.close(by_path)
        assert os.path.exists(path)


def test_both_loopbacks_may_be_systemds(bound: Bind) -> None:
    """Each is taken over; one that is not there is bound beside the other. A host without IPv6 has one."""
    opened = bound("localhost:0")
    address = f"localhost:{opened[0].socket.getsockname()[1]}"
    waiting = [listeners.inherited(listener.socket) for listener in reversed(opened)]
    found = bound(address, waiting)
    assert [(listener.socket, listener.inherited) for listener in found] == [
        (listener.socket, True) for listener in opened
    ]
    assert {str(listener.address) for listener in found} == {address}
    for listener in opened[1:]:
        listeners.close(listener)
    found = bound(address, [listeners.inherited(opened[0].socket)])
    assert [(listener.name, listener.inherited) for listener in found] == [
        (listener.name, listener is opened[0]) for listener in opened
    ]


def test_what_is_there_stays_where_the_rest_cannot_be_bound(
    bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on listening, and can be taken by another."""
    (there,) = bound("127.0.0.1:0")
    port = there.socket.getsockname()[1]
    bind_tcp = listeners._bind_tcp

    def taken(host: str, port: int) -> socket.socket:
        if ":" in host:
            raise OSError(errno.EADDRINUSE, "in use")
        return bind_tcp(host, port)

    monkeypatch.setattr(listeners, "_bind_tcp", taken)
    waiting = [there]
    with pytest.raises(OSError, match="in use"):
        bound(f"localhost:{port}", waiting)
    assert [listener.socket for listener in waiting] == [there.socket]
    with socket.create_connection(("127.0.0.1", port)):
        pass


def test_a_file_that_somebody_else_removed(bound: Bind, path: str) -> None:
    """Closing is no fault for it."""
    (listener,) = bound(f"unix:{path}")
    os.unlink(path)
    listeners.close(listener)


def test_a_socket_that_another_process_has_put_in_its_place_is_left_alone(bound: Bind, path: str) -> None:
    """The file was removed, and another sidecar listens there by now: the end of the first does not cut it off."""
    (listener,) = bound(f"unix:{path}")
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as another, socket.socket(socket.AF_UNIX) as app:
        another.bind(path)
        another.listen()
        listeners.close(listener)
        app.connect(path)


def test_a_listener_s_settings_are_what_its_configuration_says() -> None:
    """Its certificate is the one that was read for it; a plain one needs no certificate."""
    certificate: Any = object()
    config = ListenerConfig.model_validate({"address": "127.0.0.1:1", "connections": 7})
    assert settings_of(config, certificate) == (None, 7, certificate, False)
    assert settings_of(config, None) == (None, 7, None, False)
    config = ListenerConfig.model_validate(
        {"address": "127.0.0.1:1", "require_header": {"X-Caller": "secret-of-it"}}
    )
    callers = settings_of(config, None).callers
    assert callers is not None
    assert (callers.admit([(b"x-caller", b"secret-of-it")]), callers.by_peer) == ([], False)


def test_peers_by_name_and_by_number() -> None:
    """Names are looked up at start; one that there is not is told with the way out."""
    config = ListenerConfig.model_validate(
        {"address": "unix:/run/s", "peers": {"uid": ["root", 7], "gid": ["root"]}}
    )
    callers = settings_of(config, None).callers
    assert callers is not None
    assert [callers.may_connect(uid, ()) for uid in (0, 7, 8)] == [True, True, False]
    assert [callers.may_connect(8, [gid]) for gid in (0, 7)] == [True, False]
    for kind, what in (("uid", "user"), ("gid", "group")):
        config = ListenerConfig.model_validate({"address": "unix:/run/s", "peers": {kind: ["no-such"]}})
        with pytest.raises(LookupError, match=f"no {what} is called `no-such` here: write its number"):
            settings_of(config, None)


@pytest.mark.parametrize(("kind", "what"), [("uid", "user"), ("gid", "group")])
def test_a_peer_that_stands_for_all_others_is_told_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, kind: str, what: str
) -> None:
    """By name or by number; the same number of the other kind may be let in."""
    monkeypatch.setattr(listeners.peer_credentials, "is_everybody_else", lambda *asked: asked == (0, kind))
    for entry in ("root", 0):
        config = ListenerConfig.model_validate({"address": "unix:/run/s", "peers": {kind: [entry]}})
        with pytest.raises(LookupError) as caught:
            settings_of(config, None)
        assert caught.value.args == (
            f"in this user namespace {kind} 0 is every {what} that it has no number for: name another one, or run the "
            "sidecar without a user namespace of its own",
        )
    other = "gid" if kind == "uid" else "uid"
    config = ListenerConfig.model_validate({"address": "unix:/run/s", "peers": {kind: [1], other: [0]}})
    assert settings_of(config, None).callers is not None
