"""The records in which the sidecar counts, each field with the metric that shows it.

`proxy`, `net` and `tokens` write plain integers here, on the event loop's thread: there is no lock, and no
prometheus-client object. To add a counter, add a field here and a line where it counts; docs/metrics.md, the page and
the scrape follow (`families`). It holds numbers and names only. Rules: the labels are a closed set of route,
audience, credential, code, method, reason and a few fixed words, and none that Google's collectors claim. A counter
is never taken back: a record lives as long as the process does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Final, final

from sidecar.errors import GONE, MEANINGS, Reason
from sidecar.observe.family import counter, gauge, histogram
from sidecar.observe.histogram import Histogram

METHODS: Final = frozenset(
    "DELETE GET HEAD POST PUT CONNECT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK "
    "BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH "
    "PURGE MKCALENDAR LINK UNLINK SOURCE QUERY".split()
)
"""The values of the label `method`: what llhttp 9 lets through for HTTP. The empty string stands beside
them for a request whose head was never understood."""

TOKEN_STATES: Final = ("fresh", "stale", "expired", "missing", "fetching", "failing")
"""The values of the label `state` of a token."""

OTHERS: Final = "(others)"
"""The audience under which further fetches are counted once there are too many audiences."""

DURATION_BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""Seconds, from the sidecar's own answers up to the default response timeout."""

