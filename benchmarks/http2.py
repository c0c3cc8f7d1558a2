"""HTTP/2 and gRPC: what a request, a call, a message and a GiB cost, each product before the same upstream.

Owns: the rows of this part, their loads and their upstreams.
Called by: run.
May not: print results or judge them (report does).
Rule: products take turns within a round, as for small requests. nginx has no HTTP/2 to its upstream, so the floor is nghttpx.
"""

import json
import re
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import load
from machine import say
from measure import Bench, Instance, size
from metadata_server import audience_of
from process import Process, RunError, free_port, wait_listening
from products import AUDIENCE, PYTHON
from upstream import BODY, Certificates, nginx_prelude

CONNECTIONS = 4
"""Of h2load."""
STREAM_FILE = "stream"
DRIVER = Path(__file__).with_name("grpc_driver.py")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    unit: str
    """What is counted."""
    limit: float | None
    """Of the ratio to Envoy, that the project set itself."""


ROWS = {
    "h2c m=32": Row("1 kB, 32 at once on a connection, plain upstream", "request", 1.4),
    "h2c m=1": Row("1 kB, one at a time on a connection, plain upstream", "request", 1.1),
    "tls m=32": Row("1 kB, 32 at once on a connection, TLS upstream", "request", 1.4),
    "tls m=1": Row("1 kB, one at a time on a connection, TLS upstream", "request", 1.1),
    "grpc 1": Row("grpcio, unary calls, one at a time", "call", None),
    "grpc 8": Row("grpcio, unary calls, 8 at once", "call", 0.9),
    "grpc bidi": Row("grpcio, messages of one stream, there and back", "message", None),
    "stream plain": Row("a download, plain upstream", "MiB", 1.3),
    "stream tls": Row("a download, TLS upstream", "MiB", 1.8),
}


@dataclass
class Costs:
    """Microseconds of the product's CPU for each unit, round by round, by product and row."""

    rounds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, product: str, row: str, seconds: float, units: int) -> None:
        """One round."""
        self.rounds.setdefault((product, row), []).append(seconds * 1e6 / units)

    def ratio(self, row: str) -> float | None:
        """Median over the rounds of the sidecar's cost divided by Envoy's; None when one didn't run."""
        own, other = self.rounds.get(("sidecar", row)), self.rounds.get(("envoy", row))
        if not own or not other:
            return None
        return statistics.median(mine / theirs for mine, theirs in zip(own, other, strict=True))


class Http2Bench:
    """This part of a run."""

    def __init__(self, bench: Bench, *, rounds: int, requests: int, stream_rounds: int) -> None:
        """`requests` are those of a round; calls and messages are a tenth of it."""
        self._bench = bench
        self._rounds, self._requests, self._stream_rounds = rounds, requests, stream_rounds
        self.costs = Costs()

    def requests(self, *, tls: bool) -> None:
        """Small requests, many and one at a time."""
        kind = "tls" if tls else "h2c"
        say(f"HTTP/2: small requests, {'TLS' if tls else 'plain'} upstream")
        with nginx(self._bench) as upstream, self._instances(upstream, tls=tls) as instances:
            for instance in instances:
                h2load(instance.port, self._requests // 10, 32, self._bench.cores.load)
            for _ in range(self._rounds):
                for row, at_once, count in (
                    (f"{kind} m=32", 32, self._requests),
                    (f"{kind} m=1", 1, self._requests // 4),
                ):
                    for instance in instances:
                        port, cores = instance.port, self._bench.cores.load
                        self._measure(
                            instance, row, lambda p=port, n=count, m=at_once, c=cores: h2load(p, n, m, c)
                        )

    def calls(self) -> None:
        """gRPC, with grpcio on both sides."""
        say("HTTP/2: gRPC")
        with grpc_server(self._bench) as port:
            self._calls(port)

    def _calls(self, upstream: int) -> None:
        with self._instances({False: upstream}, tls=False, first=None) as instances:
            for instance in instances:
                grpc_client(instance.port, "unary", 8, 200, self._bench.cores.load)
            for _ in range(self._rounds):
                for row, kind, at_once in (
                    ("grpc 1", "unary", 1),
                    ("grpc 8", "unary", 8),
                    ("grpc bidi", "bidi", 1),
                ):
                    for instance in instances:
                        port, cores, count = instance.port, self._bench.cores.load, self._requests // 10
                        self._measure(
                            instance,
                            row,
                            lambda p=port, k=kind, n=at_once, many=count, c=cores: grpc_client(
                                p, k, n, many, c
                            ),
                        )

    def streams(self, length: int, *, tls: bool) -> None:
        """One large answer, through curl."""
        row = f"stream {'tls' if tls else 'plain'}"
        say(f"HTTP/2: downloads of {size(length)}, {'TLS' if tls else 'plain'} upstream")
        with nginx(self._bench, length) as upstream, self._instances(upstream, tls=tls) as instances:
            for _ in range(self._stream_rounds):
                for instance in instances:
                    port, cores = instance.port, self._bench.cores.load
                    self._measure(instance, row, lambda p=port, c=cores: curl(p, length, c))

    def _measure(self, instance: Instance, row: str, transfer: Callable[[], int]) -> None:
        before = instance.process.cpu_seconds()
        units = transfer()
        used = instance.process.cpu_seconds() - before
        self.costs.add(instance.product.name, row, used, units)
        say(f"  {row}: {instance.product.name} {used * 1e6 / units:.1f} µs a {ROWS[row].unit}")

    @contextmanager
    def _instances(
        self, upstream: dict[bool, int], *, tls: bool, first: str | None = "/authorization"
    ) -> Iterator[list[Instance]]:
        with ExitStack() as stack:
            made = [
                stack.enter_context(
                    self._bench.instance(product, upstream[tls], tls=tls, first=first, http2=True)
                )
                for product in self._bench.products
                if product.http2
            ]
            if first is not None:
                for instance in made:
                    answer = load.get(instance.port, first)
                    if audience_of(answer.body.decode().removeprefix("Bearer ")) != AUDIENCE:
                        raise RunError(f"{instance.product.title} sends no token for {AUDIENCE}")
            yield made


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
            *("-H", f":authority: {load.HOST}", f"http://127.0.0.1:{port}/"),
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
            *("--http2-prior-knowledge", "--output", "/dev/null", "--header", f"Host: {load.HOST}"),
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
            *("call", str(port), load.HOST, kind, str(at_once), str(count)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(f"gRPC calls on port {port} failed:\n{done.stderr[-1500:]}")
    return int(json.loads(done.stdout)["done"])
