"""The bill of materials: what is in an installation, as CycloneDX 1.6 JSON.

`python -m release.sbom` prints it. It follows from requirements.lock alone, so two runs give the same bytes: components
with their hashes, and for which interpreters each is meant. https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

ROOT = Path(__file__).parents[1]
NOT_INSTALLED = {"hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers"}
"""In the lock for building; not needed to run."""

_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)(?: *; *([^\\]+?))? *\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def components(lock: str) -> list[dict[str, Any]]:
    """One for each pin of a lock file."""
    found: list[dict[str, Any]] = []
    for line in lock.splitlines():
        if (pin := _PIN.match(line)) is not None:
            name, version, marker = pin[1], pin[2], pin[3]
            purl = f"pkg:pypi/{name}@{version}"
            component: dict[str, Any] = {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "purl": purl,
                "hashes": [],
            }
            if marker:
                component["properties"] = [{"name": "python:marker", "value": marker}]
            found.append(component)
        # Every hash that pip may accept, one for each file of the release.
        elif (digest := _HASH.search(line)) is not None:
            found[-1]["hashes"].append({"alg": "SHA-256", "content": digest[1]})
    return [component for component in found if component["name"] not in NOT_INSTALLED]


def document(project: dict[str, Any], lock: str, *, made_at: int) -> dict[str, Any]:
    """The whole; `made_at` in Unix seconds."""
    name, version = project["name"], project["version"]
    itself = f"pkg:pypi/{name}@{version}"
    parts = components(lock)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, itself + lock)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(made_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": itself,
                "name": name,
                "version": version,
                "description": project["description"],
                "licenses": [{"license": {"id": project["license"]}}],
                "purl": itself,
            },
        },
        "components": parts,
        "dependencies": [{"ref": itself, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def main() -> None:
    """Print it; SOURCE_DATE_EPOCH says when."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    made_at = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    json.dump(document(project, lock, made_at=made_at), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
