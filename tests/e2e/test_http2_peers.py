"""HTTP/2 with clients and servers that know nothing of the sidecar: curl, nghttp, httpx, nghttpd, Node's and Go's."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.keys import Authority
from tests.clients.libraries import GOCODE
from tests.conformance.http2.target import Connection, Request, Target
from tests.support.h2_frames import data, headers
from tests.support.h2_proxies import wait_listening
from tests.support.sidecar import LIMIT, Sidecar, Start, free_port

HOST = "billing.internal"
BODY = bytes(range(256)) * 4096


def config(port: int) -> str:
    return (
        f"routes:\n- name: billing\n  host: {HOST}\n  upstream: http://127.0.0.1:{port}\n"
        "  audience: https://billing.example\n  protocol: http2\n"
    )


def program(name: str) -> str:
    """Where it is; skips where it is not installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


async def run(*command: str) -> bytes:
    """What a program prints."""
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    async with asyncio.timeout(LIMIT):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out


def echo(connection: Connection, request: Request) -> None:
    """How long the body was."""
    size = b"%d" % len(request.body)
    connection.send(headers(request.stream, [(b":status", b"200")], end=False) + data(request.stream, size))


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as made:
        made.answer = echo
        yield made


def judge(target: Target, size: int) -> None:
    """One request came, with the token and all of its body."""
    assert target.ambiguous == []
    (request,) = target.requests
    assert len(request.body) == size
    assert request.all(b"authorization")[0].startswith(b"Bearer ")


async def test_curl(start: Start, target: Target, tmp_path: Path) -> None:
    """With prior knowledge, and with a body of a megabyte."""
    curl = program("curl")
    if b"HTTP2" not in await run(curl, "--version"):
        pytest.skip("this curl has no HTTP/2")
    sidecar = await start(config(target.port))
    (tmp_path / "body").write_bytes(BODY)
    out = await run(
        *(curl, "--silent", "--noproxy", "*", "--http2-prior-knowledge", "--header", f"Host: {HOST}"),
        *("--data-binary", f"@{tmp_path / 'body'}", "--write-out", " %{http_version} %{response_code}"),
        f"http://127.0.0.1:{sidecar.port}/x",
    )
    assert out.decode() == f"{len(BODY)} 2 200"
    judge(target, len(BODY))


async def test_curl_by_alpn(start: Start, target: Target, tmp_path: Path) -> None:
    """A listener with a certificate offers HTTP/2, and curl takes it without being told."""
    curl = program("curl")
    if b"HTTP2" not in await run(curl, "--version"):
        pytest.skip("this curl has no HTTP/2")
    authority, both = Authority(), tmp_path / "listener.pem"
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    both.touch(mode=0o600)
    both.write_bytes(authority.issue((HOST,)))
    listen = f"{{address: 'localhost:0', tls: {{cert_file: {both}, key_file: {both}}}}}"
    sidecar = await start(config(target.port) + f"  listen: {listen}\n")
    (entry,) = (await sidecar.status())["routes"]
    use = next(way["use"] for way in entry["ways_in"] if way["kind"] == "listen")
    port = use.rstrip("/").rpartition(":")[2]
    out = await run(
        *(curl, "--silent", "--noproxy", "*", "--cacert", str(tmp_path / "ca.pem")),
        *(
            "--resolve",
            f"{HOST}:{port}:127.0.0.1",
            "--write-out",
            " %{http_version} %{response_code}",
        ),
        f"https://{HOST}:{port}/x",
    )
    assert out.decode() == "0 2 200"
    judge(target, 0)


NODE_CLIENT = """
const session = require("http2").connect(process.argv[1]);
let left = 20;
for (let i = 0; i < 20; i++) {
  const request = session.request({ ":method": "POST", ":path": "/x", ":authority": process.argv[2] });
  let body = "";
  request.on("response", (headers) => { body = headers[":status"] + " "; });
  request.on("data", (piece) => { body += piece; });
  request.on("end", () => { console.log(body); if (!--left) session.close(); });
  request.end(Buffer.alloc(70000));
}
"""


async def test_nodes_client(start: Start, target: Target) -> None:
    """Twenty bodies at once on one connection, each larger than a window."""
    node = program("node")
    sidecar = await start(config(target.port))
    out = await run(node, "-e", NODE_CLIENT, f"http://127.0.0.1:{sidecar.port}", HOST)
    assert out.decode().split("\n") == [*["200 70000"] * 20, ""]
    assert len(target.requests) == 20
    assert target.ambiguous == []


GO = """
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

func echo(w http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	w.Header().Set("Trailer", "X-Sum")
	fmt.Fprintf(w, "%s %d %s", r.Proto, n, r.Header.Get("Authorization")[:6])
	w.Header().Set("X-Sum", fmt.Sprint(n))
}

func serve(port string) {
	handler := h2c.NewHandler(http.HandlerFunc(echo), &http2.Server{})
	panic(http.ListenAndServe("127.0.0.1:"+port, handler))
}

func ask(address string, host string) {
	client := http.Client{Transport: &http2.Transport{
		AllowHTTP: true,
		DialTLS: func(network, _ string, _ *tls.Config) (net.Conn, error) { return net.Dial(network, address) },
	}}
	request, _ := http.NewRequest("POST", "http://"+host+"/x", strings.NewReader(strings.Repeat("x", 1<<20)))
	answer, err := client.Do(request)
	if err != nil {
		panic(err)
	}
	body, err := io.ReadAll(answer.Body)
	fmt.Println(answer.Proto, answer.StatusCode, string(body), answer.Trailer.Get("X-Sum"), err)
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2])
	} else {
		ask(os.Args[2], os.Args[3])
	}
}
"""


