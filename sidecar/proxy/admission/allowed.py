"""Which requests a route with `allow` lets through.

Owns the comparison. Called by `admission` for those routes only, with the target exactly as it is sent. Pure. Rule:
docs/allow.md. Methods are judged before paths; what two parsers could read differently is refused and never
corrected.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.config.allow import Allow
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.paths import normal_path
from sidecar.proxy.fields import headers

_SHOWN: Final = 80


@final
class Allowed:
    """The `allow` of one route, compiled."""

    __slots__ = ("_exact", "_methods", "_prefixes", "_route")

    def __init__(self, route: str, allow: Allow) -> None:
        self._route = route
        self._methods = frozenset(method.encode("ascii") for method in allow.methods)
        paths = [path.encode("ascii") for path in allow.paths]
        self._exact = frozenset(path for path in paths if not path.endswith(b"/*"))
        self._prefixes = tuple(path[:-1] for path in paths if path.endswith(b"/*"))

    def check(self, method: bytes, target: bytes, fields: headers.Fields) -> None:
        """Raise NOT_ALLOWED or PATH_AMBIGUOUS; `target` is in origin form, as it is sent."""
        for name, _ in fields:
            if name.lower().replace(b"_", b"-") in headers.OVERRIDES:
                raise SidecarError(
                    Reason.NOT_ALLOWED,
                    f"`{name.decode('ascii', 'replace')}` names another method or path than the request line, by which "
                    f"`allow` of route `{self._route}` judges. Leave the header out.",
                )
        if self._methods and method not in self._methods:
            raise self._not_allowed(f"the method {method.decode('ascii', 'replace')}", "methods")
        if self._prefixes or self._exact:
            self._check_path(target.partition(b"?")[0])

    def _check_path(self, path: bytes) -> None:
        if path != b"*":
            try:
                normal = normal_path(path)
            except ValueError as error:
                raise SidecarError(
                    Reason.PATH_AMBIGUOUS,
                    f"The request's path {error}, which not everybody reads alike, and route `{self._route}` has "
                    "`allow.paths`. Send the path in its plain form.",
                ) from None
            if normal in self._exact or normal.startswith(self._prefixes):
                return
        raise self._not_allowed(f"the path `{path[:_SHOWN].decode('ascii', 'replace')}`", "paths")

    def _not_allowed(self, what: str, key: str) -> SidecarError:
        return SidecarError(
            Reason.NOT_ALLOWED,
            f"Route `{self._route}` does not allow {what}. If the app needs it, add it to the route's `allow.{key}`.",
        )
