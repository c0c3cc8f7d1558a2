"""The transport for google-auth.

Owns every HTTP exchange with a token endpoint: connections, one deadline for the whole fetch, the limit on bodies.
`outward` knows the proxy and the trusted CAs. Called by google-auth's credentials and by the metadata source, in a
worker thread; `abort` is called from the event loop. It may not retry, follow a redirect or log: google-auth's own
transport logs assertions at DEBUG. A metadata server is asked by `plain`; requests is imported by the first exchange
with anything else.

The rule: only an answer with status 200 is returned. Every fault and every other status is raised as a
`SidecarError`, which google-auth's retry loops do not catch: they catch `TransportError` and retryable statuses and
sleep 15 to 30 s between tries, while `tokens.policy` alone decides our retries.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import urlsplit, urlunsplit

from sidecar.config.variables import ProxySetting
from sidecar.errors import SidecarError
from sidecar.grammar import hosts
from sidecar.grammar.certificates import NO_TRUSTED_CA
from sidecar.grammar.hosts import parse_url
from sidecar.grammar.proxies import ProxyUrl
from sidecar.runtime import descriptors
from sidecar.runtime.clock import Clock
from sidecar.runtime.trust import Trust, UnusableCaError, presented
from sidecar.tokens.fetch.endpoint import (
    Answer,
    Endpoint,
    Fault,
    bad_certificate,
    compressed,
    has_flavor,
    no_cas,
    no_flavor,
    not_http,
    proxy_failed,
    proxy_unusable,
    too_large,
    too_slow,
    unreachable,
    untrusted,
)
from sidecar.tokens.fetch.outward import NOTHING_SAID, Outward
from sidecar.tokens.fetch.plain import ask
from sidecar.tokens.fetch.refused import refused

if TYPE_CHECKING:
    import requests

_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": "idtoken-sidecar"}
BODY_LIMIT: Final = 64 * 1024
"""Bytes. A metadata server's token is under 4 KiB; an OAuth answer or error under 8 KiB."""
_CHUNK: Final = 8 * 1024
_NO_TUNNEL: Final = re.compile(r"Tunnel connection failed: ([1-9][0-9]{2})\b")
"""`http.client`'s words about an answer to CONNECT."""


