"""TLS files that change while the proxy runs: what is new is used, what is old is retired, what is broken does no harm"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.openssl import Issued, authority, issue, revocations, write
from tests.support.wire import GET, Answer, End, Wire

CA = authority("a CA")
OTHER = authority("another CA")
SERVER = issue(CA)


class Secured:
    """An upstream that wants a client certificate and answers with its serial number; the test may hold the answers."""

    def __init__(self, directory: Path, shown: Issued = SERVER) -> None:
        self.hold = asyncio.Event()
        self.hold.set()
        self.asked = asyncio.Event()
        self.connections = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(write(directory / "clients-ca.pem", CA.pem))
        self.show(directory, shown)

    def show(self, directory: Path, shown: Issued) -> None:
        """The server's own certificate, from now on."""
        self.context.load_cert_chain(write(directory / "server.pem", shown.pem, shown.key_pem))

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        return int(self._server.sockets[0].getsockname()[1])

    def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        serial = str(int(writer.get_extra_info("peercert")["serialNumber"], 16)).encode()
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.asked.set()
                await self.hold.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(serial), serial))
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer.close()


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[Secured]:
    made = Secured(tmp_path)
    yield made
    made.stop()


class Mounted:
    """A directory of files as Kubernetes mounts a secret: links to a link to a directory, which is swapped whole."""

    def __init__(self, directory: Path, *, swap: bool) -> None:
        self._directory = directory
        self._swap = swap
        self._version = 0

    def put(self, client: Issued, *, key: bytes | None = None, ca: Issued = CA, crl: bytes = b"") -> None:
        files = {"client.pem": client.pem, "key.pem": key or client.key_pem, "ca.pem": ca.pem, "crl.pem": crl}
        if not self._swap:
            for name, data in files.items():
                write(self._directory / name, data)
            return
        self._version += 1
        made = self._directory / f"..{self._version}"
        made.mkdir()
        for name, data in files.items():
            write(made / name, data)
            link = self._directory / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        (self._directory / "..tmp").symlink_to(made.name)
        os.replace(self._directory / "..tmp", self._directory / "..data")


async def start(wire: Wire, tmp_path: Path, port: int, *, crl: bool = False) -> End:
    """The proxy with these files, and an app."""
    files = f"ca_file: {tmp_path}/ca.pem, client_cert_file: {tmp_path}/client.pem, client_key_file: {tmp_path}/key.pem"
    if crl:
        files += f", crl_file: {tmp_path}/crl.pem"
    await wire.start(f"tls: {{{files}}}", upstream=f"https://localhost:{port}")
    return await wire.app()


async def ask(app: End) -> Answer:
    await app.send(GET)
    return await app.answer()


async def served_as(app: End) -> int:
    """The serial number of the certificate that the upstream saw."""
    answer = await ask(app)
    assert answer.status == 200, answer.body
    return int(answer.body)


@pytest.mark.parametrize("swap", [False, True], ids=["rewritten", "link-swapped"])
async def test_a_new_client_certificate_is_used_and_the_old_one_retired(
    wire: Wire, tmp_path: Path, secured: Secured, *, swap: bool
) -> None:
    """Within a second, without a restart: an idle connection made with the old one serves nobody any more."""
    first, second = issue(CA), issue(CA)
    mounted = Mounted(tmp_path, swap=swap)
    mounted.put(first)
    app = await start(wire, tmp_path, await secured.start())
    assert [await served_as(app) for _ in range(2)] == [first.certificate.serial_number] * 2
    assert secured.connections == 1
    mounted.put(second)
    wire.clock.advance(1.1)
    assert [await served_as(app) for _ in range(2)] == [second.certificate.serial_number] * 2
    assert secured.connections == 2
    assert wire.stats.tls_reloads == {"ok": 1}


async def test_a_request_under_way_ends_on_its_old_connection(
    wire: Wire, tmp_path: Path, secured: Secured
) -> None:
    """Which is closed after it."""
    first, second = issue(CA), issue(CA)
    mounted = Mounted(tmp_path, swap=False)
    mounted.put(first)
    app = await start(wire, tmp_path, await secured.start())
    secured.hold.clear()
    await app.send(GET)
    await secured.asked.wait()
    mounted.put(second)
    wire.clock.advance(1.1)
    secured.hold.set()
    assert int((await app.answer()).body) == first.certificate.serial_number
    assert await served_as(app) == second.certificate.serial_number


