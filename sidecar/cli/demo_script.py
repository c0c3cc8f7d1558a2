"""What the demo calls: the requests over HTTP/1.1, and the expected result of each.

Read by `demo`, which sends them. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.emulator.targets import Target


@dataclass(frozen=True)
class Call:
    """One call of the demo."""

    title: str
    shown: str
    """What the app does, as a person would write it."""
    port: int | str
    """A TCP port of the sidecar, or the path of its Unix socket."""
    lines: tuple[str, ...]
    """Request line and headers."""
    target: Target | None
    """The target whose verification is expected; None for one of the sidecar's own answers."""
    status: int = 200


def ways_in(port: int, own_port: int, socket: str, billing: Target) -> list[Call]:
    """Every way to call one route."""
    local, named = f"localhost:{port}", f"billing.localhost:{port}"
    return [
        Call(
            "by host",
            f"GET http://{local}/invoices with Host: billing.internal",
            port,
            ("GET /invoices HTTP/1.1", "Host: billing.internal"),
            billing,
        ),
        Call(
            "by name",
            f"GET http://{named}/invoices",
            port,
            ("GET /invoices HTTP/1.1", f"Host: {named}"),
            billing,
        ),
        Call(
            "own listener, TCP",
            f"GET http://localhost:{own_port}/invoices",
            own_port,
            ("GET /invoices HTTP/1.1", f"Host: localhost:{own_port}"),
            billing,
        ),
        Call(
            "own listener, Unix socket",
            "GET /invoices through proxy.sock",
            socket,
            ("GET /invoices HTTP/1.1", "Host: localhost"),
            billing,
        ),
        Call(
            "path prefix",
            f"GET http://{local}/billing/invoices",
            port,
            ("GET /billing/invoices HTTP/1.1", f"Host: {local}"),
            billing,
        ),
        Call(
            "path prefix, a redirect mapped back",
            f"GET http://{local}/billing/redirect",
            port,
            ("GET /billing/redirect?to=/invoices HTTP/1.1", f"Host: {local}"),
            billing,
            302,
        ),
    ]


def others(port: int, reports: Target, secure: Target) -> list[Call]:
    """Other targets, and refused requests."""
    local, run_app = f"localhost:{port}", "svc-abc123-uc.a.run.app"
    return [
        Call(
            "as HTTP_PROXY, target over https",
            f"GET http://{run_app}/x with HTTP_PROXY=http://{local}",
            port,
            (f"GET http://{run_app}/x HTTP/1.1", f"Host: {run_app}"),
            secure,
        ),
        Call(
            "behind IAP, the app's own Authorization kept",
            "GET /report with Host: reports.internal and Authorization: Bearer app's-own",
            port,
            ("GET /report HTTP/1.1", "Host: reports.internal", "Authorization: Bearer app's-own"),
            reports,
        ),
        Call(
            "CONNECT, which can't be given a token",
            f"CONNECT {run_app}:443",
            port,
            (f"CONNECT {run_app}:443 HTTP/1.1", f"Host: {run_app}:443"),
            None,
            501,
        ),
        Call(
            "no route: default deny",
            "GET /x with Host: biling.internal",
            port,
            ("GET /x HTTP/1.1", "Host: biling.internal"),
            None,
            404,
        ),
    ]
