"""The TLS contexts of the routes, and the files they are made from.

Owns the reading of a route's CA, client certificate, key and revocation list, and the check for changes. Called by
`dial`. The rule: what a path leads to is compared (inode, size, modification time), at most once a second, so that
Kubernetes' swap of a symbolic link counts. If files can't be used, the context made before stays in force, and one
log line says so for each state of the files. There is no way to switch verification off.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple, final

from sidecar.config.groups import Tls
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.contents import place
from sidecar.grammar.key_files import exposed
from sidecar.net.certificates import expiry
from sidecar.routing.routes import Route
from sidecar.runtime.clock import Clock
from sidecar.runtime.file_watch import Stamp, stamp
from sidecar.runtime.regular_files import read
from sidecar.runtime.trust import FILE_LIMIT, Bundle, Trust, UnusableCaError, words_of

EVERY: Final = 1.0
"""Seconds between two checks of one route's files. A check is one stat for each file, a few microseconds."""

_log = logging.getLogger(__name__)

_Stamps = tuple[Stamp | None, ...]


class Renewed(NamedTuple):
    """A route's files were found changed."""

    route: Route
    ok: bool
    """Whether the new files could be used. If so, connections made with the old ones are to be closed."""


class _Made:
    """A context, and what its files were when it was made."""

    __slots__ = ("_http2", "client_expires_at", "context", "looked_mono", "settings", "stamps", "trust")

    def __init__(self, settings: Tls, trust: Trust, looked_mono: float) -> None:
        self.settings = settings
        self.trust = trust
        self.looked_mono = looked_mono
        # Before the files are read: a change in between is found by the next look.
        self.stamps = self.stamps_now()
        self.make()

    def make(self) -> None:
        """A context from what the files hold now; raises TLS_FILES and changes nothing."""
        self.context = make_context(self.settings, self.trust)
        self._http2: ssl.SSLContext | None = None
        file = self.settings.client_cert_file
        self.client_expires_at = None if file is None else expiry(file)

    def for_http2(self) -> ssl.SSLContext:
        """The same context for connections that offer HTTP/2; the offer belongs to the context."""
        if self._http2 is None:
            self._http2 = make_context(self.settings, self.trust)
            self._http2.set_alpn_protocols(["h2", "http/1.1"])
        return self._http2

    def stamps_now(self) -> _Stamps:
        """The stamps of all files that it is made from."""
        trusted = self.trust.files if self.settings.ca_file is None else ()
        return tuple(stamp(file) for file in (*_files(self.settings), *trusted))


@final
class Contexts:
    """The TLS context of every route."""

    def __init__(self, clock: Clock, trust: Trust | None = None) -> None:
        """`trust` is used for upstreams without a `ca_file`."""
        self._clock = clock
        self._trust = trust or Trust()
        self._shared: _Made | None = None
        """The context of all routes without files of their own."""
        self._sharing: set[Route] = set()
        self._made: dict[Route, _Made] = {}
        self._renewed: list[Renewed] = []

    def forget(self, routes: Iterable[Route]) -> None:
        """Drop what is kept for removed routes."""
        for route in routes:
            self._made.pop(route, None)
            self._sharing.discard(route)

    def of(self, route: Route, *, http2: bool = False) -> ssl.SSLContext:
        """The context to dial with now, with or without the offer of HTTP/2. Raises TLS_FILES if none could ever be
        made.
        """
        made = self._of(route)
        return made.for_http2() if http2 else made.context

    def _of(self, route: Route) -> _Made:
        settings = route.config.tls
        if not _files(settings):
            if self._shared is None:
                self._shared = _Made(settings, self._trust, self._clock.mono())
            elif self._trust.files:
                self._look(self._shared, self._sharing)
            self._sharing.add(route)
            return self._shared
        made = self._made.get(route)
        if made is None:
            made = self._made[route] = _Made(settings, self._trust, self._clock.mono())
        else:
            self._look(made, (route,))
        return made

    def look(self) -> list[Renewed]:
        """Check all files; return what has changed since the last call, changes found while dialling included."""
        for route, made in self._made.items():
            self._look(made, (route,))
        if self._shared is not None and self._trust.files:
            self._look(self._shared, self._sharing)
        found, self._renewed = self._renewed, []
        return found

    def client_expiries(self) -> Mapping[str, float]:
        """When the client certificates in use expire, in Unix seconds, by their routes' names."""
        # A request that began before a reload can leave two routes of one name here for a while.
        return {
            route.name: made.client_expires_at
            for route, made in self._made.items()
            if made.client_expires_at is not None
        }

    def _look(self, made: _Made, routes: Collection[Route]) -> None:
        now_mono = self._clock.mono()
        if now_mono - made.looked_mono < EVERY:
            return
        made.looked_mono = now_mono
        stamps = made.stamps_now()
        if stamps == made.stamps:
            return
        made.stamps = stamps
        try:
            made.make()
        except SidecarError as error:
            for route in routes:
                fields = {"route": route.name, "reason": str(error.reason), "detail": error.detail}
                _log.warning(
                    f"changed TLS files not used: what was read before stays (route `{route.name}`: {error.detail})",
                    extra={"fields": fields},
                )
                self._renewed.append(Renewed(route, ok=False))
        else:
            for route in routes:
                _log.info(
                    f"changed TLS files in use by route `{route.name}`",
                    extra={"fields": {"route": route.name}},
                )
                self._renewed.append(Renewed(route, ok=True))


