"""Start, readiness, drain, stop, and the commands that ask about them."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from itertools import product
from pathlib import Path

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from tests.support.forks import stand_in
from tests.support.sampling import sampled
from tests.support.sidecar import COMMAND, LIMIT, Sidecar, Start, ask, clean_environment, command


async def in_flight(sidecar: Sidecar) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An app's connection with an answer that has begun, and ends when the target is told to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(b"GET /sse?n=1 HTTP/1.1\r\nHost: billing.localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_finishes_what_is_in_flight_and_exits_0(
    google: Emulator, start: Start, number: signal.Signals
) -> None:
    """Unready at once, the answer in flight whole, its connection closed behind it, then the end."""
    billing = await google.add_target("billing")
    sidecar = await start(
        f"drain: {{min: 0s, max: 1h}}\nroutes:\n  - {{name: billing, upstream: '{billing.url}'}}"
    )
    reader, writer = await in_flight(sidecar)
    sidecar.send_signal(number)
    await sidecar.logged("draining")
    assert (await sidecar.admin("/healthz/ready"))[0] == 503
    assert (await sidecar.admin("/healthz/live"))[0] == 200
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", sidecar.port)
    status = await sidecar.status()
    assert (status["draining"], status["listen"][0]) == (True, f"127.0.0.1:{sidecar.port}")
    billing.release()
    assert (await reader.read()).endswith(b"\r\n0\r\n\r\n")
    writer.close()
    assert await sidecar.ended() == 0


async def test_a_drain_has_an_end(google: Emulator, start: Start) -> None:
    """After drain.max what is still open is closed, and the exit code is 0 all the same."""
    billing = await google.add_target("billing")
    sidecar = await start(f"drain: {{max: 100ms}}\nroutes:\n  - {{name: billing, upstream: '{billing.url}'}}")
    reader, writer = await in_flight(sidecar)
    sidecar.send_signal(signal.SIGTERM)
    assert await sidecar.ended() == 0
    assert b"0\r\n\r\n" not in await reader.read()
    writer.close()


async def test_a_second_signal_exits_at_once(google: Emulator, start: Start) -> None:
    """For a person who does not want to wait."""
    billing = await google.add_target("billing")
    sidecar = await start(f"drain: {{max: 1h}}\nroutes:\n  - {{name: billing, upstream: '{billing.url}'}}")
    _, writer = await in_flight(sidecar)
    sidecar.send_signal(signal.SIGINT)
    await sidecar.logged("draining")
    sidecar.send_signal(signal.SIGINT)
    assert await sidecar.ended() == 128 + signal.SIGINT
    writer.close()


@pytest.mark.slow
async def test_drain_min_goes_on_accepting(google: Emulator, start: Start) -> None:
    """The app may stop after the sidecar got its signal, and needs it until then."""
    billing = await google.add_target("billing")
    sidecar = await start(
        # Long beside what a request takes on a busy machine.
        f"drain: {{min: 4s, max: 5s}}\nroutes:\n  - {{name: billing, upstream: '{billing.url}'}}"
    )
    sidecar.send_signal(signal.SIGTERM)
    await sidecar.logged("draining")
    assert (await ask(sidecar.port, "GET", "/x", host="billing.localhost"))[0] == 200
    assert await sidecar.ended() == 0


async def test_it_starts_without_a_metadata_server_and_gets_ready_by_itself(
    google: Emulator, start: Start
) -> None:
    """As in a new GKE pod: unready with the reason, 503 for requests, then well, without a restart."""
    billing = await google.add_target("billing")
    await google.stop(google.metadata.app)
    sidecar = await start(f"routes:\n  - {{name: billing, upstream: '{billing.url}'}}", ready=False)
    await sidecar.logged("token fetch failed")
    status, text = await sidecar.admin("/healthz/ready")
    assert (status, "token_endpoint_unreachable" in text) == (503, True)
    assert (await sidecar.admin("/healthz/startup"))[0] == 503
    assert (await ask(sidecar.port, "GET", "/x", host="billing.localhost"))[0] == 503
    assert not billing.requests
    await google.start(google.metadata.app)
    await sidecar.ready()
    assert (await sidecar.admin("/healthz/startup"))[0] == 200
    assert (await ask(sidecar.port, "GET", "/x", host="billing.localhost"))[0] == 200


async def test_startup_wait_bounds_unreadiness(google: Emulator, start: Start) -> None:
    """One route's credential must not keep the others' traffic away forever."""
    billing = await google.add_target("billing")
    google.metadata.endpoint.fail(Fault("status", code=500))
    sidecar = await start(f"startup_wait: 300ms\nroutes:\n  - {{name: billing, upstream: '{billing.url}'}}")
    assert (await sidecar.admin("/healthz/ready"))[0] == 200


async def test_startup_serve_is_ready_at_once(google: Emulator, start: Start) -> None:
    """For apps that start faster than tokens come: a request waits for its own token."""
    billing = await google.add_target("billing")
    google.metadata.endpoint.fail(Fault("hang"))
    sidecar = await start(
        f"startup: serve\ntoken_wait: 10s\nroutes:\n  - {{name: billing, upstream: '{billing.url}'}}"
    )
    assert (await sidecar.status())["tokens"][0]["expires_at"] is None
    assert (await sidecar.admin("/healthz/startup"))[0] == 200


@pytest.mark.parametrize("startup", ["wait", "serve"])
async def test_a_required_route_without_a_token_ends_the_sidecar(
    google: Emulator, start: Start, startup: str
) -> None:
    """So that the platform sees a failed start, and not an instance that can't do its work."""
    billing, other = await google.add_target("billing"), await google.add_target("other")
    google.metadata.endpoint.fail(Fault("status", code=500))
    sidecar = await start(
        f"startup: {startup}\nstartup_wait: 300ms\nroutes:\n"
        f"  - {{name: billing, upstream: '{billing.url}', required: true}}\n"
        f"  - {{name: other, host: other.internal, upstream: '{other.url}'}}",
        ready=False,
    )
    assert await sidecar.ended() == 4
    entry = await sidecar.logged("a required route has no token, and the sidecar ends")
    assert "`billing`" in entry["detail"]
    assert "`other`" not in entry["detail"]