@pytest.mark.test_all
async def test_go_on_both_sides(start: Start, google: Emulator, tmp_path: Path) -> None:
    """Its client and its server (golang.org/x/net/http2): a megabyte, an answer of unknown length, and a trailer."""
    go, port = program("go"), free_port()
    if not (GOCODE / "src/golang.org/x/net/http2").exists():
        pytest.skip("Debian's golang-golang-x-net-dev is not installed")
    (tmp_path / "main.go").write_text(GO)
    binary = str(tmp_path / "peer")
    environ = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOCODE), "GOFLAGS": "-p=2"}
    built = subprocess.run(  # noqa: ASYNC221  # nothing else goes on
        [go, "build", "-o", binary, str(tmp_path / "main.go")], env=environ, capture_output=True, check=False
    )
    assert built.returncode == 0, built.stderr.decode()
    with serving([binary, "serve", str(port)], port):
        sidecar = await start(config(port))
        out = await run(binary, "ask", f"127.0.0.1:{sidecar.port}", HOST)
    assert out.decode() == "HTTP/2.0 200 HTTP/2.0 1048576 Bearer 1048576 <nil>\n"


async def test_nghttp(start: Start, target: Target, tmp_path: Path) -> None:
    nghttp = program("nghttp")
    sidecar = await start(config(target.port))
    (tmp_path / "body").write_bytes(BODY)
    out = await run(
        *(nghttp, "--header", f":authority: {HOST}", "--data", str(tmp_path / "body")),
        f"http://127.0.0.1:{sidecar.port}/x",
    )
    assert out.decode().strip() == str(len(BODY))
    judge(target, len(BODY))


async def test_h2load(start: Start, target: Target) -> None:
    """A thousand requests, many at once."""
    h2load = program("h2load")
    sidecar = await start(config(target.port))
    out = await run(
        *(h2load, "-n", "1000", "-c", "4", "-m", "32", "-H", f":authority: {HOST}"),
        f"http://127.0.0.1:{sidecar.port}/x",
    )
    assert b"1000 succeeded, 0 failed" in out
    assert b"status codes: 1000 2xx" in out
    assert len(target.requests) == 1000
    assert target.ambiguous == []


async def test_httpx(start: Start, target: Target) -> None:
    sidecar = await start(config(target.port))
    async with httpx.AsyncClient(http1=False, http2=True, trust_env=False) as client:
        url = f"http://127.0.0.1:{sidecar.port}/x"
        answer = await client.post(url, content=BODY, headers={"Host": HOST}, timeout=LIMIT)
    assert (answer.status_code, answer.http_version, answer.text) == (200, "HTTP/2", str(len(BODY)))
    judge(target, len(BODY))
    route, _ = (await sidecar.status())["traffic"]["routes"]
    assert (route["requests"], route["http2"]) == (1, 1)
    links = {"http1": {"busy": 0, "idle": 0}, "http2": {"busy": 0, "idle": 1, "streams": 0}}
    assert route["links"] == links


@contextmanager
def serving(command: list[str], port: int) -> Iterator[None]:
    """A server's process, once it listens."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_listening(process, port)
        yield
    finally:
        process.kill()
        process.wait()


async def fetched(sidecar: Sidecar, path: str) -> httpx.Response:
    """By HTTP/1.1, as most apps ask."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(
            f"http://127.0.0.1:{sidecar.port}{path}", headers={"Host": HOST}, timeout=LIMIT
        )


async def test_nghttpd(start: Start, tmp_path: Path) -> None:
    nghttpd, port = program("nghttpd"), free_port()
    (tmp_path / "file").write_bytes(BODY)
    with serving([nghttpd, "--no-tls", "-a", "127.0.0.1", "-d", str(tmp_path), str(port)], port):
        answer = await fetched(await start(config(port)), "/file")
    assert (answer.status_code, answer.content) == (200, BODY)


NODE = """
require("http2").createServer((request, answer) => {
  answer.writeHead(200, { "x-authorization": request.headers.authorization.slice(0, 6) });
  answer.end(`${request.httpVersion} ${request.url} ${request.authority}`);
}).listen(+process.argv[1], "127.0.0.1");
"""


async def test_node(start: Start, google: Emulator) -> None:
    """Node's own server; the authority that it is given is the target's."""
    node, port = program("node"), free_port()
    with serving([node, "-e", NODE, str(port)], port):
        answer = await fetched(await start(config(port)), "/x?y")
    assert answer.text == f"2.0 /x?y 127.0.0.1:{port}"
    assert answer.headers["x-authorization"] == "Bearer"
