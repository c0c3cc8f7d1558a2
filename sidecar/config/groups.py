"""The groups of keys in a configuration: `tls`, `timeouts`, `pool`, `limits`, `drain`, `tracing` and
`intercept`.

Each key has its type, its default and its description here, as the others have in `models`. Pure.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sidecar.config.quantities import Duration, Size
from sidecar.config.values import Count, CountOrZero, Model, Switch
from sidecar.grammar import hosts
from sidecar.grammar.contents import quoted


class Tls(Model):
    """TLS to the upstream; verification can't be switched off. The files are read again when they change."""

    ca_file: str | None = Field(
        None,
        description="PEM file of what to trust instead of the system's CAs: roots, CAs below one, or the server's own "
        "certificate. Default: the top-level `ca_file`.",
    )
    client_cert_file: str | None = Field(None, description="PEM file of a client certificate and its chain.")
    client_key_file: str | None = Field(None, description="PEM file of the client certificate's key.")
    server_name: str | None = Field(
        None, description="Name to ask for and to verify, instead of the upstream's host."
    )
    crl_file: str | None = Field(
        None, description="PEM file of revocation lists (CRLs). Certificates on them are refused."
    )
    crl_check: Literal["chain", "leaf"] = Field(
        "chain",
        description="Which certificates need a list in `crl_file`: every one in the chain, or the server's own.",
    )
    allow_world_readable: Switch = Field(
        False,
        description="Use a `client_key_file` that every user of this machine can read. A Kubernetes secret is one "
        "unless its volume has `defaultMode: 0440`, which needs the pod's `fsGroup`.",
    )


class Timeouts(Model):
    """How long each phase of a request may take."""

    connect: Duration = Field(5.0, description="Resolving, connecting and the TLS handshake together.", gt=0)
    dns: Duration | None = Field(
        None,
        description="Resolving the upstream's name, as a part of `connect`. Default: as long as `connect`.",
        gt=0,
    )
    tls: Duration | None = Field(
        None, description="The TLS handshake, as a part of `connect`. Default: as long as `connect`.", gt=0
    )
    response: Duration = Field(
        300.0, description="From the end of the request to the start of the answer.", gt=0
    )
    send: Duration = Field(
        300.0, description="While the upstream takes no byte of what waits to be sent.", gt=0
    )
    idle: Duration = Field(
        300.0, description="Without a byte in either direction, after the answer has begun.", gt=0
    )
    tunnel_idle: Duration = Field(
        3600.0, description="Without a byte in either direction on an upgraded connection (WebSocket).", gt=0
    )
    total: Duration | None = Field(
        None,
        description="From the request's head to the end of the answer, with all waiting. Not for upgraded "
        "connections.",
        gt=0,
    )


class PoolSettings(Model):
    """Connections to upstreams, and the queue of requests that wait for one; all of it is per route."""

    connections: Count = Field(
        1000,
        description="At most this many connections at once, to all hosts of a route together. Further requests wait "
        "in the queue.",
    )
    queue: CountOrZero = Field(
        1000,
        description="How many requests of a route may wait for a connection. Further ones get a 503 (`queue_full`). "
        "`0`: none may wait.",
    )
    queue_wait: Duration = Field(
        10.0,
        description="How long a request may wait for a connection before it gets a 503 (`queue_timeout`).",
        gt=0,
    )
    idle: Duration = Field(60.0, description="Close a connection that was idle for this long.", gt=0)
    streams: Count = Field(
        100,
        description="At most this many requests at once on one HTTP/2 connection; fewer where the upstream says so.",
    )


class RoutePool(Model):
    """A route's own values for the top-level `pool`, key by key."""

    connections: Count | None = Field(
        None,
        description="At most this many connections. Default for this and the "
        "following keys: the top-level `pool`.",
    )
    queue: CountOrZero | None = Field(None, description="How many requests may wait for a connection.")
    queue_wait: Duration | None = Field(None, description="How long a request waits there.", gt=0)
    idle: Duration | None = Field(None, description="Close a connection that was idle for this long.", gt=0)
    streams: Count | None = Field(None, description="At most this many requests on one HTTP/2 connection.")

    def over(self, top: PoolSettings) -> PoolSettings:
        """What is in force for the route."""
        return top.model_copy(update={key: value for key, value in self if value is not None})