async def test_a_required_route_holds_readiness_where_others_do_not(google: Emulator, start: Start) -> None:
    billing = await google.add_target("billing")
    await google.stop(google.metadata.app)
    sidecar = await start(
        f"startup: serve\ndrain: {{min: 0s}}\nroutes:\n  - {{name: billing, upstream: '{billing.url}', required: true}}",
        ready=False,
    )
    status, text = await sidecar.admin("/healthz/ready")
    assert (status, "`billing`" in text) == (503, True)
    await google.start(google.metadata.app)
    await sidecar.ready()
    sidecar.send_signal(signal.SIGTERM)
    assert await sidecar.ended() == 0


async def test_exec_does_not_run_the_command_without_a_required_token(
    google: Emulator, tmp_path: Path
) -> None:
    billing = await google.add_target("billing")
    google.metadata.endpoint.fail(Fault("status", code=500))
    config = tmp_path / "config.yaml"
    config.write_text(
        "listen: localhost:0\nadmin: localhost:0\nstartup_wait: 300ms\n"
        f"routes: [{{name: billing, upstream: '{billing.url}', required: true}}]\n",
        "utf-8",
    )
    code, out, err = await command("exec", "-c", str(config), "--", "echo", "ran", **google.environment())
    assert (code, out) == (4, "")
    assert "`billing`" in err


async def test_quit_does_not_wait_for_drain_min(google: Emulator, start: Start) -> None:
    """`drain.min` is for an app that stops after the platform's signal; who calls quit is done."""
    billing = await google.add_target("billing")
    sidecar = await start(
        f"drain: {{min: 1h, max: 1h}}\nroutes:\n  - {{name: billing, upstream: '{billing.url}'}}"
    )
    sidecar.send_signal(signal.SIGTERM)
    await sidecar.logged("draining")
    assert (await ask(sidecar.port, "GET", "/x", host="billing.localhost"))[0] == 200
    assert (await sidecar.admin("/quit", "POST"))[0] == 202
    assert await sidecar.ended() == 0


async def test_a_port_in_use_is_exit_code_3(google: Emulator, start: Start, tmp_path: Path) -> None:
    """With a line that names the address and what to do; nothing else is left open."""
    billing = await google.add_target("billing")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = await command(
            "run",
            "--to",
            billing.url.replace("http://", "https://"),
            "--listen",
            f"127.0.0.1:{port}",
            "--admin",
            "localhost:0",
        )
    assert code == 3
    assert f"127.0.0.1:{port}" in err
    assert "Traceback" not in err


