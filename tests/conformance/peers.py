"""The table of hostile requests and answers against real nginx and real Envoy: `make compare-peers`.

Owns how the peers are configured and started, how every case is played against them, and verdicts.json, which keeps
what they did; `page` makes docs/conformance.md of it. They are set up as a careful operator would from their own
documentation: what is on beyond the defaults is listed in the page from OPTIONS here. Needs benchmarks/ on the path,
which provides the programs.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from machine import provide_envoy, provide_programs
from process import Process, RunError, free_port, wait_listening
from upstream import nginx_prelude

from tests.conformance import page, strict
from tests.conformance.play import ANSWER, LIMIT, Recorder, play
from tests.conformance.record import RECORD, Record, digest, dump
from tests.conformance.requests import REQUESTS, Hostile, get
from tests.conformance.responses import RESPONSES, Answer, ask

WORKERS = 16
"""Cases that are played at once: each worker has its own way through each peer to its own upstream."""

PATIENCE = 4.0
"""Seconds before a silence counts as one."""

ATTEMPTS = 5
"""Starts of a peer: a port that was free may be another's by the time it listens."""

END = 1.0
"""Seconds until an upstream closes after a hostile answer: some wait for that."""

SETTLE = 0.15
"""Seconds in which something that was smuggled would show."""


class Way(NamedTuple):
    """A port of the peer, and the upstream behind it."""

    port: int
    upstream: Recorder


# the peers


def nginx_config(directory: Path, ways: list[Way], *, keep: bool) -> str:
    """nginx as a reverse proxy for one name; every other name is a 404. `keep` keeps connections to the upstream."""
    keepalive = "keepalive 8; " if keep else ""
    servers = "".join(
        f"""
    upstream target{way.port} {{ server 127.0.0.1:{way.upstream.port}; {keepalive}}}
    server {{ listen 127.0.0.1:{way.port} default_server; server_name _; return 404; }}
    server {{
        listen 127.0.0.1:{way.port};
        server_name billing.internal;
        client_max_body_size 0;
        location / {{
            proxy_pass http://target{way.port};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }}
    }}"""
        for way in ways
    )
    return nginx_prelude(directory) + servers + "\n}\n"


_FILTERS = "type.googleapis.com/envoy.extensions.filters"


def _envoy_listener(way: Way) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": f"target{way.port}", "timeout": "30s"}}
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "conformance",
        "codec_type": "HTTP1",
        # From here: Envoy's "Configuring Envoy as an edge proxy".
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "stream_idle_timeout": "300s",
        "request_timeout": "300s",
        # To here. What the sidecar takes too:
        "http_protocol_options": {"accept_http_10": True},
        "strip_any_host_port": True,
        "strip_trailing_host_dot": True,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "virtual_hosts": [{"name": "billing", "domains": ["billing.internal"], "routes": [route]}]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    return {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": way.port}},
        "per_connection_buffer_limit_bytes": 32768,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _envoy_cluster(way: Way, *, keep: bool) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": way.upstream.port}}
    options = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {} if keep else {"max_requests_per_connection": 1},
    }
    return {
        "name": f"target{way.port}",
        "type": "STATIC",
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": 32768,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {
            "cluster_name": f"target{way.port}",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def envoy_config(ways: list[Way], *, keep: bool) -> str:
    """Envoy as its documentation says for an edge proxy, for one name."""
    listeners = [_envoy_listener(way) for way in ways]
    clusters = [_envoy_cluster(way, keep=keep) for way in ways]
    return json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}}, indent=2)


