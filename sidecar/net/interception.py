"""Which certificate an app gets for a host of an intercepted route, and from which CA.

Owns the CAs of this process, each host's TLS context, and the file of CAs that apps have to trust (`bundle_file`).
Made by the proxy; the service gives it each configuration, and the handshakes with apps ask it. The rules:

- a certificate is made only for a host whose route says `intercept: true`, by the route table in force;
- a configuration that adds hosts adds a CA for these, and keeps the others: an app that read the bundle before goes on.
  A CA that speaks for none of the hosts any more is forgotten;
- certificates are good for hours, and made again before they end; no session tickets are given, and what
  TLS 1.2 resumes without them ends with the next configuration;
- keys are in memory only: OpenSSL reads them from there (memfd_create(2)), where the system can do that.
"""

from __future__ import annotations

import logging
import os
import ssl
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, final

from sidecar.config.groups import Intercept
from sidecar.errors import Reason, SidecarError
from sidecar.grammar import hosts
from sidecar.grammar.contents import place, quoted
from sidecar.grammar.key_files import exposed
from sidecar.net import ca_bundle
from sidecar.net.certificates import server_context
from sidecar.net.listeners import Owner
from sidecar.net.transport import Receiver
from sidecar.routing.routes import Route, RouteTable
from sidecar.runtime.clock import Clock
from sidecar.runtime.regular_files import read
from sidecar.runtime.trust import FILE_LIMIT, UnusableCaError, for_upstreams

if TYPE_CHECKING:
    from sidecar.net.authority import CertificateAuthority, Leaf

_log = logging.getLogger(__name__)

_HOSTS: Final = 256
"""Hosts whose contexts are kept: each takes some 30 KiB, and is made in a few milliseconds."""
_SOON: Final = 30 * 24 * 3600.0
"""Seconds before a CA's end at which warnings about it begin."""


Answer = Callable[[Owner], Receiver]
"""The receiver for a connection whose host is no route's."""


class InterceptError(Exception):
    """The configuration's `intercept` can't be served. Its text is the middle of a sentence."""


class Prepared(NamedTuple):
    """What a new configuration needs, ready for use."""

    group: Intercept | None
    authorities: tuple[CertificateAuthority, ...]
    patterns: tuple[str, ...]
    """The intercepted hosts, with wildcards as written."""
    warnings: tuple[str, ...] = ()


@final
@dataclass(slots=True)
class Reading:
    """What the metrics show of a CA."""

    expires_at: float | None
    """Unix seconds."""
    is_current: bool = True


@final
class AskedSocket(ssl.SSLSocket):
    """An app's connection that is intercepted."""

    asked: str = ""
    """The host that its handshake named, in normal form; empty if it named none."""
    refusal: SidecarError | None = None
    """Why the name was refused."""


