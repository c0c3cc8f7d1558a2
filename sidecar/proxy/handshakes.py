"""TLS with apps, up to the end of the handshake.

Owns the time that one may take, how it fails, and which origin what follows is for. Made by the acceptor, which hands
it accepted sockets: of a listener with a certificate, of one that intercepts, and of tunnels that apps were given by
CONNECT. What comes out is a `TlsTransport` with a connection of the app's; what fails is counted by its reason and
closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast, final

from sidecar.errors import Reason, SidecarError
from sidecar.net import tls, tls_handshake
from sidecar.net.event_loop import readiness_of
from sidecar.net.interception import AskedSocket, Interception
from sidecar.net.listeners import Owner
from sidecar.net.origins import Origin
from sidecar.net.tcp import attach
from sidecar.net.transport import Receiver
from sidecar.observe.metrics import HandshakeFailure, ListenerStats
from sidecar.runtime.clock import Clock

_log = logging.getLogger(__name__)

Make = Callable[[Owner, SidecarError | None, bool], Receiver]
"""The receiver for a connection of this owner; with an error, each of its requests is answered by that, or the
connection itself at once, whatever it sends."""


@final
class Handshakes:
    """See the module's docstring."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        make: Make,
        name_of: Callable[[Owner], str | None],
        *,
        stats: ListenerStats,
        log: Callable[..., None],
        seconds: float,
    ) -> None:
        """`name_of` says where an owner's listener listens, `log` logs the same thing once a minute; `seconds` are for
        one handshake."""
        self._loop = loop
        self._readiness = readiness_of(loop)
        self._clock = clock
        self._make = make
        self._name_of = name_of
        self._stats = stats
        self._log = log
        self.seconds = seconds
        self.interception = Interception(clock)

    async def listener(self, sock: socket.socket, owner: Owner, barred: SidecarError | None) -> None:
        """Of a connection to a listener; `barred` is what a process is answered that may not call there."""
        certificate = owner.certificate
        context = (
            self.interception.listener_context(owner.route) if certificate is None else certificate.context
        )
        await self.shake(sock, owner, context, barred)

    async def shake(
        self, sock: socket.socket, owner: Owner, context: ssl.SSLContext, barred: SidecarError | None
    ) -> None:
        """Do the handshake within its time."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        sock.setblocking(False)
        if not owner.is_unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        is_late = False

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            task.cancel()

        timer = self._clock.call_later(self.seconds, give_up)
        secured: ssl.SSLSocket | None = None
        try:
            if await tls_handshake.speaks_plainly(self._loop, sock):
                self.failed(HandshakeFailure.PLAIN_HTTP, owner)
                timer.cancel()
                attach(self._loop, self._readiness, sock, self._make(owner, _plain_http(), True))
                return
            secured = tls_handshake.accepted(sock, context)
            await tls_handshake.accept_handshake(self._loop, secured)
        except OSError as error:
            sock.close()  # where TLS has not taken it over
            self._failed_by(error, secured, owner)
        except asyncio.CancelledError:
            sock.close()
            if not is_late:
                raise
            task.uncancel()
            self.failed(HandshakeFailure.TIMEOUT, owner)
        else:
            try:
                if (inner := self._owner_of(secured, owner, context)) is not None:
                    receiver = self._receiver(inner, barred)
                    tls.TlsTransport(self._loop, self._readiness, secured, receiver)
            except BaseException:
                self._readiness.leave(secured.fileno())
                secured.close()
                raise
        finally:
            timer.cancel()

    def _owner_of(self, secured: ssl.SSLSocket, owner: Owner, context: ssl.SSLContext) -> Owner | None:
        """Whose what follows is; None for a connection that is closed instead."""
        certificate = owner.certificate
        if owner.is_outdated and certificate is not None and certificate.context is not context:
            # The client certificate was judged by CAs that are others now.
            secured.close()
            self.failed(HandshakeFailure.CLIENT_CERTIFICATE, owner)
            return None
        if self._is_of_before(owner, context):
            secured.close()
            self.failed(HandshakeFailure.OTHER, owner)
            return None
        if owner.intercepts and isinstance(secured, AskedSocket):
            return owner.inside(Origin(b"https://", secured.asked, None))
        return owner

    def _receiver(self, owner: Owner, barred: SidecarError | None) -> Receiver:
        """What a connection's requests are read by: not by a proxy, where their host is no route's."""
        if barred is None and owner.origin is not None and self.interception.answers(owner.origin.host):
            if (answer := self.interception.answer) is not None:
                return answer(owner)
            barred = SidecarError(
                Reason.OVERLOADED, f"`{owner.origin.host}` is not answered here yet. Ask again in a moment."
            )
        return self._make(owner, barred, False)

    def _is_of_before(self, owner: Owner, context: ssl.SSLContext) -> bool:
        """Whether another configuration has come meanwhile than the one that let this app in by an intercepted host."""
        if owner.origin is not None:
            return owner.entrance.closing or not self.interception.shows(owner.origin.host, context)
        return owner.intercepts and (
            owner.closing or context is not self.interception.listener_context(owner.route)
        )

    def lost_unused(self, owner: Owner, error: OSError) -> None:
        """A connection ended by an error before its first request: by an alert, where its caller does not trust it."""
        is_tls = owner.certificate is not None or (owner.origin is not None and owner.origin.is_secure)
        if is_tls and isinstance(error, ssl.SSLError):
            reason = tls_handshake.failure_of(error)
            if reason is not HandshakeFailure.CLOSED:
                self.failed(reason, owner)

    def _failed_by(self, error: OSError, secured: ssl.SSLSocket | None, owner: Owner) -> None:
        refusal = secured.refusal if isinstance(secured, AskedSocket) else None
        if refusal is None:
            self.failed(tls_handshake.failure_of(error), owner)
            return
        self.failed(HandshakeFailure.SERVER_NAME, owner)
        # The detail has the name that the app asks for, and is no part of what is counted as the same line.
        fields: dict[str, Any] = {"listen": self._name_of(owner), "detail": refusal.detail}
        self._log(logging.WARNING, "no certificate for an app", fields)

    def failed(self, reason: HandshakeFailure, owner: Owner) -> None:
        """A caller came no further than that."""
        listener = self._name_of(owner)
        self._stats.handshakes_failed[reason] = self._stats.handshakes_failed.get(reason, 0) + 1
        _log.debug("TLS handshake failed", extra={"fields": {"reason": str(reason), "listen": listener}})
        origin = owner.origin
        if reason is HandshakeFailure.REJECTED and (origin is not None or owner.intercepts):
            what = "what it asked for" if origin is None else f"`{origin.host}`"
            file = self.interception.bundle_file
            trust = "the CA of `intercept`" if file is None else f"the CA of `intercept`, in {file}"
            self._log(
                logging.WARNING,
                f"an app does not trust the certificate that it was shown for {what}: have it trust {trust}; what it "
                "has read of that file before the sidecar started is another CA's",
                {"listen": listener, "bundle_file": file},
            )


def _plain_http() -> SidecarError:
    return SidecarError(
        Reason.MALFORMED_REQUEST,
        "This listener serves https, and the request came in plain http: write `https://` before its address.",
    )