class Drain(Model):
    """What happens between the signal to stop and the end."""

    min: Duration = Field(
        2.0,
        description="Go on accepting connections for this long, with `Connection: close` in each answer: so an app "
        "that stops after the sidecar loses no request. Default on Cloud Run and "
        "Kubernetes: 4s; `max` where that is less.",
    )
    max: Duration = Field(
        8.0,
        description="Finish what is in flight for at most this long, `min` included. Default on Kubernetes: 25s.",
    )


class Limits(Model):
    """How much one connection may use, and how many connections there may be."""

    connections: Count = Field(
        10_000,
        description="Open connections from apps, on all listeners together. Further ones wait to be accepted. Fewer "
        "if the limit of open files (`ulimit -n`) leaves no room.",
    )

    head: Size = Field(65536, description="Size of a request's or an answer's head.", ge=1024)
    headers: Count = Field(200, description="Header lines of a request or an answer, and of their trailers.")
    pipelined: Count = Field(
        16, description="Requests of one connection that are read ahead, while earlier ones are answered."
    )
    target: Size = Field(16384, description="Length of a request's target (path and query).", ge=256)
    buffer: Size = Field(
        65536,
        description="Bytes that may wait to be sent on a connection: at this limit the sidecar stops reading from the "
        "other side. It also holds this much of a request's body for a second try.",
        ge=4096,
    )
    streams: Count = Field(
        100,
        description="Requests at once on one HTTP/2 connection from an app. Further ones are refused unread.",
    )
    stream_window: Size = Field(
        262144,
        description="Bytes of one body that an HTTP/2 peer may send before the other side has taken any of them; all "
        "streams of a connection may use it at once.",
        ge=16384,
        le=2**24,
    )
    tunnels: CountOrZero = Field(
        1000,
        description="Upgraded connections (WebSocket) at once, of all routes together. Further ones get a 503 "
        "(`tunnel_limit`).",
    )
    head_timeout: Duration = Field(
        10.0, description="From a request's first byte to the end of its head.", gt=0
    )
    body_timeout: Duration = Field(
        300.0, description="Without a byte of a request's body that is still to come.", gt=0
    )
    send_timeout: Duration = Field(
        300.0, description="While the app takes no byte of an answer that waits for it.", gt=0
    )
    keep_alive: Duration = Field(
        75.0, description="Without a request on an open connection from the app.", gt=0
    )


def _share(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{quoted(value)} is not a number from 0 to 1") from None


Share = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]
"""A number from 0 to 1."""


def _collector(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} is not a URL such as `http://localhost:4318`")
    try:
        hosts.parse_url(value)
    except ValueError:
        raise ValueError(
            f"{quoted(value)} is not a URL such as `http://localhost:4318`, OTLP over HTTP"
        ) from None
    if "?" in value or "#" in value:
        raise ValueError(f"{quoted(value)}: a collector's URL has neither query nor fragment")
    return value.rstrip("/").removesuffix("/v1/traces")


class Tracing(Model):
    """A span for each request, sent to an OpenTelemetry collector; needs `idtoken-sidecar[otel]`."""

    endpoint: Annotated[str, BeforeValidator(_collector)] | None = Field(
        None,
        description="The collector's OTLP/HTTP address, such as `http://localhost:4318`. Without one, no spans.",
    )
    sample: Share = Field(
        1.0,
        description="Share of the traces to keep that begin here. For a trace that the caller began, the caller "
        "decides.",
    )
    service_name: str = Field("idtoken-sidecar", description="The spans' `service.name`.", min_length=1)


class Intercept(Model):
    """Apps that call `https://` URLs: the sidecar shows them certificates of a CA of its own, for the hosts of routes
    that say `intercept: true` and for no others (docs/how-to/intercept.md)."""

    bundle_file: str | None = Field(
        None,
        description="Where to write, at start, the CA's certificate and those that this machine trusts, in PEM: what "
        "apps are to trust (SSL_CERT_FILE and the like).",
        min_length=1,
    )
    ca_cert_file: str | None = Field(
        None,
        description="PEM file of a CA of yours, with its issuers, instead of one that is made at start and whose key "
        "never leaves memory.",
        min_length=1,
    )
    ca_key_file: str | None = Field(None, description="PEM file of that CA's key.", min_length=1)
    allow_world_readable: Switch = Field(
        False, description="Use a `ca_key_file` that every user of this machine can read."
    )
