"""https that is read on its way, in a real sidecar: its CA's key is nowhere to be seen, and a reload leaves apps alone"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from sidecar.emulator.app import Emulator
from tests.support import openssl
from tests.support.secret_shapes import shown_of
from tests.support.sidecar import LIMIT, Sidecar, Start, command

ROUTES = """
routes:
  - {{name: billing, host: billing.internal, upstream: '{url}', target: cloud_run, audience: '{url}', intercept: true}}
  - {{name: plain, host: plain.internal, upstream: '{url}', target: cloud_run, audience: '{url}'}}
{more}
intercept: {{bundle_file: '{bundle}'{files}}}
"""


def trusting(bundle: Path) -> ssl.SSLContext:
    """What an app does that reads the bundle now."""
    return ssl.create_default_context(cafile=str(bundle))


async def ask(port: int, context: ssl.SSLContext, host: str, *, proxy: bool = True) -> dict[str, Any]:
    """One https request of a blocking client: by a tunnel, or to the port itself as if that were the host."""

    def now() -> dict[str, Any]:
        if proxy:
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=LIMIT, context=context)
            connection.set_tunnel(host, 443)
        else:
            connection = http.client.HTTPSConnection(host, 443, timeout=LIMIT, context=context)
            connection._create_connection = lambda *_: socket.create_connection(  # type: ignore[attr-defined]
                ("127.0.0.1", port), timeout=LIMIT
            )
        try:
            connection.request("GET", "/x")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()

    return await asyncio.to_thread(now)


async def config_of(google: Emulator, bundle: Path, *, more: str = "", files: str = "") -> str:
    """Two routes to one target that verifies, of which one is read."""
    name = "billing"
    url = google.targets[name].url if name in google.targets else (await google.add_target(name)).url
    return ROUTES.format(url=url, bundle=bundle, more=more.replace("URL", url), files=files)


async def everything(sidecar: Sidecar) -> str:
    """All that it shows to anybody."""
    pages = [(await sidecar.admin(path))[1] for path in ("/", "/status.json", "/metrics", "/healthz/ready")]
    return "\n".join([sidecar.text, *pages])


async def test_an_app_calls_by_https(google: Emulator, start: Start, tmp_path: Path) -> None:
    """Through the proxy and through a listener of port 443's kind; a host that is not read is refused by both."""
    bundle = tmp_path / "bundle.pem"
    both = "[localhost:0, {address: '127.0.0.1:0', intercept: true}]"
    sidecar = await start(await config_of(google, bundle), "--listen", both)
    told = await sidecar.logged("listening")
    port, secure = (int(told["listen"][index].rpartition(":")[2]) for index in (0, -1))
    context = trusting(bundle)
    for at, proxy in ((port, True), (secure, False)):
        assert (await ask(at, context, "billing.internal", proxy=proxy))["verified"]
    with pytest.raises(OSError, match="501"):
        await ask(port, context, "plain.internal")
    with pytest.raises(ssl.SSLError):
        await ask(secure, context, "plain.internal", proxy=False)
    entry = await sidecar.logged("no certificate for an app")
    assert "does not say `intercept: true`" in entry["detail"]
    assert await sidecar.metric("idtoken_sidecar_listener_tls_handshakes_failed_total", reason="server_name")
    assert bundle.stat().st_mode & 0o777 == 0o644


def descriptors(pid: int) -> list[str]:
    """What a process has open; some may be closed meanwhile."""
    found = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(file))
    return found


@pytest.mark.parametrize("own", [False, True], ids=["made-at-start", "a-ca-of-ones-own"])
async def test_no_key_is_anywhere_to_be_found(
    google: Emulator, start: Start, tmp_path: Path, own: bool
) -> None:
    """Neither the CA's nor a host's: in no log, page, metric or file, and in no descriptor that stays open."""
    bundle = tmp_path / "out" / "bundle.pem"
    bundle.parent.mkdir()
    ca = openssl.authority("theirs")
    openssl.write(tmp_path / "ca.pem", ca.pem)
    openssl.write(tmp_path / "ca.key", ca.key_pem)
    files = f", ca_cert_file: {tmp_path}/ca.pem, ca_key_file: {tmp_path}/ca.key" if own else ""
    sidecar = await start(await config_of(google, bundle, files=files), "--log-level", "debug")
    assert (await ask(sidecar.port, trusting(bundle), "billing.internal"))["verified"]
    with pytest.raises(ssl.SSLCertVerificationError):
        await ask(sidecar.port, ssl.create_default_context(), "billing.internal")
    await sidecar.logged("an app does not trust the certificate")
    assert (await sidecar.admin("/reload", "POST"))[0] == 200
    shown = await everything(sidecar) + bundle.read_text()
    assert "PRIVATE" not in shown
    private = "".join(ca.key_pem.decode().splitlines()[1:-1])[
        50:90
    ]  # of PKCS #8: behind it is the public key
    assert shown_of(private, shown) is None
    assert os.listdir(bundle.parent) == ["bundle.pem"]
    held = descriptors(sidecar.process.pid)
    assert not [path for path in held if "memfd" in path or "ca.key" in path]
    assert "eyJ" not in sidecar.text, "a token"


