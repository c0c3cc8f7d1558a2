"""The products that are compared: for each, its configuration file, command and environment.

Owns: how each product is set up to do the same job: take plain HTTP on loopback, set a bearer token for the
audience, forward over a kept-alive connection (plain, or TLS that is verified).
Called by: run.
May not: start anything.
Rule: a peer is configured as lean as its documentation allows (no access log, no request ids, one worker),
so that a comparison never flatters the sidecar.
"""

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from load import HOST
from metadata_server import make_token
from upstream import Certificates, nginx_prelude

ENVOY_TYPES = "type.googleapis.com/envoy.extensions"
AUDIENCE = "https://bench.example"
REPOSITORY = Path(__file__).resolve().parent.parent
OWN = ("sidecar", "compiled", "earlier")
"""Names of what is built from this repository."""
DEFAULT_CONNECTIONS = 10_000
"""Of the sidecar's `limits.connections`."""


@dataclass(frozen=True)
class Installed:
    """The product as it is installed for one Python: where the command is."""

    sidecar: Path
    """Of the pure build."""
    compiled: Path
    """Of the compiled one; there may be none."""

    @property
    def python(self) -> Path:
        """The Python of the pure one."""
        return self.sidecar.with_name("python")


CHECKOUT = Installed(
    REPOSITORY / ".venv" / "bin" / "idtoken-sidecar",
    REPOSITORY / "build" / "compiled" / "bin" / "idtoken-sidecar",
)
"""As `make test` and `make compiled` set it up, with whatever Python there is."""
PYTHON = CHECKOUT.python
"""It has grpcio, for the loads."""


def command(sidecar: Path) -> str:
    """How this one is started."""
    return f"{shlex.quote(str(sidecar))} run --config {{config}}"


@dataclass(frozen=True)
class Job:
    """What is asked of every contender alike, beyond setting a token and forwarding."""

    http2: bool = False
    """The upstream speaks HTTP/2, and nothing else."""
    secure: bool = False
    """The app connects by TLS."""
    access_log: bool = False
    """Every request is logged, as JSON or as the product does it."""
    live: bool = False
    """Messages go on at once, and connections may be upgraded to WebSocket."""
    routes: int = 1
    """Of the sidecar: more routes before the one that is loaded, all with the same upstream."""
    tokens: bool = False
    """Each of these routes has an audience of its own, whose token is fetched at the start."""
    connections: int = 1000
    """Open ones from apps at once, at least."""


@dataclass(frozen=True)
class Setting:
    """What stands around one instance of a product: its directory, its ports, its upstream."""

    directory: Path
    port: int
    admin_port: int
    upstream_port: int
    metadata_port: int
    ca_file: Path | None
    """None: the upstream is plain HTTP."""
    server: Certificates
    """What the product shows where the app connects by TLS."""
    job: Job = Job()

    @property
    def upstream(self) -> str:
        """As a URL."""
        return f"{'https://localhost' if self.ca_file else 'http://127.0.0.1'}:{self.upstream_port}"


@dataclass(frozen=True)
class Launch:
    """A command line, and what it needs in its environment."""

    argv: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Product:
    """A name for the command line, a title for the table, and how to prepare an instance."""

    name: str
    title: str
    prepare: Callable[[Setting], Launch]
    http1: bool = True
    """Whether it is set up for upstreams of HTTP/1.1 here."""
    http2: bool = True
    """Whether it speaks HTTP/2 to its upstream."""


def _sidecar(command: str) -> Callable[[Setting], Launch]:
    def prepare(setting: Setting) -> Launch:
        config = setting.directory / "config.yaml"
        config.write_text(_sidecar_config(setting))
        known = {
            "config": config,
            "port": setting.port,
            "admin_port": setting.admin_port,
            "upstream_port": setting.upstream_port,
            "ca_file": setting.ca_file or "",
        }
        metadata = f"127.0.0.1:{setting.metadata_port}"
        return Launch(
            [part.format_map(known) for part in shlex.split(command)],
            {"GCE_METADATA_HOST": metadata, "GCE_METADATA_IP": metadata},
        )

    return prepare


