"""Clients that know nothing of it, through the ways that they can use."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path

import aiohttp
import httpx
import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.targets import Target
from tests.support.sidecar import Sidecar, Start, clean_environment


@pytest.fixture
async def billing(google: Emulator) -> Target:
    """A target that verifies."""
    return await google.add_target("billing")


@pytest.fixture
async def sidecar(start: Start, billing: Target) -> Sidecar:
    """A sidecar with every way in to it."""
    return await start(
        f"routes:\n  - {{name: billing, host: billing.internal, upstream: '{billing.url}', path_prefix: /billing, listen: localhost:0}}"
    )


async def run(*command: str, **environ: str) -> str:
    """A command's output; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(**environ),
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def verified(text: str, billing: Target) -> dict[str, object]:
    """The echo of a call, which the target must have verified."""
    echo: dict[str, object] = json.loads(text)
    assert echo["verified"]["audience"] == billing.url  # type: ignore[index]  # the target's own JSON
    return echo


REQUESTS = """
import json, os, sys
import requests
base, prefix, proxied = sys.argv[1:]
session = requests.Session()
for url, headers in ((base + "/x", {"Host": "billing.internal"}), (prefix + "/x", {}), (proxied, {})):
    answer = session.post(url, headers=headers, data=iter([b"ab", b"c"]))
    print(json.dumps(answer.json()))
"""


async def test_requests(sidecar: Sidecar, billing: Target) -> None:
    """By Host, by prefix, and through HTTP_PROXY; a chunked body; one session."""
    out = await run(
        *(sys.executable, "-c", REQUESTS),
        f"http://localhost:{sidecar.port}",
        f"http://localhost:{sidecar.port}/billing",
        "http://billing.internal/x",
        HTTP_PROXY=f"http://localhost:{sidecar.port}",
        NO_PROXY="localhost",
    )
    for line in out.splitlines():
        assert verified(line, billing)["body_length"] == 3
    assert len(out.splitlines()) == 3


async def test_httpx(sidecar: Sidecar, billing: Target) -> None:
    """By name, by own listener, and as a proxy, over one client each."""
    port = await sidecar.own_port("billing")
    async with httpx.AsyncClient(trust_env=False) as client:
        for url, headers in (
            (f"http://localhost:{port}/x", {}),
            (f"http://127.0.0.1:{sidecar.port}/x", {"Host": "billing.localhost"}),
        ):
            for _ in range(3):
                verified((await client.post(url, headers=headers, content=b"abc")).text, billing)
    async with httpx.AsyncClient(proxy=f"http://localhost:{sidecar.port}", trust_env=False) as client:
        verified((await client.get("http://billing.internal/x")).text, billing)
        with pytest.raises(httpx.ProxyError, match="501"):
            await client.get("https://billing.internal/x")


async def test_aiohttp(sidecar: Sidecar, billing: Target) -> None:
    """Its client, as a proxy's and as a base URL's; a WebSocket; server-sent events one by one."""
    port = await sidecar.own_port("billing")
    async with aiohttp.ClientSession() as session:
        async with session.get(
            "http://billing.internal/x", proxy=f"http://localhost:{sidecar.port}"
        ) as answer:
            verified(await answer.text(), billing)
        async with session.ws_connect(f"http://localhost:{port}/ws") as socket:
            await socket.send_str("hello")
            assert (await socket.receive()).data == "hello"
            await socket.send_bytes(bytes(300_000))
            assert (await socket.receive()).data == bytes(300_000)
            await socket.close()
            assert socket.close_code == 1000
        async with session.get(f"http://localhost:{port}/sse?n=3") as answer:
            for number in range(3):
                billing.release()
                assert (
                    await answer.content.readuntil(b"\n\n")
                    == f"id: {number}\ndata: event {number}\n\n".encode()
                )
            assert await answer.content.read() == b""