@contextmanager
def running(peer: str, envoy: str, ways: list[Way], *, keep: bool) -> Iterator[None]:
    """The peer, before these ways' upstreams; RunError where one of its ports was taken meanwhile."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        if peer == "nginx":
            config = directory / "nginx.conf"
            config.write_text(nginx_config(directory, ways, keep=keep))
            argv = ["nginx", "-p", place, "-c", str(config), "-e", str(directory / "error.log")]
        else:
            config = directory / "envoy.json"
            config.write_text(envoy_config(ways, keep=keep))
            argv = [envoy, "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
            argv += ["--log-level", "error"]
        with Process(peer, argv, cores=cores, directory=directory) as process:
            for way in ways:
                wait_listening(process, way.port)
            process.check()
            yield


def versions(envoy: str) -> dict[str, str]:
    """What ran."""

    def first(argv: list[str], pattern: str) -> str:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        found = re.search(pattern, done.stdout)
        return found[1] if found else "unknown"

    return {
        "nginx": first(["nginx", "-v"], r"nginx/(\S+)"),
        "envoy": first([envoy, "--version"], r"/(\d[\d.]+)/"),
    }


# what they did


async def request_verdict(way: Way, case: Hostile) -> str:
    """What became of a hostile request, in the words of the page."""
    way.upstream.forget()
    outcome = await play(way.port, case.data, patience=PATIENCE, settle=SETTLE)
    if way.upstream.ambiguous:
        return "forwards, ambiguous"
    if requests := way.upstream.requests:
        if any(b"/smuggled" in request.line for request in requests):
            return "forwards the hidden one"
        return "forwards" if len(requests) == 1 else f"forwards {len(requests)}"
    if outcome.statuses:
        return str(outcome.statuses[0])
    if outcome.data:
        return "answers without a head"
    return "closes" if outcome.closed else "waits"


FAILED = range(502, 505)


async def answer_verdict(way: Way, case: Answer) -> str:
    """What became of a hostile answer, and whether the next request met anything of it."""
    upstream = way.upstream
    upstream.answer, upstream.close_after = case.data, case.end
    closing = asyncio.get_running_loop().call_later(END, upstream.end)
    outcome = await play(way.port, ask(case), method=case.method, patience=PATIENCE, settle=SETTLE)
    closing.cancel()
    upstream.answer, upstream.close_after = ANSWER, False
    again = await play(way.port, get(), patience=PATIENCE)
    verdict = _passed(case, outcome.data, closed=outcome.closed)
    return verdict if again.data.endswith(b"\r\n\r\nok") else f"{verdict}, and spoils the next"


def _passed(case: Answer, data: bytes, *, closed: bool) -> str:
    try:
        answer = strict.read_answer(data, case.method)
    except strict.AmbiguousError:
        return "passes on, ambiguous"
    if answer is None:
        return "closes" if closed else "waits"
    if answer.status in FAILED:
        return str(answer.status)
    if answer.rest or b"second" in data.lower():
        return "passes on both"
    if answer.status == 101:
        return "switches"
    if not answer.framed:
        return "passes on until close" if closed else "cuts"
    return "passes on" if answer.whole else "cuts"


async def ready(way: Way) -> None:
    """Wait until the peer serves this way as if nothing had been before."""
    way.upstream.drop()
    way.upstream.answer, way.upstream.close_after = ANSWER, False
    async with asyncio.timeout(60):
        while True:
            try:
                if (await play(way.port, get(), patience=LIMIT)).data.endswith(b"\r\n\r\nok"):
                    return
            except ConnectionError:
                pass
            await asyncio.sleep(0.05)


async def survey(peer: str, envoy: str) -> dict[str, dict[str, str]]:
    """Both tables against one peer: name to verdict."""
    found: dict[str, dict[str, str]] = {"requests": {}, "responses": {}}
    for kind, cases in (("requests", REQUESTS), ("responses", RESPONSES)):
        recorders = [Recorder() for _ in range(WORKERS)]
        for recorder in recorders:
            await recorder.start()
        left: list[Hostile | Answer] = list(reversed(cases))

        async def work(way: Way, left: list[Hostile | Answer], known: dict[str, str]) -> None:
            while left:
                case = left.pop()
                await ready(way)
                verdict = request_verdict if isinstance(case, Hostile) else answer_verdict
                known[case.name] = await verdict(way, case)  # type: ignore[arg-type]  # they go together

        with ExitStack() as started:
            for attempt in range(ATTEMPTS):
                ways = [Way(free_port(), recorder) for recorder in recorders]
                try:
                    started.enter_context(running(peer, envoy, ways, keep=kind == "responses"))
                    break
                except RunError:
                    if attempt == ATTEMPTS - 1:
                        raise
            await asyncio.gather(*(work(way, left, found[kind]) for way in ways))
        for recorder in recorders:
            await recorder.stop()
    return found


async def compare() -> Record:
    """Every case against every peer."""
    provide_programs(["nginx", "taskset"])
    envoy = provide_envoy(Path(__file__).parents[2] / "benchmarks" / ".work")
    by_peer = {peer: await survey(peer, envoy) for peer in ("nginx", "envoy")}

    def table(kind: str, cases: tuple[Hostile, ...] | tuple[Answer, ...]) -> dict[str, dict[str, str]]:
        return {
            case.name: {
                "digest": digest(case),
                "nginx": by_peer["nginx"][kind][case.name],
                "envoy": by_peer["envoy"][kind][case.name],
            }
            for case in cases
        }

    return {
        "versions": versions(envoy),
        "requests": table("requests", REQUESTS),
        "responses": table("responses", RESPONSES),
    }


def main() -> int:
    """Play, keep, write the page, and fail where a peer refuses what the sidecar forwards."""
    record = asyncio.run(compare())
    if "--check" not in sys.argv:
        RECORD.write_text(dump(record))
        page.PAGE.write_text(page.render(record))
    defects = page.defects(record)
    for case, peer, verdict in defects:
        print(f"{peer} refuses {case} ({verdict}), and the sidecar forwards it", file=sys.stderr)
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