def _sidecar_config(setting: Setting) -> str:
    job, address = setting.job, f"127.0.0.1:{setting.port}"
    keys = f"{{cert_file: {setting.server.server}, key_file: {setting.server.server_key}}}"
    lines = [
        f"listen: {{address: '{address}', tls: {keys}}}" if job.secure else f"listen: {address}",
        f"admin: 127.0.0.1:{setting.admin_port}",
        *(["access_log: all", "log_format: json"] if job.access_log else []),
        *([f"limits: {{connections: {job.connections}}}"] if job.connections > DEFAULT_CONNECTIONS else []),
        "credentials:",
        "  default: {type: metadata}",
        "routes:",
    ]
    lines += [_sidecar_route(setting, f"r{number}", f"r{number}.test") for number in range(1, job.routes)]
    return "\n".join([*lines, _sidecar_route(setting, "bench", HOST), ""])


def _sidecar_route(setting: Setting, name: str, host: str) -> str:
    """One line: ten thousand of them have to stay below the limit of a configuration, 1 MiB."""
    own = setting.job.tokens and host != HOST
    keys = {
        "name": name,
        "host": host,
        "upstream": setting.upstream,
        "audience": f"https://{host}" if own else AUDIENCE,
        **({"tls": f"{{ca_file: {setting.ca_file}}}"} if setting.ca_file else {}),
        **({"protocol": "http2"} if setting.job.http2 else {}),
    }
    return f"- {{{', '.join(f'{key}: {value}' for key, value in keys.items())}}}"


def _envoy_cluster(name: str, port: int, **more: object) -> dict[str, object]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        **more,
    }


def _envoy_upstream(setting: Setting) -> dict[str, object]:
    audience = {
        "@type": f"{ENVOY_TYPES}.filters.http.gcp_authn.v3.Audience",
        "url": AUDIENCE,
    }
    more: dict[str, object] = {
        "metadata": {"typed_filter_metadata": {"envoy.filters.http.gcp_authn": audience}}
    }
    if setting.ca_file:
        name = {"san_type": "DNS", "matcher": {"exact": "localhost"}}
        more["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{ENVOY_TYPES}.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "localhost",
                "common_tls_context": {
                    **({"alpn_protocols": ["h2"]} if setting.job.http2 else {}),
                    "validation_context": {
                        "trusted_ca": {"filename": str(setting.ca_file)},
                        "match_typed_subject_alt_names": [name],
                    },
                },
            },
        }
    if setting.job.http2:
        more["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{ENVOY_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return _envoy_cluster("upstream", setting.upstream_port, **more)


def _envoy(binary: str) -> Callable[[Setting], Launch]:
    def prepare(setting: Setting) -> Launch:
        manager = _envoy_manager(setting)
        chain: dict[str, object] = {
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        }
        if setting.job.secure:
            chain["transport_socket"] = _envoy_listener_tls(setting)
        listener = {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": setting.port}},
            "filter_chains": [chain],
        }
        clusters = [_envoy_upstream(setting), _envoy_cluster("metadata", setting.metadata_port)]
        config = setting.directory / "envoy.json"
        config.write_text(
            json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}, indent=2)
        )
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        return Launch([binary, "-c", str(config), *options])

    return prepare


