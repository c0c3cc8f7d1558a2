"""A gRPC service with real grpcio: grpc.testing.TestService, with health checking and reflection.

Owns its messages, which are on the wire what grpc-proto's grpc/testing/messages.proto says, as far as the interop cases
use them; its methods, as grpc's doc/interop-test-descriptions.md describes them; and how a call's ID token is verified.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Self

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sidecar.emulator.keys import BadTokenError, signing_key

NAME: Final = "grpc.testing.TestService"
INITIAL: Final = "x-grpc-test-echo-initial"
TRAILING: Final = "x-grpc-test-echo-trailing-bin"
"""Metadata that every method gives back, at the beginning and at the end."""
_WATCH: Final = "x-watch"

THREADS: Final = 32
"""Calls at once."""

_Type = descriptor_pb2.FieldDescriptorProto
_FIELDS: Final[Mapping[str, Mapping[str, tuple[int, str]]]] = {
    "Empty": {},
    "BoolValue": {"value": (1, "bool")},
    "Payload": {"type": (1, "int32"), "body": (2, "bytes")},
    "EchoStatus": {"code": (1, "int32"), "message": (2, "string")},
    "ResponseParameters": {"size": (1, "int32"), "interval_us": (2, "int32")},
    "SimpleRequest": {
        "response_size": (2, "int32"),
        "payload": (3, "Payload"),
        "response_compressed": (6, "BoolValue"),
        "response_status": (7, "EchoStatus"),
    },
    "SimpleResponse": {"payload": (1, "Payload"), "username": (2, "string")},
    "StreamingInputCallRequest": {"payload": (1, "Payload")},
    "StreamingInputCallResponse": {"aggregated_payload_size": (1, "int32")},
    "StreamingOutputCallRequest": {
        "response_parameters": (2, "repeated ResponseParameters"),
        "payload": (3, "Payload"),
        "response_status": (7, "EchoStatus"),
    },
    "StreamingOutputCallResponse": {"payload": (1, "Payload")},
}
_METHODS: Final[Mapping[str, tuple[str, bool, str, bool]]] = {
    "EmptyCall": ("Empty", False, "Empty", False),
    "UnaryCall": ("SimpleRequest", False, "SimpleResponse", False),
    "StreamingOutputCall": ("StreamingOutputCallRequest", False, "StreamingOutputCallResponse", True),
    "StreamingInputCall": ("StreamingInputCallRequest", True, "StreamingInputCallResponse", False),
    "FullDuplexCall": ("StreamingOutputCallRequest", True, "StreamingOutputCallResponse", True),
    "UnimplementedCall": ("Empty", False, "Empty", False),
}
"""Name to request, whether it is a stream, answer, whether it is one."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/grpc_testing.proto", package="grpc.testing", syntax="proto3"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _, repeated, kind = kind.rpartition("repeated ")
            label = _Type.LABEL_REPEATED if repeated else _Type.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, label=label)
            if kind in _FIELDS:
                made.type, made.type_name = _Type.TYPE_MESSAGE, f".grpc.testing.{kind}"
            else:
                made.type = _Type.Type.Value(f"TYPE_{kind.upper()}")
    service = file.service.add(name="TestService")
    for name, (takes, streams_in, gives, streams_out) in _METHODS.items():
        service.method.add(
            name=name,
            input_type=f".grpc.testing.{takes}",
            output_type=f".grpc.testing.{gives}",
            client_streaming=streams_in,
            server_streaming=streams_out,
        )
    return file


_pool = descriptor_pool.Default()
_pool.Add(_file())
_classes: Final = {
    name: message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"grpc.testing.{name}"))
    for name in _FIELDS
}
Empty: Final = _classes["Empty"]
SimpleRequest: Final = _classes["SimpleRequest"]
SimpleResponse: Final = _classes["SimpleResponse"]
StreamingInputCallRequest: Final = _classes["StreamingInputCallRequest"]
StreamingInputCallResponse: Final = _classes["StreamingInputCallResponse"]
StreamingOutputCallRequest: Final = _classes["StreamingOutputCallRequest"]
StreamingOutputCallResponse: Final = _classes["StreamingOutputCallResponse"]


class Stub:
    """The methods on a channel, of grpcio's sync or aio kind, by their names; `no_such_service` is a method of another service."""

    def __init__(self, channel: Any) -> None:
        for name, (takes, streams_in, gives, streams_out) in _METHODS.items():
            call = getattr(channel, _kind(streams_in, streams_out))(
                f"/{NAME}/{name}",
                request_serializer=_classes[takes].SerializeToString,
                response_deserializer=_classes[gives].FromString,
            )
            setattr(self, name, call)
        self.no_such_service = channel.unary_unary(
            "/grpc.testing.UnimplementedService/UnimplementedCall",
            request_serializer=Empty.SerializeToString,
            response_deserializer=Empty.FromString,
        )

    def __getattr__(self, name: str) -> Any:
        """A method that there is not."""
        raise AttributeError(name)


class Call(NamedTuple):
    """A call that the service was given."""

    method: str
    metadata: tuple[tuple[str, str | bytes], ...]
    claims: Mapping[str, Any] | None
    """Of its token, where the service verifies them."""

    def all(self, name: str) -> list[str | bytes]:
        """Every value of this metadata."""
        return [value for known, value in self.metadata if known == name]


