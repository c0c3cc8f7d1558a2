"""The kinds of targets, and what each can be told.

Owns the names of the kinds and their options, with which options belong to which kind; and a target as the command line
writes it. Called by `app`, the command
line and the fixtures, which make targets; read by the front ends at every request, so that an option is also a
switch. Pure: it judges nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, NamedTuple, Self, cast, final, get_args

TargetKind = Literal["cloud_run", "cloud_functions", "iap", "api_gateway", "endpoints", "googleapis", "open"]

GCLOUD_CLIENTS: Final = frozenset(
    {
        "32555940559.apps.googleusercontent.com",
        "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com",
    }
)
"""The client ids of `gcloud auth login` and of `gcloud auth application-default login`: the `aud` of users' tokens."""

_RUN: Final = frozenset({"custom_audiences", "user_tokens", "ingress"})
_GRPC: Final = frozenset({"grpc", "grpc_status"})
_OPTIONS: Final[dict[TargetKind, frozenset[str]]] = {
    "cloud_run": _RUN | _GRPC | {"tags"},
    "cloud_functions": _RUN | {"generation"},
    "iap": _GRPC | {"resource", "assertion_audience"},
    "api_gateway": _GRPC | {"custom_audiences", "issuers"},
    "endpoints": _GRPC | {"custom_audiences", "issuers"},
    "googleapis": frozenset({"service", "scopes", "enabled"}),
    "open": _GRPC,
}


@final
@dataclass(kw_only=True)
class Settings:
    """What one target wants of its callers; a change holds from the next request on."""

    kind: TargetKind
    audience: str | None = None
    """The audience it wants: its own URL unless told (a function's: with its name as the path)."""
    callers: Collection[str] | None = None
    """E-mails, or names in IAM, of those who have permission; None: everyone whose token is good."""
    hosts: Collection[str] = ()
    """Further values of Host that lead to it, as they come: `billing.example`, `localhost:9000`. Others but its own
    address are not found (404), as on Google's front ends."""
    custom_audiences: Collection[str] = ()
    """Further audiences, compared exactly."""
    user_tokens: bool = True
    """Whether users' tokens for gcloud's own client ids are good. Reports of the real ones differ."""
    ingress: Literal["all", "internal"] = "all"
    """`internal`: every caller is outside, and finds nothing (404)."""
    tags: Collection[str] = ()
    """Traffic tags: the host `TAG---NAME` is the same service, and wants the service's own audience."""
    generation: Literal[1, 2] = 2
    """The generation of the function; the first accepts only its whole URL as audience."""
    resource: str | None = None
    """The origin that a self-signed JWT for IAP names: its own URL unless told."""
    assertion_audience: str | None = None
    """The `aud` of the assertion that IAP hands the app: a service's on Cloud Run unless told. Behind a load balancer
    it is `/projects/NUMBER/global/backendServices/ID`, on App Engine `/projects/NUMBER/apps/PROJECT`."""
    issuers: Collection[str] = ()
    """E-mails of service accounts whose self-signed JWTs are good."""
    service: str | None = None
    """The API's host name: NAME.googleapis.com unless told."""
    scopes: Collection[str] | None = None
    """An access token needs one of them. None: cloud-platform, or one of the API's own narrower ones, by `service`."""
    enabled: bool = True
    """Whether the caller's project has the API switched on."""
    grpc: bool = False
    """Whether a gRPC service is behind it, in HTTP/2 (see `grpc_app`). No switch: it holds from the beginning on."""
    grpc_status: int = 0
    """The status that this service ends every call with, such as 14, UNAVAILABLE. 0: it answers."""

    @property
    def is_on_run(self) -> bool:
        """Whether it is a service of Cloud Run's, behind IAP too."""
        return self.kind == "cloud_run" or "/locations/" in (self.assertion_audience or "")

    @classmethod
    def of(cls, kind: TargetKind, **options: Any) -> Self:
        """The settings of a target of this kind; ValueError for a kind or an option that there is not."""
        if kind not in get_args(TargetKind):
            raise ValueError(
                f"no kind of target is called {kind!r}; there are {', '.join(get_args(TargetKind))}"
            )
        known = _OPTIONS[kind] | {"audience", "callers", "hosts"}
        for name in options:
            if name not in known:
                names = ", ".join(field.name for field in fields(cls) if field.name in known)
                raise ValueError(f"a target of the kind {kind} has no option {name!r}; there are {names}")
        return cls(kind=kind, **options)


class Wanted(NamedTuple):
    """A target as the command line writes it."""

    name: str
    kind: TargetKind
    grpc: bool

    @classmethod
    def of(cls, word: str) -> Self:
        """From NAME[=KIND][,grpc]; ValueError with what is wrong."""
        named, *options = word.split(",")
        name, _, kind = named.partition("=")
        kind = kind or "cloud_run"
        if not name or kind not in get_args(TargetKind) or options not in ([], ["grpc"]):
            raise ValueError(
                f"`{word}` is not NAME, NAME=KIND or NAME=KIND,grpc; kinds are {', '.join(get_args(TargetKind))}"
            )
        grpc = bool(options)
        if grpc and "grpc" not in _OPTIONS[cast(TargetKind, kind)]:
            able = ", ".join(name for name, known in _OPTIONS.items() if "grpc" in known)
            raise ValueError(
                f"`{word}`: a target of the kind {kind} does not speak gRPC here; these do: {able}"
            )
        return cls(name, cast(TargetKind, kind), grpc)
