"""What a metadata server says about its instance, as a tree, and the ways in which that is written.

Owns the entries of each platform and their forms: a value, a directory, `recursive=true`, `alt=json|text`, the ETag.
Pure. Used by `metadata`, which answers with it. Sources:
https://cloud.google.com/compute/docs/metadata/querying-metadata and …/predefined-metadata-keys,
https://cloud.google.com/run/docs/container-contract#metadata-server,
https://cloud.google.com/kubernetes-engine/docs/concepts/workload-identity#metadata_server; what the libraries read of
it: Go's `compute/metadata` (zone, id, name, hostname, scopes), Java's `ComputeEngineCredentials.getAccount`
(`service-accounts/?recursive=true`), npm's gcp-metadata (`instance` and what it leads to).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

Node: TypeAlias = "Mapping[str, Node] | Sequence[str] | str | int | None"
"""A directory, lines, a value; None for what is made for each request, and so in no recursive answer."""

Platform = Literal[
    "compute_engine",
    "gke",
    "cloud_run",
    "cloud_functions",
    "app_engine",
    "app_engine_flexible",
    "cloud_build",
]

PROJECT: Final = "emulated-project"
PROJECT_NUMBER: Final = 123456789012
REGION: Final = "us-central1"
ZONE: Final = f"{REGION}-a"
INSTANCE_ID: Final = 1234567890123456789
NAME: Final = "emulated"
_KEPT: Final = ("attributes", "service-accounts")
"""Directories whose entries have names of their own, which JSON does not spell in another way."""


def tree(
    platform: Platform,
    accounts: Mapping[str, Sequence[str]],
    attributes: Mapping[str, str],
    universe: str | None,
) -> Mapping[str, Node]:
    """Everything below `/computeMetadata/v1/`; `accounts` are names with their scopes, the alias `default` among
    them."""
    found: dict[str, Node] = {
        "instance": {**_instance(platform, attributes), "service-accounts": _accounts(accounts)},
        "project": {
            "attributes": {},
            "numeric-project-id": PROJECT_NUMBER,
            "project-id": PROJECT,
        },
    }
    if universe is not None:
        found["universe"] = {"universe-domain": universe}
    return found


def _instance(platform: Platform, attributes: Mapping[str, str]) -> dict[str, Node]:
    found: dict[str, Node] = {"attributes": dict(attributes), "id": INSTANCE_ID}
    match platform:
        case "compute_engine" | "app_engine_flexible":
            found |= {
                "cpu-platform": "Intel Broadwell",
                "description": "",
                "hostname": f"{NAME}.{ZONE}.c.{PROJECT}.internal",
                "image": "projects/debian-cloud/global/images/debian-12-bookworm-v20261110",
                "machine-type": f"projects/{PROJECT_NUMBER}/machineTypes/e2-medium",
                "name": NAME,
                "preempted": "FALSE",
                "zone": f"projects/{PROJECT_NUMBER}/zones/{ZONE}",
            }
        case "gke":
            cluster = {"cluster-location": REGION, "cluster-name": NAME, "cluster-uid": "0" * 32}
            found |= {
                "attributes": {**cluster, **attributes},
                "hostname": f"{NAME}.{ZONE}.c.{PROJECT}.internal",
                "zone": f"projects/{PROJECT_NUMBER}/zones/{ZONE}",
            }
        case _:
            found |= {
                "id": hashlib.sha256(NAME.encode()).hexdigest(),
                "region": f"projects/{PROJECT_NUMBER}/regions/{REGION}",
                "zone": f"projects/{PROJECT_NUMBER}/zones/{REGION}-1",
            }
    return found


def _accounts(accounts: Mapping[str, Sequence[str]]) -> dict[str, Node]:
    default = [name for name in accounts if name != "default"][:1]
    return {
        name: {
            "aliases": ["default"] if name in ("default", *default) else [],
            "email": name if name != "default" else "".join(default),
            "identity": None,
            "scopes": list(scopes),
            "token": None,
        }
        for name, scopes in accounts.items()
    }


def find(root: Node, path: str) -> Node:
    """What is at a path of names between slashes; KeyError where nothing is."""
    node = root
    for name in path.split("/"):
        if name:
            if not isinstance(node, Mapping):
                raise KeyError(path)
            node = node[name]
    return node


def written(root: Node, path: str, *, recursive: bool, alt: str) -> tuple[str, bool]:
    """The answer's text, and whether it is JSON; `alt` is `json`, `text` or empty. KeyError as in `find`."""
    node = find(root, path)
    if isinstance(node, Mapping) and not recursive:
        entries = (f"{name}/" if isinstance(under, Mapping) else name for name, under in _sorted(node))
        return "".join(f"{entry}\n" for entry in entries), False
    if alt == "json" or (recursive and alt != "text"):
        kept = path.rstrip("/").rpartition("/")[2] in _KEPT
        return json.dumps(_plain(node, kept=kept), separators=(",", ":")), True
    if isinstance(node, Mapping):
        return "".join(f"{name} {text}\n" for name, text in _flat(node)), False
    return _text(node), False


def etag(text: str) -> str:
    """Sixteen hexadecimal digits that change with the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sorted(node: Mapping[str, Node]) -> list[tuple[str, Node]]:
    return sorted(node.items())


def _text(node: Node) -> str:
    if isinstance(node, str | int):
        return str(node)
    return "".join(f"{line}\n" for line in node or ())


def _plain(node: Node, *, kept: bool) -> object:
    """As JSON has it: names in camel case, but for those that are somebody's own."""
    if isinstance(node, Mapping):
        return {
            name if kept else _camel(name): _plain(under, kept=name in _KEPT)
            for name, under in _sorted(node)
            if under is not None
        }
    return node if isinstance(node, str | int) or node is None else list(node)


def _flat(node: Mapping[str, Node], above: str = "") -> Iterator[tuple[str, str]]:
    for name, under in _sorted(node):
        if isinstance(under, Mapping):
            yield from _flat(under, f"{above}{name}/")
        elif isinstance(under, str | int):
            yield f"{above}{name}", str(under)
        else:
            yield from ((f"{above}{name}", line) for line in under or ())


def _camel(name: str) -> str:
    first, *rest = name.split("-")
    return first + "".join(word.capitalize() for word in rest)