def make_context(settings: Tls, trust: Trust | None = None) -> ssl.SSLContext:
    """A client context: TLS 1.2 or newer, hostname checked, ALPN http/1.1; with the route's own CAs, else those of
    `trust`, which are the system's by default.

    Raises TLS_FILES for a file that can't be used.
    """
    if settings.ca_file is not None:
        trust = Trust(Bundle("The route's `tls.ca_file`", settings.ca_file))
    try:
        context = (trust or Trust()).context()
    except UnusableCaError as error:
        raise SidecarError(Reason.TLS_FILES, f"{error}.") from error
    context.set_alpn_protocols(["http/1.1"])
    if settings.crl_file is not None:
        _load_crl(context, settings.crl_file, whole_chain=settings.crl_check == "chain")
    if settings.client_cert_file is not None:
        _load_client_certificate(context, settings)
    return context


def _load_crl(context: ssl.SSLContext, file: str, *, whole_chain: bool) -> None:
    trusted = context.cert_store_stats()["x509"]
    try:
        read(file, FILE_LIMIT)
        context.load_verify_locations(cafile=file)
    except OSError as error:
        raise _unusable("crl_file", file, error) from error
    if context.cert_store_stats()["x509"] != trusted:
        # OpenSSL trusts it. Judged by what was read: the file may be another one by now.
        raise _unusable("crl_file", file, "there is a certificate in it: only revocation lists belong there")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN if whole_chain else ssl.VERIFY_CRL_CHECK_LEAF


def _load_client_certificate(context: ssl.SSLContext, settings: Tls) -> None:
    certificate, key = settings.client_cert_file or "", settings.client_key_file or ""
    # OpenSSL does not say which of the two it could not open. The mode that is left is the key's.
    for name, file in (("client_cert_file", certificate), ("client_key_file", key)):
        try:
            mode = read(file, FILE_LIMIT).mode
        except OSError as error:
            raise _unusable(name, file, error) from error
    wrong = exposed(place(key), mode, switch="tls.allow_world_readable")
    if wrong is not None and not settings.allow_world_readable:
        raise _unusable("client_key_file", key, wrong)
    asked = False

    def password() -> str:
        """Used instead of OpenSSL's question on the terminal."""
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(certificate, key, password=password)
    except OSError as error:
        both = f"{place(certificate)} with {place(key)}"
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise _unusable("client_cert_file", both, "the key is another certificate's") from error
        if asked:
            raise _unusable("client_key_file", key, "it wants a password: use a key without one") from error
        raise _unusable("client_cert_file", both, error) from error


def _unusable(key: str, file: str | None, why: OSError | str) -> SidecarError:
    if isinstance(why, ssl.SSLError):
        words = why.reason.lower().replace("_", " ") if why.reason else "it is no PEM file of that kind"
    else:
        words = why if isinstance(why, str) else words_of(why)
    return SidecarError(Reason.TLS_FILES, f"The route's `tls.{key}` cannot be used ({place(file)}): {words}.")


def _files(settings: Tls) -> tuple[str, ...]:
    files = (settings.ca_file, settings.crl_file, settings.client_cert_file, settings.client_key_file)
    return tuple(file for file in files if file is not None)