class Watch(NamedTuple):
    """The life of one call, as the service sees it."""

    metadata: tuple[str, str]
    begun: threading.Event
    ended: threading.Event


class TokenCheck(grpc.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Lets calls through whose ID token is Google's, for this audience, and lives; refuses others as UNAUTHENTICATED."""

    def __init__(self, audience: str | None, calls: list[Call], now: Callable[[], float]) -> None:
        """No audience: every call is let through."""
        self._audience = audience
        self._calls = calls
        self._now = now

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        metadata = tuple((name, value) for name, value in details.invocation_metadata)
        claims = None
        if self._audience is not None:
            try:
                claims = self._claims([value for name, value in metadata if name == "authorization"])
            except BadTokenError as error:
                return _refusal(f"token: {error}")
        self._calls.append(Call(details.method, metadata, claims))
        return continuation(details)

    def _claims(self, values: list[str]) -> Mapping[str, Any]:
        if len(values) != 1 or not values[0].startswith("Bearer "):
            raise BadTokenError(f"{len(values)} of them")
        claims = signing_key("google").verify(values[0].removeprefix("Bearer "))
        if claims["aud"] != self._audience:
            raise BadTokenError(f"for {claims['aud']}, not {self._audience}")
        if claims["exp"] <= self._now():
            raise BadTokenError("expired")
        return claims


def _refusal(why: str) -> grpc.RpcMethodHandler:
    def refuse(_: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, why)

    return grpc.stream_unary_rpc_method_handler(refuse)


class GrpcService:
    """The service on a free port of 127.0.0.1, in threads of grpcio's, while entered."""

    def __init__(
        self,
        audience: str | None = None,
        *,
        tls: tuple[bytes, bytes] | None = None,
        options: Iterable[tuple[str, int]] = (),
        now: Callable[[], float] = time.time,  # noqa: TID251  # tokens are of the real clock
    ) -> None:
        """`audience` is of the tokens that it wants; `tls` is a private key and a chain, in PEM."""
        self.calls: list[Call] = []
        """Every call that was let in."""
        self._watches: dict[str, Watch] = {}
        self.left: list[float | None] = []
        """Seconds until the deadline of every empty call, as it came."""
        self.port = 0
        self._tls = tls
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS),
            interceptors=[TokenCheck(audience, self.calls, now)],
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), *options],
        )

    def __enter__(self) -> Self:
        methods = {
            "EmptyCall": self._empty,
            "UnaryCall": self._unary,
            "StreamingOutputCall": self._output,
            "StreamingInputCall": self._input,
            "FullDuplexCall": self._duplex,
        }
        handlers = {}
        for name, method in methods.items():
            takes, streams_in, gives, streams_out = _METHODS[name]
            make = getattr(grpc, f"{_kind(streams_in, streams_out)}_rpc_method_handler")
            handlers[name] = make(method, _classes[takes].FromString, _classes[gives].SerializeToString)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.health.set(NAME, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection(
            (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        if self._tls is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            credentials = grpc.ssl_server_credentials([self._tls])
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None).wait()

    def drain(self, grace: float) -> threading.Event:
        """Say GOAWAY, and let what is open go on for so many seconds; the event is set at the end."""
        ended: threading.Event = self._server.stop(grace)
        return ended

    def _empty(self, _: Any, context: grpc.ServicerContext) -> Any:
        self.left.append(context.time_remaining())
        _echo(context)
        return Empty()

    def _unary(self, request: Any, context: grpc.ServicerContext) -> Any:
        _echo(context)
        if request.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        _status(request, context)
        return SimpleResponse(payload={"body": bytes(request.response_size)})

    def _output(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self._watched(context)
        _echo(context)
        yield from _answers(request, context)

    def _input(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        self._watched(context)
        _echo(context)
        size = sum(len(request.payload.body) for request in requests)
        return StreamingInputCallResponse(aggregated_payload_size=size)

    def _duplex(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        self._watched(context)
        _echo(context)
        for request in requests:
            yield from _answers(request, context)

    def watch(self) -> Watch:
        """The life of one call to come, of a stream: of the one that is sent with this metadata."""
        name = str(len(self._watches))
        made = self._watches[name] = Watch((_WATCH, name), threading.Event(), threading.Event())
        return made

    def _watched(self, context: grpc.ServicerContext) -> None:
        watch = self._watches.get(dict(context.invocation_metadata()).get(_WATCH, ""))
        if watch is not None:
            context.add_callback(watch.ended.set)
            watch.begun.set()


def _echo(context: grpc.ServicerContext) -> None:
    found = dict(context.invocation_metadata())
    if INITIAL in found:
        context.send_initial_metadata(((INITIAL, found[INITIAL]),))
    if TRAILING in found:
        context.set_trailing_metadata(((TRAILING, found[TRAILING]),))


def _answers(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    for asked in request.response_parameters:
        if asked.interval_us:
            time.sleep(asked.interval_us / 1e6)  # the caller asks for it
        yield StreamingOutputCallResponse(payload={"body": bytes(asked.size)})
    _status(request, context)


def _status(request: Any, context: grpc.ServicerContext) -> None:
    if request.response_status.code:
        codes = {code.value[0]: code for code in grpc.StatusCode}
        context.abort(codes[request.response_status.code], request.response_status.message)


def _kind(streams_in: bool, streams_out: bool) -> str:
    return f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
