"""Talking to a running sidecar's admin server: what `wait`, `healthcheck`, `renew` and `quit` do.

Slim images have no curl. Called by the commands; standard library only, so that a health check starts
quickly, and proxies of the environment are never asked.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from sidecar.config.addresses import ListenAddress

_TIMEOUT = 5.0
_POLL = 0.1
_QUIET = 1.0
LONGEST_REPLY = 256 * 1024
"""Most bytes of a reply: a reload reports every mistake in a configuration."""
LONGEST_STATUS = 16 * 1024 * 1024
"""Most bytes of /status.json: thousands of routes."""


class Reply(NamedTuple):
    """The admin server's reply."""

    status: int
    text: str

    @property
    def document(self) -> dict[str, Any]:
        """The reply's JSON object; empty if it is something else."""
        try:
            found = json.loads(self.text)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(
    address: ListenAddress, method: str, path: str, *, timeout: float = _TIMEOUT, longest: int = LONGEST_REPLY
) -> Reply:
    """One request to the admin server.

    Raises OSError or http.client.HTTPException if there is no reply. `timeout` in seconds is for the whole. A reply
    has at most `longest` bytes, because another program may have the port.
    """
    connection: http.client.HTTPConnection
    if address.path is not None:
        connection = _UnixConnection(address.path, timeout)
    else:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.hosts[0])
        connection = http.client.HTTPConnection(host, address.port, timeout=timeout)
    try:
        connection.connect()
        with _ended_after(timeout, connection.sock):
            connection.request(method, path, headers={"Accept": "application/json"})
            response = connection.getresponse()
            text = response.read(longest + 1)
    finally:
        connection.close()
    if len(text) > longest:
        raise http.client.HTTPException(f"an answer of more than {longest} bytes")
    return Reply(response.status, text.decode("utf-8", "replace"))


@contextmanager
def _ended_after(seconds: float, sock: socket.socket) -> Iterator[None]:
    """Raises TimeoutError after that many seconds, since a partial reply could look complete. The socket's own
    timeout starts again with each byte.
    """
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if is_over.is_set():
        raise TimeoutError("timed out")


def wait_until_ready(
    address: ListenAddress, timeout: float, told: Callable[[str], None] = lambda _: None
) -> str | None:
    """None once the sidecar is ready; after `timeout` seconds, why it is not.

    `told` is called with what is missing: after the first second, and whenever that changes.
    """
    began = time.monotonic()  # noqa: TID251  # a command of its own, without an event loop
    last: str | None = None
    while True:
        why = readiness(address).why
        if why is None:
            return None
        passed = time.monotonic() - began  # noqa: TID251
        if passed >= timeout:
            return why
        if passed >= _QUIET and why != last:
            told(why)
            last = why
        time.sleep(_POLL)


class Probed(NamedTuple):
    """What a sidecar reports about itself."""

    why: str | None
    """Why it is not ready; None if it is."""
    shortfall: str = ""
    """What is wrong although it is ready, such as missing tokens; see `admin.shortfall`."""


def readiness(address: ListenAddress) -> Probed:
    """Ask whether it is ready."""
    try:
        reply = ask(address, "GET", "/healthz/ready")
    except (OSError, http.client.HTTPException) as error:
        return Probed(f"nothing answers at {address} ({error})")
    if reply.status == 200:
        shortfall = reply.document.get("shortfall")
        return Probed(None, shortfall if isinstance(shortfall, str) else "")
    reasons = reply.document.get("reasons")
    told = [it for it in reasons if isinstance(it, str)] if isinstance(reasons, list) else []
    return Probed("; ".join(told) or f"it answered {reply.status}")
