"""Connects to an upstream.

Owns everything between a host name and a connected transport. It resolves the name and applies the rules of
`networks` to every address, and to the one that was connected to. It connects with happy eyeballs (RFC 8305),
addresses that failed lately last (`backoff`), and does TLS. If the upstream is behind a proxy (`egress`), the proxy's
addresses are checked, and the upstream's name as far as that is possible without its address. Called by the pool, in
a task of its own; every failure is a SidecarError, raised before anything of the request was sent.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast, final

import aiohappyeyeballs

from sidecar.errors import Reason, SidecarError
from sidecar.grammar import networks
from sidecar.net import egress, peer, tls, tls_faults, tls_handshake
from sidecar.net.backoff import LONGEST_PAUSE, Backoff, Failure
from sidecar.net.event_loop import readiness_of
from sidecar.net.hop import Hop, first_hop, name_of, not_dialled
from sidecar.net.resolver import AddressInfo, Lookup, Resolver, system_lookup
from sidecar.net.tcp import TcpTransport
from sidecar.net.tls_files import Contexts, Renewed
from sidecar.net.transport import Receiver, Transport
from sidecar.observe.metrics import RouteStats
from sidecar.routing.routes import Destination, Route
from sidecar.runtime import descriptors
from sidecar.runtime.clock import Clock
from sidecar.runtime.trust import Trust

_ATTEMPT_DELAY = 0.25
"""Seconds before the next address is tried beside the last one (RFC 8305 section 8)."""

R = TypeVar("R", bound=Receiver)


@final
class Dialer:
    """Makes connections for all routes."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        own: Collection[tuple[str, int]],
        clock: Clock,
        *,
        jitter: Callable[[], float],
        lookup: Lookup = system_lookup,
        trust: Trust | None = None,
    ) -> None:
        """`own` holds this process's own listeners and may be filled later. `jitter` gives numbers from 0 to 1.
        `trust` is used for upstreams without a `ca_file`; by default the system's CAs.
        """
        self._loop = loop
        self._readiness = readiness_of(loop)
        self._clock = clock
        self._own = own
        self._contexts = Contexts(clock, trust)
        self._resolver = Resolver(loop, lookup)
        self._backoff = Backoff()
        self._jitter = jitter

    def forget(self, routes: Iterable[Route]) -> None:
        """Drop what is kept for removed routes."""
        self._contexts.forget(routes)

    def check(self, route: Route) -> None:
        """Load the route's TLS files now; raises TLS_FILES for one that can't be used."""
        if route.config.upstream.startswith("https:"):
            self._contexts.of(route)

    def look(self) -> list[Renewed]:
        """Check the TLS files of all routes; return what changed since the last call."""
        return self._contexts.look()

    def client_expiries(self) -> Mapping[str, float]:
        """When the client certificates in use expire, in Unix seconds, by their routes' names."""
        return self._contexts.client_expiries()

    async def connect(
        self,
        destination: Destination,
        make: Callable[[bool], R],
        session: tls.Session | None,
        stats: RouteStats,
        *,
        http2: bool = False,
    ) -> R:
        """Connect to `destination` and return a receiver from `make`.

        `http2` asks for HTTP/2: over TLS it is offered, without TLS it is assumed. `make` is told whether HTTP/2 is
        spoken.
        """
        dial = _Dial(destination, http2=http2)
        try:
            return await self._dial(dial, make, session)
        except SidecarError as error:
            if dial.held_back:
                stats.connects_held_back += 1
            else:
                stats.connect_failures[error.reason] = stats.connect_failures.get(error.reason, 0) + 1
            raise

    async def _dial(self, dial: _Dial, make: Callable[[bool], R], session: tls.Session | None) -> R:
        destination, timeouts = dial.destination, dial.destination.route.config.timeouts
        name = name_of(destination)
        secured: ssl.SSLSocket | None = None
        try:
            async with asyncio.timeout(timeouts.connect):
                sock = await self._reach(dial) if destination.proxy is None else await self._tunnel(dial)
                if destination.tls:
                    doing = f"the TLS handshake with {name}"
                    async with dial.begin(Reason.TLS_TIMEOUT, doing, "tls", timeouts.tls):
                        secured = await self._handshake(dial, sock, session)
        except TimeoutError as error:
            raise dial.too_slow() from error
        # Out of the timeout's reach: a receiver that was connected and then given up would be lost as a connection and
        # fail as a dial, and its place in the pool be given back twice.
        try:
            if secured is not None:
                receiver = make(secured.selected_alpn_protocol() == "h2")
                tls.TlsTransport(self._loop, self._readiness, secured, receiver)
            else:
                receiver = make(dial.http2)
                TcpTransport(self._loop, self._readiness, sock, receiver)
        except BaseException:
            end = secured or sock
            self._readiness.leave(end.fileno())
            end.close()
            raise
        return receiver

    async def _reach(self, dial: _Dial) -> socket.socket:
        """A socket that is connected to the upstream, or to the proxy before it."""
        hop, timeouts = dial.hop, dial.destination.route.config.timeouts
        async with dial.begin(hop.reason(Reason.DNS_TIMEOUT), f"resolving `{hop.host}`", "dns", timeouts.dns):
            infos = await self._resolve(dial)
        async with dial.begin(
            hop.reason(Reason.CONNECT_TIMEOUT), f"connecting to {hop.name}", "connect", None
        ):
            return await self._connect(dial, infos)

    async def _tunnel(self, dial: _Dial) -> socket.socket:
        """A socket whose other end is the upstream, through the proxy.

        The backoff also holds for an upstream that the proxy can't reach.
        """
        destination, proxy = dial.destination, dial.destination.proxy
        assert proxy is not None  # noqa: S101 - for mypy
        if (why := egress.forbidden(destination)) is not None:
            raise not_dialled(destination, f"{destination.host}: {why}")
        name = name_of(destination)
        key = (proxy.host, proxy.port, destination.host, destination.port)
        self._plan(dial, [key], f"{dial.hop.name} made no way to {name}")
        try:
            sock = await self._reach(dial)
        except BaseException:
            self._backoff.not_made([key])
            raise
        began_mono = self._clock.mono()
        failure = Failure(Reason.EGRESS_PROXY_TIMEOUT, "no answer in time")
        try:
            doing = f"asking {dial.hop.name} for the way to {name}"
            async with dial.begin(Reason.EGRESS_PROXY_TIMEOUT, doing, "connect", None):
                await egress.open_tunnel(self._loop, sock, destination, proxy)
        except BaseException as error:
            sock.close()
            if isinstance(error, SidecarError):
                failure = Failure(error.reason, error.detail.partition(". ")[0])
            self._failed(key, failure, began_mono)
            raise
        self._backoff.worked(key)
        return sock

    async def _resolve(self, dial: _Dial) -> list[AddressInfo]:
        hop = dial.hop
        host = hop.host
        self._plan(dial, [host], f"`{host}` could not be resolved")
        began_mono = self._clock.mono()
        try:
            infos = await self._resolver.addresses(host, hop.port)
        except OSError as error:
            if error.errno in descriptors.EXHAUSTED:
                self._backoff.not_made([host])
                raise descriptors.none_left(f"resolving `{host}`", error) from error
            failure = Failure(Reason.DNS_FAILED, error.strerror or str(error))
            self._failed(host, failure, began_mono)
            raise SidecarError(
                hop.reason(Reason.DNS_FAILED),
                f"`{host}` could not be resolved ({failure.words}). "
                f"Check the route's `{hop.key}` and the resolver of this machine.",
            ) from error
        except asyncio.CancelledError:
            self._failed(host, Failure(Reason.DNS_TIMEOUT, "no answer in time"), began_mono)
            raise
        self._backoff.worked(host)
        whys = [self._forbidden(hop, info[4]) for info in infos]
        if all(whys):
            raise hop.not_dialled(dial.destination, "; ".join(why for why in whys if why))
        return [info for info, why in zip(infos, whys, strict=True) if why is None]

    def _plan(self, dial: _Dial, addresses: Sequence[Hashable], what: str) -> tuple[int, ...]:
        """The order in which to dial. Raises the last dial's error if it is too early for another."""
        timeouts = dial.destination.route.config.timeouts
        plan = self._backoff.plan(addresses, self._clock.mono(), self._jitter(), timeouts.connect)
        if plan.failure is None:
            return plan.order
        dial.held_back = True
        reason, words = dial.hop.reason(plan.failure.reason), plan.failure.words
        under_way = plan.wait > LONGEST_PAUSE
        then = "another try is under way" if under_way else f"the next one is made in {plan.wait:.2f} s"
        raise SidecarError(
            reason,
            f"{what} ({words}) {plan.since:.2f} s ago, after several failures in a row; {then}. "
            f"Check that {dial.hop.what} is up, and what the route's `{dial.hop.key}` names.",
        )

    def _failed(self, address: Hashable, failure: Failure, began_mono: float) -> None:
        now_mono = self._clock.mono()
        self._backoff.failed(
            address, failure, began_mono=began_mono, now_mono=now_mono, jitter=self._jitter()
        )

    def _forbidden(self, hop: Hop, address: Sequence[Any]) -> str | None:
        """Why a socket address must not be dialled, and the address; None if it may be."""
        why = networks.forbidden_address(
            str(address[0]), int(address[1]), hop.rules, own=self._own, is_here=is_here
        )
        return None if why is None else f"{address[0]}: {why}"

    async def _connect(self, dial: _Dial, infos: list[AddressInfo]) -> socket.socket:
        hop = dial.hop
        name = hop.name
        order = self._plan(dial, [info[4] for info in infos], f"{name} could not be connected to")
        attempted: list[Hashable] = []
        shortage: OSError | None = None

        def make_socket(info: Any) -> socket.socket:
            nonlocal shortage
            try:
                return socket.socket(*info[:3])
            except OSError as error:
                if error.errno in descriptors.EXHAUSTED:
                    shortage = error
                raise
            finally:
                if shortage is None:
                    attempted.append(info[4])

        began_mono = self._clock.mono()
        failure = Failure(Reason.CONNECT_TIMEOUT, "no answer in time")
        try:
            sock = await aiohappyeyeballs.start_connection(
                [infos[index] for index in order],
                happy_eyeballs_delay=_ATTEMPT_DELAY,
                # Families take turns (RFC 8305 section 4), unless what failed lately has its place at the end.
                interleave=int(order == tuple(range(len(infos)))),
                loop=self._loop,
                socket_factory=make_socket,
            )
        except OSError as error:
            if shortage is not None and not attempted:
                self._backoff.not_made([info[4] for info in infos])
                raise descriptors.none_left(f"connecting to {name}", shortage) from error
            failure = _connect_failure(error)
            raise _not_connected(hop, failure) from error
        else:
            address = _settled(sock, hop)
            # Those that began before it and are slower; what began later only lost the race.
            winner = next((i for i, tried in enumerate(attempted) if tried == address), 0)
            self._backoff.worked(address)
            del attempted[winner:]
        finally:
            for tried in attempted:
                self._failed(tried, failure, began_mono)
        # The peer is what counts: a kernel may connect to another address than the one it was given.
        if (why := self._forbidden(hop, address)) is not None:
            sock.close()
            raise hop.not_dialled(dial.destination, why)
        return sock

    async def _handshake(
        self, dial: _Dial, sock: socket.socket, session: tls.Session | None
    ) -> ssl.SSLSocket:
        side = _side(dial.destination)
        try:
            context = self._contexts.of(dial.destination.route, http2=dial.http2)
        except SidecarError:
            sock.close()
            raise
        try:
            return await tls_handshake.handshake(self._loop, sock, context, side.name, session)
        except tls_handshake.HandshakeError as failure:
            error = failure.error
            if isinstance(error, ssl.SSLCertVerificationError):
                raise tls_faults.certificate_fault(
                    error.verify_code, error.verify_message, failure.chain, side, self._clock.wall()
                ) from error
            if isinstance(error, ssl.SSLError) and not isinstance(
                error, ssl.SSLEOFError | ssl.SSLZeroReturnError
            ):
                raise tls_faults.handshake_fault(
                    tls_handshake.mnemonic(error), side, agreed=failure.agreed
                ) from error
            raise tls_faults.closed_in_handshake(side) from error