async def test_files_that_cannot_be_used_do_no_harm(
    wire: Wire, tmp_path: Path, secured: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    """The old ones stay in use, connections stay open; it is said once, and counted; the next change fixes it."""
    first, second = issue(CA), issue(CA)
    mounted = Mounted(tmp_path, swap=True)
    mounted.put(first)
    app = await start(wire, tmp_path, await secured.start())
    assert await served_as(app) == first.certificate.serial_number
    with caplog.at_level(logging.INFO):
        mounted.put(second, key=first.key_pem)
        for _ in range(5):
            wire.clock.advance(1.1)
            assert await served_as(app) == first.certificate.serial_number
        assert wire.stats.tls_current is False
        mounted.put(second)
        wire.clock.advance(1.1)
        assert await served_as(app) == second.certificate.serial_number
    assert wire.stats.tls_reloads == {"error": 1, "ok": 1}
    assert wire.stats.tls_current is True
    said = [record for record in caplog.records if record.name == "sidecar.net.tls_files"]
    assert [record.levelname for record in said] == ["WARNING", "INFO"]
    assert "another certificate's" in said[0].fields["detail"]  # type: ignore[attr-defined]
    assert secured.connections == 2


async def test_another_ca_is_trusted_from_then_on(wire: Wire, tmp_path: Path, secured: Secured) -> None:
    """Refused before, and the old one after."""
    client = issue(CA)
    mounted = Mounted(tmp_path, swap=False)
    mounted.put(client)
    secured.show(tmp_path, issue(OTHER))
    app = await start(wire, tmp_path, await secured.start())
    assert (await ask(app)).reason == "tls_unknown_ca"
    mounted.put(client, ca=OTHER)
    wire.clock.advance(1.1)
    assert await served_as(app) == client.certificate.serial_number
    mounted.put(client, ca=CA)
    wire.clock.advance(1.1)
    assert (await ask(app)).reason == "tls_unknown_ca"


async def test_what_comes_to_be_revoked_is_refused(wire: Wire, tmp_path: Path, secured: Secured) -> None:
    """The session that could be resumed without a look at the certificate is forgotten."""
    client = issue(CA)
    mounted = Mounted(tmp_path, swap=True)
    mounted.put(client, crl=revocations(CA))
    app = await start(wire, tmp_path, await secured.start(), crl=True)
    assert await served_as(app) == client.certificate.serial_number
    mounted.put(client, crl=revocations(CA, [SERVER]))
    wire.clock.advance(1.1)
    assert (await ask(app)).reason == "tls_revoked"


async def test_a_handshake_that_began_before_a_revocation_serves_nobody(wire: Wire, tmp_path: Path) -> None:
    """It was judged by the old list: the request that waits for it is given another, which is judged by the new one."""
    write(tmp_path / "ca.pem", CA.pem)
    write(tmp_path / "crl.pem", revocations(CA))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write(tmp_path / "server.pem", SERVER.pem, SERVER.key_pem))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        files = f"ca_file: {tmp_path}/ca.pem, crl_file: {tmp_path}/crl.pem"
        await wire.start(f"tls: {{{files}}}", upstream=f"https://localhost:{server.getsockname()[1]}")
        app = await wire.app()
        await app.send(GET)
        first, _ = await wire.loop.sock_accept(server)
        # It has said its hello by now: the context it verifies by is chosen.
        await wire.turn(lambda: select.select([first], [], [], 0)[0])
        write(tmp_path / "crl.pem", revocations(CA, [SERVER]))
        wire.clock.advance(1.1)
        assert wire.stats.tls_reloads == {"ok": 1}
        reader = asyncio.StreamReader()
        await wire.loop.connect_accepted_socket(
            lambda: asyncio.StreamReaderProtocol(reader), first, ssl=context
        )
        assert await reader.read(1) == b""
        second, _ = await wire.loop.sock_accept(server)
        with suppress(ssl.SSLError, ConnectionError):
            await wire.loop.connect_accepted_socket(asyncio.Protocol, second, ssl=context)
        assert (await app.answer()).reason == "tls_revoked"
    assert (wire.stats.in_flight, wire.stats.connections_active) == (0, 0)
    await wire.turn(lambda: not wire.pools.sweep(wire.clock.mono()))