async def test_a_live_unix_socket_is_in_use_and_a_stale_one_is_replaced(
    google: Emulator, start: Start, tmp_path: Path
) -> None:
    """What a crash left behind is no obstacle; another process's socket is."""
    billing = await google.add_target("billing")
    path = tmp_path / "proxy.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    config = f"drain: {{min: 0s}}\nroutes:\n  - {{name: billing, upstream: '{billing.url}', listen: 'unix:{path}'}}"
    sidecar = await start(config)
    file = tmp_path / "second.yaml"
    file.write_text(f"listen: localhost:0\nadmin: localhost:0\n{config}")
    code, _, err = await command("run", "--config", str(file), **google.environment())
    assert (code, "another process" in err) == (3, True)
    sidecar.send_signal(signal.SIGTERM)
    await sidecar.ended()
    assert not path.exists()


async def test_a_bad_configuration_is_exit_code_2_with_every_problem(tmp_path: Path) -> None:
    """One line each, with file, line and column; no traceback."""
    file = tmp_path / "config.yaml"
    file.write_text("routs: []\ntoken_wait: 5\nroutes:\n  - name: a\n    upstream: ftp://x\n")
    code, _, err = await command("run", "--config", str(file))
    assert code == 2
    assert f"{file}:1:1: routs: unknown key; did you mean `routes`?" in err
    assert f"{file}:2:1: token_wait: a duration needs a unit" in err
    assert f"{file}:5:5: routes[0].upstream:" in err
    assert "Traceback" not in err


async def test_missing_tls_files_are_exit_code_2(tmp_path: Path) -> None:
    """Found at start, not at the first request."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "listen: localhost:0\nadmin: localhost:0\n"
        "routes: [{name: a, upstream: 'https://a.example', tls: {ca_file: /nowhere/ca.pem}}]\n"
    )
    code, _, err = await command("run", "--config", str(file))
    assert (code, "route `a`" in err, "Traceback" in err) == (2, True, False)


async def test_wait_healthcheck_and_quit(google: Emulator, start: Start) -> None:
    """The commands for images without curl; proxies of the environment are not asked."""
    billing = await google.add_target("billing")
    sidecar = await start(f"routes:\n  - {{name: billing, upstream: '{billing.url}'}}")
    admin = f"localhost:{sidecar.admin_port}"
    proxied = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    assert await command("wait", "--admin", admin, **proxied) == (0, "ready\n", "")
    assert await command("healthcheck", IDTOKEN_SIDECAR_ADMIN=admin, **proxied) == (0, "ok\n", "")
    assert await command("healthcheck", "--live", "--admin", admin) == (0, "ok\n", "")
    assert await command("quit", "--admin", admin) == (0, "quitting\n", "")
    assert await sidecar.ended() == 0
    code, _, err = await command("healthcheck", "--admin", admin)
    assert (code, "nothing answers" in err) == (1, True)
    code, _, err = await command("wait", "--timeout", "0s", "--admin", admin)
    assert (code, err.startswith("not ready after 0s: nothing answers")) == (1, True)


async def test_flag_beats_variable_beats_file(tmp_path: Path) -> None:
    """For every top-level setting; `config show` tells what is used."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "token_wait: 1s\nstartup_wait: 1s\nlog_level: debug\nroutes: [{name: a, upstream: 'https://a.example'}]\n"
    )
    variables = {
        "IDTOKEN_SIDECAR_CONFIG": str(file),
        "IDTOKEN_SIDECAR_TOKEN_WAIT": "2s",
        "IDTOKEN_SIDECAR_STARTUP_WAIT": "2s",
    }
    code, out, _ = await command("config", "show", "--token-wait", "3s", **variables)
    assert code == 0
    assert "token_wait: 3s\n" in out
    assert "startup_wait: 2s\n" in out
    assert "log_level: debug\n" in out


