"""Google on loopback: metadata server, token endpoint, certificates and targets in one.

Owns the life of all servers of the stand-in. Used by the demo, the tests and the `emulator` command; it
imports nothing else of this package, so that what it verifies owes nothing to what it tests.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, final

from aiohttp import web

from sidecar.emulator.checks import TargetKind
from sidecar.emulator.keys import Authority, signing_key
from sidecar.emulator.metadata import ISSUER, MetadataServer
from sidecar.emulator.oauth import KEY_EMAIL, OAuthServer
from sidecar.emulator.targets import Target

NAMES = ("localhost", "*.localhost", "127.0.0.1", "::1")
"""What the certificate of TLS targets is good for."""


@final
class Emulator:
    """All of it, as an async context manager; every listener on a free port of `host`.

    Durations in seconds. `names` are further names for the TLS targets' certificate.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,  # noqa: TID251  # the only clock of the stand-in
        token_lifetime: float = 3600.0,
        cache_margin: float | None = None,
        host: str = "127.0.0.1",
        names: tuple[str, ...] = (),
    ) -> None:
        self._key = signing_key("google")
        self._now = now
        self._host = host
        self._runners: dict[web.Application, web.AppRunner] = {}
        self._ports: dict[web.Application, int] = {}
        self._directory = tempfile.TemporaryDirectory(prefix="idtoken-emulator-")
        self._authority = Authority((*NAMES, *names))
        self.metadata = MetadataServer(
            self._key, now, token_lifetime=token_lifetime, cache_margin=cache_margin
        )
        self.oauth = OAuthServer(self._key, now, token_lifetime=token_lifetime)
        self.targets: dict[str, Target] = {}

    async def __aenter__(self) -> Self:
        self.ca_file.write_bytes(self._authority.ca_pem)
        self._server_file.write_bytes(self._authority.server_pem)
        self._server_file.chmod(0o600)
        await self.start(self.metadata.app)
        self.oauth.app.router.add_get("/oauth2/v1/certs", self._certs)
        self.oauth.app.router.add_get("/oauth2/v3/certs", self._jwks)
        self.oauth.app.router.add_get("/.well-known/openid-configuration", self._discovery)
        await self.start(self.oauth.app)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for app in list(self._runners):
            await self.stop(app)
        self._directory.cleanup()

    # addresses

    @property
    def metadata_address(self) -> str:
        """`host:port` of the metadata server."""
        return f"{self._host}:{self._ports[self.metadata.app]}"

    @property
    def oauth_url(self) -> str:
        """The token endpoint."""
        return f"http://{self._host}:{self._ports[self.oauth.app]}/token"

    @property
    def certs_url(self) -> str:
        """The certificates that tokens verify against, as google-auth reads them."""
        return f"http://{self._host}:{self._ports[self.oauth.app]}/oauth2/v1/certs"

    @property
    def ca_file(self) -> Path:
        """The CA of the TLS targets, PEM."""
        return Path(self._directory.name) / "ca.pem"

    @property
    def _server_file(self) -> Path:
        return Path(self._directory.name) / "server.pem"

    def environment(self) -> dict[str, str]:
        """What makes google-auth, and so a sidecar, find the metadata server."""
        return {"GCE_METADATA_HOST": self.metadata_address, "GCE_METADATA_IP": self.metadata_address}

    def write_key(self, path: Path, *, email: str = KEY_EMAIL) -> Path:
        """A service account key file that the token endpoint knows."""
        return self.oauth.write_key(path, self.oauth_url, email=email)

    # servers

    async def add_target(
        self, name: str, *, kind: TargetKind = "cloud_run", audience: str | None = None, tls: bool = False
    ) -> Target:
        """A service that verifies what it is sent; over TLS it is called `localhost`."""
        target = Target(name, kind, audience, self._key, self._now)
        await self.start(target.app, tls=tls)
        host = "localhost" if tls else self._host
        target.url = f"{'https' if tls else 'http'}://{host}:{self._ports[target.app]}"
        self.targets[name] = target
        return target

    async def start(self, app: web.Application, *, tls: bool = False) -> None:
        """Listen; again on the same port after `stop`."""
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._server_file)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self._host, self._ports.get(app, 0)))
        await web.SockSite(runner, sock, ssl_context=context, backlog=1024).start()
        self._ports[app] = sock.getsockname()[1]
        self._runners[app] = runner

    async def stop(self, app: web.Application) -> None:
        """Refuse connections from now on."""
        if (runner := self._runners.pop(app, None)) is not None:
            await runner.cleanup()

    # what verifies the tokens

    async def _certs(self, _: web.Request) -> web.Response:
        return web.json_response(
            {self._key.kid: self._key.certificate_pem()}, headers={"Cache-Control": "max-age=60"}
        )

    async def _jwks(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [self._key.jwk()]}, headers={"Cache-Control": "max-age=60"})

    async def _discovery(self, request: web.Request) -> web.Response:
        return web.json_response({"issuer": ISSUER, "jwks_uri": f"http://{request.host}/oauth2/v3/certs"})
