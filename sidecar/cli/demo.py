"""`demo`: the whole job on this machine.

Starts the emulator in this process and a real sidecar in another, calls every way in (`demo_script`), makes gRPC
calls, and prints for each what was sent and what the target verified. Called by the `demo` command, by `make demo`,
and by CI, where its exit code says whether every call was verified. It never prints a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from sidecar.cli import grpc_call
from sidecar.cli.demo_script import Call, others, ways_in
from sidecar.emulator.app import Emulator
from sidecar.emulator.targets import Target
from sidecar.runtime.tasks import Tasks

TOKEN_LIFETIME: Final = 12.0
"""Seconds: short, so that you can watch a renewal."""
_START_LIMIT: Final = 30.0
_CALL_LIMIT: Final = 10.0
_RENEWAL_LIMIT: Final = 3 * TOKEN_LIFETIME


class Received(NamedTuple):
    """An HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Sidecar:
    """The sidecar's process and where it listens."""

    process: asyncio.subprocess.Process
    port: int
    admin: int
    own_port: int
    socket: str


def show_all(*, once: bool) -> int:
    """Run the demo; 0 if every call was verified."""
    try:
        return asyncio.run(_show(once=once))
    except KeyboardInterrupt:
        return 0


async def _show(*, once: bool) -> int:
    _say("idtoken-sidecar demo: the real sidecar, and an emulator of Google that really signs and verifies\n")
    with tempfile.TemporaryDirectory(prefix="idtoken-demo-") as directory:
        async with Emulator(token_lifetime=TOKEN_LIFETIME) as google:
            billing = await google.add_target("billing")
            reports = await google.add_target(
                "reports", kind="iap", audience="1234-demo.apps.googleusercontent.com"
            )
            secure = await google.add_target("secure", tls=True)
            ledger = await google.add_target("ledger", grpc=True)
            file = Path(directory) / "config.yaml"
            async with _sidecar(file, google, Path(directory)) as sidecar:
                _say(
                    f"  status page       http://localhost:{sidecar.admin}/   open it: it shows what follows"
                )
                _say(f"  sidecar           http://localhost:{sidecar.port}   ready")
                _say(
                    f"  metadata server   http://{google.metadata_address}   tokens live {TOKEN_LIFETIME:.0f} s here"
                )
                for target, kind in (
                    (billing, "Cloud Run"),
                    (reports, "IAP"),
                    (secure, "Cloud Run over TLS"),
                    (ledger, "Cloud Run in gRPC"),
                ):
                    _say(f"  {target.name:<17} {target.url}   {kind}, wants aud {target.audience}")
                _say("")
                good = await _calls(sidecar, billing, reports, secure)
                good = await _grpc_calls(sidecar.port, ledger) and good
                good = await _renewal(sidecar, billing) and good
                _say("every call was verified" if good else "NOT every call was verified")
                if not once:
                    await _stay(sidecar, file)
                return 0 if good else 1


@contextlib.asynccontextmanager
async def _sidecar(file: Path, google: Emulator, directory: Path) -> AsyncIterator[Sidecar]:
    """A sidecar in a process of its own, ready."""
    port_file = directory / "proxy.sock"
    file.write_text(_config(google, port_file), "utf-8")
    log = directory / "sidecar.log"
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sidecar", "run", "--config", str(file)),
            stdout=stream,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **google.environment()},
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(_START_LIMIT):
            addresses = await _listening(process, log)
            status = await _status_when_ready(_port(addresses["admin"][0]))
        own = next(
            use["use"] for route in status["routes"] for use in route["ways_in"] if use["kind"] == "listen"
        )
        yield Sidecar(
            process,
            _port(addresses["listen"][0]),
            _port(addresses["admin"][0]),
            _port(own.rstrip("/")),
            str(port_file),
        )
    except TimeoutError:
        _say(f"the sidecar was not ready after {_START_LIMIT:.0f} s; its log:\n{log.read_text('utf-8')}")
        raise SystemExit(1) from None
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _config(google: Emulator, socket: Path) -> str:
    billing, reports, secure, ledger = google.targets.values()
    return f"""\
listen: localhost:0
admin: localhost:0
log_format: json
drain: {{min: 0s}}
credentials:
  default: {{type: metadata}}
routes:
  - name: billing
    host: billing.internal
    upstream: {billing.url}
    path_prefix: /billing
    listen: [localhost:0, "unix:{socket}"]
  - name: reports
    host: reports.internal
    upstream: {reports.url}
    audience: {reports.audience}
    header: proxy-authorization
  - name: secure
    host: svc-abc123-uc.a.run.app
    upstream: {secure.url}
    tls: {{ca_file: "{google.ca_file}"}}
  - name: ledger
    host: ledger.internal
    upstream: {ledger.url}
    grpc: true
"""


async def _listening(process: asyncio.subprocess.Process, log: Path) -> dict[str, list[str]]:
    """The addresses that the sidecar reports once it listens."""
    while True:
        for line in log.read_text("utf-8").splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if "listen" in entry:
                return {name: entry[name] for name in ("listen", "admin")}
        if process.returncode is not None:
            _say(f"the sidecar ended with exit code {process.returncode}; its log:\n{log.read_text('utf-8')}")
            raise SystemExit(1)
        await asyncio.sleep(0.02)


async def _status_when_ready(admin: int) -> dict[str, Any]:
    while True:
        answer = await _ask(admin, ("GET /healthz/ready HTTP/1.1", f"Host: localhost:{admin}"))
        if answer.status == 200:
            break
        await asyncio.sleep(0.05)
    answer = await _ask(admin, ("GET /status.json HTTP/1.1", f"Host: localhost:{admin}"))
    status: dict[str, Any] = json.loads(answer.body)
    return status