@final
class _Host:
    """One host's certificate in use."""

    __slots__ = ("_host", "context", "made_at", "renew_at")

    def __init__(self, host: str, leaf: Leaf, now: float, *, speaks_http2: bool) -> None:
        self._host = host
        self.context = _context(leaf)
        if not speaks_http2:
            self.context.set_alpn_protocols(["http/1.1"])
        self.context.sni_callback = self._check
        self.made_at = now
        self.renew_at = now + (leaf.ends_at - now) * 2 / 3

    def _check(self, sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """In a tunnel: if the handshake names a host, it must be the tunnel's."""
        if name is None or _normal(name) == self._host:
            return None
        return _refuse(
            sock,
            f"the tunnel is to `{self._host}`, and TLS inside it asks for {quoted(name)}: open a tunnel for each host",
        )


@final
class _Chooser:
    """Chooses the certificate of an intercepting listener, by the name that the app asks for."""

    __slots__ = ("_interception", "_own", "context")

    def __init__(self, interception: Interception, own: Route | None) -> None:
        self._interception = interception
        self._own = own
        self.context = _without_sessions(server_context())
        self.context.sni_callback = self._choose

    def _choose(self, sock: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        if name is None:
            return _refuse(
                sock,
                "the app's TLS names no host (SNI), so no route is known: let it call a route's host by its name",
            )
        try:
            host = self._interception.intercepted(name, self._own)
            sock.context = self._interception.context_of(host)
        except SidecarError as error:
            return _refuse(sock, error.detail)
        if isinstance(sock, AskedSocket):
            sock.asked = host
        return None


@final
class Interception:
    """The interception of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.table: RouteTable | None = None
        """The route table in force."""
        self._state = Prepared(None, (), ())
        self.answer: Answer | None = None
        """What serves the hosts that are no route's, if anything does."""
        self._hosts: dict[str, _Host] = {}
        self._choosers: dict[Route | None, _Chooser] = {}

    # what the service calls

    def prepare(self, group: Intercept | None, table: RouteTable, environ: Mapping[str, str]) -> Prepared:
        """Prepare what a configuration needs and write the bundle. Raises InterceptError and changes nothing. Call
        `adopt` or `restore` next.
        """
        intercepted = (route for route in table.routes if route.config.intercept)
        of_routes = (host for route in intercepted for host in table.hosts_of(route))
        patterns = tuple(dict.fromkeys([*of_routes, *sorted(table.answered)]))
        if group is None or not patterns:
            return Prepared(group, (), ())
        if group.ca_cert_file is not None and group.ca_key_file is not None:
            authorities = [self._read(group, group.ca_cert_file, group.ca_key_file, patterns)]
        else:
            authorities = self._made(group, patterns)
        doubts = self._doubts(group, authorities)
        prepared = Prepared(group, tuple(authorities), patterns, tuple(doubts))
        _write_bundle(prepared, environ)
        return prepared

    def adopt(self, prepared: Prepared, table: RouteTable) -> None:
        """Use it from now on."""
        self._state = prepared
        self.table = table
        self._hosts.clear()
        self._choosers.clear()
        if prepared.authorities and prepared.group is not None:
            shown = [authority.name for authority in prepared.authorities]
            file = prepared.group.bundle_file
            trust = "" if file is None else f"; apps are to trust {place(file)}"
            _log.info(
                f"https of {', '.join(prepared.patterns)} is read here{trust}",
                extra={"fields": {"hosts": list(prepared.patterns), "ca": shown, "bundle_file": file}},
            )

    def restore(self, environ: Mapping[str, str]) -> None:
        """What was prepared last will not be used: write the bundle in force again."""
        try:
            _write_bundle(self._state, environ)
        except InterceptError as error:
            _log.warning(f"the bundle of CAs is not that of the configuration in force: {error}")

    @property
    def bundle_file(self) -> str | None:
        """The CAs that apps have to trust, as last written; None if none were."""
        group = self._state.group
        return group.bundle_file if group is not None and self._state.authorities else None

    def readings(self) -> list[Reading]:
        """For metrics: the CA that was read from files, if there is one. The process's own CA lasts longer than the
        process.
        """
        group = self._state.group
        if group is None or group.ca_cert_file is None:
            return []
        return [Reading(authority.ends_at) for authority in self._state.authorities]

    # what handshakes ask

    def intercepted(self, name: str, own: Route | None) -> str:
        """The normal form of a host that a route takes and intercepts; raises SidecarError. `own` is the route whose
        listener this is.
        """
        host = _normal(name)
        if self.table is None or host is None:
            raise SidecarError(Reason.BAD_HOST, f"the app's TLS asks for {quoted(name)}, which is not a host")
        if self.answers(host):
            raise SidecarError(
                Reason.METHOD_NOT_CARRIED,
                f"`{host}` is answered to apps that name the sidecar as their proxy (HTTPS_PROXY) alone: a name that "
                "leads to this machine would lead the sidecar's own calls here, too",
            )
        match = self.table.match(host.encode("ascii"), b"")
        route = match.destination.route
        if not match.is_intercepted:
            raise SidecarError(
                Reason.METHOD_NOT_CARRIED,
                f"the app's TLS asks for `{host}`, and route `{route.name}` does not say `intercept: true`",
            )
        if own is not None and route is not own:
            raise SidecarError(
                Reason.CALLER_REFUSED,
                f"this listener is route `{own.name}`'s, and `{host}` is route `{route.name}`'s",
            )
        return host

    def answers(self, host: str) -> bool:
        """Whether what an app asks of this host by https is for no route, but answered here."""
        return self.table is not None and host in self.table.answered

    def context_of(self, host: str) -> ssl.SSLContext:
        """The context for an `intercepted` host; raises SidecarError if there can be none."""
        now = self._clock.wall()
        known = self._hosts.pop(host, None)
        if known is None or not known.made_at <= now < known.renew_at:
            authority = next((it for it in self._state.authorities if it.permits(host)), None)
            if authority is None or authority.ends_at <= now:
                why = "there is none for it" if authority is None else "it has expired"
                raise SidecarError(Reason.INTERNAL, f"The CA of `intercept` can't certify `{host}`: {why}.")
            try:
                known = _Host(host, authority.issue(host, now), now, speaks_http2=not self.answers(host))
            except OSError as error:
                why = error.strerror or str(error)
                raise SidecarError(
                    Reason.INTERNAL, f"The certificate for `{host}` could not be made: {why}."
                ) from error
            if len(self._hosts) >= _HOSTS:
                self._hosts.pop(next(iter(self._hosts)))
        self._hosts[host] = known  # as the latest
        return known.context

    def shows(self, host: str, context: ssl.SSLContext) -> bool:
        """Whether this is still the context for a host: there is no newer configuration and no newer certificate."""
        known = self._hosts.get(host)
        return known is not None and known.context is context

    def listener_context(self, own: Route | None) -> ssl.SSLContext:
        """The context of an intercepting listener; `own` is the route that owns it."""
        chooser = self._choosers.get(own)
        if chooser is None:
            chooser = self._choosers[own] = _Chooser(self, own)
        return chooser.context

    # CAs

    def _made(self, group: Intercept, patterns: Collection[str]) -> list[CertificateAuthority]:
        from sidecar.net.authority import CertificateAuthority  # some megabytes, for those who intercept only

        old = self._state.authorities if self._state.group == group else ()
        kept = [it for it in old if any(map(it.permits, patterns))]
        missing = [pattern for pattern in patterns if not any(it.permits(pattern) for it in kept)]
        if missing:
            kept.append(CertificateAuthority.made(missing, self._clock.wall()))
        return kept

    def _read(
        self, group: Intercept, cert_file: str, key_file: str, patterns: Collection[str]
    ) -> CertificateAuthority:
        from sidecar.net.authority import CertificateAuthority

        found = []
        for key, file in (("ca_cert_file", cert_file), ("ca_key_file", key_file)):
            try:
                found.append(read(file, FILE_LIMIT))
            except OSError as error:
                raise InterceptError(f"`{key}` ({place(file)}): {error.strerror or place(error)}") from error
        certificate, private = found
        wrong = exposed(place(key_file), private.mode, switch="intercept.allow_world_readable")
        if wrong is not None and not group.allow_world_readable:
            raise InterceptError(f"`ca_key_file` ({place(key_file)}): {wrong}")
        try:
            authority = CertificateAuthority.read(certificate.data, private.data, self._clock.wall())
        except ValueError as error:
            raise InterceptError(str(error)) from None
        if beyond := [pattern for pattern in patterns if not authority.permits(pattern)]:
            raise InterceptError(
                f"the name constraint of the CA in `ca_cert_file` ({place(cert_file)}) does not permit "
                f"{', '.join(f'`{host}`' for host in beyond[:3])}: take these routes' `intercept` away (or "
                "`google_token_endpoints`), or another CA"
            )
        return authority

    def _doubts(self, group: Intercept, authorities: Collection[CertificateAuthority]) -> Iterator[str]:
        for authority in authorities if group.ca_cert_file is not None else ():
            if not authority.is_constrained:
                yield (
                    "`intercept.ca_cert_file`: this CA has no name constraint, so who gets its key can play every host "
                    "towards the apps that trust it: give it `nameConstraints` for the routes' hosts"
                )
            if authority.ends_at - self._clock.wall() < _SOON:
                yield "`intercept.ca_cert_file`: this CA expires within 30 days"
        if group.bundle_file is not None and os.path.isdir(
            os.path.dirname(os.path.abspath(group.bundle_file))
        ):
            if ca_bundle.open_to_others(group.bundle_file):
                yield (
                    f"`intercept.bundle_file`: every user of this machine can put another file in the place of "
                    f"{place(group.bundle_file)}, and have apps trust anybody: use a directory that is not for all"
                )


def _write_bundle(state: Prepared, environ: Mapping[str, str]) -> None:
    file = None if state.group is None else state.group.bundle_file
    if file is None or not state.authorities:
        return
    trust = for_upstreams(environ)
    if any(os.path.abspath(known) == os.path.abspath(file) for known in trust.files):
        raise InterceptError(
            f"`bundle_file` ({place(file)}): SSL_CERT_FILE of this process names it, too. Set that for the app alone, "
            "as `exec --transparent` does"
        )
    own = (pem.decode("ascii") for authority in state.authorities for pem in authority.trusted)
    try:
        ca_bundle.write(file, [*own, *trust.certificates()])
    except UnusableCaError as error:
        raise InterceptError(f"`bundle_file` ({place(file)}): {error}") from error
    except OSError as error:
        raise InterceptError(f"`bundle_file` ({place(file)}): {error.strerror or place(error)}") from error


def _refuse(sock: ssl.SSLObject | ssl.SSLSocket, why: str) -> int:
    """Remember why a name is refused, and return the matching TLS alert."""
    if isinstance(sock, AskedSocket):
        sock.refusal = SidecarError(Reason.BAD_HOST, why)
    return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


def _normal(name: str) -> str | None:
    try:
        return hosts.normalise(name)
    except ValueError:
        return None


def _without_sessions(context: ssl.SSLContext) -> ssl.SSLContext:
    context.sslsocket_class = AskedSocket
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def _context(leaf: Leaf) -> ssl.SSLContext:
    context = _without_sessions(server_context())
    with _as_file(leaf.chain + leaf.key) as path:
        context.load_cert_chain(path)
    return context


def _memory() -> int | None:
    """A file in memory; None if there is none (systems other than Linux, a sandbox without the call or /proc)."""
    if sys.platform == "linux" and os.path.isdir("/proc/self/fd"):
        with suppress(OSError):
            return os.memfd_create("certificate", os.MFD_CLOEXEC)
    return None


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path at which OpenSSL, which reads only files, finds this text."""
    if (descriptor := _memory()) is not None:
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    # Only its owner can enter the directory, and it is gone at once.
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "certificate")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        yield path
