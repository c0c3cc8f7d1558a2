"""Each value of a configuration by itself: what the models make of it, or what is wrong with it in plain words.

Owns the translation of pydantic's errors into the sentences that a user reads. Called by `load`, which has the rules
that concern several keys. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, final, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sidecar.config import checks
from sidecar.config.checks import Path, nearest
from sidecar.config.credentials import CREDENTIAL_TYPES
from sidecar.config.models import RouteConfig
from sidecar.config.tree import BROKEN, Tree, holds_broken, spelled
from sidecar.config.values import Model
from sidecar.grammar.contents import quoted


@final
class SchemaReader:
    """Reads values by the schema; problems go to the tree, with their places."""

    def __init__(self, tree: Tree) -> None:
        self._say = tree.say
        self._problems = tree.problems

    def routes(self, value: Any) -> dict[int, RouteConfig]:
        """The routes that are right, by their index."""
        if not isinstance(value, list):
            self._say(("routes",), "a list of routes belongs here, each beginning with `- name:`")
            return {}
        found = {index: self._route(item, ("routes", index)) for index, item in enumerate(value)}
        return {index: route for index, route in found.items() if route is not BROKEN}

    def _route(self, value: Any, path: Path) -> Any:
        known = len(self._problems)
        route = self.one(RouteConfig, value, path)
        if route is BROKEN and isinstance(value, dict):
            # What is right about it is still compared with the rest, so that a file need not be fixed twice.
            wrong = {
                problem.path.removeprefix(spelled(path) + ".").split(".")[0]
                for problem in self._problems[known:]
            }
            rest = {key: item for key, item in value.items() if key not in wrong and not holds_broken(item)}
            try:
                return RouteConfig.model_validate(rest)
            except ValidationError:
                return BROKEN
        return route

    def credentials(self, value: Any) -> dict[str, Any]:
        """The credentials by name, each of its type's model; BROKEN for one with a problem."""
        if not isinstance(value, dict):
            self._say(("credentials",), "a mapping of names belongs here, such as `default: {type: adc}`")
            return {}
        found = {}
        for name, item in value.items():
            if item is BROKEN:
                continue
            path: Path = ("credentials", name)
            kind = item.get("type") if isinstance(item, dict) else None
            model = CREDENTIAL_TYPES.get(kind) if isinstance(kind, str) else None
            if model is None:
                known = ", ".join(f"`{known}`" for known in CREDENTIAL_TYPES)
                hint = nearest(kind, CREDENTIAL_TYPES) if isinstance(kind, str) else ""
                what = (
                    f"{quoted(kind)} is not a type of credential"
                    if kind is not None
                    else "the `type` is missing"
                )
                at: Path = (*path, "type") if kind is not None else path
                self._say(at, f"{what} (there are {known}){hint}")
            else:
                found[name] = self.one(model, item, path)
        return found

    def one(self, kind: Any, value: Any, path: Path) -> Any:
        """The value as the type `kind` of the schema, or BROKEN."""
        if value is BROKEN or holds_broken(value):
            return BROKEN
        try:
            return _adapter(kind).validate_python(value)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self._add(detail, kind, path)
            return BROKEN

    def _add(self, detail: ErrorDetails, kind: Any, path: Path) -> None:
        parts = detail["loc"]
        unknown = detail["type"] == "extra_forbidden"
        # The last part of an unknown key is the user's own word, however much it looks like one of pydantic's.
        word = parts[-1:] if unknown else ()
        location = (*(part for part in parts[: len(parts) - len(word)] if not _is_internal(part)), *word)
        at = (*path, *location)
        if unknown:
            model = _model_at(kind, location[:-1])
            known = [field.alias or name for name, field in model.model_fields.items()] if model else []
            self._say(at, checks.unknown_key(str(location[-1]), known))
        elif detail["type"] == "missing":
            self._say(at[:-1], f"the key `{at[-1]}` is missing")
        elif detail["type"] == "value_error":
            self._say(at, str(detail["ctx"]["error"]))
        elif detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
            self._say(at, "a mapping of keys belongs here")
        elif detail["type"] == "literal_error":
            self._say(at, f"{detail['ctx']['expected']} belongs here")
        elif detail["type"] == "string_pattern_mismatch":
            self._say(at, f"does not match {detail['ctx']['pattern']}")
        elif detail["type"] == "string_type" and isinstance(detail["input"], bool | int | float):
            self._say(at, _not_text(detail["input"]))
        else:
            message = detail["msg"].replace("Input should be", "it should be")
            self._say(at, message[:1].lower() + message[1:])


def _not_text(value: bool | float) -> str:
    """The error for a value that YAML does not read as text."""
    if isinstance(value, bool):
        return "text belongs here, and YAML reads `on`, `off`, `yes`, `no` and the like as switches: put it in quotes"
    return "text belongs here, and YAML reads this as a number: put it in quotes"


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """The cached adapter of a schema type: making one takes longer than reading a route."""
    return TypeAdapter(kind)


def _is_internal(part: int | str) -> bool:
    """Whether this name is pydantic's for a branch of a union, and not a key of ours."""
    return isinstance(part, str) and ("function-" in part or "[" in part)


def _model_at(kind: Any, location: Sequence[int | str]) -> type[Model] | None:
    model = _unwrapped(kind)
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model is not None else None
        model = _unwrapped(field.annotation) if field is not None else None
    return model


def _unwrapped(kind: Any) -> type[Model] | None:
    """The one model in a type such as `X | None` or `tuple[X, ...]`."""
    if isinstance(kind, type) and issubclass(kind, Model):
        return kind
    return next((found for inner in get_args(kind) if (found := _unwrapped(inner)) is not None), None)