async def test_a_reload_that_adds_a_host_leaves_apps_alone(
    google: Emulator, start: Start, tmp_path: Path
) -> None:
    """One that has read the bundle before goes on; the new host takes the new bundle; a host that goes is served no more."""
    bundle = tmp_path / "bundle.pem"
    sidecar = await start(await config_of(google, bundle))
    before = trusting(bundle)
    more = "  - {name: added, host: added.internal, upstream: 'URL', target: cloud_run, audience: 'URL', intercept: true}"
    await reload(sidecar, tmp_path, await config_of(google, bundle, more=more))
    assert (await ask(sidecar.port, before, "billing.internal"))["verified"]
    with pytest.raises(ssl.SSLCertVerificationError):
        await ask(sidecar.port, before, "added.internal")
    for host in ("added.internal", "billing.internal"):
        assert (await ask(sidecar.port, trusting(bundle), host))["verified"]
    text = await config_of(google, bundle)
    await reload(sidecar, tmp_path, text.replace(", intercept: true", "").replace("intercept: {", "x: {"))
    with pytest.raises(OSError, match="501"):
        await ask(sidecar.port, before, "billing.internal")


async def reload(sidecar: Sidecar, tmp_path: Path, config: str) -> None:
    """By its file."""
    config = config.replace("\nx: {", "\n# {")
    head = "listen: localhost:0\nadmin: localhost:0\nlog_format: json\n"
    (tmp_path / "config-0.yaml").write_text(head + config, "utf-8")
    status, body = await sidecar.admin("/reload", "POST")
    assert (status, json.loads(body)["result"]) == (200, "ok"), body


async def test_a_reload_that_can_t_be_served_leaves_the_bundle(
    google: Emulator, start: Start, tmp_path: Path
) -> None:
    """And the CA in force."""
    bundle = tmp_path / "bundle.pem"
    sidecar = await start(await config_of(google, bundle))
    before = bundle.read_text()
    broken = (await config_of(google, bundle)).replace("bundle.pem'", "none/bundle.pem'")
    (tmp_path / "config-0.yaml").write_text(broken, "utf-8")
    status, body = await sidecar.admin("/reload", "POST")
    assert "`intercept`: `bundle_file`" in body, (status, body)
    assert bundle.read_text() == before
    assert (await ask(sidecar.port, trusting(bundle), "billing.internal"))["verified"]


async def test_what_can_t_be_served_ends_the_start(google: Emulator, tmp_path: Path) -> None:
    """With exit code 2, the key and why."""
    file = tmp_path / "config.yaml"
    ca, other = openssl.authority("one"), openssl.authority("other")
    openssl.write(tmp_path / "ca.pem", ca.pem)
    openssl.write(tmp_path / "ca.key", other.key_pem)
    own = f", ca_cert_file: {tmp_path}/ca.pem, ca_key_file: {tmp_path}/ca.key"
    for bundle, files, words in (
        (tmp_path / "none" / "bundle.pem", "", "No such file"),
        (tmp_path / "bundle.pem", own, "is not the key of the first certificate"),
    ):
        text = await config_of(google, bundle, files=files)
        file.write_text(f"listen: localhost:0\nadmin: localhost:0\n{text}", "utf-8")
        code, _, err = await command("run", "--config", str(file), **google.environment())
        assert code == 2
        assert "`intercept`: " in err
        assert words in err
        assert not bundle.exists()


async def test_processes_of_other_users(google: Emulator, start: Start, tmp_path: Path) -> None:
    """Who may not call at a Unix socket is given no tunnel there."""
    bundle, path = tmp_path / "bundle.pem", tmp_path / "proxy.sock"
    listen = f"[localhost:0, {{address: 'unix:{path}', peers: {{uid: {os.getuid() + 1}}}}}]"
    await start(await config_of(google, bundle), "--listen", listen)
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"CONNECT billing.internal:443 HTTP/1.1\r\nHost: billing.internal:443\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"caller_refused" in answer
