"""Metrics: the names that operators see, and the plain integers behind them.

Owns the records that the data path and the token store count in (`RouteStats`, `TokenStats`,
`Histogram`) and the declaration of every metric family (`FAMILIES`, from which docs/metrics.md is
generated). `proxy` and `tokens` write the records, `service` implements `MetricsSource`,
`admin.exposition` reads them when it is scraped. All of it happens on the event loop's thread: there is
no lock, and no prometheus-client object.

It may not know how anything works: it holds numbers and names. Rules: the labels are a closed set of
route, audience, credential, code, method, reason and a few fixed words, and none that Google's collectors
claim; OpenMetrics 1.0 and Prometheus naming (base units, `_total`). A counter is never taken back: a
record lives as long as the process does. It is long because the table of all families is one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, final

from sidecar.errors import GONE, MEANINGS, Reason
from sidecar.observe.log_sink import Loss

METHODS = frozenset(
    "DELETE GET HEAD POST PUT CONNECT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK "
    "BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH "
    "PURGE MKCALENDAR LINK UNLINK SOURCE QUERY".split()
)
"""The values of the label `method`: what llhttp 9 lets through for HTTP. The empty string stands beside
them for a request whose head was never understood."""

TOKEN_STATES = ("fresh", "stale", "expired", "missing", "fetching", "failing")
"""The values of the label `state` of a token."""

OTHERS = "(others)"
"""The audience under which fetches are counted once there are more audiences than are kept apart."""

DURATION_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""Seconds. From an answer of the sidecar's own up to the default response timeout."""

