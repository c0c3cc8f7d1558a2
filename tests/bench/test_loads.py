"""What the loads print, and what counts as a wrong answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import load
import peer
import pytest
from measure import Instance, check_answer, check_token, whole_seconds
from metadata_server import MetadataServer, make_token
from process import Process, RunError
from products import AUDIENCE, catalogue

WRK = """Running 1s test @ http://127.0.0.1:1/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.14ms  300us     2.03ms   80.00%
  Latency Distribution
     50%    1.14ms
     75%    1.30ms
     90%    1.50ms
     99%    1.06s\x20
  27102 requests in 1.01s, 29.00MB read
Requests/sec:  27102.00
"""


def test_what_wrk_prints() -> None:
    seen = load.parsed(WRK)
    assert (seen.requests, seen.seconds) == (27_102, 1.01)
    assert (seen.p50, seen.p99) == pytest.approx((1140, 1_060_000))


@pytest.mark.parametrize(
    "output",
    [
        pytest.param(WRK + "  Non-2xx or 3xx responses: 1\n", id="a wrong status"),
        pytest.param(
            WRK + "  Socket errors: connect 0, read 1, write 0, timeout 0\n", id="a lost connection"
        ),
        pytest.param(WRK.replace("27102 requests in", "0 requests in"), id="nothing"),
        pytest.param("unable to connect", id="no report"),
    ],
)
def test_one_failed_request_makes_a_load_worthless(output: str) -> None:
    with pytest.raises(RunError):
        load.parsed(output)


def test_what_a_load_of_our_own_prints() -> None:
    assert peer.parsed('{"events": 5000}\n') == {"events": 5000.0}
    for said in ("", "ready\n", "[1]"):
        with pytest.raises(RunError, match="no counts"):
            peer.parsed(said)


class Contender(BaseHTTPRequestHandler):
    """Answers as its server was told to."""

    def do_GET(self) -> None:
        self._answer(cast(Any, self.server).answer)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(cast(Any, self.server).answer)

    def _answer(self, answer: load.Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """A contender on a port of 127.0.0.1."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Contender) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def answering(server: ThreadingHTTPServer, status: int, body: bytes) -> Instance:
    """As if it were a product that runs."""
    cast(Any, server).answer = load.Answer(status, body)
    product = catalogue(envoy="", go="", sidecar_command="", earlier=None)[0]
    return Instance(
        product, cast(Process, None), server.server_address[1], 0, cast(MetadataServer, None), answered=0.0
    )


@pytest.mark.parametrize(
    ("status", "body", "wrong"),
    [
        pytest.param(200, b"x" * 1024, False, id="right"),
        pytest.param(200, b"x" * 1023, True, id="too short"),
        pytest.param(503, b"x" * 1024, True, id="a wrong status"),
    ],
)
def test_an_answer_has_its_status_and_length(
    server: ThreadingHTTPServer, status: int, body: bytes, wrong: bool
) -> None:
    instance = answering(server, status, body)
    if wrong:
        with pytest.raises(RunError, match="answered / with"):
            check_answer(instance, "/", 1024)
    else:
        check_answer(instance, "/", 1024)


@pytest.mark.parametrize(
    ("counted", "wrong"), [(b"65536", False), (b"65535", True)], ids=["all of it", "less"]
)
def test_an_upload_arrives_whole(server: ThreadingHTTPServer, counted: bytes, wrong: bool) -> None:
    instance = answering(server, 200, counted)
    if wrong:
        with pytest.raises(RunError, match="answered an upload with 200 b'65535'"):
            check_answer(instance, "/count", 0, upload=65_536)
    else:
        check_answer(instance, "/count", 0, upload=65_536)


@pytest.mark.parametrize(
    ("header", "wrong"),
    [
        pytest.param(f"Bearer {make_token(AUDIENCE)}", False, id="right"),
        pytest.param(f"Bearer {make_token('https://other.example')}", True, id="another audience"),
        pytest.param("Bearer opaque", True, id="no JWT"),
        pytest.param("", True, id="none"),
    ],
)
def test_the_token_is_at_the_target(server: ThreadingHTTPServer, header: str, wrong: bool) -> None:
    instance = answering(server, 200, header.encode())
    if wrong:
        with pytest.raises(RunError, match=f"sends no token for {AUDIENCE}"):
            check_token(instance)
    else:
        check_token(instance)


@pytest.mark.parametrize(
    ("requests", "seconds"), [(27_102, 1), (100_000, 4), (10**9, 30)], ids=["a part", "more", "a slow start"]
)
def test_a_round_lasts_whole_seconds(requests: int, seconds: int) -> None:
    """A first second in which little came must not make a round of minutes."""
    warm = load.Load(requests=27_102, seconds=1.0, p50=1, p99=2)
    assert whole_seconds(warm, requests) == seconds
