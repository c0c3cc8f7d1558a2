"""Plain values with their places, from YAML.

Owns the reading of YAML into plain values, the place of each (file, line and column, or the flag or variable
it came from), and the problems found on the way. Called by `load`. Pure. Only plain YAML is read (no tags
that make objects), of bounded size and depth, without aliases (an alias bomb is a kilobyte that becomes
gigabytes) and without duplicate keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, final

import yaml
from yaml.constructor import SafeConstructor

from sidecar.config.checks import Path
from sidecar.config.environment import expand, references
from sidecar.config.misplaced import misplaced
from sidecar.config.yaml_faults import fault
from sidecar.grammar.contents import kind_of, masked

MAX_SIZE: Final = 1024 * 1024
"""Characters of a configuration: thousands of routes."""
_MAX_DEPTH: Final = 20

_MAX_KEY: Final = 200
"""Characters of a key; those of the schema have under thirty."""

BROKEN: Final = type("_Broken", (), {"__repr__": lambda _: "<broken>"})()
"""Stands where a value could not be read; the problem is noted already."""


class Problem(NamedTuple):
    """One thing to fix, and where."""

    where: str
    """`config.yaml:12:5`, a flag, or a variable."""
    path: str
    """The key, such as `routes[0].upstream`; empty for the document as a whole."""
    message: str

    @property
    def is_of_key(self) -> bool:
        """Whether it is about which keys there are, and not about a value."""
        return self.message.startswith(("unknown key", "the key ", "a mapping of keys"))

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

    def put(self, path: Path, source: str) -> None:
        """Remember what the value at `path` came from."""
        self._places[path] = source

    def say(self, path: Path, message: str, where: str | None = None) -> None:
        """Note a problem, at `where` or where the value at `path`, or what holds it, came from."""
        self.problems.append(self.problem(path, message, where))

    def problem(self, path: Path, message: str, where: str | None = None) -> Problem:
        """The same, without noting it: for a warning."""
        path = known = self._written(path)
        while where is None:
            where = self._places.get(known)
            if not known:
                where = where or self.file
            known = known[:-1]
        return Problem(where, spelled(path), masked(message))

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
            where = _place(source, error.mark) if source == self.file else source
            self.problems.append(
                Problem(
                    where,
                    "",
                    "aliases are not read: repeat the value, or put one that begins with `*` in quotes",
                )
            )
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = _place(source, mark) if mark and source == self.file else source
            self.problems.append(Problem(where, "", fault(error, text)))
        except (yaml.YAMLError, RecursionError) as error:
            self.problems.append(Problem(source, "", f"not valid YAML: {str(error).splitlines()[0]}"))
        return None

    def _plain(
        self,
        node: yaml.Node,
        path: Path,
        at: Callable[[yaml.Mark], str],
        environ: Mapping[str, str] | None,
    ) -> Any:
        self._places.setdefault(path, at(node.start_mark))
        if len(path) > _MAX_DEPTH:
            self.say(path, "nested too deeply")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, at, environ)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*path, index), at, environ) for index, item in enumerate(node.value)]
        value = self._scalar(node, path)
        if not isinstance(value, str):
            return value
        # What YAML joins to one line was none: the lines of a secret, in a variable or pasted without quotes.
        joined = node.start_mark.line != node.end_mark.line and "\n" not in value
        if joined and (why := misplaced(path, f"{value}\n")) is not None:
            self.say(path, why)
            return BROKEN
        return self._text(value, path, environ)

    def _text(self, text: str, path: Path, environ: Mapping[str, str] | None) -> Any:
        """A text with its references replaced, unless it is a secret's contents in the place of something else."""
        if environ is not None and "${" in text:
            try:
                names = references(text)
                text = expand(text, environ)
            except ValueError as error:
                self.say(path, str(error))
                return BROKEN
            self.brought.append((text, names))
        if (why := misplaced(path, text)) is not None:
            self.say(path, why)
            return BROKEN
        return text

    def add_text(self, path: Path, source: str, text: str) -> Any:
        """A text that came by itself and not as YAML (`source`: the flag), judged as those of a file are."""
        self._places[path] = source
        return self._text(text, path, None)

    def _mapping(
        self,
        node: yaml.MappingNode,
        path: Path,
        at: Callable[[yaml.Mark], str],
        environ: Mapping[str, str] | None,
    ) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            inner: Path = (*path, key)
            if not isinstance(key_node, yaml.ScalarNode) or key == "<<":
                self.say(path, "keys are plain words; merge keys are not read", at(key_node.start_mark))
                continue
            if len(key) > _MAX_KEY or kind_of(key) is not None:
                self.say(path, "a key in it is not a word, but a secret's contents", at(key_node.start_mark))
                continue
            if key in mapping:
                self.say(inner, "this key stands here twice", at(key_node.start_mark))
                continue
            self._places[inner] = at(key_node.start_mark)
            mapping[key] = self._plain(value_node, inner, at, environ)
        return mapping

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        try:
            value = SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):
            # PyYAML's constructors take a tag's word for it: `!!bool x` is a KeyError to them.
            value = b""
        if isinstance(value, bytes):
            # The value is not quoted, and a tag only where it is YAML's own: a token may begin with `!`.
            kind = (
                node.tag.rpartition(":")[2]
                if node.tag in SafeConstructor.yaml_constructors
                else "its `!…` says"
            )
            self.say(path, f"it can't be read as {kind}: put it in quotes")
            return BROKEN
        return value


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


def _place(source: str, mark: Any) -> str:
    return f"{source}:{mark.line + 1}:{mark.column + 1}"
