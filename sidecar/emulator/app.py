"""Google on loopback: metadata server, token endpoint, certificates and targets in one.

Owns the life of all servers of the stand-in. Used by the demo, the tests and, through `running`, in a thread or a
process of its own. It imports nothing else of this package, so that its checks are independent of the code they test.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final
from urllib.parse import urlencode

from aiohttp import web

from sidecar.emulator.accounts import User, write_private
from sidecar.emulator.connecting import ConnectingServices
from sidecar.emulator.control import Control, Server
from sidecar.emulator.grpc_server import GrpcServer
from sidecar.emulator.http_server import HttpServer
from sidecar.emulator.iam import IAMCredentialsServer
from sidecar.emulator.instance import PROJECT, Platform
from sidecar.emulator.keys import Authority, assertion_key, signing_key
from sidecar.emulator.kinds import Settings, TargetKind
from sidecar.emulator.metadata import ISSUER, MetadataServer
from sidecar.emulator.oauth import KEY_EMAIL, OAuthServer
from sidecar.emulator.principals import Principals
from sidecar.emulator.sts import JWT_TYPES, Provider, STSServer
from sidecar.emulator.targets import Target

NAMES: Final = ("localhost", "*.localhost", "127.0.0.1", "::1")
"""What every TLS target's certificate is good for, beside `NAME.localhost` (OpenSSL takes no `*.localhost`)."""
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_ANY: Final = ("0.0.0.0", "::")  # addresses to compare with
Served = web.Application | GrpcServer
"""What listens: all speak HTTP/1.1, and targets of gRPC HTTP/2."""


