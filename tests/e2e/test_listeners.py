"""Who may call: real listeners of a real sidecar, and callers of every kind"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sidecar.emulator.app import Emulator
from tests.support.sidecar import COMMAND, LIMIT, Start, ask, clean_environment

pytestmark = pytest.mark.slow

ROUTES = "routes:\n  - {name: billing, upstream: 'https://a.example', prefetch: off}\n"


async def test_an_address_that_others_reach_is_refused_without_allow_remote(tmp_path: Path) -> None:
    """Exit code 2, and what to write instead; nothing was bound."""
    file = tmp_path / "config.yaml"
    file.write_text("listen: 0.0.0.0:0\nadmin: localhost:0\n" + ROUTES)
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "run", "--config", str(file)), stderr=asyncio.subprocess.PIPE, env=clean_environment()
    )
    async with asyncio.timeout(LIMIT):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert b"listen: 0.0.0.0:0 can be reached from other machines" in said
    assert b"or set `allow_remote: true`" in said


async def test_listeners_that_others_reach_are_named_in_warnings(
    google: Emulator, start: Start, tmp_path: Path
) -> None:
    """At start and at each reload: the shared one, a route's own, and the admin server's."""
    config = f"allow_remote: on\n{ROUTES}"
    sidecar = await start(config, "--listen", "0.0.0.0:0", "--admin", "0.0.0.0:0")
    apps = "this listener is reachable from other machines: whoever reaches it calls with this identity"
    entry = await sidecar.logged(apps, listen=f"0.0.0.0:{sidecar.port}")
    assert entry["severity"] == "WARNING"
    admin = "the admin server is reachable from other machines: they can read metrics and status"
    await sidecar.logged(admin, admin=f"0.0.0.0:{sidecar.admin_port}")
    file = tmp_path / "config-0.yaml"
    os.replace(_written(tmp_path / "new", file.read_text() + "token_wait: 3s\n"), file)
    await sidecar.admin("/reload", "POST")
    assert [entry["message"] for entry in sidecar.log if entry["severity"] == "WARNING"] == [apps, admin] * 2


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


SECRET = "listener-secret-7c1f"
CALLER = "[localhost:0, {address: 'localhost:0', require_header: {X-Local-Caller: '${CALLER_SECRET}'}}]"


async def test_a_secret_that_a_listener_asks_for_is_nowhere_to_be_seen(
    google: Emulator, start: Start
) -> None:
    """Not in the log, the status, the metrics, the configuration that the page shows, an answer, or what is forwarded."""
    billing = await google.add_target("billing")
    sidecar = await start(
        f"access_log: all\nroutes:\n  - {{name: billing, upstream: '{billing.url}', listen: {CALLER}}}",
        CALLER_SECRET=SECRET,
        IDTOKEN_SIDECAR_LOG_LEVEL="debug",
    )
    (entry,) = (await sidecar.status())["routes"]
    open_, guarded = [
        int(way["use"].rstrip("/").rpartition(":")[2])
        for way in entry["ways_in"]
        if way["kind"] == "listen" and "127.0.0.1" in way["use"]
    ]
    assert (await ask(open_, "GET", "/x"))[0] == 200
    status, _, refusal = await ask(guarded, "GET", "/x", {"X-Local-Caller": "another"})
    assert (status, json.loads(refusal)["reason"]) == (403, "caller_refused")
    status, _, echoed = await ask(guarded, "GET", "/x", {"X-Local-Caller": SECRET})
    assert status == 200
    assert "x-local-caller" not in {name.lower() for name, _ in json.loads(echoed)["headers"]}
    assert (
        await sidecar.metric("idtoken_sidecar_refused_total", route="billing", reason="caller_refused") == 1
    )
    seen = [refusal.decode(), echoed.decode(), sidecar.text]
    seen += [(await sidecar.admin(path))[1] for path in ("/status.json", "/metrics", "/")]
    assert not [text for text in seen if SECRET in text]


async def test_config_show_hides_the_secret_and_what_it_shows_is_refused(tmp_path: Path) -> None:
    """A copy of the printed configuration does not let those in who send asterisks."""
    file = tmp_path / "config.yaml"
    file.write_text(f"listen: {CALLER}\n" + ROUTES)
    shown = await _run("config", "show", "--config", str(file), CALLER_SECRET=SECRET)
    assert "X-Local-Caller: '********'" in shown
    assert SECRET not in shown
    file.write_text(shown)
    assert "what stands in print for a secret" in await _run(
        "config", "validate", "--config", str(file), code=2
    )


async def _run(*arguments: str, code: int = 0, **environ: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=clean_environment(**environ),
    )
    async with asyncio.timeout(LIMIT):
        said, _ = await process.communicate()
    assert process.returncode == code, said
    return said.decode()


OTHER = 54321
"""A user and a group that nobody is."""
ASK = """
import os, socket, sys
path, uid, gid, groups = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), [int(g) for g in sys.argv[4:]]
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
sock = socket.socket(socket.AF_UNIX); sock.settimeout(20); sock.connect(path)
for _ in range(2):
    sock.sendall(b"GET /x HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += sock.recv(65536)
    head, _, body = head.partition(b"\\r\\n\\r\\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\\r\\n")[0])
    while len(body) < length:
        body += sock.recv(65536)
    print(head.split(b" ")[1].decode(), flush=True)
"""

PEERS = [
    pytest.param(OTHER, OTHER, (), "200", id="the-user"),
    pytest.param(OTHER + 1, OTHER + 2, (), "200", id="the-group"),
    pytest.param(OTHER + 1, OTHER, (OTHER + 5, OTHER + 2), "200", id="a-further-group"),
    pytest.param(OTHER + 1, OTHER, (OTHER + 5,), "403", id="neither"),
    pytest.param(0, 0, (), "403", id="root"),
]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as other users")
@pytest.mark.parametrize(("uid", "gid", "groups", "expected"), PEERS)
async def test_processes_are_told_apart_on_a_unix_socket(
    google: Emulator, start: Start, tmp_path: Path, uid: int, gid: int, groups: tuple[int, ...], expected: str
) -> None:
    """By what the kernel says: the user, the group and the further groups; each request of a stranger is answered 403."""
    billing = await google.add_target("billing")
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103  # the callers are other users
        path = f"{directory}/billing.sock"
        listen = f"{{address: 'unix:{path}', peers: {{uid: [{OTHER}], gid: {OTHER + 2}}}}}"
        sidecar = await start(f"routes:\n  - {{name: billing, upstream: '{billing.url}', listen: {listen}}}")
        os.chmod(path, 0o666)  # noqa: S103  # the same
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ASK, path, str(uid), str(gid), *map(str, groups)),
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(LIMIT):
            said, _ = await process.communicate()
        assert said.decode().split() == [expected, expected]
        refused = expected == "403"
        assert await sidecar.metric("idtoken_sidecar_peers_refused_total") == refused
        if refused:
            message = "a process that may not call here was refused"
            await sidecar.logged(message, uid=uid, gid=gid, pid=process.pid)


async def test_a_user_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    """Names are looked up at start, and where the configuration is read again."""
    file = tmp_path / "config.yaml"
    listen = f"{{address: 'unix:{tmp_path}/a.sock', peers: {{uid: nobody-of-that-name}}}}"
    file.write_text(f"listen: {listen}\nadmin: localhost:0\n" + ROUTES)
    said = await _run("run", "--config", str(file), code=2)
    assert "no user is called `nobody-of-that-name` here: write its number" in said
