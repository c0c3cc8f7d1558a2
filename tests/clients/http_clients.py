"""HTTP clients that know nothing of the sidecar, each in a process of its own, by every way in that it can use.

Owns how each is started and what it can do. Called by `test_ways_in`, which judges what they bring.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, NamedTuple, final

from tests.clients.libraries import NODE_MODULES, PROGRAMS, ROOT, missing_of
from tests.support.browser import CHROMIUM

TASKS: Final = ("up", "down", "chunked", "gzip", "sse", "parallel", "utf8", "websocket")
"""20 MB up and down, compared by hash; a body of unknown length; a compressed answer; server-sent events; 50 requests at
once; characters outside of ASCII in path and query; a WebSocket with 300 kB."""
WAYS: Final = ("listener", "prefix", "host", "proxy")
"""The route's own listener, its `path_prefix`, the Host header, and the sidecar as an HTTP proxy."""
_PLAIN: Final = TASKS[:-1]


@final
class Client(NamedTuple):
    """One client."""

    title: str
    command: tuple[str, ...]
    needs: tuple[Path | str, ...] = ()
    package: str = ""
    tasks: tuple[str, ...] = _PLAIN
    ways: tuple[str, ...] = WAYS
    daily: tuple[str, ...] = ()
    """The ways that `make test` tries, too: each client there by one, each way by one client at least."""
    environ: tuple[tuple[str, str], ...] = ()
    websocket: tuple[str, ...] = ()
    """The ways by which it opens a WebSocket."""

    @property
    def missing(self) -> list[str]:
        """What of its needs is not here."""
        return missing_of(self.needs)

    def tasks_by(self, way: str) -> tuple[str, ...]:
        """What it can do by this way."""
        return tuple(task for task in self.tasks if task != "websocket" or way in self.websocket)


def _python(name: str) -> tuple[str, ...]:
    return (sys.executable, str(PROGRAMS / "python_client.py"), name)


def _node(name: str) -> tuple[str, ...]:
    return ("node", str(PROGRAMS / "node_client.cjs"), name)


_NODE: Final = (("NODE_PATH", str(NODE_MODULES)),)
CLIENTS: Final = {
    "curl": Client("curl", _python("curl"), ("curl",), "curl", daily=("listener",)),
    "wget": Client(
        "wget", _python("wget"), ("wget",), "wget", tasks=tuple(task for task in _PLAIN if task != "chunked")
    ),
    "requests": Client("requests (Python)", _python("requests"), daily=("prefix",)),
    "httpx": Client("httpx (Python)", _python("httpx"), daily=("proxy",)),
    "urllib3": Client("urllib3 (Python)", _python("urllib3"), daily=("host",)),
    "aiohttp": Client("aiohttp (Python)", _python("aiohttp"), tasks=TASKS, daily=("host",), websocket=WAYS),
    "fetch": Client("fetch (Node)", _node("fetch"), ("node",), "nodejs", ways=("listener", "prefix")),
    "undici": Client(
        "undici (Node)",
        _node("undici"),
        ("node", NODE_MODULES / "undici"),
        "`make clients`",
        ways=("listener", "prefix", "proxy"),
        environ=_NODE,
    ),
    "axios": Client(
        "axios (Node)", _node("axios"), ("node", NODE_MODULES / "axios"), "`make clients`", environ=_NODE
    ),
    "ws": Client(
        "ws (Node)",
        _node("ws"),
        ("node", NODE_MODULES / "ws"),
        "`make clients`",
        tasks=("websocket",),
        ways=("listener", "prefix", "host"),
        environ=_NODE,
        websocket=WAYS,
    ),
    "go": Client(
        "net/http (Go)",
        ("go", "run", str(PROGRAMS / "client.go")),
        ("go",),
        "golang-go",
        environ=(("GO111MODULE", "off"), ("GOFLAGS", "")),
    ),
    "java": Client(
        "java.net.http (Java)",
        ("java", "-Djdk.httpclient.allowRestrictedHeaders=host", str(PROGRAMS / "Client.java")),
        ("java",),
        "default-jdk-headless",
        tasks=tuple(task for task in TASKS if task != "gzip"),
        websocket=("listener", "prefix"),
    ),
    "php": Client("curl (PHP)", ("php", str(PROGRAMS / "client.php")), ("php",), "php-cli php-curl"),
    "ruby": Client("Net::HTTP (Ruby)", ("ruby", str(PROGRAMS / "client.rb")), ("ruby",), "ruby"),
    "perl": Client(
        "HTTP::Tiny (Perl)",
        ("perl", str(PROGRAMS / "client.pl")),
        ("perl",),
        "perl",
        tasks=("up", "down", "chunked", "sse", "utf8"),
        ways=("listener", "prefix", "proxy"),
    ),
    "chromium": Client(
        "Chromium",
        (sys.executable, str(PROGRAMS / "chromium_client.py")),
        (CHROMIUM or "chromium",),
        "chromium",
        # What it sends by fetch has a length, but in HTTP/2.
        tasks=tuple(task for task in TASKS if task != "chunked"),
        ways=("listener", "prefix", "proxy"),
        environ=(("PYTHONPATH", str(ROOT)),),
        websocket=WAYS,
    ),
}
"""By the name that a test has."""
