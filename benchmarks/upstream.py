"""What the products forward to: nginx with 1 kB from memory, and an endless source and sink for streams.

Owns: the certificates of the run, the upstream nginx, the stream server.
Called by: run.
May not: answer 200 to a request without a bearer token: who forwards without one must not look fast.
Rule: everything here runs on the load's cores and is never measured.
"""

import os
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from process import Process, RunError, free_port, wait_listening

BODY = "0123456789abcdef" * 64  # 1024 bytes
CHUNK = bytes(256 * 1024)
HEAD_LIMIT = 64 * 1024
STALL_SECONDS = 0.5
"""How long the reader of a stream stops half-way: only backpressure keeps a proxy small through that."""
EXTENSIONS = """\
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True)
class Certificates:
    """A certificate authority of this run and what it signed for `localhost`."""

    ca: Path
    server: Path
    server_key: Path

    @classmethod
    def make(cls, directory: Path) -> Self:
        """Write new ones (P-256, valid for a day) into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        made = cls(directory / "ca.pem", directory / "server.pem", directory / "server.key")
        extensions = directory / "extensions.cnf"
        extensions.write_text(EXTENSIONS)
        new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        sign = ("x509", "-req", "-days", "1", "-extfile", str(extensions))
        ca_key, ca_request = str(directory / "ca.key"), str(directory / "ca.csr")
        request = str(directory / "server.csr")
        for arguments in (
            (*new, "-subj", "/CN=benchmark CA", "-keyout", ca_key, "-out", ca_request),
            (*sign, "-extensions", "ca", "-signkey", ca_key, "-in", ca_request, "-out", str(made.ca)),
            (*new, "-subj", "/CN=localhost", "-keyout", str(made.server_key), "-out", request),
            (
                *(*sign, "-extensions", "server", "-CA", str(made.ca), "-CAkey", ca_key),
                *("-CAcreateserial", "-in", request, "-out", str(made.server)),
            ),
        ):
            done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RunError(f"openssl {arguments[0]} failed:\n{done.stderr}")
        return made


def nginx_prelude(directory: Path, connections: int = 2048) -> str:
    """The lines that let nginx run in `directory` alone, with one worker, as the user that started it."""
    user = "user root;\n" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"    {kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{user}worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 3600;
{temporary}
"""


class SmallAnswers:
    """nginx that answers 1 kB from memory, on a plain port and on a TLS port of 127.0.0.1."""

    def __init__(self, directory: Path, certificates: Certificates, cores: Sequence[int]) -> None:
        """Start it; RunError when it doesn't come up."""
        directory.mkdir(parents=True, exist_ok=True)
        self.port, self.tls_port = free_port(), free_port()
        config = directory / "nginx.conf"
        config.write_text(
            f"""{nginx_prelude(directory)}
    server {{
        listen 127.0.0.1:{self.port} backlog=1024;
        listen 127.0.0.1:{self.tls_port} ssl backlog=1024;
        ssl_certificate {certificates.server};
        ssl_certificate_key {certificates.server_key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:sessions:1m;
        default_type text/plain;
        if ($http_authorization !~ "^Bearer ") {{ return 403 "no bearer token\\n"; }}
        location = /authorization {{ return 200 $http_authorization; }}
        location / {{ return 200 {BODY}; }}
    }}
}}
"""
        )
        argv = ["nginx", "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]
        with ExitStack() as started:
            process = Process("the upstream (nginx)", argv, cores=cores, directory=directory)
            started.enter_context(process)
            wait_listening(process, self.port)
            self._running = started.pop_all()

    def __enter__(self) -> Self:
        """Return the running upstream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End nginx."""
        self._running.close()


def drain(connection: socket.socket, length: int, have: int, *, stall: bool) -> int:
    """Read and drop a body up to `length` bytes, of which `have` came already; stall once half-way if asked.

    Returns how many came before the peer closed, at most `length`.
    """
    buffer = memoryview(bytearray(len(CHUNK)))
    stall_at = length // 2 if stall and length > len(CHUNK) else length
    while have < length and (count := connection.recv_into(buffer)):
        if have < stall_at <= have + count:
            time.sleep(STALL_SECONDS)
        have += count
    return have


class _StreamHandler(socketserver.BaseRequestHandler):
    server: "Streams"

    def handle(self) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            if self.server.tls:
                self.request = self.server.tls.wrap_socket(self.request, server_side=True)
            while self._exchange():
                pass

    def _exchange(self) -> bool:
        """Answer one request; False when the peer is done or the connection is of no more use."""
        received = bytearray()
        while b"\r\n\r\n" not in received:
            data = self.request.recv(HEAD_LIMIT)
            if not data or len(received) > HEAD_LIMIT:
                return False
            received += data
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        request_line, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if not fields.get("authorization", "").startswith("Bearer "):
            self.request.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return False
        method, target, _ = request_line.split(" ")
        if method == "PUT":
            taken = drain(self.request, int(fields["content-length"]), len(body), stall=target == "/stall")
            answer = str(taken).encode()
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        else:
            self._give(int(target.rpartition("/")[2] or 0))
        return True

    def _give(self, length: int) -> None:
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        chunk = memoryview(CHUNK)
        while length:
            part = chunk[:length]
            self.request.sendall(part)
            length -= len(part)


class Streams(socketserver.ThreadingTCPServer):
    """On a free port of 127.0.0.1 (`port`) while entered.

    `GET /N` sends N bytes, `PUT` counts the body, and stops half-way for a while if it goes to /stall.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, certificates: Certificates | None) -> None:
        """Bind at once; with certificates it speaks TLS only."""
        super().__init__(("127.0.0.1", 0), _StreamHandler)
        self.port = int(self.server_address[1])
        self.tls: ssl.SSLContext | None = None
        if certificates:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(certificates.server, certificates.server_key)
        self._thread = threading.Thread(target=self.serve_forever, name="streams", daemon=True)

    def __enter__(self) -> Self:
        """Start to serve."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop and close the listener."""
        self.shutdown()
        self._thread.join()
        self.server_close()
