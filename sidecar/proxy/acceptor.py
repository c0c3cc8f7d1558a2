"""Accepts connections from apps, as long as there is room.

Owns the listening sockets' readiness and the counts of open connections; `handshakes` does TLS. Made by `server.Proxy`;
asyncio's own server is not used, because it can't stop accepting: at a limit it would accept and refuse, and on a full
descriptor table it logs each try. Here a listener at a limit is not read: the kernel's backlog holds the callers, and
accepting goes on when a connection ends.

    READING ──a caller waits, and there is no room──▶ PAUSED ──a connection ended, or the limit was raised──▶ READING
       └──accept(2) failed for want of descriptors or memory──▶ SHORT (all listeners) ──a connection ended, or
                                                                 a moment passed──▶ READING

accept(2): Linux passes errors of the new connection on (ECONNABORTED and the network's); those are skipped. A full
table leaves the listening socket readable, so a loop that polls it meanwhile spins.

Faults: whatever is raised for one connection ends that one; what is raised for a listener leaves the others alone, and
is tried again as after a shortage.

Long because the counts and the pauses decide together whether there is room.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final, final

from sidecar.errors import SidecarError
from sidecar.net import peer_credentials
from sidecar.net.callers import peer_refused, peer_unknown
from sidecar.net.event_loop import readiness_of
from sidecar.net.listeners import BACKLOG, Listener, Owner
from sidecar.net.tcp import attach
from sidecar.observe.metrics import ListenerStats, Pause
from sidecar.observe.repeats import Paces
from sidecar.proxy.faults import Faults
from sidecar.proxy.handshakes import Handshakes, Make
from sidecar.runtime import descriptors
from sidecar.runtime.clock import Clock, TimerHandle
from sidecar.runtime.tasks import Tasks

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 64
"""Connections that one listener accepts before others get their turn."""

_RETRY: Final = 0.25
"""Seconds until accepting is tried again after a shortage: what frees descriptors need not be a connection's end."""

_SHORT: Final = {
    **dict.fromkeys(descriptors.EXHAUSTED, Pause.DESCRIPTORS),
    errno.ENOBUFS: Pause.MEMORY,
    errno.ENOMEM: Pause.MEMORY,
}
_PASSED_OVER: Final = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED EPERM EPROTO ENOPROTOOPT ENETDOWN ENETUNREACH EHOSTDOWN EHOSTUNREACH ENONET EOPNOTSUPP ETIMEDOUT"
    ).split()
)
"""Errors of a connection that ended before it was accepted, or that a firewall rule forbids."""