async def test_curl(sidecar: Sidecar, billing: Target, tmp_path: Path) -> None:
    """By name (curl resolves *.localhost itself), upload with Expect, HEAD, and through its proxy option."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here")
    body = tmp_path / "body"
    body.write_bytes(bytes(2_000_000))
    base = f"http://billing.localhost:{sidecar.port}"
    echo = verified(
        await run("curl", "-sS", "--fail", "-T", str(body), "-H", "Expect: 100-continue", f"{base}/x"),
        billing,
    )
    assert echo["body_length"] == 2_000_000
    assert "200 OK" in await run("curl", "-sS", "--head", f"{base}/x")
    verified(
        await run(
            "curl",
            "-sS",
            "--fail",
            "--proxy",
            f"http://localhost:{sidecar.port}",
            "http://billing.internal/x",
        ),
        billing,
    )
    verified(await run("curl", "-sS", "--fail", "--http2", f"{base}/x", "-d", "a=b"), billing)


GO = """
package main

import ("fmt"; "io"; "net/http"; "os"; "strings")

func main() {
	for _, url := range os.Args[1:] {
		for i := 0; i < 3; i++ {
			answer, err := http.Post(url, "text/plain", strings.NewReader("abc"))
			if err != nil { panic(err) }
			body, err := io.ReadAll(answer.Body)
			if err != nil { panic(err) }
			fmt.Println(string(body))
		}
	}
}
"""


@pytest.mark.slow
async def test_go(sidecar: Sidecar, billing: Target, tmp_path: Path) -> None:
    """net/http, by own listener, by prefix and through HTTP_PROXY."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed here (Debian: apt install golang-go)")
    program = tmp_path / "main.go"
    program.write_text(GO)
    port = await sidecar.own_port("billing")
    out = await run(
        *(go, "run", str(program)),
        *(
            f"http://localhost:{port}/x",
            f"http://localhost:{sidecar.port}/billing/x",
            "http://billing.internal/x",
        ),
        HTTP_PROXY=f"http://localhost:{sidecar.port}",
        GOFLAGS="-mod=mod",
        GO111MODULE="off",
    )
    for line in out.splitlines():
        assert verified(line, billing)["body_length"] == 3
    assert len(out.splitlines()) == 9


NODE = """
const http = require('http');
const [port, own] = process.argv.slice(1);
const ask = (options) => new Promise((resolve, reject) => {
  const request = http.request({method: 'POST', path: '/x', ...options}, (answer) => {
    let text = '';
    answer.on('data', (piece) => text += piece).on('end', () => resolve(text));
  });
  request.on('error', reject).end('abc');
});
(async () => {
  console.log(await ask({host: 'localhost', port: own}));
  console.log(await ask({host: 'localhost', port, headers: {Host: 'billing.internal'}}));
})();
"""


async def test_node(sidecar: Sidecar, billing: Target) -> None:
    """Node tries ::1 first."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed here")
    out = await run("node", "-e", NODE, str(sidecar.port), str(await sidecar.own_port("billing")))
    for line in out.splitlines():
        assert verified(line, billing)["body_length"] == 3


async def test_a_browser_reaches_a_name_under_localhost(
    sidecar: Sidecar, billing: Target, tmp_path: Path
) -> None:
    """Typed into the address bar; Chromium resolves *.localhost itself."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed here")
    out = await run(
        *(
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ),
        *(
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            f"--user-data-dir={tmp_path / 'profile'}",
        ),
        *("--dump-dom", f"http://billing.localhost:{sidecar.port}/from-a-browser"),
    )
    assert "from-a-browser" in out
    assert billing.requests[-1].verified is not None


async def test_five_hundred_connections_at_once(sidecar: Sidecar, billing: Target) -> None:
    """None refused, none mixed up."""

    async def call(number: int) -> None:
        async with session.post(
            f"http://127.0.0.1:{sidecar.port}/n{number}",
            headers={"Host": "billing.internal"},
            data=b"%d" % number,
        ) as answer:
            echo = verified(await answer.text(), billing)
            assert (echo["path"], echo["body_length"]) == (f"/n{number}", len(str(number)))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(call(number) for number in range(500)))
        await asyncio.gather(*(call(number) for number in range(500)))