OWN_BOUNDS = (
    *(0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Seconds. From a warm request (tens of microseconds) up to the default `token_wait`."""

LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds. From an idle loop up to one that is as good as dead."""

FETCH_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds. From a metadata server's cached answer up to a fetch that ran into its deadline."""


@final
class Histogram:
    """Counts of durations by upper bound, in seconds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration. Hot path: one bisect, two additions."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Stall(StrEnum):
    """Why the event loop stood."""

    BLOCKED = "blocked"
    """A callback took long."""
    FROZEN = "frozen"
    """The process did not run: stopped, suspended, or without CPU."""


@final
class LoopStats:
    """How well the event loop goes on."""

    __slots__ = ("lag", "stalls")

    def __init__(self) -> None:
        self.lag = Histogram(LAG_BOUNDS)
        self.stalls = dict.fromkeys(Stall, 0)


@final
class RouteStats:
    """What happened on one route since the process started; one more record counts what met no route."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "connect_failures",
        "connections_active",
        "connections_idle",
        "connections_opened",
        "connects_held_back",
        "cut",
        "idle_closed",
        "in_flight",
        "own",
        "pipelining_stopped",
        "queued",
        "refused",
        "replays",
        "requests",
        "retries",
        "retries_denied",
        "tls_current",
        "tls_reloads",
        "total",
        "tunnels",
        "upgrades",
        "upstream_refusals",
    )

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        """By method and code, each counted when it has ended; 499: the app left before the answer."""
        self.refused: dict[str, int] = {}
        """Answers that the sidecar made itself, by reason."""
        self.cut: dict[str, int] = {}
        """Answers that had begun and were broken off, and tunnels, by reason."""
        self.idle_closed = 0
        """Connections from the app that were closed because no request came."""
        self.pipelining_stopped = 0
        self.total = Histogram(DURATION_BOUNDS)
        self.own = Histogram(OWN_BOUNDS)
        self.in_flight = 0
        self.queued = 0
        """Of those in flight: how many wait for a connection, with all of the route's busy."""
        self.bytes_sent = 0
        """Body bytes that went to the upstream."""
        self.bytes_received = 0
        """Body bytes that came from the upstream."""
        self.connections_opened = 0
        self.connect_failures: dict[str, int] = {}
        """Dials that failed, by reason."""
        self.connects_held_back = 0
        """Dials that were not made, since several had failed just before."""
        self.connections_active = 0
        self.connections_idle = 0
        self.retries = 0
        """Sent again because a pooled connection had gone stale."""
        self.retries_denied = 0
        """Not sent again, because the route's `retry_budget` was spent."""
        self.replays = 0
        """Sent again with a new token because the upstream refused the old one."""
        self.tls_reloads: dict[str, int] = {}
        """Changes of the route's TLS files, by result (`ok`, `error`)."""
        self.tls_current: bool | None = None
        """Whether the last of them could be used; None while there was none under this configuration."""
        self.upgrades = 0
        self.tunnels = 0
        """Of the upgraded: how many are open."""
        self.upstream_refusals: dict[str, int] = {}
        """Answers with which the target refused the token or the caller, by cause."""

    def begun(self) -> int:
        """Requests so far, ended or not."""
        return sum(self.requests.values()) + self.in_flight

    def answered_well(self) -> int:
        """Answers with a status below 400."""
        return sum(count for (_, status), count in self.requests.items() if 100 <= status < 400)

    def upstream_errors(self) -> tuple[int, int]:
        """Answers of the upstream's own with a 4xx, and with a 5xx status."""
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
    """Why no connection is accepted for now."""

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
    """No version, cipher or signature that both know."""
    CLIENT_CERTIFICATE = "client_certificate"
    REJECTED = "rejected"
    """The caller did not accept the listener's certificate."""
    OTHER = "other"


@final
class ListenerStats:
    """What happened at the listeners since the process started."""

    __slots__ = ("accepted", "handshakes_failed", "paused", "pausing", "peers_refused")

    def __init__(self) -> None:
        self.accepted = 0
        self.paused: dict[Pause, int] = {}
        self.pausing = 0
        """Listeners at which callers wait to be accepted now."""
        self.peers_refused = 0
        """Connections of processes that a listener's `peers` does not name."""
        self.handshakes_failed: dict[HandshakeFailure, int] = {}


class CertificateReading(Protocol):
    """A certificate that a listener shows."""

    @property
    def expires_at(self) -> float | None:
        """Unix seconds."""
        ...

    @property
    def is_current(self) -> bool:
        """Whether the last reading of its files went well."""
        ...


@final
class TokenStats:
    """What happened to the tokens of one credential and audience since the process started."""

    __slots__ = ("duration", "fetches", "invalidated", "wait", "waiting", "waits")

    def __init__(self, duration: Histogram | None = None, wait: Histogram | None = None) -> None:
        self.fetches: dict[tuple[str, str], int] = {}
        """By result (`ok`, `same`, `error`) and reason (empty unless `error`)."""
        self.duration = duration or Histogram(FETCH_BOUNDS)
        self.waits = 0
        """Requests that found no token and had to wait, counted when they began to."""
        self.waiting = 0
        self.wait = wait or Histogram(FETCH_BOUNDS)
        self.invalidated = 0
        """Tokens dropped early because an upstream called them invalid."""


class TokenLabels(Protocol):
    """The part of a token's key that becomes labels."""

    @property
    def credential(self) -> str: ...
    @property
    def audience(self) -> str: ...


@final
class TokenStatsTable:
    """The token records of the process, by credential and audience.

    Bounded, since wildcard routes make audiences out of traffic: past `limit` records, new audiences of a
    credential share one (`OTHERS`). The two histograms are shared by all audiences of a credential: a few
    dozen series for each audience would cost more than they tell.
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


class TokenReading(Protocol):
    """What the store knows about one token now."""

    @property
    def key(self) -> TokenLabels: ...
    @property
    def state(self) -> str:
        """One of `TOKEN_STATES`."""
        ...

    @property
    def expires_at(self) -> float | None:
        """Unix seconds; None while there is no token."""
        ...


class ThreadsReading(Protocol):
    """The threads of one credential."""

    @property
    def running(self) -> int: ...
    @property
    def abandoned(self) -> int:
        """Of those that run: how many were given up."""
        ...

    @property
    def given_up(self) -> int:
        """How many fetches were given up so far."""
        ...


class ReloadReading(Protocol):
    """What became of attempts to read the configuration again."""

    @property
    def counts(self) -> Mapping[str, int]:
        """By result."""
        ...

    @property
    def last_ok(self) -> bool: ...
    @property
    def at(self) -> float:
        """When the configuration in force was read, in Unix seconds."""
        ...


class MetricsSource(Protocol):
    """What the collector reads; implemented by the composition root."""

    @property
    def version(self) -> str: ...
    @property
    def started_at(self) -> float:
        """Unix seconds."""
        ...

    def is_ready(self) -> bool: ...
    def routes(self) -> Iterable[tuple[str, RouteStats]]:
        """Every route's record under its name, and under the empty name that of requests without a route."""
        ...

    def connections(self) -> int:
        """Connections from apps that are open."""
        ...

    def listener_stats(self) -> ListenerStats: ...
    def certificates(self) -> Iterable[CertificateReading]: ...
    def client_expiries(self) -> Mapping[str, float]:
        """When the certificates that the sidecar shows to upstreams expire, in Unix seconds, by route."""
        ...

    def tokens(self) -> Iterable[TokenReading]: ...
    def token_stats(self) -> TokenStatsTable: ...
    def faults(self) -> int:
        """How many exceptions of the sidecar's own code were caught at its edges."""
        ...

    def loop_stats(self) -> LoopStats: ...
    def log_lines_lost(self) -> Mapping[Loss, int]:
        """By reason."""
        ...

    def reloads(self) -> ReloadReading: ...
    def fetch_threads(self) -> Iterable[tuple[str, ThreadsReading]]:
        """The threads of every credential, under its name."""
        ...


class Kind(StrEnum):
    """What a family is, in OpenMetrics terms."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric as an operator sees it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The base unit that the name ends in, or nothing."""
        stem = self.name.removesuffix("_total")
        return next((unit for unit in ("seconds", "bytes") if stem.endswith("_" + unit)), "")


def _family(name: str, kind: Kind, text: str, *labels: str) -> Family:
    return Family(f"idtoken_sidecar_{name}", kind, text, labels)


BUILD = _family("build_info", Kind.INFO, "The versions that are running.", "version", "python")
START = _family("start_time_seconds", Kind.GAUGE, "When the sidecar started, in Unix seconds.")
READY = _family("ready", Kind.GAUGE, "Whether /healthz/ready answers 200: 1 for yes, 0 for no.")
APP_CONNECTIONS = _family("app_connections", Kind.GAUGE, "Open connections from apps.")
ACCEPTED = _family(
    "app_connections_accepted_total", Kind.COUNTER, "Connections from apps that were accepted."
)
ACCEPT_PAUSES = _family(
    "accept_pauses_total",
    Kind.COUNTER,
    "Times at which a caller had to wait to be accepted: connections (`limits.connections`), listener_connections (the "
    "listener's own), descriptors (the process or the system has no more), memory, other.",
    "reason",
)
PAUSING = _family(
    "listeners_paused",
    Kind.GAUGE,
    "Listeners at which callers wait to be accepted now; `accept_pauses_total` has the reasons.",
)
PEERS_REFUSED = _family(
    "peers_refused_total",
    Kind.COUNTER,
    "Connections of processes that the Unix socket's `peers` does not name; their requests are answered 403.",
)
HANDSHAKES_FAILED = _family(
    "listener_tls_handshakes_failed_total",
    Kind.COUNTER,
    "TLS handshakes with apps that failed, by reason; rejected: the app did not accept the certificate.",
    "reason",
)
CERTIFICATE_EXPIRY = _family(
    "listener_certificate_expiry_timestamp_seconds",
    Kind.GAUGE,
    "When the first of the listeners' certificates expires, in Unix seconds; absent without one.",
)
CERTIFICATE_OK = _family(
    "listener_certificate_last_reload_successful",
    Kind.GAUGE,
    "Whether the last reading of each listener's certificate went well; else an old one is served. Absent without one.",
)
REQUESTS = _family(
    "requests_total",
    Kind.COUNTER,
    "Requests that have ended, with the status the app was given; 499 means that the app left first.",
    *("route", "method", "code"),
)
REFUSED = _family(
    "refused_total",
    Kind.COUNTER,
    "Answers that the sidecar made itself instead of forwarding one, by reason; the route is empty where "
    "none matched.",
    *("route", "reason"),
)
CUT = _family(
    "answers_cut_total",
    Kind.COUNTER,
    "Answers that had begun and were broken off, and upgraded connections that were, by reason.",
    *("route", "reason"),
)
IDLE_CLOSED = _family(
    "idle_connections_closed_total",
    Kind.COUNTER,
    "Connections from the app that were closed because no request came for `limits.keep_alive`; the route is empty "
    "for those to the shared listener.",
    "route",
)
PIPELINING_STOPPED = _family(
    "pipelining_stopped_total",
    Kind.COUNTER,
    "How often reading from a connection stopped because `limits.pipelined` requests waited for their turn; the route "
    "is empty for the shared listener's.",
    "route",
)
DURATION = _family(
    "request_duration_seconds",
    Kind.HISTOGRAM,
    "Time from the arrival of a request's head to the end of its answer.",
    "route",
)
OWN_DURATION = _family(
    "request_own_duration_seconds",
    Kind.HISTOGRAM,
    "The sidecar's own share: time from the arrival of a request's head until it was handed to an upstream "
    "connection, waiting for a token or a connection included.",
    "route",
)
IN_FLIGHT = _family("requests_in_flight", Kind.GAUGE, "Requests that have begun and not ended.", "route")
QUEUED = _family(
    "requests_queued",
    Kind.GAUGE,
    "Requests that wait for a connection because all `pool.connections` of their route are busy.",
    "route",
)
BYTES_SENT = _family(
    "request_body_bytes_total", Kind.COUNTER, "Body bytes that were sent to the upstream.", "route"
)
BYTES_RECEIVED = _family(
    "response_body_bytes_total", Kind.COUNTER, "Body bytes that were received from the upstream.", "route"
)
CONNECTIONS = _family(
    "upstream_connections",
    Kind.GAUGE,
    "Open upstream connections, by whether a request is using them (active) or they are pooled (idle).",
    *("route", "state"),
)
CONNECTIONS_OPENED = _family(
    "upstream_connections_opened_total",
    Kind.COUNTER,
    "Upstream connections that were opened; its ratio to requests tells how well pooling works.",
    "route",
)
CONNECT_FAILURES = _family(
    "upstream_connect_failures_total",
    Kind.COUNTER,
    "Upstream connections that could not be made, by reason: resolving, connecting or TLS.",
    *("route", "reason"),
)
CONNECTS_HELD_BACK = _family(
    "upstream_connects_held_back_total",
    Kind.COUNTER,
    "Upstream connections that were not tried, since all addresses had failed several times just before.",
    "route",
)
RETRIES = _family(
    "retries_total",
    Kind.COUNTER,
    "Requests that were sent again because a pooled connection had gone stale.",
    "route",
)
RETRIES_DENIED = _family(
    "retries_denied_total",
    Kind.COUNTER,
    "Requests that were not sent again, neither for a stale connection nor for a refused token, because the route's "
    "`retry_budget` was spent.",
    "route",
)
REPLAYS = _family(
    "token_replays_total",
    Kind.COUNTER,
    "Requests that were sent again with a new token because the upstream refused the old one.",
    "route",
)
UPGRADES = _family(
    "upgrades_total", Kind.COUNTER, "Connections that became a tunnel, such as WebSockets.", "route"
)
TUNNELS = _family("tunnels", Kind.GAUGE, "Upgraded connections that are open.", "route")
TLS_RELOADS = _family(
    "tls_files_reloads_total",
    Kind.COUNTER,
    "Changes of a route's TLS files: ok (connections made under the old ones are retired) or error, after which the "
    "old ones stay in use.",
    *("route", "result"),
)
TLS_OK = _family(
    "tls_files_last_reload_successful",
    Kind.GAUGE,
    "Whether the last change of a route's TLS files could be used; else the old ones stay in use. Absent before the "
    "first change.",
    "route",
)
TLS_CLIENT_EXPIRY = _family(
    "tls_client_certificate_expiry_timestamp_seconds",
    Kind.GAUGE,
    "When the certificate that is shown to a route's upstream expires, in Unix seconds; absent without one.",
    "route",
)
UPSTREAM_REFUSALS = _family(
    "upstream_refusals_total",
    Kind.COUNTER,
    "Answers with which the target refused the token or its caller, by what that means; `unexplained` is mostly "
    "the app's own 401 or 403.",
    *("route", "reason"),
)
FETCH_THREADS = _family(
    "token_fetch_threads",
    Kind.GAUGE,
    "Threads that fetch tokens now, by whether somebody waits for them (busy) or they were given up and still hang "
    "(abandoned).",
    *("credential", "state"),
)
ABANDONED = _family(
    "token_fetches_abandoned_total",
    Kind.COUNTER,
    "Fetches that were given up because their time was over.",
    "credential",
)
FAULTS = _family(
    "faults_total",
    Kind.COUNTER,
    "Exceptions in the sidecar's own code, each of which ended one connection at most; the log has the traceback. "
    "Any is a bug, or memory ran out.",
)
LOOP_LAG = _family(
    "event_loop_lag_seconds",
    Kind.HISTOGRAM,
    "How late the event loop's heartbeat was, which beats once a second: the time that everything had to wait then.",
)
LOOP_STALLS = _family(
    "event_loop_stalls_total",
    Kind.COUNTER,
    "Heartbeats that were over 0.1 s late, by whether a callback took so long (blocked; the log says where) or the "
    "process did not run (frozen): stopped, suspended, or without CPU.",
    "reason",
)
LOG_LINES_LOST = _family(
    "log_lines_lost_total",
    Kind.COUNTER,
    "Log lines that were not written: the reader is too slow (full) or gone, the disk is full (no_space), or another "
    "error.",
    "reason",
)
RELOADS = _family(
    "config_reloads_total",
    Kind.COUNTER,
    "Attempts to read the configuration again: ok, unchanged, or error, after which the old one stays in force.",
    "result",
)
RELOAD_OK = _family(
    "config_last_reload_successful",
    Kind.GAUGE,
    "Whether the last attempt to read the configuration again went well; 1 from the start.",
)
RELOADED_AT = _family(
    "config_last_reload_success_timestamp_seconds",
    Kind.GAUGE,
    "When the configuration in force was read, in Unix seconds.",
)
TOKEN_EXPIRY = _family(
    "token_expiry_timestamp_seconds",
    Kind.GAUGE,
    "When the token that is being served expires, in Unix seconds; absent while there is none.",
    *("credential", "audience"),
)
TOKEN_STATE = _family(
    "token_state",
    Kind.GAUGE,
    f"The state of each token: 1 for the current one of {', '.join(TOKEN_STATES)}, 0 for the rest.",
    *("credential", "audience", "state"),
)
TOKEN_FETCHES = _family(
    "token_fetches_total",
    Kind.COUNTER,
    "Fetches that have ended: ok, same (the endpoint handed out the token that was known already) or "
    "error, and its reason.",
    *("credential", "audience", "result", "reason"),
)
TOKEN_FETCH_DURATION = _family(
    "token_fetch_duration_seconds",
    Kind.HISTOGRAM,
    "Time that fetches took, whether they brought a token or not.",
    "credential",
)
TOKEN_INVALIDATED = _family(
    "token_invalidated_total",
    Kind.COUNTER,
    "Tokens that were dropped before their time because an upstream called them invalid.",
    *("credential", "audience"),
)
TOKEN_WAITS = _family(
    "token_waits_total",
    Kind.COUNTER,
    "Requests that found no usable token and had to wait for a fetch.",
    *("credential", "audience"),
)
TOKEN_WAITING = _family(
    "token_waiting",
    Kind.GAUGE,
    "Requests that are waiting for a token now.",
    *("credential", "audience"),
)
TOKEN_WAIT = _family(
    "token_wait_seconds",
    Kind.HISTOGRAM,
    "Time that requests waited for a token, whether one came or not.",
    "credential",
)

FAMILIES: tuple[Family, ...] = (
    *(BUILD, START, READY, FAULTS, LOOP_LAG, LOOP_STALLS, LOG_LINES_LOST, RELOADS, RELOAD_OK, RELOADED_AT),
    *(APP_CONNECTIONS, ACCEPTED, ACCEPT_PAUSES, PAUSING, PEERS_REFUSED),
    *(HANDSHAKES_FAILED, CERTIFICATE_EXPIRY, CERTIFICATE_OK),
    *(REQUESTS, REFUSED, CUT, IDLE_CLOSED, PIPELINING_STOPPED),
    *(DURATION, OWN_DURATION, IN_FLIGHT, QUEUED, BYTES_SENT, BYTES_RECEIVED),
    *(
        CONNECTIONS,
        CONNECTIONS_OPENED,
        CONNECT_FAILURES,
        CONNECTS_HELD_BACK,
        RETRIES,
        RETRIES_DENIED,
        REPLAYS,
        UPGRADES,
        TUNNELS,
        TLS_RELOADS,
        TLS_OK,
        TLS_CLIENT_EXPIRY,
        UPSTREAM_REFUSALS,
    ),
    *(TOKEN_EXPIRY, TOKEN_STATE, TOKEN_FETCHES, TOKEN_FETCH_DURATION, FETCH_THREADS, ABANDONED),
    *(TOKEN_INVALIDATED, TOKEN_WAITS, TOKEN_WAITING, TOKEN_WAIT),
)
"""Every family the sidecar declares, in the order they are exposed; prometheus-client's own `process_*`
families follow them."""