def later_fault(destination: Destination, transport: Transport, error: Exception) -> SidecarError | None:
    """What ended a connection that was up, if TLS says so; None for every other end, truncation included."""
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    version = cast(ssl.SSLSocket, transport.get_socket()).version()
    return tls_faults.later_fault(tls_handshake.mnemonic(error), _side(destination), version=version)


def _side(destination: Destination) -> tls_faults.Side:
    settings, proxy = destination.route.config.tls, destination.proxy
    return tls_faults.Side(
        name_of(destination) if proxy is None else f"{name_of(destination)} (through the proxy `{proxy}`)",
        settings.server_name or destination.host,
        has_ca_file=settings.ca_file is not None,
        has_client_certificate=settings.client_cert_file is not None,
    )


class _Dial:
    """One dial and its current phase, for the words of its timeout."""

    def __init__(self, destination: Destination, *, http2: bool) -> None:
        self.destination = destination
        self.http2 = http2
        self.hop = first_hop(destination)
        self.held_back = False
        """It was too early for another dial."""

    def begin(self, reason: Reason, doing: str, key: str, limit: float | None) -> asyncio.Timeout:
        """Start the next phase. It has a limit of its own, set by a key of `timeouts`, or none."""
        self._reason, self._doing, self._key, self._limit = reason, doing, key, limit
        self._own = asyncio.timeout(limit)
        return self._own

    def too_slow(self) -> SidecarError:
        """The error of the phase in which time ran out."""
        seconds, key = self._limit, self._key
        if seconds is None or not self._own.expired():
            seconds, key = self.destination.route.config.timeouts.connect, "connect"
        whole = ", which the phases of connecting share" if key == "connect" else ""
        return SidecarError(
            self._reason,
            f"After {seconds:g} s, {self._doing} had not finished. Check the network path and firewall, "
            f"or raise the route's `timeouts.{key}`{whole}.",
        )


