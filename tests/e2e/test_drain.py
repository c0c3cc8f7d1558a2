"""SIGTERM while clients with keep-alive connections go on asking: none of their requests is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from sidecar.emulator.app import Emulator
from tests.support.sampling import sampled
from tests.support.sidecar import LIMIT, Start, ask, clean_environment

CLIENTS = 50
REQUESTS = 40
"""Of each client, on one connection, with 20 ms between them: at any moment most of the connections are idle."""

PYTHON = """
import http.client, json, sys, threading, time
port, clients, requests = map(int, sys.argv[1:])
lock = threading.Lock()
report = {"answered": 0, "told": 0, "refused": 0, "lost": []}

def client():
    connection = None
    for _ in range(requests):
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.connect()
            except ConnectionRefusedError:
                with lock:
                    report["refused"] += 1
                return
        try:
            connection.request("POST", "/x", b"abc", {"Host": "billing.localhost"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            with lock:
                report["lost"].append(repr(error))
            connection = None
            continue
        with lock:
            report["answered"] += 1
            if answer.status != 200:
                report["lost"].append(answer.status)
            if answer.will_close:
                report["told"] += 1
            print(".", flush=True)
        if answer.will_close:
            connection.close()
            connection = None
        time.sleep(0.02)

threads = [threading.Thread(target=client) for _ in range(clients)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(report), flush=True)
"""

NODE = """
const http = require('http');
const [port, clients, requests] = process.argv.slice(1).map(Number);
const report = {answered: 0, told: 0, refused: 0, lost: []};
const ask = (agent) => new Promise((resolve) => {
  const headers = {Host: 'billing.localhost', 'Content-Length': 3};
  const request = http.request({agent, host: '127.0.0.1', port, method: 'POST', path: '/x', headers}, (answer) => {
    answer.on('data', () => {}).on('error', (error) => { report.lost.push(String(error)); resolve(true); });
    answer.on('end', () => {
      report.answered += 1;
      if (answer.statusCode !== 200) report.lost.push(answer.statusCode);
      if (answer.headers.connection === 'close') report.told += 1;
      console.log('.');
      setTimeout(resolve, 20, true);
    });
  });
  request.on('error', (error) => {
    if (error.code === 'ECONNREFUSED') { report.refused += 1; resolve(false); }
    else { report.lost.push(String(error)); resolve(true); }
  });
  request.end('abc');
});
const client = async () => {
  const agent = new http.Agent({keepAlive: true, maxSockets: 1});
  for (let i = 0; i < requests && await ask(agent); i++);
  agent.destroy();
};
Promise.all(Array.from({length: clients}, client)).then(() => console.log(JSON.stringify(report)));
"""

GO = """
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

type Report struct {
	Answered int      `json:"answered"`
	Told     int      `json:"told"`
	Refused  int      `json:"refused"`
	Lost     []string `json:"lost"`
}

func main() {
	clients, _ := strconv.Atoi(os.Args[2])
	requests, _ := strconv.Atoi(os.Args[3])
	report := Report{Lost: []string{}}
	var lock sync.Mutex
	var all sync.WaitGroup
	for i := 0; i < clients; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
			for j := 0; j < requests; j++ {
				request, _ := http.NewRequest("POST", "http://127.0.0.1:"+os.Args[1]+"/x", strings.NewReader("abc"))
				request.Host = "billing.localhost"
				answer, err := client.Do(request)
				if err == nil {
					_, err = io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
				}
				lock.Lock()
				if errors.Is(err, syscall.ECONNREFUSED) {
					report.Refused++
					lock.Unlock()
					return
				} else if err != nil {
					report.Lost = append(report.Lost, err.Error())
				} else {
					report.Answered++
					if answer.StatusCode != 200 {
						report.Lost = append(report.Lost, answer.Status)
					}
					if answer.Close {
						report.Told++
					}
					fmt.Println(".")
				}
				lock.Unlock()
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	all.Wait()
	text, _ := json.Marshal(report)
	fmt.Println(string(text))
}
"""


async def client_command(language: str, directory: Path) -> list[str]:
    """How to run the clients of a language; skips the test where it is not installed."""
    if language == "python":
        return [sys.executable, "-c", PYTHON]
    if (program := shutil.which(language)) is None:
        pytest.skip(f"{language} is not installed here: `make test-all` installs it")
    if language == "node":
        return [program, "-e", NODE]
    source = directory / "main.go"
    source.write_text(GO)
    # Compiled before anything is timed: on a busy machine that takes a minute.
    compiler = await asyncio.create_subprocess_exec(
        *(program, "build", "-o", str(directory / "clients"), str(source)),
        env=clean_environment(GO111MODULE="off"),
    )
    assert await compiler.wait() == 0
    return [str(directory / "clients")]


@pytest.mark.slow
@pytest.mark.parametrize("language", sampled(("python", "node", "go"), ["python"]))
async def test_no_request_is_lost_on_sigterm(
    google: Emulator, start: Start, tmp_path: Path, language: str
) -> None:
    """By the defaults, and with POSTs, which clients don't send again: each is answered, and the answers say that the
    connection closes. Where the machine is so busy that `drain.min` is over before the last of them, clients are refused
    a connection: then nothing was sent."""
    command = await client_command(language, tmp_path)
    billing = await google.add_target("billing")
    sidecar = await start(f"routes:\n  - {{name: billing, upstream: '{billing.url}'}}")
    clients = await asyncio.create_subprocess_exec(
        *(*command, str(sidecar.port), str(CLIENTS), str(REQUESTS)),
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    assert clients.stdout is not None
    async with asyncio.timeout(LIMIT):
        for _ in range(CLIENTS * REQUESTS // 2):
            assert await clients.stdout.readline() == b".\n"
        sidecar.send_signal(signal.SIGTERM)
        rest = (await clients.stdout.read()).decode().split("\n")
        assert await clients.wait() == 0
    report: dict[str, Any] = json.loads(rest[-2])
    assert report["lost"] == []
    assert report["told"] >= CLIENTS - report["refused"]
    assert report["answered"] == CLIENTS * REQUESTS or report["refused"]
    assert await sidecar.ended() == 0


async def test_a_late_request_on_an_idle_connection_is_served(google: Emulator, start: Start) -> None:
    """After the listeners have closed, too: a client may have sent it before it could know."""
    billing = await google.add_target("billing")
    sidecar = await start(
        f"drain: {{min: 0s, max: 1h}}\nroutes:\n  - {{name: billing, upstream: '{billing.url}'}}"
    )
    request = b"POST /x HTTP/1.1\r\nHost: billing.localhost\r\nContent-Length: 0\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    for last in (False, True):
        if last:
            sidecar.send_signal(signal.SIGTERM)
            await sidecar.logged("draining")
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200 ")
        assert ("Connection: close" in head) is last
        if last:
            assert await reader.read()
        else:
            await reader.readexactly(int(head.lower().partition("content-length: ")[2].split("\r\n")[0]))
    writer.close()
    assert await sidecar.ended() == 0


async def test_answers_say_that_the_connection_closes_while_new_ones_are_accepted(
    google: Emulator, start: Start
) -> None:
    """From the signal on, the sidecar's own answers too."""
    billing = await google.add_target("billing")
    sidecar = await start(
        f"drain: {{min: 1h, max: 1h}}\nroutes:\n  - {{name: billing, upstream: '{billing.url}'}}"
    )
    sidecar.send_signal(signal.SIGTERM)
    await sidecar.logged("draining")
    for host, status in (("billing.localhost", b"200"), ("other.example", b"404")):
        reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"\r\nConnection: close\r\n" in answer
        writer.close()
    await ask(sidecar.admin_port, "POST", "/quit")
    assert await sidecar.ended() == 0
