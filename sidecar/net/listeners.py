"""Binding: from an address of the configuration to listening sockets.

Owns the sockets' options and the Unix socket's file: its mode, the stale file a crash leaves behind, the
live one of another process; sockets that systemd opened before. Called by the service before anything else
starts, for the proxy's and the admin server's addresses alike. Raises OSError with a number that `bind_faults` knows.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple, final

from sidecar.config.addresses import ListenAddress
from sidecar.config.listeners import ListenerConfig, Peers
from sidecar.net import peer_credentials
from sidecar.net.callers import ANYBODY, Callers
from sidecar.net.origins import Origin

if TYPE_CHECKING:
    from sidecar.net.certificates import Certificate
    from sidecar.routing.routes import Route

BACKLOG = 2048
"""As many connections as a burst of app threads may open at once; the kernel caps it at somaxconn (4096 by
default)."""

_UNIX_MODE = 0o660

_LIVE = "another process listens on this socket"
_FIRST_UNPRIVILEGED = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


class Listener(NamedTuple):
    """A bound socket, and the address of the configuration that it stands for."""

    address: ListenAddress
    socket: socket.socket
    name: str
    """Where it listens, as bound. It is still known after the listener is closed."""
    inherited: bool = False
    """It was open before this process started: its file, if it has one, belongs to another process."""
    file: tuple[int, int] | None = None
    """Device and inode of the file that a Unix socket was bound to."""

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix socket."""
        return self.socket.family == socket.AF_UNIX

    def __str__(self) -> str:
        return self.name


class Settings(NamedTuple):
    """A listener's settings beside its address, ready for use."""

    callers: Callers | None = None
    """Who may call; None for every process that can connect."""
    connections: int | None = None
    certificate: Certificate | None = None
    """None for plain http."""
    intercepts: bool = False
    """Whether it shows the certificate of whichever intercepted host is asked for."""


PLAIN = Settings()


@final
class Owner:
    """Who owns a listener. All connections accepted by it share this object, so that a reload reaches them."""

    __slots__ = (
        "arriving",
        "callers",
        "certificate",
        "client_cas",
        "closing",
        "intercepts",
        "is_judged",
        "is_unix",
        "limit",
        "open",
        "origin",
        "origin_scheme",
        "outer",
        "route",
        "rules",
    )

    def __init__(self, route: Route | None, *, is_unix: bool, settings: Settings = PLAIN) -> None:
        """`route` is None for the shared listener."""
        self.is_unix = is_unix
        self.closing = False
        """The listener was taken out of the configuration: its connections end with their current answer."""
        self.open = 0
        self.arriving = 0
        """Connections that were accepted and are not ready yet. Counted only where there is a limit."""
        self.intercepts = settings.intercepts
        is_plain = settings.certificate is None and not settings.intercepts
        self.origin_scheme = b"http://" if is_plain else b"https://"
        """How a URL to it begins."""
        self.client_cas = b"" if settings.certificate is None else settings.certificate.client_cas
        """The CAs that the client certificates of its connections were checked against."""
        self.outer: Owner | None = None
        """Inside a tunnel: the owner of the listener itself, which counts the connections."""
        self.origin: Origin | None = None
        """Inside a tunnel: the only origin that its requests may be for. `callers` is then always set, so that other
        code need not check.
        """
        self.is_judged = False
        """Inside a tunnel: whether the caller already showed what it must bring, when it asked for the tunnel."""
        self.rules: object = None
        """The rules by which that was decided."""
        self.assign(route, settings)

    def inside(self, origin: Origin, *, rules: object = None) -> Owner:
        """The owner of a connection for `origin` only that came in here. Either it is in a tunnel that `rules`
        permitted, or TLS named the origin; then each request still has to bring what callers must.
        """
        inner = Owner(self.route, is_unix=self.is_unix, settings=Settings(self.callers or ANYBODY))
        inner.outer = self
        inner.origin = origin
        inner.origin_scheme = origin.scheme
        inner.closing = self.closing
        inner.is_judged = rules is not None
        inner.rules = rules
        return inner

    @property
    def entrance(self) -> Owner:
        """The owner of the listener through which its connections came."""
        return self if self.outer is None else self.outer

    @property
    def is_outdated(self) -> bool:
        """Whether the client CAs have changed since its connections were accepted."""
        return self.certificate is not None and self.certificate.client_cas != self.client_cas

    def connects_alike(self, settings: Settings) -> bool:
        """Whether everything that is checked once for a connection, not once for a request, stays the same under
        these settings.
        """
        return self.intercepts == settings.intercepts and _once_a_connection(
            self.callers, self.certificate
        ) == _once_a_connection(settings.callers, settings.certificate)

    def assign(self, route: Route | None, settings: Settings) -> None:
        """Give it to another route, or other settings for which `connects_alike` holds."""
        self.route = route
        self.callers = settings.callers
        self.limit = settings.connections
        self.certificate = settings.certificate


def _once_a_connection(callers: Callers | None, certificate: Certificate | None) -> tuple[object, ...]:
    peers = callers.peers if callers is not None and callers.by_peer else None
    return (peers, None if certificate is None else (certificate.settings.client_ca_file,))