async def test_exec_runs_a_command_with_its_sidecar(google: Emulator) -> None:
    """It finds the URLs, each reaches its route, and its exit code is passed on; stdout is its own."""
    billing = await google.add_target("billing")
    script = (
        "import json, os, sys, urllib.request as r;"
        "e = json.load(r.urlopen(os.environ['IDTOKEN_SIDECAR_URL_BILLING_API'] + '/x'));"
        "print(e['verified']['audience'], os.environ['IDTOKEN_SIDECAR_URL'].startswith('http://localhost:'));"
        "sys.exit(7)"
    )
    code, out, err = await command(
        *(
            "exec",
            "--to",
            f"billing-api={billing.url}",
            "--listen",
            "localhost:0",
            "--admin",
            "localhost:0",
            "--",
        ),
        *(COMMAND[0], "-c", script),
        **google.environment(),
    )
    assert (code, out) == (7, f"{billing.url} True\n"), err


async def test_two_execs_run_side_by_side_and_say_nothing(google: Emulator) -> None:
    """Nothing is set: each takes ports that are free, and only the command speaks."""
    billing = await google.add_target("billing")
    script = (
        "import json, os, subprocess, sys, urllib.request as r;"
        "json.load(r.urlopen(os.environ['IDTOKEN_SIDECAR_URL_BILLING'] + '/x'))['verified']['audience'];"
        "json.load(r.urlopen(os.environ['IDTOKEN_SIDECAR_URL'] + '/x'))['verified']['audience'];"
        "sys.exit(len(sys.argv) > 1 and subprocess.call(sys.argv[1:]))"
    )
    one = (COMMAND[0], "-c", script)
    begin = ("exec", "--to", f"billing={billing.url}", "--")
    assert await command(*begin, *one, *COMMAND, *begin, *one, **google.environment()) == (0, "", "")


async def test_exec_sets_the_proxy_variables_when_asked(google: Emulator) -> None:
    """With loopback and the metadata server spared, and what was in NO_PROXY kept."""
    script = "import os; print(os.environ['HTTP_PROXY'] == os.environ['IDTOKEN_SIDECAR_URL'], os.environ['NO_PROXY'])"
    code, out, _ = await command(
        *("exec", "--http-proxy", "--to", "https://a.example", "--no-wait", "--listen", "localhost:0"),
        *("--admin", "localhost:0", "--", COMMAND[0], "-c", script),
        NO_PROXY="internal.example",
        **google.environment(),
    )
    assert (code, out.split()) == (
        0,
        [
            "True",
            "internal.example,localhost,.localhost,127.0.0.1,::1,169.254.169.254,metadata.google.internal",
        ],
    )