@final
class Acceptors:
    """The acceptors of all listeners, and what they share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        make: Make,
        settled: Callable[[], None],
        faults: Faults,
        *,
        limit: int,
        handshake: float,
    ) -> None:
        """`settled` is called when an accepted connection is ready or given up. `limit` is the number of connections
        in all, `handshake` is in seconds; `set_limits` changes both.
        """
        self.loop = loop
        self.readiness = readiness_of(loop)
        self.clock = clock
        self.make = make
        self.faults = faults
        self.tasks = Tasks(loop, ended=self._arrived, crashed=self._crashed)
        self._settled = settled
        self.stats = ListenerStats()
        self.handshakes = Handshakes(
            loop, clock, make, self.name_of, stats=self.stats, log=self.log, seconds=handshake
        )
        self.open = 0
        """Connections that are ready."""
        self._limit = limit
        self._acceptors: dict[socket.socket, Acceptor] = {}
        self.paused_listeners = 0
        """The acceptors count this themselves, since reporting it may fail."""
        self._short: Pause | None = None
        self._in_shortage = False
        """From the first failure until a connection could be accepted again."""
        self._timer: TimerHandle | None = None
        self._paces = Paces[str]()

    def add(self, listener: Listener, owner: Owner) -> None:
        """Accept on this listener from now on."""
        acceptor = self._acceptors[listener.socket] = Acceptor(self, listener, owner)
        acceptor.update()

    def owner(self, listener: Listener) -> Owner:
        """The owner of this listener."""
        return self._acceptors[listener.socket].owner

    def outdated(self) -> list[Listener]:
        """The owners whose client certificates were checked against CAs that have changed since."""
        return [one.listener for one in self._acceptors.values() if one.owner.is_outdated]

    def set_owner(self, listener: Listener, owner: Owner) -> None:
        """From the next connection on, the listener belongs to this owner."""
        self._acceptors[listener.socket].owner = owner
        self.update()

    def remove(self, listener: Listener) -> Owner:
        """Accept the connections that already wait, and then no more."""
        acceptor = self._acceptors.pop(listener.socket)
        acceptor.close()
        return acceptor.owner

    def close(self) -> None:
        """The same for all listeners."""
        while self._acceptors:
            self._acceptors.popitem()[1].close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self) -> None:
        """Give up connections that are not ready yet."""
        self.tasks.cancel()

    def set_limits(self, *, limit: int, handshake: float) -> None:
        """Use these limits from now on. Open connections beyond them stay."""
        self._limit = limit
        self.handshakes.seconds = handshake
        self.update()

    def update(self) -> None:
        """Read or pause each listener, depending on the room there is."""
        for acceptor in list(self._acceptors.values()):
            try:
                acceptor.update()
            except Exception as fault:  # noqa: BLE001  # logged and counted; the other listeners go on
                self.faults.note(fault, "listener")
                self._try_later()

    def opened(self, owner: Owner) -> None:
        """A connection is ready."""
        self.open += 1
        owner.open += 1

    def closed(self, owner: Owner) -> None:
        """A connection is gone. Its descriptor will be too, in the loop's next turn."""
        self.open -= 1
        owner.open -= 1
        if self.paused_listeners:
            self.update()
        if self._short is not None:
            self.loop.call_soon(self._try_again)

    @property
    def arriving(self) -> int:
        """Connections that were accepted and are not ready: their handshake goes on."""
        return len(self.tasks)

    # what acceptors call

    @property
    def is_short(self) -> bool:
        """Whether accepting fails because something is short."""
        return self._short is not None

    def _crashed(self, error: BaseException) -> None:
        """A connection failed by a fault before it was ready."""
        self.faults.note(error, "accepting a connection")

    def _arrived(self) -> None:
        """An accepted connection is ready, or was given up."""
        if self.paused_listeners:
            self.update()
        self._settled()

    def obstacle(self, owner: Owner) -> Pause | None:
        """Why no connection can be accepted for this owner now."""
        if self.room(owner) > 0:
            return None
        if self._short is not None:
            return self._short
        return Pause.CONNECTIONS if self._room_in_all() <= 0 else Pause.LISTENER

    def room(self, owner: Owner) -> int:
        """How many connections can be accepted for this owner now."""
        if self._short is not None:
            return 0
        room = self._room_in_all()
        return room if owner.limit is None else min(room, owner.limit - owner.open - owner.arriving)

    def _room_in_all(self) -> int:
        return self._limit - self.open - len(self.tasks)

    def name_of(self, owner: Owner) -> str | None:
        """Where this owner's listener listens; None if it is gone."""
        found = (acceptor.name for acceptor in self._acceptors.values() if acceptor.owner is owner.entrance)
        return next(found, None)

    def tunnel(self, sock: socket.socket, inner: Owner, context: ssl.SSLContext) -> None:
        """Do the handshake inside a tunnel, on a socket that was accepted before."""
        self.tasks.spawn(self._tunnel(sock, inner, context), name="tunnel")
        inner.entrance.arriving += 1

    async def _tunnel(self, sock: socket.socket, inner: Owner, context: ssl.SSLContext) -> None:
        try:
            await self.handshakes.shake(sock, inner, context, None)
        except BaseException:
            sock.close()  # where TLS has not taken it over
            raise
        finally:
            inner.entrance.arriving -= 1

    def paused(self, reason: Pause, listener: Listener) -> None:
        """A caller has to wait."""
        self.note_pausing()
        self._count_pause(reason, {"listen": str(listener), "open": self.open})

    def accepted(self, count: int) -> None:
        """This many connections were accepted: the shortage, if there was one, is over."""
        self.stats.accepted += count
        if self._in_shortage:
            self._in_shortage = False
            self.log(logging.INFO, "accepting connections again", {"open": self.open})

    def run_short(self, reason: Pause, detail: str) -> None:
        """Nothing can be accepted: pause all listeners until something may have changed."""
        self._short = reason
        self.note_pausing()
        self._try_later()
        if not self._in_shortage:
            self._in_shortage = True
            self._count_pause(reason, {"detail": detail, "open": self.open})
        self.update()

    def _try_later(self) -> None:
        if self._timer is None:
            self._timer = self.clock.call_later(_RETRY, self._on_timer)

    def log(self, level: int, message: str, fields: dict[str, object], *, about: str = "") -> None:
        """Log, but the same thing at most once a minute."""
        untold = self._paces.take(message + about, self.clock.mono())
        if untold is not None:
            _log.log(level, message, extra={"fields": {**fields, **({"untold": untold} if untold else {})}})

    def _count_pause(self, reason: Pause, fields: dict[str, object]) -> None:
        self.stats.paused[reason] = self.stats.paused.get(reason, 0) + 1
        self.log(
            logging.WARNING,
            "accepting no connections for now: further callers wait",
            {"reason": str(reason), **fields},
            about=reason,
        )

    def note_pausing(self) -> None:
        """Count it for the metric."""
        self.stats.pausing = len(self._acceptors) if self._short is not None else self.paused_listeners

    def _on_timer(self) -> None:
        self._timer = None
        self._try_again()

    def _try_again(self) -> None:
        self._short = None
        self.note_pausing()
        self.update()