def settings_of(config: ListenerConfig, certificate: Certificate | None) -> Settings:
    """What a listener's settings mean on this machine. Raises LookupError, with a sentence, for a user or group that
    does not exist or can't be told from others.
    """
    required = {name: value.get_secret_value() for name, value in config.require_header or ()}
    callers = None
    if config.peers is not None:
        callers = callers_of(config.peers, required)
    elif required:
        callers = Callers(required)
    return Settings(callers, config.connections, certificate, config.intercept)


def callers_of(peers: Peers, required: Mapping[str, str]) -> Callers:
    """Who may call, of the processes of these users and groups; LookupError as for `settings_of`."""
    uids = {_number(entry, "uid", _user) for entry in peers.uid}
    gids = {_number(entry, "gid", _group) for entry in peers.gid}
    return Callers(required, uids, gids)


def _number(entry: int | str, kind: Literal["uid", "gid"], find: Callable[[str], int]) -> int:
    what = "user" if kind == "uid" else "group"
    try:
        number = entry if isinstance(entry, int) else find(entry)
    except KeyError:
        raise LookupError(f"no {what} is called `{entry}` here: write its number") from None
    if peer_credentials.is_everybody_else(number, kind):
        raise LookupError(
            f"in this user namespace {kind} {number} is every {what} that it has no number for: name another one, or "
            "run the sidecar without a user namespace of its own"
        )
    return number


def _user(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _group(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def inherited(sock: socket.socket) -> Listener:
    """The sockets that were open before this process started (socket activation)."""
    name = sock.getsockname()
    address = ListenAddress(path=name) if isinstance(name, str) else ListenAddress(name[0], name[1])
    return _listener(address, sock, inherited=True)


def bind(address: ListenAddress, there: list[Listener] | None = None) -> list[Listener]:
    """Listening sockets for one address: two for `localhost` where the host has IPv6, else one.

    A listener found in `there` is taken from it instead of bound. On OSError nothing has changed. Where the port of
    an `auto` address is taken, the system picks another.
    """
    waiting = there if there is not None else []
    try:
        return _bind(address, waiting)
    except OSError as error:
        if not address.auto or error.errno != errno.EADDRINUSE:
            raise
    return [it._replace(address=address) for it in _bind(replace(address, port=0), waiting)]


def _bind(address: ListenAddress, waiting: list[Listener]) -> list[Listener]:
    if address.path is not None:
        return [_take(waiting, address, address.path) or _listener(address, _bind_unix(address.path))]
    found: list[Listener] = []
    bound: list[Listener] = []
    port = address.port
    try:
        for host in address.hosts:
            if port and (taken := _take(waiting, address, (host, port))) is not None:
                found.append(taken)
                continue
            try:
                sock = _bind_tcp(host, port)
            except OSError as error:
                if found and host == "::1" and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue  # a host without IPv6: `localhost` is one address there
                raise
            bound.append(_listener(address, sock))
            found.append(bound[-1])
            port = sock.getsockname()[1]  # with port 0, both loopbacks get the same one
    except OSError:
        for listener in bound:
            listener.socket.close()
        waiting += [listener for listener in found if listener not in bound]
        raise
    return found


def close(listener: Listener) -> None:
    """Stop listening; a Unix socket's file goes too, unless another process has put its own in that place."""
    listener.socket.close()
    path = listener.address.path
    if path is not None and listener.file is not None and listener.file == _identity(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _listener(address: ListenAddress, sock: socket.socket, *, inherited: bool = False) -> Listener:
    if address.path is not None:
        file = None if inherited else _identity(address.path)
        return Listener(address, sock, f"unix:{address.path}", inherited, file)
    host, port = sock.getsockname()[:2]
    return Listener(address, sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", inherited)


def _take(waiting: list[Listener], address: ListenAddress, wanted: str | tuple[str, int]) -> Listener | None:
    """The listener in `waiting` that is bound there, removed from it and renamed to `address`."""
    for listener in waiting:
        name = listener.socket.getsockname()
        if (name if isinstance(name, str) else tuple(name[:2])) == wanted:
            waiting.remove(listener)
            return listener._replace(address=address)
    return None


def first_unprivileged_port() -> int:
    """The first port that a process without privileges may listen on."""
    try:
        with open(_FIRST_UNPRIVILEGED, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024  # IPPORT_RESERVED, of old


def _bind_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777 & ~_UNIX_MODE)
    try:
        # The umask and not a later chmod: there is no moment in which others could connect.
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(umask)
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket file of a process that is gone.

    Else OSError: EADDRINUSE for one that a process listens on, EEXIST for another kind of file, EPERM for one that is
    another user's.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.lexists(path):
            raise OSError(errno.EEXIST, "a link that leads nowhere") from None
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "the file exists and is not a socket")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Where so many wait already that it is full, connecting would wait, too.
    probe.setblocking(False)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except PermissionError as error:
        raise OSError(errno.EPERM, "the socket is another user's") from error
    except BlockingIOError as error:
        raise OSError(errno.EADDRINUSE, _LIVE) from error
    except OSError as error:
        if error.errno != errno.EPROTOTYPE:
            raise
        raise OSError(errno.EEXIST, "the socket is not one of streams") from error
    else:
        raise OSError(errno.EADDRINUSE, _LIVE)
    finally:
        probe.close()
