"""The stand-in's switches over HTTP, for a shell or another process.

Owns the control application: `GET /_emulator/faults` says what is switched on, `POST /_emulator/faults` switches,
`POST /_emulator/gates` holds and releases answers, `POST /_emulator/call` has a connecting service call a target,
`POST /_emulator/introspect` says what an access token is good for, in the words of RFC 7662.
Composed by `app`. It decides nothing itself: every switch is an `Endpoint`'s, the refusal of connections is the
emulator's, calls are `connecting`'s, tokens `principals`', and who may ask `callers`'. Bodies must be JSON.

    curl -H 'Content-Type: application/json' $CONTROL/faults -d '{"server": "metadata", "kind": "status",
         "code": 429, "headers": {"Retry-After": "7"}, "times": 2}'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, final

from aiohttp import ClientError, InvalidURL, web
from aiohttp.typedefs import Handler

from sidecar.emulator.callers import refuse_other_machines, refuse_pages
from sidecar.emulator.connecting import ConnectingServices
from sidecar.emulator.faults import Endpoint, Fault
from sidecar.emulator.pages import NOBODY, application
from sidecar.emulator.principals import Principals

_FIELDS: Final[dict[str, tuple[type, ...]]] = {
    "code": (int,),
    "headers": (dict,),
    "body": (str,),
    "seconds": (int, float),
    "everywhere": (bool,),
}


class Server(Protocol):
    """One that can be switched."""

    @property
    def app(self) -> web.Application: ...
    @property
    def endpoint(self) -> Endpoint: ...


class Listeners(Protocol):
    """Who opens and closes the servers' sockets."""

    async def start(self, app: web.Application) -> None: ...
    async def stop(self, app: web.Application) -> None: ...
    def is_listening(self, app: web.Application) -> bool: ...


@final
class Control:
    """The application."""

    def __init__(
        self,
        servers: Mapping[str, Server],
        listeners: Listeners,
        connecting: ConnectingServices,
        principals: Principals,
    ) -> None:
        self._servers = servers
        self._listeners = listeners
        self._connecting = connecting
        self._principals = principals
        self.app = application(NOBODY, middlewares=[_guarded])
        routes = self.app.router
        routes.add_get("/_emulator/faults", self._show)
        routes.add_post("/_emulator/faults", self._switch)
        routes.add_post("/_emulator/gates", self._gate)
        routes.add_post("/_emulator/call", self._call)
        routes.add_post("/_emulator/introspect", self._introspect)

    async def _show(self, _: web.Request) -> web.Response:
        return web.json_response({name: self._state(server) for name, server in self._servers.items()})

    async def _switch(self, request: web.Request) -> web.Response:
        server, asked = await self._read(request)
        kind, times = asked.pop("kind", None), asked.pop("times", None)
        if kind == "refuse":
            if asked or times is not None:
                raise _bad("refuse has no options: end it with the kind none")
            await self._listeners.stop(server.app)
            return web.json_response(self._state(server))
        try:
            if times is not None and (not isinstance(times, int) or isinstance(times, bool)):
                raise ValueError("times is a whole number")
            server.endpoint.fail(None if kind == "none" else _fault(kind, asked), times=times)
        except ValueError as error:
            raise _bad(str(error)) from error
        await self._listeners.start(server.app)
        return web.json_response(self._state(server))

    async def _gate(self, request: web.Request) -> web.Response:
        server, asked = await self._read(request)
        if set(asked) != {"open"} or not isinstance(asked["open"], bool):
            raise _bad('a gate is {"server": …, "open": true or false}')
        if asked["open"]:
            server.endpoint.release()
        else:
            server.endpoint.hold()
        return web.json_response(self._state(server))

    async def _call(self, request: web.Request) -> web.Response:
        refuse_other_machines(request)
        asked = await self._object(request)
        unknown = asked.keys() - {"service", "url", "audience", "email", "data", "ca_file"}
        if (
            unknown
            or not {"service", "url"} <= asked.keys()
            or not all(isinstance(v, str) for v in asked.values())
        ):
            raise _bad('a call is {"service": …, "url": …}, with "audience", "email" and "data" if need be')
        try:
            called = await self._connecting.call(asked.pop("service"), asked.pop("url"), **asked)
        except InvalidURL as error:
            raise _bad(str(error)) from error
        except (ClientError, TimeoutError) as error:
            raise web.HTTPBadGateway(text="the target gave no answer\n") from error
        except (ValueError, OSError) as error:
            raise _bad(str(error)) from error
        return web.json_response(called._asdict())

    async def _introspect(self, request: web.Request) -> web.Response:
        asked = await self._object(request)
        if set(asked) != {"token"} or not isinstance(asked["token"], str):
            raise _bad('a question about a token is {"token": …}')
        token = self._principals.introspect(asked["token"])
        if token is None:
            return web.json_response({"active": False})
        return web.json_response(
            {
                "active": True,
                "sub": token.member,
                "scope": " ".join(token.scopes),
                "exp": int(token.expires_at),
            }
        )

    async def _read(self, request: web.Request) -> tuple[Server, dict[str, Any]]:
        asked = await self._object(request)
        name = asked.pop("server", None)
        if not isinstance(name, str) or name not in self._servers:
            raise _bad(f"no server is called {name!r}; there are {', '.join(self._servers)}")
        return self._servers[name], asked

    @staticmethod
    async def _object(request: web.Request) -> dict[str, Any]:
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="the body must be application/json\n")
        try:
            asked = await request.json()
        except (ValueError, RecursionError):
            raise _bad("the body is no JSON") from None
        if not isinstance(asked, dict):
            raise _bad("the body is no JSON object")
        return asked

    def _state(self, server: Server) -> dict[str, object]:
        endpoint = server.endpoint
        return {
            "listening": self._listeners.is_listening(server.app),
            "open": endpoint.is_open,
            "fault": endpoint.fault.kind if endpoint.fault is not None else None,
            "left": endpoint.left,
            "arrived": endpoint.arrived,
        }


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    refuse_pages(request)
    return await handler(request)


def _fault(kind: Any, options: dict[str, Any]) -> Fault:
    """ValueError for what there is not, or is of the wrong type."""
    for name, value in options.items():
        types = _FIELDS.get(name)
        if types is None:
            raise ValueError(f"no option is called {name!r}; there are {', '.join((*_FIELDS, 'times'))}")
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"{name} can't be {value!r}")
    if not all(isinstance(value, str) for value in options.get("headers", {}).values()):
        raise ValueError("headers are names and strings")
    return Fault(kind, **options)


def _bad(text: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=f"{text}\n")
