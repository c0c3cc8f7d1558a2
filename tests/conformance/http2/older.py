"""A target and an app that speak HTTP/1.1: the other side where HTTP/2 is bridged. What they get is read by `strict`."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.conformance import strict
from tests.conformance.http2.app import PATIENCE
from tests.conformance.play import ANSWER


class OlderTarget(socketserver.ThreadingTCPServer):
    """It answers every whole request with `ok`, and keeps what it was sent; on a free port of 127.0.0.1 while entered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = int(self.server_address[1])
        self.forget()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def forget(self) -> None:
        """Begin a case."""
        self.requests: list[strict.Request] = []
        self.ambiguous: list[str] = []
        self.answer = ANSWER
        self.closes = False
        """Hang up behind an answer."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(socketserver.BaseRequestHandler):
    server: OlderTarget

    def handle(self) -> None:
        left = b""
        with suppress(OSError):
            while data := self.request.recv(1 << 16):
                try:
                    requests, left = strict.read(left + data)
                except strict.AmbiguousError as what:
                    self.server.ambiguous.append(str(what))
                    return
                self.server.requests += requests
                self.request.sendall(self.server.answer * len(requests))
                if requests and self.server.closes:
                    return


def ask(port: int, method: bytes, host: bytes) -> bytes:
    """What an app of HTTP/1.1 is given for one request, until its end or a silence."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as app:
        app.sendall(b"%b /x HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (method, host))
        got = b""
        with suppress(OSError):
            while piece := app.recv(1 << 16):
                got += piece
        return got