@final
class GoogleTransport:
    """A `google.auth.transport.Request` for one fetch.

    `seconds` is the time for the whole fetch, which ends at `deadline_mono`. `origin` ("127.0.0.1:8080") replaces the
    host of each plain http URL: google-auth reads the metadata server's address once, at import, and here the
    environment that was passed in decides. `proxies` says whether HTTP_PROXY and similar variables count; never for a
    metadata server, since a proxy's metadata server would hand out the proxy's identity, and never for loopback.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Clock,
        seconds: float,
        deadline_mono: float,
        outward: Outward = NOTHING_SAID,
        origin: str | None = None,
        proxies: bool = False,
    ) -> None:
        self.answer: Answer | None = None
        """The last answer with status 200."""
        self._endpoint = endpoint
        self._clock = clock
        self._seconds = seconds
        self._deadline_mono = deadline_mono
        self._origin = origin
        self._outward = outward
        self._proxies = proxies
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._aborted = False

    @cached_property
    def session(self) -> requests.Session:
        """google-auth looks for it here, to mount its adapter for metadata servers with mTLS."""
        # Not at the top: requests and urllib3 take 0.2 s to import, and most fetches do without them.
        import requests

        session = requests.Session()
        session.headers.update(_HEADERS)
        # What the environment says is `outward`'s; requests would also look for the endpoint's host in ~/.netrc.
        session.trust_env = False
        adapter = _watched_adapter(self._watch, self._outward.trust)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Answer:
        """See `google.auth.transport.Request`; raises `SidecarError`. `timeout` is ignored in favour of the fetch's
        remaining time.
        """
        address = self._address(url)
        if self._origin is not None and address.startswith("http://"):
            outcome = self._ask_plainly(address, method, body, headers)
        else:
            outcome = self._exchange(address, method, body, headers, kwargs)
        if isinstance(outcome, SidecarError):
            raise outcome
        self.answer = outcome
        return outcome

    def abort(self) -> None:
        """End the exchange of the other thread now: its reads fail. Name look-ups can't be ended."""
        with self._lock:
            self._aborted = True
            sockets, self._sockets = self._sockets, []
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connections."""
        if "session" in self.__dict__:
            self.session.close()

    def _address(self, url: str) -> str:
        parts = urlsplit(url)
        if self._origin is not None and parts.scheme == "http":
            parts = parts._replace(netloc=self._origin)
        return urlunsplit(parts)

    def _ask_plainly(
        self, url: str, method: str, body: bytes | None, headers: Mapping[str, str] | None
    ) -> Answer | SidecarError:
        """Like `_exchange`, for a metadata server over plain http."""
        left = self._deadline_mono - self._clock.mono()
        if left <= 0 or self._aborted:
            return too_slow(self._endpoint, self._seconds)
        try:
            status, fields, data = ask(
                url,
                method=method,
                body=body,
                headers={**_HEADERS, **(headers or {})},
                seconds=left,
                limit=BODY_LIMIT,
                watch=self._watch,
            )
        except (http.client.HTTPException, OSError, ValueError) as error:
            return self._fault(error)
        return self._judged(status, fields, data)

    def _exchange(
        self,
        url: str,
        method: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        kwargs: Mapping[str, Any],
    ) -> Answer | SidecarError:
        """One request and its answer. Errors are returned: raised here, they would chain to frames that hold the
        request.
        """
        import requests
        import urllib3

        left = self._deadline_mono - self._clock.mono()
        if left <= 0 or self._aborted:
            return too_slow(self._endpoint, self._seconds)
        try:
            setting = self._outward.proxy_for(parse_url(url)) if self._proxies else None
        except ValueError as error:
            return proxy_unusable(self._endpoint, str(error))
        try:
            with self.session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=left,
                allow_redirects=False,
                stream=True,
                proxies=None if setting is None else {urlsplit(url).scheme: _written(setting.proxy)},
                **kwargs,
            ) as response:
                data = None if _is_encoded(response.headers) else self._read(response)
                return self._judged(response.status_code, response.headers, data)
        except UnusableCaError as error:
            return no_cas(self._endpoint, str(error))
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return self._fault(error, setting, requests.exceptions.ProxyError, requests.exceptions.SSLError)

    def _judged(self, status: int, headers: Mapping[str, str], data: bytes | None) -> Answer | SidecarError:
        """Check an answer; `data` is None if it exceeds the limit."""
        if _is_encoded(headers):
            return compressed(self._endpoint)
        if data is None:
            return too_large(self._endpoint, BODY_LIMIT)
        answer = Answer(status, headers, data, received_at=self._clock.wall())
        if answer.status != 200:
            return refused(self._endpoint, answer)
        return answer if has_flavor(self._endpoint, answer) else no_flavor(self._endpoint, answer)

    @staticmethod
    def _read(response: requests.Response) -> bytes | None:
        """The body as it was sent, or None if it exceeds the limit: decoded, a few bytes could become any number."""
        data = bytearray()
        for chunk in response.raw.stream(_CHUNK, decode_content=False):
            data += chunk
            if len(data) > BODY_LIMIT:
                return None
        return bytes(data)

    def _fault(
        self,
        error: BaseException,
        setting: ProxySetting | None = None,
        at_proxy: type[BaseException] | tuple[()] = (),
        in_tls: type[BaseException] | tuple[()] = (),
    ) -> SidecarError:
        """What a failed exchange means. It uses the kinds of errors in the chain and not their texts, except for the
        status with which a proxy refused a tunnel. `at_proxy` and `in_tls` are what requests raises for these.
        """
        if self._aborted:
            return too_slow(self._endpoint, self._seconds)
        chain = []
        at: BaseException | None = error
        while at is not None:
            chain.append(at)
            at = at.__cause__ or at.__context__
        for link in chain:
            hidden = descriptors.shortage() if isinstance(link, socket.gaierror) else None
            if isinstance(link, OSError) and (hidden is not None or link.errno in descriptors.EXHAUSTED):
                return descriptors.none_left(f"asking {self._endpoint.name}", hidden or link)
        if setting is not None and isinstance(chain[0], at_proxy):
            statuses = (_NO_TUNNEL.match(str(link)) for link in chain if type(link) is OSError)
            found = next((int(match[1]) for match in statuses if match is not None), None)
            return proxy_failed(self._endpoint, setting, found)
        for link in chain:
            if isinstance(link, ssl.SSLCertVerificationError):
                return self._not_accepted(link)
        # In this order: a refused connection is a kind of timeout to urllib3.
        faults: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Fault], ...] = (
            (socket.gaierror, Fault.NO_NAME),
            (in_tls, Fault.TLS),
            (ConnectionRefusedError, Fault.REFUSED),
            ((ConnectionError, http.client.IncompleteRead), Fault.RESET),
        )
        for kinds, fault in faults:
            if any(isinstance(link, kinds) for link in chain):
                return unreachable(self._endpoint, fault)
        if any(isinstance(link, TimeoutError) for link in chain):
            return too_slow(self._endpoint, self._seconds)
        if any(isinstance(link, http.client.HTTPException) for link in chain):
            return not_http(self._endpoint)
        return unreachable(self._endpoint, Fault.NO_PATH)

    def _not_accepted(self, error: ssl.SSLCertVerificationError) -> SidecarError:
        if error.verify_code in NO_TRUSTED_CA:
            return untrusted(self._endpoint, str(self._outward.trust), getattr(error, "presented", ()))
        return bad_certificate(self._endpoint, error.verify_message)

    def _watch(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.append(sock)
            aborted = self._aborted
        if aborted:
            self.abort()


def _is_encoded(headers: Mapping[str, str]) -> bool:
    return headers.get("content-encoding", "identity").strip().lower() not in ("identity", "")


def _written(proxy: ProxyUrl) -> str:
    """A proxy's URL for requests: a secret if it has a user name and a password."""
    user = f"{proxy.userinfo}@" if proxy.userinfo else ""
    return f"{'https' if proxy.secure else 'http'}://{user}{hosts.Authority(proxy.host, proxy.port)}"


