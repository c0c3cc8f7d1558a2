"""From YAML, environment and flags to a Config, or to every problem with its place.

Called by the commands, which have read the texts. Pure. Precedence: flag, then environment variable, then file, then
default; a flag or a variable replaces the whole setting. The problems of all three are collected before anything is
raised.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, final

from pydantic import BaseModel, SecretStr

from sidecar.config import checks, handout_rules, intercept_rules, own_ports
from sidecar.config.addresses import ListenAddress
from sidecar.config.cautions import cautions
from sidecar.config.checks import Path, nearest
from sidecar.config.credentials import Credential, File, Gcloud, Metadata, Static
from sidecar.config.document import files_of
from sidecar.config.egress import EgressProxy
from sidecar.config.egress_rules import in_force, own_listener_behind, refusal_through_proxy
from sidecar.config.groups import Drain
from sidecar.config.handout_rules import handouts_in, own_metadata
from sidecar.config.listeners import ListenerConfig
from sidecar.config.misplaced import misplaced_in
from sidecar.config.models import Config, RouteConfig
from sidecar.config.only_route import OnlyRoute
from sidecar.config.platform import DRAIN, detect_platform
from sidecar.config.quantities import format_duration
from sidecar.config.schema import SchemaReader
from sidecar.config.tree import BROKEN, Problem, Tree, spelled
from sidecar.config.variables import proxy_faults
from sidecar.grammar.contents import kind_of, place
from sidecar.grammar.hosts import ip_literal, is_loopback_address

PREFIX: Final = "IDTOKEN_SIDECAR_"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
"""The variable that names the file."""
_NOT_SETTINGS: Final = frozenset({CONFIG_VARIABLE, f"{PREFIX}URL"})


_ASK_BY_NO_PROXY: Final = (Metadata, Gcloud, File, Static)
"""Credentials that make no network calls of their own, or leave them to a program."""


class Setting(NamedTuple):
    """One top-level setting, under its three names."""

    name: str
    flag: str
    variable: str
    description: str


SETTINGS: Final = tuple(
    Setting(name, "--" + name.replace("_", "-"), PREFIX + name.upper(), field.description or "")
    for name, field in Config.model_fields.items()
)


@final
class ConfigError(Exception):
    """A configuration that can't be used; every reason at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class Loaded(NamedTuple):
    """A configuration, and warnings about it and about how it was given."""

    config: Config
    warnings: tuple[str, ...]


def load(
    text: str | None,
    *,
    file: str = "config.yaml",
    environ: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
    to: Sequence[str] = (),
    only: OnlyRoute | None = None,
) -> Loaded:
    """The configuration from a file's text (None: no file), the environment, and flags.

    `flags` maps setting names to YAML text; `to` holds `[NAME=]URL` for routes to add; `only` takes the place of all
    routes. Raises ConfigError.
    """
    tree = Tree(file)
    data: dict[str, Any] = {}
    if text is not None:
        data = tree.read_file(text, environ)
    for setting in SETTINGS:
        for source, value in (
            (setting.variable, environ.get(setting.variable)),
            (setting.flag, _get(flags, setting)),
        ):
            if value is not None:
                tree.read_setting(data, setting.name, source, value)
    _add_targets(tree, data, to)
    if only is not None:
        only.put(tree, data)
    config = _Validation(tree, environ, has_file=text is not None).validate(data)
    secrets = [secret for secret in _secrets(config) if secret]
    config.remember_secret_variables(
        name
        for brought, names in tree.brought
        if any(secret in brought for secret in secrets)
        for name in names
    )
    doubted = [
        *cautions(dict(enumerate(config.routes))),
        *handout_rules.cautions(config.handouts, config.routes, config.listen),
        *intercept_rules.cautions(
            config.intercept,
            dict(enumerate(config.routes)),
            config.listen,
            answers=config.google_token_endpoints is not None,
        ),
    ]
    doubtful = [tree.problem(*found) for found in doubted]
    warnings = (*_odd_variables(environ), *_odd_proxies(environ, config))
    return Loaded(config, (*warnings, *map(str, sorted(doubtful, key=_order))))


