"""A world with a resolver of the test's own: run in fresh network and mount namespaces, with a directory as argument.

It brings up loopback, puts its resolv.conf over the machine's, answers DNS on 127.0.0.1:53, serves HTTP on some
loopback addresses, leaves one dead, and starts the sidecar on a Unix socket in the directory. On stdin it takes one JSON
object a line, name -> list of addresses, "servfail", "nxdomain" or "silent", and answers `ok` with the number of
questions so far for each name.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

PORT = 8080
DEAD = "127.0.0.9"
ALIVE = ("127.0.0.1", "127.0.0.2")

answers: dict[str, list[str] | str] = {}
asked: Counter[str] = Counter()


def answer_dns(server: socket.socket) -> None:
    """A and nothing else; RFC 1035 section 4."""
    while True:
        query, client = server.recvfrom(512)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12 : at + 5]
        is_a = question[-4:] == b"\x00\x01\x00\x01"
        name = ".".join(labels)
        known = answers.get(name, "nxdomain")
        if is_a:
            asked[name] += 1
        if known == "silent":
            continue
        code = {"servfail": 2, "nxdomain": 3}.get(known, 0) if isinstance(known, str) else 0
        found = known if is_a and isinstance(known, list) else []
        records = b"".join(
            b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04" + socket.inet_aton(one) for one in found
        )
        counts = b"\x00\x01" + len(found).to_bytes(2, "big") + bytes(4)
        server.sendto(query[:2] + bytes((0x81, 0x80 | code)) + counts + question + records, client)


def serve_http(server: socket.socket, address: str) -> None:
    """Each answer on a connection of its own, with the address it came from."""
    body = address.encode()
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    while True:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data and (piece := connection.recv(4096)):
                data += piece
            if data:
                connection.sendall(head + body)


def main(directory: Path) -> None:
    """Set the world up, start the sidecar, take orders."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    (directory / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:3 attempts:1\n")
    subprocess.run(["mount", "--bind", directory / "resolv.conf", "/etc/resolv.conf"], check=True)
    dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    dns.bind(("127.0.0.1", 53))
    threading.Thread(target=answer_dns, args=(dns,), daemon=True).start()
    for address in ALIVE:
        server = socket.create_server((address, PORT), backlog=100)
        threading.Thread(target=serve_http, args=(server, address), daemon=True).start()
    # Its queue is full, so that the kernel drops what comes.
    kept = [socket.create_server((DEAD, PORT), backlog=0)]
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        with suppress(BlockingIOError):
            filler.connect((DEAD, PORT))
        kept.append(filler)
    sidecar = subprocess.Popen(
        [sys.executable, "-m", "sidecar", "run", "--config", str(directory / "config.yaml")],
        stdout=sys.stderr,
    )
    try:
        for line in sys.stdin:
            answers.update(json.loads(line))
            print("ok", json.dumps(asked), flush=True)
    finally:
        sidecar.kill()
        sidecar.wait()
        for one in kept:
            one.close()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main(Path(sys.argv[1]))
