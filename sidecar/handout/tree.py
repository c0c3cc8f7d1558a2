"""A metadata server's contents as a tree, and the forms of its answers.

Owns the entries and their forms: a value, a directory, `recursive=true`, `alt=json|text`, the ETag. Pure. Used by
`metadata`. Source: https://cloud.google.com/compute/docs/metadata/querying-metadata; what libraries read of it:
google-auth's `_metadata.get_service_account_info`, Go's `compute/metadata`, Java's `ComputeEngineCredentials`, npm's
gcp-metadata, gcloud's `core/credentials/gce.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

Node: TypeAlias = "Mapping[str, Node] | Sequence[str] | str | int | None"
"""A directory, lines, or a value. None stands for a token, which recursive answers leave out."""

_NAMED_BY_OTHERS = "service-accounts"
"""A directory whose entries keep their spelling in JSON."""


class Described(NamedTuple):
    """The facts to show."""

    email: str | None
    scopes: Sequence[str]
    project_id: str | None
    project_number: int
    universe: str
    zone: str


def tree(facts: Described) -> Mapping[str, Node]:
    """The whole server, from its root."""
    account: dict[str, Node] = {
        "aliases": ["default"],
        "email": facts.email or "default",
        "identity": None,
        "scopes": list(facts.scopes),
        "token": None,
    }
    project: dict[str, Node] = {"attributes": {}, "numeric-project-id": facts.project_number}
    if facts.project_id is not None:
        project["project-id"] = facts.project_id
    return {
        "computeMetadata": {
            "v1": {
                "instance": {
                    "attributes": {},
                    "id": 0,
                    "service-accounts": {name: account for name in ("default", facts.email) if name},
                    "zone": f"projects/{facts.project_number}/zones/{facts.zone}",
                },
                "project": project,
                "universe": {"universe-domain": facts.universe},
            }
        }
    }


def find(root: Node, path: str) -> Node:
    """The node at a path; KeyError if there is none."""
    node = root
    for name in path.split("/"):
        if name:
            if not isinstance(node, Mapping):
                raise KeyError(path)
            node = node[name]
    return node


class NodeText(NamedTuple):
    """An answer's text and type."""

    text: str
    content_type: str

    @property
    def etag(self) -> str:
        """Sixteen hexadecimal digits that change with the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def write(node: Node, *, name: str, recursive: bool, alt: str) -> NodeText:
    """A node in the requested form. `name` is its own name, `alt` is `json`, `text` or empty."""
    if isinstance(node, Mapping) and not recursive:
        entries = (f"{key}/" if isinstance(under, Mapping) else key for key, under in sorted(node.items()))
        return NodeText("".join(f"{entry}\n" for entry in entries), "application/text")
    if alt == "json" or (recursive and alt != "text"):
        value = _value(node, keep_names=name == _NAMED_BY_OTHERS)
        return NodeText(json.dumps(value, separators=(",", ":")), "application/json")
    if isinstance(node, Mapping):
        return NodeText("".join(f"{path} {text}\n" for path, text in _flat(node, "")), "application/text")
    if isinstance(node, str | int):
        return NodeText(str(node), "application/text")
    return NodeText("".join(f"{line}\n" for line in node or ()), "application/text")


def _value(node: Node, *, keep_names: bool = False) -> object:
    if isinstance(node, Mapping):
        return {
            key if keep_names else _camel(key): _value(under, keep_names=key == _NAMED_BY_OTHERS)
            for key, under in sorted(node.items())
            if under is not None
        }
    return node if isinstance(node, str | int) or node is None else list(node)


def _flat(node: Mapping[str, Node], above: str) -> Iterator[tuple[str, str]]:
    for key, under in sorted(node.items()):
        if isinstance(under, Mapping):
            yield from _flat(under, f"{above}{key}/")
        elif isinstance(under, str | int):
            yield f"{above}{key}", str(under)
        else:
            yield from ((f"{above}{key}", line) for line in under or ())


def _camel(name: str) -> str:
    first, *rest = name.split("-")
    return first + "".join(word.capitalize() for word in rest)
