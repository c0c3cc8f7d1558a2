"""Plain values with their places, from YAML.

Owns the reading of YAML into plain values, the place of each (file, line and column, or the flag or variable
it came from), and the problems found on the way. Called by `load`. Pure. Only plain YAML is read (no tags
that make objects), of bounded size and depth, without aliases (an alias bomb is a kilobyte that becomes
gigabytes) and without duplicate keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, final

import yaml
from yaml.constructor import SafeConstructor

from sidecar.config.checks import Path
from sidecar.config.environment import expand, references
from sidecar.config.values import HIDDEN

MAX_SIZE: Final = 1024 * 1024
"""Characters of a configuration: thousands of routes."""
_MAX_DEPTH: Final = 20

_BEHIND_SCHEME: Final = re.compile(r"://([^\s`]*)")

BROKEN: Final = type("_Broken", (), {"__repr__": lambda _: "<broken>"})()
"""Stands where a value could not be read; the problem is noted already."""


class Problem(NamedTuple):
    """One thing to mend, and where."""

    where: str
    """`config.yaml:12:5`, a flag, or a variable."""
    path: str
    """The key, such as `routes[0].upstream`; empty for the document as a whole."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.message}" if self.path else f"{self.where}: {self.message}"


class _AliasError(Exception):
    """An alias stands at `mark`."""

    def __init__(self, mark: yaml.Mark) -> None:
        super().__init__("an alias")
        self.mark = mark


class _WithoutAliases(yaml.SafeLoader):
    """Composes nodes of which none stands in two places."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _AliasError(self.current_event.start_mark)
        return super().compose_node(parent, index)


@final
class Tree:
    """Collects values with their places, and problems."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self.file = file
        self.brought: list[tuple[str, frozenset[str]]] = []
        """Every value that refers to variables, as it came to be, and which these are."""
        self._places: dict[Path, str] = {}

    def read_file(self, text: str, environ: Mapping[str, str]) -> dict[str, Any]:
        """The top-level mapping of a file's text, `${VAR}` references replaced."""
        node = self._compose(text, self.file)
        if node is None:
            return {}
        value = self._plain(node, (), lambda mark: _place(self.file, mark), environ)
        if isinstance(value, dict):
            return value
        self.say((), "the configuration is a mapping of keys such as `routes:`", self.file)
        return {}

    def read_setting(self, data: dict[str, Any], name: str, source: str, text: str) -> None:
        """Replace one setting by what a flag or a variable (`source`) says, as YAML."""
        path: Path = (name,)
        for known in [place for place in self._places if place[:1] == path]:
            del self._places[known]
        self._places[path] = source
        node = self._compose(text, source)
        data[name] = None if node is None else self._plain(node, path, lambda _: source, None)

    def put(self, path: Path, place: str) -> None:
        """Remember where the value at `path` came from."""
        self._places[path] = _without_secrets(place)

    def say(self, path: Path, message: str, place: str | None = None) -> None:
        """Note a problem, at `place` or where the value at `path`, or what holds it, came from."""
        self.problems.append(self.problem(path, message, place))

    def problem(self, path: Path, message: str, place: str | None = None) -> Problem:
        """The same, for what is not to be noted: a warning."""
        path = known = self._written(path)
        while place is None:
            place = self._places.get(known)
            if not known:
                place = place or self.file
            known = known[:-1]
        return Problem(place, spelled(path), _without_secrets(message))

    def _written(self, path: Path) -> Path:
        """The path as it stands in the file: one thing may be written without the list that it is the first of."""
        written: Path = ()
        for part in path:
            if part != 0 or isinstance(part, bool) or (*written, 0) in self._places:
                written = (*written, part)
        return written

    def _compose(self, text: str, source: str) -> yaml.Node | None:
        if len(text) > MAX_SIZE:
            self.problems.append(Problem(source, "", f"larger than {MAX_SIZE} characters"))
            return None
        try:
            return yaml.compose(text, Loader=_WithoutAliases)
        except _AliasError as error:
            place = _place(source, error.mark) if source == self.file else source
            self.problems.append(Problem(place, "", "aliases are not read: repeat the value"))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = _place(source, mark) if mark and source == self.file else source
            self.problems.append(Problem(place, "", f"not valid YAML: {error.problem or error.context}"))
        except (yaml.YAMLError, RecursionError) as error:
            self.problems.append(Problem(source, "", f"not valid YAML: {str(error).splitlines()[0]}"))
        return None

    def _plain(
        self,
        node: yaml.Node,
        path: Path,
        place: Callable[[yaml.Mark], str],
        environ: Mapping[str, str] | None,
    ) -> Any:
        self._places.setdefault(path, place(node.start_mark))
        if len(path) > _MAX_DEPTH:
            self.say(path, "nested too deeply")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, place, environ)
        if isinstance(node, yaml.SequenceNode):
            return [
                self._plain(item, (*path, index), place, environ) for index, item in enumerate(node.value)
            ]
        if environ is not None and node.tag == "tag:yaml.org,2002:str" and "${" in node.value:
            try:
                expanded = expand(node.value, environ)
            except ValueError as error:
                self.say(path, str(error))
                return BROKEN
            self.brought.append((expanded, references(node.value)))
            return expanded
        return self._scalar(node, path)

    def _mapping(
        self,
        node: yaml.MappingNode,
        path: Path,
        place: Callable[[yaml.Mark], str],
        environ: Mapping[str, str] | None,
    ) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            inner: Path = (*path, key)
            if not isinstance(key_node, yaml.ScalarNode) or key == "<<":
                self.say(path, "keys are plain words; merge keys are not read", place(key_node.start_mark))
                continue
            if key in mapping:
                self.say(inner, "this key stands here twice", place(key_node.start_mark))
                continue
            self._places[inner] = place(key_node.start_mark)
            mapping[key] = self._plain(value_node, inner, place, environ)
        return mapping

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        try:
            return SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):
            # PyYAML's constructors take a tag's word for it: `!!bool x` is a KeyError to them.
            self.say(path, f"`{node.value}` can't be read as {node.tag.rpartition(':')[2]}")
            return BROKEN


def holds_broken(value: Any) -> bool:
    if isinstance(value, dict):
        return any(holds_broken(item) for item in value.values())
    if isinstance(value, list):
        return any(holds_broken(item) for item in value)
    return value is BROKEN


def spelled(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _without_secrets(text: str) -> str:
    """Without what stands for a user name, password or query in its URLs, where people put keys."""
    return _BEHIND_SCHEME.sub(_without_user_and_query, text)


def _without_user_and_query(found: re.Match[str]) -> str:
    before, mark, query = found[1].partition("?")
    user, at, rest = before.rpartition("@")
    if "@" in query and not at:  # a password with a `?` in it, or a query with an `@`
        return f"://{HIDDEN}"
    return f"://{user and HIDDEN}{at}{rest}{mark}{query and HIDDEN}"


def _place(source: str, mark: Any) -> str:
    return f"{source}:{mark.line + 1}:{mark.column + 1}"