@final
class Emulator:
    """All of it, as an async context manager; every listener on a free port of `host`, an address.

    `now` gives Unix seconds; durations are in seconds. `names` are further names for the TLS targets' certificates.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,  # noqa: TID251  # the only clock of the stand-in
        token_lifetime: float = 3600.0,
        cache_margin: float | None = None,
        host: str = "127.0.0.1",
        names: Collection[str] = (),
        platform: Platform = "compute_engine",
        port: int = 0,
    ) -> None:
        """`port` is the first of the listeners', which follow in a row; 0: free ones."""
        self._next_port = port
        self._key = signing_key("google")
        self._now = now
        self._host = host
        self._names = (*NAMES, *names)
        self._runners: dict[Served, tuple[HttpServer | GrpcServer, socket.socket]] = {}
        self._ports: dict[Served, int] = {}
        self._kept: dict[Served, socket.socket] = {}
        """The sockets of stopped servers: bound, but not listening, so that no other process gets the port."""
        self._tls: dict[Served, ssl.SSLContext] = {}
        self._authority = Authority()
        self.principals = Principals(now)
        self.metadata = MetadataServer(
            self._key,
            self.principals,
            now,
            token_lifetime=token_lifetime,
            cache_margin=cache_margin,
            platform=platform,
        )
        self.oauth = OAuthServer(self._key, self.principals, now, token_lifetime=token_lifetime)
        self.sts = STSServer(self.principals, now, token_lifetime=token_lifetime)
        self.iam = IAMCredentialsServer(self._key, self.principals, now, token_lifetime=token_lifetime)
        self.targets: dict[str, Target] = {}
        servers: dict[str, Server] = {
            "metadata": self.metadata,
            "oauth": self.oauth,
            "sts": self.sts,
            "iam": self.iam,
        }
        self.connecting = ConnectingServices(
            self._key, self.principals, now, token_lifetime=token_lifetime, ca_file=lambda: self.ca_file
        )
        self._control = Control(servers, self, self.connecting, self.principals)
        self._add_keys(self.oauth.app.router)

    async def __aenter__(self) -> Self:
        # Made here and not in the constructor: what was never entered has nothing to clean up.
        self._directory = tempfile.TemporaryDirectory(prefix="idtoken-emulator-")
        try:
            self.ca_file.write_bytes(self._authority.pem)
            for app in (self.metadata.app, self.oauth.app, self.sts.app, self.iam.app, self._control.app):
                await self.start(app)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        await asyncio.gather(*(self.stop(app) for app in list(self._runners)))
        for sock in self._kept.values():
            sock.close()
        self._directory.cleanup()

    @property
    def project(self) -> str:
        """The id of the project that everything is in."""
        return PROJECT

    # addresses

    @property
    def metadata_address(self) -> str:
        """`host:port` of the metadata server."""
        return self._address(self.metadata.app)

    @property
    def oauth_url(self) -> str:
        """The token endpoint."""
        return f"http://{self._address(self.oauth.app)}/token"

    @property
    def sts_url(self) -> str:
        """The token endpoint of the Security Token Service."""
        return f"http://{self._address(self.sts.app)}/v1/token"

    @property
    def iam_url(self) -> str:
        """The IAM Credentials API, without a path."""
        return f"http://{self._address(self.iam.app)}"

    @property
    def certs_url(self) -> str:
        """The certificates that tokens verify against, as google-auth reads them."""
        return f"http://{self._address(self.oauth.app)}/oauth2/v1/certs"

    @property
    def iap_keys_url(self) -> str:
        """The keys of IAP's assertions, in place of https://www.gstatic.com/iap/verify/public_key; the address plus
        `-jwk` gives them as JWKs."""
        return f"http://{self._address(self.oauth.app)}/iap/verify/public_key"

    @property
    def control_url(self) -> str:
        """Where faults are switched over HTTP: POST to this address plus `/faults`."""
        return f"http://{self._address(self._control.app)}/_emulator"

    @property
    def ca_file(self) -> Path:
        """The CA of the TLS targets, PEM."""
        return Path(self._directory.name) / "ca.pem"

    def environment(self) -> dict[str, str]:
        """What makes Google's libraries, gcloud, and so a sidecar, find the metadata server, laid over any other
        environment."""
        return {
            "GCE_METADATA_HOST": self.metadata_address,
            "GCE_METADATA_IP": self.metadata_address,
            # gcloud's name for it (googlecloudsdk/core/credentials/gce_read.py).
            "GCE_METADATA_ROOT": self.metadata_address,
            # R's gargle reads this one.
            "GCE_METADATA_URL": self.metadata_address,
            # npm's gcp-metadata otherwise looks for a machine of Google's first (its README).
            "METADATA_SERVER_DETECTION": "assume-present",
            # Who starts a process may have set these; each would keep it from asking here.
            "GCE_METADATA_MTLS_MODE": "none",
            "NO_GCE_CHECK": "false",
        }

    def write_key(self, path: Path, *, email: str = KEY_EMAIL) -> Path:
        """A service account key file that the token endpoint knows."""
        return self.oauth.write_key(path, self.oauth_url, email=email)

    def write_login(self, path: Path, user: User) -> Path:
        """The file that `gcloud auth application-default login` would leave."""
        return write_private(path, user.adc())

    def write_workforce(self, path: Path, user: User) -> Path:
        """The file that `gcloud auth application-default login --login-config=FILE` would leave."""
        info = {
            **user.adc(),
            "type": "external_account_authorized_user",
            "audience": "//iam.googleapis.com/locations/global/workforcePools/emulated/providers/emulated",
            "token_url": self.oauth_url,
            "token_info_url": f"{self.oauth_url}info",
        }
        return write_private(path, info)

    def write_federation(
        self,
        path: Path,
        provider: Provider,
        source: Mapping[str, Any],
        *,
        service_account: str | None = None,
        subject_token_type: str = JWT_TYPES[0],
    ) -> Path:
        """An `external_account` file; `source` is its `credential_source`."""
        info: dict[str, Any] = {
            "type": "external_account",
            "audience": provider.audience,
            "subject_token_type": subject_token_type,
            "token_url": self.sts_url,
            "credential_source": dict(source),
            "universe_domain": "googleapis.com",
        }
        if service_account is not None:
            info["service_account_impersonation_url"] = (
                f"{self.iam_url}/v1/projects/-/serviceAccounts/{service_account}:generateAccessToken"
            )
        return write_private(path, info)

    def aws_source(self) -> dict[str, str]:
        """The `credential_source` for an instance of AWS's, with its metadata service here."""
        imds = f"http://{self._address(self.sts.app)}/aws/latest"
        return {
            "environment_id": "aws1",
            "region_url": f"{imds}/meta-data/placement/availability-zone",
            "url": f"{imds}/meta-data/iam/security-credentials",
            "imdsv2_session_token_url": f"{imds}/api/token",
            "regional_cred_verification_url": "https://sts.{region}.amazonaws.com"
            "?Action=GetCallerIdentity&Version=2011-06-15",
        }

    def url_source(self, provider: Provider, *, json: bool = False) -> dict[str, Any]:
        """The `credential_source` for a subject token that is had by URL."""
        query = urlencode({"provider": provider.audience, "format": "json" if json else "text"})
        source: dict[str, Any] = {
            "url": f"http://{self._address(self.sts.app)}/subject-token?{query}",
            "headers": {"Metadata": "true"},
        }
        if json:
            source["format"] = {"type": "json", "subject_token_field_name": "value"}
        return source

    # servers

    async def add_target(
        self,
        name: str,
        *,
        kind: TargetKind = "cloud_run",
        audience: str | None = None,
        tls: bool = False,
        names: Collection[str] = (),
        callers: Collection[str] | None = None,
        **options: Any,
    ) -> Target:
        """A service that verifies what it is sent; over TLS it is called `localhost`.

        `audience` is its own URL unless given; `names` are further names for its certificate; `callers` are the
        e-mails of those who have permission (None: everyone). `options` are those of `Settings` for the kind;
        ValueError for others.
        """
        settings = Settings.of(kind, audience=audience, callers=callers, **options)
        names = (*names, *(f"{tag}---{name}.localhost" for tag in settings.tags))
        target = Target(name, settings, self._key, self._now, self.principals)
        if tls:
            named = (*self._names, f"{name}.localhost", *names)
            self._tls[target.app] = self._server_context(named, "h2" if settings.grpc else "http/1.1")
        await self.start(target.app)
        authority = "localhost" if tls else _bracketed(self._host)
        called = (
            None if self._host in _ANY else (*_LOOPBACK, authority, f"{name}.localhost", *self._names, *names)
        )
        target.listens_at("https" if tls else "http", authority, self._ports[target.app], called)
        self.targets[name] = target
        return target

    async def start(self, app: Served) -> None:
        """Listen; after `stop`, on the same port again. Nothing happens where it listens already."""
        if app in self._runners:
            return
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        port = self._ports.get(app)
        if port is None:
            port, self._next_port = self._next_port, self._next_port + (self._next_port > 0)
            if isinstance(app, web.Application):
                app.on_response_prepare.append(self._date)
        if (kept := self._kept.pop(app, None)) is not None:
            kept.close()
        sock = socket.create_server((self._host, port), family=family)
        self._runners[app] = await self._serve(app, sock), sock
        self._ports[app] = sock.getsockname()[1]

    async def _serve(self, app: Served, sock: socket.socket) -> HttpServer | GrpcServer:
        context = self._tls.get(app)
        if isinstance(app, GrpcServer):
            await app.start(sock, context)
            return app
        server = HttpServer(app, self._now)
        await server.start(sock, context)
        return server

    async def stop(self, app: Served) -> None:
        """Close every connection, and refuse further ones from now on; the port stays this one's."""
        if app not in self._runners:
            return
        runner, listening = self._runners.pop(app)
        # A server that is closed loses, and never closes, what the loop has accepted and not told it of yet (CPython's
        # base_events.Server._attach): that takes two turns, in which nothing more is accepted.
        asyncio.get_running_loop().remove_reader(listening)
        for _ in range(2):
            await asyncio.sleep(0)
        runner.stop_listening()
        self._keep(app)
        await runner.cleanup()

    def _keep(self, app: Served) -> None:
        kept = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        try:
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.bind((self._host, self._ports[app]))
        except OSError:
            kept.close()  # the system does not let it, beside connections that have yet to end
        else:
            self._kept[app] = kept

    def is_listening(self, app: Served) -> bool:
        """Whether it was started and not stopped."""
        return app in self._runners

    def _address(self, app: Served) -> str:
        return f"{_bracketed(self._host)}:{self._ports[app]}"

    def _server_context(self, names: Collection[str], protocol: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([protocol])
        # `load_cert_chain` reads files only.
        handle, path = tempfile.mkstemp(dir=self._directory.name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._authority.issue(names))
            context.load_cert_chain(path)
        finally:
            os.unlink(path)
        return context

    async def _date(self, _: web.Request, answer: web.StreamResponse) -> None:
        answer.headers["Date"] = formatdate(self._now(), usegmt=True)

    # what verifies the tokens

    def _add_keys(self, routes: web.UrlDispatcher) -> None:
        routes.add_get("/oauth2/v1/certs", self._certs)
        routes.add_get("/oauth2/v3/certs", self._jwks)
        routes.add_get("/.well-known/openid-configuration", self._discovery)
        routes.add_get("/iap/verify/public_key", self._iap_keys)
        routes.add_get("/iap/verify/public_key-jwk", self._iap_jwks)

    async def _certs(self, _: web.Request) -> web.Response:
        return web.json_response({self._key.kid: self._key.certificate_pem()}, headers=_CACHED)

    async def _jwks(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [self._key.jwk()]}, headers=_CACHED)

    async def _iap_keys(self, _: web.Request) -> web.Response:
        key = assertion_key()
        return web.json_response({key.kid: key.public_pem()}, headers=_CACHED)

    async def _iap_jwks(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [assertion_key().jwk()]}, headers=_CACHED)

    async def _discovery(self, request: web.Request) -> web.Response:
        here = f"http://{request.host}"
        return web.json_response(
            {
                "issuer": ISSUER,
                "token_endpoint": f"{here}/token",
                "jwks_uri": f"{here}/oauth2/v3/certs",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            },
            headers=_CACHED,
        )


_CACHED: Final = {"Cache-Control": "public, max-age=60, must-revalidate"}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
