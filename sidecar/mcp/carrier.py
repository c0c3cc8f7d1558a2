"""Leads the SDK's HTTP client to the sidecar beside it.

Every request goes to the sidecar's Unix socket, as a request for the route; tokens never get here. Made by `bridge`.
Three things of an answer are changed, because the SDK's transports would lose them:

* An answer that is no message of the protocol becomes a JSON-RPC error with what it means (`refusals`).
* A stream of events that is cut looks as if it had ended. The SDK opens an ended one again and again, and a cut one
  twice; Cloud Run cuts every stream at the service's request timeout.
* A stream that can't be opened for now (502, 503, 504) is asked for again, up to `_TRIES` times.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, cast, final

import anyio
import httpx2
from mcp_types import ErrorData, JSONRPCError

from sidecar.mcp import refusals
from sidecar.proxy.refusals.diagnosis import may_tell
from sidecar.proxy.refusals.refusals import LastRefusal

_log = logging.getLogger(__name__)

_PAGE_LIMIT: Final = 64 * 1024
"""Most bytes of a refusal's body that are examined."""
_TRIES: Final = 10
_LONGEST_PAUSE: Final = 30.0
"""Seconds."""


@final
class Carrier(httpx2.AsyncBaseTransport):
    """The transport of an `httpx2.AsyncClient` that leads to one route."""

    def __init__(
        self,
        socket: str,
        host: str,
        route: str,
        last_refusal: Callable[[], LastRefusal | None],
        *,
        answer: Callable[[JSONRPCError], Awaitable[None]] | None = None,
    ) -> None:
        """`socket` is the sidecar's, `host` what finds `route` there. `answer` gets the errors of an old HTTP+SSE
        session, where an answer to a POST carries no message."""
        self._inner = httpx2.AsyncHTTPTransport(
            uds=socket, trust_env=False, limits=httpx2.Limits(max_connections=None, keepalive_expiry=30.0)
        )
        self._host = host
        self._route = route
        self._last_refusal = last_refusal
        self._answer = answer
        self.refused: ErrorData | None = None
        """The error with which the last stream of events was refused."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.AsyncBaseTransport`."""
        if request.method == "GET":
            return await self._stream(request)
        try:
            response = await _read(await self._send(request))
            error = self._error(response)
        except httpx2.TransportError:
            response, error = httpx2.Response(502), refusals.of_a_cut(self._route)
        if error is None or request.method != "POST":
            return response
        return await self._refuse(request, response.status_code, error)

    async def aclose(self) -> None:
        """See `httpx2.AsyncBaseTransport`."""
        await self._inner.aclose()

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        kept = ((name, value) for name, value in request.headers.raw if name.lower() != b"host")
        headers = [(b"Host", self._host.encode("ascii")), *kept]
        url = httpx2.URL(scheme="http", host=self._host, raw_path=request.url.raw_path)
        inner = httpx2.Request(
            request.method, url, headers=headers, stream=request.stream, extensions=request.extensions
        )
        return await self._inner.handle_async_request(inner)

    async def _stream(self, request: httpx2.Request) -> httpx2.Response:
        pause = 1.0
        for left in reversed(range(_TRIES)):
            response = await self._send(request)
            if response.status_code not in (502, 503, 504) or not left or self._answer is not None:
                break
            await response.aclose()
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        response = await _read(response)
        self.refused = self._error(response)
        if response.status_code == 200:
            response.stream = _UntilCut(cast(httpx2.AsyncByteStream, response.stream))
        return response

    def _error(self, response: httpx2.Response) -> ErrorData | None:
        """What is wrong with an answer; None if the SDK understands it."""
        status = response.status_code
        if not _refuses(response):
            return None
        body = response.content
        headers = {name.lower(): value for name, value in response.headers.items()}
        if (found := refusals.of_problem(headers, body)) is not None:
            return found
        if refusals.is_error(body):
            return None
        last = self._last_refusal() if may_tell(status, response.headers.raw) else None
        if last is not None and last.status == status:
            return refusals.of_diagnosis(self._route, status, last.diagnosis)
        # The SDK says what a 404 means: the session is over.
        return None if status in (404, 405) else refusals.of_status(self._route, status)

    async def _refuse(self, request: httpx2.Request, status: int, error: ErrorData) -> httpx2.Response:
        asked = refusals.request_in(request.content)
        if asked is None:
            _log.warning(f"a message was not delivered: {error.message}")
            return httpx2.Response(202)
        answer = JSONRPCError(jsonrpc="2.0", id=asked.id, error=error)
        if self._answer is not None:
            await self._answer(answer)
            return httpx2.Response(202)
        content = answer.model_dump_json(by_alias=True, exclude_unset=True).encode()
        return httpx2.Response(
            max(status, 400), headers={"content-type": "application/json"}, content=content
        )


def _refuses(response: httpx2.Response) -> bool:
    return response.status_code >= 400 or may_tell(response.status_code, response.headers.raw)


async def _read(response: httpx2.Response) -> httpx2.Response:
    """The same answer with its body read and decoded where it is no stream: of JSON the whole, which the SDK would read
    itself and knows no end of but a good one; of a refusal the beginning."""
    is_json = response.headers.get("content-type", "").lower().startswith("application/json")
    if not is_json and not _refuses(response):
        return response
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) >= _PAGE_LIMIT and not is_json:
            break
    await response.aclose()
    dropped = (b"content-encoding", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in response.headers.raw if name.lower() not in dropped]
    return httpx2.Response(response.status_code, headers=headers, content=bytes(body))


@final
class _UntilCut(httpx2.AsyncByteStream):
    """A stream that ends where it is cut."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream:
                yield piece
        except httpx2.TransportError as error:
            _log.debug("a stream of events was cut", exc_info=error)

    async def aclose(self) -> None:
        """See `httpx2.AsyncByteStream`."""
        await self._stream.aclose()
