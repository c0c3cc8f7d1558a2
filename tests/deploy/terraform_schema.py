"""What Terraform's google provider takes for the resources that we write, from bindings that are generated from its schema.

`python tests/deploy/terraform_schema.py node_modules/@cdktf/provider-google/.jsii > tests/deploy/schemas/terraform-google.json`
after `npm install @cdktf/provider-google@16.12.1`. The provider itself comes from a registry of its own, so that
`terraform validate` can't be run where only package registries are reached.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

RESOURCES = (
    "google_cloud_run_v2_service",
    "google_cloud_run_v2_service_iam_member",
    "google_iap_web_backend_service_iam_member",
    "google_secret_manager_secret_iam_member",
    "google_service_account",
    "google_service_account_iam_member",
)
_PACKAGE = "@cdktf/provider-google"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _block(types: dict[str, Any], kind: dict[str, Any]) -> str | None:
    """The interface of a nested block; None where the value is an attribute's."""
    found = re.findall(rf'"fqn": "({re.escape(_PACKAGE)}\.[^"]+)"', json.dumps(kind))
    return found[0] if found else None


def schema(types: dict[str, Any], name: str) -> dict[str, Any]:
    """Arguments of a resource or block by name: whether they are required, and those of a block within."""
    found = {}
    for each in types[name].get("properties", []):
        block = _block(types, each["type"])
        entry: dict[str, Any] = {"required": not each.get("optional", False)}
        if block is not None:
            entry["block"] = schema(types, block)
        found[_snake(each["name"])] = entry
    return found


def main(jsii: Path) -> None:
    """Print the schemas of RESOURCES as JSON."""
    types = json.loads(jsii.read_text("utf-8"))["types"]
    written = {}
    for resource in RESOURCES:
        words = resource.removeprefix("google_").split("_")
        camel = words[0] + "".join(word.capitalize() for word in words[1:])
        written[resource] = schema(types, f"{_PACKAGE}.{camel}.{camel[0].upper()}{camel[1:]}Config")
    print(
        json.dumps({"provider": "google, by @cdktf/provider-google 16.12.1", "resources": written}, indent=1)
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