def _envoy_manager(setting: Setting) -> dict[str, object]:
    logs = {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{ENVOY_TYPES}.access_loggers.file.v3.FileAccessLog",
            "path": str(setting.directory / "access.log"),
        },
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}
    return {
        "@type": f"{ENVOY_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "generate_request_id": False,
        **({"access_log": [logs]} if setting.job.access_log else {}),
        **({"upgrade_configs": [{"upgrade_type": "websocket"}]} if setting.job.live else {}),
        "route_config": {"virtual_hosts": [{"name": "bench", "domains": [HOST], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.gcp_authn",
                "typed_config": {
                    "@type": f"{ENVOY_TYPES}.filters.http.gcp_authn.v3.GcpAuthnFilterConfig",
                    "cluster": "metadata",
                    "timeout": "10s",
                    "cache_config": {"cache_size": 100},
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{ENVOY_TYPES}.filters.http.router.v3.Router"},
            },
        ],
    }


def _envoy_listener_tls(setting: Setting) -> dict[str, object]:
    files = {
        "certificate_chain": {"filename": str(setting.server.server)},
        "private_key": {"filename": str(setting.server.server_key)},
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{ENVOY_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [files]},
        },
    }


def _nginx(setting: Setting) -> Launch:
    directory = setting.directory
    config = directory / "nginx.conf"
    tls = (
        f"""
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {setting.ca_file};
            proxy_ssl_server_name on;
            proxy_ssl_name localhost;
            proxy_ssl_protocols TLSv1.2 TLSv1.3;"""
        if setting.ca_file
        else ""
    )
    job = setting.job
    keys = f"ssl_certificate {setting.server.server}; ssl_certificate_key {setting.server.server_key};"
    upgrade = """
            proxy_buffering off;
            proxy_set_header Upgrade $http_upgrade;"""
    config.write_text(
        f"""{nginx_prelude(directory, connections=3 * job.connections + 100)}
    {f"access_log {directory}/access.log;" if job.access_log else ""}
    {'map $http_upgrade $kept { default upgrade; "" ""; }' if job.live else ""}
    upstream target {{
        server 127.0.0.1:{setting.upstream_port};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{setting.port} {"ssl " if job.secure else ""}backlog=1024;
        {keys if job.secure else ""}
        client_max_body_size 0;
        location / {{
            proxy_pass {"https" if setting.ca_file else "http"}://target;
            proxy_http_version 1.1;
            proxy_set_header Connection {"$kept" if job.live else '""'};{upgrade if job.live else ""}
            proxy_set_header Authorization "Bearer {make_token(AUDIENCE)}";
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;{tls}
        }}
    }}
}}
"""
    )
    return Launch(["nginx", "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")])


def _nghttpx(setting: Setting) -> Launch:
    backend = f"127.0.0.1,{setting.upstream_port};;proto=h2"
    lines = [
        f"frontend=127.0.0.1,{setting.port};no-tls",
        f"backend={backend};tls;sni=localhost" if setting.ca_file else f"backend={backend}",
        *([f"cacert={setting.ca_file}"] if setting.ca_file else []),
        f"add-request-header=authorization: Bearer {make_token(AUDIENCE)}",
        *("workers=1", "accesslog-file=/dev/null", f"pid-file={setting.directory}/pid"),
    ]
    config = setting.directory / "nghttpx.conf"
    config.write_text("\n".join([*lines, ""]))
    return Launch(["nghttpx", f"--conf={config}"])


def _go(program: str) -> Callable[[Setting], Launch]:
    def prepare(setting: Setting) -> Launch:
        options = {
            "listen": f"127.0.0.1:{setting.port}",
            "upstream": setting.upstream,
            "audience": AUDIENCE,
            "metadata": f"127.0.0.1:{setting.metadata_port}",
            "ca": setting.ca_file or "",
            "http2": str(setting.job.http2).lower(),
            "log": str(setting.job.access_log).lower(),
            **(
                {"cert": setting.server.server, "key": setting.server.server_key}
                if setting.job.secure
                else {}
            ),
        }
        return Launch(
            [program, *(f"-{name}={value}" for name, value in options.items())], {"GOMAXPROCS": "1"}
        )

    return prepare


def catalogue(
    *, envoy: str, go: str, sidecar_command: str, earlier: Path | None, installed: Installed = CHECKOUT
) -> list[Product]:
    """Every product that can be compared, in the order of the table.

    `earlier` is a checkout of another commit, which runs on the Python and the packages of `installed`.
    `sidecar_command` is a stand-in for the pure one of `installed`, unless it is empty.
    """
    title = "the command given" if sidecar_command else "idtoken-sidecar"
    python = shlex.quote(str(installed.python))
    before = f"env PYTHONPATH={shlex.quote(str(earlier))} {python} -m sidecar run --config {{config}}"
    return [
        Product("sidecar", title, _sidecar(sidecar_command or command(installed.sidecar))),
        Product("compiled", "idtoken-sidecar, compiled", _sidecar(command(installed.compiled))),
        Product("earlier", "idtoken-sidecar, earlier", _sidecar(before)),
        Product("envoy", "Envoy, gcp_authn with cache", _envoy(envoy)),
        Product("go", "Go's ReverseProxy, cached token", _go(go)),
        Product("nginx", "nginx, static token (floor)", _nginx, http2=False),
        Product("nghttpx", "nghttpx, static token (floor)", _nghttpx, http1=False),
    ]


def has_program(command: str) -> bool:
    """Whether the program that `command` names is there."""
    return shutil.which(shlex.split(command)[0]) is not None
