"""Talking to a running sidecar's admin server: what `wait`, `healthcheck` and `quit` do.

Slim images have no curl. Called by the commands; standard library only, so that a health check starts
quickly, and proxies of the environment are never asked.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from sidecar.config.addresses import ListenAddress

_TIMEOUT = 5.0
_POLL = 0.1
_QUIET = 1.0


class Reply(NamedTuple):
    """What the admin server said."""

    status: int
    text: str


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(address: ListenAddress, method: str, path: str, *, timeout: float = _TIMEOUT) -> Reply:
    """One request to the admin server; raises OSError or http.client.HTTPException where it can't be had."""
    connection: http.client.HTTPConnection
    if address.path is not None:
        connection = _UnixConnection(address.path, timeout)
    else:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.hosts[0])
        connection = http.client.HTTPConnection(host, address.port, timeout=timeout)
    try:
        connection.request(method, path, headers={"Accept": "application/json"})
        response = connection.getresponse()
        return Reply(response.status, response.read().decode("utf-8", "replace"))
    finally:
        connection.close()


def wait_until_ready(
    address: ListenAddress, timeout: float, told: Callable[[str], None] = lambda _: None
) -> str | None:
    """None once it is ready; after `timeout` seconds, why it is not.

    `told` hears what is being waited for: after the first second, and whenever that changes.
    """
    began = time.monotonic()  # noqa: TID251  # a command of its own, without an event loop
    last: str | None = None
    while True:
        why = readiness(address)
        if why is None:
            return None
        passed = time.monotonic() - began  # noqa: TID251
        if passed >= timeout:
            return why
        if passed >= _QUIET and why != last:
            told(why)
            last = why
        time.sleep(_POLL)


def readiness(address: ListenAddress) -> str | None:
    """None if it is ready, else why not."""
    try:
        reply = ask(address, "GET", "/healthz/ready")
    except (OSError, http.client.HTTPException) as error:
        return f"nothing answers at {address} ({error})"
    if reply.status == 200:
        return None
    try:
        reasons = json.loads(reply.text).get("reasons", [])
    except ValueError:
        reasons = []
    return "; ".join(reasons) or f"it answered {reply.status}"