def _settled(sock: socket.socket, hop: Hop) -> Any:
    """The address that a socket is connected to, with its options set. Closes a socket that was reset meanwhile."""
    try:
        # Linux sets them on a socket that was reset, too; other systems don't.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.probe(sock)
        return sock.getpeername()
    except OSError as error:
        sock.close()
        raise SidecarError(
            hop.reason(Reason.CONNECT_FAILED),
            f"{hop.name} reset the connection as soon as it was made. Check that {hop.what} is up.",
        ) from error


def _not_connected(hop: Hop, failure: Failure) -> SidecarError:
    return SidecarError(
        hop.reason(failure.reason),
        f"{hop.name} could not be connected to ({failure.words}). "
        f"Check that {hop.what} is up and that the route's `{hop.key}` names its port.",
    )


def _connect_failure(error: OSError) -> Failure:
    refused = error.errno == errno.ECONNREFUSED or "refused" in str(error).lower()
    if refused:
        return Failure(Reason.CONNECT_REFUSED, "connection refused")
    reason = Reason.CONNECT_TIMEOUT if error.errno == errno.ETIMEDOUT else Reason.CONNECT_FAILED
    return Failure(reason, error.strerror or str(error))


def is_here(address: str) -> bool:
    """Whether an address is one of this machine's: only those can be bound."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        if error.errno in descriptors.EXHAUSTED:
            raise descriptors.none_left(f"connecting to {address}", error) from error
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True
