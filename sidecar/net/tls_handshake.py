"""The TLS handshake with an upstream, and with a caller of a listener.

Called by `dial` and by the acceptor, on a connected non-blocking socket; what follows is `tls.TlsTransport`'s. It does
no certificate checks of its own: the `SSLContext` does.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from sidecar.grammar.certificates import Certificate
from sidecar.net.tls import Session
from sidecar.observe.metrics import HandshakeFailure
from sidecar.runtime.trust import presented


class HandshakeError(Exception):
    """A handshake failed with `error` (an ssl.SSLError or another OSError). Says how far it got."""

    def __init__(self, error: OSError, chain: tuple[Certificate, ...], *, agreed: bool) -> None:
        super().__init__(error)
        self.error = error
        self.chain = chain
        """What the server sent, as far as it was read. Unverified."""
        self.agreed = agreed
        """Whether a cipher had been chosen."""


async def handshake(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    context: ssl.SSLContext,
    server_name: str,
    session: Session | None,
) -> ssl.SSLSocket:
    """Do the client's handshake on a connected, non-blocking socket; raises HandshakeError.

    Takes `sock` over: it is closed when this fails or is cancelled.
    """
    try:
        secured = context.wrap_socket(
            sock,
            # Bytes: text goes through the codec that `resolver.system_lookup` avoids.
            server_hostname=server_name.encode("ascii"),
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            session=session.session if session is not None and session.context is context else None,
        )
    except OSError as error:
        # It looks whether the socket is still connected. Before 3.12 it does not close what it had made: nothing may go
        # on to hold that.
        sock.close()
        error.__context__ = None
        raise HandshakeError(error.with_traceback(None), (), agreed=False) from error
    try:
        await _shake(loop, secured)
    except OSError as error:
        failure = HandshakeError(error, presented(secured), agreed=secured.cipher() is not None)
        secured.close()
        raise failure from error
    except BaseException:
        secured.close()
        raise
    return secured


def accepted(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The server's side of TLS on an accepted, non-blocking socket, which it takes over; raises OSError."""
    return context.wrap_socket(
        sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )


async def accept_handshake(loop: asyncio.AbstractEventLoop, secured: ssl.SSLSocket) -> None:
    """Do the server's handshake; raises ssl.SSLError or OSError, with the socket closed."""
    try:
        await _shake(loop, secured)
    except BaseException:
        secured.close()
        raise


async def speaks_plainly(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bool:
    """Whether an accepted caller's first byte is a letter.

    All HTTP methods begin with one, TLS records never. Reads nothing. OpenSSL knows four methods and calls the others
    a wrong version of TLS. Raises OSError.
    """
    while True:
        try:
            return sock.recv(1, socket.MSG_PEEK).isalpha()
        except (BlockingIOError, InterruptedError):
            await _ready(loop.add_reader, loop.remove_reader, sock.fileno(), loop)


async def _shake(loop: asyncio.AbstractEventLoop, secured: ssl.SSLSocket) -> None:
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(loop.add_reader, loop.remove_reader, secured.fileno(), loop)
        except ssl.SSLWantWriteError:
            await _ready(loop.add_writer, loop.remove_writer, secured.fileno(), loop)
        else:
            return


def mnemonic(error: ssl.SSLError) -> str:
    """OpenSSL's name for an error, without prefix.

    Python's own table has gaps, such as the alert no_application_protocol; OpenSSL's text is the name in small letters.
    """
    if named := getattr(error, "reason", None):
        return str(named)
    text = error.args[1] if len(error.args) > 1 else ""
    return str(text).removeprefix("[SSL] ").rpartition(" (")[0].upper().replace(" ", "_")


async def _ready(
    add: Callable[..., None], remove: Callable[[int], bool], fd: int, loop: asyncio.AbstractEventLoop
) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    add(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(fd)


_FAILURES: Final = {
    "HTTP_REQUEST": HandshakeFailure.PLAIN_HTTP,
    "HTTPS_PROXY_REQUEST": HandshakeFailure.PLAIN_HTTP,
    **dict.fromkeys(
        "UNSUPPORTED_PROTOCOL WRONG_VERSION_NUMBER NO_SHARED_CIPHER VERSION_TOO_LOW NO_PROTOCOLS_AVAILABLE "
        "NO_SUITABLE_SIGNATURE_ALGORITHM UNKNOWN_PROTOCOL NO_SHARED_GROUP INAPPROPRIATE_FALLBACK "
        "TLSV1_ALERT_PROTOCOL_VERSION BAD_PROTOCOL_VERSION_NUMBER".split(),
        HandshakeFailure.PROTOCOL,
    ),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": HandshakeFailure.CLIENT_CERTIFICATE,
    **dict.fromkeys(
        "TLSV1_ALERT_UNKNOWN_CA SSLV3_ALERT_CERTIFICATE_UNKNOWN SSLV3_ALERT_BAD_CERTIFICATE "
        "SSLV3_ALERT_CERTIFICATE_EXPIRED TLSV1_ALERT_ACCESS_DENIED TLSV1_UNRECOGNIZED_NAME".split(),
        HandshakeFailure.REJECTED,
    ),
}
"""OpenSSL's names for what goes wrong."""


def failure_of(error: OSError) -> HandshakeFailure:
    """Why a listener's handshake failed, as the metrics count it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return HandshakeFailure.CLIENT_CERTIFICATE
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _FAILURES.get(mnemonic(error), HandshakeFailure.OTHER)
    return HandshakeFailure.CLOSED