def _secrets(value: Any) -> Iterator[str]:
    """Every secret in a configuration, or in a part of one."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel | dict | list | tuple):
        inner = value.__dict__ if isinstance(value, BaseModel) else value
        for item in inner.values() if isinstance(inner, dict) else inner:
            yield from _secrets(item)


def _get(flags: Mapping[str, str] | None, setting: Setting) -> str | None:
    return flags.get(setting.name) if flags else None


def _odd_variables(environ: Mapping[str, str]) -> list[str]:
    known = {setting.variable for setting in SETTINGS} | _NOT_SETTINGS
    return [
        f"the environment variable {name} is not a setting{nearest(name, known)}"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known and not name.startswith(PREFIX + "URL_")
    ]


def _odd_proxies(environ: Mapping[str, str], config: Config) -> list[str]:
    """A warning: not every call of a credential goes through a proxy. Each call that does fails and says the same."""
    if all(isinstance(credential, _ASK_BY_NO_PROXY) for credential in config.credentials.values()):
        return []
    return [
        f"the environment variable {name}, by which token endpoints are asked, can't be followed: {message}"
        for name, message in proxy_faults(environ, config.listening)
    ]


@final
class _Validation:
    """Checks what was read: each key by itself, then rules that concern several keys."""

    def __init__(self, tree: Tree, environ: Mapping[str, str], *, has_file: bool) -> None:
        self._tree = tree
        self._has_file = has_file
        self._environ = environ
        self._say = tree.say
        self._problems = tree.problems
        self._schema = SchemaReader(tree)

    def validate(self, data: dict[str, Any]) -> Config:
        """Check each key by itself, then rules that concern several. Raises ConfigError with the problems of both."""
        parsed: dict[str, Any] = {}
        fields = Config.model_fields
        for key, value in data.items():
            if key not in fields:
                self._say((key,), checks.unknown_key(key, fields))
            elif key == "routes":
                parsed[key] = self._schema.routes(value)
            elif key == "credentials":
                parsed[key] = self._schema.credentials(value)
            else:
                parsed[key] = self._schema.one(fields[key].rebuild_annotation(), value, (key,))
        defaults = Config.model_construct()
        routes: dict[int, RouteConfig] = parsed.get("routes", {})
        credentials = {
            name: credential
            for name, credential in parsed.get("credentials", defaults.credentials).items()
            if credential is not BROKEN
        }
        names = [*data["credentials"]] if isinstance(data.get("credentials"), dict) else [*credentials]
        for index, route in routes.items():
            self._find(checks.check_route(route, ("routes", index), names, credentials))
        self._find(checks.check_credentials(credentials, names))
        endpoints = parsed.get("endpoints", defaults.endpoints)
        says_where = endpoints is BROKEN or endpoints.metadata is not None
        for variable, message in misplaced_in(self._environ, [*credentials.values()], metadata=says_where):
            self._say((), message, variable)
        self._listeners(routes, {**dict(defaults), **parsed})
        self._handouts(routes, credentials, names, {**dict(defaults), **parsed})
        self._intercept(routes, {**dict(defaults), **parsed})
        self._egress(routes, {**dict(defaults), **parsed})
        if (drain := parsed.get("drain", defaults.drain)) is not BROKEN:
            parsed["drain"] = self._drain(drain)
        if not self._problems and not routes:
            where = (
                "add one under `routes:`"
                if self._has_file
                else f"name a file by `--config FILE` or {CONFIG_VARIABLE}"
            )
            self._say((), f"there is no route: {where}, or use `--to URL`", self._tree.file)
        if self._problems:
            raise ConfigError(sorted(self._problems, key=_order))
        whole = {**dict(defaults), **parsed}
        routed = [_with_top_level(route, whole) for route in routes.values()]
        effective = tuple(self._with_ports(routed, whole))
        return Config.model_construct(**{**whole, "routes": effective}, _fields_set=set(data))

    def _with_ports(self, routes: list[RouteConfig], whole: dict[str, Any]) -> list[RouteConfig]:
        """The routes with the ports that `auto` gives them. After this, `listen` holds the shared listeners only."""
        shared = tuple(it for it in whole["listen"] if not it.address.auto)
        if len(shared) < len(whole["listen"]):
            whole["listen"] = shared = shared or Config.model_construct().listen
            routes = own_ports.with_own(routes, shared)
        taken = [address for it in handouts_in(whole).values() for address in it.listen]
        return own_ports.numbered(routes, [*(it.address for it in shared), *whole["admin"], *taken])

    def _listeners(self, routes: dict[int, RouteConfig], parsed: Mapping[str, Any]) -> None:
        """The rules for listeners; what is BROKEN is skipped."""
        listeners: tuple[ListenerConfig, ...] = () if parsed["listen"] is BROKEN else parsed["listen"]
        shared: dict[str, tuple[ListenAddress, ...]] = {
            "listen": tuple(listener.address for listener in listeners),
            "admin": () if parsed["admin"] is BROKEN else parsed["admin"],
            **{key: it.listen for key, it in handouts_in(parsed).items()},
        }
        self._find(checks.check_clashes(routes, shared))
        self._find(checks.check_remote(parsed["allow_remote"] is not False, routes, listeners))
        self._find(checks.check_listeners(routes, listeners))
        if any(it.address.auto for it in listeners) and (why := own_ports.why_none(listeners)) is not None:
            self._say(("listen",), f"{why}: name the listener of each route under its own `listen`")
        self._find(checks.check_loops(routes, shared))

    def _handouts(
        self,
        routes: dict[int, RouteConfig],
        credentials: Mapping[str, Credential],
        names: Collection[str],
        parsed: Mapping[str, Any],
    ) -> None:
        """The rules for everything that gives tokens to programs."""
        handouts = handouts_in(parsed)
        is_intercepting = parsed["intercept"] is not None
        self._find(
            handout_rules.checked(
                handouts, routes.values(), credentials, names, is_intercepting=is_intercepting
            )
        )
        metadata = None if parsed["endpoints"] is BROKEN else parsed["endpoints"].metadata
        for path, variable, message in own_metadata(handouts, credentials.values(), metadata, self._environ):
            self._say(path, message, variable)

    def _intercept(self, routes: dict[int, RouteConfig], parsed: Mapping[str, Any]) -> None:
        """The rules for `intercept`; what is BROKEN is skipped."""
        listeners = () if parsed["listen"] is BROKEN else parsed["listen"]
        if (group := parsed["intercept"]) is not BROKEN:
            whole = [it for it in (*routes.values(), *parsed.values()) if it is not BROKEN]
            files = {*files_of(whole), parsed["ca_file"]}
            self._find([*intercept_rules.checked(group, routes, listeners, files)])

    def _egress(self, routes: dict[int, RouteConfig], parsed: Mapping[str, Any]) -> None:
        """The rules for proxies; what is BROKEN is skipped."""
        top = None if parsed["egress_proxy"] is BROKEN else parsed["egress_proxy"]
        groups = [parsed["listen"], *(route.listen for route in routes.values())]
        own = [listener.address for group in groups if group is not BROKEN for listener in group]
        own += [] if parsed["admin"] is BROKEN else parsed["admin"]
        own += [address for it in handouts_in(parsed).values() for address in it.listen]
        settings: list[tuple[Path, EgressProxy | None]] = [(("egress_proxy",), top)]
        settings += [(("routes", index, "egress_proxy"), it.egress_proxy) for index, it in routes.items()]
        for path, setting in settings:
            if setting is not None and (why := own_listener_behind(setting, own)) is not None:
                self._say(path, why)
        for index, route in routes.items():
            if (found := refusal_through_proxy(route, in_force(route, top))) is not None:
                self._say(("routes", index, found[0]), found[1])

    def _drain(self, given: Drain) -> Drain:
        """The drain, with the platform's times for whatever was not given."""
        usual = DRAIN[detect_platform(self._environ)]
        longest = given.max if "max" in given.model_fields_set else usual.max
        said = set(given.model_fields_set)
        if "min" not in said:
            return Drain.model_construct(min=min(usual.min, longest), max=longest, _fields_set=said)
        if given.min > longest:
            self._say(
                ("drain",), f"`min` is longer than `max` ({format_duration(longest)}), which includes it"
            )
        return Drain.model_construct(min=given.min, max=longest, _fields_set=said)

    def _find(self, findings: Sequence[checks.Finding]) -> None:
        known = {problem.path for problem in self._problems}
        for finding in findings:
            if spelled(finding.path) not in known:
                self._say(finding.path, finding.message)