@final
class Acceptor:
    """Accepts on one listening socket."""

    __slots__ = ("_all", "_fd", "_is_paused", "_is_reading", "_listener", "_socket", "owner")

    def __init__(self, all_of_them: Acceptors, listener: Listener, owner: Owner) -> None:
        self.owner = owner
        self._all = all_of_them
        self._listener = listener
        self._socket = listener.socket
        self._fd = listener.socket.fileno()
        self._is_reading = False
        self._is_paused = False

    @property
    def listener(self) -> Listener:
        """The listener."""
        return self._listener

    @property
    def name(self) -> str:
        """Where it listens, for the log."""
        return str(self._listener)

    def update(self) -> None:
        """Wait for callers if there is room for one."""
        if self._is_paused and self._all.obstacle(self.owner) is None:
            self._is_paused = False
            self._all.paused_listeners -= 1
            self._all.note_pausing()
        # At a limit it is read until a caller comes: a pause is one that somebody meets.
        wanted = not (self._is_paused or self._all.is_short)
        if wanted is self._is_reading:
            return
        if wanted:
            self._all.loop.add_reader(self._fd, self._on_readable)
        else:
            self._all.loop.remove_reader(self._fd)
        # Not before: where that fails, it is to be tried again.
        self._is_reading = wanted

    def close(self) -> None:
        """Accept the callers that already wait, as far as there is room, then close the socket. Called once, at the
        end.
        """
        try:
            # As many as can have waited: where accept(2) fails for each in a way that is passed over, this has an end.
            for _ in range(BACKLOG // _AT_ONCE + 1):
                if self._all.obstacle(self.owner) or not self._accept_some():
                    break
        except Exception as fault:  # noqa: BLE001  # logged and counted; the socket is to be closed all the same
            self._all.faults.note(fault, "listener")
        if self._is_paused:
            self._all.paused_listeners -= 1
            self._all.note_pausing()
        if self._is_reading:
            self._all.loop.remove_reader(self._fd)
        self._socket.close()

    def _on_readable(self) -> None:
        try:
            self._accept_some()
        except Exception as fault:  # noqa: BLE001  # logged and counted
            # The socket stays readable: not at once again, or this would be all that the loop does.
            self._all.faults.note(fault, "listener")
            self._all.run_short(Pause.OTHER, "a fault in the sidecar")

    def _accept_some(self) -> bool:
        """Accept at most `_AT_ONCE`; whether more may be waiting."""
        everything = self._all
        room = everything.room(self.owner)
        if room <= 0:
            if (reason := everything.obstacle(self.owner)) is not None:
                self._pause(reason)
            return False
        accepted = 0
        failure = None
        is_empty = False
        for _ in range(min(room, _AT_ONCE)):
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                is_empty = True
                break
            except OSError as error:
                if error.errno in _PASSED_OVER:
                    continue
                failure = error
                break
            accepted += 1
            try:
                self._take(sock)
            except OSError:
                sock.close()  # the caller is gone already
            except Exception as fault:  # noqa: BLE001  # logged and counted; the others go on
                sock.close()
                everything.faults.note(fault, "accepting a connection")
        if accepted:
            everything.accepted(accepted)
        if failure is not None:
            reason = _SHORT.get(failure.errno or 0, Pause.OTHER)
            everything.run_short(reason, failure.strerror or str(failure))
        return not is_empty and failure is None

    def _pause(self, reason: Pause) -> None:
        if self._is_reading:
            self._is_reading = False
            self._all.loop.remove_reader(self._fd)
        if not self._is_paused:
            self._is_paused = True
            self._all.paused_listeners += 1
            self._all.paused(reason, self._listener)

    def _take(self, sock: socket.socket) -> None:
        owner = self.owner
        everything = self._all
        barred = self._judge(sock, owner) if owner.callers is not None else None
        if owner.certificate is None and not owner.intercepts:
            attach(everything.loop, everything.readiness, sock, everything.make(owner, barred, False))
            return
        everything.tasks.spawn(self._arrive(sock, owner, barred), name="accept")
        owner.arriving += 1  # the task has its first turn after this

    async def _arrive(self, sock: socket.socket, owner: Owner, barred: SidecarError | None) -> None:
        try:
            await self._all.handshakes.listener(sock, owner, barred)
        except OSError:
            # The caller is gone already.
            sock.close()
        except BaseException:
            sock.close()
            raise
        finally:
            owner.arriving -= 1

    def _judge(self, sock: socket.socket, owner: Owner) -> SidecarError | None:
        """The error for a process that may not call here."""
        callers = owner.callers
        if callers is None or not callers.by_peer or not owner.is_unix:
            return None
        who = peer_credentials.of(sock)
        if who is None:
            self._all.stats.peers_refused += 1
            message = "this system does not say which process calls: all are refused (`peers`)"
            self._all.log(logging.WARNING, message, {"listen": self.name})
            return peer_unknown()
        if callers.may_connect(who.uid, (who.gid, *who.further_gids)):
            return None
        self._all.stats.peers_refused += 1
        self._all.log(
            logging.WARNING,
            "a process that may not call here was refused",
            {"listen": self.name, "uid": who.uid, "gid": who.gid, "pid": who.pid},
            about=f"{who.uid} {who.gid}",
        )
        return peer_refused(who.uid, who.gid)