async def test_exec_keeps_the_sidecars_secrets_to_itself(google: Emulator, tmp_path: Path) -> None:
    """Its settings and the variables of its secrets, but for those that are named; nor has the command its open files."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "listen: [{address: 'localhost:0', require_header: {X-Caller: '${CALLER}'}}]\n"
        "admin: localhost:0\ncredentials: {default: {type: static, token: '${TOKEN}'}}\n"
        "routes: [{name: a, upstream: 'https://a.example'}]\n"
    )
    script = (
        "import json, os; own = os.open('/dev/null', os.O_RDONLY);"
        "print(json.dumps([dict(os.environ), [n for n in os.listdir('/proc/self/fd') if int(n) < own]]))"
    )
    variables = {
        "CALLER": "c4ller-secret",
        "TOKEN": "t0ken-secret",
        "IDTOKEN_SIDECAR_LOG_LEVEL": "error",
        "MINE": "1",
    }
    for named in ((), ("--pass-env", "CALLER", "--pass-env", "IDTOKEN_SIDECAR_LOG_LEVEL")):
        code, out, err = await command(
            *("exec", "--no-wait", "-c", str(config), *named, "--", COMMAND[0], "-c", script),
            **variables,
            **google.environment(),
        )
        assert code == 0, err
        environ, descriptors = json.loads(out)
        passed = {name for name in variables if name in environ}
        assert passed == {"MINE", *named[1::2]}
        assert environ["IDTOKEN_SIDECAR_URL"].startswith("http://localhost:")
        assert descriptors == ["0", "1", "2"]


async def test_exec_forwards_signals_and_reports_them(google: Emulator, tmp_path: Path) -> None:
    """The command decides what a signal means; one that ends it becomes 128 plus its number."""
    script = "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5)); print('up', flush=True); signal.pause()"
    for number, expected in ((signal.SIGUSR1, 5), (signal.SIGTERM, 128 + signal.SIGTERM)):
        process = await asyncio.create_subprocess_exec(
            *(
                *stand_in(),
                "exec",
                "--no-wait",
                "--to",
                "https://a.example",
                "--listen",
                "localhost:0",
                "--admin",
                "localhost:0",
            ),
            *("--", COMMAND[0], "-c", script),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=clean_environment(**google.environment()),
        )
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT):
            assert await process.stdout.readline() == b"up\n"
            process.send_signal(number)
            assert await process.wait() == expected


async def test_exec_of_nothing_is_127(google: Emulator) -> None:
    """As in a shell."""
    code, _, err = await command(
        *(
            "exec",
            "--no-wait",
            "--to",
            "https://a.example",
            "--listen",
            "localhost:0",
            "--admin",
            "localhost:0",
        ),
        *("--", "/nowhere/at-all"),
        **google.environment(),
    )
    assert (code, "/nowhere/at-all" in err) == (127, True)


@pytest.mark.test_all
async def test_the_demo_verifies_every_call_and_shows_no_token() -> None:
    """`demo --once`, as `make demo ONCE=1` and CI run it."""
    code, out, err = await command("demo", "--once")
    assert (code, err) == (0, "")
    assert "every call was verified" in out
    for title, count in (("gRPC, unary", 1), ("gRPC, a stream in both directions", 3)):
        shown = out.partition(f"  {title}\n")[2].partition("\n\n")[0]
        assert "verified  aud http://127.0.0.1:" in shown
        assert shown.endswith(f"OK, {count} of {count} messages came back\n      ok")
    assert "FAILED" not in out
    assert "eyJ" not in out


async def test_a_signal_and_a_request_change_the_log_level(start: Start, google: Emulator) -> None:
    """To debug and back, while it runs; the trace of a logged request is named."""
    target = await google.add_target("svc")
    sidecar = await start(f"routes: [{{name: svc, upstream: '{target.url}'}}]\naccess_log: all\n")
    sidecar.send_signal(signal.SIGUSR1)
    await sidecar.logged("log level", level="debug")
    status, body = await sidecar.admin("/log-level?level=error", "POST")
    assert (status, json.loads(body)) == (200, {"level": "error"})
    sidecar.send_signal(signal.SIGUSR1)
    await sidecar.logged("log level", times=2, level="debug")
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace}-{span}-01"}
    status, _, body_bytes = await ask(sidecar.port, "GET", "/x", headers, host="svc.localhost")
    assert ["traceparent", headers["traceparent"]] in json.loads(body_bytes)["headers"]
    entry = await sidecar.logged("request", route="svc")
    assert entry["logging.googleapis.com/trace"] == trace
    assert entry["logging.googleapis.com/spanId"] == span


STARTING = """
import gc, os, signal, sys
from sidecar.cli.commands import main
from sidecar.service.life import Service

where, name = sys.argv.pop(1), getattr(signal, sys.argv.pop(1))
start = Service.start

async def signalled(self):
    os.kill(os.getpid(), name)
    await start(self)

if where == "first":
    Service.start = signalled
else:
    gc.freeze = lambda: os.kill(os.getpid(), name)
main()
"""
"""The command, with a signal as the first or the last thing that happens in its start."""


@pytest.mark.parametrize(
    ("where", "name"),
    sampled(
        list(product(("first", "last"), ("SIGTERM", "SIGINT", "SIGHUP"))),
        [("first", "SIGINT"), ("last", "SIGTERM"), ("first", "SIGHUP")],
    ),
)
async def test_a_signal_while_it_starts_is_heard(tmp_path: Path, where: str, name: str) -> None:
    """`listening` is logged before the start is over: if it is stopped then, it ends with exit code 0. One that asks
    for another configuration is heard when it serves."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "{listen: 'localhost:0', admin: 'localhost:0', log_format: json, drain: {min: 0s},"
        " routes: [{name: a, upstream: 'https://a.example', prefetch: off}]}"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTING, where, name, "run", "--config", str(file)),
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    assert process.stdout is not None
    messages = []
    async with asyncio.timeout(LIMIT):
        async for line in process.stdout:
            messages.append(json.loads(line)["message"])
            if messages[-1].startswith("configuration reloaded"):
                process.send_signal(signal.SIGINT)
        code = await process.wait()
    assert (code, messages[-1].partition(":")[0]) == (0, "stopped")
    reloaded = any(message.startswith("configuration reloaded") for message in messages)
    assert reloaded == (name == "SIGHUP")