class _Shaking(ssl.SSLSocket):
    """Keeps the certificates of a failed handshake: urllib3 closes the socket after the failure."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLCertVerificationError as error:
            error.presented = presented(self)  # type: ignore[attr-defined]
            raise


def _watched_adapter(watch: Callable[[socket.socket], None], trust: Trust) -> requests.adapters.HTTPAdapter:
    """An adapter that reports each socket that it connects, because a blocked read ends only when its socket is shut
    down. It checks certificates by `trust`, a proxy's too, as all code here does.
    """
    from requests.adapters import HTTPAdapter

    def context() -> ssl.SSLContext:
        made = trust.context()
        made.sslsocket_class = _Shaking
        return made

    shared = cache(context)

    class WatchedAdapter(HTTPAdapter):
        def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
            host, settings = super().build_connection_pool_key_attributes(request, verify, cert)
            if host["scheme"] == "https":
                # A client certificate would stay in one that is shared.
                settings["ssl_context"] = context() if cert else shared()
            return host, settings

        def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
            """requests would add certifi's CAs here."""

        def proxy_manager_for(self, proxy: str, **settings: Any) -> Any:
            if proxy.startswith("https:"):
                settings["proxy_ssl_context"] = shared()
            return super().proxy_manager_for(proxy, **settings)

        def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
            pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
            make = type(pool).ConnectionCls

            def connection(*args: Any, **kwargs: Any) -> Any:
                made = make(*args, **kwargs)
                connect = made.connect

                def connect_watched() -> None:
                    connect()
                    watch(getattr(made.sock, "socket", made.sock))  # what is under TLS in a proxy's TLS

                made.connect = connect_watched
                return made

            pool.ConnectionCls = connection
            return pool

    return WatchedAdapter()
