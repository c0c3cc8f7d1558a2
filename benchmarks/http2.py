"""HTTP/2 and gRPC: what a request, a call, a message and a GiB cost, each product before the same upstream.

Owns: the loads and upstreams of this part.
Called by: run.
May not: print results or judge them (report does).
Rule: products take turns within a round. nginx has no HTTP/2 to its upstream, so the floor here is nghttpx.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from figures import size
from load import HOST
from machine import say
from measure import Bench, Instance
from process import Process, RunError, free_port, wait_listening
from products import PYTHON, Job
from upstream import BODY, Certificates, nginx_prelude

CONNECTIONS = 4
"""Of h2load."""
STREAM_FILE = "stream"
DRIVER = Path(__file__).with_name("grpc_driver.py")


class Http2Bench:
    """This part of a run."""

    def __init__(self, bench: Bench) -> None:
        """Calls and messages are a tenth of the requests of a round."""
        self._bench = bench
        self._rounds, self._requests = bench.plan.rounds, bench.plan.requests
        self._cores = bench.cores.load

    def requests(self, *, tls: bool) -> None:
        """Small requests, many and one at a time."""
        kind = "tls" if tls else "h2c"
        with nginx(self._bench) as upstream, self._field(upstream[tls], tls=tls) as instances:
            for instance in instances:
                with self._bench.judged(f"{kind} m=32", instance.product.name):
                    h2load(instance.port, self._requests // 10, 32, self._cores)
            for number in range(1, self._rounds + 1):
                say(f"HTTP/2, {'TLS' if tls else 'plain'} upstream: round {number} of {self._rounds}")
                for at_once, count in ((32, self._requests), (1, self._requests // 4)):
                    load = partial(h2load, count=count, at_once=at_once, cores=self._cores)
                    self._turn(f"{kind} m={at_once}", instances, load)

    def calls(self) -> None:
        """gRPC, with grpcio on both sides."""
        with grpc_server(self._bench) as port, self._field(port, first=None) as instances:
            for instance in [] if self._bench.plan.quick else instances:
                with self._bench.judged("grpc 8", instance.product.name):
                    grpc_client(instance.port, "unary", 8, 200, self._cores)
            for number in range(1, self._rounds + 1):
                say(f"HTTP/2, gRPC: round {number} of {self._rounds}")
                for row, kind, at_once in (
                    ("grpc 1", "unary", 1),
                    ("grpc 8", "unary", 8),
                    ("grpc bidi", "bidi", 1),
                ):
                    count = self._requests // 10
                    load = partial(grpc_client, kind=kind, at_once=at_once, count=count, cores=self._cores)
                    self._turn(row, instances, load)

    def streams(self, *, tls: bool) -> None:
        """One large answer, through curl, each product before it counts once: the file is read from memory."""
        length, rounds = self._bench.plan.stream_bytes, self._bench.plan.stream_rounds
        row = f"stream {'tls' if tls else 'plain'}"
        with nginx(self._bench, length) as upstream, self._field(upstream[tls], tls=tls) as instances:
            load = partial(curl, length=length, cores=self._cores)
            for instance in instances:
                with self._bench.judged(row, instance.product.name):
                    load(instance.port)
            for number in range(1, rounds + 1):
                say(
                    f"HTTP/2, downloads of {size(length)}, {'TLS' if tls else 'plain'}: round {number} of {rounds}"
                )
                self._turn(row, instances, load)

    def _field(
        self, port: int, *, tls: bool = False, first: str | None = "/authorization"
    ) -> AbstractContextManager[list[Instance]]:
        return self._bench.field("http2", port, tls=tls, first=first, job=Job(http2=True))

    def _turn(self, row: str, instances: Sequence[Instance], load: Callable[[int], int]) -> None:
        def take(instance: Instance) -> float:
            before = instance.process.cpu_seconds()
            units = load(instance.port)
            return (instance.process.cpu_seconds() - before) * 1e6 / units

        self._bench.turn(row, instances, take)


@contextmanager
def nginx(bench: Bench, length: int = 0) -> Iterator[dict[bool, int]]:
    """nginx that speaks HTTP/2 only: its ports, plain and TLS. It serves 1 kB, and a file of `length` bytes."""
    directory, certificates = bench.work / "upstream-http2", bench.certificates
    directory.mkdir(parents=True, exist_ok=True)
    ports = {False: free_port(), True: free_port()}
    with (directory / STREAM_FILE).open("wb") as file:
        file.truncate(length)
    config = directory / "nginx.conf"
    config.write_text(_nginx_config(directory, ports, certificates))
    argv = ["nginx", "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]
    with Process("the HTTP/2 upstream", argv, cores=bench.cores.load, directory=directory) as process:
        for port in ports.values():
            wait_listening(process, port)
        yield ports


def _nginx_config(directory: Path, ports: dict[bool, int], certificates: Certificates) -> str:
    return f"""{nginx_prelude(directory)}
    sendfile on;
    http2_max_concurrent_streams 1000;
    server {{
        listen 127.0.0.1:{ports[False]} http2 backlog=1024;
        listen 127.0.0.1:{ports[True]} ssl http2 backlog=1024;
        ssl_certificate {certificates.server};
        ssl_certificate_key {certificates.server_key};
        ssl_protocols TLSv1.2 TLSv1.3;
        default_type text/plain;
        if ($http_authorization !~ "^Bearer ") {{ return 403 "no bearer token\\n"; }}
        location = /authorization {{ return 200 $http_authorization; }}
        location = /{STREAM_FILE} {{ root {directory}; }}
        location / {{ return 200 {BODY}; }}
    }}
}}
"""


def h2load(port: int, count: int, at_once: int, cores: Sequence[int]) -> int:
    """So many requests on 4 connections; their number. RunError on a single error."""
    done = subprocess.run(
        [
            *("taskset", "--cpu-list", ",".join(map(str, cores)), "h2load"),
            *("-n", str(count), "-c", str(CONNECTIONS), "-m", str(at_once)),
            *("-H", f":authority: {HOST}", f"http://127.0.0.1:{port}/"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", done.stdout, re.MULTILINE)
    if found is None or int(found[1]) != count:
        raise RunError(f"h2load on port {port} failed:\n{done.stdout[-800:]}{done.stderr[-400:]}")
    return count


def curl(port: int, length: int, cores: Sequence[int]) -> int:
    """Download the file by HTTP/2; MiB. RunError unless all of it came."""
    done = subprocess.run(
        [
            *("taskset", "--cpu-list", ",".join(map(str, cores)), "curl", "--silent", "--noproxy", "*"),
            *("--http2-prior-knowledge", "--output", "/dev/null", "--header", f"Host: {HOST}"),
            *("--write-out", "%{http_version} %{response_code} %{size_download}"),
            f"http://127.0.0.1:{port}/{STREAM_FILE}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stdout != f"2 200 {length}":
        raise RunError(f"a download of {length} bytes gave {done.stdout!r} {done.stderr}")
    return length // 2**20


@contextmanager
def grpc_server(bench: Bench) -> Iterator[int]:
    """grpcio's server, in the product's environment: its port."""
    directory, port = bench.work / "upstream-grpc", free_port()
    directory.mkdir(parents=True, exist_ok=True)
    argv = [str(PYTHON), str(DRIVER), "serve", str(port)]
    with Process("the gRPC upstream", argv, cores=bench.cores.load, directory=directory) as process:
        wait_listening(process, port)
        yield port


def grpc_client(port: int, kind: str, at_once: int, count: int, cores: Sequence[int]) -> int:
    """So many calls, or messages of one stream; their number. RunError on a single error."""
    done = subprocess.run(
        [
            *("taskset", "--cpu-list", ",".join(map(str, cores)), str(PYTHON), str(DRIVER)),
            *("call", str(port), HOST, kind, str(at_once), str(count)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(f"gRPC calls on port {port} failed:\n{done.stderr[-1500:]}")
    return int(json.loads(done.stdout)["done"])
