"""Other people's proxies that carry HTTP/2, between an app and one target: controls for what is asked of the sidecar.

Each is set up to carry plaintext HTTP/2 in and out, with defaults otherwise.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.eventually import eventually_here
from tests.support.sidecar import free_port

_FILTERS: Final = "type.googleapis.com/envoy.extensions.filters"


def envoy_binary() -> str | None:
    """Envoy, on the PATH or where `make bench` and `make compare-peers` install it."""
    work = Path(__file__).parents[2] / "benchmarks" / ".work" / "venv"
    installed = sorted(work.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return shutil.which("envoy") or (str(installed[0]) if installed else None)


def nghttpx_binary() -> str | None:
    """nghttp2's proxy; Debian puts it where only root's PATH looks."""
    return shutil.which("nghttpx", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")


def _envoy(binary: str, directory: Path, port: int, upstream_port: int) -> list[str]:
    http2 = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "tests",
        "use_remote_address": True,
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": upstream_port}}
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": http2,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    config = directory / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return [binary, "-c", str(config), *options]


def _nghttpx(binary: str, directory: Path, port: int, upstream_port: int) -> list[str]:
    conf = directory / "nghttpx.conf"
    conf.write_text(
        f"frontend=127.0.0.1,{port};no-tls\nbackend=127.0.0.1,{upstream_port};;proto=h2\nworkers=1\n"
        f"errorlog-file=/dev/null\naccesslog-file=/dev/null\npid-file={directory}/pid\n"
    )
    return [binary, f"--conf={conf}"]


PROXIES: Final[dict[str, tuple[Callable[[], str | None], Callable[[str, Path, int, int], list[str]]]]] = {
    "envoy": (envoy_binary, _envoy),
    "nghttpx": (nghttpx_binary, _nghttpx),
}
"""Name to where its binary is, and its command line."""


class Proxy:
    """One that runs."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[Any]) -> None:
        self.name = name
        self.port = port
        self.process = process


@contextmanager
def running(name: str, directory: Path, upstream_port: int) -> Iterator[Proxy]:
    """The proxy of this name, before a port of 127.0.0.1; skips where it is not installed."""
    find, command = PROXIES[name]
    binary = find()
    if binary is None:
        pytest.skip(f"{name} is not installed (`make compare-peers` installs it)")
    port = free_port()
    process = subprocess.Popen(
        command(binary, directory, port, upstream_port),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=directory,
    )
    try:
        wait_listening(process, port)
        yield Proxy(name, port, process)
    finally:
        process.kill()
        process.wait()


def wait_listening(process: subprocess.Popen[Any], port: int) -> None:
    """Return when 127.0.0.1:`port` accepts; AssertionError when the process ends or takes too long."""

    def listens() -> bool:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    eventually_here(listens, why=f"{process.args} says nothing when it listens")
