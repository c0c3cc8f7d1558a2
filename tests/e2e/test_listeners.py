"""Who may call: real listeners of a real sidecar, and callers of every kind"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import ssl
import sys
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.keys import Authority
from tests.support.eventually import eventually
from tests.support.forks import stand_in
from tests.support.sidecar import COMMAND, LIMIT, Sidecar, Start, ask, clean_environment, free_port

pytestmark = pytest.mark.slow

UNSHARE = ("unshare", "--user", "--map-root-user")
MAY_UNSHARE = (
    shutil.which("unshare") and not run([*UNSHARE, "true"], capture_output=True, check=False).returncode
)
ROUTES = "routes:\n  - {name: billing, upstream: 'https://a.example', prefetch: off}\n"


async def test_an_address_that_others_reach_is_refused_without_allow_remote(tmp_path: Path) -> None:
    """Exit code 2, and what to write instead; nothing was bound."""
    file = tmp_path / "config.yaml"
    file.write_text("listen: 0.0.0.0:0\nadmin: localhost:0\n" + ROUTES)
    process = await asyncio.create_subprocess_exec(
        *(*stand_in(), "run", "--config", str(file)), stderr=asyncio.subprocess.PIPE, env=clean_environment()
    )
    async with asyncio.timeout(LIMIT):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert b"listen: 0.0.0.0:0 can be reached from other machines" in said
    assert b"or set `allow_remote: true`" in said


UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
"""Words before a command that is to have no capabilities, whichever user runs the tests."""


@pytest.mark.skipif(
    bool(UNPRIVILEGED) and shutil.which("setpriv") is None, reason="root needs setpriv to be like others"
)
@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "no permission: ports below"),
        ("unix:{directory}/s", "no permission: this process (uid {uid}) may not write in {directory}."),
        ("192.0.2.1:{port}", "this machine has no address 192.0.2.1"),
    ],
    ids=["privileged-port", "directory", "foreign-address"],
)
async def test_why_it_cannot_listen_is_told_apart(tmp_path: Path, address: str, says: str) -> None:
    """In one line on stderr, with exit code 3."""
    if address == "127.0.0.1:1" and _first_unprivileged() <= 1:
        pytest.skip("here every process may listen on every port (net.ipv4.ip_unprivileged_port_start)")
    with TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o500)
        known = {"directory": name, "uid": os.geteuid(), "port": free_port()}
        file = tmp_path / "config.yaml"
        listen = address.format(**known)
        file.write_text(f"listen: '{listen}'\nadmin: localhost:0\nallow_remote: on\n{ROUTES}")
        process = await asyncio.create_subprocess_exec(
            *(*UNPRIVILEGED, *COMMAND, "run", "--config", str(file)),
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            env=clean_environment(),
        )
        async with asyncio.timeout(LIMIT):
            said = (await process.communicate())[1].decode()
    assert process.returncode == 3
    assert said.startswith(f"idtoken-sidecar: listen: {listen} cannot be listened on: {says.format(**known)}")
    assert said.count("\n") == 1


def _first_unprivileged() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except OSError:
        return 1024


async def test_listeners_that_others_reach_are_named_in_warnings(
    google: Emulator, start: Start, tmp_path: Path
) -> None:
    """At start and at each reload: the shared one, a route's own, and the admin server's."""
    config = f"allow_remote: on\n{ROUTES}"
    sidecar = await start(config, "--listen", "0.0.0.0:0", "--admin", "0.0.0.0:0")
    apps = f"the listener 0.0.0.0:{sidecar.port} is reachable from other machines: all callers there use this identity"
    entry = await sidecar.logged(apps, listen=f"0.0.0.0:{sidecar.port}")
    assert entry["severity"] == "WARNING"
    admin = f"the admin server 0.0.0.0:{sidecar.admin_port} is reachable from other machines: they can read metrics and status"
    await sidecar.logged(admin, admin=f"0.0.0.0:{sidecar.admin_port}")
    file = tmp_path / "config-0.yaml"
    os.replace(_written(tmp_path / "new", file.read_text() + "token_wait: 3s\n"), file)
    await sidecar.admin("/reload", "POST")
    await sidecar.logged("configuration reloaded")
    assert [entry["message"] for entry in sidecar.log if "reachable" in entry["message"]] == [apps, admin] * 2


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
        *(*stand_in(), *arguments),
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


@pytest.mark.skipif(not MAY_UNSHARE, reason="no user namespace may be made here, or unshare(1) is missing")
@pytest.mark.parametrize("peers", ["{uid: 65534}", "{gid: [0, 65534]}"])
async def test_the_id_of_all_unmapped_users_is_not_let_in(tmp_path: Path, peers: str) -> None:
    """In a user namespace that maps one user, all others have one number."""
    file = tmp_path / "config.yaml"
    file.write_text(
        f"listen: {{address: 'unix:{tmp_path}/a.sock', peers: {peers}}}\nadmin: localhost:0\n" + ROUTES
    )
    process = await asyncio.create_subprocess_exec(
        *(*UNSHARE, *COMMAND, "run", "--config", str(file)),
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    async with asyncio.timeout(LIMIT):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert f"in this user namespace {peers[1:4]} 65534 is every ".encode() in said


async def test_a_full_descriptor_table_is_outlived(google: Emulator, start: Start) -> None:
    """Callers wait meanwhile, those of the admin server too; the process does next to nothing and says little, and it
    goes on as soon as descriptors are free."""
    billing = await google.add_target("billing")
    sidecar = await start(f"routes:\n  - {{name: billing, host: billing.test, upstream: '{billing.url}'}}")
    _, hard = resource.prlimit(sidecar.process.pid, resource.RLIMIT_NOFILE)
    full = int(await sidecar.metric("process_open_fds")) + 6
    resource.prlimit(sidecar.process.pid, resource.RLIMIT_NOFILE, (full, hard))
    apps = [await asyncio.open_connection("127.0.0.1", sidecar.port) for _ in range(20)]
    waiting, writer = apps[-1]
    writer.write(b"GET /x HTTP/1.1\r\nHost: billing.test\r\nConnection: close\r\n\r\n")
    message = "accepting no connections for now: further callers wait"
    await sidecar.logged(message, reason="descriptors")
    probe, asking = await asyncio.open_connection("127.0.0.1", sidecar.admin_port)
    asking.write(b"GET /healthz/live HTTP/1.0\r\n\r\n")
    used, began = sidecar.cpu(), asyncio.get_running_loop().time()
    # Not to wait for anything: what it uses in this time is measured, and if it spun, that would be all of it.
    await asyncio.sleep(2)
    share = (sidecar.cpu() - used) / (asyncio.get_running_loop().time() - began)
    assert share < 0.1
    assert len([entry for entry in sidecar.log if entry["message"].startswith("event loop")]) < 10
    for _, other in apps[:15]:
        other.close()
    async with asyncio.timeout(LIMIT):
        assert (await waiting.read()).startswith(b"HTTP/1.1 200 ")
        assert (await probe.read()).startswith(b"HTTP/1.0 200 ")
    asking.close()
    await sidecar.logged("accepting connections again")
    assert [entry["message"] for entry in sidecar.log].count(message) == 1
    assert await sidecar.metric("idtoken_sidecar_accept_pauses_total", reason="descriptors") >= 1
    for _, other in apps[15:]:
        other.close()


async def test_a_low_limit_of_open_files_lowers_the_limit_of_connections(
    google: Emulator, tmp_path: Path
) -> None:
    """With a warning at start that names both; what all routes' pools may need is left for upstreams."""
    file = tmp_path / "config.yaml"
    orders = "  - {name: orders, upstream: 'https://b.example', prefetch: off, pool: {connections: 40}}\n"
    file.write_text(
        "listen: localhost:0\nadmin: localhost:0\nlog_format: json\npool: {connections: 20}\n"
        + ROUTES
        + orders
    )
    process = await asyncio.create_subprocess_exec(
        *("prlimit", "--nofile=400:400", *COMMAND, "run", "--config", str(file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=clean_environment(**google.environment()),
    )
    sidecar = Sidecar(process)
    await sidecar.listening()
    (entry,) = [
        entry for entry in sidecar.log if entry["message"].startswith("fewer connections are accepted")
    ]
    assert (entry["limit"], entry["possible"]) == (10000, 400 - 100 - 20 - 40)
    await sidecar.stop()


async def test_a_listeners_certificate_is_read_again(google: Emulator, start: Start, tmp_path: Path) -> None:
    """As Kubernetes swaps a secret, at a probe, at a reload and by itself; a broken one leaves the old one in force."""
    billing = await google.add_target("billing")
    link, authority = tmp_path / "..data", Authority()

    def swap(name: str, text: bytes | None = None) -> None:
        version = tmp_path / name
        version.mkdir()
        pem = authority.issue(["localhost"]) if text is None else text
        (version / "tls.crt").write_bytes(pem)
        (version / "tls.key").touch(0o600)
        (version / "tls.key").write_bytes(pem)
        (tmp_path / "new").symlink_to(name)
        os.replace(tmp_path / "new", link)

    swap("one")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = f"cert_file: {tmp_path}/tls.crt, key_file: {tmp_path}/tls.key"
    listen = f"{{address: 'localhost:0', tls: {{{files}}}}}"
    sidecar = await start(f"routes:\n  - {{name: billing, upstream: '{billing.url}', listen: {listen}}}")
    (entry,) = (await sidecar.status())["routes"]
    use = next(way["use"] for way in entry["ways_in"] if way["kind"] == "listen")
    assert use.startswith("https://127.0.0.1:")
    port = int(use.rstrip("/").rpartition(":")[2])
    ok = "idtoken_sidecar_listener_certificate_last_reload_successful"
    seen = [await _shown(port)]
    assert await sidecar.metric(
        "idtoken_sidecar_listener_certificate_expiry_timestamp_seconds"
    ) > await sidecar.metric("idtoken_sidecar_start_time_seconds")

    swap("two")
    await sidecar.admin("/healthz/ready")
    seen.append(await _shown(port))
    swap("three", b"not PEM")
    await sidecar.admin("/healthz/ready")
    await sidecar.logged("the listener's certificate could not be read again: the old one stays in force")
    assert await _shown(port) == seen[-1]
    assert await sidecar.metric(ok) == 0
    swap("four")
    await sidecar.admin("/reload", "POST")
    seen.append(await _shown(port))
    assert await sidecar.metric(ok) == 1
    swap("five")
    shown = seen[-1]

    async def is_another() -> bool:
        return await _shown(port) != shown

    await eventually(
        is_another, why="no probe and no request: it looks by itself, and logs nothing where all is well"
    )
    assert len(set(seen)) == 3


async def _shown(port: int) -> bytes:
    """The certificate that a listener shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return shown


async def test_tls_files_that_cannot_be_used_are_an_error_at_start(tmp_path: Path) -> None:
    """Exit code 2; at a reload the old configuration stays in force."""
    file = tmp_path / "config.yaml"
    listen = "{address: 'localhost:0', tls: {cert_file: /nowhere/a.pem, key_file: /nowhere/b.pem}}"
    file.write_text(f"listen: {listen}\nadmin: localhost:0\n" + ROUTES)
    said = await _run("run", "--config", str(file), code=2)
    assert (
        "listen: the files of `tls` of localhost:0 cannot be used: /nowhere/a.pem: No such file or directory"
        in said
    )


async def test_another_secret_takes_effect_at_a_reload(
    google: Emulator, start: Start, tmp_path: Path
) -> None:
    """On the socket that is open; without it, everybody may call again."""
    billing = await google.add_target("billing")
    route = f"routes:\n  - {{name: billing, host: billing.test, upstream: '{billing.url}'}}\n"
    sidecar = await start(route)
    file = tmp_path / "config-0.yaml"
    text = file.read_text()

    async def reload(require: str) -> None:
        listen = (
            f"listen: {{address: 'localhost:0', require_header: {{X-Caller: {require}}}}}\n"
            if require
            else ""
        )
        os.replace(_written(tmp_path / "new", text.replace("listen: localhost:0\n", listen)), file)
        # "unchanged": the watch has seen the file first.
        assert json.loads((await sidecar.admin("/reload", "POST"))[1])["result"] in ("ok", "unchanged")

    async def status(**headers: str) -> int:
        return (await ask(sidecar.port, "GET", "/x", headers, host="billing.test"))[0]

    await reload("first-secret")
    assert (await status(), await status(**{"X-Caller": "first-secret"})) == (403, 200)
    await reload("second-secret")
    assert (await status(**{"X-Caller": "first-secret"}), await status(**{"X-Caller": "second-secret"})) == (
        403,
        200,
    )