def _with_top_level(route: RouteConfig, whole: Mapping[str, Any]) -> RouteConfig:
    """The route with the top-level settings that it does not override. When one of those changes, the route has
    changed.
    """
    update: dict[str, Any] = {}
    if whole["ca_file"] is not None and route.tls.ca_file is None and route.upstream.startswith("https:"):
        update["tls"] = route.tls.model_copy(update={"ca_file": whole["ca_file"]})
    if (egress := in_force(route, whole["egress_proxy"])) is not route.egress_proxy:
        update["egress_proxy"] = egress
    return route.model_copy(update=update) if update else route


def _add_targets(tree: Tree, data: dict[str, Any], to: Sequence[str]) -> None:
    """Routes for `--to [NAME=]URL`."""
    routes = data.setdefault("routes", []) if to else []
    if not isinstance(routes, list):
        return
    for target in to:
        name, separator, url = target.partition("=")
        if not separator or "://" in name:
            name, url = "", target
        names = (route.get("name") for route in routes if isinstance(route, dict))
        taken = {name for name in names if isinstance(name, str)}
        at: Path = ("routes", len(routes))
        source = "--to" if kind_of(url) or kind_of(name) else f"--to {place(target)}"
        tree.put(at, source)
        routes.append(
            {
                "name": tree.add_text((*at, "name"), source, name or _name_for(url, taken)),
                "upstream": tree.add_text((*at, "upstream"), source, url),
            }
        )


def _order(problem: Problem) -> tuple[str, int, int]:
    match = re.fullmatch(r"(.*):(\d+):(\d+)", problem.where)
    return (match[1], int(match[2]), int(match[3])) if match else (problem.where, 0, 0)


def _name_for(url: str, taken: set[Any]) -> str:
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2].lower()
    address = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    literal = ip_literal(address)
    if literal is not None:
        label = "localhost" if is_loopback_address(literal) else address
    else:
        label = address.removeprefix("www.").partition(".")[0]
    label = re.sub(r"[^a-z0-9]+", "-", label).strip("-")[:50].strip("-") or "target"
    name, number = label, 1
    while name in taken:
        number += 1
        name = f"{label}-{number}"
    return name