# the calls


async def _calls(sidecar: Sidecar, billing: Target, reports: Target, secure: Target) -> bool:
    script = [
        *ways_in(sidecar.port, sidecar.own_port, sidecar.socket, billing),
        *others(sidecar.port, reports, secure),
    ]
    good = True
    for call in script:
        good = await _show_call(call) and good
    return good


async def _show_call(call: Call) -> bool:
    before = len(call.target.requests) if call.target is not None else 0
    answer = await _ask(call.port, call.lines)
    _say(f"  {call.title}\n      sent      {call.shown}")
    if call.target is None:
        problem = json.loads(answer.body)
        _say(f"      answered  {answer.status} {problem['reason']}: {problem['detail']}")
        return _tick(answer.status == call.status)
    good = _show_verified(call.target, before, str(answer.status))
    if good and (location := answer.headers.get("location")):
        _say(f"      Location  {location}")
    return _tick(good and answer.status == call.status)


def _show_verified(target: Target, before: int, answered: str) -> bool:
    """What the target verified in the last request. `before` is how many requests it had had, `answered` the status
    that the app got.
    """
    if len(target.requests) == before:
        _say(f"      answered  {answered}, and the request never reached {target.name}")
        return False
    verified = target.requests[-1].verified
    if verified is None:
        _say(f"      refused   by {target.name} with {answered}")
        return False
    _say(f"      verified  aud {verified.audience}")
    _say(f"                email {verified.email}, exp {verified.expires_at}, in {verified.header}")
    return True


async def _grpc_calls(port: int, ledger: Target) -> bool:
    """A call with one message, and one whose messages alternate in both directions."""
    good = True
    for title, method, words in (
        ("gRPC, unary", "Say", ("hello",)),
        ("gRPC, a stream in both directions", "Chat", ("one", "two", "three")),
    ):
        path, before = f"/emulator.v1.Echo/{method}", len(ledger.requests)
        # `message Message { string text = 1; }`
        sent = [bytes((0x0A, len(word))) + word.encode() for word in words]
        _say(f"  {title}\n      sent      {', '.join(words)} to {path} of ledger.internal")
        try:
            answer = await _call(port, path, sent)
        except OSError as error:
            _say(f"      answered  nothing whole ({error})")
            good = _tick(False)
            continue
        status = answer.status or f"HTTP {answer.http_status}"
        is_whole = _show_verified(ledger, before, status) and answer.messages == sent
        _say(f"      answered  {status}, {len(answer.messages)} of {len(sent)} messages came back")
        good = _tick(is_whole and status == "OK") and good
    return good


async def _renewal(sidecar: Sidecar, billing: Target) -> bool:
    """Calls continue until the target sees a token with a later expiry."""
    _say("  a token renewed ahead of its expiry, while calls go on")
    lines = ("GET /invoices HTTP/1.1", "Host: billing.internal")
    first, calls = 0, 0
    try:
        async with asyncio.timeout(_RENEWAL_LIMIT):
            while True:
                answer = await _ask(sidecar.port, lines)
                calls += 1
                verified = billing.requests[-1].verified
                if answer.status != 200 or verified is None:
                    _say(f"      a call was answered {answer.status}")
                    return _tick(False)
                first = first or verified.expires_at
                if verified.expires_at > first:
                    break
                await asyncio.sleep(0.05)
    except TimeoutError:
        _say(f"      no renewal within {_RENEWAL_LIMIT:.0f} s")
        return _tick(False)
    _say(
        f"      {calls} calls, all verified; exp went from {first} to {verified.expires_at} before {first} had come"
    )
    return _tick(True)


async def _stay(sidecar: Sidecar, file: Path) -> None:
    _say(
        f"""
  try it      curl http://localhost:{sidecar.port}/billing/hello
              curl --resolve billing.localhost:{sidecar.port}:127.0.0.1 http://billing.localhost:{sidecar.port}/hello
  status      http://localhost:{sidecar.admin}/
  metrics     http://localhost:{sidecar.admin}/metrics
  config      {file}

  Ctrl-C ends it."""
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    tasks = Tasks(loop)
    tasks.spawn(sidecar.process.wait(), name="the sidecar's end").add_done_callback(lambda _: stop.set())
    await stop.wait()
    await tasks.close()


# one request, and words


async def _ask(where: int | str, lines: tuple[str, ...]) -> Received:
    """One request on a new connection."""
    async with asyncio.timeout(_CALL_LIMIT):
        if isinstance(where, int):
            reader, writer = await asyncio.open_connection("127.0.0.1", where)
        else:
            reader, writer = await asyncio.open_unix_connection(where)
        try:
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
            raw = await reader.read()
        finally:
            writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return Received(int(first.split(" ")[1]), headers, body)


async def _call(port: int, path: str, messages: list[bytes]) -> grpc_call.CallAnswer:
    """One gRPC call on a new connection. Each message is sent when the answer to the one before has arrived."""
    async with asyncio.timeout(_CALL_LIMIT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await grpc_call.call(reader, writer, "ledger.internal", path, messages, in_turn=True)
        finally:
            writer.close()


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _tick(good: bool) -> bool:
    word = "ok" if good else "FAILED"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        word = f"\x1b[3{2 if good else 1}m{word}\x1b[0m"
    _say(f"      {word}\n")
    return good


def _say(text: str) -> None:
    print(text, flush=True)
