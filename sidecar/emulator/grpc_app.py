"""The gRPC service behind a target's front end.

Owns its methods, its messages, and what it says of its health. Built by `targets`, called by `grpc_server`, which has
judged the call before. Pure: bytes of messages in, bytes of messages out. It has

    grpc.health.v1.Health       Check and Watch
    emulator.v1.Echo            Say, which gives its one message back, and Chat, which gives back each as it comes

and answers UNIMPLEMENTED for all else. Any type of message can be echoed; `emulator.v1.Message {string text = 1;}` is
what the demo sends. Sources: https://github.com/grpc/grpc/blob/master/doc/health-checking.md,
https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto,
https://protobuf.dev/programming-guides/encoding, https://grpc.io/docs/guides/status-codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol, final, get_args

from sidecar.emulator.kinds import Settings

ServingStatus = Literal["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]

ECHO: Final = "emulator.v1.Echo"
HEALTH: Final = "grpc.health.v1.Health"

OK, NOT_FOUND, UNIMPLEMENTED, INTERNAL = 0, 5, 12, 13
"""Statuses of calls that are given here."""


class Call(Protocol):
    """A call, as a method sees it."""

    def send(self, message: bytes, *, is_compressed: bool = False) -> None:
        """One message of the answer; compressed as the caller's are."""

    def finish(self, status: int, text: str = "") -> None:
        """The end of the answer; what comes after it is not sent."""

    def flush(self) -> None:
        """Have it sent, where no request's bytes are being read."""


class Method(Protocol):
    """One call's method, which is told what comes."""

    def message(self, data: bytes, is_compressed: bool) -> None:
        """The next message of the request."""

    def end(self) -> None:
        """There are no more."""

    def closed(self) -> None:
        """The call is over, or its caller has left."""


@final
class GrpcApp:
    """The service of one target."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._health: dict[str, ServingStatus] = {"": "SERVING", ECHO: "SERVING"}
        self._watches: set[_Watch] = set()

    def begin(self, path: str, call: Call) -> Method:
        """The method of a path such as `/emulator.v1.Echo/Say`."""
        if self._settings.grpc_status:
            call.finish(self._settings.grpc_status, "told to end so (grpc_status)")
            return _Nothing()
        match path:
            case "/emulator.v1.Echo/Say":
                return _Unary(call, call.send)
            case "/emulator.v1.Echo/Chat":
                return _Chat(call)
            case "/grpc.health.v1.Health/Check":
                return _Unary(call, lambda data, is_compressed: self._check(call, data, is_compressed))
            case "/grpc.health.v1.Health/Watch":
                return _Watch(call, self._health, self._watches)
        service, _, method = path.removeprefix("/").rpartition("/")
        known = service in (ECHO, HEALTH)
        why = f"unknown method {method} of {service}" if known else f"unknown service {service}"
        call.finish(UNIMPLEMENTED, why)
        return _Nothing()

    def set_health(self, status: ServingStatus, service: str) -> None:
        """See `Target.set_health`."""
        if status not in get_args(ServingStatus):
            raise ValueError(
                f"no health is called {status!r}; there are {', '.join(get_args(ServingStatus))}"
            )
        self._health[service] = status
        for watch in list(self._watches):
            watch.tell()

    def _check(self, call: Call, data: bytes, is_compressed: bool) -> None:
        service = _service(call, data, is_compressed)
        if service is None:
            return
        if (status := self._health.get(service)) is None:
            call.finish(NOT_FOUND, "unknown service")
        else:
            call.send(_response(status))


@final
class _Nothing:
    """A call that has been ended already."""

    def message(self, data: bytes, is_compressed: bool) -> None:
        pass

    def end(self) -> None:
        pass

    def closed(self) -> None:
        pass


@final
class _Unary:
    """One message, and then the answer to it."""

    def __init__(self, call: Call, answer: Callable[..., None]) -> None:
        """`answer` is called with the message and whether it is compressed, and may end the call itself."""
        self._call = call
        self._answer = answer
        self._asked: tuple[bytes, bool] | None = None

    def message(self, data: bytes, is_compressed: bool) -> None:
        if self._asked is not None:
            self._call.finish(INTERNAL, "more than one message for a method that takes one")
        self._asked = data, is_compressed

    def end(self) -> None:
        if self._asked is None:
            self._call.finish(INTERNAL, "no message for a method that takes one")
            return
        data, is_compressed = self._asked
        self._answer(data, is_compressed=is_compressed)
        self._call.finish(OK)

    def closed(self) -> None:
        pass


@final
class _Chat:
    """Each message back, as it comes."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def message(self, data: bytes, is_compressed: bool) -> None:
        self._call.send(data, is_compressed=is_compressed)

    def end(self) -> None:
        self._call.finish(OK)

    def closed(self) -> None:
        pass


@final
class _Watch:
    """The health of a service, and every change of it until the caller leaves."""

    def __init__(self, call: Call, health: dict[str, ServingStatus], watches: set[_Watch]) -> None:
        self._call = call
        self._health = health
        self._watches = watches
        self._service: str | None = None
        self._told: ServingStatus | None = None

    def message(self, data: bytes, is_compressed: bool) -> None:
        self._service = _service(self._call, data, is_compressed)

    def end(self) -> None:
        if self._service is not None:
            self._watches.add(self)
            self.tell()

    def tell(self) -> None:
        """Say what is new."""
        # Unlike Check, it goes on for a service that there is not: it may come.
        status = self._health.get(self._service or "", "SERVICE_UNKNOWN")
        if status != self._told:
            self._told = status
            self._call.send(_response(status))
            self._call.flush()

    def closed(self) -> None:
        self._watches.discard(self)


# messages


def _service(call: Call, data: bytes, is_compressed: bool) -> str | None:
    """The service of a HealthCheckRequest; None where the call has been ended for what it is."""
    if is_compressed:
        call.finish(UNIMPLEMENTED, "a compressed request for health")
        return None
    try:
        found = [value for number, value in _fields(data) if number == 1 and isinstance(value, bytes)]
        return found[-1].decode() if found else ""
    except (ValueError, IndexError):
        call.finish(INTERNAL, "the request can't be read")
        return None


def _response(status: ServingStatus) -> bytes:
    """A HealthCheckResponse. An enum's zero is not written."""
    number = get_args(ServingStatus).index(status)
    return bytes((1 << 3, number)) if number else b""


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbers and values of a message; ValueError or IndexError for one that is cut, or of no known form."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(data, at)
            case 5:
                size = 4
            case _:
                raise ValueError("a group")
        if at + size > len(data):
            raise ValueError("cut")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("more than ten bytes of a number")
