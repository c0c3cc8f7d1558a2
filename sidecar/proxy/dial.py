"""Connecting to an upstream.

Owns everything between a host name and a connected transport: resolution, the rules of `networks` for every address
that it gave and for the one that was connected to, happy eyeballs (RFC 8305), TLS with its contexts. Called by the
pool, in a task of its own; every way it can fail is a SidecarError, and nothing of the request was sent.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar, final

import aiohappyeyeballs

from sidecar import networks
from sidecar.clock import Clock
from sidecar.config.models import Tls
from sidecar.errors import Reason, SidecarError
from sidecar.proxy import peer, tls, tls_faults
from sidecar.routes import Destination, Route

_ATTEMPT_DELAY = 0.25
"""Seconds before the next address is tried beside the last one (RFC 8305 section 8)."""

P = TypeVar("P", bound=asyncio.Protocol)


@final
class Dialer:
    """Makes connections for all routes."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, own: Collection[tuple[str, int]], clock: Clock
    ) -> None:
        """`own` holds what this process listens on; it may be filled later."""
        self._loop = loop
        self._clock = clock
        self._own = own
        self._system: ssl.SSLContext | None = None
        self._contexts: dict[Route, ssl.SSLContext] = {}

    def forget(self, routes: Iterable[Route]) -> None:
        """Drop what is kept for routes that are gone."""
        for route in routes:
            self._contexts.pop(route, None)

    def check(self, route: Route) -> None:
        """Load the route's TLS files now; raises OSError or ssl.SSLError for one that can't be used."""
        if route.config.upstream.startswith("https:"):
            self._context(route)

    async def connect(
        self, destination: Destination, make: Callable[[], P], session: tls.Session | None
    ) -> P:
        """A protocol from `make` with its transport connected to `destination`."""
        timeout = destination.route.config.timeouts.connect
        phase = _Phase()
        try:
            async with asyncio.timeout(timeout):
                infos = await self._resolve(destination)
                phase.reason = Reason.CONNECT_TIMEOUT
                phase.doing = f"connecting to {_name(destination)}"
                sock = await self._connect(destination, infos)
                if not destination.tls:
                    _, plain = await self._loop.create_connection(make, sock=sock)
                    return plain
                phase.reason = Reason.TLS_TIMEOUT
                phase.doing = f"the TLS handshake with {_name(destination)}"
                secured = await self._handshake(destination, sock, session)
        except TimeoutError as error:
            doing = phase.doing or f"resolving `{destination.host}`"
            raise SidecarError(
                phase.reason,
                f"After {timeout:g} s, {doing} had not finished. Check the network path and firewall, "
                "or raise the route's `timeouts.connect`.",
            ) from error
        try:
            protocol = make()
            tls.TlsTransport(self._loop, secured, protocol)
        except BaseException:
            self._loop.remove_reader(secured)
            secured.close()
            raise
        return protocol

    async def _resolve(self, destination: Destination) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        try:
            infos = await self._loop.getaddrinfo(
                destination.host, destination.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except OSError as error:
            raise SidecarError(
                Reason.DNS_FAILED,
                f"`{destination.host}` could not be resolved ({error.strerror or error}). "
                "Check the route's `upstream` and the resolver of this machine.",
            ) from error
        whys = [self._forbidden(destination, info[4]) for info in infos]
        if all(whys):
            raise _not_dialled(destination, "; ".join(why for why in whys if why))
        allowed = [info for info, why in zip(infos, whys, strict=True) if why is None]
        return allowed  # type: ignore[return-value]  # typeshed's wider address tuple

    def _forbidden(self, destination: Destination, address: Sequence[Any]) -> str | None:
        """Why a socket address is not dialled, with the address; None if it may be."""
        config = destination.route.config
        rules = networks.rules_for(destination.host, allow_private=config.allow_private)
        why = networks.forbidden_address(
            str(address[0]), int(address[1]), rules, own=self._own, is_here=is_here
        )
        return None if why is None else f"{address[0]}: {why}"

    async def _connect(
        self, destination: Destination, infos: list[tuple[int, int, int, str, tuple[str, int]]]
    ) -> socket.socket:
        try:
            sock = await aiohappyeyeballs.start_connection(
                infos, happy_eyeballs_delay=_ATTEMPT_DELAY, interleave=1, loop=self._loop
            )
        except OSError as error:
            refused = error.errno == errno.ECONNREFUSED or "refused" in str(error).lower()
            raise SidecarError(
                Reason.CONNECT_REFUSED if refused else Reason.CONNECT_FAILED,
                f"{_name(destination)} could not be connected to "
                f"({'connection refused' if refused else error.strerror or error}). "
                "Check that the service is up and that the route's `upstream` names its port.",
            ) from error
        try:
            address = sock.getpeername()
        except OSError as error:
            sock.close()
            raise SidecarError(
                Reason.CONNECT_FAILED,
                f"{_name(destination)} reset the connection as soon as it was made. Check that the service is up.",
            ) from error
        # The peer is what counts: a kernel may connect to another address than the one it was given.
        if (why := self._forbidden(destination, address)) is not None:
            sock.close()
            raise _not_dialled(destination, why)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.probe(sock)
        return sock

    async def _handshake(
        self, destination: Destination, sock: socket.socket, session: tls.Session | None
    ) -> ssl.SSLSocket:
        side = _side(destination)
        try:
            return await tls.handshake(self._loop, sock, self._context(destination.route), side.name, session)
        except tls.HandshakeError as failure:
            error = failure.error
            if isinstance(error, ssl.SSLCertVerificationError):
                raise tls_faults.certificate_fault(
                    error.verify_code, error.verify_message, failure.chain, side, self._clock.wall()
                ) from error
            if isinstance(error, ssl.SSLError) and not isinstance(
                error, ssl.SSLEOFError | ssl.SSLZeroReturnError
            ):
                raise tls_faults.handshake_fault(tls.mnemonic(error), side, agreed=failure.agreed) from error
            raise tls_faults.closed_in_handshake(side) from error

    def _context(self, route: Route) -> ssl.SSLContext:
        settings = route.config.tls
        if settings.ca_file is None and settings.client_cert_file is None:
            if self._system is None:
                self._system = make_context(None)
            return self._system
        if (known := self._contexts.get(route)) is None:
            self._contexts[route] = known = make_context(settings)
        return known


def make_context(settings: Tls | None) -> ssl.SSLContext:
    """A client context: TLS 1.2 or newer, hostname checked, ALPN http/1.1, the system's CAs or the given one.

    There is no way to switch verification off. Raises OSError or ssl.SSLError for files that can't be used.
    """
    context = ssl.create_default_context(cafile=settings.ca_file if settings else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if settings is not None and settings.client_cert_file is not None:
        context.load_cert_chain(settings.client_cert_file, settings.client_key_file)
    return context


def later_fault(
    destination: Destination, transport: asyncio.BaseTransport, error: Exception
) -> SidecarError | None:
    """What a connection that was up ended in, where TLS says it; None for every other end, truncation among them."""
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    version = transport.get_extra_info("socket").version()
    return tls_faults.later_fault(tls.mnemonic(error), _side(destination), version=version)


def _side(destination: Destination) -> tls_faults.Side:
    settings = destination.route.config.tls
    return tls_faults.Side(
        _name(destination),
        settings.server_name or destination.host,
        has_ca_file=settings.ca_file is not None,
        has_client_certificate=settings.client_cert_file is not None,
    )


class _Phase:
    """What a dial is at, for the words of its timeout."""

    def __init__(self) -> None:
        self.reason = Reason.DNS_TIMEOUT
        self.doing = ""


def _not_dialled(destination: Destination, why: str) -> SidecarError:
    return SidecarError(
        Reason.ADDRESS_FORBIDDEN,
        f"Route `{destination.route.name}`: `{destination.host}` resolves to an address that is never dialled ({why}). "
        "Check the route's `upstream` and what DNS says of it.",
    )


def is_here(address: str) -> bool:
    """Whether an address is one of this machine's: no other can be bound."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


def _name(destination: Destination) -> str:
    return f"`{destination.host}:{destination.port}`"