OWN_BOUNDS: Final = (
    *(0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Seconds, from a warm request (tens of microseconds) up to the default `token_wait`."""

LAG_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds, from an idle loop up to one that hardly runs."""

FETCH_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds, from a metadata server's cached answer up to a fetch that reached its deadline."""

_UPSTREAM_CONNECTIONS: Final = (
    "Open upstream connections, by whether a request is using them (active) or they are pooled (idle)."
)


class Stall(StrEnum):
    """Why the event loop stood still."""

    BLOCKED = "blocked"
    """A callback took too long."""
    FROZEN = "frozen"
    """The process did not run: stopped, suspended, or without CPU."""


@final
@dataclass(slots=True, eq=False)
class LoopStats:
    """How well the event loop runs."""

    lag: Histogram = histogram(
        "event_loop_lag_seconds",
        "How late the event loop's heartbeat was, which beats once a second while apps are connected: the time that "
        "everything had to wait then.",
        LAG_BOUNDS,
    )
    stalls: dict[Stall, int] = counter(
        "event_loop_stalls_total",
        "Heartbeats that were over 0.1 s late, by whether a callback took so long (blocked; the log says where) or the "
        "process did not run (frozen): stopped, suspended, or without CPU.",
        "reason",
        words=Stall,
    )


@final
@dataclass(slots=True, eq=False)
class ReloadStats:
    """The results of reading the configuration again."""

    outcomes: dict[str, int] = counter(
        "config_reloads_total",
        "Attempts to read the configuration again: ok, unchanged, or error, after which the old one stays in force.",
        "result",
        words=("ok", "unchanged", "error"),
    )
    last_ok: bool = gauge(
        "config_last_reload_successful",
        "Whether the last attempt to read the configuration again went well; 1 from the start.",
        default=True,
    )
    at: float = gauge(
        "config_last_reload_success_timestamp_seconds",
        "When the configuration in force was read, in Unix seconds.",
    )


@final
@dataclass(slots=True, eq=False)
class RouteStats:
    """What happened on one route since the process started. One more record counts the requests that matched no
    route.
    """

    requests: dict[tuple[str, int], int] = counter(
        "requests_total",
        "Requests that have ended, with the status the app was given; 499 means that the app left first.",
        *("method", "code"),
    )
    refused: dict[str, int] = counter(
        "refused_total",
        "The sidecar's own answers, given instead of forwarding one, by reason; the route is empty where none "
        "matched.",
        "reason",
    )
    cut: dict[str, int] = counter(
        "answers_cut_total",
        "Answers that had begun and were broken off, and upgraded connections that were, by reason.",
        "reason",
    )
    idle_closed: int = counter(
        "idle_connections_closed_total",
        "Connections from the app that were closed because no request came for `limits.keep_alive`; the route is empty "
        "for those to the shared listener.",
    )
    pipelining_stopped: int = counter(
        "pipelining_stopped_total",
        "How often reading from a connection stopped because `limits.pipelined` requests waited for their turn; the "
        "route is empty for the shared listener's.",
    )
    total: Histogram = histogram(
        "request_duration_seconds",
        "Time from the arrival of a request's head to the end of its answer.",
        DURATION_BOUNDS,
    )
    own: Histogram = histogram(
        "request_own_duration_seconds",
        "The sidecar's own share: time from the arrival of a request's head until it was handed to an upstream "
        "connection, waiting for a token or a connection included.",
        OWN_BOUNDS,
    )
    in_flight: int = gauge("requests_in_flight", "Requests that have begun and not ended.")
    queued: int = gauge(
        "requests_queued",
        "Requests that wait for a connection because all `pool.connections` of their route are busy.",
    )
    bytes_sent: int = counter("request_body_bytes_total", "Body bytes that were sent to the upstream.")
    bytes_received: int = counter(
        "response_body_bytes_total", "Body bytes that were received from the upstream."
    )
    connections_active: int = gauge("upstream_connections", _UPSTREAM_CONNECTIONS, state="active")
    connections_idle: int = gauge("upstream_connections", _UPSTREAM_CONNECTIONS, state="idle")
    connections_opened: int = counter(
        "upstream_connections_opened_total",
        "Upstream connections that were opened; its ratio to requests tells how well pooling works.",
    )
    connect_failures: dict[str, int] = counter(
        "upstream_connect_failures_total",
        "Upstream connections that could not be made, by reason: resolving, connecting or TLS.",
        "reason",
    )
    connects_held_back: int = counter(
        "upstream_connects_held_back_total",
        "Upstream connections that were not tried, since all addresses had failed several times just before.",
    )
    retries: int = counter(
        "retries_total", "Requests that were sent again because a pooled connection had gone stale."
    )
    retries_denied: int = counter(
        "retries_denied_total",
        "Requests that were not sent again, neither for a stale connection nor for a refused token, because the "
        "route's `retry_budget` was spent.",
    )
    replays: int = counter(
        "token_replays_total",
        "Requests that were sent again with a new token because the upstream refused the old one.",
    )
    http2: int = counter("http2_requests_total", "Requests that came in HTTP/2 and have ended.")
    grpc: dict[str, int] = counter(
        "grpc_calls_total", "Calls in gRPC that have ended, by the status that the app was given.", "status"
    )
    upstream_streams: int = gauge(
        "upstream_streams", "Requests under way on HTTP/2 connections to the upstream, each on its stream."
    )
    resets: dict[tuple[str, str], int] = counter(
        "http2_resets_total",
        "HTTP/2 streams that were ended before their time, by who ended them towards whom (from_app, to_app, "
        "from_upstream, to_upstream) and the error code. The route is empty for an app on the shared listener.",
        *("direction", "code"),
    )
    flow_control_stalls: int = counter(
        "flow_control_stalls_total",
        "How often an HTTP/2 stream stopped because its receiver took no more: the other side is then held up too.",
    )
    upgrades: int = counter("upgrades_total", "Connections that became a tunnel, such as WebSockets.")
    tunnels: int = gauge("tunnels", "Upgraded connections that are open.")
    tls_reloads: dict[str, int] = counter(
        "tls_files_reloads_total",
        "Changes of a route's TLS files: ok (connections made under the old ones are retired) or error, after which "
        "the old ones stay in use.",
        "result",
    )
    tls_current: bool | None = gauge(
        "tls_files_last_reload_successful",
        "Whether the last change of a route's TLS files could be used; else the old ones stay in use. Absent before "
        "the first change.",
        default=None,
    )
    upstream_refusals: dict[str, int] = counter(
        "upstream_refusals_total",
        "Answers with which the target refused the token or its caller, by what that means; `unexplained` is usually "
        "the app's own 401 or 403.",
        "reason",
    )

    def begun(self) -> int:
        """Requests so far, ended or not."""
        return sum(self.requests.values()) + self.in_flight

    def answered_well(self) -> int:
        """Answers with a status below 400."""
        return sum(count for (_, status), count in self.requests.items() if 100 <= status < 400)

    def upstream_errors(self) -> tuple[int, int]:
        """The upstream's own answers with a 4xx, and with a 5xx status."""
        found = {4: 0, 5: 0}
        for (_, status), count in self.requests.items():
            if status != GONE and status // 100 in found:
                found[status // 100] += count
        for reason, count in self.refused.items():
            status = MEANINGS[Reason(reason)].status
            if status != GONE:
                found[status // 100] -= count
        return found[4], found[5]


class Pause(StrEnum):
    """Why no connection is accepted at the moment."""

    CONNECTIONS = "connections"
    """`limits.connections` is reached."""
    LISTENER = "listener_connections"
    """A listener's own `connections` is."""
    DESCRIPTORS = "descriptors"
    MEMORY = "memory"
    OTHER = "other"


class HandshakeFailure(StrEnum):
    """Why a TLS handshake on a listener failed."""

    TIMEOUT = "timeout"
    CLOSED = "closed"
    PLAIN_HTTP = "plain_http"
    PROTOCOL = "protocol"
    """The two sides share no version, cipher or signature."""
    CLIENT_CERTIFICATE = "client_certificate"
    REJECTED = "rejected"
    """The caller did not accept the listener's certificate."""
    SERVER_NAME = "server_name"
    """The caller asked for a name that has no certificate here."""
    OTHER = "other"


@final
@dataclass(slots=True, eq=False)
class ListenerStats:
    """What happened at the listeners since the process started."""

    accepted: int = counter("app_connections_accepted_total", "Connections from apps that were accepted.")
    paused: dict[Pause, int] = counter(
        "accept_pauses_total",
        "Times at which a caller had to wait to be accepted: connections (`limits.connections`), listener_connections "
        "(the listener's own), descriptors (the process or the system has no more), memory, other.",
        "reason",
        words=Pause,
    )
    pausing: int = gauge(
        "listeners_paused",
        "Listeners at which callers wait to be accepted now; `accept_pauses_total` has the reasons.",
    )
    peers_refused: int = counter(
        "peers_refused_total",
        "Connections of processes that the Unix socket's `peers` does not name; their requests are answered 403.",
    )
    handshakes_failed: dict[HandshakeFailure, int] = counter(
        "listener_tls_handshakes_failed_total",
        "TLS handshakes with apps that failed, by reason; rejected: the app did not accept the certificate; "
        "server_name: it asked for no host of an intercepted route.",
        "reason",
        words=HandshakeFailure,
    )


@final
@dataclass(slots=True, eq=False)
class HandoutStats:
    """What one server that gives tokens to programs has done since the process started."""

    given: dict[str, int] = counter(
        "handouts_total",
        "Tokens, or placeholders, that programs were given, by server and kind.",
        "kind",
    )
    refused: dict[str, int] = counter(
        "handouts_refused_total",
        "Requests for tokens that were refused or got none, by server and reason.",
        "reason",
    )


@final
@dataclass(slots=True, eq=False)
class TokenStats:
    """What happened to the tokens of one credential and audience since the process started."""

    duration: Histogram = field(default_factory=partial(Histogram, FETCH_BOUNDS))
    """How long fetches took. All audiences of a credential share this, and `wait`."""
    wait: Histogram = field(default_factory=partial(Histogram, FETCH_BOUNDS))
    fetches: dict[tuple[str, str], int] = counter(
        "token_fetches_total",
        "Fetches that have ended: ok, same (the endpoint handed out the token that was known already) or "
        "error, and its reason.",
        *("result", "reason"),
    )
    invalidated: int = counter(
        "token_invalidated_total",
        "Tokens that were dropped before their time because an upstream called them invalid.",
    )
    waits: int = counter(
        "token_waits_total", "Requests that found no usable token and had to wait for a fetch."
    )
    waiting: int = gauge("token_waiting", "Requests that are waiting for a token now.")


@final
class TokenStatsTable:
    """The token records of the process, by credential and audience.

    Bounded, because traffic to wildcard routes creates audiences: past `limit` records, new audiences of a credential
    share one (`OTHERS`). All audiences of a credential share the two histograms, because a few dozen series for each
    would cost too much.
    """

    __slots__ = ("_limit", "_records", "_shared")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: dict[tuple[str, str], TokenStats] = {}
        self._shared: dict[str, tuple[Histogram, Histogram]] = {}

    def record(self, credential: str, audience: str) -> TokenStats:
        """The one record of this credential and audience; made at first use, never dropped."""
        if (found := self._records.get((credential, audience))) is not None:
            return found
        if len(self._records) >= self._limit:
            audience = OTHERS
            if (found := self._records.get((credential, audience))) is not None:
                return found
        if credential not in self._shared:
            self._shared[credential] = (Histogram(FETCH_BOUNDS), Histogram(FETCH_BOUNDS))
        record = self._records[credential, audience] = TokenStats(*self._shared[credential])
        return record

    def records(self) -> Iterable[tuple[tuple[str, str], TokenStats]]:
        """Every record under (credential, audience)."""
        return self._records.items()

    def histograms(self) -> Iterable[tuple[str, tuple[Histogram, Histogram]]]:
        """By credential: how long fetches took, how long requests waited."""
        return self._shared.items()
